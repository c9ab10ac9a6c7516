"""Freezing: what is excluded from the graph, and what is not."""

import torch
import torch.nn.functional as F
from torch import nn, optim
from torchvision.models import resnet18

from frostline.autograd.drawing import draw_stages
from frostline.autograd.graph import walk
from frostline.autograd.observe import observe
from frostline.autograd.tour.telling import Tour, error_of


def exclusion(tour: Tour) -> None:
    """Exclusion from the graph."""
    tour.say(
        "A parameter with `requires_grad=False` is in no graph: this is how one freezes it. The notebook freezes all "
        "of them, Layer 0 to Layer 61. Then nothing is left to compute, and backward says so."
    )
    torch.manual_seed(0)
    model = resnet18(weights=None)
    model.load_state_dict(tour.weights)
    layers = []
    for idx, param in enumerate(model.parameters()):
        layers.append(f"Layer: {idx}")
        param.requires_grad = False
    data = torch.rand(1, 3, 64, 64)
    frozen_loss = model(data).sum()
    tour.show("layers", f"{layers[0]}, {layers[1]} … {layers[-1]}")
    tour.show("backward", error_of(frozen_loss.backward))
    tour.check("62 tensors are frozen", sum(not param.requires_grad for param in model.parameters()) == 62)
    tour.check("the result has no graph", frozen_loss.grad_fn is None)

    tour.say(
        "To learn 10 new classes, replace the last layer, `fc`. A new layer is trainable from the start, so it alone "
        "is not frozen."
    )
    tour.show("original layer", model.fc)
    model.fc = nn.Linear(512, 10)
    tour.show("updated layer", model.fc)
    named = dict(model.named_parameters())
    trainable = [name for name in named if named[name].requires_grad]
    tour.show("trainable", ", ".join(trainable))
    tour.check("2 of 62 are trainable", trainable == ["fc.weight", "fc.bias"])

    tour.say("The optimizer is given all parameters; then one step on a random image and label.")
    optimizer = optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    labels = torch.rand(1, 10)
    before = [param.detach().clone() for param in model.parameters()]
    prediction = model(data)
    loss = (prediction - labels).sum()
    graph = walk(loss, network=model)
    loss.backward()
    optimizer.step()
    received = [name for name in named if named[name].grad is not None]
    pairs = zip(named, before, strict=True)
    moved = [name for name, old in pairs if not torch.equal(named[name], old)]
    tour.show("graph", f"{len(graph.nodes)} nodes, {len(graph.leaves)} leaves")
    tour.show("have a gradient", ", ".join(received))
    tour.show("moved", ", ".join(moved))
    tour.check(
        "the graph has 6 nodes, and 2 of 62 parameters are its leaves", len(graph.nodes) == 6 == 4 + len(graph.leaves)
    )
    tour.check(
        "leaves, gradients and movements are the same two",
        sorted(graph.parameters) == sorted(received) == sorted(moved),
    )
    tour.check("60 gradients are still None", sum(param.grad is None for param in model.parameters()) == 60)

    tour.say(
        "So the optimizer passes over a parameter whose gradient is `None`. A gradient of zeros is another matter: "
        "momentum goes on with what it remembers. Freeze `fc.bias` after its first step, and compare."
    )
    model.fc.bias.requires_grad = False
    model.fc.bias.grad = None
    bias = model.fc.bias.detach().clone()
    optimizer.step()
    kept = torch.equal(model.fc.bias, bias)
    model.fc.bias.grad = torch.zeros(10)
    optimizer.step()
    shift = model.fc.bias.detach() - bias
    tour.show("moved with None", not kept)
    tour.show("moved with zeros by", f"{float(shift[0]):.4f}")
    tour.check("None: not moved by a bit", kept)
    tour.check(
        "zeros: moved by −lr · 0.9 · g = −0.009, though frozen", torch.allclose(shift, torch.full((10,), -0.009))
    )

    tour.say("Weight decay does the same even without momentum: a zero gradient lets it shrink the weights.")
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    decaying = optim.SGD([weight], lr=1e-2, weight_decay=0.1)
    decaying.step()
    kept = weight.tolist() == [1.0, -2.0]
    weight.grad = torch.zeros(2)
    decaying.step()
    tour.show("after a step with zeros", weight.detach())
    tour.check("None: not moved", kept)
    tour.check("zeros: w ← w − lr · 0.1 · w", torch.allclose(weight, torch.tensor([0.999, -1.998])))

    tour.say(
        "One thing is not excluded: a batch norm in training mode updates its running statistics in every forward "
        "pass, frozen or not. They are buffers, no parameters. Only `eval()` stops that."
    )
    mean = model.bn1.running_mean.clone()
    model(data)
    drifted = not torch.equal(mean, model.bn1.running_mean)
    mean = model.bn1.running_mean.clone()
    model.eval()(data)
    tour.show(
        "bn1.running_mean moved", f"{drifted} in training mode, {not torch.equal(mean, model.bn1.running_mean)} in eval"
    )
    tour.check("it drifts in training mode though all of bn1 is frozen", drifted)
    tour.check("and holds still in eval", torch.equal(mean, model.bn1.running_mean))

    tour.say("The whole of it in one picture: the gradient comes down from the loss and stops at the frost line.")
    model.fc.bias.requires_grad = True
    targets = torch.tensor([3])
    observation = observe(model, data, lambda y: F.cross_entropy(y, targets))
    tour.draw("autograd-frozen", draw_stages(observation, title="ResNet-18, only the head trains"))
    tour.check("2 leaves of 62 again", len(observation.graph.leaves) == 2 and len(observation.graph.frozen or ()) == 60)
