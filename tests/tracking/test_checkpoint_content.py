"""Checkpoints of equal content share one file; others are written."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from frostline.tracking.checkpoint_content import content_of
from frostline.tracking.checkpoints import AtomicCheckpointIO

LARGE = 20_000


def checkpoint(weights: torch.Tensor, **more: Any) -> dict[str, Any]:
    return {"state_dict": {"fc.weight": weights.detach()}, "epoch": 1, "random": torch.arange(5), "none": None, **more}


def one_file(folder: Path) -> bool:
    return (folder / "best.ckpt").stat().st_ino == (folder / "last.ckpt").stat().st_ino


def save_both(folder: Path, first: dict[str, Any], second: dict[str, Any]) -> None:
    files = AtomicCheckpointIO()
    files.save_checkpoint(first, folder / "best.ckpt")
    files.save_checkpoint(second, folder / "last.ckpt")
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_the_second_of_two_equal_checkpoints_is_a_link_to_the_first(tmp_path: Path) -> None:
    weights = torch.rand(LARGE)
    save_both(tmp_path, checkpoint(weights), checkpoint(weights))
    assert one_file(tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["fc.weight"].equal(weights)


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made["state_dict"]["fc.weight"].add_(1),  # as an optimizer does
        lambda made: made.update(epoch=2),
        lambda made: made.update(epoch=1.0),
        lambda made: made["random"].add_(1),
        lambda made: made.update(none=0),
        lambda made: made.update(more=1),
        lambda made: made.update(state_dict={"fc.bias": made["state_dict"]["fc.weight"]}),
    ],
)
def test_a_checkpoint_that_differs_is_written_and_the_first_file_stays(tmp_path: Path, change: Any) -> None:
    weights = torch.rand(LARGE)
    before = weights.clone()
    files = AtomicCheckpointIO()
    files.save_checkpoint(checkpoint(weights), tmp_path / "best.ckpt")
    second = checkpoint(weights)
    change(second)
    files.save_checkpoint(second, tmp_path / "last.ckpt")
    assert not one_file(tmp_path)
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]["fc.weight"].equal(before)
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last.keys() == second.keys()
    assert last["epoch"] == second["epoch"]


def test_the_next_epochs_file_does_not_change_the_one_that_it_was_linked_to(tmp_path: Path) -> None:
    weights, files = torch.rand(LARGE), AtomicCheckpointIO()
    files.save_checkpoint(checkpoint(weights), tmp_path / "best.ckpt")
    files.save_checkpoint(checkpoint(weights), tmp_path / "last.ckpt")
    before = weights.clone()
    weights += 1
    files.save_checkpoint(checkpoint(weights), tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]["fc.weight"].equal(before)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["fc.weight"].equal(weights)


@pytest.mark.parametrize("value", [object(), {"nested": [object()]}, torch.rand(LARGE).to_sparse()])
def test_an_unknown_value_equals_nothing(value: Any) -> None:
    assert content_of(value) != content_of(value)


def test_tokens_are_equal_for_equal_values_of_one_type_and_shape_only() -> None:
    values = torch.zeros(2 * LARGE)
    assert content_of(values[:LARGE]) == content_of(values[LARGE:]) == content_of(torch.zeros(2, LARGE).T[:, 0])
    assert content_of(values) != content_of(values.view(2, LARGE))
    assert content_of(torch.zeros(2)) != content_of(torch.zeros(2, dtype=torch.int32))
    assert content_of(torch.zeros(())) == content_of(torch.tensor(0.0))
    assert content_of([1]) != content_of((1,))


def test_a_change_through_data_is_seen() -> None:
    weights = torch.zeros(LARGE)
    before = content_of(weights)
    weights.data[-1] = 1
    assert content_of(weights) != before


def test_a_replaced_file_is_not_linked_to(tmp_path: Path) -> None:
    weights, files = torch.rand(LARGE), AtomicCheckpointIO()
    files.save_checkpoint(checkpoint(weights), tmp_path / "best.ckpt")
    (tmp_path / "best.ckpt").write_bytes(b"something else")
    files.save_checkpoint(checkpoint(weights), tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1
    (tmp_path / "last.ckpt").unlink()
    files.save_checkpoint(checkpoint(weights), tmp_path / "best.ckpt")
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["epoch"] == 1


def test_where_there_are_no_links_both_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")  # as FAT does

    monkeypatch.setattr(os, "link", refuse)
    weights = torch.rand(LARGE)
    save_both(tmp_path, checkpoint(weights), checkpoint(weights))
    assert not one_file(tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["fc.weight"].equal(weights)


def test_the_same_checkpoint_twice_to_one_path_leaves_one_whole_file(tmp_path: Path) -> None:
    weights, files = torch.rand(LARGE), AtomicCheckpointIO()
    for _ in range(2):
        files.save_checkpoint(checkpoint(weights), tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1
