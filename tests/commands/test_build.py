"""From the sections of a config to objects."""

import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from tests.configs import chosen as chosen_config
from tests.configs import config
from torch import nn

from frostline.commands.build import build_classifier, build_data, wants_fused
from frostline.commands.optimizers import TORCH_OPTIMIZERS, optimizer_builder
from frostline.commands.trainer import device_options, native_precision
from frostline.config.commands import TrainConfig
from frostline.config.data import OwnSource
from frostline.config.groups import RUN_GROUPS
from frostline.config.optimizer import OwnOptimizer
from frostline.config.training import Device
from frostline.data.datamodule import ImageDataModule
from frostline.tracking.checkpoints import AtomicCheckpointIO

OPTIMIZERS = RUN_GROUPS["optimizer"].by_name
# The optimizers of torch that are no options, each with its reason.
NOT_OFFERED = {
    "lbfgs": "evaluates the loss several times per step, which needs a closure",
    "sparseadam": "takes sparse gradients only",
    "muon": "takes matrices only, and a network has biases and convolutions",
    "optimizer": "is the base class",
}
OWN_KEYS = {"name", "exclude_from_decay"}


def composed(*overrides: str) -> TrainConfig:
    small = ("data=synthetic", "data.length=8", "data.val_length=4", "data.test_length=4", "data.image_size=16")
    return chosen_config("model.weights=none", *small, "device=cpu", *overrides)


def data_of(chosen: TrainConfig) -> ImageDataModule:
    return build_data(chosen.data, chosen.augment, seed=chosen.seed)


# Optimizers


def test_every_optimizer_of_torch_is_an_option_or_has_its_reason() -> None:
    assert TORCH_OPTIMIZERS.keys() == OPTIMIZERS.keys() | NOT_OFFERED.keys()
    assert not OPTIMIZERS.keys() & NOT_OFFERED.keys()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizers_keys_are_its_signatures_and_it_steps(name: str) -> None:
    chosen = config(f"optimizer={name}", "optimizer.lr=0.1").optimizer
    options = chosen.as_dict()
    signature = inspect.signature(TORCH_OPTIMIZERS[name]).parameters
    assert options.keys() - OWN_KEYS <= signature.keys()
    # What is left out tells how torch computes, or where to; it changes no result.
    left_out = signature.keys() - options.keys() - {"params"}
    assert left_out <= {"foreach", "maximize", "capturable", "differentiable", "fused"}
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    optimizer = optimizer_builder(chosen)([{"params": list(layer.parameters()), "name": "layer"}])
    assert type(optimizer) is TORCH_OPTIMIZERS[name]
    layer(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    assert not layer.weight.equal(before)


def test_an_own_optimizer_is_built_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_optimizers.py").write_text(
        "import torch\n\n\n"
        "class Half(torch.optim.SGD):\n"
        "    def __init__(self, params, *, lr, share):\n"
        "        super().__init__(params, lr=lr * share)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_optimizers", raising=False)

    def half(**keys: Any) -> Any:
        return optimizer_builder(OwnOptimizer.model_validate({"_target_": "my_optimizers.Half", "lr": 0.1, **keys}))

    # The class takes no weight decay, and none is wanted.
    optimizer = half(share=0.5, weight_decay=0.0)([{"params": [nn.Parameter(torch.zeros(1))]}])
    assert optimizer.param_groups[0]["lr"] == 0.05
    with pytest.raises(ValueError, match=r"optimizer\.shar: `Half` takes no such argument\. Did you mean `share`\?"):
        half(shar=0.5)
    with pytest.raises(ValueError, match=r"optimizer\.weight_decay: `Half` takes no such argument"):
        half(share=0.5, weight_decay=0.1)


# The data


@pytest.mark.parametrize("name", ["digits", "random", "synthetic"])
@pytest.mark.parametrize("augment", ["none", "light", "crop", "standard", "trivial"])
def test_sources_make_batches_with_every_augmentation(name: str, augment: str) -> None:
    data = data_of(config(f"data={name}", f"augment={augment}"))
    images, targets = next(iter(data.train_dataloader()))
    assert images.shape[1:] == (3, 64, 64)
    assert len(images) == len(targets) == min(32, len(data.images("train")))


def test_the_shared_keys_arrive() -> None:
    keys = ("image_size=24", "batch_size=6", "resize=1.5", "sampling=balanced", "mean=[0.1,0.2,0.3]",
            "std=[0.5,0.6,0.7]", "workers=3", "loader_timeout=9.0")  # fmt: skip
    augment = ("augment=trivial", "augment.mixup=1", "augment.cutmix=0.2")
    data = data_of(config("data=digits", *(f"data.{key}" for key in keys), *augment, "seed=5"))
    assert (data.image_size, data.batch_size, data.resize, data.sampling, data.seed) == (24, 6, 1.5, "balanced", 5)
    assert (data.mean, data.std) == ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    assert (data.loading.workers, data.loading.timeout) == (3, 9.0)
    assert (data.augment.name, data.augment.mixup, data.augment.cutmix) == ("trivial", 1.0, 0.2)
    assert isinstance(data.augment.mixup, float)
    assert data.augment.horizontal_flip is False


def test_a_source_that_takes_the_image_size_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    own = OwnSource.model_validate({"_target_": "stripes.Stripes", "length": 4, "image_size": 12})
    image, _ = build_data(own, seed=0).source.dataset("train")[0]
    assert image.shape == (3, 12, 12)
    noise = data_of(config("data=random", "data.image_size=20"))
    images, _ = next(iter(noise.train_dataloader()))
    assert images.shape == (1, 3, 20, 20)
    assert images.is_floating_point()


# The classifier


def test_a_classifier_is_built_from_a_config() -> None:
    settings = composed("freeze=to_layer3", "head=mlp", "optimizer=adamw", "optimizer.exclude_from_decay=[bias]")
    classifier, loaded = build_classifier(settings, data_of(settings))
    assert loaded.source == "none (random)"
    assert [module.out_features for module in classifier.network.fc if isinstance(module, nn.Linear)] == [256, 10]
    training = {name.partition(".")[0] for name, p in classifier.network.named_parameters() if p.requires_grad}
    assert training == {"layer4", "fc"}
    assert classifier.training_options.exclude_from_decay == ["bias"]
    assert {group["lr"] for group in classifier.build_optimizer().param_groups} == {0.001}
    assert classifier.settings == settings.as_dict()
    assert classifier.compute_options.channels_last
    assert classifier.data_spec.image_size == 16
    assert classifier.checkpoint_options.recipe == {
        "model": {"name": "resnet18"},
        "head": {"name": "mlp", "hidden": [256], "dropout": 0.2},
    }


def test_a_new_head_trains_whatever_the_policy_says() -> None:
    settings = composed("freeze=custom", "freeze.train=[layer4]")
    classifier, _ = build_classifier(settings, data_of(settings))
    assert classifier.network.fc.weight.requires_grad


def test_gradual_unfreezing_takes_the_last_stages_of_any_network() -> None:
    settings = composed("freeze=gradual_unfreezing", "model=timm/vit_tiny_patch16_224")
    policy = build_classifier(settings, data_of(settings))[0].resolved.policy
    assert [(phase.name, list(phase.train)) for phase in policy.phases] == [
        ("head", ["head"]),
        ("blocks.11", ["from:blocks.11"]),
        ("blocks.10", ["from:blocks.10"]),
        ("all", ["all"]),
    ]


def test_a_network_gives_the_size_and_normalisation_that_the_data_leaves_open() -> None:
    settings = composed("model=timm/vit_tiny_patch16_224", "data.image_size=null", "data.std=[0.2,0.2,0.2]")
    data = build_data(settings.data, settings.augment, seed=0, model=settings.model)
    assert data.spec.interpolation == "bicubic"
    named = settings.data.model_copy(update={"interpolation": "bilinear"})
    assert build_data(named, settings.augment, seed=0, model=settings.model).interpolation == "bilinear"
    assert (data.image_size, tuple(data.mean), tuple(data.std)) == (224, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert data_of(composed("data.image_size=null")).image_size == 224


def test_a_head_that_was_loaded_obeys_the_policy(tmp_path: Path) -> None:
    settings = composed("freeze=custom", "freeze.train=[layer4]")
    first, _ = build_classifier(settings, data_of(settings))
    torch.save(first.network.state_dict(), tmp_path / "trained.pth")
    settings = composed("freeze=custom", "freeze.train=[layer4]", f"model.weights={tmp_path}/trained.pth")
    classifier, loaded = build_classifier(settings, data_of(settings))
    assert len(loaded.loaded) == 122
    assert not classifier.network.fc.weight.requires_grad


def test_a_policy_that_matches_nothing_lists_the_choices() -> None:
    settings = composed("freeze=custom", "freeze.train=[layer5]")
    with pytest.raises(ValueError, match=r"layer5.*layer4"):
        build_classifier(settings, data_of(settings))


def test_balanced_class_weights_come_from_the_data() -> None:
    settings = composed("loss.class_weights=balanced", "data.length=20")
    data = data_of(settings)
    classifier, _ = build_classifier(settings, data)
    assert torch.equal(classifier.loss.weight, data.class_weights())


# Devices


def test_one_cpu() -> None:
    options = device_options(Device(accelerator="cpu", timeout=60))
    assert {key: options[key] for key in ("accelerator", "devices", "num_nodes", "strategy", "precision")} == {
        "accelerator": "cpu",
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "precision": "32-true",
    }
    assert [type(plugin) for plugin in options["plugins"]] == [AtomicCheckpointIO]


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        device_options(Device(accelerator="cpu", threads=3))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


TORCHRUN = {"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": "2"}
SRUN = {
    "SLURM_PROCID": "0",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_JOB_ID": "7",
}


@pytest.mark.parametrize(
    ("environment", "kind"),
    [({}, LightningEnvironment), (TORCHRUN, TorchElasticEnvironment), (SRUN, SLURMEnvironment)],
    ids=["ours", "torchrun", "srun"],
)
def test_several_processes_are_ddp_in_the_launchers_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], kind: type
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    options = device_options(Device(accelerator="cpu", devices=2, timeout=60))
    assert isinstance(options["strategy"], DDPStrategy)
    assert options["strategy"].process_group_backend == "gloo"
    assert options["strategy"]._timeout.total_seconds() == 60
    [environment_plugin] = [p for p in options["plugins"] if not isinstance(p, AtomicCheckpointIO)]
    assert type(environment_plugin) is kind
    if kind is SLURMEnvironment:
        assert not environment_plugin.auto_requeue


def test_precision_auto_is_what_the_processor_computes_natively(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability in ("avx512_bf16", "amx_bf16"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capability: {c: True})
        assert native_precision("cpu") == native_precision("cpu", image_size=17) == "bf16-mixed"
        assert native_precision("cpu", image_size=16) == "32-true"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert native_precision("cpu") == "32-true"
    for capability, precision in (((7, 5), "32-true"), ((8, 0), "bf16-mixed"), ((9, 0), "bf16-mixed")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda c=capability: c)
        assert native_precision("gpu") == native_precision("gpu", image_size=16) == precision


# The trainer


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_an_optimizer_is_fused_where_torch_has_it_so_and_takes_the_same_step(name: str) -> None:
    options = config(f"optimizer={name}", "optimizer.lr=0.01").optimizer
    steps = []
    for fused in (True, False):
        torch.manual_seed(0)
        layer = nn.Linear(4, 3)
        optimizer = optimizer_builder(options, fused=fused)([{"params": list(layer.parameters())}])
        for _ in range(3):
            layer(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
        steps.append(layer.weight.detach())
        has = "fused" in inspect.signature(TORCH_OPTIMIZERS[name]).parameters
        assert bool(optimizer.defaults.get("fused")) == (fused and has)
    torch.testing.assert_close(*steps, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("precision", "clip", "fused"),
    [
        ("16-mixed", 1.0, False),
        ("bf16-mixed", 1.0, True),
        ("auto", 1.0, True),
        ("32-true", 1.0, True),
        ("16-mixed", None, True),
        ("auto", None, True),
    ],
)
def test_a_fused_optimizer_is_not_taken_where_scaled_gradients_are_clipped(
    precision: str, clip: float | None, fused: bool
) -> None:
    trainer = (f"trainer.precision={precision}", f"trainer.gradient_clip_val={'null' if clip is None else clip}")
    assert wants_fused(config(*trainer)) == fused
    assert not wants_fused(config(*trainer, "speed.fused_optimizer=false"))
