"""Where Hydra finds config files: frostline's own and a user's, each with the defaults of what it leaves out."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, get_origin

from hydra import initialize_config_module
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from frostline.commands import run_folder
from frostline.commands.stored_config import StoredConfig
from frostline.config.commands import COMMANDS
from frostline.config.groups import RUN_GROUPS
from frostline.config.key_text import Fields, choices_in, fields_of, nested_section
from frostline.config.section import MISSING

PACKAGED = Path(str(files("frostline.conf")))


class ConfigFiles(FileConfigSource):
    """The YAML files of a folder.

    stored: the config of the checkpoint that a run goes on from, which takes the place of the defaults.
    """

    stored: ClassVar[StoredConfig | None] = None

    @staticmethod
    def scheme() -> str:
        return "frostline"

    def load_config(self, config_path: str) -> ConfigResult:
        if (node := self._without_file(config_path)) is not None:
            whole = OmegaConf.create(with_defaults(f"{config_path.partition('/')[0]}/*", node))
            header = self._get_header_dict("")
            return ConfigResult(provider=self.provider, path=self.full_path(), config=whole, header=header)
        found = super().load_config(config_path)
        if isinstance(found.config, DictConfig):
            keys = OmegaConf.to_container(found.config)
            assert isinstance(keys, dict)
            place = Path(config_path).with_suffix("").as_posix()
            filled = with_defaults(place, {str(key): value for key, value in keys.items()})
            found.config = OmegaConf.create(self.stored.laid_under(place, filled) if self.stored else filled)
        return found

    def is_config(self, config_path: str) -> bool:
        return super().is_config(config_path) or self._without_file(config_path) is not None

    def _without_file(self, config_path: str) -> Mapping[str, Any] | None:
        """The option that a network of a library is, of which most have no file, or that a checkpoint holds."""
        if self.stored is not None and (node := self.stored.option(config_path)) is not None:
            return node
        group, _, name = config_path.removesuffix(".yaml").partition("/")
        known = group == "model" and Path(self.path) == PACKAGED and not super().is_config(config_path)
        return {"name": name} if known and RUN_GROUPS["model"].named(name) is not None else None


def with_defaults(place: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config file with the defaults of those that it leaves out.

    A file with a defaults list of its own changes another option; what it leaves out is that option's.

    Args:
        place: `optimizer/sgd` for an option of a group, `train` for a command.
    """
    group, _, name = place.rpartition("/")
    if group in RUN_GROUPS and "defaults" not in node and (schema := RUN_GROUPS[group].schema_of(node)) is not None:
        return _filled(fields_of(schema), node)
    return _filled(COMMANDS[name].top_keys(), node) if not group and name in COMMANDS else dict(node)


def _filled(fields: Fields, node: Mapping[str, Any]) -> dict[str, Any]:
    filled: dict[str, Any] = {"name": node["name"]} if "name" in node else {}
    for key, field in fields.items():
        nested = nested_section(field.annotation)
        if nested is not None and get_origin(field.annotation) is not list and not choices_in(field.annotation):
            if key in node:  # a part that is chosen, as a logger
                filled[key] = _filled(fields_of(nested), node[key] or {})
        elif key in node:
            filled[key] = node[key]
        else:
            filled[key] = MISSING if field.is_required() else field.get_default(call_default_factory=True)
    return filled | {key: value for key, value in node.items() if key not in filled}


class ConfigFolders(SearchPathPlugin):
    """Puts the folders of config files on the search path, before Hydra's own reading of the same files."""

    own: ClassVar[Path | None] = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.prepend("frostline", f"frostline://{PACKAGED}", anchor="main")
        if self.own is not None:
            search_path.append("own", f"frostline://{self.own}")


def register(config_dir: Path | None = None) -> None:
    """Let Hydra read config files by `ConfigFiles`, also in the user's own folder, and know the run folder's name."""
    run_folder.register_resolvers()
    Plugins.instance().register(ConfigFiles)
    Plugins.instance().register(ConfigFolders)
    ConfigFolders.own = None if config_dir is None else config_dir.resolve()


@contextmanager
def composing(command: str, config_dir: Path | None = None) -> Iterator[None]:
    """While this lasts, Hydra's `compose` makes configs of a command."""
    register(config_dir)
    with initialize_config_module("frostline.conf", version_base="1.3", job_name=command):
        yield


def group_options(config_dir: Path | None) -> dict[str, list[str]]:
    """The config groups and their options, frostline's and those in the user's folder."""
    groups: dict[str, list[str]] = {}
    for folder in (PACKAGED, config_dir):
        if folder is None:
            continue
        for file in sorted(folder.rglob("*.yaml"), key=_natural):
            group = file.relative_to(folder).parent.as_posix()
            if group != ".":
                groups.setdefault(group, []).append(file.stem)
    others = sorted(RUN_GROUPS["model"].by_name, key=lambda name: _natural(Path(name)))
    groups["model"] += [name for name in others if name not in groups["model"]]
    return groups


def _natural(path: Path) -> list[str | int]:
    """resnet18 before resnet101."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.as_posix())]
