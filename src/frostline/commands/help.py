"""The texts of `--help`, made from the schema and the YAML files, so that they cannot differ from what is read."""

from collections.abc import Iterator, Mapping
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from frostline.commands.config_files import composing, group_options
from frostline.config.commands import COMMANDS
from frostline.config.key_text import Fields, fields_of, nested_section, type_text, value_text

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "train": (
        "python train.py",
        "python train.py freeze=backbone optimizer=adamw optimizer.lr=0.001",
        "python train.py data=image_folder data.path=/path/to/images freeze=to_layer3",
        "frostline train resume_from=runs/RUN",
        "python train.py -m freeze=backbone,to_layer3,none seed=0,1,2",
    ),
    "evaluate": ("frostline evaluate checkpoint=runs/RUN",),
    "calibrate": ("frostline calibrate checkpoint=runs/RUN",),
    "predict": ("frostline predict checkpoint=runs/RUN inputs=photos output=predictions.csv",),
    "explain": ("frostline explain checkpoint=runs/RUN inputs=photos",),
    "export": ("frostline export checkpoint=runs/RUN format=onnx",),
    "show": ("frostline show data=image_folder data.path=photos augment=standard output=seen.png",),
    "pack": ("frostline pack data=image_folder data.path=photos output=shards",),
    "graph": (
        "frostline graph freeze=backbone",
        "frostline graph checkpoint=runs/RUN output=pictures",
    ),
    "gradients": ("frostline gradients freeze=to_layer3 output=pictures",),
    "lr_find": ("frostline lr_find data=image_folder data.path=photos freeze=to_layer3 augment=none",),
    "tour": ("frostline tour",),
    "plan": ("frostline plan freeze=gradual_unfreezing trainer.max_epochs=20",),
}


def overview() -> str:
    """What `frostline --help` prints."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {command.__doc__}" for name, command in COMMANDS.items())
    return f"frostline COMMAND key=value …\n\n{commands}\n\nfrostline COMMAND --help explains every key of a command."


def command_help(name: str) -> str:
    """What `frostline NAME --help` prints: the options of every group, and every key of the default config."""
    command, options, defaults = COMMANDS[name], group_options(None), default_config(name)
    lines = [command.__doc__ or "", "", *(f"  {example}" for example in EXAMPLES.get(name, ()))]
    groups = (*command.groups(), *command.selectors)
    lines += ["", "Groups (group=option):"] if groups else []
    lines += [f"  {group}={'|'.join(options[group])}" for group in groups]
    lines += ["", "Keys (key=value), with the options and values of the default config:"]
    for key, kind, default, text in key_rows(command.top_keys(), defaults):
        lines += _entry(key, kind, default, text)
    for group, schema_of in command.groups().items():
        node = defaults.get(group)
        schema = None if node is None else schema_of.schema_of(node)
        if schema is not None:
            lines.append("")
            for key, kind, default, text in key_rows(fields_of(schema), node or {}, prefix=f"{group}."):
                lines += _entry(key, kind, default, text)
    lines += [
        "",
        "The keys of the other options: docs/configuration/, or choose one and use --cfg job.",
        "Also: --cfg job (show the config), -m (sweep over a=1,2), --config-dir DIR (your own configs), "
        'tab completion: eval "$(frostline -sc install=bash)", --hydra-help.',
    ]
    return "\n".join(lines)


def default_config(command: str, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """The config that a command composes, without the values that only a run knows."""
    with composing(command):
        settings = OmegaConf.to_container(compose(command, overrides=list(overrides)), resolve=True)
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def key_rows(fields: Fields, values: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and help text of each key, those of nested sections after their parent's."""
    for key, field in fields.items():
        nested = nested_section(field.annotation)
        is_section = nested and key in values and values[key] and not isinstance(values[key], str)
        default = value_text(values[key]) if key in values and not is_section else ""
        yield prefix + key, type_text(field), "(required)" if default == "???" else default, field.description or ""
        if nested is not None:
            inner = values.get(key) if isinstance(values.get(key), Mapping) else {}
            place = f"{key}[i]." if str(field.annotation).startswith("list") else f"{key}."
            yield from key_rows(fields_of(nested), inner or {}, prefix=prefix + place)


def _entry(key: str, kind: str, default: str, text: str) -> list[str]:
    shown = f" = {default}" if default else ""
    return [f"  {key}{shown}", f"      {kind}. {text[:1].upper()}{text[1:]}."]
