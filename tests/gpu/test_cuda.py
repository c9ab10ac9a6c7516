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
    done = cli(*FROSTLINE, "train", *words, "device=gpu", f"trainer.precision={precision}", "freeze=head")
    assert done.returncode == 0, done.stderr
    assert facts(only_run(tmp_path))["freezing"]["held"] is True  # type: ignore[index]
    assert "device: cuda × 1" in done.stdout
