"""Runs whose frozen layers OpenVINO computes: all promises hold, and one engine computes from fit to prediction."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.resnet import BasicBlock, ResNet

from frostline.classifier import ImageClassifier
from frostline.data.datamodule import ImageDataModule
from frostline.data.loading import Loading
from frostline.data.synthetic import Synthetic
from frostline.data.transforms import Augmentation
from frostline.freezing.policy import FreezePolicy, Phase, Until
from frostline.options import ComputeOptions, FeatureCache, TrainingOptions
from frostline.prefix import engine as engines
from frostline.resume import ExactResume
from tests.quiet import quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*"),
    pytest.mark.filterwarnings("ignore:The policy does not fit the run"),
]
HEAD = FreezePolicy.static("head")
GRADUAL = FreezePolicy(
    phases=(Phase(name="head", train=("head",), until=Until(epochs=1)), Phase(name="more", train=("layer4", "head")))
)


def datamodule() -> ImageDataModule:
    source = Synthetic(length=16, val_length=6, test_length=6, classes=3, image_size=32)
    plain = Augmentation(name="none")
    return ImageDataModule(source=source, image_size=32, batch_size=4, augment=plain, loading=Loading(workers=0))


def network() -> ResNet:
    torch.manual_seed(3)
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)


def classifier_of(policy: FreezePolicy, **compute: Any) -> ImageClassifier:
    return ImageClassifier(
        network=network(),
        data_spec=datamodule().spec,
        policy=policy,
        training=TrainingOptions(optimizer=partial(torch.optim.SGD, lr=0.01, momentum=0.9)),
        compute=ComputeOptions(channels_last=True, **compute),
    )


def trainer_of(*, epochs: int = 2, precision: Any = "32-true", callbacks: tuple[Any, ...] = (), **options: Any) -> Any:
    quiet = {"num_sanity_val_steps": 0, "use_distributed_sampler": False, "devices": 1, **options}
    return quiet_trainer(max_epochs=epochs, precision=precision, callbacks=[ExactResume(), *callbacks], **quiet)


def trained(
    policy: FreezePolicy = HEAD, *, engine: Any = "openvino", cache: FeatureCache | None = None, **options: Any
) -> tuple[ImageClassifier, Any]:
    classifier, trainer = classifier_of(policy, engine=engine, feature_cache=cache), trainer_of(**options)
    torch.manual_seed(11)
    trainer.fit(classifier, datamodule=datamodule())
    return classifier, trainer


def values_of_a_test(classifier: ImageClassifier, **options: Any) -> dict[str, float]:
    [values] = trainer_of(**options).test(classifier, datamodule=datamodule(), verbose=False)
    return dict(values)


def differing(one: ImageClassifier, other: ImageClassifier) -> list[str]:
    state: dict[str, Tensor] = other.network.state_dict()
    return [name for name, tensor in one.network.state_dict().items() if not torch.equal(tensor, state[name])]


@pytest.mark.parametrize(
    ("policy", "precision"), [pytest.param(GRADUAL, "32-true", marks=pytest.mark.slow), (HEAD, "bf16-mixed")]
)
def test_cached_and_uncached_training_give_the_same_bits(tmp_path: Path, policy: FreezePolicy, precision: str) -> None:
    cache = FeatureCache(folder=tmp_path)
    plain, one = trained(policy, precision=precision)
    for kept, other in (trained(policy, precision=precision, cache=cache) for _ in range(2)):
        assert differing(plain, kept) == []
        assert other.callback_metrics == one.callback_metrics
    assert kept.feature_facts()["train"]["computed"] == 0


def test_a_run_that_finds_all_features_converts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(folder=tmp_path)
    first, _ = trained(cache=cache)
    monkeypatch.setattr(engines, "openvino_model", lambda *_: pytest.fail("converted"))
    assert differing(first, trained(cache=cache)[0]) == []


def test_engines_share_no_features(tmp_path: Path) -> None:
    cache = FeatureCache(folder=tmp_path)
    stores = {
        classifier.feature_facts()["train"]["store"]
        for classifier, _ in (trained(engine=engine, cache=cache, epochs=1) for engine in ("openvino", "torch"))
    }
    assert len(stores) == 2


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_engine_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, _ = trained(GRADUAL, epochs=3)
    _, stopped = trained(GRADUAL, epochs=3, max_steps=6)
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    resumed = classifier_of(GRADUAL)  # engine=auto
    trainer_of(epochs=3).fit(resumed, datamodule=datamodule(), ckpt_path=tmp_path / "stopped.ckpt")
    assert differing(whole, resumed) == []
    assert resumed.engine == "openvino"


@pytest.mark.slow
def test_a_checkpoint_of_any_phase_gives_the_run_s_own_numbers(tmp_path: Path) -> None:
    """By the split of the phase in which it was written, which is not that of the policy's first phase."""
    for epochs in (1, 2):
        classifier, trainer = trained(GRADUAL, epochs=epochs, precision="bf16-mixed")
        path = tmp_path / f"{epochs}.ckpt"
        trainer.save_checkpoint(path)
        own = values_of_a_test(classifier, precision="bf16-mixed")
        loaded = ImageClassifier.load_from_checkpoint(
            path, network=network(), compute=ComputeOptions(channels_last=True)
        )
        assert loaded.engine == "openvino"
        assert values_of_a_test(loaded, precision="bf16-mixed") == own
        image = torch.rand(3, 3, 32, 32)
        assert torch.equal(loaded.probabilities(image), classifier.probabilities(image))
        by_torch = ImageClassifier.load_from_checkpoint(
            path, network=network(), compute=ComputeOptions(channels_last=True, engine="torch")
        )
        assert not torch.equal(by_torch.probabilities(image), classifier.probabilities(image))
        torch.testing.assert_close(by_torch.probabilities(image), classifier.probabilities(image), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_the_test_of_another_checkpoint_in_a_run_uses_that_checkpoint_s_split(tmp_path: Path) -> None:
    cache = FeatureCache(folder=tmp_path / "features")
    first, trainer = trained(GRADUAL, epochs=1)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    last, trainer = trained(GRADUAL, epochs=2, cache=cache)
    [values] = trainer.test(last, datamodule=datamodule(), ckpt_path=tmp_path / "first.ckpt", verbose=False)
    assert dict(values) == values_of_a_test(first)


def test_the_engine_is_recorded_and_the_weights_stay_plain(tmp_path: Path) -> None:
    classifier, trainer = trained()
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    checkpoint = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert checkpoint["frostline"]["engine"]["name"] == "openvino"
    assert checkpoint["frostline"]["engine"]["trainable"] == ["fc.bias", "fc.weight"]
    assert checkpoint["state_dict"].keys() == network().state_dict().keys()
    assert not differing(classifier, trained()[0])


def test_auto_takes_torch_for_a_small_run_and_openvino_for_a_large_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small, _ = trained(engine="auto", epochs=1)
    assert small.engine == "torch"
    assert not differing(small, trained(engine="torch", epochs=1)[0])
    monkeypatch.setattr(engines, "WORTH_IMAGES", 16)
    monkeypatch.setattr(engines, "WORTH_OPERATIONS", 1e6)
    assert trained(engine="auto", epochs=1, fast_dev_run=True)[0].engine == "torch"
    with caplog.at_level(logging.INFO):
        large, _ = trained(engine="auto", epochs=1)
    assert large.engine == "openvino"
    assert not differing(large, trained(engine="openvino", epochs=1)[0])
    lines = [line for line in caplog.messages if "OpenVINO" in line]
    assert len(lines) == 1
    assert "computes the frozen layers: 22 images of" in lines[0]


@pytest.mark.parametrize(
    ("precision", "amx", "name"),
    [("bf16-mixed", True, "torch"), ("bf16-mixed", False, "openvino"), ("32-true", True, "openvino")],
)
def test_auto_stays_with_torch_in_bf16_where_the_processor_has_amx(
    monkeypatch: pytest.MonkeyPatch, precision: str, amx: bool, name: str
) -> None:
    monkeypatch.setattr(engines, "WORTH_IMAGES", 16)
    monkeypatch.setattr(engines, "WORTH_OPERATIONS", 1e6)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert trained(engine="auto", epochs=1, max_steps=1, precision=precision)[0].engine == name


def test_an_engine_needs_the_frozen_prefix() -> None:
    with pytest.raises(ValueError, match="engine: openvino needs frozen_prefix=True"):
        ComputeOptions(engine="openvino", frozen_prefix=False)
