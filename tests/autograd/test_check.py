import pytest
import torch
from torch import nn

from frostline.autograd.check import check_gradient


class Halved(torch.autograd.Function):
    """x², with half its gradient."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0]


def verdicts(*arguments, **options):
    return {verdict.name: verdict for verdict in check_gradient(*arguments, **options)}


def test_a_right_head_and_a_right_loss_pass():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.LayerNorm(5), nn.Linear(5, 3))
    found = verdicts(head, [torch.rand(2, 4)])
    assert list(found) == ["input 0", *(f"parameter {name}" for name, _ in head.named_parameters())]
    assert all(verdict.right for verdict in found.values())
    assert (
        found["parameter 0.weight"].sentence == "parameter 0.weight: right; 20 numbers agree with finite differences."
    )
    [loss] = check_gradient(nn.CrossEntropyLoss(), [torch.rand(3, 4), torch.tensor([0, 3, 1])])
    assert loss.right  # the labels are integers and stay as they are


def test_a_wrong_backward_is_found_with_its_place_and_both_numbers():
    [verdict] = check_gradient(lambda x: Halved.apply(x).sum(), [torch.tensor([[1.0, -3.0]])])
    assert not verdict.right
    assert verdict.sentence.startswith("input 0: wrong; at [0, 1] backward says -")
    says, differences = verdict.sentence.split("backward says ")[1].split(". A")[0].split(", finite differences say ")
    assert float(differences) == pytest.approx(2 * float(says))


def test_only_the_wrong_one_of_two_inputs_is_blamed():
    found = verdicts(lambda x, y: Halved.apply(x) + y**2, [torch.rand(2), torch.rand(2)])
    assert (found["input 0"].right, found["input 1"].right) == (False, True)


def test_a_detached_part_is_named():
    found = verdicts(lambda x, y: (x.detach() * y).sum(), [torch.rand(3), torch.rand(3)])
    assert found["input 1"].right
    assert found["input 0"].sentence == (
        "input 0: the result is cut off from it (detached, or computed without gradients)."
    )


def test_dropout_is_called_random():
    head = nn.Sequential(nn.Linear(20, 20), nn.Dropout(0.5))
    assert all("two calls differ" in verdict.sentence for verdict in check_gradient(head, [torch.rand(2, 20)]))
    assert all(verdict.right for verdict in check_gradient(head.eval(), [torch.rand(2, 20)]))


def test_a_fixed_input_is_not_checked():
    assert list(verdicts(nn.functional.mse_loss, [torch.rand(3), torch.rand(3)], fixed=[1])) == ["input 0"]


def test_the_module_itself_is_left_alone():
    head = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    check_gradient(head, [torch.rand(4, 3)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())
    assert head[0].weight.dtype == torch.float32
    assert head[0].weight.grad is None


@pytest.mark.parametrize(
    ("function", "inputs", "message"),
    [
        (torch.abs, [torch.tensor([1, 2])], "There is no gradient to check"),
        (
            lambda x: x.argmax(),
            [torch.rand(3)],
            r"must return one floating-point tensor; it returned a torch\.int64 tensor",
        ),
        (lambda x: (x, x), [torch.rand(3)], "it returned a tuple"),
        (lambda x: x @ torch.rand(3, 3), [torch.rand(3)], "The function fails on float64 inputs"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_sentence(function, inputs, message):
    with pytest.raises(ValueError, match=message):
        check_gradient(function, inputs)


@pytest.mark.parametrize("position", [-1, 1])
def test_a_fixed_position_that_does_not_exist_is_refused(position):
    with pytest.raises(ValueError, match=rf"fixed names input {position}, but there are only 1"):
        check_gradient(torch.exp, [torch.rand(3)], fixed=[position])
