"""Batches, loaders and what travels in a checkpoint."""

import json

import lightning
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from PIL import Image
from tests.quiet import quiet_trainer
from torch import nn
from torchvision.transforms import v2

from frostline.data.datamodule import ImageDataModule
from frostline.data.digits import Digits
from frostline.data.image_folder import ImageFolder
from frostline.data.loading import Loading, auto_workers
from frostline.data.random_noise import RandomNoise
from frostline.data.source import ArrayImages
from frostline.data.spec import DataSpec
from frostline.data.synthetic import Synthetic
from frostline.data.transforms import Augmentation, evaluation_transform
from frostline.prefix.dataset import FeatureDataset


class Unbalanced:
    """Class 0 four times as often as class 1; pixel value = index."""

    classes = ("often", "seldom")

    def __init__(self, length=20, labels=None):
        self.labels = labels or [int(index % 5 == 4) for index in range(length)]

    def dataset(self, split):
        if split != "train":
            return None
        images = torch.arange(len(self.labels), dtype=torch.uint8)[:, None, None].expand(-1, 4, 4)
        return ArrayImages(images=images, labels=self.labels)


class Probe(lightning.LightningModule):
    """Counts what it is given."""

    def __init__(self, manual=False):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.automatic_optimization = not manual
        self.counted = {"val": [], "test": []}

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0].float().mean().view(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.counted["val"].append(len(batch[0]))

    def test_step(self, batch, batch_idx):
        self.counted["test"].append(len(batch[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer(**options):
    return quiet_trainer(**{"max_epochs": 1, "num_sanity_val_steps": 0, "use_distributed_sampler": False, **options})


def digits(**options):
    return ImageDataModule(**({"source": Digits(), "image_size": 16, "batch_size": 8} | options))


def epoch(data):
    return list(data.train_dataloader())


def test_batches_are_bytes_and_class_indices():
    images, targets = epoch(digits())[0]
    assert (images.shape, images.dtype) == ((8, 3, 16, 16), torch.uint8)
    assert (targets.shape, targets.dtype) == ((8,), torch.int64)


def test_random_batches_are_float_images_and_soft_labels_as_the_source_made_them():
    source = RandomNoise()
    data = ImageDataModule(source=source, image_size=64, batch_size=1, augment=Augmentation(name="none"))
    ((images, targets),) = epoch(data)
    image, row = source.dataset("train")[0]
    assert torch.equal(images, image[None])
    assert torch.equal(targets, row[None])
    assert (data.mean, data.std) == ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])


def test_mixing_makes_every_batch_soft():
    data = digits(augment=Augmentation(mixup=0.2, cutmix=1.0))
    for (images, targets), _ in zip(data.train_dataloader(), range(5), strict=False):
        assert images.dtype == torch.uint8
        assert (targets.shape, targets.dtype) == ((8, 10), torch.float32)
        assert torch.allclose(targets.sum(1), torch.ones(8))


def test_soft_labels_can_be_mixed():
    data = ImageDataModule(source=RandomNoise(length=4, classes=5), augment=Augmentation(mixup=0.5), batch_size=4)
    ((_, targets),) = epoch(data)
    assert targets.shape == (4, 5)


@pytest.mark.parametrize("augment", [Augmentation(name="trivial", mixup=0.3), Augmentation(name="standard")])
def test_batches_do_not_depend_on_workers_or_on_the_global_random_state(augment):
    torch.manual_seed(1)
    here = epoch(digits(augment=augment, batch_size=64))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    there = epoch(digits(augment=augment, batch_size=64, loading=Loading(workers=2)))
    assert torch.equal(state, torch.get_rng_state())
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_each_epoch_and_each_seed_is_another():
    data = digits(augment=Augmentation(name="none"), batch_size=64)
    first, second, other = epoch(data), epoch(data), epoch(digits(seed=1, batch_size=64))
    assert not torch.equal(first[0][1], second[0][1])
    assert not torch.equal(first[0][1], other[0][1])


def test_a_sample_is_augmented_anew_in_each_epoch():
    data = ImageDataModule(
        source=Synthetic(length=4, classes=4, image_size=16), image_size=16, batch_size=4, augment=Augmentation()
    )
    (one,), (two,) = epoch(data), epoch(data)
    first = {int(target): image for image, target in zip(*one, strict=True)}
    second = {int(target): image for image, target in zip(*two, strict=True)}
    assert any(not torch.equal(first[label], second[label]) for label in first)


def test_a_sample_drawn_twice_by_balanced_sampling_looks_different():
    source = Unbalanced(labels=[0, 0, 0, 0, 0, 0, 0, 1])
    images = source.dataset("train")
    images._images = torch.randint(0, 255, (8, 3, 16, 16), dtype=torch.uint8)
    source.dataset = lambda split: images if split == "train" else None
    data = ImageDataModule(source=source, image_size=16, batch_size=8, sampling="balanced")
    ((drawn, targets),) = epoch(data)
    seldom = drawn[targets == 1]
    assert len(seldom) >= 2
    assert len({image.numpy().tobytes() for image in seldom}) == len(seldom)


def test_balanced_sampling_in_batches():
    data = ImageDataModule(
        source=Unbalanced(200), image_size=4, batch_size=20, sampling="balanced", augment=Augmentation(name="none")
    )
    seldom = sum(int(targets.sum()) for _, targets in epoch(data))
    assert 70 < seldom < 130  # 40 of 200 images


def test_class_counts_and_weights():
    data = ImageDataModule(source=Unbalanced(20))
    assert data.class_counts == [16, 4]
    # Inverse frequencies 1/16 and 1/4 have the mean 5/32.
    assert torch.allclose(data.class_weights(), torch.tensor([0.4, 1.6]))


def test_class_weights_that_cannot_be():
    with pytest.raises(ValueError, match="soft"):
        ImageDataModule(source=RandomNoise()).class_weights()
    with pytest.raises(ValueError, match="'seldom' has no training image"):
        ImageDataModule(source=Unbalanced(4)).class_weights()


def test_steps_per_epoch():
    data = digits(batch_size=100)
    length = len(data.images("train"))
    assert data.batches_per_epoch == data.steps_per_epoch == length // 100 == 12
    data.trainer = trainer(accumulate_grad_batches=5)
    assert (data.batches_per_epoch, data.steps_per_epoch) == (12, 3)
    data.trainer = trainer(accumulate_grad_batches=5, limit_train_batches=0.5)
    assert (data.batches_per_epoch, data.steps_per_epoch) == (6, 2)
    data.trainer = trainer(limit_train_batches=4)
    assert data.steps_per_epoch == 4
    small = ImageDataModule(source=Unbalanced(20), batch_size=64)
    assert small.steps_per_epoch == 1


def test_the_trainer_takes_as_many_steps_and_evaluates_each_sample_once():
    data, probe = digits(batch_size=100), Probe()
    run = trainer(max_epochs=2, accumulate_grad_batches=5)
    run.fit(probe, data)
    assert run.global_step == 2 * data.steps_per_epoch == 6
    run.test(probe, data, verbose=False)
    assert sum(probe.counted["test"]) == len(data.images("test"))
    assert sum(probe.counted["val"]) == 2 * len(data.images("val"))


# Lightning says so of every run without validation.
@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
def test_a_source_without_val_and_test_trains():
    probe = Probe()
    trainer().fit(probe, ImageDataModule(source=Unbalanced(), image_size=4, batch_size=4))
    assert probe.counted["val"] == []


def test_evaluation_is_not_augmented_and_in_order():
    data = digits(augment=Augmentation(name="trivial", mixup=1.0))
    images, targets = next(iter(data.test_dataloader()))
    test = data.images("test")
    transform = evaluation_transform(image_size=data.image_size)
    assert targets.tolist() == test.labels[:8]
    assert torch.equal(images, torch.stack([transform(test[index][0]) for index in range(8)]))


def test_the_description_is_plain_and_enough_for_a_file(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (50, 40), (number * 100, 0, 0)).save(tmp_path / name / f"{number}.png")
    data = ImageDataModule(source=ImageFolder(path=tmp_path), image_size=24, resize=1.143, interpolation="bicubic")
    description = json.loads(json.dumps(data.spec.as_dict()))
    assert description == {
        "classes": ["a", "b"],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "image_size": 24,
        "resize": 1.143,
        "interpolation": "bicubic",
        "scaled_decoding": True,
    }
    assert DataSpec.from_dict(description) == data.spec


def test_own_mean_and_std():
    data = digits(mean=[0.1, 0.2, 0.3], std=[1, 2, 3])
    assert (data.mean, data.std) == ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="three finite, positive values"):
        digits(std=[1, 0, 1])
    with pytest.raises(ValueError, match=r"mean takes three finite values"):
        digits(mean=[0.5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "sorted"}, "choose from shuffled, balanced"),
        ({"image_size": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"resize": 0.9}, "must be finite and at least 1"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        digits(**options)


def test_balanced_sampling_needs_hard_labels():
    with pytest.raises(ValueError, match="soft"):
        ImageDataModule(source=RandomNoise(), sampling="balanced").train_dataloader()


def test_a_source_without_training_images():
    class Empty:
        classes = ("a",)

        def dataset(self, split):
            return None

    with pytest.raises(ValueError, match="Empty has no train images"):
        ImageDataModule(source=Empty()).train_dataloader()


def test_a_label_outside_the_class_list():
    with pytest.raises(ValueError, match=r"label 2, but there are 2 classes \(labels 0 to 1\)"):
        ImageDataModule(source=Unbalanced(labels=[0, 1, 2])).setup("fit")


class Ranks:
    """A trainer's answers on one of several ranks, for what needs no process group."""

    def __init__(self, rank, world_size):
        self.global_rank, self.world_size, self.num_devices = rank, world_size, world_size
        self.limit_train_batches, self.accumulate_grad_batches, self.global_step = 1.0, 1, 0
        self.callbacks, self.accelerator = [], CPUAccelerator()
        self.lightning_module = Probe()
        self._accelerator_connector = type("Connector", (), {"use_distributed_sampler": False})()


def on_rank(rank, world_size, **options):
    data = digits(**options)
    data.trainer = Ranks(rank, world_size)
    return data


def test_the_global_batch_is_divided_among_ranks():
    alone = next(iter(digits(batch_size=12).train_dataloader()))
    parts = [next(iter(on_rank(rank, 3, batch_size=12).train_dataloader())) for rank in range(3)]
    for place in range(12):
        assert torch.equal(parts[place % 3][0][place // 3], alone[0][place])


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_starts_where_the_run_stands_at_its_first_batch(replaced, workers):
    """Not where it stood when the iterator was made: Lightning makes it before `global_step` is restored."""
    data = on_rank(0, 1, augment=Augmentation(name="none"), loading=Loading(workers=workers))
    if replaced:
        images, transform = data.images_and_transform("train")
        data.replace_datasets({"train": FeatureDataset(images, transform=transform)})
    loader = data.train_dataloader()
    begun = iter(loader)
    data.trainer.global_step = data.steps_per_epoch + 3
    batch = next(begun)
    by_hand = digits(augment=Augmentation(name="none"))
    epoch(by_hand)
    assert torch.equal(batch[0], epoch(by_hand)[3][0])
    # A batch that is not the run's next one.
    loader.batch_sampler.position = lambda: (1, 4)
    with pytest.raises(ValueError, match=r"gave batch 4 of epoch 1, but the run stands at batch 3 of epoch 1"):
        next(iter(loader))


def test_a_loader_that_somebody_else_reads_from_stops_the_run():
    """Persistent workers serve one iterator at a time."""
    data = on_rank(0, 1, loading=Loading(workers=1))
    loader = data.train_dataloader()
    batches = iter(loader)
    next(batches)
    other = iter(loader)
    next(other), next(other)
    with pytest.raises(ValueError, match="gave batch 2 of epoch 0, but the run stands at batch 1 of epoch 0"):
        next(batches)


def test_ranks_evaluate_every_sample_once():
    labels = []
    for rank in range(3):
        labels.append([int(t) for _, targets in on_rank(rank, 3, batch_size=12).test_dataloader() for t in targets])
    test = digits().images("test").labels
    assert [labels[place % 3][place // 3] for place in range(len(test))] == list(test)
    assert sum(map(len, labels)) == len(test)


def test_a_batch_that_ranks_cannot_share():
    with pytest.raises(ValueError, match=r"batch_size=32 is the global batch.*3 ranks.*30 or 33"):
        on_rank(0, 3, batch_size=32).train_dataloader()


def test_fewer_validation_images_than_ranks():
    data = on_rank(0, 4, source=Synthetic(length=8, val_length=3))
    with pytest.raises(ValueError, match="3 val images for 4 ranks"):
        data.val_dataloader()


def test_lightnings_own_sampler_is_refused():
    data = on_rank(0, 2)
    data.trainer._accelerator_connector.use_distributed_sampler = True
    with pytest.raises(ValueError, match="use_distributed_sampler=False"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("options", "manual", "message"),
    [
        ({"overfit_batches": 2}, False, "overfit_batches is not supported"),
        ({"callbacks": [GradientAccumulationScheduler({0: 2})]}, False, "GradientAccumulationScheduler"),
        ({}, True, "Manual optimization"),
    ],
)
def test_what_would_break_the_position_is_refused(options, manual, message):
    with pytest.raises(ValueError, match=message):
        trainer(**options).fit(Probe(manual), digits())


@pytest.mark.parametrize(
    ("cores", "images", "on_gpu", "workers"),
    [
        (2, 100_000, False, 0), (2, 100_000, True, 0), (16, 999, True, 0),
        (3, 1000, False, 1), (8, 1000, False, 1), (24, 1000, False, 4), (128, 1000, False, 8),
        (3, 1000, True, 2), (16, 1000, True, 8),
    ],
)  # fmt: skip
def test_workers_auto(cores, images, on_gpu, workers):
    assert auto_workers(cores=cores, images=images, on_gpu=on_gpu) == workers


def test_a_rank_s_workers_and_threads_share_its_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(24))
    data = digits()
    data.trainer = Ranks(0, 4)
    assert data.workers(1000) == 1
    assert data.threads_beside_workers == 5
    assert digits(loading=Loading(workers=30)).threads_beside_workers == 1
    assert digits(loading=Loading(workers=0)).threads_beside_workers is None
    assert digits(loading=Loading(workers=1)).workers(5) == 1


def test_loaders_have_their_own_generator_and_a_timeout():
    loader = digits(loading=Loading(workers=1, timeout=7)).train_dataloader()
    assert loader.generator is not None
    assert loader.timeout == 7
    assert loader.persistent_workers
    assert digits().train_dataloader().timeout == 0


def test_memory_is_pinned_for_a_gpu_that_is_used_not_for_one_that_is_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    data = digits()
    assert not data.train_dataloader().pin_memory
    data.trainer = Ranks(0, 1)
    data.trainer.accelerator = CPUAccelerator()
    assert not data.test_dataloader().pin_memory
    data.trainer.accelerator = CUDAAccelerator()
    assert data.test_dataloader().pin_memory


def test_images_are_transformed_on_one_thread_and_the_others_come_back():
    before, seen = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)
        for loader in (digits().train_dataloader(), digits().test_dataloader()):
            transform = loader.dataset.transform
            loader.dataset.transform = lambda image, do=transform: seen.append(torch.get_num_threads()) or do(image)
            next(iter(loader))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def test_a_broken_file_in_a_worker_is_still_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    (tmp_path / "b" / "0.png").write_bytes(b"broken")
    source = ImageFolder(path=tmp_path, val_fraction=0, test_fraction=0)
    data = ImageDataModule(source=source, image_size=8, batch_size=2, loading=Loading(workers=1))
    with pytest.raises(ValueError, match=r"^\S*/b/0\.png: no image"):
        epoch(data)


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_are_resized_with_the_interpolation_that_is_named(split):
    """Digits have 8 x 8 pixels."""
    augment = Augmentation(name="none")
    named = {kind: digits(image_size=32, interpolation=kind, augment=augment) for kind in ("bilinear", "bicubic")}
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    for kind, data in named.items():
        _, transform = data.images_and_transform(split)
        assert torch.equal(transform(image), v2.functional.resize(image, [32], v2.InterpolationMode(kind)))
    with pytest.raises(ValueError, match="Unknown interpolation 'nearest'; choose from bilinear, bicubic"):
        digits(interpolation="nearest")
