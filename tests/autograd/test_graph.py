import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from frostline.autograd.graph import inconsistencies, walk

from .networks import IMAGES, TARGETS, cross_entropy, resnet

# By hand. Head: addmm, transpose and 2 leaves. Loss: log-softmax and negative log-likelihood (or difference and sum).
# Below the head: view and mean. A basic block: 2 convolutions, 2 batch norms, 2 ReLUs, an addition and 6 leaves;
# with a shortcut a convolution, a batch norm and 3 leaves more. Stem: convolution, batch norm, ReLU, pooling, 3 leaves.
LOSS, HEAD, POOLED, BLOCK, SHORTCUT, STEM = 2, 4, 2, 7 + 6, 2 + 3, 4 + 3


@pytest.mark.parametrize(
    ("trainable", "leaves", "nodes"),
    [
        (("fc",), 2, HEAD + LOSS),
        (("layer4", "fc"), 17, HEAD + LOSS + POOLED + 2 * BLOCK + SHORTCUT),
        (("",), 62, HEAD + LOSS + POOLED + STEM + 2 * BLOCK + 3 * (2 * BLOCK + SHORTCUT)),
    ],
)
def test_resnet18_has_the_nodes_counted_by_hand(trainable, leaves, nodes):
    assert nodes == {2: 6, 17: 39, 62: 134}[leaves]
    network = resnet(*trainable)
    for loss in (cross_entropy(network(IMAGES)), (network(IMAGES) - torch.rand(2, 10)).sum()):
        graph = walk(loss, network=network)
        assert len(graph.nodes) == nodes
        assert len(graph.leaves) == leaves
        assert len(graph.frozen) == 62 - leaves
        assert graph.unreached == ()


@pytest.mark.parametrize("trainable", [("fc",), ("layer4", "fc"), ("layer2",), ("bn1", "layer1.0.bn2"), ("",)])
def test_leaves_are_the_parameters_that_require_a_gradient_and_the_optimizer_steps(trainable):
    network = resnet(*trainable)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    loss = cross_entropy(network(IMAGES))
    graph = walk(loss, network=network)
    assert graph.parameters == {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert inconsistencies(graph, network, optimizer) == []
    loss.backward()
    assert graph.parameters == {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    optimizer.step()
    moved = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    assert graph.parameters == moved


def test_each_disagreement_of_graph_flags_and_optimizer_is_named():
    network = nn.ModuleDict({"used": nn.Linear(2, 1), "unused": nn.Linear(2, 1)})
    graph = walk(network["used"](torch.rand(1, 2)).sum(), network=network)
    assert graph.unreached == ("unused.weight", "unused.bias")
    [unused, not_held, stranger] = inconsistencies(graph, network, torch.optim.SGD([nn.Parameter(torch.rand(1))], lr=1))
    assert "2 of 4 parameters require a gradient, but the loss does not depend on them: unused.bias" in unused
    assert "the optimizer does not hold them" in not_held
    assert "no parameters of the network (1 of them)" in stranger
    network["used"].bias.requires_grad_(False)
    sentences = inconsistencies(graph, network, torch.optim.SGD(network.parameters(), lr=1))
    assert "1 of 4 parameters are leaves of the graph, but no longer require a gradient: used.bias." in sentences


def test_edges_lead_from_the_loss_to_the_leaves_in_order():
    a, b = torch.tensor([3.0, 4.0], requires_grad=True), torch.tensor([5.0, 7.0], requires_grad=True)
    graph = walk(3 * a**3 - b**2, names={"a": a, "b": b})
    assert [(node.operation, node.parameter) for node in graph.nodes] == [
        ("Sub", None), ("Pow", None), ("AccumulateGrad", "b"), ("Mul", None), ("Pow", None), ("AccumulateGrad", "a"),
    ]  # fmt: skip
    assert set(graph.edges) == {(0, 1), (1, 2), (0, 3), (3, 4), (4, 5)}
    assert all(source < target for source, target in walk(cross_entropy(resnet("")(IMAGES))).edges)


def test_a_tensor_used_twice_is_one_leaf_with_two_edges():
    x = torch.tensor(2.0, requires_grad=True)
    graph = walk(x * x)
    assert (len(graph.nodes), len(graph.leaves), graph.edges) == (2, 1, ((0, 1), (0, 1)))
    assert graph.leaves[0].parameter is None


def test_kept_bytes_of_the_head_are_counted_by_hand():
    network = resnet("fc")
    kept = {node.operation: node.kept_bytes for node in walk(cross_entropy(network(IMAGES)), network=network).nodes}
    assert kept == {
        "Addmm": 2 * 512 * 4,  # the features; the weight is a parameter
        "LogSoftmax": 2 * 10 * 4,  # its result, which the likelihood keeps too
        "NllLoss": 2 * 8 + 4,  # the labels, int64, and the total weight
        "T": 0,
        "AccumulateGrad": 0,
    }


def test_a_storage_kept_by_two_nodes_is_counted_once():
    x = torch.rand(100, requires_grad=True)
    y = x.exp()  # keeps its result
    assert walk(y * y).kept_bytes == 400
    assert walk(y.sin() + y.cos()).kept_bytes == 400


def test_a_view_counts_the_whole_storage_that_it_keeps_alive():
    weight = torch.rand(10, requires_grad=True)
    assert walk(weight * torch.rand(1000)[:10]).kept_bytes == 4000


def test_checkpointed_tensors_are_not_counted_and_not_recomputed():
    calls = []

    def function(x):
        calls.append(1)
        return x.exp().exp()

    x = torch.rand(100, requires_grad=True)
    assert walk(checkpoint(function, x, use_reentrant=False)).kept_bytes == 0
    assert len(calls) == 1


def test_after_backward_the_graph_is_there_but_keeps_nothing():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient * ctx.saved_tensors[0]

    x = torch.rand(10, requires_grad=True)
    loss = Square.apply(x.exp()).sum()
    assert walk(loss).kept_bytes == 40
    loss.backward()
    assert (len(walk(loss).nodes), walk(loss).kept_bytes) == (4, 0)


def test_a_graph_deeper_than_pythons_stack_is_walked():
    x = torch.ones(1, requires_grad=True)
    y = x
    for _ in range(5000):
        y = y + 1
    assert len(walk(y).nodes) == 5001


@pytest.mark.parametrize(
    ("loss", "network", "message"),
    [
        (
            lambda: torch.rand(2).sum(),
            None,
            "The tensor has no graph: nothing it was computed from requires a gradient",
        ),
        (lambda: torch.rand(2, requires_grad=True), None, "The tensor is itself a leaf"),
        (lambda: torch.rand(2, requires_grad=True).sum().detach(), None, "detached"),
    ],
)
def test_a_tensor_without_a_graph_is_refused_in_one_sentence(loss, network, message):
    with pytest.raises(ValueError, match=message):
        walk(loss(), network=network)


def test_a_fully_frozen_network_is_refused_in_one_sentence():
    network = resnet()
    with pytest.raises(
        ValueError, match="Every one of the network's 62 parameters is frozen, so the loss has no graph"
    ):
        walk(F.cross_entropy(network(IMAGES), TARGETS), network=network)
