"""Two checkpoints of the same content share one file; anything that differs, or might, is written."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from frostline.tracking.checkpoint_content import COMPARED_BY_VALUE, content_of
from frostline.tracking.checkpoints import WholeFileCheckpointIO

LARGE = COMPARED_BY_VALUE // 4 + 1  # float32


def checkpoint(weights: torch.Tensor, **more: Any) -> dict[str, Any]:
    return {"state_dict": {"fc.weight": weights.detach()}, "epoch": 1, "random": torch.arange(5), "none": None, **more}


def one_file(folder: Path) -> bool:
    return (folder / "best.ckpt").stat().st_ino == (folder / "last.ckpt").stat().st_ino


def save_both(folder: Path, first: dict[str, Any], second: dict[str, Any]) -> None:
    files = WholeFileCheckpointIO()
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
    files = WholeFileCheckpointIO()
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
    weights, files = torch.rand(LARGE), WholeFileCheckpointIO()
    files.save_checkpoint(checkpoint(weights), tmp_path / "best.ckpt")
    files.save_checkpoint(checkpoint(weights), tmp_path / "last.ckpt")
    before = weights.clone()
    weights += 1
    files.save_checkpoint(checkpoint(weights), tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]["fc.weight"].equal(before)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["fc.weight"].equal(weights)


def test_memory_that_was_given_to_another_tensor_is_not_taken_for_the_same() -> None:
    # Averaged or gathered weights are copies, made for one checkpoint: the next one's may get their address.
    addresses, contents = set(), []
    for value in range(20):
        copy = torch.full((100 * LARGE,), float(value))
        addresses.add(copy.data_ptr())
        contents.append(content_of(copy))
        del copy
    assert len(addresses) < 20, "no address was used twice: this test shows nothing"
    assert not any(a == b for i, a in enumerate(contents) for b in contents[:i])


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {"nested": [object()]},
        torch.rand(LARGE).to_sparse(),
        pytest.param("inference", id="inference tensor"),
    ],
)
def test_what_cannot_be_compared_is_never_the_same(value: Any) -> None:
    if isinstance(value, str):
        with torch.inference_mode():
            value = torch.rand(LARGE)
    assert content_of(value) != content_of(value)


def test_the_same_bytes_at_another_place_or_of_another_type_differ() -> None:
    values = torch.zeros(2 * LARGE)
    assert content_of(values[:LARGE]) == content_of(values[:LARGE])
    assert content_of(values[:LARGE]) != content_of(values[LARGE:])
    assert content_of(values) != content_of(values.view(2, LARGE))
    assert content_of(torch.zeros(2)) != content_of(torch.zeros(2, dtype=torch.int32))
    assert content_of(torch.zeros(2, 1)) != content_of(torch.zeros(1, 2))
    assert content_of([1]) != content_of((1,))


def test_a_file_that_somebody_replaced_is_not_linked_to(tmp_path: Path) -> None:
    weights, files = torch.rand(LARGE), WholeFileCheckpointIO()
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
    weights, files = torch.rand(LARGE), WholeFileCheckpointIO()
    for _ in range(2):
        files.save_checkpoint(checkpoint(weights), tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1
