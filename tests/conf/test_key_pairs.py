"""Every documented key, at values made from its type, trains under the defaults and beside other keys, or is refused.

A training of three steps on 16 pixels runs for each combination, in this process. By default all keys are shared out
over few trainings, one key of each group in each; the slow tests pair every key with every `speed`, `precision` and
`optimizer`.
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
from frostline.config.section import Section

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
Setting = tuple[str, ...]  # overrides that belong together: an option, and a key of it


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


def settings() -> tuple[dict[str, list[Setting]], dict[str, list[dict[str, list[str]]]]]:
    """Every option, and every key at every value beside one option of each schema, by group; and for each option of a
    group its keys with their values, the option itself among them."""
    found: dict[str, list[Setting]] = {}
    keys: dict[str, list[dict[str, list[str]]]] = {}
    seen: set[type[Section]] = set()
    options = group_options(None)
    for group in TRAIN.groups():
        for option in options[group]:
            if option in ELSEWHERE.get(group, ()):
                continue
            chosen = f"{group}={option}"
            found.setdefault(group, []).append((chosen,))
            node = default_config("train", (chosen,))[group]
            schema = TRAIN.groups()[group].schema_of(node)
            assert schema is not None
            keys.setdefault(group, []).append({group: [option]})
            for key, field in fields_of(schema).items():
                if (name := f"{group}.{key}") in OTHERWISE_TESTED or key in ("name", "csv", "tensorboard", "wandb"):
                    continue
                typed = TEXTS.get(name) or list(values(field.annotation, field.metadata))
                assert typed, f"{name}: no value is known for its type; add one to TEXTS or say who tests it"
                keys[group][-1][name] = typed
                if schema not in seen:
                    found[group] += [(chosen, f"{name}={value}") for value in typed]
            seen.add(schema)
    return found, keys


SETTINGS, KEYS = settings()


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


def shared_out() -> list[tuple[Setting, ...]]:
    """One setting of each group in each combination, until each has been in one."""
    generator = random.Random(0)
    longest = max(map(len, SETTINGS.values()))
    columns = []
    for found in SETTINGS.values():
        repeated = [*found, *(generator.choice(found) for _ in range(longest - len(found)))]
        generator.shuffle(repeated)
        columns.append(repeated)
    return list(zip(*columns, strict=True))


def keys_of(setting: Setting) -> set[str]:
    """The names by which a message may speak of a setting: the key of each override, whole and its last part."""
    keys = {word.partition("=")[0] for word in setting}
    return keys | {key.rpartition(".")[2] for key in keys}


def trained_without_refused(combination: Sequence[Setting], folder: Path) -> None:
    """Train a combination; settings that a message names are left out until the rest trains."""
    left = list(combination)
    for attempt in range(len(combination) + 1):
        output = outcome([word for setting in left for word in setting], folder / str(attempt))
        if output == "trained":
            return
        named = [setting for setting in left if any(key in output for key in keys_of(setting))]
        assert named, (output, left)
        # The longest: `data.batch_size` is more to the point than `data`.
        left.remove(max(named, key=lambda setting: max(len(key) for key in keys_of(setting) if key in output)))


SHARED_OUT = shared_out()
# A twelfth of them by default: a training takes about a second.
SOME = [pytest.param(place, marks=() if place % 12 == 0 else pytest.mark.slow) for place in range(len(SHARED_OUT))]


@pytest.mark.parametrize("place", SOME)
def test_every_key_trains_beside_keys_of_other_groups(place: int, tmp_path: Path) -> None:
    trained_without_refused(SHARED_OUT[place], tmp_path)


# Groups whose keys meet the optimizer, the precision or the fast path in a step.
MEETING = ("trainer", "freeze", "scheduler", "augment", "loss", "head", "cache")
# As many as a key has values at most: each value meets each optimizer, each option some of them.
ROWS = max(len(values) for group in MEETING for keys in KEYS[group] for values in keys.values())
OPTIMIZERS = [options["optimizer"][0] for options in KEYS["optimizer"]]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("row", range(ROWS))
def test_every_key_of_a_step_trains_with_every_optimizer_precision_and_speed(
    row: int, optimizer: str, tmp_path: Path
) -> None:
    turn = OPTIMIZERS.index(optimizer)
    chosen = [KEYS[group][(row + turn * ROWS) % len(KEYS[group])] for group in MEETING]
    words = [f"{key}={values[row % len(values)]}" for keys in chosen for key, values in keys.items()]
    words.append(f"optimizer={optimizer}")
    words.append(f"speed={('fast', 'plain')[(row + turn) % 2]}")
    words.append(f"trainer.precision={('bf16-mixed', '32-true')[(row // 2 + turn) % 2]}")
    trained_without_refused([(word,) for word in words], tmp_path)


def test_a_run_that_ends_before_its_first_validation_ends_well_with_early_stopping(tmp_path: Path) -> None:
    assert outcome(["callbacks.early_stopping_patience=1", "trainer.max_steps=1"], tmp_path) == "trained"
