"""Metrics against small cases worked out by hand."""

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassCalibrationError, MulticlassCohenKappa

from frostline.metrics import CalibrationError, Evaluation, evaluation_metrics, per_class


def logits_for(classes: list[int], *, of: int) -> Tensor:
    """Logits whose most probable class is given, almost surely."""
    return 20.0 * torch.nn.functional.one_hot(torch.tensor(classes), of).float()


def evaluated(logits: Tensor, labels: Tensor, *, batches: int = 1) -> tuple[dict[str, float], Tensor | None]:
    evaluation = Evaluation(logits.shape[1], {})
    for some, of in zip(logits.chunk(batches), labels.chunk(batches), strict=True):
        evaluation.update(some, of, torch.nn.functional.cross_entropy(some, of))
    return evaluation.compute()


def test_accuracy_f1_and_count_by_hand() -> None:
    # True 0 0 0 1 2 2, predicted 0 0 1 1 2 0.
    logits, labels = logits_for([0, 0, 1, 1, 2, 0], of=3), torch.tensor([0, 0, 0, 1, 2, 2])
    scalars, confusion = evaluated(logits, labels)
    assert scalars["accuracy"] == pytest.approx(4 / 6)
    # F1 is 2 right / (images + predicted): 4/6, 2/3, 2/3.
    assert scalars["f1"] == pytest.approx(2 / 3)
    assert scalars["count"] == 6
    assert confusion.tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_the_loss_is_the_mean_over_images() -> None:
    evaluation = Evaluation(3, {})
    evaluation.update(torch.zeros(3, 3), torch.tensor([0, 1, 2]), torch.tensor(1.0))
    evaluation.update(torch.zeros(1, 3), torch.tensor([0]), torch.tensor(5.0))
    assert evaluation.compute()[0]["loss"] == pytest.approx((3 * 1 + 1 * 5) / 4)


def test_top5_counts_the_five_most_probable() -> None:
    logits = torch.arange(7.0).repeat(3, 1)  # order of probability: 6, 5, 4, 3, 2, 1, 0
    scalars, _ = evaluated(logits, torch.tensor([6, 2, 1]))
    assert scalars["accuracy"] == pytest.approx(1 / 3)
    assert scalars["accuracy_top5"] == pytest.approx(2 / 3)


def test_top5_is_left_out_where_it_would_always_be_one() -> None:
    assert "accuracy_top5" not in evaluation_metrics(5)
    assert "accuracy_top5" in evaluation_metrics(6)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    # Ten images at confidence 0.8 of which 6 are right, and ten at 0.9 of which 10 are right: (0.2 + 0.1) / 2.
    sure = torch.tensor([[0.8, 0.2], [0.9, 0.1]]).log().repeat_interleave(10, 0)
    labels = torch.tensor([0] * 6 + [1] * 4 + [0] * 10)
    assert evaluated(sure, labels)[0]["calibration_error"] == pytest.approx(0.15, abs=1e-6)


@pytest.mark.parametrize("batches", [1, 7])
def test_calibration_error_is_torchmetrics_own_without_keeping_the_images(batches: int) -> None:
    generator = torch.Generator().manual_seed(1)
    probabilities = (3 * torch.randn(210, 6, generator=generator)).softmax(dim=1)
    labels = torch.randint(6, (210,), generator=generator)
    own, other = CalibrationError(), MulticlassCalibrationError(6, n_bins=15, norm="l1")
    for some, of in zip(probabilities.chunk(batches), labels.chunk(batches), strict=True):
        own.update(some, of)
        other.update(some, of)
    assert own.compute().item() == pytest.approx(other.compute().item(), abs=1e-6)
    assert sum(state.numel() for state in own.metric_state.values()) == 45


def test_certainty_itself_has_a_bin() -> None:
    metric = CalibrationError()
    metric.update(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    assert metric.compute().item() == pytest.approx(0.5)


def test_very_many_classes_have_no_confusion_matrix_and_are_counted_all_the_same() -> None:
    evaluation = Evaluation(5000, {})
    evaluation.update(torch.randn(3, 5000), torch.tensor([1, 2, 4999]), torch.tensor(1.0))
    scalars, confusion = evaluation.compute()
    assert confusion is None
    assert scalars["count"] == 3
    metrics = [module for module in evaluation.modules() if isinstance(module, Metric)]
    states = [state for metric in metrics for state in metric.metric_state.values()]
    assert sum(state.numel() for state in states) < 10 * 5000  # grows with the classes, not with their pairs


def test_two_halves_add_up_to_one_pass() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 7, generator=generator)
    labels = torch.randint(7, (40,), generator=generator)
    whole, confusion = evaluated(logits, labels)
    halves, other = evaluated(logits, labels, batches=2)
    assert confusion.equal(other)
    assert halves == pytest.approx(whole, rel=1e-6)


def test_soft_labels_count_for_their_largest_share() -> None:
    evaluation = Evaluation(3, {})
    labels = torch.tensor([[0.1, 0.7, 0.2], [0.4, 0.3, 0.3]])
    evaluation.update(logits_for([1, 2], of=3), labels, torch.tensor(0.0))
    scalars, confusion = evaluation.compute()
    assert scalars["accuracy"] == 0.5
    assert confusion.tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_reset_forgets_all_batches() -> None:
    evaluation = Evaluation(3, {})
    evaluation.update(logits_for([0, 0], of=3), torch.tensor([1, 1]), torch.tensor(9.0))
    evaluation.reset()
    evaluation.update(logits_for([2], of=3), torch.tensor([2]), torch.tensor(1.0))
    scalars, _ = evaluation.compute()
    assert (scalars["accuracy"], scalars["count"], scalars["loss"]) == (1.0, 1.0, 1.0)


def test_per_class_precision_recall_and_f1_by_hand() -> None:
    confusion = torch.tensor([[2, 1, 0], [0, 1, 0], [0, 0, 0]])
    assert per_class(confusion, ["a", "b", "c"]) == [
        {"class": "a", "images": 3, "precision": 1.0, "recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8)},
        {"class": "b", "images": 1, "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)},
        {"class": "c", "images": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0},  # none there, none predicted
    ]


def test_a_metric_of_the_users_own_is_computed_over_all_batches() -> None:
    evaluation = Evaluation(2, {"kappa": MulticlassCohenKappa(2)})
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]])
    for part in (slice(0, 1), slice(1, 4)):
        evaluation.update(logits[part], torch.tensor([0, 1, 1, 0])[part], torch.tensor(0.0))
    # Three of four agree; by chance (3/4 · 2/4) + (1/4 · 2/4) = 1/2 would: (3/4 - 1/2) / (1 - 1/2).
    assert evaluation.compute()[0]["kappa"] == pytest.approx(0.5)
    evaluation.reset()
    evaluation.update(logits, torch.tensor([0, 1, 0, 0]), torch.tensor(0.0))
    assert evaluation.compute()[0]["kappa"] == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["accuracy", "loss", "count"])
def test_a_metric_of_the_users_own_has_a_name_of_its_own(name: str) -> None:
    with pytest.raises(ValueError, match=f"metrics: {name} is a name of frostline's own"):
        Evaluation(2, {name: MulticlassCohenKappa(2)})
