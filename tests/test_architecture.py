"""The dependency graph of CONTRIBUTING.md: which package may import which, and which libraries."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "frostline"
FILES = sorted(SOURCE.rglob("*.py"))

# Package -> the other packages that it may import. A top-level module is a package of its own.
ALLOWED: dict[str, set[str]] = {
    "nearest": set(),
    "renamed": set(),
    "trust": set(),
    "freezing": {"nearest", "renamed", "storage", "tables"},
    "storage": set(),
    "tables": set(),
    "progress_line": set(),
    "figures": {"storage"},
    "grad_cam": {"figures", "modes"},
    "signatures": {"nearest"},
    "modes": set(),
    "numeric_checks": {"freezing", "modes"},
    "optimizer_step": {"freezing"},
    "losses": set(),
    "calibration": {"metrics"},
    "metrics": {"numeric_checks"},
    "moving_average": set(),
    "test_time_augmentation": set(),
    "schedulers": set(),
    "prefix": {"data", "modes", "progress_line", "storage"},
    "data": {"nearest", "signatures", "storage"},
    "models": {"nearest", "numeric_checks", "signatures", "storage"},
    "optim": {"freezing"},
    "options": {"freezing", "optim", "prefix", "schedulers"},
    "autograd": {"figures", "freezing", "models", "modes", "numeric_checks", "storage", "tables"},
    "resume": {"data"},
    "export": {"calibration", "data", "prefix", "storage", "tracking"},
    "results": {"data", "figures", "metrics", "tracking"},
    "fast_path": {"data", "feature_limits", "freezing", "options", "prefix", "storage"},
    "feature_limits": {"data", "freezing", "prefix"},
    "checkpoint": {"data", "models", "numeric_checks", "renamed"},
    "loading": {"checkpoint", "data", "freezing", "losses", "models", "options", "trust"},
    "classifier": {
        "checkpoint",
        "data",
        "fast_path",
        "freezing",
        "loading",
        "losses",
        "metrics",
        "modes",
        "numeric_checks",
        "optimizer_step",
        "options",
        "prefix",
        "test_time_augmentation",
    },
    "lr_range_test": {"classifier", "figures"},
    "tracking": {
        "figures",
        "freezing",
        "autograd",
        "data",
        "metrics",
        "models",
        "modes",
        "progress_line",
        "storage",
        "tables",
    },
    "config": {"export", "freezing", "nearest", "prefix", "renamed", "storage", "test_time_augmentation"},
    "commands": {
        "figures",
        "config",
        "renamed",
        "trust",
        "autograd",
        "calibration",
        "checkpoint",
        "classifier",
        "data",
        "export",
        "freezing",
        "grad_cam",
        "losses",
        "lr_range_test",
        "metrics",
        "models",
        "moving_average",
        "nearest",
        "numeric_checks",
        "optim",
        "options",
        "progress_line",
        "results",
        "resume",
        "schedulers",
        "signatures",
        "storage",
        "tables",
        "test_time_augmentation",
        "tracking",
    },
    "__main__": {"commands"},
}
CONFIG_LIBRARIES = {"hydra", "omegaconf", "pydantic", "pydantic_core", "annotated_types"}
# What of freezing is about a Lightning fit; the rest needs a network only.
OF_A_FIT = {"batch_norm", "callback", "lightning_internals", "phase_clock"}
NO_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base"}


def package_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(file: Path, *, at_import: bool = False) -> Iterator[str]:
    """Every module that a file imports; with `at_import`, only those that importing the file imports."""

    def later(node: ast.AST) -> bool:
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        return function or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{file}: relative imports hide which package is meant"
                yield from {child.module or "", *(f"{child.module}.{alias.name}" for alias in child.names)}
            elif not (at_import and later(child)):
                yield from walk(child)

    yield from walk(ast.parse(file.read_text()))


def libraries(file: Path, *, at_import: bool = False) -> set[str]:
    """Top names of the libraries beyond Python's own that a file imports."""
    tops = {module.partition(".")[0] for module in imports(file, at_import=at_import)}
    return tops - sys.stdlib_module_names - {"frostline"}


def frostline_packages(file: Path) -> set[str]:
    return {module.split(".")[1] for module in imports(file) if module.startswith("frostline.")}


def named(file: Path) -> str:
    return str(file.relative_to(SOURCE))


def test_every_package_is_in_the_table() -> None:
    assert {package_of(file) for file in FILES} - {"__init__"} == set(ALLOWED)


@pytest.mark.parametrize("file", FILES, ids=named)
def test_imports_follow_the_table(file: Path) -> None:
    package = package_of(file)
    if package == "__init__":  # imports the public names on first access
        assert not {module for module in imports(file, at_import=True) if module.startswith("frostline")}
        return
    assert frostline_packages(file) - {package} <= ALLOWED[package]


def test_the_table_has_no_cycle() -> None:
    reached = {package: set(packages) for package, packages in ALLOWED.items()}
    for _ in ALLOWED:
        reached = {
            package: packages.union(*(reached[other] for other in packages)) for package, packages in reached.items()
        }
    assert not [package for package, packages in reached.items() if package in packages]


def test_the_table_lists_only_imports_that_occur() -> None:
    used = {package: set() for package in ALLOWED}
    for file in FILES:
        if package_of(file) in used:
            used[package_of(file)] |= frostline_packages(file) - {package_of(file)}
    assert {package: packages for package, packages in ALLOWED.items() if package != "commands"} == {
        package: packages for package, packages in used.items() if package != "commands"
    }


@pytest.mark.parametrize("file", FILES, ids=named)
def test_only_commands_imports_config_libraries(file: Path) -> None:
    """Only commands imports Hydra and OmegaConf, only config pydantic."""
    allowed = {"commands": {"hydra", "omegaconf"}, "config": CONFIG_LIBRARIES - {"hydra", "omegaconf"}}
    assert libraries(file) & CONFIG_LIBRARIES <= allowed.get(package_of(file), set())


def test_the_config_needs_no_heavy_library() -> None:
    for file in (SOURCE / "config").glob("*.py"):
        assert libraries(file) <= {"pydantic", "pydantic_core", "annotated_types"}


@pytest.mark.parametrize("file", sorted((SOURCE / "freezing").glob("*.py")), ids=named)
def test_freezing_needs_torch_only_except_in_a_fit(file: Path) -> None:
    allowed = {"policy": {"yaml"}, "keys": set(), "checks": {"torch", "xxhash"}}.get(file.stem, {"torch"})
    found = libraries(file, at_import=True)
    if file.stem in OF_A_FIT:
        allowed |= {"lightning"}
    assert found <= allowed
    inside = {
        module.split(".")[2] for module in imports(file, at_import=True) if module.startswith("frostline.freezing.")
    }
    if file.stem not in OF_A_FIT:
        assert not inside & OF_A_FIT


@pytest.mark.parametrize("file", sorted((SOURCE / "prefix").glob("*.py")), ids=named)
def test_the_prefix_needs_torch_and_files_only(file: Path) -> None:
    engines = {"openvino", "nncf"} if file.stem == "engine" else set()
    assert libraries(file) <= {"torch", "numpy", "filelock", "xxhash"} | engines


@pytest.mark.parametrize("name", ["optim", "losses", "schedulers", "signatures"])
def test_the_small_modules_need_torch_only(name: str) -> None:
    assert libraries(SOURCE / f"{name}.py") <= {"torch"}


@pytest.mark.parametrize("file", sorted((SOURCE / "models").glob("*.py")), ids=named)
def test_models_needs_torch_only_until_a_network_is_built(file: Path) -> None:
    assert libraries(file, at_import=True) <= {"torch"}
    assert libraries(file) <= {"torch", "torchvision", "safetensors", "timm", "huggingface_hub"}


@pytest.mark.parametrize("file", FILES, ids=named)
def test_wandb_and_inference_engines_are_imported_nowhere_at_module_level(file: Path) -> None:
    assert not {"wandb", "openvino", "nncf", "onnxruntime", "onnxscript"} & libraries(file, at_import=True)


@pytest.mark.parametrize("file", FILES, ids=named)
def test_importing_does_nothing(file: Path) -> None:
    """A module holds definitions: no call stands alone, and no loop."""
    if file.name == "worker.py":  # a script
        return
    for statement in ast.parse(file.read_text()).body:
        if isinstance(statement, ast.Expr):
            assert isinstance(statement.value, ast.Constant), f"line {statement.lineno}"
        assert not isinstance(statement, ast.For | ast.While | ast.With), f"line {statement.lineno}"


def test_only_the_classifier_is_a_lightning_module() -> None:
    found = [
        f"{named(file)}:{node.name}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef) and any("LightningModule" in ast.unparse(base) for base in node.bases)
    ]
    assert found == ["classifier.py:ImageClassifier"]


def test_a_classifier_is_complete_once_it_is_constructed() -> None:
    """The constructor is keyword-only, and no other module sets an attribute that it sets."""
    [classifier] = [file for file in FILES if file.name == "classifier.py"]
    [init] = [
        node
        for node in ast.walk(ast.parse(classifier.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    ]
    assert [argument.arg for argument in init.args.args] == ["self"]
    own = {node.attr for node in ast.walk(init) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    assert {"network", "data_spec", "resolved", "loss", "compute_options"} <= own
    set_from_outside = [
        f"{named(file)}:{node.lineno} {ast.unparse(node)}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) != "self"
        and (node.attr in own or ast.unparse(node.value).endswith(("classifier", "pl_module")))
    ]
    assert set_from_outside == []


@pytest.mark.parametrize("file", FILES, ids=named)
def test_a_file_is_named_for_what_it_holds(file: Path) -> None:
    assert file.stem not in NO_NAMES
    assert file.parent.name not in NO_NAMES


@pytest.mark.parametrize(
    "code",
    [
        "import frostline.commands.main, frostline.config.commands\nunwanted = {'torch', 'lightning', 'numpy'}",
        "import frostline\nfrostline.FreezePolicy.static('head')\nunwanted = {'torch', 'lightning', 'pydantic'}",
        "import frostline.freezing\nfrostline.freezing.apply_phase\nunwanted = {'lightning', 'pydantic'}",
    ],
    ids=["command", "policy", "phase"],
)
def test_slow_libraries_are_imported_on_use(code: str) -> None:
    check = "import sys\nassert not unwanted & sys.modules.keys(), unwanted & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", f"{code}\n{check}"], check=True)


def test_the_public_names_are_there() -> None:
    import frostline

    [typed] = [node for node in ast.parse((SOURCE / "__init__.py").read_text()).body if isinstance(node, ast.If)]
    assert sorted(statement.names[0].asname for statement in typed.body) == frostline.__all__  # type: ignore[attr-defined]
    assert set(frostline.__all__) <= set(dir(frostline))
    assert all(getattr(frostline, name).__name__ == name for name in frostline.__all__)
    with pytest.raises(AttributeError, match="module 'frostline' has no attribute 'Policy'"):
        frostline.Policy  # noqa: B018 - the access is the test
