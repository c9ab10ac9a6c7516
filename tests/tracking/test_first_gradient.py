"""The notebook's look at one gradient."""

import logging

import lightning
import pytest
import torch
from tests.quiet import quiet_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from frostline.tracking.first_gradient import FirstGradient


class Model(lightning.LightningModule):
    """The loss is the sum of the outputs, so the weights' gradient is the sum of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2, bias=False)
        self.head = nn.Linear(2, 1, bias=False)
        nn.init.ones_(self.head.weight)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.head(self.body(batch[0])).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def look(model: Model) -> FirstGradient:
    callback = FirstGradient()
    trainer = quiet_trainer(max_epochs=1, callbacks=[callback])
    trainer.fit(model, DataLoader(TensorDataset(torch.tensor([[1.0, 2.0], [5.0, 5.0]])), batch_size=1))
    return callback


def test_the_gradient_is_none_before_the_first_backward_and_has_values_after(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "frostline"):
        seen = look(Model())
    assert seen.before is None
    assert seen.after is not None
    assert seen.after.tolist() == [[1.0, 2.0], [1.0, 2.0]]  # of the first batch, although a second one came
    assert seen.changed == ["body.weight", "head.weight"]
    assert "body.weight.grad before backward: None" in caplog.messages
    assert "changed by the step: 2 of 2 tensors" in caplog.messages


def test_a_frozen_first_layer_has_no_gradient_and_does_not_change() -> None:
    model = Model()
    model.body.requires_grad_(False)
    seen = look(model)
    assert seen.before is None
    assert seen.after is None
    assert seen.changed == ["head.weight"]
