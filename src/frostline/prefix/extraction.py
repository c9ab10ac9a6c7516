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
from frostline.progress_line import SEPARATOR, Part, ProgressLine, clock, image_rate, of_total

log = logging.getLogger("frostline.features")

REPORT_INTERVAL = 10.0  # seconds between lines in the log where no line of progress is drawn


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
    line: ProgressLine | None = None,
) -> int:
    """Compute these rows and write them, a batch at a time: after an interruption those that are written stay.

    Args:
        rows: int64 (n,).
        compute: images (batch, 3, height, width) -> features (batch, *shape).
        loading: options of a `WatchedLoader`.
        title: of the progress.
        line: where the progress is shown; where it is not drawn, a line is logged every `REPORT_INTERVAL`.

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
    for part, images in _reported(zip(batches, loader, strict=True), total=len(rows), title=title, line=line):
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
    batches: Iterator[tuple[np.ndarray, Tensor]], *, total: int, title: str, line: ProgressLine | None
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """The batches; how many of the images have passed is shown."""
    begin = logged = time.monotonic()
    done = 0
    for part, images in batches:
        yield part, images
        done, now = done + len(part), time.monotonic()
        rate = done / max(now - begin, 1e-9)
        texts = (title, of_total(done, total), image_rate(rate), f"{clock((total - done) / rate)} left")
        if line is not None and line.is_drawn:
            line.show(*map(Part, texts, (1, 0, 3, 2)))
        elif now - logged > REPORT_INTERVAL:
            log.info("%s", SEPARATOR.join(texts))
            logged = now
    seconds = max(time.monotonic() - begin, 1e-9)
    log.info("%s: %s in %.1f s, %s", title, f"{total:,}", seconds, image_rate(total / seconds))
