"""The rule behind `auto`: which row holds, and the numbers that follow from the number of images."""

import pytest

from frostline.config.recommended import batch_size_for, epochs_for, learning_rate_for, recommended


@pytest.mark.parametrize(
    ("pretrained", "images", "freeze"),
    [
        (False, 20, "none"),
        (False, 50_000, "none"),
        (True, 20, "to_layer3"),
        (True, 2_000, "to_layer3"),
        (True, 2_001, "discriminative"),
    ],
)
def test_the_policy_follows_weights_and_images(pretrained: bool, images: int, freeze: str) -> None:
    assert recommended(pretrained=pretrained, images=images).freeze == freeze


def test_all_layers_of_a_pretrained_network_train_at_a_lower_rate_than_random_ones() -> None:
    assert learning_rate_for("none", pretrained=True) < learning_rate_for("none", pretrained=False)


@pytest.mark.parametrize(
    ("images", "processes", "size"),
    [(1_000, 1, 32), (128, 1, 32), (127, 1, 16), (112, 1, 16), (8, 1, 2), (1, 1, 2), (8, 2, 4), (1_000, 3, 30)],
)
def test_a_batch_is_a_part_of_the_images_and_is_shared_evenly(images: int, processes: int, size: int) -> None:
    assert batch_size_for(images, processes=processes) == size


@pytest.mark.parametrize(("per_epoch", "epochs"), [(7, 22), (39, 4), (150, 4), (10_000, 4), (1, 100)])
def test_few_images_are_seen_more_often(per_epoch: int, epochs: int) -> None:
    assert epochs_for(150, steps_per_epoch=per_epoch) == epochs
