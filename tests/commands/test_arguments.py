"""Both doors: the library's messages name arguments, the command line's the keys to type."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frostline.commands.arguments import KEYS, with_keys
from frostline.commands.failures import message_of
from frostline.commands.help import default_config
from frostline.commands.log_lines import PrintableFormatter
from frostline.data import decoded_cache, time_limit
from frostline.data.image_folder import ImageFolder
from frostline.data.order import per_rank
from frostline.data.streaming import Streaming
from frostline.losses import CrossEntropy
from frostline.models.weights import find_weights
from frostline.numeric_checks import diverged, one_value_error
from frostline.options import ComputeOptions, FeatureCache
from frostline.prefix import store
from frostline.schedulers import cosine

SOURCE = Path(__file__).parents[2] / "src/frostline"
# Packages of the command line.
COMMAND_LINE = {"commands", "config", "tracking"}


def raised(error: Exception) -> Callable[[], Any]:
    def call() -> None:
        raise error

    return call


BOTH: dict[str, tuple[Callable[[], Any], str, str]] = {
    "batch_size": (
        raised(one_value_error(["bn1"], processes=2)),
        "batch_size: a batch norm that trains",
        "data.batch_size: a batch norm that trains",
    ),
    "in the text": (
        raised(one_value_error([], processes=2)),
        " Use batch_size=4 or more",
        " Use data.batch_size=4 or more",
    ),
    "quoted": (raised(one_value_error([], processes=1)), "(batch_norm='frozen' in", "(freeze.batch_norm=frozen in"),
    "missing file": (
        lambda: find_weights("gone.pth"),
        "weights: there is no file `gone.pth`",
        "model.weights: there is no file `gone.pth`",
    ),
    "missing folder": (
        lambda: ImageFolder(path="nowhere"),
        "path=nowhere: no such folder",
        "data.path=nowhere: no such folder",
    ),
    "ranks": (
        lambda: per_rank(33, world_size=2),
        "batch_size=33 is the global batch",
        "data.batch_size=33 is the global batch",
    ),
    "diverged": (
        raised(diverged("The loss became nan", step=1, epoch=0)),
        "(lr=…), gradient_clip_val=1 or precision='32-true' may help",
        "(optimizer.lr=…), trainer.gradient_clip_val=1 or trainer.precision=32-true may help",
    ),
    "schedule": (lambda: cosine(warmup=2), "warmup=2 is out of range", "scheduler.warmup=2 is out of range"),
    "loss": (
        lambda: CrossEntropy(label_smoothing=2),
        "label_smoothing=2 must be at least 0",
        "loss.label_smoothing=2 must be at least 0",
    ),
    "shards": (
        lambda: Streaming(path="nowhere"),
        "path=nowhere: no such folder",
        "data.path=nowhere: no such folder",
    ),
    "advice": (
        raised(ValueError(f"No lock; {decoded_cache.ADVICE}, or {store.ADVICE}.")),
        "type decoded_cache=ANOTHER_FOLDER or decoded_cache=None, or type FeatureCache.folder=ANOTHER_FOLDER or ",
        "type data.decoded_cache=ANOTHER_FOLDER or data.decoded_cache=null, or type cache.folder=ANOTHER_FOLDER or "
        "speed.feature_cache=false.",
    ),
    "timeout": (
        raised(TimeoutError(time_limit.TEXT.format(5))),
        "(Loading.timeout=5)",
        "(data.loader_timeout=5)",
    ),
    "True": (
        lambda: ComputeOptions(frozen_prefix=False, feature_cache=FeatureCache(folder=Path())),
        "feature_cache: needs frozen_prefix=True",
        "speed.feature_cache: needs speed.frozen_prefix=true",
    ),
}


@pytest.mark.parametrize(("call", "python", "typed"), BOTH.values(), ids=BOTH)
def test_python_reads_arguments_and_the_command_line_keys(call: Callable[[], Any], python: str, typed: str) -> None:
    with pytest.raises((ValueError, OSError, FloatingPointError)) as caught:
        call()
    assert python in (getattr(caught.value, "strerror", None) or str(caught.value))
    assert typed in message_of(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "photos/batch_size=3/a.jpg: cannot be read",
        "data.batch_size=33 is the global batch",
        "a.ckpt: weights: of another program",
        "torch.load('a.pth', weights_only=True)",
        "The precision of a metric",
    ],
)
def test_what_is_no_argument_stays_as_it_is(text: str) -> None:
    assert with_keys(text) == text


def test_every_argument_stands_for_a_key_that_exists() -> None:
    options = ("scheduler=step", "scheduler=cosine", "scheduler=onecycle", "optimizer=adamw")
    options += ("data=torchvision", "data=image_folder", "data=fashion_mnist", "data=streaming")
    configs = [default_config("train", (option,)) for option in options] + [default_config("evaluate")]
    for key in KEYS.values():
        group, _, name = key.rpartition(".")
        assert (
            any(name in (config.get(group, {}) if group else config) for config in configs) or key == "optimizer.fused"
        ), key


def test_a_line_of_the_library_in_the_log_names_keys_and_one_of_the_program_stays() -> None:
    lines = [
        PrintableFormatter("%(message)s").format(logging.LogRecord(name, 20, "", 0, "store it with views=4", (), None))
        for name in ("frostline.fast_path", "frostline")
    ]
    assert lines == ["store it with cache.views=4", "store it with views=4"]


def test_the_library_names_no_key() -> None:
    """Groups of keys that are no argument of the library's own."""
    key = re.compile(r"\b(?:data|model|optimizer|trainer|speed|cache|scheduler|callbacks|loss|head)\.[a-z_]+(?:=|: )")
    found = [
        f"{file.relative_to(SOURCE)}: {line.strip()}"
        for file in sorted(SOURCE.rglob("*.py"))
        if file.relative_to(SOURCE).parts[0] not in COMMAND_LINE
        for line in file.read_text().splitlines()
        if key.search(line) and ('"' in line or "'" in line)
    ]
    assert found == []
