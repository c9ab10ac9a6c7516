"""Checkpoints read and checked: complete, finite, and trusted only on request."""

import errno
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from frostline.data.spec import DataSpec
from frostline.models.saved_file import is_plain, read_plain
from frostline.numeric_checks import check_finite
from frostline.renamed import with_current_names

CHECKPOINT_KEY = "frostline"
CHECKPOINT_FORMAT = 1

# Each part of a checkpoint, by its path, and its type.
PARTS: Mapping[str, type | tuple[type, ...]] = {
    "state_dict": dict,
    "frostline.images": dict,
    "frostline.images.classes": list,
    "frostline.images.mean": (list, tuple),
    "frostline.images.std": (list, tuple),
    "frostline.images.image_size": int,
    "frostline.images.resize": (int, float),
    "frostline.policy": dict,
    "frostline.settings": dict,
}
# And what a run needs to go on from it.
PARTS_OF_A_RUN: Mapping[str, type | tuple[type, ...]] = {
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
    "callbacks": dict,
    "loops": dict,
    "loops.fit_loop": dict,
    "loops.fit_loop.epoch_progress": dict,
    "loops.fit_loop.epoch_loop.state_dict": dict,
    "loops.fit_loop.epoch_loop.batch_progress": dict,
    "loops.fit_loop.epoch_loop.automatic_optimization.optim_progress": dict,
    "loops.fit_loop.epoch_loop.val_loop.batch_progress": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}
# And where frostline.resume wrote it, which a Trainer without it does not.
TENSORS = ("state_dict", "optimizer_states", "current_model_state")  # the last one beside an average of the weights
RESUME_KEY = "frostline_resume"
PARTS_OF_A_RESUME: Mapping[str, type | tuple[type, ...]] = {
    f"{RESUME_KEY}.random_states": list,
    f"{RESUME_KEY}.world_size": int,
    f"{RESUME_KEY}.validated": bool,
    f"{RESUME_KEY}.plateau_due": bool,
    f"{RESUME_KEY}.metrics": dict,
    f"{RESUME_KEY}.order": dict,
    f"{RESUME_KEY}.accumulate_grad_batches": int,
    f"{RESUME_KEY}.batches_per_epoch": int,
}


def read_checkpoint(path: str | Path, *, key: str = "checkpoint", resumable: bool = False) -> dict[str, Any]:
    """A frostline checkpoint's content, read with `weights_only=True`, with all its parts.

    Args:
        key: what the user named the file by, for the advice in messages.
        resumable: whether a run is to go on from it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is corrupt, lacks a part, is another program's, or holds NaN or infinity; the newest good one
            beside it is named.
    """
    try:
        return _read(Path(path), resumable=resumable)
    except (FileNotFoundError, ValueError) as error:
        good = newest_good(Path(path), resumable=resumable)
        if good is None:
            raise
        text = error.strerror if isinstance(error, FileNotFoundError) else str(error)
        message = f"{text}. The newest good checkpoint beside it is {key}={good}"
        raise (
            FileNotFoundError(errno.ENOENT, message) if isinstance(error, FileNotFoundError) else ValueError(message)
        ) from error


def read_description(path: str | Path, *, key: str) -> Mapping[str, Any]:
    """What a checkpoint that a run is to go on from says besides weights and optimizer; not read again while unchanged.

    Raises:
        FileNotFoundError, ValueError: as `read_checkpoint`.
    """
    found = Path(path).stat() if Path(path).is_file() else None
    return _description(str(path), key, found and (found.st_mtime_ns, found.st_size))


@functools.lru_cache(maxsize=1)
def _description(path: str, key: str, _: object) -> Mapping[str, Any]:
    checkpoint = read_checkpoint(path, key=key, resumable=True)
    return {name: part for name, part in checkpoint.items() if name not in TENSORS}


def newest_good(path: Path, *, resumable: bool = False) -> Path | None:
    """The newest sound checkpoint in the folder of a corrupt one."""
    found = [(other.stat().st_mtime, other) for other in path.parent.glob("*.ckpt") if other.is_file()]
    for _, other in sorted(found, reverse=True):
        try:
            if other != path:
                _read(other, resumable=resumable)
                return other
        except (OSError, ValueError):
            continue
    return None


def _read(path: Path, *, resumable: bool) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, f"There is no checkpoint `{path}`")
    if not path.is_file():
        raise ValueError(f"{path}: is not a file, and a checkpoint is one")
    try:
        checkpoint = read_plain(path)
    except ValueError as error:
        raise ValueError(
            f"{path}: cannot be read as a checkpoint; it is corrupt or another program's ({error})"
        ) from error
    if not (isinstance(checkpoint, dict) and isinstance(checkpoint.get(CHECKPOINT_KEY), dict)):
        raise ValueError(
            f"{path}: is not a frostline checkpoint. To start from another program's state dict: weights={path}"
        )
    version = checkpoint[CHECKPOINT_KEY].get("format")
    if version != CHECKPOINT_FORMAT:
        raise ValueError(f"{path}: has checkpoint format {version}; this frostline reads format {CHECKPOINT_FORMAT}")
    parts = {**PARTS, **(PARTS_OF_A_RUN if resumable else {})}
    if resumable and RESUME_KEY in checkpoint:
        parts |= PARTS_OF_A_RESUME
    lacking = [name for name, kind in parts.items() if not isinstance(_part(checkpoint, name), kind)]
    state = checkpoint.get("state_dict")
    if isinstance(state, dict) and not (state and all(is_plain(tensor) for tensor in state.values())):
        lacking.append("tensors in state_dict")
    recipe = checkpoint[CHECKPOINT_KEY].get("recipe", "")
    if recipe is not None and not all(isinstance(_part(recipe, part), dict) for part in ("model", "head")):
        lacking.append("frostline.recipe")
    if resumable and not lacking:
        lacking = list(_lacking_state(checkpoint))
    if lacking:
        purpose = "for a run to go on from" if resumable else "that a checkpoint has"
        raise ValueError(f"{path}: lacks parts {purpose}, or has others in their place: {', '.join(lacking)}")
    described = checkpoint[CHECKPOINT_KEY]
    spec, loss = described["images"], described.get("loss")
    if wrong := [*_wrong_spec(spec), *_wrong_loss(loss, spec), *_wrong_calibration(described.get("calibration"))]:
        raise ValueError(f"{path}: corrupt or made by another program: {'; '.join(wrong)}")
    described["settings"] = with_current_names(described["settings"])
    check_finite(str(path), checkpoint["state_dict"])
    return checkpoint


def drop_frozen_group(checkpoint: Mapping[str, Any], *, groups_now: Callable[[], int]) -> None:
    """Remove the last parameter group, of frozen parameters, that earlier versions could add, in place.

    Args:
        groups_now: how many groups the optimizer has now; asked only where the checkpoint has such a group.
    """
    for state in checkpoint.get("optimizer_states", ()):
        groups = state["param_groups"]
        if not groups or groups[-1].get("name") != "frozen" or len(groups) == groups_now():
            continue
        for scheduler in checkpoint.get("lr_schedulers", ()):
            for values in scheduler.values():
                if isinstance(values, list) and len(values) == len(groups):
                    del values[-1]
        del groups[-1]


def _lacking_state(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """The parts of a run's state that are there, but empty."""
    states = checkpoint["optimizer_states"]
    if not (states and all(isinstance(_part(state, "param_groups"), list) for state in states)):
        yield "optimizer_states"
    kept = checkpoint.get(RESUME_KEY)
    if kept is not None:
        states = kept["random_states"]
        if not (states and all(isinstance(_part(state, "torch"), Tensor) for state in states)):
            yield f"{RESUME_KEY}.random_states"
        for name in ("batches_per_epoch", "accumulate_grad_batches"):
            if kept[name] < 1:
                yield f"{RESUME_KEY}.{name}"


def _wrong_spec(images: Mapping[str, Any]) -> Iterator[str]:
    try:
        DataSpec.from_dict(images)
    except ValueError as error:
        yield f"frostline.images.{error}"


def _wrong_loss(loss: Any, images: Mapping[str, Any]) -> Iterator[str]:
    if loss is not None and not isinstance(loss, Mapping):
        yield "frostline.loss must be a section"
    weights = loss.get("class_weights") if isinstance(loss, Mapping) else None
    if isinstance(weights, list) and len(weights) != len(images["classes"]):
        yield f"frostline.loss.class_weights has {len(weights)} values for {len(images['classes'])} classes"


def _wrong_calibration(calibration: Any) -> Iterator[str]:
    temperature = _part(calibration, "temperature")
    if calibration is not None and not (isinstance(temperature, float) and 0 < temperature < math.inf):
        yield "frostline.calibration must be a section with a temperature above 0"


def _part(content: Any, path: str) -> Any:
    """The value at a path of keys; some of Lightning's keys contain dots."""
    if not isinstance(content, Mapping):
        return None
    if path in content:
        return content[path]
    key, _, rest = path.partition(".")
    return _part(content.get(key), rest) if rest else None
