"""Which sample is seen when: a pure function of (seed, epoch), however many ranks and workers share the work.

Global batch b of epoch e is `epoch_order(e)[b * batch_size : (b + 1) * batch_size]`, and rank r of W takes places r,
r + W, … of it: the sequence of global batches survives a change of world size, and a run can start anywhere in it.
"""

from collections.abc import Callable, Iterator, Sequence, Sized
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from frostline.data.seeding import stable_seed

SAMPLING = ("shuffled", "balanced")


class Draw(NamedTuple):
    """The key of one training sample. `position` counts the draws of the epoch over all ranks.

    Augmentation is seeded by the position, not by the sample: balanced sampling draws an image several times an epoch,
    and each time it should look different.
    """

    epoch: int
    position: int
    sample: int


def epoch_order(
    epoch: int, *, length: int, sampling: str = "shuffled", labels: Sequence[int] | None = None, seed: int = 0
) -> torch.Tensor:
    """The indices of an epoch, int64 `(length,)`, in the order in which they are drawn.

    `shuffled` is a permutation. `balanced` draws `length` indices with replacement, so that each class is equally
    likely whatever its size.

    Raises:
        ValueError: no such sampling, or `balanced` without class indices.
    """
    generator = torch.Generator().manual_seed(stable_seed(seed, "order", epoch))
    if sampling == "shuffled":
        return torch.randperm(length, generator=generator)
    if sampling != "balanced":
        raise ValueError(f"Unknown sampling {sampling!r}; choose from {', '.join(SAMPLING)}.")
    if labels is None:
        raise ValueError("sampling=balanced needs one class per image; these labels are soft. Use sampling=shuffled.")
    values = torch.as_tensor(labels)
    weights = 1.0 / torch.bincount(values).clamp(min=1).double()
    return torch.multinomial(weights[values], length, replacement=True, generator=generator)


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
        f"data.batch_size={batch_size} is the global batch and cannot be divided among {world_size} ranks; "
        f"the nearest that can: {' or '.join(choices)}."
    )


class EpochBatches(Sampler[list[Draw]]):
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
                f"There are {length} training images, fewer than data.batch_size={batch_size}, and {world_size} ranks "
                f"cannot share them evenly. Set data.batch_size to a multiple of {world_size} that is at most {length}."
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

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, first = self.position()
        order = self.order(epoch)
        for batch in range(first, self.batches):
            start = batch * self.batch_size
            places = range(start + self.rank, start + self.batch_size, self.world_size)
            yield [Draw(epoch, place, int(order[place])) for place in places]


class EverySampleOnce(Sampler[int]):
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
