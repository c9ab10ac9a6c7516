"""Lightning's Trainer by its own names: every argument is a key or has a reason, and each key works with freezing."""

import csv
import inspect
import json
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar
from tests.configs import config, settings, typed

from frostline import checkpoint
from frostline.commands import run_folder, train
from frostline.commands.build import build_data
from frostline.commands.defaults import without_auto
from frostline.commands.overrides import Invocation, problems_of
from frostline.commands.trainer import build_trainer, monitored
from frostline.config.commands import TrainConfig
from frostline.config.guesses import REFUSED
from frostline.config.training import TrainerSection
from frostline.data.datamodule import ImageDataModule
from frostline.models.weights import LoadedWeights
from frostline.resume import TimeLimit
from frostline.tracking.epoch_lines import EpochLines
from frostline.tracking.first_gradient import FirstGradient
from frostline.tracking.progress_bar import RunProgress

SMALL = (
    "data=synthetic",
    "data.length=8",
    "data.val_length=4",
    "data.test_length=4",
    "data.image_size=16",
    "device=cpu",
)
ARGUMENTS = set(inspect.signature(lightning.Trainer.__init__).parameters) - {"self"}
# Answered with the key that says the same.
ELSEWHERE = {
    "accelerator": "device.accelerator",
    "devices": "device.devices",
    "num_nodes": "device.num_nodes",
    "strategy": "device.strategy",
    "default_root_dir": "output_dir",
    "enable_progress_bar": "callbacks.progress_bar",
}


def data_of(chosen: TrainConfig) -> ImageDataModule:
    return build_data(chosen.data, chosen.augment, seed=chosen.seed)


def trainer_of(folder: Path, *overrides: str) -> lightning.Trainer:
    chosen = without_auto(config("model.weights=none", *SMALL, *overrides)).config
    return build_trainer(chosen, folder=folder, data=data_of(chosen), weights=LoadedWeights(source="none"))


def problems(*overrides: str) -> list[str]:
    run_folder.register_resolvers()
    return problems_of(Invocation(command="train", overrides=overrides))


def test_every_argument_of_lightnings_trainer_is_a_key_or_is_answered() -> None:
    keys = ARGUMENTS & set(TrainerSection.model_fields)
    refused = {name for name in ARGUMENTS if f"trainer.{name}" in REFUSED}
    assert keys | refused | set(ELSEWHERE) == ARGUMENTS
    assert problems(*(f"{key}=1" for key in REFUSED)) == [f"{key}: {reason}" for key, reason in REFUSED.items()]
    answers = problems(*(f"trainer.{name}=1" for name in ELSEWHERE))
    for answer, (name, key) in zip(answers, ELSEWHERE.items(), strict=True):
        assert answer.startswith(f"trainer.{name}: unknown key. Did you mean {key}")


def test_the_keys_reach_the_trainer(tmp_path: Path) -> None:
    asked = {
        "max_epochs": 3,
        "min_epochs": 2,
        "max_steps": 7,
        "min_steps": 5,
        "accumulate_grad_batches": 2,
        "gradient_clip_val": 0.5,
        "log_every_n_steps": 4,
        "check_val_every_n_epoch": 2,
        "val_check_interval": 0.5,
        "num_sanity_val_steps": 1,
        "limit_train_batches": 0.25,
        "limit_val_batches": 6,
        "limit_test_batches": 1,
    }
    others = ("max_time=00:01:00:00", "precision=bf16-mixed", "detect_anomaly=true", "inference_mode=false")
    words = [*(f"{key}={value}" for key, value in asked.items()), *others]
    trainer = trainer_of(tmp_path, "data.image_size=32", *(f"trainer.{word}" for word in words))
    assert {key: getattr(trainer, key) for key in asked} == asked
    assert isinstance(trainer.limit_test_batches, int)  # 1 is one batch, 1.0 all of them
    assert (trainer.precision, trainer.gradient_clip_algorithm) == ("bf16-mixed", "norm")
    assert trainer._detect_anomaly
    assert not trainer.test_loop.inference_mode
    [limit] = [callback for callback in trainer.callbacks if isinstance(callback, TimeLimit)]
    assert limit.time_remaining() == 3600
    assert Path(trainer.default_root_dir) == tmp_path


def test_the_defaults_see_everything_once(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    assert (trainer.max_steps, trainer.num_sanity_val_steps, trainer.val_check_interval) == (-1, 0, 1.0)
    assert (trainer.limit_train_batches, trainer.limit_val_batches, trainer.limit_test_batches) == (1.0, 1.0, 1.0)
    assert (trainer.gradient_clip_val, trainer.gradient_clip_algorithm) == (None, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["check_val_every_n_epoch=5", "max_epochs=4"],
            "trainer.check_val_every_n_epoch: 5 is more than trainer.max_epochs=4",
        ),
        (["check_val_every_n_epoch=null"], "trainer.check_val_every_n_epoch: null needs a number of batches"),
        (["gradient_clip_algorithm=value"], "trainer.gradient_clip_algorithm: nothing is clipped without"),
        (
            ["overfit_batches=2", "limit_val_batches=1"],
            "trainer.overfit_batches: sets limit_train_batches and",
        ),
        (["val_check_interval=00:00:10:00"], "trainer.val_check_interval: must be integer ≥ 1 or float > 0 and ≤ 1"),
        (["limit_train_batches=1.5"], "trainer.limit_train_batches: must be integer ≥ 1 or float > 0 and ≤ 1 or null"),
        (["max_time=10"], "trainer.max_time: must be text or null, not `10` (training time, as DD:HH:MM:SS,"),
        (["profiler=xla"], "trainer.profiler: must be a class by _target_ or one of simple, advanced, pytorch or null"),
    ],
)
def test_a_mistake_is_one_message_before_the_run(words: list[str], message: str) -> None:
    [found] = problems(*(f"trainer.{word}" for word in words))
    assert found.startswith(message)


def test_own_classes_are_checked_against_their_signatures() -> None:
    ddp, simple = "lightning.pytorch.strategies.DDPStrategy", "lightning.pytorch.profilers.SimpleProfiler"
    assert problems(f"device.strategy={{_target_: {ddp}, static_graph: true}}") == []
    assert problems(
        f"device.strategy={{_target_: {ddp}, static_grap: true}}", f"trainer.profiler={{_target_: {simple}, extend: 1}}"
    ) == [
        "device.strategy.static_grap: `DistributedDataParallel` takes no such argument. Did you mean `static_graph`?",
        "trainer.profiler.extend: `SimpleProfiler` takes no such argument. Did you mean `extended`?",
    ]


def test_without_a_validation_nothing_is_monitored() -> None:
    chosen = config("data=synthetic", "trainer.limit_val_batches=0")
    assert monitored(chosen, data_of(chosen)) is None
    stopping = config("data=synthetic", "trainer.limit_val_batches=0", "callbacks.early_stopping_patience=1")
    with pytest.raises(ValueError, match=r"trainer\.limit_val_batches=0 leaves none to decide by"):
        monitored(stopping, data_of(stopping))


def test_callbacks_are_those_that_the_config_asks_for(tmp_path: Path) -> None:
    def progress_of(*overrides: str) -> list[type]:
        callbacks = trainer_of(tmp_path, *overrides).callbacks
        return [type(callback) for callback in callbacks if isinstance(callback, ProgressBar | EpochLines)]

    assert progress_of() == [EpochLines, RunProgress]
    assert progress_of("callbacks.progress_bar=false") == [EpochLines]
    kinds = [type(callback) for callback in trainer_of(tmp_path).callbacks]
    assert not {EarlyStopping, FirstGradient} & set(kinds)
    asked = ["callbacks.progress_bar=false", "callbacks.first_gradient=true", "callbacks.early_stopping_patience=3"]
    callbacks = trainer_of(tmp_path, *asked, "callbacks.monitor=val/loss").callbacks
    [stopping] = [callback for callback in callbacks if isinstance(callback, EarlyStopping)]
    assert (stopping.monitor, stopping.patience, stopping.mode) == ("val/loss", 3, "min")
    assert any(isinstance(callback, FirstGradient) for callback in callbacks)


def test_best_and_last_lie_in_the_run_folder(tmp_path: Path) -> None:
    best, last = trainer_of(tmp_path).checkpoint_callbacks
    assert isinstance(best, ModelCheckpoint)
    assert isinstance(last, ModelCheckpoint)
    assert (best.filename, best.monitor, best.mode) == ("best", "val/accuracy", "max")
    assert (last.filename, last.monitor) == ("last", None)
    assert Path(best.dirpath) == Path(last.dirpath) == tmp_path / "checkpoints"


def test_checkpoints_every_n_steps(tmp_path: Path) -> None:
    _, last = trainer_of(tmp_path, "callbacks.checkpoint_every_n_steps=4").checkpoint_callbacks
    assert last._every_n_train_steps == 4


@pytest.mark.parametrize(
    ("overrides", "monitor"),
    [
        ([], "val/accuracy"),
        (["callbacks.monitor=val/f1"], "val/f1"),
        (["data=random", "data.val_length=4"], "val/loss"),
        (["data=random"], None),
    ],
)
def test_what_chooses_the_best_checkpoint(overrides: list[str], monitor: str | None) -> None:
    chosen = config("data=synthetic", *overrides)
    assert monitored(chosen, data_of(chosen)) == monitor


def test_early_stopping_needs_validation_images() -> None:
    chosen = config("data=random", "callbacks.early_stopping_patience=2")
    with pytest.raises(ValueError, match="the data has no validation images to decide by"):
        monitored(chosen, data_of(chosen))


def test_without_validation_images_nothing_is_validated(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "data.val_length=0")
    assert trainer.limit_val_batches == 0
    assert [callback.filename for callback in trainer.checkpoint_callbacks] == ["last"]


def test_logger_none_logs_nothing(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "logger=none")
    assert trainer.loggers == []


@pytest.mark.parametrize(("asked", "threads"), [("null", 5), ("2", 2)])
def test_a_cpu_run_computes_with_the_cores_that_its_workers_leave(
    asked: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    before = torch.get_num_threads()
    try:
        trainer_of(tmp_path, "data.workers=3", f"device.threads={asked}")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


# Trainings

TINY = (
    *("data=synthetic", "data.length=32", "data.val_length=8", "data.test_length=8", "data.image_size=16"),
    *("data.batch_size=4", "model.weights=none", "device=cpu", "callbacks.progress_bar=false", "speed.allocator=false"),
    *("trainer.max_epochs=2", "trainer.precision=32-true", "trainer.log_every_n_steps=1", "scheduler=constant"),
)


def trained(folder: Path, *overrides: str, phases: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The facts of a run in a folder."""
    folder.mkdir(parents=True)
    values = settings(*TINY, *overrides)
    if phases is not None:
        (folder / "policy.yaml").write_text(json.dumps({"phases": phases}))
        values["freeze"] = {"name": "file", "path": str(folder / "policy.yaml")}
    train.train(folder, without_auto(typed(values)).config)
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    return facts


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return found


def steps_of(folder: Path, column: str) -> list[int]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row.get(column)]


def test_validation_within_epochs_phases_by_metric_and_a_time_limit_resume_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases = [
        {
            "name": "head",
            "train": ["head"],
            "until": {"metric": "val/loss", "mode": "max", "patience": 9, "max_epochs": 1},
        },
        {"name": "all", "train": ["all"]},
    ]
    words = [
        *(
            "data.length=16",
            "trainer.val_check_interval=2",
            "trainer.accumulate_grad_batches=2",
            "trainer.num_sanity_val_steps=-1",
        ),
        *("trainer.gradient_clip_val=0.01", "trainer.gradient_clip_algorithm=value"),
    ]
    whole = trained(tmp_path / "whole", *words, "trainer.profiler=simple", phases=phases)
    assert steps_of(tmp_path / "whole", "val/loss") == [0, 1, 2, 3]
    assert whole["steps"] == 4
    assert whole["freezing"]["held"] is True
    assert "run_training_batch" in (tmp_path / "whole/fit-profile.txt").read_text()

    def over(limit: TimeLimit, trainer: lightning.Trainer) -> None:
        trainer.should_stop = trainer.global_step >= 3

    with monkeypatch.context() as patched:
        patched.setattr(TimeLimit, "_check_time_remaining", over)
        part = trained(tmp_path / "part", *words, "trainer.max_time=00:00:01:00", phases=phases)
    assert (part["steps"], part["epochs"]) == (3, 2)
    assert steps_of(tmp_path / "part", "val/loss") == [0, 1, 2]
    last = tmp_path / "part/checkpoints/last.ckpt"
    read: list[Path] = []
    original = checkpoint._read
    monkeypatch.setattr(checkpoint, "_read", lambda path, **options: (read.append(path), original(path, **options))[1])
    trained(tmp_path / "rest", *words, "trainer.inference_mode=false", f"resume_from={last}", phases=phases)
    assert read == [last]  # besides Lightning's own reading
    assert steps_of(tmp_path / "rest", "val/loss") == [3]
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "rest")
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


def test_early_stopping_within_an_epoch_waits_for_min_steps(tmp_path: Path) -> None:
    words = ("trainer.val_check_interval=1", "callbacks.early_stopping_patience=1", "optimizer.lr=1e-9", "test=false")
    head = [{"name": "head", "train": ["head"]}]
    stopped = trained(tmp_path / "run", *words, "data.length=12", "trainer.min_steps=4", phases=head)
    assert stopped["steps"] == 4
    assert torch.load(stopped["best_checkpoint"], weights_only=True)["global_step"] == 1  # not that of the epoch's end


def test_fast_dev_run_tries_all_and_writes_no_logs_or_checkpoints(tmp_path: Path) -> None:
    tried = trained(
        tmp_path / "run",
        *("trainer.fast_dev_run=2", "trainer.enable_model_summary=true", "freeze=custom", "freeze.train=[head]"),
        *("logger=csv", "callbacks.gradient_flow_every_n_steps=1"),  # which has nothing to write to
    )
    assert (tried["steps"], tried["best_checkpoint"]) == (2, None)
    assert tried["freezing"]["held"] is True
    assert 0 <= tried["results"]["test/accuracy"] <= 1
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"data.json", "facts.json"}


def test_overfitting_takes_the_same_batches_in_every_epoch(tmp_path: Path) -> None:
    chosen = config(*TINY, "trainer.overfit_batches=0.25")
    data = build_data(chosen.data, chosen.augment, seed=0, same_batches=True)
    assert data._order(0).tolist() == data._order(3).tolist()
    assert data.order_key["same_batches"]
    facts = trained(tmp_path / "run", "trainer.overfit_batches=0.5", "trainer.enable_checkpointing=false")
    assert facts["steps"] == 8
    assert not (tmp_path / "run/checkpoints").exists()
    assert facts["results"]["test/loss"] > 0  # of the last weights


def test_a_run_that_ends_before_its_first_validation_has_no_best_and_no_warning(tmp_path: Path) -> None:
    ended = trained(
        tmp_path / "run", "trainer.max_steps=1", "trainer.limit_test_batches=0.5", "trainer.detect_anomaly=true"
    )
    assert ended["best_checkpoint"] is None
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["last.ckpt"]


def test_validation_between_the_batches_of_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"val_check_interval=0\.4: means 3 of 8 batches, which must be a multiple of"):
        trained(tmp_path / "run", "trainer.val_check_interval=0.4", "trainer.accumulate_grad_batches=2")
