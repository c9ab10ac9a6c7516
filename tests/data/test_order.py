"""Order is a pure function of (seed, epoch), whatever the world size."""

import subprocess
import sys
from collections import Counter

import pytest
import torch

from frostline.data.order import (
    Chunks,
    ResumableBatchSampler,
    SampleIndex,
    UnpaddedDistributedSampler,
    epoch_order,
    per_rank,
    position_after,
)
from frostline.data.seeding import stable_seed


def batches(length=10, batch_size=4, position=(0, 0), rank=0, world_size=1):
    sampler = ResumableBatchSampler(
        order=lambda epoch: epoch_order(epoch, length=length, seed=3),
        length=length,
        batch_size=batch_size,
        position=lambda: position,
        rank=rank,
        world_size=world_size,
    )
    return sampler, list(sampler)


def test_seeds_are_the_same_in_every_process():
    code = "from frostline.data.seeding import stable_seed; print(stable_seed(1, 'order', 2))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert runs == {f"{stable_seed(1, 'order', 2)}\n"}


def test_seeds_do_not_collide_like_sums():
    assert stable_seed(0, 1) != stable_seed(1, 0)
    assert len({stable_seed(seed, epoch) for seed in range(50) for epoch in range(50)}) == 2500
    assert 0 <= stable_seed("x") < 2**63


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch():
    orders = [epoch_order(epoch, length=50, seed=seed).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert epoch_order(1, length=50, seed=0).tolist() == orders[1]


def test_the_global_random_state_does_not_matter_and_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = epoch_order(0, length=9, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, epoch_order(0, length=9, seed=0))


def test_batches_are_slices_of_the_order_and_the_last_incomplete_one_is_dropped():
    order = epoch_order(0, length=10, seed=3).tolist()
    sampler, drawn = batches()
    assert len(sampler) == 2
    assert drawn == [
        [SampleIndex(0, place, order[place]) for place in range(4)],
        [SampleIndex(0, place, order[place]) for place in range(4, 8)],
    ]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_interleave_within_each_global_batch(world_size):
    _, alone = batches(length=24, batch_size=8)
    ranks = [batches(length=24, batch_size=8, rank=rank, world_size=world_size)[1] for rank in range(world_size)]
    for number, batch in enumerate(alone):
        assert [ranks[place % world_size][number][place // world_size] for place in range(8)] == batch


def test_starting_in_the_middle_of_an_epoch():
    _, whole = batches(length=20, position=(2, 0))
    _, rest = batches(length=20, position=(2, 3))
    assert rest == whole[3:]
    assert {draw.epoch for batch in rest for draw in batch} == {2}


def test_fewer_samples_than_a_batch_make_one_batch():
    sampler, drawn = batches(length=6, batch_size=100, rank=1, world_size=2)
    assert len(sampler) == 1
    assert [draw.position for draw in drawn[0]] == [1, 3, 5]


def test_fewer_samples_than_a_batch_that_ranks_cannot_share():
    with pytest.raises(ValueError, match=r"5 training images.*multiple of 2 that is at most 5"):
        batches(length=5, batch_size=8, world_size=2)


@pytest.mark.parametrize(
    ("size", "ranks", "nearest"), [(32, 3, "30 or 33"), (33, 4, "32 or 36"), (2, 4, "the nearest that can: 4")]
)
def test_a_batch_that_cannot_be_divided_names_the_nearest_sizes(size, ranks, nearest):
    with pytest.raises(ValueError, match=nearest):
        per_rank(size, world_size=ranks)


def test_a_ranks_share():
    assert per_rank(32, world_size=4) == 8


def test_balanced_sampling_draws_each_class_equally_often():
    labels = [0] * 900 + [1] * 90 + [2] * 10
    drawn = Counter(labels[i] for i in epoch_order(0, length=1000, sampling="balanced", labels=labels, seed=0))
    # 333 each; the standard deviation of a count is 15.
    assert all(abs(drawn[label] - 333) < 60 for label in range(3))
    again = epoch_order(0, length=1000, sampling="balanced", labels=labels, seed=0)
    other = epoch_order(1, length=1000, sampling="balanced", labels=labels, seed=0)
    assert not torch.equal(again, other)


def test_balanced_sampling_needs_classes():
    with pytest.raises(ValueError, match="soft"):
        epoch_order(0, length=3, sampling="balanced")


def test_unknown_sampling():
    with pytest.raises(ValueError, match=r"'sorted'; choose from shuffled, balanced"):
        epoch_order(0, length=3, sampling="sorted")


@pytest.mark.parametrize("length", [1, 7, 8, 9])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_takes_each_sample_exactly_once(length, world_size):
    parts = [
        list(UnpaddedDistributedSampler(range(length), rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    assert sorted(index for part in parts for index in part) == list(range(length))
    assert [len(part) for part in parts] == [
        len(UnpaddedDistributedSampler(range(length), rank=rank, world_size=world_size)) for rank in range(world_size)
    ]


@pytest.mark.parametrize(
    ("steps", "accumulate", "position"),
    [
        (0, 1, (0, 0)),
        (4, 1, (0, 4)),
        (5, 1, (1, 0)),
        (7, 1, (1, 2)),
        # 5 batches, 2 to a step: steps end after batches 2, 4 and 5.
        (1, 2, (0, 2)),
        (2, 2, (0, 4)),
        (3, 2, (1, 0)),
        (4, 2, (1, 2)),
        # More to a step than an epoch has: one step an epoch.
        (1, 8, (1, 0)),
    ],
)
def test_position_after_steps(steps, accumulate, position):
    assert position_after(steps, batches=5, accumulate=accumulate) == position


# Images in chunks


def in_chunks(count: int, size: int, window: int = 16) -> Chunks:
    """Chunks of unequal lengths, some `size` images each."""
    return Chunks([size + number % 7 for number in range(count)], window)


def chunk_ids(chunks: Chunks, epoch: int = 0, seed: int = 1) -> torch.Tensor:
    """The chunk at each place of an epoch."""
    order = epoch_order(epoch, length=sum(chunks.lengths), chunks=chunks, seed=seed)
    return torch.arange(len(chunks.lengths)).repeat_interleave(torch.tensor(chunks.lengths))[order]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 17, 100])
@pytest.mark.parametrize("size", [1, 30])
def test_images_in_chunks_come_once_an_epoch_in_an_order_of_seed_and_epoch(count, size):
    chunks = in_chunks(count, size)
    length = sum(chunks.lengths)
    orders = [epoch_order(e, length=length, chunks=chunks, seed=s).tolist() for s in (0, 1) for e in (0, 1)]
    assert all(sorted(order) == list(range(length)) for order in orders)
    assert len({tuple(order) for order in orders}) == (4 if length > 1 else 1)
    torch.manual_seed(5)
    assert epoch_order(1, length=length, chunks=chunks, seed=0).tolist() == orders[1]


@pytest.mark.parametrize(("window", "most"), [(8, 8 + 8), (16, 16 + 8), (40, 40 + 8)])
@pytest.mark.parametrize("epoch", [0, 1])
def test_each_chunk_is_read_within_a_window_and_never_again(window, most, epoch):
    """At any place, so many chunks have been begun and not finished; each spans little more than the window."""
    chunks = in_chunks(200, 50, window)
    ids = chunk_ids(chunks, epoch).tolist()
    first, last = {}, {}
    for place, chunk in enumerate(ids):
        first.setdefault(chunk, place)
        last[chunk] = place
    begun = sorted([(place, 1) for place in first.values()] + [(place + 1, -1) for place in last.values()])
    alive, peak = 0, 0
    for _, change in begun:
        alive += change
        peak = max(peak, alive)
    assert window / 2 < peak <= most
    assert max(last[chunk] - first[chunk] for chunk in first) < 1.5 * window * 53


def test_any_stretch_of_an_epoch_touches_few_chunks():
    chunks = in_chunks(200, 50)
    ids = chunk_ids(chunks)
    assert max(len(ids[start : start + 53].unique()) for start in range(0, len(ids) - 53, 10)) <= 16 + 8


def test_images_of_a_window_are_mixed():
    """A batch of 32 holds images of most chunks that are being read, but for the epoch's ends."""
    ids = chunk_ids(in_chunks(200, 50))
    middle = ids[len(ids) // 10 : -len(ids) // 10]
    counts = [len(batch.unique()) for batch in middle.split(32)[:-1]]
    assert sum(counts) / len(counts) > 11


def test_chunks_come_in_another_order_each_epoch():
    chunks = in_chunks(100, 20)
    firsts = [set(list(dict.fromkeys(chunk_ids(chunks, epoch).tolist()))[:16]) for epoch in range(4)]
    assert len(set.union(*firsts)) > 30  # of the 64 that four times 16 are at most


def test_where_all_chunks_fit_into_the_window_the_order_is_uniform():
    """Each image lands at each place equally often: 24 permutations of four images in four chunks."""
    chunks = Chunks([1, 1, 1, 1], 16)
    drawn = Counter(tuple(epoch_order(e, length=4, chunks=chunks, seed=0).tolist()) for e in range(2400))
    assert len(drawn) == 24
    assert max(drawn.values()) < 150  # 100 each; the standard deviation is 10


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_read_chunks_of_their_own(world_size):
    ids = chunk_ids(in_chunks(400, 50))
    own = [set(ids[rank::world_size].tolist()) for rank in range(world_size)]
    assert sum(map(len, own)) <= 1.15 * 400
    assert set.union(*own) == set(range(400))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 16])
def test_ranks_share_an_epoch_of_chunks_without_overlap(world_size):
    chunks = in_chunks(60, 16)
    length = sum(chunks.lengths)

    def order(epoch):
        return epoch_order(epoch, length=length, chunks=chunks, seed=2)

    drawn = [
        draw.sample
        for rank in range(world_size)
        for batch in ResumableBatchSampler(
            order=order, length=length, batch_size=240, position=lambda: (3, 0), rank=rank, world_size=world_size
        )
        for draw in batch
    ]
    assert sorted(drawn) == sorted(order(3)[: length - length % 240].tolist())


def test_balanced_sampling_of_chunks_is_refused():
    with pytest.raises(ValueError, match=r"fetch a chunk for each image\. Use sampling=shuffled"):
        epoch_order(0, length=4, sampling="balanced", labels=[0, 1, 0, 1], chunks=Chunks([2, 2], 8))


def test_the_order_key_of_chunks_changes_with_whatever_changes_the_order():
    keys = [Chunks(lengths, window).order_key for lengths, window in (([3, 4], 8), ([4, 3], 8), ([3, 4], 9))]
    assert len({str(key) for key in keys}) == 3
    assert Chunks([3, 4], 8).order_key == keys[0]
