"""The formats of an export: their names, their files, and what has to be installed. Imports no torch."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Literal

FormatName = Literal["onnx", "torch_export", "openvino", "safetensors"]

FILES: Mapping[FormatName, str] = {
    "onnx": "model.onnx",
    "torch_export": "model.pt2",
    "openvino": "model.xml",  # with model.bin
    "safetensors": "model.safetensors",
}
PACKAGES: Mapping[FormatName, tuple[str, ...]] = {
    "onnx": ("onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
}


def check_installed(name: FormatName) -> None:
    """Raise a ValueError that says what to install for a format, where it is missing."""
    missing = [package for package in PACKAGES.get(name, ()) if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"format={name}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed. Type "
            f"pip install 'frostline[export]', or choose format=torch_export"
        )
