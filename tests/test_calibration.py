"""The temperature of logits whose best temperature is known, and what it leaves as it is."""

import math

import pytest
import torch
from torch import Tensor

from frostline.calibration import fit_temperature, quality
from frostline.metrics import Evaluation, at_temperature


def by_hand() -> tuple[Tensor, Tensor]:
    """100 images of two classes, 80 right, all with the logits (z, 0): the NLL is lowest where sigmoid(z/T) = 0.8."""
    return torch.tensor([[3 * math.log(4), 0.0]]).expand(100, 2), torch.tensor([0] * 80 + [1] * 20)


def test_logits_three_times_too_large_have_temperature_3_and_its_standard_error():
    logits, labels = by_hand()
    temperature, error = fit_temperature(logits, labels)
    assert temperature == pytest.approx(3, abs=1e-6)
    # Fisher information of the inverse: 100 images · z² · 0.8 · 0.2.
    assert error == pytest.approx(3**2 / math.sqrt(100 * (3 * math.log(4)) ** 2 * 0.8 * 0.2), rel=1e-5)
    assert fit_temperature(logits / 30, labels)[0] == pytest.approx(0.1, abs=1e-6)
    before, after = (quality(logits, labels, temperature=value) for value in (1, temperature))
    assert after["calibration_error"] == pytest.approx(0, abs=1e-6)  # 80 % are right, and it is sure by 80 %
    assert before["calibration_error"] == pytest.approx(64 / 65 - 0.8, abs=1e-6)
    assert after["nll"] == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2), abs=1e-6)


def test_no_temperature_fits_better_for_many_classes_and_no_scale_of_the_logits_matters():
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(500, 7, generator=generator)
    labels = at_temperature(logits, 2.5).multinomial(1, generator=generator).squeeze(1)
    temperature, error = fit_temperature(logits, labels)
    assert abs(temperature - 2.5) < 3 * error
    best = quality(logits, labels, temperature=temperature)["nll"]
    assert all(best <= quality(logits, labels, temperature=temperature * by)["nll"] for by in (0.99, 1.01, 0.2, 5))
    assert best <= quality(logits, labels, temperature=1)["nll"]
    assert fit_temperature(1000 * logits, labels)[0] == pytest.approx(1000 * temperature, rel=1e-6)


def test_where_no_temperature_is_best_an_error_says_why():
    logits, labels = by_hand()
    with pytest.raises(ValueError, match="all of the 80 images are right, so the lower the temperature, the better"):
        fit_temperature(logits[:80], labels[:80])
    with pytest.raises(ValueError, match="on the 100 images the logits say no more than chance"):
        fit_temperature(-logits, labels)


def test_an_evaluation_at_a_temperature_changes_its_calibration_error_only():
    logits, labels = by_hand()
    results = []
    for temperature in (1.0, 3.0):
        evaluation = Evaluation(2, {})
        evaluation.update(logits, labels, torch.tensor(0.5), temperature=temperature)
        results.append(evaluation.compute()[0])
    assert results[0].pop("calibration_error") == pytest.approx(64 / 65 - 0.8, abs=1e-6)
    assert results[1].pop("calibration_error") == pytest.approx(0, abs=1e-6)
    assert results[0] == results[1]
