"""Test-time augmentation on a network whose answers are known by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frostline.classifier import ImageClassifier
from frostline.data.spec import DataSpec
from frostline.options import CheckpointOptions, ComputeOptions, FeatureCache
from frostline.test_time_augmentation import mean_logits
from tests.quiet import quiet_trainer

SPEC = DataSpec(classes=["a", "b"], mean=[0.0] * 3, std=[1.0] * 3, image_size=2)


class Corner(nn.Module):
    """Logits (4 x, 0), x being the first channel's upper left pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(4.0))

    def forward(self, images: Tensor) -> Tensor:
        corner = images[:, 0, 0, 0]
        return torch.stack([self.factor * corner, torch.zeros_like(corner)], dim=1)


# One image whose corners are 1, 0.5, 0 and 0.25.
IMAGE = torch.tensor([[1.0, 0.5], [0.0, 0.25]]).expand(1, 3, 2, 2)


def sure(*corners: float) -> float:
    """The mean probability of the first class."""
    return sum(torch.sigmoid(torch.tensor(4.0 * corner)).item() for corner in corners) / len(corners)


@pytest.mark.parametrize(
    ("name", "corners"),
    [("none", (1.0,)), ("flip", (1.0, 0.5)), ("dihedral", (1.0, 0.5, 0.0, 0.25))],
)
def test_probabilities_are_the_mean_over_the_views_in_predictions_and_evaluations(
    name: Any, corners: tuple[float, ...], tmp_path: Any
) -> None:
    classifier = ImageClassifier(network=Corner(), data_spec=SPEC, test_time_augmentation=name)
    expected = pytest.approx([sure(*corners), 1 - sure(*corners)], abs=1e-6)
    assert classifier.probabilities(IMAGE)[0].tolist() == expected
    assert classifier.predict_step((IMAGE, torch.tensor([1])), 0)["probabilities"][0].tolist() == expected
    loader = torch.utils.data.DataLoader([(IMAGE[0], 1)], batch_size=1)
    [results] = quiet_trainer(use_distributed_sampler=False).test(classifier, loader, verbose=False)
    # The label is the second class: the loss is that of the mean, and the calibration error its confidence.
    assert results["test/loss"] == pytest.approx(-torch.tensor(1 - sure(*corners)).log().item(), abs=1e-5)
    assert results["test/calibration_error"] == pytest.approx(sure(*corners), abs=1e-6)
    assert torch.equal(classifier(IMAGE), Corner()(IMAGE))  # training and export see one view


def test_a_temperature_divides_the_logarithm_of_the_mean_and_tiny_probabilities_stay_finite() -> None:
    options = CheckpointOptions(calibration={"temperature": 2.0})
    classifier = ImageClassifier(network=Corner(), data_spec=SPEC, checkpoint=options, test_time_augmentation="flip")
    roots = torch.tensor([sure(1.0, 0.5), 1 - sure(1.0, 0.5)]).sqrt()
    assert torch.allclose(classifier.probabilities(IMAGE)[0], roots / roots.sum(), atol=1e-6)
    assert mean_logits(lambda images: 1e4 * Corner()(images), IMAGE, "flip").isfinite().all()


def test_stored_features_are_refused_as_they_are_of_one_view(tmp_path: Any) -> None:
    compute = ComputeOptions(feature_cache=FeatureCache(folder=tmp_path))
    with pytest.raises(ValueError, match="test_time_augmentation: needs ComputeOptions"):
        ImageClassifier(network=Corner(), data_spec=SPEC, compute=compute, test_time_augmentation="flip")
