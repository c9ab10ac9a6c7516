"""Files of `torch.save`, read without running code, after a check of their checksums."""

import argparse
import re
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Where training scripts keep a state dict beside other values; the first that is there is taken.
PLACES = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "backbone", "encoder"),
    *("weights", "params", "student", "teacher", "state_dict_ema", "model_ema", "ema", "ema_state_dict"),
)


def read_plain(path: str | Path) -> Any:
    """What `torch.save` wrote, if it is tensors and plain values only.

    Raises:
        ValueError: it is corrupt, or another kind of file; the reason in one line.
    """
    check_sums(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # of the file's pickle protocol, before it is refused for better reasons
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of other bytes also ends in IndexError, KeyError, struct.error, AssertionError
        if named := re.search(r"GLOBAL (\S+) (?:was not an allowed global|whose module)", str(error)):
            raise ValueError(
                f"it holds more than tensors and plain values: an object of {named[1]}, to read which would run code. "
                "If you trust it, keep its tensors only: python -c \"import torch; c = torch.load('FILE', "
                "weights_only=False); torch.save(c['state_dict'], 'weights.pth')\", with the key that it has"
            ) from error
        # Not torch's advice to load it with weights_only=False, nor the bare words of pickle's instructions.
        text = str(error).strip().rpartition("WeightsUnpickler error: ")[2]
        reason = re.split(r"\. This file can still be loaded| In PyTorch 2\.6, ", (text.splitlines() or [""])[0])[0]
        reason = re.sub(r"\x1b\[\d*m", "", reason)
        if " " not in reason or reason.startswith("Weights only"):
            reason = f"it is cut off, or torch.save did not write it ({reason or type(error).__name__})"
        raise ValueError(reason) from error


def check_sums(path: str | Path) -> None:
    """Compare the contents of a ZIP file, which `torch.save` writes, with the CRC-32s in it; torch.load does not.

    Raises:
        ValueError: they differ, or the file is cut off. A file of another kind passes.
    """
    with Path(path).open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
        try:
            with zipfile.ZipFile(file) as content:
                wrong = content.testzip()
        except Exception as error:  # a flipped bit also ends in NotImplementedError, RuntimeError, zlib.error
            raise ValueError(f"corrupt: it is no whole ZIP file ({str(error) or type(error).__name__})") from error
    if wrong is not None:
        raise ValueError(f"corrupt: the check sum of `{wrong}` in it is wrong; at least one bit has changed")


def of_this_version(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """A state dict that says it is of the module's version: MNASNet refuses one that does not say."""
    versioned = OrderedDict(state)
    versioned._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    return versioned


def is_plain(value: Any) -> bool:
    """Whether it is a dense tensor with values: not sparse, quantized, or without storage (`meta`)."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not (value.is_meta or value.is_quantized)


def unwrapped(content: Any) -> tuple[dict[str, Tensor], tuple[str, ...]] | None:
    """The state dict in what a training script saved, and the keys that lead to it; None where there is none."""
    if not isinstance(content, Mapping):
        return None
    if content and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        return dict(content), ()
    for place in PLACES:
        if (inside := unwrapped(content.get(place))) is not None:
            return inside[0], (place, *inside[1])
    return None


def prefix_of(state: Iterable[str], names: Collection[str]) -> str:
    """What stands before a network's names in most of a state dict's, such as `module.`; empty where nothing does.

    Args:
        names: the network's own, without those of its classifier.

    Raises:
        ValueError: two prefixes have equally many: it is not clear which of the networks is meant.
    """
    found = Counter(
        ".".join([*parts[:start], ""]) if start else ""
        for parts in (key.split(".") for key in state)
        for start in range(len(parts))
        if ".".join(parts[start:]) in names
    )
    most = sorted(prefix for prefix, count in found.items() if count == max(found.values()))
    if len(most) > 1 and "" not in most:
        raise ValueError(f"it holds more than one network, under the prefixes {' and '.join(f'`{p}`' for p in most)}")
    return most[0] if most else ""
