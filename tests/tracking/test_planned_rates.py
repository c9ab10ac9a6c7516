"""The rates that a plan shows are those at which a training then steps, to the last bit."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from freezing.tiny import Validates, fit
from tests.preloaded import FROSTLINE, run

from frostline.freezing import FreezePolicy
from frostline.freezing.phase_clock import timeline
from frostline.optim import parameter_groups
from frostline.schedulers import SCHEDULERS
from frostline.tracking.planned_rates import planned_rates

PER_EPOCH, EPOCHS = 4, 4
STEPS = PER_EPOCH * EPOCHS
WAITING = {"metric": "val/loss", "mode": "min", "patience": 9, "max_epochs": 2}
POLICIES: dict[str, dict[str, Any]] = {
    "static": {"train": ["conv2", "head"]},
    "static, warm-up": {"train": ["conv2", "head"], "warmup_steps": 5},
    "static, warm-up longer than the run": {"train": ["head"], "warmup_steps": 100},
    "discriminative": {"train": ["all"], "lr_decay": 0.5},
    "gradual, warm-ups longer than the phases": {
        "phases": [
            {"name": "a", "train": ["head"], "until": {"fraction": 0.25}, "lr": {"head": 2.0}},
            {"name": "b", "train": ["conv2", "head"], "until": {"steps": 3}, "warmup_steps": 7},
            {"name": "c", "train": ["all"], "lr_decay": 0.7, "warmup_steps": 20},
        ]
    },
    "waiting for a metric": {
        "phases": [
            {"name": "a", "train": ["head"], "until": WAITING, "warmup_steps": 3},
            {"name": "b", "train": ["all"], "warmup_steps": 4},
        ]
    },
}


class Module(Validates):
    """Trains under a schedule of frostline's, and notes the rate of each group in each step; val/loss never stops
    falling, so that a phase that waits for it lasts as long as it may."""

    def __init__(self, policy: FreezePolicy, scheduler: Any) -> None:
        super().__init__(lambda step: -step)
        self.resolved, self.scheduler, self.used = policy.resolve(self.net), scheduler, list[dict[str, float]]()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(parameter_groups(self.net, resolved=self.resolved, lr=0.1), momentum=0.9)
        optimizer.register_step_post_hook(lambda *_: self.used.append(self.rates(optimizer)))
        return [optimizer], [{"scheduler": self.scheduler(optimizer, STEPS, PER_EPOCH), "interval": "step"}]

    def rates(self, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """Of the groups in which something trains; a frozen one has no rate that matters."""
        groups = optimizer.param_groups
        return {group["name"]: group["lr"] for group in groups if group["params"][0].grad is not None}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_planned_rates_are_the_applied_ones_to_the_last_bit(name: str, policy: str) -> None:
    module = Module(FreezePolicy.from_dict(POLICIES[policy]), SCHEDULERS[name](warmup=0.2))
    resolved, network = module.resolved, module.net
    optimizer = torch.optim.SGD(parameter_groups(network, resolved=resolved, lr=0.1))
    planned = planned_rates(
        timeline(resolved.policy, steps_per_epoch=PER_EPOCH, total_steps=STEPS),
        optimizer=optimizer,
        scheduler=SCHEDULERS[name](warmup=0.2)(optimizer, STEPS, PER_EPOCH),
        network=network,
        resolved=resolved,
        total_steps=STEPS,
    )
    fit(resolved, module=module, max_epochs=EPOCHS, num_sanity_val_steps=0)
    shown = [
        {group: rate for group, rate in zip(planned.groups, rates, strict=True) if rate} for rates in planned.steps
    ]
    assert shown == module.used
    assert len(shown) == STEPS


def test_the_plan_prints_the_rates_that_a_run_of_the_same_words_logs(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Three batches an epoch, two to a step: 8 steps in 4 epochs; each phase has 2, and warms up in them, not in 20."""
    output = tmp_path_factory.mktemp("output")
    words = [
        "data=random", "data.length=40", "data.image_size=32", "data.classes=3", "data.batch_size=8",
        "model.weights=none", "freeze=gradual_unfreezing", "scheduler=cosine", "scheduler.warmup=0.25",
        "trainer.max_epochs=4", "trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=3",
    ]  # fmt: skip
    out = run([*FROSTLINE, "plan", *words], cwd=tmp_path, output=output).stdout
    assert "8 optimizer steps, 2 an epoch" in out
    assert out.count("warms up in 2 steps instead of warmup_steps=20") == 3
    logs = ["trainer.log_every_n_steps=1", "trainer.precision=32-true", "callbacks.progress_bar=false", "test=false"]
    trained = run([*FROSTLINE, "train", *words, *logs], cwd=tmp_path, output=output)
    assert trained.stdout.count("warms up in 2 steps instead of warmup_steps=20") == 3
    [metrics] = tmp_path.glob("runs/*/metrics.csv")
    with metrics.open() as file:
        logged = {int(row["step"]): row for row in csv.DictReader(file) if row.get("lr-SGD/head")}
    assert sorted(logged) == list(range(8))
    table = out.partition("last step\n")[2].partition("\n\n")[0].splitlines()
    phases = []
    for line in table:
        phases += [] if line.startswith(" ") else [line.split()[0]]
        step = 2 * len(phases) - 2
        *groups, first, _, last = line.split()[not line.startswith(" ") :]
        for group in groups:
            assert [f"{float(logged[now][f'lr-SGD/{group}']):.3g}" for now in (step, step + 1)] == [first, last]
    assert phases == ["head", "layer4", "layer3", "all"]
    assert len(table) == 1 + 2 + 2 + 2


def test_a_phase_that_the_run_is_too_short_for_is_refused_before_it_and_in_the_plan(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    output = tmp_path_factory.mktemp("output")
    (tmp_path / "late.yaml").write_text(
        "phases: [{name: head, train: [head], until: {epochs: 10}}, {name: all, train: [all]}]"
    )
    words = ["data=random", "data.length=8", "data.image_size=32", "data.batch_size=4", "model.weights=none"]
    words += ["freeze=file", "freeze.path=late.yaml", "trainer.max_epochs=6"]
    for command, more in (("plan", []), ("train", ["test=false"])):
        done = run([*FROSTLINE, command, *words, *more], cwd=tmp_path, output=output)
        assert done.returncode == 2
        printed = done.stdout + done.stderr
        assert "phase `all` would begin after 20 steps, but the run has 12, so it never begins" in printed
        assert "Traceback" not in printed
    assert not list(tmp_path.glob("runs/*/metrics.csv"))
    tried = [*FROSTLINE, "plan", *words, "trainer.fast_dev_run=true"]  # which tries the code, and is no run
    assert "so it never begins" in run(tried, cwd=tmp_path, output=output).stdout
