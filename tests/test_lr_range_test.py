"""Range tests: the rates of the steps, the suggestion for losses known by hand, and a fit whose loss is known."""

import math
from pathlib import Path

import pytest
import torch

from frostline.classifier import ImageClassifier
from frostline.data.datamodule import ImageDataModule
from frostline.data.loading import Loading
from frostline.data.synthetic import Synthetic
from frostline.data.transforms import Augmentation
from frostline.freezing.policy import FreezePolicy
from frostline.lr_range_test import SETTLED, RangeTest, RateRange, draw_range_test, range_test, suggestion
from frostline.options import TrainingOptions

RATES = RateRange(lowest=1e-5, highest=10.0, steps=61)


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4))
        self.head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(images))
        return logits


def of(loss: object, *, steps: int = 61) -> RangeTest:
    rates = tuple(RATES.rate(step) for step in range(steps))
    return RangeTest(rates=rates, losses=tuple(loss(rate) for rate in rates))  # type: ignore[operator]


def run_of(**options: object) -> tuple[RangeTest, list[dict[str, float]], ImageClassifier]:
    """A range test of `Small`, whose head trains at twice the rate; its groups' rates; the classifier."""
    source = Synthetic(length=24, val_length=4, test_length=4, classes=3, image_size=16)
    plain = Augmentation(name="none")
    data = ImageDataModule(source=source, image_size=16, batch_size=8, augment=plain, loading=Loading(workers=0))
    policy = FreezePolicy.from_dict({"train": ["head", "body.0.bias"], "lr": {"head": 2.0}})
    used: list[dict[str, float]] = []

    def optimizer(groups: list[dict[str, object]]) -> torch.optim.Optimizer:
        made = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
        made.register_step_post_hook(lambda *_: used.append({g["name"]: g["lr"] for g in made.param_groups}))
        return made

    classifier = ImageClassifier(
        network=Small(),
        data_spec=data.spec,
        policy=policy,
        training=TrainingOptions(optimizer=optimizer, scheduler=RATES.schedule),
    )
    return range_test(classifier, data, RATES, accelerator="cpu", devices=1, **options), used, classifier


def test_rates_rise_by_one_factor() -> None:
    assert [RATES.rate(step) for step in (0, 10, 60)] == pytest.approx([1e-5, 1e-4, 10.0])


@pytest.mark.parametrize("at", [1e-3, 1e-2])
def test_the_suggestion_is_the_last_rate_before_the_loss_rises(at: float) -> None:
    """A loss that falls from 2 to 1 until ten times a rate, and then rises steeply."""
    rate = suggestion(of(lambda lr: 2 - min(1.0, math.log10(max(1.0, lr / at))) + (lr / (20 * at)) ** 4))
    assert rate == pytest.approx(10 * at, rel=0.4)  # the smoothing reaches three steps, a factor of 2


def test_how_far_the_loss_diverges_changes_nothing() -> None:
    rates = {suggestion(of(lambda lr, high=high: 2 - lr if lr < 0.5 else high)) for high in (10.0, 1e6)}
    assert len(rates) == 1
    assert rates != {None}


@pytest.mark.parametrize(
    "loss",
    [lambda lr: 2.3, lambda lr: 2.3 + lr, lambda lr: 2.3 + 0.3 * math.sin(1e7 * lr), lambda lr: 2.3 - 0.004 * lr],
    ids=["constant", "rising", "noise", "a hundredth less"],
)
def test_without_a_fall_there_is_no_suggestion(loss: object) -> None:
    assert suggestion(of(loss)) is None


def test_the_smoothed_loss_does_not_lag() -> None:
    losses = tuple(abs(step - 30.0) for step in range(61))
    smoothed = RangeTest(rates=losses, losses=losses).smoothed
    assert smoothed.index(min(smoothed)) == 30
    assert smoothed == pytest.approx(smoothed[::-1])


def test_a_range_test_trains_by_the_policy_and_ends_when_the_loss_diverges() -> None:
    found, used, classifier = run_of()
    assert 2 * SETTLED < len(found.rates) < RATES.steps
    assert [rates["head"] for rates in used] == pytest.approx([2 * rate for rate in found.rates])
    assert [rates["body"] for rates in used] == pytest.approx(list(found.rates))
    fresh = Small().state_dict()
    for name, tensor in classifier.network.state_dict().items():
        assert torch.equal(tensor, fresh[name]) == (name == "body.0.weight"), name
    assert suggestion(found) is not None


def test_accumulated_batches_are_one_step() -> None:
    found, used, _ = run_of(accumulate_grad_batches=2)
    assert len(found.losses) == len(used)


def test_the_picture_shows_the_suggestion(tmp_path: Path) -> None:
    found = of(lambda lr: 2 - 1 / (1 + (1e-2 / lr) ** 2) + lr**2)
    text = draw_range_test(found, tmp_path / "a.svg", title="a network").read_text()
    for word in ("range test: a network", "loss of the step", f"suggested: {suggestion(found):.2g}"):
        assert word in text
    draw_range_test(of(lambda lr: 2.3), tmp_path / "b.svg", title="")
    assert "optimizer.lr" not in (tmp_path / "b.svg").read_text()
