"""One image, one label, one step of training: the notebook's first cells."""

import copy

import torch
from torch import nn
from torchvision.models import resnet18

from frostline.autograd.tour.telling import Tour, all_close


def training_step(tour: Tour) -> None:
    """One step of training."""
    tour.say(
        "A ResNet-18 turns an image into 1,000 numbers. Its parameters are 62 tensors; autograd records what is done "
        "with them. Nothing here downloads anything: without ImageNet's weights at hand the network is a random one, "
        "and everything below is as true of it."
    )
    torch.manual_seed(0)
    model = resnet18(weights=None)
    model.load_state_dict(tour.weights)
    parameters = dict(model.named_parameters())
    tour.show("weights", tour.weights_are)
    tour.show("parameters", f"{len(parameters)} tensors, {sum(p.numel() for p in model.parameters()):,} numbers")
    tour.check("there are 62 parameter tensors", len(parameters) == 62)
    tour.check("with 11,689,512 numbers", sum(p.numel() for p in model.parameters()) == 11_689_512)

    tour.say("A random image, and a random label with a number for each of the 1,000 classes.")
    data = torch.rand(1, 3, 64, 64)
    labels = torch.rand(1, 1000)
    tour.show("data.shape", tuple(data.shape))
    tour.show("len(labels[0])", len(labels[0]))
    tour.check("one image, three colours, 64 × 64 pixels", data.shape == (1, 3, 64, 64))

    tour.say("The forward pass.")
    prediction = model(data)
    tour.show("prediction[0, :5]", prediction[0, :5].detach())
    tour.check("1,000 numbers for one image", prediction.shape == (1, 1000))

    tour.say("Before backward no parameter has a gradient: `.grad` is `None`, which is not the same as zeros.")
    first = parameters["conv1.weight"]
    tour.show("conv1.weight.grad", first.grad)
    tour.check("all 62 gradients are None", all(parameter.grad is None for parameter in parameters.values()))

    tour.say(
        "The loss is one number, with a `grad_fn` that remembers how it was made. A real loss would not be a plain "
        "sum of differences, but this one has a gradient that one can work out by hand."
    )
    loss = (prediction - labels).sum()
    tour.show("loss", loss)
    tour.show("type(loss)", type(loss).__name__)
    tour.check("loss = Σ prediction − Σ labels", torch.allclose(loss, prediction.sum() - labels.sum(), atol=1e-2))
    tour.check("its grad_fn is SumBackward0", loss.grad_fn is not None and loss.grad_fn.name() == "SumBackward0")

    tour.say("Backward walks the graph from the loss to the parameters and fills every `.grad`.")
    before = copy.deepcopy(model)
    loss.backward()
    tour.show("conv1.weight.grad[0, 0, 0]", None if first.grad is None else first.grad[0, 0, 0])
    tour.check("all 62 parameters have a gradient", all(p.grad is not None for p in model.parameters()))
    tour.check("∂loss/∂fc.bias = 1 for every class", bool((model.fc.bias.grad == 1).all()))

    tour.say(
        "Each output is `fc.weight[i] · features + fc.bias[i]`, so every row of the gradient of `fc.weight` must be "
        "the features, which the same network without `fc` gives."
    )
    body = copy.deepcopy(before)
    body.fc = nn.Identity()
    features = body(data)
    tour.show("features[0, :4]", features[0, :4].detach())
    tour.show("fc.weight.grad[7, :4]", model.fc.weight.grad[7, :4])
    tour.check("every row of fc.weight.grad is the features", torch.allclose(model.fc.weight.grad, features, atol=1e-4))

    tour.say(
        "And the gradient of the very first layer, 17 convolutions below, must predict how the loss changes when that "
        "layer's weights move a little. A finite difference in float64 says by how much it does."
    )
    assert first.grad is not None
    slope = first.grad.double().norm().item()
    direction = first.grad.double() / slope

    def loss_at(step: float) -> float:
        moved = copy.deepcopy(before).double()
        moved.conv1.weight.data += step * direction
        return float((moved(data.double()) - labels.double()).sum().detach())

    difference = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6
    tour.show("slope along the gradient", f"{slope:.4f}")
    tour.show("finite difference", f"{difference:.4f}")
    tour.check("the two agree to one part in a thousand", abs(slope - difference) < 1e-3 * abs(difference))

    tour.say("Stochastic gradient descent with momentum, as in the notebook.")
    optim = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.95)
    old = [p.detach().clone() for p in model.parameters()]
    first_gradients = [p.grad.clone() for p in model.parameters()]
    optim.step()
    expected = [w - 1e-2 * g for w, g in zip(old, first_gradients, strict=True)]
    change = (first - old[0]).abs().max().item()
    tour.show("largest change in conv1", f"{change:.4f}")
    tour.check("the first step is w ← w − lr · g, for all 62", all_close(model.parameters(), expected))

    tour.say(
        "Momentum shows in the second step: it moves by `lr · (0.95 · g₁ + g₂)`. Without `zero_grad` the second "
        "backward would have added its gradient to the first one's."
    )
    optim.zero_grad()
    loss = (model(data) - labels).sum()
    loss.backward()
    old = [p.detach().clone() for p in model.parameters()]
    second_gradients = [p.grad.clone() for p in model.parameters()]
    optim.step()
    steps = zip(old, first_gradients, second_gradients, strict=True)
    expected = [w - 1e-2 * (0.95 * g1 + g2) for w, g1, g2 in steps]
    tour.check("the second step is w ← w − lr · (0.95 · g₁ + g₂)", all_close(model.parameters(), expected))
