"""The features that a store does not have yet, computed in one pass over their images before a phase trains."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from frostline.data.batches import WatchedLoader, unchanged
from frostline.data.time_limit import monitor
from frostline.prefix.dataset import FeatureDataset
from frostline.prefix.store import FeatureStore

log = logging.getLogger("frostline.features")

REPORT_INTERVAL = 10.0  # seconds between lines where there is no progress bar
DRAWN_PER_SECOND = 5


class WriteError(RuntimeError):
    """Why features are not stored, although they can be computed."""


def extract(
    store: FeatureStore,
    rows: np.ndarray,
    *,
    dataset: FeatureDataset,
    compute: Callable[[Tensor], Tensor],
    batch_size: int,
    loading: Mapping[str, Any],
    title: str,
    bar: Any = None,
) -> int:
    """Compute these rows and write them, a batch at a time: after an interruption those that are written stay.

    Args:
        rows: int64 (n,).
        compute: images (batch, 3, height, width) -> features (batch, *shape).
        loading: options of a `WatchedLoader`.
        title: of the progress bar.
        bar: a `rich.progress.Progress` that is shown now, which gets one task more; None logs a line every
            `REPORT_INTERVAL`.

    Returns:
        How many were computed.

    Raises:
        WriteError: the disk is full or unreachable.
    """
    if not len(rows):
        return 0
    batches = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    options = {**loading, "persistent_workers": False}
    loader = WatchedLoader(_Decoded(dataset), batch_sampler=batches, collate_fn=unchanged, **options)
    unwritten: tuple[np.ndarray, Tensor] | None = None
    for part, images in _reported(zip(batches, loader, strict=True), total=len(rows), title=title, bar=bar):
        features = compute(images)
        # From a GPU they are written one batch later: a copy now would wait for this one.
        if unwritten is not None:
            _write(store, *unwritten)
        unwritten = part, features
        if (interruption := monitor().interruption) is not None:
            _write(store, *unwritten)
            raise interruption
    if unwritten is not None:
        _write(store, *unwritten)
    return len(rows)


def _write(store: FeatureStore, rows: np.ndarray, features: Tensor) -> None:
    try:
        store.write(rows, features)
    except OSError as error:
        raise WriteError(f"{store.path} cannot be written to ({error})") from error


class _Decoded(Dataset[Tensor]):
    """The images (n, 3, height, width) of a list of rows."""

    def __init__(self, dataset: FeatureDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, rows: Sequence[int]) -> Tensor:
        return self.dataset.decoded(np.asarray(rows))


def _reported(
    batches: Iterator[tuple[np.ndarray, Tensor]], *, total: int, title: str, bar: Any
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """The batches; how many of the images have passed is shown."""
    begin = shown = time.monotonic()
    done, task = 0, bar.add_task(title, total=total) if bar is not None else None
    for part, images in batches:
        yield part, images
        done, now = done + len(part), time.monotonic()
        if task is not None and (now - shown > 1 / DRAWN_PER_SECOND or done == total):
            bar.update(task, completed=done, refresh=True)
            shown = now
        elif task is None and now - shown > REPORT_INTERVAL:
            rate = done / (now - begin)
            left = (total - done) / rate
            log.info("%s: %s of %s, %.0f images/s, %.0f s left", title, f"{done:,}", f"{total:,}", rate, left)
            shown = now
    if task is not None:
        bar.update(task, visible=False, refresh=True)  # Lightning finds its own tasks by their place in the list
    else:
        seconds = max(time.monotonic() - begin, 1e-9)
        log.info("%s: %s in %.1f s, %.0f images/s", title, f"{total:,}", seconds, total / seconds)
