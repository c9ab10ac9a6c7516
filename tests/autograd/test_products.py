import pytest
import torch
from torch import nn

from frostline.autograd.products import (
    WAYS,
    by_backward,
    by_finite_difference,
    by_jacobian,
    by_vjp,
    compare,
    function_of_parameters,
)

from .networks import resnet

A, B = torch.tensor([3.0, 4.0], dtype=torch.float64), torch.tensor([5.0, 7.0], dtype=torch.float64)


def q(a, b):
    return 3 * a**3 - b**2


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_product_of_q_known_by_hand(way):
    v = torch.tensor([1.0, 1.0], dtype=torch.float64)
    of_a, of_b = WAYS[way](q, (A, B), v)
    assert of_a.tolist() == pytest.approx([81, 144], rel=1e-9)
    assert of_b.tolist() == pytest.approx([-10, -14], rel=1e-9)
    weighted = WAYS[way](q, (A, B), torch.tensor([2.0, -1.0], dtype=torch.float64))[0]
    assert weighted.tolist() == pytest.approx([162, -144], rel=1e-9)


@pytest.mark.parametrize("way", ["backward", "torch.func.vjp", "full Jacobian"])
def test_the_exact_ways_are_exact_for_q(way):
    of_a, of_b = WAYS[way](q, (A, B), torch.ones(2, dtype=torch.float64))
    assert (of_a.tolist(), of_b.tolist()) == ([81, 144], [-10, -14])


def test_the_four_ways_agree_on_a_matrix_valued_function_of_matrices():
    torch.manual_seed(0)
    inputs = (torch.rand(2, 3), torch.rand(3, 4))
    rows = compare(lambda x, y: (x @ y).tanh(), inputs, torch.rand(2, 4))
    assert [row.way for row in rows] == list(WAYS)
    assert rows[0].product[1].shape == (3, 4)
    assert max(row.error for row in rows[:3]) < 1e-14
    assert 0 < rows[3].error < 1e-9


def test_the_four_ways_agree_on_a_small_network_and_on_the_resnets_head():
    torch.manual_seed(0)
    for module, inputs, v in (
        (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.rand(2, 4), torch.rand(2, 3)),
        (resnet("fc").fc, torch.rand(1, 512), torch.rand(1, 10)),
    ):
        function, names, values = function_of_parameters(module, inputs)
        assert names == tuple(name for name, _ in module.named_parameters())
        assert max(row.error for row in compare(function, values, v)) < 1e-9
        assert all(parameter.grad is None for parameter in module.parameters())


def test_a_function_of_parameters_computes_what_the_module_does_and_leaves_it_alone():
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    inputs = torch.rand(5, 4)
    function, _, values = function_of_parameters(network, inputs)
    assert torch.allclose(function(*values).float(), network(inputs), atol=1e-6)
    assert network[0].weight.dtype == torch.float32


def test_an_input_that_the_result_does_not_depend_on_has_product_zero():
    for way in WAYS.values():
        assert way(lambda a, b: 2 * a, (A, B), torch.ones(2, dtype=torch.float64))[1].tolist() == [0, 0]


def test_a_wrong_backward_is_exposed_by_the_finite_difference():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(inputs[0])

        @staticmethod
        def backward(ctx, gradient):
            return gradient * ctx.saved_tensors[0]  # without the factor 2

    v = torch.ones(2, dtype=torch.float64)
    assert by_backward(Wrong.apply, (A,), v)[0].tolist() == [3, 4]
    assert by_vjp(Wrong.apply, (A,), v)[0].tolist() == [3, 4]
    assert by_finite_difference(Wrong.apply, (A,), v)[0].tolist() == pytest.approx([6, 8])


def test_float32_is_refused_for_finite_differences():
    with pytest.raises(ValueError, match="Finite differences need float64 inputs"):
        by_finite_difference(q, (A.float(), B), torch.ones(2))


@pytest.mark.parametrize("way", [by_backward, by_vjp, by_jacobian, by_finite_difference])
def test_a_v_of_another_shape_is_refused(way):
    with pytest.raises(ValueError, match=r"v has shape \(1,\), but the output has \(2,\)"):
        way(q, (A, B), torch.ones(1, dtype=torch.float64))
