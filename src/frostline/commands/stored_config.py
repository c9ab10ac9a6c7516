"""The config in a checkpoint that a run goes on from, as the config files that `frostline train` is composed of."""

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.commands.launcher import global_rank
from frostline.commands.quoting import literal_text, parsed
from frostline.commands.words import LISTS, key_of, typed_keys
from frostline.config.commands import TrainConfig, stored_settings
from frostline.config.paths import absolute, to_go_on_from
from frostline.renamed import with_current_names
from frostline.storage.run_files import run_folder_of
from frostline.trust import check_trust, reading_only, without_keys

OPTION = "of_the_checkpoint"  # the option of each group that has what the checkpoint has
# What is of a run's beginning, or of the machine's user, and in no checkpoint's say.
OF_THE_COMMAND = ("fit", "resume_from", "init_from", "on_policy_change", "trust_checkpoint", "output_dir")


@dataclass(frozen=True, kw_only=True)
class StoredConfig:
    """A checkpoint's config.

    checkpoint: the file.
    groups: the keys of each group's option.
    keys: the keys outside the groups.
    folder: the run folder in which the run goes on; None where it gets a new one.
    """

    checkpoint: Path
    groups: Mapping[str, Mapping[str, Any]]
    keys: Mapping[str, Any]
    folder: Path | None

    def option(self, config_path: str) -> Mapping[str, Any] | None:
        """The content of `GROUP/of_the_checkpoint`; None for another path."""
        group, _, name = config_path.removesuffix(".yaml").partition("/")
        return self.groups.get(group) if name == OPTION else None

    def laid_under(self, file: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """The content of `run.yaml` or `train.yaml` with the checkpoint's values in place of the defaults."""
        laid = dict(content)
        if file == "run":
            chosen = {group: [OPTION] if group in LISTS else OPTION for group in self.groups}
            laid["defaults"] = [
                {key: chosen.get(key, value) for key, value in item.items()} for item in laid["defaults"]
            ]
        if file == "train":
            laid |= self.keys
            if self.folder is not None:
                laid["hydra"] = {**laid["hydra"], "run": {"dir": _literal(str(self.folder))}}
        return laid

    def untrusted(self, settings: Mapping[str, Any], choices: Mapping[str, Any], typed: Collection[str]) -> list[str]:
        """Why the checkpoint's word is not taken for classes to import and addresses to contact.

        Args:
            settings: the composed config.
            choices: the option of each group.
            typed: the keys of the command line, which are the user's own word.
        """
        own = {group: settings[group] for group in self.groups if OPTION in str(choices.get(group))}
        try:
            check_trust(self.checkpoint, without_keys(own, typed), how="type trust_checkpoint=true")
        except ValueError as error:
            return [f"resume_from: {error}"]
        return []


def stored_config(command: str, overrides: Sequence[str], *, sweeps: bool) -> StoredConfig | None:
    """The config of the checkpoint that an override names; None where there is none, or none that can be read.

    What is wrong with the checkpoint is found later, when all of it is read.
    """
    read = {key_of(found): found for text in reversed(overrides) if (found := parsed(text))}
    named, trusted = read.get("resume_from"), read.get("trust_checkpoint")
    if command != "train" or named is None or named.is_sweep_override() or not isinstance(named.value(), str):
        return None
    try:
        checkpoint = Path(to_go_on_from(absolute(named.value())))
        content = read_without_tensors(checkpoint)
        settings = stored_settings(TrainConfig, with_current_names(content["frostline"]["settings"]))
    except (OSError, LookupError, TypeError, AttributeError, ValueError, pickle.UnpicklingError):
        return None
    settings = {key: _literal(value) for key, value in settings.items() if value is not None}
    groups = {key: settings.pop(key) for key in TrainConfig.groups() if isinstance(settings.get(key), dict)}
    keys = {key: value for key, value in settings.items() if key not in OF_THE_COMMAND}
    if trusted is None or trusted.value() is not True:
        _leave_out(groups, checkpoint)
    folder = None if sweeps else run_folder_of(checkpoint)
    return StoredConfig(
        checkpoint=checkpoint, groups=groups, keys=keys, folder=folder if _same_folder(folder, overrides) else None
    )


def _leave_out(groups: Mapping[str, dict[str, Any]], checkpoint: Path) -> None:
    """Replace what a checkpoint is not trusted with and a run can do without, with a note."""
    left_out = {f"data.{key}": value for key, value in reading_only(groups.get("data", {})).items()}
    if "://" in str(groups.get("model", {}).get("weights")):
        left_out["model.weights"] = str(checkpoint)  # which holds them
    for name, value in left_out.items():
        group, _, key = name.partition(".")
        groups[group][key] = value
        if global_rank() == 0:
            print(f"note: {name} of the checkpoint is left out; trust_checkpoint=true takes it")


def _same_folder(folder: Path | None, overrides: Sequence[str]) -> bool:
    """Whether nothing that was typed names another run folder."""
    typed = "output_dir" in typed_keys(overrides)
    return folder is not None and not typed and os.environ.get("RUN_ID") in (None, "", folder.name)


def _literal(value: Any) -> Any:
    """The value with its texts such that OmegaConf reads no ${…} in them."""
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(item) for item in value]
    return literal_text(value) if isinstance(value, str) else value


class _LeftOut(dict[Any, Any]):
    """Stands for each object of a class: nothing in a file is imported or run."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None: ...


class _PlainValues(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _LeftOut

    def persistent_load(self, _: Any) -> None:  # a tensor's values
        return None


def read_without_tensors(path: Path) -> Any:
    """The plain values in a file of `torch.save`, read without torch, whose import takes seconds.

    Raises:
        OSError, ValueError, LookupError, TypeError, AttributeError, pickle.UnpicklingError: it is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as file:
                return _PlainValues(file).load()
    except (zipfile.BadZipFile, EOFError, StopIteration, RuntimeError) as error:
        raise ValueError(f"{path}: torch.save did not write it") from error
