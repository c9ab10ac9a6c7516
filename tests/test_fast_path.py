"""What is frozen is computed once, and nothing else changes: the promises of `frostline.fast_path`."""

import logging
import os
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_avg_fn

from frostline.classifier import ImageClassifier
from frostline.data.datamodule import ImageDataModule
from frostline.data.loading import Loading
from frostline.data.order import SampleIndex, epoch_order
from frostline.data.source import LabelledImages
from frostline.data.synthetic import Synthetic
from frostline.data.time_limit import monitor
from frostline.data.transforms import Augmentation
from frostline.feature_limits import why_not_stored
from frostline.freezing.policy import FreezePolicy, Phase, Until
from frostline.options import ComputeOptions, FeatureCache, TrainingOptions
from frostline.resume import ExactResume
from tests.quiet import quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*"),
]
IMAGES, VAL, TEST = 20, 10, 6
SGD = TrainingOptions(optimizer=partial(torch.optim.SGD, lr=0.01, momentum=0.9))
NONE = Augmentation(name="none")
GRADUAL = FreezePolicy(
    phases=(
        Phase(name="head", train=("2.*",), until=Until(epochs=2)),
        Phase(name="more", train=("1.*", "2.*"), until=Until(epochs=2)),
        Phase(name="head again", train=("2.*",)),
    )
)


class Counted(nn.Conv2d):
    """Counts the images that pass."""

    passed = 0

    def forward(self, images: Tensor) -> Tensor:
        Counted.passed += len(images)
        return super().forward(images)


def network() -> nn.Module:
    torch.manual_seed(3)
    first = nn.Sequential(Counted(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2))
    second = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    return nn.Sequential(first, second, nn.Sequential(nn.Flatten(), nn.Linear(32, 3)))


def datamodule(*, augment: Augmentation = NONE, workers: int = 0, **options: Any) -> ImageDataModule:
    source = Synthetic(length=IMAGES, val_length=VAL, test_length=TEST, classes=3, image_size=16)
    return ImageDataModule(
        source=source, image_size=16, batch_size=4, augment=augment, loading=Loading(workers=workers), **options
    )


def classifier_of(data: ImageDataModule, *, cache: FeatureCache | None = None, **options: Any) -> ImageClassifier:
    defaults = {
        "network": network(),
        "policy": FreezePolicy.static("2.*"),
        "compute": ComputeOptions(feature_cache=cache),
        "training": SGD,
    }
    return ImageClassifier(data_spec=data.spec, **{**defaults, **options})


class Run:
    """A fit, and what came of it."""

    def __init__(
        self,
        *,
        cache: FeatureCache | None,
        policy: FreezePolicy = FreezePolicy.static("2.*"),  # noqa: B008 - frozen
        epochs: int = 3,
        precision: Any = "32-true",
        data: ImageDataModule | None = None,
        callbacks: tuple[Any, ...] = (),
        test: bool = False,
        **options: Any,
    ) -> None:
        self.data = data or datamodule()
        self.classifier = classifier_of(self.data, policy=policy, cache=cache)
        self.trainer = quiet_trainer(
            max_epochs=epochs,
            devices=1,
            precision=precision,
            callbacks=[*callbacks],
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            **{"enable_checkpointing": False, **options},
        )
        Counted.passed = 0
        torch.manual_seed(11)
        self.trainer.fit(self.classifier, datamodule=self.data)
        self.passed = Counted.passed
        self.values = dict(self.trainer.callback_metrics)
        if test:
            self.values |= self.trainer.test(self.classifier, datamodule=self.data, verbose=False)[0]

    @property
    def state(self) -> dict[str, Tensor]:
        return self.classifier.network.state_dict()


def same(one: Run, other: Run) -> bool:
    assert one.state.keys() == other.state.keys()
    return all(torch.equal(tensor, other.state[name]) for name, tensor in one.state.items())


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(folder=tmp_path / "features")


@pytest.mark.parametrize(
    ("policy", "precision", "workers"),
    [
        (FreezePolicy.static("2.*"), "bf16-mixed", 0),
        (FreezePolicy.static("1.*", "2.*"), "32-true", 0),
        (GRADUAL, "32-true", 0),
        (GRADUAL, "bf16-mixed", 2),
    ],
)
def test_cached_and_uncached_training_give_the_same_bits(
    cache: FeatureCache, policy: FreezePolicy, precision: str, workers: int
) -> None:
    options = {"policy": policy, "precision": precision, "epochs": 6}
    plain = Run(cache=None, **options)
    kept = Run(cache=cache, data=datamodule(workers=workers), **options)
    again = Run(cache=cache, **options)
    assert same(plain, kept)
    assert same(plain, again)
    for name, value in plain.values.items():
        assert torch.equal(value, kept.values[name]), name
        assert torch.equal(value, again.values[name]), name
    assert again.passed < kept.passed < plain.passed


def test_each_image_passes_the_frozen_part_once(cache: FeatureCache) -> None:
    run = Run(cache=cache, epochs=8)
    # Two more for each of the two stores: a look at the shape of a feature.
    assert run.passed == IMAGES + VAL + 4
    assert run.classifier.feature_facts()["train"]["computed"] == IMAGES
    assert run.classifier.feature_facts()["train"]["read"] == 8 * IMAGES
    assert run.classifier.feature_facts()["val"] | {"store": ""} == {
        "computed": VAL, "read": 8 * VAL, "store": "", "rows": VAL,
    }  # fmt: skip


def test_the_images_that_a_phase_draws_are_computed_before_it_trains(cache: FeatureCache) -> None:
    class FirstBatch(lightning.Callback):
        def __init__(self) -> None:
            self.passed: list[int] = []

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.passed.append(Counted.passed)

    run = Run(cache=cache, epochs=3, limit_train_batches=2, callbacks=(watch := FirstBatch(),))
    drawn = {index.sample for epoch in range(3) for index in first_two_batches(run.data, epoch)}
    assert len(drawn) < IMAGES
    assert run.classifier.feature_facts()["train"]["computed"] == len(drawn)
    # Two looks at a shape; validation's images come at the end of the first epoch.
    assert watch.passed == [len(drawn) + 4] * 2 + [len(drawn) + 4 + VAL] * 4


def first_two_batches(data: ImageDataModule, epoch: int) -> list[SampleIndex]:
    order = epoch_order(epoch, length=IMAGES, seed=data.seed).tolist()
    return [SampleIndex(epoch, place, order[place]) for place in range(8)]


def test_fewer_images_than_an_epoch_are_computed_in_the_step(cache: FeatureCache) -> None:
    run = Run(cache=cache, epochs=2, limit_train_batches=2)
    assert run.classifier.feature_facts()["train"] | {"store": ""} == {
        "computed": 2 * 8, "read": 0, "store": "", "rows": IMAGES,
    }  # fmt: skip
    assert same(run, Run(cache=None, epochs=2, limit_train_batches=2))


def test_what_is_computed_before_an_interruption_stays(cache: FeatureCache) -> None:
    monitor().interrupt(InterruptedError("a signal"))
    try:
        with pytest.raises(InterruptedError, match="a signal"):
            Run(cache=cache)
    finally:
        monitor().interrupt(None)
    assert Counted.passed == 4 + 4
    assert Run(cache=cache).passed == IMAGES - 4 + VAL + 4


@pytest.mark.filterwarnings("ignore:Total length of `list`")  # there are no validation images
def test_images_with_soft_labels_are_computed_once(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    soft = torch.rand(IMAGES, 3, generator=torch.Generator().manual_seed(0))

    class Soft(LabelledImages):
        labels, identity = None, "soft"

        def __len__(self) -> int:
            return IMAGES

        def __getitem__(self, index: int) -> Any:
            return torch.full((3, 16, 16), index, dtype=torch.uint8), soft[index]

    class Source:
        classes = ("a", "b", "c")

        def dataset(self, split: str) -> LabelledImages | None:
            return Soft() if split == "train" else None

    def run(cache: FeatureCache | None) -> Run:
        return Run(cache=cache, data=ImageDataModule(source=Source(), image_size=16, batch_size=4, augment=NONE))

    plain = run(None)
    assert "no `soft_labels`" in str(why_not_stored(plain.data, "train", views=0))
    monkeypatch.setattr(Soft, "soft_labels", soft)
    kept = run(cache)
    assert same(plain, kept)
    assert kept.passed == IMAGES + 2


def test_another_interpolation_has_features_of_its_own(cache: FeatureCache) -> None:
    Run(cache=cache)
    assert Run(cache=cache, data=datamodule(interpolation="bicubic")).passed >= IMAGES
    assert Run(cache=cache).passed == 4  # the look at the shape


def test_a_later_run_with_another_optimizer_computes_nothing(cache: FeatureCache) -> None:
    Run(cache=cache, epochs=8)
    data = datamodule()
    adamw = TrainingOptions(optimizer=partial(torch.optim.AdamW, lr=0.1))
    classifier = classifier_of(data, cache=cache, training=adamw)
    Counted.passed = 0
    trainer = quiet_trainer(max_epochs=2, devices=1, use_distributed_sampler=False, num_sanity_val_steps=0)
    trainer.fit(classifier, datamodule=data)
    assert Counted.passed == 4  # the look at the shape


def test_a_later_phase_with_the_same_line_reads_what_the_first_one_wrote(cache: FeatureCache) -> None:
    policy = FreezePolicy(
        phases=(
            Phase(name="biases", train=("2.1.bias",), until=Until(epochs=4)),
            Phase(name="head", train=("2.*",)),
        )
    )
    run = Run(cache=cache, policy=policy, epochs=8)
    assert run.passed == IMAGES + VAL + 8
    assert len(list(cache.folder.glob("*.features"))) == 2


def test_a_refrozen_part_that_moved_is_computed_anew(cache: FeatureCache) -> None:
    run = Run(cache=cache, policy=GRADUAL, epochs=6)
    # Train and val before `2` with the first weights, before `1`, and before `2` with what it became.
    assert len(list(cache.folder.glob("*.features"))) == 6
    assert same(run, Run(cache=None, policy=GRADUAL, epochs=6))


@pytest.mark.parametrize("batch_norm", ["recalibrate", "drift", "affine", "train"])
def test_every_batch_norm_mode_gives_the_same_bits(cache: FeatureCache, batch_norm: str) -> None:
    policy = FreezePolicy.static("2.*", batch_norm=batch_norm)
    plain, kept = Run(cache=None, policy=policy), Run(cache=cache, policy=policy)
    assert same(plain, kept)
    assert torch.equal(plain.values["val/loss"], kept.values["val/loss"])


def test_validation_is_kept_although_training_is_augmented(
    cache: FeatureCache, caplog: pytest.LogCaptureFixture
) -> None:
    light = Augmentation(name="light")
    with caplog.at_level(logging.INFO):
        kept = Run(cache=cache, data=datamodule(augment=light))
    plain = Run(cache=None, data=datamodule(augment=light))
    assert same(plain, kept)
    assert plain.passed - kept.passed == 2 * VAL - 2
    assert "Features of the train images are not kept: augment=light makes new ones" in caplog.text
    assert "views=4" in caplog.text


def test_fixed_views_are_computed_once_each(cache: FeatureCache) -> None:
    views = FeatureCache(folder=cache.folder, views=2)
    data = datamodule(augment=Augmentation(name="standard"), seed=5)
    run = Run(cache=views, data=data, epochs=12)
    assert run.classifier.feature_facts()["train"]["computed"] == 2 * IMAGES
    again = Run(cache=views, data=datamodule(augment=Augmentation(name="standard"), seed=5), epochs=12)
    assert again.classifier.feature_facts()["train"]["computed"] == 0
    assert again.passed == 4  # the look at the shape
    assert same(run, again)


# The first of the two runs is ended on purpose.
@pytest.mark.filterwarnings("ignore:The policy does not fit the run")
def test_a_resumed_run_reads_on_and_ends_with_the_same_bits(cache: FeatureCache, tmp_path: Path) -> None:
    whole = Run(cache=cache, policy=GRADUAL, epochs=6, callbacks=(ExactResume(),))
    shutil.rmtree(cache.folder)
    first = Run(cache=cache, policy=GRADUAL, epochs=6, max_steps=13, callbacks=(ExactResume(),))
    first.trainer.save_checkpoint(tmp_path / "last.ckpt")
    data = datamodule()
    classifier = classifier_of(data, policy=GRADUAL, cache=cache)
    trainer = quiet_trainer(
        max_epochs=6, devices=1, callbacks=[ExactResume()], use_distributed_sampler=False, num_sanity_val_steps=0
    )
    trainer.fit(classifier, datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    for name, tensor in whole.state.items():
        assert torch.equal(tensor, classifier.network.state_dict()[name]), name


def test_corrupt_rows_are_computed_again(cache: FeatureCache) -> None:
    first = Run(cache=cache)
    for features in cache.folder.glob("*.features"):
        size = features.stat().st_size
        with features.open("r+b") as file:
            file.seek(size // 2)
            file.write(b"\xff" * 5)
    again = Run(cache=cache)
    assert same(first, again)
    assert 4 < again.passed <= 8


def test_a_store_deleted_in_the_middle_of_a_run_changes_nothing(cache: FeatureCache) -> None:
    class Delete(lightning.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                shutil.rmtree(cache.folder)

    assert same(Run(cache=cache, epochs=4, callbacks=(Delete(),)), Run(cache=None, epochs=4))


def test_a_full_disk_ends_the_keeping_and_not_the_run(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, written = os.pwrite, []

    def full(descriptor: int, data: Any, offset: int) -> int:
        written.append(offset)
        if len(written) > 12:
            raise OSError(28, "No space left on device")
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    kept = Run(cache=cache)
    assert same(kept, Run(cache=None))
    assert caplog.text.count("Features are no longer kept") == 1
    assert "No space left on device" in caplog.text


def test_what_exceeds_the_limit_is_reported_with_its_size(
    cache: FeatureCache, caplog: pytest.LogCaptureFixture
) -> None:
    little = FeatureCache(folder=cache.folder, limit_bytes=3000)
    kept = Run(cache=little)
    # A row is 8 channels of 2 x 2 in float32 and a checksum: 144 bytes. The description takes 600 to 700.
    assert "Features of the train images are not kept" in caplog.text
    assert re.search(r"they would take 3\.[56] kB, more than the limit of 3\.0 kB", caplog.text)
    assert "val" in kept.classifier.feature_facts()
    assert same(kept, Run(cache=None))


def test_a_folder_that_cannot_be_written_to_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    kept = Run(cache=FeatureCache(folder=tmp_path / "file" / "features"))
    assert "Features of the train images are not kept" in caplog.text
    assert same(kept, Run(cache=None))


def test_the_test_images_are_kept_for_the_next_run(cache: FeatureCache) -> None:
    first = Run(cache=cache, test=True)
    Counted.passed = 0
    again = Run(cache=cache, test=True)
    assert Counted.passed == 6  # three looks at a shape
    plain = Run(cache=None, test=True)
    for name in ("test/loss", "test/accuracy"):
        assert first.values[name] == again.values[name] == plain.values[name]


def test_averaged_weights_are_validated_as_they_are(cache: FeatureCache) -> None:
    def averaging() -> WeightAveraging:
        return WeightAveraging(avg_fn=get_ema_avg_fn(0.5))

    plain = Run(cache=None, policy=GRADUAL, epochs=6, callbacks=(averaging(),))
    kept = Run(cache=cache, policy=GRADUAL, epochs=6, callbacks=(averaging(),))
    assert torch.equal(plain.values["val/loss"], kept.values["val/loss"])
    assert same(plain, kept)


def test_without_a_datamodule_the_line_is_cut_and_nothing_is_kept(cache: FeatureCache) -> None:
    data = datamodule()
    classifier = classifier_of(data, cache=cache)
    trainer = quiet_trainer(max_epochs=1, devices=1, use_distributed_sampler=False)
    trainer.fit(classifier, data.train_dataloader(), data.val_dataloader())
    assert not cache.folder.exists()


def test_without_the_prefix_the_network_runs_whole_and_gives_the_same_bits() -> None:
    data = datamodule()
    states = []
    for options in (ComputeOptions(), ComputeOptions(frozen_prefix=False)):
        classifier = classifier_of(data, compute=options)
        trainer = quiet_trainer(max_epochs=2, devices=1, use_distributed_sampler=False)
        trainer.fit(classifier, datamodule=data)
        states.append(classifier.network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class OwnForward(nn.Sequential):
    """Whose order depends on values."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs) if len(inputs) else inputs


@pytest.mark.parametrize(
    ("policy", "output"),
    [(FreezePolicy.static("2.*"), True), (FreezePolicy.static("all"), False)],
    ids=["frozen", "all"],
)
def test_a_network_of_unknown_order_runs_whole_and_is_reported_where_something_is_frozen(
    cache: FeatureCache, caplog: pytest.LogCaptureFixture, policy: FreezePolicy, output: bool
) -> None:
    caplog.set_level(logging.INFO)
    data = datamodule()
    classifier = classifier_of(data, network=OwnForward(*network()), policy=policy, cache=cache)
    trainer = quiet_trainer(max_epochs=1, use_distributed_sampler=False)
    trainer.fit(classifier, datamodule=data)
    assert not classifier.feature_facts()
    assert (caplog.text.count("The frozen part is computed together with the rest, in each epoch") == 1) == output
    assert ("torch.fx cannot trace the forward of OwnForward" in caplog.text) == output


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_user_s_hook_on_the_network_still_sees_every_batch(cache: FeatureCache, kind: str) -> None:
    data, seen = datamodule(), []
    classifier = classifier_of(data, cache=cache)
    getattr(classifier.network, kind)(lambda module, *_: seen.append(module.training))
    trainer = quiet_trainer(max_epochs=2, devices=1, use_distributed_sampler=False, num_sanity_val_steps=0)
    trainer.fit(classifier, datamodule=data)
    assert seen.count(True) == 2 * IMAGES // 4
    assert seen.count(False) == 2 * -(-VAL // 4)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"augment": NONE}, None),
        ({"augment": Augmentation(name="standard")}, "views=4"),
        ({"augment": Augmentation(name="none", mixup=0.2)}, "mixup"),
        ({"augment": Augmentation(name="none", cutmix=1.0)}, "mixup"),
    ],
)
def test_why_training_images_are_not_kept(options: dict[str, Any], reason: str | None) -> None:
    found = why_not_stored(datamodule(**options), "train", views=0)
    assert (found is None) if reason is None else reason in found
    assert why_not_stored(datamodule(**options), "val", views=0) is None


def test_to_ask_makes_no_file_of_decoded_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training images as evaluation decodes them are not read; with data.decoded_cache they would take a file."""
    monkeypatch.setattr(ImageDataModule, "decoded", lambda *_: pytest.fail("decoded"))
    assert why_not_stored(datamodule(), "train", views=0) is None


def test_a_source_that_cannot_say_what_its_images_are_is_not_kept() -> None:
    data = datamodule()
    type(data.images("train")).identity, kept = property(lambda self: None), type(data.images("train")).identity
    try:
        assert "identity" in why_not_stored(data, "train", views=0)
    finally:
        type(data.images("train")).identity = kept
