"""What only a CUDA device can show: mixed precision with a loss scaler, and frozen tensors that hold still there."""

from pathlib import Path

import pytest
import torch
from tests.integration.conftest import FROSTLINE, SHORT, Cli, facts, only_run

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_frozen_backbone_is_bit_identical_after_training_on_a_gpu(precision: str, cli: Cli, tmp_path: Path) -> None:
    assert torch.cuda.is_available(), "the gpu tests need a CUDA device"
    words = [word for word in SHORT if not word.startswith("trainer.precision")]
    done = cli(*FROSTLINE, "train", *words, "device=gpu", f"trainer.precision={precision}", "freeze=backbone")
    assert done.returncode == 0, done.stderr
    assert facts(only_run(tmp_path))["freezing"]["held"] is True  # type: ignore[index]
    assert "device: cuda × 1" in done.stdout


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_features_kept_on_a_gpu_give_what_computed_ones_give(precision: str, cli: Cli, tmp_path: Path) -> None:
    """Rows are written one batch late there, and the store is read by the next run."""
    words = [word for word in SHORT if not word.startswith(("trainer.precision", "trainer.limit_train"))]
    words += ["device=gpu", f"trainer.precision={precision}", "freeze=backbone", "augment=none", "trainer.max_epochs=3"]
    words += ["cache.folder=features", "trainer.deterministic=true"]
    env = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    for name, more in {"plain": ["speed.feature_cache=false"], "kept": [], "again": []}.items():
        done = cli(*FROSTLINE, "train", *words, *more, env={**env, "RUN_ID": name})
        assert done.returncode == 0, done.stderr
    plain, kept, again = (facts(tmp_path / "runs" / name) for name in ("plain", "kept", "again"))
    assert again["features"]["train"]["computed"] == 0  # type: ignore[index]
    assert kept["features"]["train"]["computed"] <= 1259  # type: ignore[index]
    for name, value in plain["results"].items():  # type: ignore[attr-defined]
        assert kept["results"][name] == pytest.approx(value, abs=2e-3)  # type: ignore[index]
        assert again["results"][name] == pytest.approx(value, abs=2e-3)  # type: ignore[index]
