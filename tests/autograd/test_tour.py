import io
import re
from importlib.resources import files

import pytest
import torch
from rich.cells import cell_len
from scripts.publish_tour import document
from torchvision.models import resnet18

from frostline.autograd.tour import Tour, TourFailure, all_close, error_of, terminal
from frostline.autograd.tour.run import chapters

SOURCE = files("frostline.autograd.tour").joinpath("chapters.md").read_text(encoding="utf-8")


def silent(*_):
    """A renderer."""


CELLS = [cell for cells in chapters().values() for cell in cells]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The whole tour, as a document."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("empty")))
        return document()[0]


@pytest.mark.parametrize(
    "line",
    [
        "✓ there are 62 parameter tensors",
        "data.shape = (1, 3, 64, 64)",
        "len(labels[0]) = 1000",
        "conv1.weight.grad = None",
        "✓ its grad_fn is SumBackward0",
        "✓ ∂loss/∂fc.bias = 1 for every class",
        "✓ the first step is w ← w − lr · g, for all 62",
        "✓ the second step is w ← w − lr · (0.95 · g₁ + g₂)",
        "Q = tensor([ 56., 143.], grad_fn=<SubBackward0>)",
        "Q.backward() = grad can be implicitly created only for scalar outputs.",
        "a.grad = tensor([ 81., 144.])",
        "b.grad = tensor([-10., -14.])",
        "9*a**2 == a.grad = tensor([True, True])",
        "a2.grad, b2.grad = ([81.0, 144.0], [-10.0, -14.0])",
        "a3.grad = tensor([81.,  0.])",
        "J = [[81.0, 0.0], [0.0, 144.0]]",
        "Jᵀ·v = [9072.0, 41184.0]",
        "✓ Q: all four agree to 1e-9",
        "✓ small network: all four agree to 1e-9",
        "✓ head: all four agree to 1e-9",
        "Q.grad_fn = SubBackward0",
        "✓ another object, the same operation",
        "second backward = Trying to backward through the graph a second time (or directly access saved tensors after "
        "they have already been freed).",
        "a.grad after two = [162.0, 288.0]",
        "from 30 = 3 nodes, gradient [2.0, 2.0]",
        "from 3 = 7 nodes, gradient [32.0, 32.0]",
        "layers = Layer: 0, Layer: 1 … Layer: 61",
        "backward = element 0 of tensors does not require grad and does not have a grad_fn.",
        "original layer = Linear(in_features=512, out_features=1000, bias=True)",
        "updated layer = Linear(in_features=512, out_features=10, bias=True)",
        "graph = 6 nodes, 2 leaves",
        "changed = fc.weight, fc.bias",
        "✓ 60 gradients are still None",
        "changed with zeros by = -0.0090",
        "✓ zeros: w ← w − lr · 0.1 · w",
        "✓ it drifts in training mode though all of bn1 is frozen",
    ],
)
def test_the_tour_shows_every_statement_of_the_notebook_with_its_value(text, line):
    assert line in text.splitlines()


def test_the_chapters_follow_the_notebooks_order(text):
    titles = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert titles == list(chapters())
    assert text.count("```python") == sum(bool(cell.shown) for cell in CELLS)
    statements = (
        "data = torch.rand(1, 3, 64, 64)", "labels = torch.rand(1, 1000)", "prediction = model(data)",
        "loss = (prediction - labels).sum()", "loss.backward()",
        "optim = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.95)", "optim.step()",
        "a = torch.tensor([3.0, 4.0], requires_grad=True)", "Q = 3 * a**3 - b**2",
        "external_grad = torch.tensor([1.0, 1.0])", "Q.backward(gradient=external_grad)",
        "param.requires_grad = False", "model.fc = nn.Linear(512, 10)",
        "optimizer = optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)", "labels = torch.rand(1, 10)",
        "prediction = model(data)", "loss = (prediction - labels).sum()", "loss.backward()", "optimizer.step()",
    )  # fmt: skip
    place = 0
    for statement in statements:
        place = text.index(statement, place) + 1


def test_random_weights_are_reported_to_be_random(text):
    assert "weights = random (ImageNet's are not in torchvision's cache)" in text


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_is_legible_in_80_and_120_columns(width):
    out = io.StringIO()
    Tour(terminal(out, width=width)).run()
    lines = out.getvalue().splitlines()
    assert max(cell_len(line.rstrip()) for line in lines) <= width
    assert "\x1b" not in out.getvalue()  # no colour codes in a file
    assert sum("✓" in line for line in lines) > 50
    # Each statement stands on one line; a wrapped one would not be found.
    assert any(line.strip() == "optim = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.95)" for line in lines)


def test_no_line_of_code_is_too_long_for_80_columns():
    assert [line for cell in CELLS for line in cell.shown.splitlines() if len(line) > 76] == []


def test_a_claim_that_does_not_hold_stops_the_tour_and_is_named(monkeypatch):
    tour = Tour(silent)
    with pytest.raises(TourFailure, match="The tour's claim does not hold: 2 is 3"):
        tour.check("2 is 3", 2 == 3)
    # A broken power: 3a² instead of 3a³. The tour must notice by itself.
    power = torch.Tensor.__pow__
    monkeypatch.setattr(
        torch.Tensor, "__pow__", lambda tensor, exponent: power(tensor, 2 if exponent == 3 else exponent)
    )
    with pytest.raises(TourFailure, match=r"does not hold: Q = \(56, 143\)"):
        tour.run("Differentiation in autograd")


def test_an_optimizer_that_ignores_momentum_is_noticed(monkeypatch):
    original = torch.optim.SGD.__init__

    def without_momentum(self, params, lr, momentum=0.0, **options):
        original(self, params, lr=lr, momentum=0.0, **options)

    monkeypatch.setattr(torch.optim.SGD, "__init__", without_momentum)
    with pytest.raises(TourFailure, match="the second step is"):
        Tour(silent).run()


def test_weights_may_be_passed_in_as_a_state_dict_or_a_file(tmp_path):
    torch.manual_seed(5)
    state = resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "mine.pth")
    for weights, origin in ((state, "passed in"), (tmp_path / "mine.pth", "from mine.pth")):
        tour = Tour(silent, weights=weights)
        assert torch.equal(tour.weights["conv1.weight"], state["conv1.weight"])
        assert tour.weights_are == origin


def test_cached_weights_are_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(6)
    state = resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    tour = Tour(silent)
    assert torch.equal(tour.weights["conv1.weight"], state["conv1.weight"])
    assert tour.weights_are == "from resnet18-f37072fd.pth"


def test_wrong_weights_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There are no weights at .*none\.pth"):
        Tour(silent, weights=tmp_path / "none.pth")
    with pytest.raises(ValueError, match="must be the state dict of a torchvision ResNet-18 with 1,000 classes"):
        Tour(silent, weights=resnet18(weights=None, num_classes=10).state_dict())


def test_making_random_weights_leaves_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    Tour(silent)
    assert torch.equal(torch.rand(1), expected)


def test_a_call_without_an_error_is_not_taken_for_one():
    with pytest.raises(TourFailure, match="expected an error"):
        error_of(lambda: None)
    assert not all_close([torch.zeros(2)], [torch.full((2,), 1e-3)])


def test_shown_code_has_neither_imports_nor_the_tours_own_calls():
    assert len(CELLS) == sum("```python" in line for line in SOURCE.splitlines())
    for cell in CELLS:
        assert not re.search(r"^\s*(tour\.|import|from)", cell.shown, re.MULTILINE)
    assert all(cell.prose for cells in chapters().values() for cell in cells[1:])
