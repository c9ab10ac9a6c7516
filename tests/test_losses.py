"""Losses against values worked out by hand."""

import math

import pytest
import torch

from frostline.losses import LOSSES, CrossEntropy, SumOfDifferences, build_loss

# exp gives 1, 2, 1 and 1, 1, 2: probabilities of quarters and halves.
LOGITS = torch.tensor([[0.0, math.log(2), 0.0], [0.0, 0.0, math.log(2)]])
LOG2 = math.log(2)


def test_cross_entropy_of_class_indices() -> None:
    loss = CrossEntropy()(LOGITS, torch.tensor([1, 0]))
    assert loss.item() == pytest.approx((LOG2 + 2 * LOG2) / 2)


def test_cross_entropy_of_soft_labels() -> None:
    labels = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert CrossEntropy()(LOGITS, labels).item() == pytest.approx((1.5 * LOG2 + LOG2) / 2)


def test_hard_labels_equal_one_hot_soft_labels() -> None:
    labels = torch.tensor([1, 0])
    soft = torch.nn.functional.one_hot(labels, 3).float()
    loss = CrossEntropy(label_smoothing=0.3)
    assert loss(LOGITS, labels).item() == pytest.approx(loss(LOGITS, soft).item())


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    # 0.7 + 0.1 on the right class, 0.1 on each other one.
    loss = CrossEntropy(label_smoothing=0.3)(LOGITS[:1], torch.tensor([1]))
    assert loss.item() == pytest.approx(0.8 * LOG2 + 0.2 * 2 * LOG2)


def test_class_weights_weigh_samples_by_their_class() -> None:
    loss = CrossEntropy(class_weights=[3.0, 1.0, 1.0])(LOGITS, torch.tensor([1, 0]))
    assert loss.item() == pytest.approx((1 * LOG2 + 3 * 2 * LOG2) / (1 + 3))


def test_sum_of_differences_and_its_gradient_of_ones() -> None:
    prediction = torch.tensor([[1.0, -2.0, 4.0], [0.5, 0.0, 1.5]], requires_grad=True)
    labels = torch.tensor([[0.25, 0.25, 0.5], [1.0, 1.0, 1.0]])
    loss = SumOfDifferences()(prediction, labels)
    assert loss.item() == (3.0 - 1.0) + (2.0 - 3.0)
    loss.backward()
    assert prediction.grad is not None
    assert torch.equal(prediction.grad, torch.ones(2, 3))


def test_sum_of_differences_takes_class_indices_as_one_hot_rows() -> None:
    assert SumOfDifferences()(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2])).item() == 5.0


def test_an_unknown_loss_lists_the_choices() -> None:
    with pytest.raises(ValueError, match=r"unknown loss `mse`\. The choices are: cross_entropy, sum_of_differences"):
        build_loss("mse")


def test_every_loss_is_built_by_its_name() -> None:
    assert {name: type(build_loss(name)) for name in LOSSES} == LOSSES


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
def test_factors_of_the_cross_entropy_are_finite(value: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing="):
        CrossEntropy(label_smoothing=value)
    with pytest.raises(ValueError, match="class_weights="):
        CrossEntropy(class_weights=[1.0, value])
