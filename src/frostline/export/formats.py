"""A network in a file for another program, and that file run again: ONNX, torch.export, OpenVINO, safetensors."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from frostline.data.spec import DataSpec, Normalisation
from frostline.export.format_names import FormatName
from frostline.prefix.engine import openvino_core, openvino_model

INPUT, OUTPUT = "images", "logits"  # of an ONNX and an OpenVINO model

Run = Callable[[Tensor], Tensor]


class PreparedNetwork(nn.Module):
    """Maps images (batch, 3, image_size, image_size), float32 in [0, 1], to logits (batch, classes): the normalisation,
    then the network, then the division by the temperature (see `frostline calibrate`) where it is not 1."""

    def __init__(self, network: nn.Module, spec: DataSpec, *, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.normalised = Normalisation(spec)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalised(images))
        return logits if self.temperature == 1 else logits / self.temperature


def write(name: FormatName, model: PreparedNetwork, example: Tensor, path: Path) -> None:
    """Write the model, which takes any number of images, to a file.

    Args:
        model: in eval mode, on the CPU.
        example: at least two images; one would be taken for the only number.

    Raises:
        ValueError: the format cannot hold this network.
    """
    try:
        with torch.no_grad():
            _WRITERS[name](model, example, path)
    except OSError:
        raise
    except Exception as error:  # whatever an exporter does with a network that it does not know
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0] if lines else ''}"
        raise ValueError(f"format={name}: this network cannot be written in it ({reason})") from error


def load(name: FormatName, path: Path, model: PreparedNetwork) -> Run:
    """The file's own function from images to logits, by the program that the file is for.

    Args:
        model: what was written; of a file of weights, the network that they are loaded into.
    """
    return _LOADERS[name](path, model)


def _write_onnx(model: PreparedNetwork, example: Tensor, path: Path) -> None:
    program = torch.onnx.export(
        model,
        (example,),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=(_BATCH,),
        dynamo=True,
        verbose=False,
    )
    assert program is not None, "a program, where no file is named"
    program.save(path)


def _write_torch_export(model: PreparedNetwork, example: Tensor, path: Path) -> None:
    torch.export.save(torch.export.export(model, (example,), dynamic_shapes=(_BATCH,)), path)


def _write_openvino(model: PreparedNetwork, example: Tensor, path: Path) -> None:
    import openvino

    converted = openvino_model(model, example)
    converted.inputs[0].get_tensor().set_names({INPUT})
    converted.outputs[0].get_tensor().set_names({OUTPUT})
    openvino.save_model(converted, path, compress_to_fp16=False)


def _write_safetensors(model: PreparedNetwork, _: Tensor, path: Path) -> None:
    state = {name: tensor.detach().clone().contiguous() for name, tensor in model.network.state_dict().items()}
    save_file(state, path, metadata={"format": "pt"})


def _load_onnx(path: Path, _: PreparedNetwork) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def _load_torch_export(path: Path, _: PreparedNetwork) -> Run:
    return torch.export.load(path).module()


def _load_openvino(path: Path, _: PreparedNetwork) -> Run:
    compiled = openvino_core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: torch.from_numpy(compiled(images.numpy())[0].copy())


def _load_safetensors(path: Path, model: PreparedNetwork) -> Run:
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in (*fresh.network.parameters(), *fresh.network.buffers()):
            tensor.zero_()  # so that what the file lacks is missed
    fresh.network.load_state_dict(load_file(path))
    return fresh


_BATCH: Mapping[int, Any] = {0: torch.export.Dim("batch", min=1)}
_WRITERS: Mapping[str, Callable[[PreparedNetwork, Tensor, Path], None]] = {
    "onnx": _write_onnx,
    "torch_export": _write_torch_export,
    "openvino": _write_openvino,
    "safetensors": _write_safetensors,
}
_LOADERS: Mapping[str, Callable[[Path, PreparedNetwork], Run]] = {
    "onnx": _load_onnx,
    "torch_export": _load_torch_export,
    "openvino": _load_openvino,
    "safetensors": _load_safetensors,
}
