"""`averaging=ema`: the average of known weights, and what a fit, its checkpoints, a test and a resume have of it."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from frostline.commands.main import main
from frostline.config.commands import COMMANDS
from frostline.config.validation import ConfigError, validate
from frostline.freezing.lightning_internals import ExactAverage
from frostline.moving_average import DECAY, MovingAverage, moving_average
from tests.configs import settings
from tests.preloaded import FROSTLINE
from tests.preloaded import run as run_preloaded

# layer4 is unfrozen at step 3, when the average has begun; the rest stays frozen.
POLICY = "phases: [{name: head, train: [head], until: {steps: 3}}, {name: top, train: [layer4, head]}]\n"
WORDS = (
    *(
        "data=synthetic",
        "data.length=48",
        "data.val_length=16",
        "data.test_length=16",
        "data.classes=3",
        "data.image_size=32",
        "data.batch_size=8",
        "augment=light",
    ),
    *("model.weights=none", "freeze=file", "freeze.path=policy.yaml", "trainer.precision=32-true", "optimizer.lr=0.05"),
    *("trainer.max_epochs=2", "scheduler=constant", "callbacks.progress_bar=false", "callbacks.pictures=false"),
    *("averaging=ema", "device=cpu", "device.threads=1", "callbacks.monitor=val/loss"),
    "device.devices=2",
)


def test_the_average_of_known_weights_begins_with_the_first_step_and_warms_up() -> None:
    net = torch.nn.Linear(1, 1, bias=False)
    averaged = AveragedModel(net, avg_fn=ExactAverage(moving_average))
    values = []
    for weight in (7.0, 18.0, 2.0):
        with torch.no_grad():
            net.weight.fill_(weight)
        averaged.update_parameters(net)
        values.append(averaged.module.weight.item())
    # 7; 2/11 of it and 9/11 of 18; 3/12 of that and 9/12 of 2.
    assert values == pytest.approx([7, 16, 5.5])
    late = moving_average(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(10**6))
    assert late.item() == pytest.approx(1 - DECAY, rel=1e-3)
    seen = ExactAverage(moving_average)(torch.tensor(3), torch.tensor(12), torch.tensor(5))
    assert (seen.item(), seen.dtype) == (12, torch.int64)


def test_sharded_weights_are_refused() -> None:
    trainer: Any = SimpleNamespace(strategy=FSDPStrategy())
    with pytest.raises(ValueError, match="averaging: ema does not run under FSDPStrategy; use averaging=none"):
        MovingAverage().setup(trainer, torch.nn.Linear(1, 1), "fit")  # type: ignore[arg-type]


class StopAfter(Callback):
    """Ctrl-C in the step after so many."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step and trainer.is_global_zero:
            os.kill(os.getpid(), signal.SIGINT)


class Watch(Callback):
    """Writes what each rank has of some weights after each step, in each validation and in the test."""

    names = ("conv1.weight", "bn1.running_mean", "layer4.1.bn2.weight", "layer4.1.bn2.running_mean", "fc.bias")

    def __init__(self) -> None:
        self.found: list[tuple[str, int, dict[str, Tensor]]] = []

    def _note(self, when: str, trainer: Any, pl_module: Any) -> None:
        state = pl_module.network.state_dict()
        self.found.append((when, trainer.global_step, {name: state[name].clone() for name in self.names}))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self._note("step", trainer, pl_module)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self._note("validation", trainer, pl_module)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self._note("test", trainer, pl_module)
        torch.save(self.found, Path(trainer.default_root_dir) / f"watched-{trainer.global_rank}.pt")


def by_hand(steps: list[Tensor]) -> Tensor:
    """The average of the values after each step."""
    average = steps[0]
    for count, value in enumerate(steps[1:], start=1):
        kept = min(0.999, (1 + count) / (10 + count))
        average = kept * average + (1 - kept) * value
    return average


def checkpoint(run: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)
    return content


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_two_ranks_average_test_and_resume_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of two ranks to its end, and the same one interrupted in step 8 and resumed."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "FROSTLINE_CACHE": str(tmp_path / "cache")}
    watch = "++callbacks.watch._target_=tests.test_moving_average.Watch"
    stop = ("++callbacks.stop._target_=tests.test_moving_average.StopAfter", "++callbacks.stop.step=7")
    for run, words, code in (
        ("whole", [*WORDS, watch], 0),
        ("cut", [*WORDS, watch, *stop], 130),
        ("cut", ["resume_from=runs/cut", "trust_checkpoint=true"], 0),
    ):
        done = run_preloaded([*FROSTLINE, "train", *words], cwd=tmp_path, output=tmp_path, env={**env, "RUN_ID": run})
        assert done.returncode == code, done.stdout[-2000:] + done.stderr
    whole, cut = (tmp_path / "runs" / name for name in ("whole", "cut"))
    facts = [json.loads((run / "facts.json").read_text()) for run in (whole, cut)]
    assert facts[0]["results"] == facts[1]["results"]
    assert [found["freezing"]["held"] for found in facts] == [True, True]
    for name in ("best", "last"):
        one, other = checkpoint(whole, name), checkpoint(cut, name)
        for key in ("state_dict", "current_model_state", "averaging_state"):
            assert same(one[key], other[key]), (name, key)

    # The average is that of the steps, from the value at which a layer was unfrozen; frozen tensors are as they were.
    first, second = (torch.load(whole / f"watched-{rank}.pt") for rank in (0, 1))
    steps = [state for when, _, state in first if when == "step"]
    last = checkpoint(whole, "last")
    for name in Watch.names:
        average = last["state_dict"][name]
        assert torch.allclose(average, by_hand([state[name] for state in steps]), rtol=1e-5, atol=1e-6), name
        moved = name.startswith(("layer4", "fc"))
        assert torch.equal(average, steps[0][name]) is not moved
        assert torch.equal(last["current_model_state"][f"network.{name}"], steps[-1][name])
    frozen = [name for name in last["state_dict"] if not name.startswith(("layer4", "fc"))]
    assert all(torch.equal(last["state_dict"][n], last["current_model_state"][f"network.{n}"]) for n in frozen)
    assert last["state_dict"]["layer4.1.bn2.num_batches_tracked"] == 9

    # What is validated, stored as the best and tested is the average, the same on both ranks.
    best = checkpoint(whole, "best")
    validated = [state for when, step, state in first if when == "validation" and step == best["global_step"]]
    tested = [state for when, _, state in first if when == "test"]
    assert validated
    assert all(same(state, {name: best["state_dict"][name] for name in Watch.names}) for state in validated + tested)
    evaluated = [[entry for entry in found if entry[0] != "step"] for found in (first, second)]
    assert all(same(one[2], other[2]) for one, other in zip(*evaluated, strict=True))
    assert not torch.equal(tested[0]["fc.bias"], steps[best["global_step"] - 1]["fc.bias"])
    monkeypatch.chdir(tmp_path)
    main("evaluate", ["checkpoint=runs/whole", "output=result.json", "device=cpu", "batch_size=4"])
    results = json.loads((tmp_path / "result.json").read_text())["results"]
    assert results == pytest.approx(facts[0]["results"], rel=1e-5)
    capsys.readouterr()


def test_keys_that_the_average_does_not_go_with_are_refused_together() -> None:
    values = settings("averaging=ema", "speed.engine=openvino", "on_policy_change=restart")
    with pytest.raises(ConfigError) as error:
        validate(COMMANDS["train"], values)
    text = "\n".join(error.value.problems)
    assert "on_policy_change, averaging: restart goes on without the average" in text
    assert "speed.engine, averaging: openvino converts frozen layers once" in text
