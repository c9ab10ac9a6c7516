"""Every documented key, at values made from its type, trains under the defaults and beside other keys, or is refused.

A training of three steps on 20 pixels runs for each combination, in this process: an option of each group, and values
of some of its keys.
"""

import random
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tests.configs import config

from frostline.commands import train
from frostline.commands.arguments import with_keys
from frostline.commands.config_files import group_options
from frostline.commands.defaults import without_auto
from frostline.commands.failures import USER_MISTAKES
from frostline.commands.help import default_config
from frostline.commands.overrides import Invocation, problems_of
from frostline.commands.words import adapted
from frostline.config.commands import COMMANDS
from frostline.config.key_text import fields_of, value_text

# Of Lightning's PyTorchProfiler that is freed before its run began, where a combination is refused.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <function Profiler.__del__")

TRAIN = COMMANDS["train"]
SMALL = {
    "data": "synthetic",
    "data.classes": "3",
    "data.length": "40",
    "data.batch_size": "4",
    "data.image_size": "20",  # bf16 on a CPU needs more than 16
    "model.weights": "none",
    "device": "cpu",
    "device.threads": "1",
    "trainer.max_epochs": "1",
    "trainer.limit_train_batches": "3",
    "trainer.limit_val_batches": "2",
    "trainer.limit_test_batches": "2",
    "callbacks.progress_bar": "false",
}
DIGITS_LACK = ("data.classes", "data.length")
# Options that need files, a GPU or minutes; each is trained by tests of its own.
ELSEWHERE = {
    "data": {"image_folder", "csv", "streaming", "torchvision", "fashion_mnist"},
    "device": {"gpu", "multi_gpu", "slurm", "cpu_ddp"},
    "freeze": {"file"},
    "logger": {"wandb", "none"},
    "model": set(group_options(None)["model"]) - {"resnet18"},
}
# Keys that name files, start processes or take minutes, and names that the option says already.
OTHERWISE_TESTED = {
    "seed", "resume_from", "init_from", "output_dir", "on_policy_change", "fit", "test",
    "model.weights", "head.hidden", "data.path", "data.decoded_cache", "data.root", "data.mean", "data.std",
    "data.workers",
    # Seconds, which a busy machine exceeds.
    "data.loader_timeout", "device.timeout",
    "data.image_size", "data.size", "device.accelerator", "device.devices", "device.num_nodes", "trainer.compile",
    "trainer.max_epochs", "trainer.precision", "trainer.sync_batchnorm", "cache.folder", "freeze.train",
    "freeze.phases", "head.activation",
}  # fmt: skip
TEXTS = {
    "freeze.lr": ["{head: 2}"],
    "optimizer.exclude_from_decay": ["[bias]", "[norm]"],
    "optimizer.betas": ["[0.5, 0.6]"],
    "optimizer.eta": ["[0.4, 1.3]"],
    "optimizer.etas": ["[0.4, 1.3]"],
    "optimizer.step_sizes": ["[0.001, 1]"],
    "callbacks.monitor": ["auto", "val/f1", "val/loss"],
    "trainer.max_time": ["00:01:00:00"],
    "optimizer.eps": ["[1.0e-20, 0.01]"],
}


def values(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[str]:
    """Values of a type as one types them: each choice, the smallest and the next numbers, whole numbers for floats."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [part for item in parts[1:] for part in getattr(item, "metadata", [item])]
        yield from values(parts[0], limits)
    elif origin in (Union, UnionType):
        for part in parts:
            yield from values(part, metadata)
    elif origin is Literal:
        yield from map(value_text, parts)
    elif annotation is bool:
        yield from ("true", "false")
    elif annotation is type(None):
        yield "null"
    elif annotation in (int, float):
        low = max([0.0, *(float(m.ge) for m in metadata if isinstance(m, annotated_types.Ge))])
        beyond = [float(m.gt) for m in metadata if isinstance(m, annotated_types.Gt)]
        high = min([1e9, *(float(m.le) for m in metadata if isinstance(m, annotated_types.Le))])
        below = min([1e9, *(float(m.lt) for m in metadata if isinstance(m, annotated_types.Lt))])
        for number in dict.fromkeys((low, low + 1, low + 2) if annotation is int else (low, 1.0, 0.25)):
            if number <= high and number < below and all(number > limit for limit in beyond):
                yield str(int(number)) if number == int(number) else str(number)


Hand = dict[str, str]  # keys of one group with a value each, the option of the group among them


def words_of(hand: Hand) -> list[str]:
    return [f"{key}={value}" for key, value in hand.items()]


def hands_of(group: str, option: str) -> list[Hand]:
    """Every value of every key of an option, four keys beside it in each hand at most."""
    schema = TRAIN.groups()[group].schema_of(default_config("train", (f"{group}={option}",))[group])
    assert schema is not None
    hands: list[Hand] = [{group: option}]
    for key, field in fields_of(schema).items():
        if (name := f"{group}.{key}") in OTHERWISE_TESTED or key in ("name", "csv", "tensorboard", "wandb"):
            continue
        typed = TEXTS.get(name) or list(values(field.annotation, field.metadata))
        assert typed, f"{name}: no value is known for its type; add one to TEXTS or say who tests it"
        for value in typed:
            with_room = [hand for hand in hands if len(hand) < 5 and name not in hand]
            if not with_room:
                hands.append({group: option})
            (with_room or hands[-1:])[0][name] = value
    return hands


HANDS = {
    group: [hand for option in options if option not in ELSEWHERE.get(group, ()) for hand in hands_of(group, option)]
    for group, options in group_options(None).items()
    if group in TRAIN.groups()
}
HANDS["precision"] = [{"trainer.precision": precision} for precision in ("bf16-mixed", "32-true")]


def combinations() -> list[list[str]]:
    """A hand of each group, dealt until each has been in one."""
    generator = random.Random(0)
    length = max(map(len, HANDS.values()))
    found: list[list[str]] = [[] for _ in range(length)]
    for hands in HANDS.values():
        dealt = [hands[place % len(hands)] for place in range(length)]
        generator.shuffle(dealt)
        for place, hand in enumerate(dealt):
            found[place] += words_of(hand)
    return found


COMBINATIONS = combinations()


def test_every_value_of_every_key_is_in_a_combination() -> None:
    dealt = {word for words in COMBINATIONS for word in words}
    assert dealt == {word for hands in HANDS.values() for hand in hands for word in words_of(hand)}


def outcome(overrides: Sequence[str], folder: Path) -> str:
    """`trained`, or the message that refuses the overrides; any other error is the test's failure."""
    typed = {override.partition("=")[0] for override in overrides}
    lacks = DIGITS_LACK if "data=digits" in overrides else ()
    base = [f"{key}={value}" for key, value in SMALL.items() if key not in typed and key not in lacks]
    whole = adapted([*base, *overrides, f"cache.folder={folder / 'cache'}"])
    if problems := problems_of(Invocation(command="train", overrides=whole)):
        assert all(":" in problem and "\n" not in problem for problem in problems)
        return problems[0]
    chosen = config(*whole)
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            chosen = without_auto(chosen).config
            train.train(run, chosen)
        except (*USER_MISTAKES, MisconfigurationException) as error:
            return with_keys(str(error)) or "no message"
    saves = chosen.trainer.enable_checkpointing and not chosen.trainer.fast_dev_run
    assert (run / "checkpoints/last.ckpt").exists() == saves
    return "trained"


def names_of(word: str) -> set[str]:
    """The names by which a message may name an override: its key, whole and its last part."""
    key = word.partition("=")[0]
    return {key, key.rpartition(".")[2]}


# A twelfth of them by default: a training takes about a second.
@pytest.mark.parametrize(
    "place", [pytest.param(p, marks=() if p % 12 == 0 else pytest.mark.slow) for p in range(len(COMBINATIONS))]
)
def test_every_key_trains_beside_keys_of_other_groups(place: int, tmp_path: Path) -> None:
    """Overrides that a message names are left out until the rest trains."""
    left = list(COMBINATIONS[place])
    for attempt in range(len(left) + 1):
        output = outcome(left, tmp_path / str(attempt))
        if output == "trained":
            return
        named = [word for word in left if any(name in output for name in names_of(word))]
        if not named and "data.batch_size" in output:  # left out before, so that few images decide
            named = [word for word in left if word.startswith("data.") and "length" in word]
        assert named, (output, left)
        # The longest: `data.batch_size` is more to the point than `data`.
        lengths = {word: max((len(name) for name in names_of(word) if name in output), default=0) for word in named}
        left.remove(max(named, key=lambda word: lengths[word]))


def test_a_run_that_ends_before_its_first_validation_ends_well_with_early_stopping(tmp_path: Path) -> None:
    assert outcome(["callbacks.early_stopping_patience=1", "trainer.max_steps=1"], tmp_path) == "trained"
