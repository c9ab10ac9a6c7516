"""OpenVINO as the engine of a prefix: torch's function up to rounding, and of each image by itself."""

import copy
import ctypes
import gc
import logging
import sys
from typing import Any

import openvino_telemetry
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small, resnet18
from torchvision.models.resnet import BasicBlock, ResNet

from frostline.freezing.apply import apply_phase
from frostline.freezing.policy import FreezePolicy
from frostline.prefix import engine as engines
from frostline.prefix.engine import Engine, openvino_core
from frostline.prefix.engine_names import WORTH_IMAGES, WORTH_OPERATIONS
from frostline.prefix.split_model import SplitModel, split_at_frost_line

IMAGES = torch.randn(9, 3, 48, 48, generator=torch.Generator().manual_seed(5))


def small() -> nn.Module:
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)


def built(build: Any = small) -> nn.Module:
    torch.manual_seed(3)
    network = build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.to(memory_format=torch.channels_last)


def split(network: nn.Module, engine: Engine | None, train: str = "head") -> SplitModel:
    phase = FreezePolicy.static(train).resolve(network).phases[0]
    apply_phase(network, phase)
    model = split_at_frost_line(network, trainable=phase.trainable, held=phase.eval_modules, engine=engine)
    assert model is not None
    return model


def features(model: SplitModel, images: Tensor = IMAGES, *, bf16: bool = False) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return model.prefix(images)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("train", ["head", "layer3"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_features_are_torch_s_up_to_rounding_in_type_and_layout(bf16: bool, train: str, layout: Any) -> None:
    images = IMAGES.to(memory_format=layout)
    one, other = (features(split(built(), Engine(name), train), images, bf16=bf16) for name in ("openvino", "torch"))
    assert (one.dtype, one.stride(), one.requires_grad) == (other.dtype, other.stride(), False)
    torch.testing.assert_close(one, other, rtol=0.03 if bf16 else 1e-4, atol=0.05 if bf16 else 1e-4)


def test_what_trains_behind_the_frost_line_keeps_its_mode() -> None:
    network = built().train()
    model = split(network, Engine("openvino"), "layer4")
    modes = {name: module.training for name, module in network.named_modules()}
    assert modes["layer4.0.bn1"] is True
    features(model)
    assert {name: module.training for name, module in network.named_modules()} == modes


def test_true_float32_is_not_computed_in_bf16() -> None:
    network = built()
    exact = features(split(copy.deepcopy(network).double(), None), IMAGES.double())
    full, half = (features(split(network, Engine("openvino")), bf16=bf16).double() for bf16 in (False, True))
    assert (full - exact).abs().max() < 1e-5 * exact.abs().max()
    if "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert (half - exact).abs().max() > 1e-4 * exact.abs().max()


class SignalStack(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

    @classmethod
    def now(cls) -> int | None:
        stack = cls()
        ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
        return stack.address


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_the_thread_s_signal_stack_outlives_a_converted_network() -> None:
    """OpenVINO sets one and frees it; the next signal, as of a worker that exits, then ended the process."""
    openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    before = SignalStack.now()
    model = split(built(), Engine("openvino"))
    features(model)
    assert SignalStack.now() == before
    del model
    gc.collect()
    assert SignalStack.now() == before


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    "build", [small, *(pytest.param(build, marks=pytest.mark.slow) for build in (resnet18, mobilenet_v3_small))]
)
def test_an_image_s_features_depend_on_no_other_image_nor_on_threads_nor_on_the_conversion(
    bf16: bool, build: Any
) -> None:
    network = built(build)
    train = "classifier.*" if build is mobilenet_v3_small else "fc.*"
    model = split(network, Engine("openvino"), train)
    whole = features(model, bf16=bf16)
    for size in range(1, len(IMAGES)):
        assert torch.equal(features(model, IMAGES[:size], bf16=bf16), whole[:size])
    order = torch.randperm(len(IMAGES))
    assert torch.equal(features(model, IMAGES[order], bf16=bf16), whole[order])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads % 2 + 1)
        assert torch.equal(features(split(network, Engine("openvino"), train), bf16=bf16), whole)
    finally:
        torch.set_num_threads(threads)


def test_a_changed_weight_is_seen() -> None:
    network = built()
    model = split(network, Engine("openvino"))
    before = features(model)
    with torch.no_grad():
        network.get_parameter("layer1.0.conv1.weight").mul_(1.5)
    changed = features(model)
    assert not torch.equal(changed, before)
    torch.testing.assert_close(changed, features(split(network, None)), rtol=1e-4, atol=1e-4)


def test_it_can_be_converted_within_inference_mode_and_copied_afterwards() -> None:
    model = split(built(), Engine("openvino"))
    with torch.inference_mode():
        first = features(model)
    assert torch.equal(features(copy.deepcopy(model)), first)


def test_a_conversion_sends_no_usage_data(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(openvino_telemetry.Telemetry, "init", lambda *arguments, **_: sent.append(arguments))
    monkeypatch.setattr(openvino_telemetry.Telemetry, "send_event", lambda *arguments, **_: sent.append(arguments))
    features(split(built(), Engine("openvino")))
    assert sent == []


class Branching(nn.Module):
    """Decides by values, which no conversion can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=8)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images) if images.sum() > 0 else self.conv(-images)


def branching() -> nn.Module:
    return nn.Sequential(Branching(), nn.Sequential(nn.Flatten(), nn.Linear(144, 3)))


def split_branching(engine: Engine) -> SplitModel:
    network = branching()
    model = split_at_frost_line(network, trainable=["1.1.weight", "1.1.bias"], held=["0"], engine=engine)
    assert model is not None
    return model


def test_where_auto_cannot_convert_torch_computes_and_one_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine()
    engine.decide([WORTH_OPERATIONS], images=WORTH_IMAGES, possible=True)
    assert engine.name == "openvino"
    with caplog.at_level(logging.INFO):
        model = split_branching(engine)
        assert torch.equal(features(model), model.before.run(IMAGES))
        features(model)
    assert [record.message for record in caplog.records if "OpenVINO cannot" in record.message] == [caplog.messages[-1]]
    assert (engine.name, model.about()) == ("torch", {"batch": None})


def test_an_engine_asked_for_by_name_that_cannot_convert_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"openvino cannot compute the frozen layers \(.*Choose .*engine=torch"):
        features(split_branching(Engine("openvino")))
    with pytest.raises(ValueError, match=r"the images are float64, and it takes float32"):
        features(split(built().double(), Engine("openvino")), IMAGES.double())


@pytest.mark.parametrize(
    ("images", "operations", "possible", "name"),
    [
        (WORTH_IMAGES, WORTH_OPERATIONS / WORTH_IMAGES, True, "openvino"),
        (WORTH_IMAGES, WORTH_OPERATIONS / WORTH_IMAGES, False, "torch"),
        (WORTH_IMAGES, WORTH_OPERATIONS / WORTH_IMAGES / 2, True, "torch"),
        (WORTH_IMAGES - 1, WORTH_OPERATIONS, True, "torch"),
    ],
)
def test_auto_converts_where_the_work_pays(images: int, operations: float, possible: bool, name: str) -> None:
    engine = Engine("auto")
    line = engine.decide([operations], images=images, possible=possible)
    assert engine.name == name
    assert (line is not None) == (name == "openvino")


def test_auto_takes_torch_where_openvino_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    engine = Engine("auto")
    assert engine.decide([WORTH_OPERATIONS], images=WORTH_IMAGES, possible=True) is None
    assert engine.name == "torch"


def test_a_missing_package_is_named_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    install = r"pip install 'frostline\[openvino\]'"
    with pytest.raises(ValueError, match=rf"The engine openvino needs openvino: {install}.*engine=torch"):
        Engine("openvino")
    with pytest.raises(ValueError, match=rf"computed the frozen layers of the checkpoint\) needs openvino: {install}"):
        Engine("auto", recorded={"name": "openvino", "trainable": [], "eval_modules": []})
    assert Engine("torch", recorded={"name": "openvino"}).name == "torch"


def test_an_unknown_engine_is_answered_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'tensorrt'\. The choices are: auto, torch, openvino"):
        Engine("tensorrt")  # type: ignore[arg-type]
