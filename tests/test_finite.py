"""NaN and infinity: found wherever they lie, and one message about them."""

from typing import Any

import pytest
import torch

from frostline.finite import check_finite, diverged, not_finite

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("state", "names"),
    [
        ({}, []),
        ({"fc.weight": torch.ones(2), "count": torch.tensor(3), "name": "nan", "rate": 0.1}, []),
        ({"fc.weight": torch.tensor([1.0, NAN]), "fc.bias": torch.tensor([INF])}, ["fc.weight", "fc.bias"]),
        (
            {"optimizer_states": [{"state": {0: {"exp_avg": torch.tensor(-INF)}}}]},
            ["optimizer_states.0.state.0.exp_avg"],
        ),
        ({"half": torch.tensor([6e4, INF], dtype=torch.float16), "none": None, "empty": torch.ones(0)}, ["half"]),
        ({"brain": (torch.tensor(NAN, dtype=torch.bfloat16),)}, ["brain.0"]),
    ],
    ids=["empty", "finite", "weights", "optimizer", "half", "bfloat16"],
)
def test_not_finite_names_every_tensor(state: dict[str, Any], names: list[str]) -> None:
    assert not_finite(state) == names


def test_a_file_is_refused_with_its_name_and_its_tensors() -> None:
    state = {f"layer{index}": torch.tensor(NAN) for index in range(5)}
    with pytest.raises(ValueError, match=r"^best\.ckpt: holds NaN or infinity in layer0, layer1, layer2 and 2 more\."):
        check_finite("best.ckpt", state)


def test_the_message_says_whether_the_images_or_the_training_are_to_blame() -> None:
    images = torch.zeros(4, 3, 2, 2)
    text = "The loss became nan at step 7 (epoch 1). "
    advice = "The last checkpoint, if any, is from before. A smaller learning rate (lr=…), gradient_clip_val=1 or "
    assert str(diverged("The loss became nan", step=7, epoch=1, images=images)).startswith(text + advice)
    assert str(diverged("The loss became nan", step=7, epoch=1)).startswith(text + advice)
    images[1, 0, 0, 0], images[3] = NAN, INF
    expected = text + "Images of the batch that hold NaN or infinity: 2. Correct them or leave them out"
    assert str(diverged("The loss became nan", step=7, epoch=1, images=images)) == expected
    bytes_ = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    assert advice in str(diverged("The loss became nan", step=7, epoch=1, images=bytes_))
