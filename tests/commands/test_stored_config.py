"""The config in a checkpoint that a run goes on from: what is taken of it."""

from pathlib import Path

import pytest
import torch

from frostline.commands.stored_config import stored_config


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """One whose data would be downloaded."""
    path = tmp_path / "last.ckpt"
    data = {"name": "fashion_mnist", "download": True}
    torch.save({"frostline": {"settings": {"data": data}}}, path)
    return path


@pytest.mark.parametrize(
    ("words", "download"),
    [
        ([], False),
        (["trust_checkpoint=false"], False),
        (["trust_checkpoint=true"], True),
        (["trust_checkpoint=True"], True),
    ],
)
def test_only_a_trusted_checkpoint_downloads(checkpoint: Path, words: list[str], download: bool) -> None:
    stored = stored_config("train", [f"resume_from={checkpoint}", *words], sweeps=False)
    assert stored is not None
    assert stored.groups["data"]["download"] is download


def test_an_unreadable_file_has_no_config(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"no archive")
    assert stored_config("train", [f"resume_from={tmp_path / 'last.ckpt'}"], sweeps=False) is None
