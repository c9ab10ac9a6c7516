"""Classes named in YAML: only of the expected kind, and only with what they take."""

import pytest
import torch
from torch import nn

from frostline.signatures import check_signature, construct, find_class


def needs(size: int, *, rate: float = 0.5) -> tuple[int, float]:
    return size, rate


def open_ended(size: int, **more: int) -> tuple[int, dict[str, int]]:
    return size, more


def test_a_class_is_found_by_its_path() -> None:
    assert find_class("torch.nn.Linear", subclass_of=nn.Module, what="head") is nn.Linear


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "builtins.eval", "torch.nn.functional.relu"])
def test_nothing_but_the_expected_kind_is_handed_out(path: str) -> None:
    with pytest.raises(ValueError, match=f"head: `{path}` is not a subclass of torch"):
        find_class(path, subclass_of=nn.Module, what="head")


def test_a_class_of_another_kind_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"`torch\.nn\.Linear` is not a subclass of torch\.optim\.optimizer\.Optimizer"
    ):
        find_class("torch.nn.Linear", subclass_of=torch.optim.Optimizer, what="optimizer")


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(
        ValueError, match=r"no class at `_target_: torch\.nn\.Linera`\. Did you mean `torch\.nn\.Linear`\?"
    ):
        find_class("torch.nn.Linera", subclass_of=nn.Module, what="head")


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"cannot import `no_such_package`.*its folder in PYTHONPATH\?"):
        find_class("no_such_package.Head", subclass_of=nn.Module, what="head")


def test_a_bare_word_is_no_path() -> None:
    with pytest.raises(ValueError, match="head: there is no class at `_target_: Linear`"):
        find_class("Linear", subclass_of=nn.Module, what="head")


def test_construct_calls_with_the_options() -> None:
    assert construct(needs, {"size": 3, "rate": 0.1}, what="x") == (3, 0.1)
    assert construct(open_ended, {"size": 3, "other": 4}, what="x") == (3, {"other": 4})


def test_a_missing_required_argument_is_named() -> None:
    with pytest.raises(ValueError, match=r"^x\.size: missing; `needs` requires it\.$"):
        construct(needs, {"rate": 0.1}, what="x")


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        construct(needs, {"ratee": 1, "zzz": 2}, what="x")
    assert str(caught.value).splitlines() == [
        "x.ratee: `needs` takes no such argument. Did you mean `rate`?",
        "x.zzz: `needs` takes no such argument. It takes: size, rate",
        "x.size: missing; `needs` requires it.",
    ]


def test_what_is_given_later_may_not_be_an_option() -> None:
    check_signature(torch.optim.SGD, {"lr": 0.1}, what="optimizer", given=("params",))
    with pytest.raises(ValueError, match=r"optimizer\.params: `SGD` takes no such argument"):
        check_signature(torch.optim.SGD, {"params": []}, what="optimizer", given=("params",))
    with pytest.raises(ValueError, match=r"x\.size: `open_ended` takes no such argument"):
        check_signature(open_ended, {"size": 3}, what="x", given=("size",))
