"""The parts in examples/, as a user names them."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from frostline.commands.overrides import Invocation, problems_of
from tests.integration.conftest import FROSTLINE, Cli, facts, only_run

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ("trainer.max_epochs=1", "callbacks.progress_bar=false", "model.weights=none")
PARTS = {file.parent.name: file.stem for file in sorted(EXAMPLES.glob("*/*.yaml"))}
# All at once; loggers are a list.
CHOSEN = [f"{group}={f'[csv,{name}]' if group == 'logger' else name}" for group, name in PARTS.items()]


def test_there_is_a_part_of_each_kind_and_each_file_is_in_the_readme() -> None:
    assert set(PARTS) == {
        *("model", "head", "data", "augment", "loss", "optimizer", "scheduler", "metrics", "callbacks", "logger"),
        *("device", "trainer"),
    }
    readme = (EXAMPLES / "README.md").read_text()
    assert [file.name for file in EXAMPLES.glob("*.py") if f"`{file.name}`" not in readme] == []
    assert [name for group, name in PARTS.items() if f"`{group}={name}`" not in readme] == []


def test_all_parts_train_together_and_each_is_used(cli: Cli, tmp_path: Path) -> None:
    words = (
        "train",
        "--config-dir",
        str(EXAMPLES),
        *CHOSEN,
        *SHORT,
        "callbacks.monitor=val/kappa",
        "trainer.log_every_n_steps=1",
    )
    done = cli(*FROSTLINE, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "device: cpu × 2" in done.stdout
    assert "gradients are exchanged as bfloat16" in done.stdout
    run = only_run(tmp_path)
    assert "run_training_batch" in (run / "fit-profile-0.txt").read_text()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = {name: [line[name] for line in lines if name in line] for line in lines for name in line}
    assert all(value > 0 for value in logged["weights/norm"])
    assert -1 <= logged["val/kappa"][-1] <= 1
    assert facts(run)["results"]["test/kappa"] == pytest.approx(logged["test/kappa"][-1])
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) >= {"fc.weight", "stem.0.weight", "layer1.0.weight"}
    assert "fc.bias" not in checkpoint["state_dict"]  # of the cosine head
    # Sign descent has no state, and the polynomial schedule has gone down by four steps of 100.
    assert checkpoint["optimizer_states"][0]["state"] == {}
    [schedule] = checkpoint["lr_schedulers"]
    assert schedule["_last_lr"][0] == pytest.approx(0.0005 * (1 - 4 / 100) ** 2)
    found = evaluated(cli, run, "--config-dir", str(EXAMPLES), "trust_checkpoint=true")
    assert found == pytest.approx(facts(run)["results"], abs=1e-6)


def evaluated(cli: Cli, run: Path, *words: str, notes: str = "") -> dict[str, float]:
    """The results of a run's best checkpoint by `frostline evaluate`, which prints these lines before them."""
    checkpoint = f"checkpoint={run}/checkpoints/best.ckpt"
    done = cli(*FROSTLINE, "evaluate", *words, checkpoint, "device=cpu", "output=found.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{notes}data: ")
    results: dict[str, float] = json.loads((run.parents[1] / "found.json").read_text())["results"]
    return results


def test_an_evaluation_has_the_runs_own_loss_where_the_checkpoint_is_trusted(cli: Cli, tmp_path: Path) -> None:
    words = ("train", "--config-dir", str(EXAMPLES), "loss=focal", "metrics=kappa", "data=digits", "freeze=backbone")
    done = cli(*FROSTLINE, *words, *SHORT, "trainer.limit_train_batches=2", "data.image_size=32")
    assert done.returncode == 0, done.stdout + done.stderr
    run = only_run(tmp_path)
    wanted = facts(run)["results"]
    assert evaluated(cli, run, "--config-dir", str(EXAMPLES), "trust_checkpoint=true") == pytest.approx(wanted)
    note = (
        "note: focal_loss.FocalLoss (loss._target_) of the checkpoint is left out; `loss` is the cross-entropy; "
        "trust_checkpoint=true takes it\n"
    )
    found = evaluated(cli, run, notes=note)
    assert found.pop("test/loss") > 1.05 * wanted.pop("test/loss")
    assert found == pytest.approx(wanted)  # torchmetrics' kappa among them
    done = cli(*FROSTLINE, "evaluate", f"checkpoint={run}/checkpoints/best.ckpt", "trust_checkpoint=true")
    assert done.returncode == 2
    assert "loss: cannot import `focal_loss`" in done.stderr


def test_a_part_is_checked_before_there_is_a_run_folder(cli: Cli, tmp_path: Path) -> None:
    for name, text in (
        ("loss", "_target_: focal_loss.FocalLoss\ngama: 3\n"),
        ("scheduler", "_target_: torch.optim.lr_scheduler.PolynomialLr\n"),
        ("augment", "_target_: grey_patches.GreyPatches\npatches: 1\n"),
        ("callbacks", "defaults: [default, _self_]\nmine: {_target_: focal_loss.FocalLoss}\n"),
        ("logger", "mine: {_target_: json_lines.JsonLines, fille: x}\n"),
        ("metrics", "mine: {_target_: torchmetrics.classification.MulticlassCohenKapa}\n"),
        ("device", "strategy: {_target_: compressed_gradients.CompressedGradients, static_grap: true}\n"),
    ):
        (tmp_path / "conf" / name).mkdir(parents=True)
        (tmp_path / "conf" / name / "wrong.yaml").write_text(text)
        (tmp_path / "conf" / name / "wrong.yaml").chmod(0o644)
    chosen = [f"{file.parent.name}=wrong" for file in sorted((tmp_path / "conf").glob("*/wrong.yaml"))]
    done = cli(*FROSTLINE, "train", "--config-dir", "conf", *chosen, *SHORT, env={"PYTHONPATH": str(EXAMPLES)})
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "7 problems:",
        "  augment.size: missing; `GreyPatches` requires it.",
        "  loss.gama: `FocalLoss` takes no such argument. Did you mean `gamma`?",
        "  scheduler: there is no class at `_target_: torch.optim.lr_scheduler.PolynomialLr`. Did you mean "
        "`torch.optim.lr_scheduler.PolynomialLR`?",
        "  device.strategy.static_grap: `DistributedDataParallel` takes no such argument. Did you mean `static_graph`?",
        "  callbacks.mine: `focal_loss.FocalLoss` is not a subclass of lightning.pytorch.callbacks.callback.Callback.",
        "  metrics.mine: there is no class at `_target_: torchmetrics.classification.MulticlassCohenKapa`. Did you "
        "mean `torchmetrics.classification.MulticlassCohenKappa`?",
        "  logger.mine.fille: `JsonLines` takes no such argument. Did you mean `file`?",
    ]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("augment=grey_patches", "cache.views=2"), "cache.views: views of a transform of your own are not kept."),
        (("callbacks.monitor=val/kapa", "metrics=kappa"), "callbacks.monitor: there is no value `val/kapa`. Did you "),
        (("callbacks.monitor=val/kappa",), "callbacks.monitor: there is no value `val/kappa`."),
        (("callbacks=weight_norm", "+callbacks.other=3"), "callbacks.other: unknown key. The keys of callbacks are: "),
        (("loss=focal", "loss.gama=1"), "loss.gama: unknown key. Did you mean loss.gamma?"),
    ],
)
def test_a_mistake_beside_a_part_is_one_message(
    words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    [found] = problems_of(Invocation(command="train", overrides=words, config_dir=EXAMPLES))
    assert found.startswith(message)


def test_a_part_may_stand_on_the_command_line() -> None:
    words = ["++callbacks.timer={_target_: lightning.pytorch.callbacks.Timer}"]
    assert problems_of(Invocation(command="train", overrides=words)) == []


def test_a_config_may_say_what_would_be_given() -> None:
    kappa = "{_target_: torchmetrics.classification.MulticlassCohenKappa, num_classes: 10}"
    assert problems_of(Invocation(command="train", overrides=[f"++metrics.kappa={kappa}"])) == []


def test_every_yaml_names_a_class_or_is_a_mapping_of_classes() -> None:
    for group, name in PARTS.items():
        node = yaml.safe_load((EXAMPLES / group / f"{name}.yaml").read_text())
        parts = [node] if "_target_" in node else [value for value in node.values() if isinstance(value, dict)]
        assert parts
        assert all("_target_" in part for part in parts)
