"""Rules between keys, and between keys and this machine."""

from pathlib import Path
from typing import Any

import pytest
from tests.configs import settings, typed

from frostline.config import rules
from frostline.config.rules import broken_rules, visible_gpus
from frostline.config.training import Device


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    return settings()


@pytest.fixture(autouse=True)
def _no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 0)


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(rules, "visible_gpus", lambda: count)


def broken(config: dict[str, Any], **sections: Any) -> list[str]:
    """The broken rules of the config with other keys in its sections, or other values at its top."""
    changed = {k: {**config[k], **v} if isinstance(v, dict) else v for k, v in sections.items()}
    return broken_rules(dict(typed({**config, **changed})))


def test_the_default_config_breaks_no_rule(composed: dict[str, Any]) -> None:
    assert broken(composed) == []


def test_malformed_sections_are_left_out() -> None:
    assert broken_rules({}) == []


# Devices


def test_a_gpu_that_is_not_there(composed: dict[str, Any]) -> None:
    assert broken(composed, device={"accelerator": "gpu"}) == [
        "device.accelerator: there is no GPU here. Use device=cpu, or device=cpu_ddp for several processes."
    ]


@pytest.mark.parametrize(("gpus", "text"), [(1, "1 is visible"), (2, "2 are visible")])
def test_more_gpus_than_there_are(
    composed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, gpus: int, text: str
) -> None:
    with_gpus(monkeypatch, gpus)
    for accelerator in ("gpu", "auto"):
        found = broken(composed, device={"accelerator": accelerator, "devices": 4})
        assert found == [f"device.devices: 4 GPUs wanted, but {text}."]
        assert broken(composed, device={"accelerator": accelerator, "devices": gpus}) == []


def test_all_is_for_gpus(composed: dict[str, Any]) -> None:
    assert "device.devices: `all` is for GPUs; give a number of CPU processes." in broken(
        composed, device={"accelerator": "cpu", "devices": "all"}
    )


def test_the_batch_must_divide_among_the_processes(composed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ddp = {"accelerator": "cpu", "devices": 2}
    assert broken(composed, device=ddp, data={"batch_size": 32}) == []
    assert broken(composed, device=ddp, data={"batch_size": 33}) == [
        "data.batch_size: 33 images cannot be shared evenly by 2 processes (the size is global). Use 32 or 34."
    ]
    assert broken(composed, device=ddp, data={"batch_size": 1}) == [
        "data.batch_size: 1 images cannot be shared evenly by 2 processes (the size is global). Use 2."
    ]
    [problem] = broken(composed, device={**ddp, "num_nodes": 3}, data={"batch_size": 32})
    assert "by 6 processes" in problem
    with_gpus(monkeypatch, 3)
    [problem] = broken(composed, device={"accelerator": "gpu", "devices": "all"}, data={"batch_size": 32})
    assert "by 3 processes (the size is global). Use 30 or 33." in problem


def test_sync_batchnorm_needs_a_gpu(composed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"sync_batchnorm": True}
    for accelerator in ("cpu", "auto"):
        [problem] = broken(composed, trainer=wanted, device={"accelerator": accelerator})
        assert problem.startswith("trainer.sync_batchnorm: needs GPUs")
    with_gpus(monkeypatch, 1)
    assert broken(composed, trainer=wanted, device={"accelerator": "auto"}) == []


def test_16_mixed_needs_a_gpu(composed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"precision": "16-mixed"}
    for accelerator in ("cpu", "auto"):
        assert broken(composed, trainer=wanted, device={"accelerator": accelerator}) == [
            "trainer.precision: 16-mixed needs a GPU. On a CPU use bf16-mixed, 32-true or auto."
        ]
    with_gpus(monkeypatch, 1)
    assert broken(composed, trainer=wanted, device={"accelerator": "auto"}) == []


def test_bf16_on_a_cpu_needs_maps_whose_gradients_are_right(
    composed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"trainer": {"precision": "bf16-mixed"}, "device": {"accelerator": "cpu"}}
    assert broken(composed, data={"image_size": 17}, **wanted) == []
    [problem] = broken(composed, data={"image_size": 16}, **wanted)
    assert problem.startswith("trainer.precision: bf16-mixed on a CPU needs a data.image_size of 17 or more, not 16")
    with_gpus(monkeypatch, 1)
    assert broken(composed, data={"image_size": 16}, **{**wanted, "device": {"accelerator": "auto"}}) == []


def test_evaluate_and_predict_run_on_one_device(composed: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "best.ckpt"
    file.touch()
    device = {"accelerator": "cpu"}
    assert broken_rules({"checkpoint": str(file), "device": Device(**device)}) == []
    for several in ({"devices": 2}, {"num_nodes": 2}):
        assert broken_rules({"checkpoint": str(file), "device": Device(**device, **several)}) == [
            "device.devices: this command runs on one device. Use device=auto, device=cpu or device=gpu."
        ]


def test_gpus_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    present = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == present
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert visible_gpus() == 0
    monkeypatch.setattr(Path, "glob", lambda *_: iter(["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"]))
    for chosen, seen in (("0", 1), ("0,2", 2), ("0,1,2,3", 3)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert visible_gpus() == seen


# Training


def test_nothing_to_do(composed: dict[str, Any]) -> None:
    assert broken(composed, fit=False, test=False) == ["fit, test: both are false, so there is nothing to do."]


def test_resuming_goes_with_fitting(composed: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    file.touch()
    assert broken(composed, resume_from=str(file)) == []
    [problem] = broken(composed, resume_from=str(file), fit=False)
    assert problem.startswith("resume_from: goes with fit=true.")


def test_nesterov_needs_momentum_and_no_dampening(composed: dict[str, Any]) -> None:
    assert broken(composed, optimizer={"nesterov": True}) == []
    assert broken(composed, optimizer={"nesterov": True, "momentum": 0.0}) == [
        "optimizer.nesterov: needs optimizer.momentum > 0."
    ]
    assert broken(composed, optimizer={"nesterov": True, "dampening": 0.1}) == [
        "optimizer.nesterov: needs optimizer.dampening=0."
    ]


def test_nothing_to_leave_out_of_no_decay(composed: dict[str, Any]) -> None:
    spared = {"exclude_from_decay": ["bias"]}
    assert broken(composed, optimizer=spared) == []
    [problem] = broken(composed, optimizer={**spared, "weight_decay": 0.0})
    assert problem.startswith("optimizer.exclude_from_decay: optimizer.weight_decay is 0")


def test_rprops_steps_have_an_order() -> None:
    rprop = settings("optimizer=rprop", "optimizer.step_sizes=[1.0,0.1]")
    assert broken(rprop) == ["optimizer.step_sizes: the smallest step must lie below the largest."]


def test_a_step_size_at_which_the_rate_never_falls_is_refused() -> None:
    step = settings("scheduler=step", "scheduler.step_size=4", "trainer.max_epochs=4")
    [problem] = broken(step)
    assert problem.startswith("scheduler.step_size: 4 epochs, but the run has 4 (trainer.max_epochs)")
    assert broken(step, scheduler={"step_size": 3}) == broken(step, scheduler={"step_size": None}) == []


def test_soft_labels_have_no_class_weights() -> None:
    [problem] = broken(settings("data=random", "loss.class_weights=balanced"))
    assert problem.startswith("loss.class_weights: the random source has soft labels")
