"""The names of the inference engines, and when the conversion for one is worth its time. Imports no library."""

from typing import Literal

EngineName = Literal["auto", "torch", "openvino"]
LoadedEngineName = Literal["auto", "torch"]  # of a checkpoint that is not trained on: the recorded one, or torch
DEFAULT_ENGINE: EngineName = "auto"
INSTALL = "pip install 'frostline[openvino]'"

# `auto` converts from this much work on, every image of the run counted once. On two cores a ResNet-18 at 224 px takes
# 3.6e9 operations an image, importing and converting it 2.5 s; OpenVINO saves 2.0 ms an image in float32 (an Intel Xeon
# with AMX; 3.5 ms on an AMD EPYC), 1.8 ms in bf16 on the EPYC, and nothing in bf16 with AMX, where `auto` stays with
# torch: it pays from about 4.5e12 operations on, and twice that is asked for. Neither times measured in the run nor the
# cache's state count, so that a run and its repetition choose the same.
WORTH_OPERATIONS = 1e13
WORTH_IMAGES = 256  # with fewer, the operations are not counted


def converts(name: str) -> bool:
    """Whether the frozen layers are converted for this engine; `auto`, until it is decided, computes by torch."""
    return name not in ("auto", "torch")
