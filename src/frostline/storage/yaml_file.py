"""Reading YAML that a user wrote: whatever is wrong with it, one message names the file and the line."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yaml import MappingNode, Node, SafeLoader

MOST_VALUES = 100_000  # in a file whose aliases (*NAME) are written out, as OmegaConf does


class EndlessAliasesError(ValueError):
    """A YAML file whose aliases cannot be written out."""


def read_mapping(path: str | Path) -> dict[Any, Any]:
    """The keys and values in a YAML file; an empty file has none.

    Raises:
        ValueError: it cannot be read, is not UTF-8 or not YAML, names a key twice, holds an object of Python's, or
            something else than keys and values.
    """
    import yaml

    content = b""
    try:
        content = Path(path).read_bytes()
        plain = yaml.load(content.decode("utf-8-sig"), Loader=_loader())  # noqa: S506 - a subclass of the safe one
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {_line(content, error.start)}: is not UTF-8.") from None
    except yaml.reader.ReaderError as error:
        place = len(content.decode("utf-8-sig")[: error.position].encode())
        raise ValueError(f"{path}, line {_line(content, place)}: holds a character that YAML does not allow.") from None
    except EndlessAliasesError as error:
        raise EndlessAliasesError(f"{path}: {error}.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = (error.problem or str(error)).replace("\t", "\\t")
        raise ValueError(f"{path}{line}: cannot be read: {problem}.") from None
    except RecursionError:
        raise ValueError(f"{path}: is nested too deeply.") from None
    except ValueError as error:  # a date or number that does not exist
        raise ValueError(f"{path}: {error}.") from None
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        raise ValueError(f"{path}: holds no keys with values (KEY: VALUE), but one {type(plain).__name__}.")
    return plain


def alias_problem(path: Path) -> str | None:
    """What a reader that writes out aliases would not survive; None where it would. Other faults are not looked for."""
    try:
        content = path.read_bytes()
        if b"&" in content and b"*" in content:
            read_mapping(path)
    except EndlessAliasesError as error:
        return str(error)
    except (OSError, ValueError):
        pass
    return None


def _line(content: bytes, place: int) -> int:
    return content[:place].count(b"\n") + 1


def _loader() -> "type[SafeLoader]":
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML's safe loader takes the last of two equal keys, and aliases that have no end."""

        def compose_document(self) -> "Node | None":
            node: Node | None = super().compose_document()
            if node is not None and _values(node, {}) > MOST_VALUES:
                raise EndlessAliasesError(f"its aliases (*NAME) stand for more than {MOST_VALUES:,} values")
            return node

        def construct_mapping(self, node: "MappingNode", deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if key.tag == "tag:yaml.org,2002:null":
                    raise yaml.constructor.ConstructorError(None, None, "a key is null", key.start_mark)
                if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                    problem = f"the key `{key.value}` is there twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value if isinstance(key.value, str) else id(key))
            return super().construct_mapping(node, deep=deep)

    return Loader


def _values(node: "Node", known: dict[int, int]) -> int:
    """The values in a node with its aliases written out; `known` holds those of the nodes seen, 0 within them."""
    if id(node) in known:
        if not known[id(node)]:
            raise EndlessAliasesError("an alias (*NAME) stands within what it names")
        return known[id(node)]
    known[id(node)] = 0
    parts = node.value if isinstance(node.value, list) else []
    nodes = [part for item in parts for part in (item if isinstance(item, tuple) else (item,))]
    known[id(node)] = 1 + sum(_values(part, known) for part in nodes)
    return known[id(node)]
