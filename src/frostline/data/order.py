"""Which sample is seen when: a pure function of (seed, epoch), however many ranks and workers share the work.

Global batch b of epoch e is `epoch_order(e)[b * batch_size : (b + 1) * batch_size]`, and rank r of W takes places r,
r + W, … of it: the sequence of global batches survives a change of world size, and a run can start anywhere in it.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from frostline.data.seeding import stable_seed

SAMPLING = ("shuffled", "balanced")
LANES = 8


class Chunks(NamedTuple):
    """How images lie in files that are fetched whole, one file after the other.

    Attributes:
        lengths: images in each chunk; their indices are consecutive.
        window: chunks among which images are shuffled at a time.
    """

    lengths: Sequence[int]
    window: int

    @property
    def order_key(self) -> dict[str, int | str]:
        """What the order depends on, besides the seed."""
        checksum = zlib.crc32(repr(list(self.lengths)).encode())
        return {"window": self.window, "chunks": f"{len(self.lengths)} ({checksum:08x})"}


class SampleIndex(NamedTuple):
    """The index of one training sample.

    Attributes:
        epoch: from 0.
        position: in the epoch's order, over all ranks. It seeds the augmentation, because balanced sampling takes an
            image several times an epoch.
        sample: index of the image.
    """

    epoch: int
    position: int
    sample: int


def epoch_order(
    epoch: int,
    *,
    length: int,
    sampling: str = "shuffled",
    labels: Sequence[int] | None = None,
    chunks: Chunks | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """The indices of an epoch, int64 `(length,)`, in the order in which they are drawn.

    `shuffled` is a permutation; of images in chunks, the one of `chunk_order`. `balanced` draws `length` indices with
    replacement, so that each class is equally likely whatever its size.

    Raises:
        ValueError: no such sampling, `balanced` without class indices, or `balanced` of images in chunks.
    """
    generator = torch.Generator().manual_seed(stable_seed(seed, "order", epoch))
    if sampling == "shuffled" and chunks is not None:
        return chunk_order(chunks, generator=generator)
    if sampling == "shuffled":
        return torch.randperm(length, generator=generator)
    if sampling != "balanced":
        raise ValueError(f"Unknown sampling {sampling!r}; choose from {', '.join(SAMPLING)}.")
    if chunks is not None:
        raise ValueError(
            "sampling=balanced would fetch a chunk for each image. Use sampling=shuffled, and weigh the classes in the "
            "loss (class_weights=balanced) where they differ in size."
        )
    if labels is None:
        raise ValueError("sampling=balanced needs one class per image; these labels are soft. Use sampling=shuffled.")
    values = torch.as_tensor(labels)
    weights = 1.0 / torch.bincount(values).clamp(min=1).double()
    return torch.multinomial(weights[values], length, replacement=True, generator=generator)


def chunk_order(chunks: Chunks, *, generator: torch.Generator) -> torch.Tensor:
    """A permutation, int64 `(images,)`, that goes from chunk to chunk: few are needed at a time, each of them once.

    The chunks are shuffled and dealt to 8 lanes. In a lane, an image of the lane's n-th chunk has the key n + u, with u
    uniform in [0, window / 8): sorted by their keys, its images come from a window that slides over the lane's chunks.
    Place p of the epoch is lane p % 8's, and ranks take places r, r + W, … (see `ResumableBatchSampler`): each of 2, 4
    or 8 ranks reads chunks that no other reads, but for some at the epoch's end, when an empty lane takes from the ends
    of the others. 16 ranks share each lane by two; 3, 5, 6 or 7 share more.

    How random it is: two images of different chunks meet in a batch as often as chance has it over the epochs; two of
    one chunk more often, as they always lie within `window` chunks of each other. Where all chunks fit into the window
    the permutation is uniform.
    """
    lengths = torch.as_tensor(chunks.lengths, dtype=torch.int64)
    total, count = int(lengths.sum()), len(lengths)
    if count <= max(chunks.window, LANES):
        return torch.randperm(total, generator=generator)
    place = torch.empty(count, dtype=torch.int64)
    place[torch.randperm(count, generator=generator)] = torch.arange(count)
    place = place.repeat_interleave(lengths)
    keys = torch.rand(total, generator=generator, dtype=torch.float64).mul_(max(1.0, chunks.window / LANES))
    keys += place // LANES
    lanes = []
    for number in range(LANES):
        members = torch.nonzero(place % LANES == number).flatten()
        lanes.append(members[keys[members].argsort(stable=True)])
    sizes = [len(range(number, total, LANES)) for number in range(LANES)]
    spare = torch.cat([lane[size:] for lane, size in zip(lanes, sizes, strict=True)])
    order = torch.empty(total, dtype=torch.int64)
    for number, (lane, size) in enumerate(zip(lanes, sizes, strict=True)):
        missing = size - len(lane[:size])
        order[number::LANES] = torch.cat([lane[:size], spare[:missing]])
        spare = spare[missing:]
    return order


def per_rank(batch_size: int, *, world_size: int) -> int:
    """A rank's share of a global batch.

    Raises:
        ValueError: the ranks cannot share it evenly; names the nearest sizes that they can.
    """
    if batch_size % world_size == 0:
        return batch_size // world_size
    below = batch_size - batch_size % world_size
    choices = [str(size) for size in (below, below + world_size) if size > 0]
    raise ValueError(
        f"batch_size={batch_size} is the global batch and cannot be divided among {world_size} ranks; "
        f"the nearest that can: {' or '.join(choices)}."
    )


class ResumableBatchSampler(Sampler[list[SampleIndex]]):
    """Yields this rank's part of each global batch, from a position in the run to the end of that epoch.

    The last incomplete global batch of an epoch is dropped; where there are fewer samples than one batch, the one batch
    holds them all.

    Args:
        order: epoch -> indices (see `epoch_order`), always of the same length.
        batch_size: global.
        position: called at each new iterator; gives the epoch and the first batch of it that is still to come.
    """

    def __init__(
        self,
        *,
        order: Callable[[int], torch.Tensor],
        length: int,
        batch_size: int,
        position: Callable[[], tuple[int, int]],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if length < batch_size and length % world_size:
            raise ValueError(
                f"There are {length} training images, fewer than batch_size={batch_size}, and {world_size} ranks "
                f"cannot share them evenly. Use a multiple of {world_size} that is at most {length}."
            )
        self.order = order
        self.batch_size = min(batch_size, length)
        per_rank(self.batch_size, world_size=world_size)
        self.batches = length // self.batch_size
        self.position = position
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.batches

    @property
    def smallest_batch(self) -> int:
        """Images of this rank in each batch."""
        return self.batch_size // self.world_size

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        epoch, first = self.position()
        order = self.order(epoch)
        for batch in range(first, self.batches):
            start = batch * self.batch_size
            places = range(start + self.rank, start + self.batch_size, self.world_size)
            yield [SampleIndex(epoch, place, int(order[place])) for place in places]


class UnpaddedDistributedSampler(Sampler[int]):
    """Rank r of W takes samples r, r + W, …: over all ranks each sample exactly once, without padding.

    Lightning's own distributed sampler pads to equal lengths, and so counts some samples twice.
    """

    def __init__(self, samples: Sized, *, rank: int = 0, world_size: int = 1) -> None:
        self.places = range(rank, len(samples), world_size)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[int]:
        return iter(self.places)


def position_after(steps: int, *, batches: int, accumulate: int = 1) -> tuple[int, int]:
    """The epoch, and the first batch of it still to come, after so many optimizer steps.

    Args:
        batches: per epoch. The epoch's last batch ends a step even where `accumulate` does not divide the batches, so
            an epoch has ceil(batches / accumulate) steps.
    """
    epoch, step = divmod(steps, -(-batches // accumulate))
    return epoch, step * accumulate
