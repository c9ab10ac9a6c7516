"""Files of torch.save: a flipped bit is found, or changes nothing."""

import random
from pathlib import Path

import pytest
import torch

from frostline.models.saved_file import check_sums, of_this_version, read_plain


def test_no_flipped_bit_of_a_file_changes_what_is_read(tmp_path: Path) -> None:
    """In the tensors, the pickle, the ZIP's tables and between its parts; torch.load finds none in the tensors."""
    whole, chance, refused = {"a": torch.arange(64.0), "b": [1, "two"]}, random.Random(1), 0
    torch.save(whole, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    for place in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[place] ^= 1 << chance.randrange(8)
        (tmp_path / "flipped.pth").write_bytes(flipped)
        try:
            read = read_plain(tmp_path / "flipped.pth")
        except ValueError:
            refused += 1
            continue
        assert read["a"].equal(whole["a"]), place
        assert read["b"] == whole["b"], place
    assert refused > len(content) // 12  # all that lies in a part: 256 bytes of tensor, 300 of pickle


@pytest.mark.parametrize("left", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, left: float) -> None:
    torch.save({"a": torch.arange(64.0)}, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content[: int(left * len(content))])
    with pytest.raises(ValueError, match="corrupt: it is no whole ZIP file"):
        read_plain(tmp_path / "w.pth")


def test_a_changed_part_is_named(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(64.0)}, tmp_path / "w.pth")
    content = bytearray((tmp_path / "w.pth").read_bytes())
    content[content.index(torch.arange(64.0).numpy().tobytes()) + 7] ^= 1
    (tmp_path / "w.pth").write_bytes(content)
    assert torch.load(tmp_path / "w.pth", weights_only=True)["a"].shape == (64,)  # torch sees nothing
    with pytest.raises(ValueError, match="corrupt: the check sum of `w/data/0` in it is wrong"):
        check_sums(tmp_path / "w.pth")


def test_files_of_before_torch_1_6_have_no_sums_and_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(4.0)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_plain(tmp_path / "old.pth")["a"].tolist() == [0, 1, 2, 3]


def test_a_state_dict_without_versions_loads_into_a_network_that_asks_for_its_version() -> None:
    from torchvision.models import mnasnet0_5

    network, other = mnasnet0_5(num_classes=2), mnasnet0_5(num_classes=2)
    state = dict(network.state_dict())
    with pytest.raises(ValueError, match="version"):
        other.load_state_dict(state)
    other.load_state_dict(of_this_version(state, other))
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())
