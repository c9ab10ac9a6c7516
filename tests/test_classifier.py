"""The LightningModule: what goes in, what trains, and what its checkpoints hold."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torchvision
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from frostline.checkpoint import read_checkpoint
from frostline.classifier import ImageClassifier
from frostline.commands.optimizers import optimizer_builder
from frostline.config.groups import RUN_GROUPS
from frostline.config.optimizer import OwnOptimizer
from frostline.data.datamodule import ImageDataModule
from frostline.data.random_noise import RandomNoise
from frostline.data.spec import DataSpec
from frostline.freezing.callback import FreezingSchedule
from frostline.freezing.policy import FreezePolicy
from frostline.losses import CrossEntropy, SumOfDifferences
from frostline.models.network import build_network
from frostline.options import CheckpointOptions, ComputeOptions, TrainingOptions
from frostline.schedulers import constant
from tests.configs import chosen
from tests.quiet import quiet_trainer

CLASSES = [f"class {index}" for index in range(10)]
SPEC = DataSpec(classes=CLASSES, mean=[0.5, 0.4, 0.3], std=[0.2, 0.25, 0.5], image_size=32)
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
RECIPE = {"model": {"name": "resnet18"}, "head": {"name": "linear", "dropout": 0.0}}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*"),
    pytest.mark.filterwarnings("ignore:.*Consider setting `persistent_workers.*"),
]


def resnet(**training: Any) -> ImageClassifier:
    """A ResNet-18 that trains its head."""
    torch.manual_seed(0)
    network, _ = build_network(**RECIPE, classes=10)
    return ImageClassifier(
        network=network,
        data_spec=SPEC,
        policy=FreezePolicy.static("head"),
        training=TrainingOptions(**{"optimizer": SGD, **training}),
        checkpoint=CheckpointOptions(recipe=RECIPE, settings={"seed": 3, "data": {"name": "digits"}}),
    )


def small(*, policy: FreezePolicy | None = None, channels_last: bool = False, **training: Any) -> ImageClassifier:
    """A classifier of a network of a few weights."""
    network = nn.Sequential()
    network.conv1 = nn.Conv2d(3, 4, 3)
    network.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.fc = nn.Linear(4, 10)
    return ImageClassifier(
        network=network,
        data_spec=SPEC,
        policy=policy,
        training=TrainingOptions(**{"optimizer": SGD, **training}),
        compute=ComputeOptions(channels_last=channels_last),
    )


def fit(
    classifier: ImageClassifier, images: Tensor, labels: Tensor, *, ckpt_path: Path | None = None, **options: Any
) -> lightning.Trainer:
    """One epoch over the images, four at a time."""
    trainer = quiet_trainer(**{"max_epochs": 1, **options})
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    trainer.fit(classifier, loader, ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageClassifier, Path]:
    """A ResNet-18 after one step with only its head in training, and its checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the marks above hold within tests only
        classifier = resnet()
        trainer = fit(classifier, torch.rand(4, 3, 32, 32), torch.tensor([1, 2, 3, 4]))
        path = tmp_path_factory.mktemp("classifier") / "last.ckpt"
        trainer.save_checkpoint(path)
    return classifier.eval(), path


# What goes in


def test_uint8_and_float_images_give_the_same_logits() -> None:
    classifier = small().eval()
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(classifier(images), classifier(images.float() / 255))


def test_normalisation_by_hand() -> None:
    pixels = torch.tensor([255, 102, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    normalised = small().normalised(pixels)
    assert normalised.flatten().tolist() == pytest.approx([(1 - 0.5) / 0.2, (0.4 - 0.4) / 0.25, (0 - 0.3) / 0.5])


def test_channels_last_changes_the_layout_and_not_the_values() -> None:
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    before = small().normalised(images)
    classifier = small(channels_last=True)
    after = classifier.normalised(images)
    assert classifier.network.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert after.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(before, after)


def test_probabilities_sum_to_one_and_restore_every_mode() -> None:
    classifier = resnet()
    classifier.train()
    modes = {name: module.training for name, module in classifier.named_modules()}
    assert {modes["network.bn1"], modes["network.fc"]} == {False, True}
    probabilities = classifier.probabilities(torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8))
    assert probabilities.sum(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert {name: module.training for name, module in classifier.named_modules()} == modes


def test_probabilities_restores_the_modes_after_an_error() -> None:
    classifier = small().train()
    with pytest.raises(RuntimeError):
        classifier.probabilities(torch.zeros(1, 2, 8, 8))
    assert all(module.training for module in classifier.modules())


# What trains


def moved(classifier: ImageClassifier, **options: Any) -> list[str]:
    """Names of the parameters that one step changes."""
    before = {name: p.detach().clone() for name, p in classifier.network.named_parameters()}
    fit(classifier, torch.rand(4, 3, 32, 32), torch.tensor([1, 2, 3, 4]), **options)
    return [name for name, p in classifier.network.named_parameters() if not p.equal(before[name])]


def test_a_frozen_backbone_trains_5130_of_11181642_parameters_in_2_of_62_tensors() -> None:
    classifier = resnet()
    parameters = dict(classifier.network.named_parameters())
    training = {name: p.numel() for name, p in parameters.items() if p.requires_grad}
    assert training == {"fc.weight": 5120, "fc.bias": 10}
    assert (len(parameters), sum(p.numel() for p in parameters.values())) == (62, 11_181_642)
    assert moved(classifier) == ["fc.weight", "fc.bias"]
    assert all(p.grad is None for name, p in parameters.items() if not name.startswith("fc."))


def test_a_resolved_policy_is_used_as_it_is() -> None:
    network = small().network
    resolved = FreezePolicy.static("conv1.weight").resolve(network, always_trainable=["fc.*"])
    classifier = ImageClassifier(network=network, data_spec=SPEC, policy=resolved)
    assert (classifier.resolved, classifier.policy) == (resolved, resolved.policy)
    names = {name for name, p in network.named_parameters() if p.requires_grad}
    assert names == {"conv1.weight", "fc.weight", "fc.bias"}


def test_the_optimizer_holds_only_what_ever_trains() -> None:
    classifier = resnet()
    trainer = fit(classifier, torch.rand(4, 3, 32, 32), torch.tensor([1, 2, 3, 4]))
    [optimizer] = trainer.optimizers
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


@pytest.mark.parametrize("now", ["without the group", "with the group"])
def test_a_checkpoint_with_a_group_of_frozen_parameters_resumes_with_and_without_it(now: str, tmp_path: Path) -> None:
    """Earlier versions wrote it with `optimizer.include_frozen`; decay would move a parameter whose gradient is 0."""
    sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.1)

    def with_frozen(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        frozen = [p for p in classifier.network.parameters() if not p.requires_grad]
        return sgd([*groups, {"params": frozen, "name": "frozen"}])

    policy, images, labels = FreezePolicy.static("fc"), torch.rand(8, 3, 8, 8), torch.arange(8)
    classifier = small(policy=policy, optimizer=with_frozen)
    before = {name: p.detach().clone() for name, p in classifier.network.named_parameters()}
    trainer = fit(classifier, images, labels)
    assert sum(len(group["params"]) for group in trainer.optimizers[0].param_groups) == len(before)
    trainer.save_checkpoint(tmp_path / "old.ckpt")
    if now == "without the group":
        classifier = small(policy=policy, optimizer=sgd)
    fit(classifier, images, labels, max_epochs=2, ckpt_path=tmp_path / "old.ckpt")
    after = dict(classifier.network.named_parameters())
    assert [name for name in before if not after[name].equal(before[name])] == ["fc.weight", "fc.bias"]


def test_exclude_from_decay_reaches_the_parameter_groups() -> None:
    sgd = partial(torch.optim.SGD, lr=0.01, weight_decay=0.1)
    classifier = small(optimizer=sgd, exclude_from_decay=["bias"])
    trainer = fit(classifier, torch.rand(4, 3, 8, 8), torch.arange(4))
    decay = {id(p): group["weight_decay"] for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in classifier.network.named_parameters()} == {
        "conv1.weight": 0.1,
        "conv1.bias": 0.0,
        "fc.weight": 0.1,
        "fc.bias": 0.0,
    }


# The optimizer's own values


class Own(torch.optim.AdamW):
    def __init__(self, params: Any, lr: float = 0.1, weight_decay: float = 0.3) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay)


def own_optimizer(**keys: Any) -> OwnOptimizer:
    return OwnOptimizer.model_validate({"_target_": f"{__name__}.Own", "lr": 0.2, **keys})


RATE = 0.25
BUILDERS: dict[str, tuple[Any, tuple[float, float]]] = {
    "lambda": (lambda groups: torch.optim.AdamW(groups, lr=0.1), (0.1, 0.01)),
    "closure": (lambda groups: torch.optim.SGD(groups, RATE, weight_decay=0.1), (0.25, 0.1)),
    "values in the groups": (lambda groups: torch.optim.SGD([{**g, "lr": 0.5} for g in groups], lr=9.0), (0.5, 0.0)),
    "partial": (partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.05), (1e-3, 0.05)),
    "partial without decay": (partial(torch.optim.AdamW, lr=1e-3), (1e-3, 0.01)),
    "partial of a partial": (partial(partial(torch.optim.SGD, lr=0.2), weight_decay=0.4), (0.2, 0.4)),
    "partial of a lambda": (partial(lambda groups, rate: torch.optim.SGD(groups, lr=rate), rate=0.3), (0.3, 0.0)),
    "class": (torch.optim.Adadelta, (1.0, 0.0)),
    "own class": (Own, (0.1, 0.3)),
    "_target_": (optimizer_builder(own_optimizer()), (0.2, 0.3)),
    "_target_ without decay": (
        optimizer_builder(own_optimizer(weight_decay=0.0)),
        (0.2, 0.0),
    ),
}


@pytest.mark.parametrize(("builder", "wanted"), BUILDERS.values(), ids=BUILDERS)
@pytest.mark.parametrize("excluded", [[], ["bias"]], ids=["", "without biases"])
def test_an_optimizer_trains_with_its_own_rate_and_decay(
    builder: Any, wanted: tuple[float, float], excluded: list[Any]
) -> None:
    classifier = small(optimizer=builder, exclude_from_decay=excluded)
    trainer = fit(classifier, torch.rand(4, 3, 8, 8), torch.arange(4))
    found = {
        (group["lr"], group["weight_decay"], group["name"].endswith("no_decay"))
        for group in trainer.optimizers[0].param_groups
    }
    assert found == {(*wanted, False)} | ({(wanted[0], 0.0, True)} if excluded else set())


def test_no_learning_rate_is_invented() -> None:
    with pytest.raises(ValueError, match=r"^optimizer: none is given.*TrainingOptions\(optimizer=partial\("):
        fit(small(optimizer=None), torch.rand(4, 3, 8, 8), torch.arange(4))


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (partial(torch.optim.SGD, lr=float("inf")), r"^lr: must be finite; SGD has inf"),
        (
            lambda groups: torch.optim.AdamW([p for group in groups for p in group["params"]]),
            r"^exclude_from_decay: AdamW decays what is excluded",
        ),
        (torch.optim.SparseAdam, r"SparseAdam is not supported.*such as AdamW"),
        (torch.optim.LBFGS, "optimizer: LBFGS doesn't support per-parameter options"),
    ],
    ids=["infinite", "flat", "sparse", "groups"],
)
def test_an_optimizer_that_cannot_keep_its_promise_is_refused(builder: Any, message: str) -> None:
    classifier = small(optimizer=builder, exclude_from_decay=["bias"])
    with pytest.raises(ValueError, match=message):
        classifier.build_optimizer()


@pytest.mark.parametrize(("options", "wanted"), [({}, (3, 3)), ({"max_steps": 2}, (2, 3)), ({"max_steps": 9}, (3, 3))])
def test_a_schedule_counts_epochs_also_where_max_steps_ends_the_run(
    options: dict[str, int], wanted: tuple[int, int]
) -> None:
    seen = []

    def scheduler(optimizer: Any, steps: int, epoch: int) -> Any:
        seen.append((steps, epoch))
        return constant()(optimizer, steps, epoch)

    fit(small(scheduler=scheduler), torch.rand(12, 3, 8, 8), torch.arange(12) % 10, **options)
    assert seen == [wanted]


def test_a_loss_that_is_not_finite_stops_before_the_weights_move() -> None:
    classifier = small()
    before = [p.detach().clone() for p in classifier.parameters()]
    images = torch.rand(4, 3, 8, 8)
    images[2] = torch.nan
    with pytest.raises(FloatingPointError, match=r"loss became nan at step 0 \(epoch 0\)\. Images of the batch.*: 1\."):
        fit(classifier, images, torch.arange(4))
    assert all(p.equal(b) for p, b in zip(classifier.parameters(), before, strict=True))


def test_an_infinite_loss_names_its_step() -> None:
    images = torch.rand(12, 3, 8, 8)
    images[8] = torch.inf
    with pytest.raises(FloatingPointError, match="at step 2"):
        fit(small(), images, torch.arange(12) % 10)


class EveryOther(torch.utils.data.Sampler[int]):
    def __iter__(self):
        return iter(range(0, 6, 2))

    def __len__(self) -> int:
        return 3


def test_an_evaluation_that_misses_images_is_an_error() -> None:
    loader = DataLoader(TensorDataset(torch.rand(6, 3, 8, 8), torch.arange(6)), sampler=EveryOther())
    trainer = quiet_trainer()
    with pytest.raises(RuntimeError, match="3 images were counted in the test evaluation, but there are 6"):
        trainer.test(small(), loader, verbose=False)


# Checkpoints


def test_the_checkpoint_is_plain_and_has_torchvisions_keys(trained: tuple[ImageClassifier, Path]) -> None:
    _, path = trained
    content = torch.load(path, weights_only=True)
    assert list(content["state_dict"]) == list(torchvision.models.resnet18(num_classes=10).state_dict())
    described = content["frostline"]
    assert described["images"] == SPEC.as_dict()
    assert described["recipe"] == RECIPE
    assert described["settings"] == {"seed": 3, "data": {"name": "digits"}}
    assert FreezePolicy.from_dict(described["policy"]) == FreezePolicy.static("head")


def test_its_weights_load_into_plain_torchvision(trained: tuple[ImageClassifier, Path]) -> None:
    classifier, path = trained
    plain = torchvision.models.resnet18(num_classes=10)
    plain.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), classifier.network(images))


def test_a_loaded_classifier_gives_the_same_logits(trained: tuple[ImageClassifier, Path]) -> None:
    classifier, path = trained
    loaded = ImageClassifier.load_from_checkpoint(path).eval()
    assert loaded.classes == CLASSES
    assert loaded.settings == classifier.settings
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded(images), classifier(images))


class Subclass(ImageClassifier):
    """A user's own."""


def test_load_from_checkpoint_gives_a_classifier_that_trains_on(trained: tuple[ImageClassifier, Path]) -> None:
    classifier, path = trained
    training = TrainingOptions(optimizer=partial(torch.optim.SGD, lr=0.5))
    loaded = Subclass.load_from_checkpoint(str(path), training=training)
    assert isinstance(loaded, Subclass)
    assert (loaded.policy, loaded.data_spec, loaded.settings) == (classifier.policy, SPEC, classifier.settings)
    assert loaded.checkpoint_options.recipe == RECIPE
    assert {"fc": loaded.network.fc.training, "bn1": loaded.network.bn1.training} == {"fc": True, "bn1": False}
    assert all(map(torch.equal, loaded.network.state_dict().values(), classifier.network.state_dict().values()))
    assert moved(loaded) == ["fc.weight", "fc.bias"]
    assert loaded.trainer.optimizers[0].param_groups[0]["lr"] == 0.5


def test_load_from_checkpoint_takes_other_constructor_arguments(trained: tuple[ImageClassifier, Path]) -> None:
    everything = ImageClassifier.load_from_checkpoint(trained[1], policy=FreezePolicy.static("all"))
    assert all(parameter.requires_grad for parameter in everything.parameters())
    with pytest.raises(ValueError, match=r"cannot be built from what it says of it .*unexpected keyword.*`?polcy"):
        ImageClassifier.load_from_checkpoint(trained[1], polcy=None)
    with pytest.raises(ValueError, match="weights_only=False: a checkpoint is read as tensors"):
        ImageClassifier.load_from_checkpoint(trained[1], weights_only=False)


def test_load_from_checkpoint_checks_every_tensor_unless_it_is_not_strict(
    trained: tuple[ImageClassifier, Path],
) -> None:
    network = torchvision.models.resnet18(num_classes=10)
    network.layer4.own = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"Missing key\(s\) in state_dict: .*own\.weight"):
        ImageClassifier.load_from_checkpoint(trained[1], network=network)
    loaded = ImageClassifier.load_from_checkpoint(trained[1], network=network, strict=False)
    assert loaded.network.fc.weight.equal(trained[0].network.fc.weight)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_trainer_predicts_probabilities_and_classes(trained: tuple[ImageClassifier, Path], labelled: bool) -> None:
    classifier = ImageClassifier.load_from_checkpoint(trained[1])
    images = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    data = TensorDataset(images, torch.arange(6)) if labelled else images
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    batches = trainer.predict(classifier, dataloaders=DataLoader(data, batch_size=4))
    assert [(b["probabilities"].shape, b["classes"].shape) for b in batches] == [((4, 10), (4,)), ((2, 10), (2,))]
    probabilities = torch.cat([batch["probabilities"] for batch in batches])
    assert torch.allclose(probabilities, trained[0].probabilities(images), atol=1e-6)
    assert torch.cat([batch["classes"] for batch in batches]).equal(probabilities.argmax(dim=1))


class Learned(nn.Module):
    """A loss of the user's own that keeps something."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones(1))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels)


def test_a_temperature_is_of_the_weights_that_it_was_fitted_on(tmp_path: Path) -> None:
    """A classifier with a temperature saves and predicts with it; one that trains on, or resumes its checkpoint, drops
    it and trains as without."""
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([1, 2, 3, 4])
    plain = small()
    fit(plain, images, labels).save_checkpoint(tmp_path / "plain.ckpt")
    content = torch.load(tmp_path / "plain.ckpt", weights_only=True)
    content["frostline"]["calibration"] = {"temperature": 2.0, "results": {"val": {"images": 4}}}
    torch.save(content, tmp_path / "calibrated.ckpt")

    other, loader = small(), DataLoader(TensorDataset(images), batch_size=4)
    [found] = quiet_trainer().predict(other, loader, ckpt_path=tmp_path / "calibrated.ckpt", weights_only=True)  # type: ignore[misc]
    assert torch.equal(found["probabilities"], (other(images) / 2).softmax(dim=1))  # type: ignore[index,call-overload]
    states = []
    for name in ("plain", "calibrated"):
        resumed = small()
        fit(resumed, images, labels, ckpt_path=tmp_path / f"{name}.ckpt", max_epochs=2).save_checkpoint(tmp_path / "x")
        written = torch.load(tmp_path / "x", weights_only=True)
        assert "calibration" not in written["frostline"]
        assert resumed.temperature == 1
        states.append(written["state_dict"])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    for wrong in (0.0, float("nan"), "2", None):
        content["frostline"]["calibration"] = {"temperature": wrong}
        torch.save(content, tmp_path / "wrong.ckpt")
        with pytest.raises(ValueError, match=r"frostline\.calibration must be a section with a temperature above 0"):
            read_checkpoint(tmp_path / "wrong.ckpt")


def test_what_a_loss_keeps_is_not_among_the_networks_weights(tmp_path: Path) -> None:
    path, images, labels = tmp_path / "last.ckpt", torch.rand(4, 3, 8, 8), torch.arange(4)
    classifier = small(loss=Learned())
    fit(classifier, images, labels).save_checkpoint(path)
    assert torch.load(path, weights_only=True)["state_dict"].keys() == classifier.network.state_dict().keys()
    other = small(loss=Learned())
    trainer = quiet_trainer()
    loader = DataLoader(TensorDataset(images, labels))
    trainer.test(other, loader, ckpt_path=path, verbose=False, weights_only=True)
    assert other.network.fc.weight.equal(classifier.network.fc.weight)
    assert other.loss.kept.tolist() == [1]


def test_lightning_loads_its_own_weights_back(trained: tuple[ImageClassifier, Path]) -> None:
    classifier, path = trained
    other = resnet()
    loader = DataLoader(TensorDataset(torch.rand(4, 3, 32, 32), torch.arange(4)))
    trainer = quiet_trainer()
    trainer.test(other, loader, ckpt_path=path, verbose=False, weights_only=True)
    assert all(
        tensor.equal(classifier.network.state_dict()[name]) for name, tensor in other.network.state_dict().items()
    )


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint `.*gone\.ckpt`"):
        read_checkpoint(tmp_path / "gone.ckpt")


@pytest.mark.parametrize("content", [b"", b"hello, world\n", b"\xff\xd8\xff\xe0 a photo"])
def test_a_file_of_other_bytes_is_refused_in_one_message(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"^{path}: cannot be read as a checkpoint; it is corrupt or another program's"
    ):
        ImageClassifier.load_from_checkpoint(path)


def test_a_cut_off_checkpoint_is_refused(trained: tuple[ImageClassifier, Path], tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    path.write_bytes(trained[1].read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match="corrupt or another program's"):
        ImageClassifier.load_from_checkpoint(path)


def test_a_plain_state_dict_is_refused_with_the_argument_to_use_it(tmp_path: Path) -> None:
    path = tmp_path / "plain.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    with pytest.raises(ValueError, match=rf"is not a frostline checkpoint.* weights={path}"):
        ImageClassifier.load_from_checkpoint(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "newer.ckpt"
    torch.save({"state_dict": {}, "frostline": {"format": 2}}, path)
    with pytest.raises(ValueError, match="has checkpoint format 2; this frostline reads format 1"):
        ImageClassifier.load_from_checkpoint(path)


def test_the_network_of_a_checkpoint_without_a_recipe_is_given(tmp_path: Path) -> None:
    classifier = small()
    path = tmp_path / "by_hand.ckpt"
    fit(classifier, torch.rand(4, 3, 8, 8), torch.arange(4)).save_checkpoint(path)
    with pytest.raises(ValueError, match=r"made from a network built by hand.*load_from_checkpoint\(path, network=…"):
        ImageClassifier.load_from_checkpoint(path)
    loaded = ImageClassifier.load_from_checkpoint(path, network=small().network)
    assert loaded.network.fc.weight.equal(classifier.network.fc.weight)


def test_the_verdict_of_a_fit_outlives_a_test(tmp_path: Path) -> None:
    source = RandomNoise(length=4, test_length=4, classes=3, image_size=32)
    data = ImageDataModule(source=source, image_size=32, batch_size=4)
    network, _ = build_network(model={"name": "resnet18"}, head={"name": "linear"}, classes=3)
    training = TrainingOptions(optimizer=SGD)
    policy = FreezePolicy.static("head")
    module = ImageClassifier(network=network, data_spec=data.spec, policy=policy, training=training)
    trainer = quiet_trainer(max_steps=1, use_distributed_sampler=False, limit_val_batches=0, default_root_dir=tmp_path)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    [schedule] = [callback for callback in trainer.callbacks if isinstance(callback, FreezingSchedule)]
    assert schedule.verdict()["held"] is True


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", RUN_GROUPS["optimizer"].by_name)
def test_every_optimizer_in_its_fused_form_trains_with_clipped_gradients(name: str, precision: Any) -> None:
    options = chosen(f"optimizer={name}", "model.weights=none").optimizer
    classifier = small(optimizer=optimizer_builder(options, fused=True))
    norms = []

    class Norm(lightning.Callback):
        def on_before_zero_grad(self, *_: Any) -> None:
            grads = [p.grad for p in classifier.network.parameters() if p.grad is not None]
            norms.extend([float(torch.stack([grad.norm() for grad in grads]).norm())] if grads else [])

    images, labels = torch.rand(8, 3, 8, 8), torch.arange(8)
    fit(classifier, images, labels, precision=precision, gradient_clip_val=1e-3, callbacks=[Norm()])
    assert norms
    assert max(norms) == pytest.approx(1e-3, rel=1e-2)


def test_a_fused_optimizer_whose_gradients_are_scaled_is_refused_with_the_argument() -> None:
    classifier = small(optimizer=partial(torch.optim.SGD, lr=0.1, fused=True))
    classifier.trainer = lightning.Trainer(accelerator="cpu", logger=False)  # type: ignore[assignment]
    scaler = torch.amp.GradScaler("cpu")
    classifier.trainer.strategy.precision_plugin = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    with pytest.raises(ValueError, match=r"^gradient_clip_val: .*fused=False or precision='bf16-mixed'"):
        classifier.configure_gradient_clipping(classifier.build_optimizer(), 1.0, "norm")


# Not finite


@pytest.mark.parametrize("part", ["weights", "statistics", "optimizer"])
def test_no_checkpoint_is_written_with_a_value_that_is_not_finite(part: str, tmp_path: Path) -> None:
    classifier = resnet()
    trainer = fit(classifier, torch.rand(4, 3, 32, 32), torch.arange(4))
    trainer.save_checkpoint(tmp_path / "good.ckpt")
    holder = {
        "weights": classifier.network.fc.bias,
        "statistics": classifier.network.bn1.running_var,
        "optimizer": trainer.optimizers[0].state[classifier.network.fc.bias]["momentum_buffer"],
    }
    holder[part].data[0] = torch.inf
    with pytest.raises(
        FloatingPointError, match=r"became NaN or infinite at step 1 .*last checkpoint, if any, is from"
    ):
        trainer.save_checkpoint(tmp_path / "bad.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["good.ckpt"]


def test_a_checkpoint_with_weights_that_are_not_finite_is_not_loaded(
    trained: tuple[ImageClassifier, Path], tmp_path: Path
) -> None:
    content = torch.load(trained[1], weights_only=True)
    content["state_dict"]["fc.bias"][3] = torch.nan
    path = tmp_path / "nan.ckpt"
    torch.save(content, path)
    for load in (ImageClassifier.load_from_checkpoint, read_checkpoint):
        with pytest.raises(ValueError, match=r"nan\.ckpt: holds NaN or infinity in fc\.bias\."):
            load(path)
    with pytest.raises(ValueError, match=r"^weights: `.*nan\.ckpt`: holds NaN or infinity in fc\.bias\."):
        build_network(**RECIPE, classes=10, weights=str(path))
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    images = DataLoader(TensorDataset(torch.rand(4, 3, 32, 32), torch.arange(4)), batch_size=4)
    classifier = resnet()
    with pytest.raises(ValueError, match=r"nan\.ckpt: holds NaN or infinity in state_dict\.fc\.bias\."):
        trainer.fit(classifier, images, ckpt_path=path, weights_only=True)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_image_that_is_not_finite_is_named_by_an_evaluation(split: str, value: float) -> None:
    images = torch.rand(8, 3, 8, 8)
    images[6, 1, 2, 2] = value
    loader = DataLoader(TensorDataset(images, torch.arange(8)), batch_size=4)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    evaluate = trainer.validate if split == "val" else trainer.test
    with pytest.raises(FloatingPointError, match=rf"The {split} loss became nan .*hold NaN or infinity: 1\."):
        evaluate(small(), loader, verbose=False)


# The loss of a checkpoint


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropy(label_smoothing=0.3),
        CrossEntropy(class_weights=[0.1 + index for index in range(10)]),
        CrossEntropy(label_smoothing=0.1, class_weights=[1.0] * 5 + [0.2] * 5),
        SumOfDifferences(),
    ],
    ids=["smoothing", "weights", "both", "sum"],
)
def test_a_loaded_checkpoint_has_the_training_loss_for_any_batch_size(loss: nn.Module, tmp_path: Path) -> None:
    images, labels = torch.rand(8, 3, 32, 32), torch.tensor([0, 0, 0, 1, 5, 9, 9, 2])
    classifier = resnet(loss=loss)
    trainer = fit(classifier, images, labels)
    data = TensorDataset(images, labels)
    [wanted] = trainer.test(classifier, DataLoader(data, batch_size=8), verbose=False)
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "c.ckpt")
    tester = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    [found] = tester.test(loaded, DataLoader(data, batch_size=3), verbose=False)
    assert found["test/loss"] == pytest.approx(wanted["test/loss"], rel=1e-5)
