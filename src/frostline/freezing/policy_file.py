"""A policy in a YAML file: exported, edited by hand, given back."""

from pathlib import Path

from frostline.freezing.policy import FreezePolicy
from frostline.storage.yaml_file import read_mapping


def read_policy(path: str | Path) -> FreezePolicy:
    """The policy in a YAML (or JSON) file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or no policy; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no policy file `{path.absolute()}`.")
    plain = read_mapping(path)
    if not plain or "path" in plain:
        raise ValueError(f"`{path}` holds no policy; it should have `phases: [...]` or `train: [...]`.")
    try:
        return FreezePolicy.from_dict(plain)
    except ValueError as error:
        raise ValueError(f"`{path}`: {error}") from None


def write_policy(policy: FreezePolicy, path: str | Path) -> None:
    """Write a policy as YAML that `read_policy` gives back equal."""
    import yaml

    text = yaml.safe_dump(policy.to_dict(), sort_keys=False, default_flow_style=None, width=110)
    Path(path).write_text(text, encoding="utf-8")
