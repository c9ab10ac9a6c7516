"""`auto`: values chosen from the data and the weights, and printed with their keys."""

from pathlib import Path

import pytest
import torch
from tests.configs import config, settings

from frostline import build_network
from frostline.commands.defaults import with_stored, without_auto
from frostline.config.recommended import keys_left
from frostline.config.validation import ConfigError

FEW = ("data=synthetic", "data.length=112", "data.val_length=8", "data.test_length=8", "data.image_size=32")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of a ResNet-18, which counts as pretrained."""
    network, _ = build_network(model={"name": "resnet18"}, head={"name": "linear"}, classes=10)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(network.state_dict(), path)
    return path


def test_random_weights_train_every_layer() -> None:
    chosen = without_auto(config(*FEW, "model.weights=none"))
    assert keys_left(chosen.config) == []
    assert chosen.config.freeze.policy().to_dict() == config("freeze=none").freeze.policy().to_dict()
    assert (chosen.config.optimizer.lr, chosen.config.data.batch_size) == (0.05, 16)
    assert chosen.config.trainer.max_epochs == 22
    assert "112 training images and random weights" in chosen.text
    for key in ("freeze=none", "optimizer.lr=0.05", "data.batch_size=16", "trainer.max_epochs=22"):
        assert f"\n{key} " in chosen.text


def test_pretrained_weights_and_few_images_freeze_all_but_the_last_stage(weights: Path) -> None:
    chosen = without_auto(config(*FEW, f"model.weights={weights}", "freeze.batch_norm=affine"))
    expected = config("freeze=to_layer3", "freeze.batch_norm=affine").freeze
    assert chosen.config.freeze.as_dict() == expected.as_dict()
    assert chosen.config.optimizer.lr == 0.01


def test_another_network_trains_its_last_stage_and_head(weights: Path) -> None:
    chosen = without_auto(config(*FEW, "model=mobilenet_v2", f"model.weights={weights}"))
    assert chosen.config.freeze.name == "custom"
    assert len(chosen.config.freeze.train) == 1
    assert chosen.config.freeze.train[0].startswith("from:")


def test_an_explicit_key_wins() -> None:
    typed = ("freeze=backbone", "optimizer.lr=0.3", "trainer.max_epochs=2", "data.batch_size=5")
    given = config(*typed, *FEW)
    assert without_auto(given).config is given
    one = without_auto(config(*typed, *FEW, "trainer.max_epochs=auto", "model.weights=none"))
    assert one.config.model_copy(update={"trainer": given.trainer}) == given.model_copy(
        update={"model": one.config.model}
    )
    assert len(one.text.splitlines()) == 3  # what it is for, the head of the table, one row


def test_a_typed_number_of_steps_is_reached() -> None:
    chosen = without_auto(config(*FEW, "model.weights=none", "trainer.max_steps=300"))
    assert chosen.config.trainer.max_epochs == 43  # of 7 steps


def test_the_batch_is_shared_evenly_by_processes() -> None:
    chosen = without_auto(config(*FEW, "model.weights=none", "device=cpu_ddp", "device.devices=3"))
    assert chosen.config.data.batch_size % 3 == 0


def test_a_chosen_value_obeys_the_rules_between_keys() -> None:
    with pytest.raises(ConfigError, match=r"trainer.check_val_every_n_epoch: 50 is more than trainer.max_epochs=22"):
        without_auto(config(*FEW, "model.weights=none", "trainer.check_val_every_n_epoch=50"))


def test_a_run_that_goes_on_keeps_the_values_of_its_checkpoint() -> None:
    before = settings("freeze=stem", "optimizer.lr=0.3", "trainer.max_epochs=7", "data.batch_size=5")
    resumed = with_stored(config(), {"frostline": {"settings": before}})
    assert keys_left(resumed) == []
    assert resumed.freeze.name == "stem"
    assert (resumed.optimizer.lr, resumed.trainer.max_epochs, resumed.data.batch_size) == (0.3, 7, 5)
