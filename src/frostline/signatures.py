"""Classes that a user names in YAML: imported by their path, and checked against their signature before a call."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from frostline.nearest import nearest

T = TypeVar("T")


def find_class(path: str, *, subclass_of: type, what: str) -> type:
    """The class at a dotted path such as `my_package.MyHead`.

    Only subclasses of the expected class are handed out: a path may come out of a checkpoint or a YAML file of unknown
    origin, and so can name no other callable (`os.system`).

    Raises:
        ValueError: there is no such module or class, or it is of another kind.
    """
    module_name, _, class_name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name) if module_name else None
    except ImportError as error:
        raise ValueError(
            f"{what}: cannot import `{module_name}`, named by `_target_: {path}` ({error}). "
            "Is the package installed, or its folder in PYTHONPATH?"
        ) from error
    found = getattr(module, class_name, None)
    if found is None:
        near = nearest(class_name, dir(module)) if module else None
        hint = f" Did you mean `{module_name}.{near}`?" if near else ""
        raise ValueError(f"{what}: there is no class at `_target_: {path}`.{hint}")
    if not (inspect.isclass(found) and issubclass(found, subclass_of)):
        expected = f"subclass of {subclass_of.__module__}.{subclass_of.__qualname__}"
        raise ValueError(f"{what}: `{path}` is not a {'class' if subclass_of is object else expected}.")
    return found


def construct(build: Callable[..., T], options: Mapping[str, Any], *, what: str, given: tuple[str, ...] = ()) -> T:
    """Call `build` with options whose names it takes.

    `given` are parameters that frostline supplies later (`params` of an optimizer); the options may not name them.

    Raises:
        ValueError: an option that the signature does not have, or a required one that is missing.
    """
    check_signature(build, options, what=what, given=given)
    return build(**options)


def check_signature(
    build: Callable[..., Any], options: Mapping[str, Any], *, what: str, given: tuple[str, ...] = ()
) -> None:
    """See `construct`: the checks without the call."""
    name = getattr(build, "__qualname__", repr(build))
    parameters = {
        key: parameter
        for key, parameter in inspect.signature(build).parameters.items()
        if key not in given and key != "self"
    }
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = [key for key, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    problems = []
    for option in options:
        if option in named or (open_ended and option not in given):
            continue
        near = nearest(option, named)
        hint = f"Did you mean `{near}`?" if near else f"It takes: {', '.join(named) or 'nothing'}"
        problems.append(f"{what}.{option}: `{name}` takes no such argument. {hint}")
    for key in named:
        if key not in options and parameters[key].default is inspect.Parameter.empty:
            problems.append(f"{what}.{key}: missing; `{name}` requires it.")
    if problems:
        raise ValueError("\n".join(problems))
