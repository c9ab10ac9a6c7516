"""The names of the inference engines, and when the conversion for one is worth its time. Imports no library."""

from typing import Literal

EngineName = Literal["auto", "torch", "openvino"]
DEFAULT_ENGINE: EngineName = "auto"
INSTALL = "pip install 'frostline[openvino]'"

# `auto` converts from this much work on, every image of the run counted once. Importing and converting a ResNet-18
# take about 2.5 s of processor time; two cores compute 2e12 operations in about 20 s with torch in float32. Only what
# cannot differ between a run, its repetition and its ranks is counted: neither measured times nor the cache's state.
WORTH_OPERATIONS = 2e12
WORTH_IMAGES = 256  # with fewer, the operations are not counted
