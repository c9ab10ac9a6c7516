"""What a run says, or refuses, before its first step: frozen random weights, few images, few steps."""

import logging
from pathlib import Path

import pytest
from tests.configs import chosen

from frostline.commands import train
from frostline.commands.build import build_classifier, build_data
from frostline.commands.expectations import expectations, refuse_frozen_random_weights
from frostline.models import weights as weights_module

SMALL = (
    *("data=synthetic", "data.length=40", "data.val_length=8", "data.test_length=0", "data.image_size=20"),
    *("device=cpu", "callbacks.progress_bar=false", "speed.allocator=false", "logger=none"),
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "_unreachable", {"resnet18": "They are nowhere"})


@pytest.mark.parametrize("policy", ["backbone", "stem", "all_but_bias"])
def test_a_run_that_would_freeze_random_weights_is_refused(tmp_path: Path, policy: str) -> None:
    with pytest.raises(ValueError, match=rf"freeze={policy}: .* Choose freeze=none.* They are nowhere\."):
        train.train(tmp_path, chosen(*SMALL, f"freeze={policy}"))


@pytest.mark.parametrize(
    "words",
    [
        ("freeze=backbone", "model.weights=none"),  # asked for
        ("freeze=gradual_unfreezing",),  # every layer trains in the end
        ("freeze=auto",),
    ],
)
def test_random_weights_that_train_or_are_asked_for_are_not_refused(words: tuple[str, ...]) -> None:
    config = chosen(*SMALL, *words)
    classifier, weights = build_classifier(config, build_data(config.data, seed=0))
    assert not weights.loaded
    refuse_frozen_random_weights(config, classifier, weights)


def test_a_run_says_what_few_images_and_few_steps_can_give(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train.train(tmp_path, chosen(*SMALL, "model.weights=none", "freeze=backbone", "trainer.max_steps=1"))
    assert "40 training images and random weights: enough for simple images" in caplog.text
    assert "1 optimizer steps: a network has hardly begun to learn" in caplog.text


def test_many_steps_and_pretrained_weights_are_not_spoken_of(tmp_path: Path) -> None:
    config = chosen(*SMALL, "model.weights=none", "trainer.max_epochs=50", "data.batch_size=20")
    data = build_data(config.data, seed=0)
    classifier, weights = build_classifier(config, data)
    assert len(list(expectations(config, data, weights))) == 1
    loaded = weights_module.LoadedWeights(source="imagenet", loaded=tuple(classifier.network.state_dict()))
    assert list(expectations(config, data, loaded)) == []
