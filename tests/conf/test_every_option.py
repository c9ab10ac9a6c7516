"""Every option of every group composes, holds the keys of its schema, validates, and instantiates."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from tests.configs import typed
from torch import nn

from frostline.commands import run_folder
from frostline.commands.build import build_classifier, build_data
from frostline.commands.config_files import group_options
from frostline.commands.defaults import without_auto
from frostline.commands.help import default_config
from frostline.commands.optimizers import optimizer_builder
from frostline.commands.overrides import Invocation, problems_of
from frostline.commands.trainer import build_trainer, device_options
from frostline.config.commands import COMMANDS, TrainConfig
from frostline.config.data import Data
from frostline.config.key_text import fields_of
from frostline.config.section import Section
from frostline.data.build import build_source
from frostline.data.chunk_writer import ChunkWriter
from frostline.data.datamodule import ImageDataModule
from frostline.data.image_folder import ImageFolder
from frostline.data.source import SPLITS, ImageSource
from frostline.freezing.policy import FreezePolicy
from frostline.losses import build_loss
from frostline.models.backbones import build_backbone
from frostline.models.heads import build_head
from frostline.models.weights import LoadedWeights
from frostline.schedulers import SCHEDULERS

CONF = Path(__file__).parents[2] / "conf"
TRAIN = COMMANDS["train"]
OPTIONS = group_options(None)
NETWORKS = OPTIONS["model"]
# The other networks have no file and the same section; tests/models builds one of each family.
OPTIONS["model"] = ["resnet18"]
# hydra/…: Hydra's own settings, which no schema of ours describes.
GROUPS = [group for group in OPTIONS if not group.startswith("hydra/")]
# What an option needs that only a user, or another machine, has.
NEEDED = {
    ("data", "image_folder"): "data.path={folder}",
    ("data", "csv"): "data.path={table}",
    ("data", "streaming"): "data.path={shards}",
    ("freeze", "file"): "freeze.path={policy}",
}
NEEDS_GPU = {("device", "gpu"), ("device", "multi_gpu")}


def options(*groups: str) -> list[tuple[str, str]]:
    return [(group, option) for group in groups for option in OPTIONS[group]]


def id_of(value: object) -> str:
    return str(value)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of images, a table of them, and a policy file."""
    from PIL import Image

    root = tmp_path_factory.mktemp("files")
    lines = ["path,label"]
    for name in ("a", "b"):
        (root / "images" / name).mkdir(parents=True)
        for index in range(8):
            path = root / "images" / name / f"{index}.png"
            Image.new("RGB", (16, 16), (30 * index, 0, 0)).save(path)
            lines.append(f"{path},{name}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    (root / "policy.yaml").write_text("train: [head]\n")
    source = ImageFolder(path=root / "images")
    images = {split: images for split in SPLITS if (images := source.dataset(split)) is not None}
    ChunkWriter().write(images, classes=source.classes, output=root / "shards")
    names = {"folder": "images", "shards": "shards", "table": "table.csv", "policy": "policy.yaml"}
    return {name: root / path for name, path in names.items()}


def settings_of(group: str, option: str, files: dict[str, Path], *more: str) -> dict[str, Any]:
    """The whole config with this option chosen, and what it needs."""
    extra = NEEDED.get((group, option), "").format(**files)
    return default_config("train", (f"{group}={option}", *([extra] if extra else []), *more))


def config_of(group: str, option: str, files: dict[str, Path], *more: str) -> TrainConfig:
    found: TrainConfig = without_auto(typed(settings_of(group, option, files, "model.weights=none", *more))).config
    return found


def data_of(config: TrainConfig) -> ImageDataModule:
    return build_data(config.data, config.augment, seed=config.seed)


# Compose and validate


def test_every_group_is_some_commands() -> None:
    known = {group for command in COMMANDS.values() for group in (*command.groups(), *command.selectors)}
    assert set(GROUPS) == known


@pytest.mark.parametrize(("group", "option"), options(*GROUPS), ids=id_of)
def test_every_option_composes_and_validates(group: str, option: str, files: dict[str, Path]) -> None:
    run_folder.register_resolvers()
    extra = NEEDED.get((group, option), "").format(**files)
    invocation = Invocation(command="train", overrides=[f"{group}={option}", *([extra] if extra else [])])
    found = problems_of(invocation)
    if (group, option) in NEEDS_GPU and not torch.cuda.is_available():
        assert [problem.partition(":")[0] for problem in found] == ["device.accelerator"]
    else:
        assert found == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_commands_config_holds_exactly_its_keys(name: str) -> None:
    """So that `--cfg job` shows every key, and every key shown is explained."""
    command, settings = COMMANDS[name], default_config(name)
    groups = {group for group in command.groups() if settings.get(group) is not None}
    assert set(settings) - {*command.groups(), *command.selectors} == set(command.top_keys())
    assert groups <= set(settings)


@pytest.mark.parametrize(
    ("group", "option"), options(*(g for g in GROUPS if g not in ("experiment", "logger"))), ids=id_of
)
def test_every_option_shows_every_key_and_its_file_no_default(group: str, option: str) -> None:
    """A default has one home, the class that describes the key; the file holds what differs."""
    node = yaml.safe_load((CONF / group / f"{option}.yaml").read_text()) or {}
    schema = TRAIN.groups()[group].schema_of(node)
    assert schema is not None
    fields = fields_of(schema)
    assert set(default_config("train", (f"{group}={option}",))[group]) == set(fields)
    if "name" in fields:
        assert (next(iter(node)), node["name"]) == ("name", option)
    assert not [key for key, value in node.items() if value == fields[key].get_default(call_default_factory=True)]


@pytest.mark.parametrize("option", [option for option in OPTIONS["logger"] if option != "none"])
def test_every_logger_shows_exactly_the_keys_of_its_section(option: str) -> None:
    assert yaml.safe_load((CONF / f"logger/{option}.yaml").read_text()) == {option: {}}
    section = fields_of(TRAIN.groups()["logger"].sections[0])[option].annotation.__args__[0]
    assert issubclass(section, Section)
    assert set(default_config("train", (f"logger={option}",))["logger"][option]) == set(fields_of(section))


def test_no_command_file_holds_a_key() -> None:
    for name in COMMANDS:
        assert set(yaml.safe_load((CONF / f"{name}.yaml").read_text())) <= {"defaults", "hydra"}


def test_every_name_of_a_schema_has_its_option() -> None:
    for group, schemas in TRAIN.groups().items():
        if schemas.by_name:
            assert set(schemas.by_name) == set(NETWORKS if group == "model" else OPTIONS[group])


# Instantiate


@pytest.mark.parametrize("option", OPTIONS["model"])
def test_every_model_is_built_with_every_head_size(option: str, files: dict[str, Path]) -> None:
    model = settings_of("model", option, files)["model"]
    with torch.device("meta"):  # the largest has 127 million parameters
        network = build_backbone({"name": model["name"]})
    assert isinstance(network.fc, nn.Linear)


@pytest.mark.parametrize("option", [option for option in OPTIONS["head"] if option != "pretrained"])
def test_every_head_is_built(option: str, files: dict[str, Path]) -> None:
    head = build_head(settings_of("head", option, files)["head"], features=8, classes=3)
    assert head.eval()(torch.zeros(2, 8)).shape == (2, 3)


def test_head_pretrained_is_built_with_its_model(files: dict[str, Path]) -> None:
    config = config_of("head", "pretrained", files, "data=random", "model.weights=none")
    classifier, _ = build_classifier(config, data_of(config))
    assert classifier.network.fc.out_features == 1000


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return build_backbone({"name": "resnet18"})


@pytest.mark.parametrize("option", [option for option in OPTIONS["freeze"] if option != "auto"])
def test_every_policy_is_read_against_resnet18(option: str, files: dict[str, Path], resnet18: nn.Module) -> None:
    section = settings_of("freeze", option, files)["freeze"]
    policy = FreezePolicy.from_dict({key: value for key, value in section.items() if key != "name"})
    resolved = policy.resolve(resnet18)
    for phase in resolved.phases:
        assert {"fc.weight", "fc.bias"} <= phase.trainable
    trained = len(resolved.phases[0].trainable)
    # 62 tensors: 3 of the stem, 12 of layer1, 15 of each further stage, 2 of the head.
    assert (
        trained
        == {
            "none": 62,
            "discriminative": 62,
            "stem": 59,
            "to_layer1": 47,
            "to_layer2": 32,
            "to_layer3": 17,
            "custom": 17,
            "surgical": 14,
            "all_but_batch_norm": 2 * 20 + 2,
            "all_but_bias": 20 + 1 + 1,
            "backbone": 2,
            "gradual_unfreezing": 2,
            "unfreeze_on_plateau": 2,
            "file": 2,
        }[option]
    )


DATA_WITHOUT_DOWNLOAD = ("csv", "digits", "image_folder", "random", "streaming", "synthetic")


@pytest.mark.parametrize("option", DATA_WITHOUT_DOWNLOAD)
def test_every_source_gives_batches(option: str, files: dict[str, Path]) -> None:
    small = ("data.image_size=16", "data.batch_size=1", "data.workers=0")
    data = data_of(config_of("data", option, files, *small))
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (1, 3, 16, 16)
    assert len(labels) == 1


def test_the_other_sources_say_what_they_lack(files: dict[str, Path], tmp_path: Path) -> None:
    assert {*DATA_WITHOUT_DOWNLOAD, "fashion_mnist", "torchvision"} == set(OPTIONS["data"])
    settings = settings_of("data", "torchvision", files)
    settings["data"] |= {
        "dataset": "FakeData",  # torchvision's own data without a download
        "root": str(tmp_path),
        "options": {"size": 40, "image_size": [3, 16, 16], "num_classes": 2},
    }
    assert isinstance(data_of(typed(settings)).source, ImageSource)
    fashion = settings_of("data", "fashion_mnist", files)["data"]
    own = {key: value for key, value in fashion.items() if key not in Data.model_fields} | {"path": str(tmp_path)}
    with pytest.raises((ValueError, FileNotFoundError), match=r"data\.download=true|dataset-fashion-mnist|idx"):
        build_source(own)


@pytest.mark.parametrize("option", OPTIONS["augment"])
def test_every_augmentation_gives_training_images(option: str, files: dict[str, Path]) -> None:
    data = data_of(config_of("augment", option, files, "data=synthetic", "data.length=4", "data.batch_size=2"))
    images, _ = next(iter(data.train_dataloader()))
    assert images.dtype == torch.uint8
    assert images.shape == (2, 3, 64, 64)


@pytest.mark.parametrize("option", OPTIONS["loss"])
def test_every_loss_is_built(option: str, files: dict[str, Path]) -> None:
    section = settings_of("loss", option, files)["loss"]
    loss = build_loss(section["name"], **{k: v for k, v in section.items() if k not in ("name", "class_weights")})
    assert loss(torch.zeros(2, 3), torch.tensor([0, 1])).ndim == 0


@pytest.mark.parametrize("option", OPTIONS["optimizer"])
@pytest.mark.parametrize("schedule", OPTIONS["scheduler"])
def test_every_optimizer_goes_with_every_scheduler(option: str, schedule: str) -> None:
    config = typed(default_config("train", (f"optimizer={option}", "optimizer.lr=0.05", f"scheduler={schedule}")))
    keys = dict(config.scheduler)
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = optimizer_builder(config.optimizer)([{"params": [parameter], "lr": config.optimizer.lr}])
    scheduler = SCHEDULERS[keys.pop("name")](**keys)(optimizer, 10, 5)
    for _ in range(10):
        parameter.sum().backward()
        optimizer.step()
        scheduler.step()
    assert torch.isfinite(parameter).all()


@pytest.mark.parametrize("option", OPTIONS["device"])
def test_every_device_gives_trainer_options(option: str, files: dict[str, Path]) -> None:
    if ("device", option) in NEEDS_GPU and not torch.cuda.is_available():
        assert settings_of("device", option, files)["device"]["accelerator"] == "gpu"
        return
    device = config_of("device", option, files).device
    chosen = device_options(device)
    lightning.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, **chosen)
    assert chosen["devices"] == (2 if option == "cpu_ddp" else 1)


def test_slurms_own_numbers_become_devices_and_nodes(monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> None:
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    monkeypatch.setenv("SLURM_NNODES", "2")
    device = settings_of("device", "slurm", files)["device"]
    assert (device["devices"], device["num_nodes"]) == (4, 2)


@pytest.mark.parametrize(("group", "option"), options("trainer", "callbacks", "logger"), ids=id_of)
def test_every_trainer_part_is_built(group: str, option: str, files: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(group, option, files, "data=synthetic")
    trainer = build_trainer(config, folder=tmp_path, data=data_of(config), weights=LoadedWeights(source="none"))
    if option == "wandb":
        trainer.logger.experiment.finish()
    kinds = [type(logger).__name__ for logger in trainer.loggers]
    expected = {"tensorboard": ["TensorBoardLogger"], "wandb": ["WandbLogger"], "none": []}
    assert kinds == (expected.get(option, ["MetricsFile"]) if group == "logger" else ["MetricsFile"])


@pytest.mark.parametrize("option", OPTIONS["experiment"])
def test_every_experiment_is_built(option: str, files: dict[str, Path], tmp_path: Path) -> None:
    # Fashion-MNIST's files are not on every machine.
    settings = settings_of("experiment", option, files, "model.weights=none")
    if settings["data"]["name"] == "fashion_mnist":
        settings["data"] = default_config("train", ("data=digits",))["data"]
    config: TrainConfig = without_auto(typed(settings)).config
    classifier, weights = build_classifier(config, data_of(config))
    build_trainer(config, folder=tmp_path, data=data_of(config), weights=weights)
    assert classifier.network.fc.in_features == 512


def test_the_notebooks_experiments_have_the_notebooks_values(files: dict[str, Path]) -> None:
    intro = settings_of("experiment", "autograd_intro", files)
    head = settings_of("experiment", "frozen_head", files)
    for settings, classes, momentum in ((intro, 1000, 0.95), (head, 10, 0.9)):
        assert (
            settings["data"]
            | {
                "name": "random",
                "length": 1,
                "batch_size": 1,
                "image_size": 64,
                "classes": classes,
            }
            == settings["data"]
        )
        assert (settings["optimizer"]["lr"], settings["optimizer"]["momentum"]) == (0.01, momentum)
        assert settings["loss"] == {"name": "sum_of_differences"}
        assert settings["trainer"]["max_epochs"] == 1
        assert settings["optimizer"]["weight_decay"] == 0.0
    assert (intro["freeze"]["name"], intro["head"]["name"]) == ("none", "pretrained")
    assert (head["freeze"]["name"], head["head"]["name"]) == ("backbone", "linear")
