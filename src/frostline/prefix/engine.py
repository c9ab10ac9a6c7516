"""Inference engines: what computes the prefix of a network, and the choice of one for a run.

    engine = Engine("openvino")
    model = split_at_frost_line(network, trainable=…, held=…, engine=engine)

The prefix is a constant function of the image, so that it can be converted for an inference engine. A run has one
engine, which its checkpoints record: resumed runs, tests and predictions compute the same function.
"""

import functools
import logging
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, get_args

import torch
from torch import Tensor, nn

from frostline.modes import eval_mode
from frostline.prefix.engine_names import (
    DEFAULT_ENGINE,
    INSTALL,
    WORTH_IMAGES,
    WORTH_OPERATIONS,
    EngineName,
    converts,
)
from frostline.prefix.traced import Part, without_gaps

log = logging.getLogger("frostline.engine")


class EngineError(ValueError):
    """Why an engine cannot compute a prefix."""


@dataclass(frozen=True, kw_only=True)
class RecordedLine:
    """The frost line at which a network was split; the names are those of a `ResolvedPhase`."""

    trainable: frozenset[str]
    eval_modules: frozenset[str]


class Engine:
    """The inference engine of a run.

    Args:
        requested: `torch`, `openvino`, or `auto`: the engine of the checkpoint that is loaded, else OpenVINO where
            it is installed and `decide` finds that the work pays for the conversion.
        recorded: `state()` of an engine, from a checkpoint.

    Attributes:
        name: the engine; `auto` until it is decided, which computes by torch.
        line: the frost line at which it computed last.

    Raises:
        ValueError: no such engine, or it is not installed.
    """

    def __init__(self, requested: EngineName = DEFAULT_ENGINE, *, recorded: Mapping[str, Any] | None = None) -> None:
        if requested not in get_args(EngineName):
            choices = ", ".join(get_args(EngineName))
            raise ValueError(f"ComputeOptions.engine: there is no engine {requested!r}. The choices are: {choices}.")
        self.requested = self.name = requested
        self.line: RecordedLine | None = None
        if recorded is not None:
            self.load(recorded, instead="engine=torch")
        check_installed(self.name)

    @property
    def converts(self) -> bool:
        """Whether the prefix is converted: torch does not compute it."""
        return converts(self.name)

    def begin(self, *, trainable: Collection[str], eval_modules: Collection[str]) -> None:
        """Take note of the frost line of a phase."""
        self.line = RecordedLine(trainable=frozenset(trainable), eval_modules=frozenset(eval_modules))

    def state(self) -> dict[str, Any]:
        """Plain values from which the same function can be built again."""
        if not self.converts or self.line is None:
            return {"name": self.name}
        line = {key: sorted(getattr(self.line, key)) for key in ("trainable", "eval_modules")}
        return {"name": self.name, **line}

    def load(self, state: Mapping[str, Any], *, instead: str = "ComputeOptions.engine=torch") -> None:
        """Take over `state()`; an engine that was asked for by name stays.

        Args:
            instead: what to type to compute by torch.

        Raises:
            ValueError: the recorded engine is not installed.
        """
        name = state.get("name", "torch")
        if self.requested == "auto":
            check_installed(name, why="which computed the frozen layers of the checkpoint", instead=instead)
            self.name = name
        elif name not in ("auto", self.name):
            log.warning("engine: the checkpoint's frozen layers were computed by %s, now by %s.", name, self.name)
        if "trainable" in state:
            self.begin(trainable=state["trainable"], eval_modules=state["eval_modules"])

    def decide(self, operations: Iterable[float], *, images: int, possible: bool) -> str | None:
        """Choose the engine where it is still open; the line for the log that says so, where it is not torch.

        Args:
            operations: floating-point operations of each prefix for one image; read only if they matter.
            images: number of images of the run, each counted once.
            possible: the device is a CPU, and nothing else speaks for torch.
        """
        if self.name != "auto":
            return None
        possible = possible and images >= WORTH_IMAGES and find_spec("openvino") is not None
        most = max(operations, default=0.0) if possible else 0.0
        self.name = "openvino" if possible and images * most >= WORTH_OPERATIONS else "torch"
        if self.name == "torch":
            return None
        return (
            f"OpenVINO {version('openvino')} computes the frozen layers: {images:,} images of {most / 1e9:.1f} GFLOP "
            "pay for the conversion. To turn this off: ComputeOptions.engine=torch"
        )

    def give_up(self, reason: EngineError) -> None:
        """Compute by torch from now on, as the conversion failed.

        Raises:
            ValueError: the engine was asked for by name.
        """
        if self.requested == self.name:
            raise ValueError(
                f"ComputeOptions.engine: {self.name} cannot compute the frozen layers ({reason}). Choose "
                "ComputeOptions.engine=torch"
            ) from reason
        log.info("The frozen layers are computed by torch: OpenVINO cannot (%s).", reason)
        self.name = "torch"


def check_installed(name: str, *, why: str = "", instead: str = "ComputeOptions.engine=torch") -> None:
    """Raise where the packages of an engine are not installed.

    Args:
        why: the reason for this engine.
        instead: what to type to compute by torch.

    Raises:
        ValueError: says how to install them.
    """
    needed = {"openvino": ["openvino"]}.get(name, [])
    if missing := [package for package in needed if find_spec(package) is None]:
        because = f" ({why})" if why else ""
        packages = " and ".join(missing)
        raise ValueError(f"The engine {name}{because} needs {packages}: {INSTALL}. Or compute by torch: {instead}")


class ConvertedPart:
    """A part of a network, run by OpenVINO on the CPU: it maps what the part does, with the same type and layout.

    It is converted at its first call, and again for another image size, precision, or changed weights. An image's
    result depends neither on the batch that it is in nor on the number of threads (tests/prefix/test_engine.py).
    """

    def __init__(self, network: nn.Module, part: Part) -> None:
        self.network, self.part = network, part
        self._converted: tuple[Any, ...] | None = None

    def about(self) -> dict[str, str]:
        """What its results depend on besides the part, the precision and the device."""
        return {"engine": "openvino", "openvino": version("openvino")}

    def __call__(self, inputs: Tensor) -> Tensor:
        """
        Raises:
            EngineError: the inputs or the weights are of a kind that is not converted.
        """
        if inputs.device.type != "cpu":
            raise EngineError(f"it computes on the CPU, and the device is {inputs.device.type}")
        if inputs.dtype != torch.float32:
            raise EngineError(f"the images are {inputs.dtype}, and it takes float32".replace("torch.", ""))
        key = (_precision(), tuple(inputs.shape[1:]), inputs.stride()[1] == 1, self._versions())
        if self._converted is None or self._converted[0] != key:
            self._converted = (key, *self._convert(inputs))
        _, request, example = self._converted
        values = torch.from_numpy(request.infer([inputs.detach().contiguous().numpy()])[0])
        shape, strides = (len(inputs), *example.shape[1:]), (example[0].numel(), *example.stride()[1:])
        result: Tensor = example.new_empty_strided(shape, strides).copy_(values)
        return result

    def _versions(self) -> list[tuple[int, int]]:
        """Changes whenever a weight or a statistic is replaced or written to."""
        modules = [self.network.get_submodule(name) for name in self.part.modules]
        found = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        found += [operator.attrgetter(name)(self.network) for name in self.part.tensors]
        return [(id(tensor), tensor._version) for tensor in found]

    def _convert(self, inputs: Tensor) -> tuple[Any, Tensor]:
        """An inference request, and the part's result of two images by torch, for its type and layout."""
        with torch.inference_mode(False), torch.no_grad():
            layout = torch.channels_last if inputs.stride()[1] == 1 else torch.contiguous_format
            example = torch.zeros(2, *inputs.shape[1:]).to(memory_format=layout)
            result = without_gaps(self.part.run(example))
            with torch.autocast("cpu", enabled=False):
                model = openvino_model(_PartModule(self.network, self.part), example)
        options = {
            "INFERENCE_PRECISION_HINT": _precision(),
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # ranks and loader workers share the cores
        }
        compiled = openvino_core().compile_model(model, "CPU", options)
        return compiled.create_infer_request(), result

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_converted": None}  # a converted model is neither copied nor pickled


def _precision() -> str:
    """OpenVINO's name of the number format in which torch would compute now."""
    if not torch.is_autocast_enabled("cpu"):
        return "f32"
    names = {torch.bfloat16: "bf16", torch.float16: "f16"}
    return names[torch.get_autocast_dtype("cpu")]


@functools.cache
def openvino_core() -> Any:
    """OpenVINO, loaded once and kept: it sets the thread's alternate signal stack, and frees it when a second one ends;
    the next signal, as of a loader's worker that exits, would then end the process (seen in 2026.4.1 with AMX)."""
    import openvino

    return openvino.Core()


class _PartModule(nn.Module):
    def __init__(self, network: nn.Module, part: Part) -> None:
        super().__init__()
        self.network, self.part = network, part

    def forward(self, values: Tensor) -> Tensor:
        return self.part.run(values)


def openvino_model(module: nn.Module, example: Tensor) -> Any:
    """A module as an `openvino.Model` for any number of images.

    Args:
        example: at least two images.

    By OpenVINO's frontend: `openvino.convert_model` sends usage data to Google Analytics, and nothing asks before.

    Raises:
        EngineError: it cannot be converted.
    """
    try:
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

        frontend = FrontEndManager().load_by_framework("pytorch")
        batch = ({0: torch.export.Dim.DYNAMIC},)
        with _without_warnings(), eval_mode(module):
            program = torch.export.export(module, (example,), dynamic_shapes=batch)
            decoder = TorchFXPythonDecoder.from_exported_program(program)  # in use until the conversion ends
            model = frontend.convert(frontend.load(decoder))
        model.reshape([-1, *example.shape[1:]])
    except Exception as error:  # whatever torch.export and the frontend do with a network that they do not know
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise EngineError(f"{type(error).__name__}: {lines[0] if lines else ''}") from error
    return model


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Leave out the log lines of OpenVINO 2026.4 about two operations that torch 2.15 no longer decomposes."""
    logger, keep = logging.getLogger(), lambda record: "not found in decomp table" not in record.msg
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
