"""The wheel holds what the code imports, and depends on no more."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
# Distributions whose packages have other names; Hydra brings OmegaConf, pydantic its core and annotated_types.
IMPORTED_AS = {
    "pillow": {"PIL"},
    "huggingface-hub": {"huggingface_hub"},
    "pyyaml": {"yaml"},
    "hydra-core": {"hydra", "omegaconf"},
    "pydantic": {"pydantic", "pydantic_core", "annotated_types"},
}


def names(text: str) -> set[str]:
    """The distributions that a list of requirements in pyproject.toml names."""
    return {name.lower() for name in re.findall(r'"([A-Za-z0-9._-]+)(?:\[[^]]*\])?[<>=]', text)}


def section(pattern: str) -> str:
    found = re.search(pattern, PYPROJECT, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found.group(1)


DEPENDENCIES = names(section(r"^dependencies = \[(.*?)^\]"))
EXTRAS = names(section(r"^\[project.optional-dependencies\](.*?)^\["))


def test_every_package_and_file_under_src_is_listed_for_the_wheel() -> None:
    listed = set(re.findall(r'"([\w.]+)"', section(r"^packages = \[(.*?)\]")))
    found = {".".join(file.parent.relative_to(ROOT / "src").parts) for file in (ROOT / "src").rglob("__init__.py")}
    assert listed == found | {"frostline.conf"}
    kept = subprocess.run(
        ["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    data = {Path(path).name for path in kept if not path.endswith(".py")}
    assert data
    assert data <= set(re.findall(r'"([\w.]+)"', section(r"^\[tool.setuptools.package-data\](.*?)^\[")))


def test_every_data_file_under_src_is_listed_for_the_wheel() -> None:
    section = (ROOT / "pyproject.toml").read_text().partition("[tool.setuptools.package-data]")[2].partition("\n[")[0]
    lines = re.findall(r'^"?([\w.]+)"? = \[(.*)\]$', section, re.MULTILINE)
    listed = {(package, name) for package, names in lines for name in re.findall(r'"([^"]+)"', names)}
    files = [file for file in (ROOT / "src/frostline").rglob("*") if file.is_file() and "py" not in file.suffix]
    found = {(".".join(file.parent.relative_to(ROOT / "src").parts), file.name) for file in files}
    assert ("frostline.autograd.tour", "chapters.md") in found <= listed | {("frostline", "py.typed")}


def test_the_malicious_lightning_releases_are_excluded() -> None:
    assert "!=2.6.2" in PYPROJECT
    assert "!=2.6.3" in PYPROJECT


def test_the_constraints_pin_every_dependency_and_name_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.match(r"[A-Za-z0-9._-]+==[^/:]+( ; .*)?$", line) for line in lines)
    assert {line.partition("==")[0].lower() for line in lines} >= DEPENDENCIES | EXTRAS


def test_every_dependency_is_imported_and_every_import_is_a_dependency() -> None:
    imported = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    imported -= sys.stdlib_module_names | {"frostline"}
    provided = set().union(*(IMPORTED_AS.get(name, {name}) for name in DEPENDENCIES | EXTRAS))
    # Lightning imports tensorboard, torch onnxscript; torch brings typing_extensions, boto3 botocore, Jupyter IPython.
    assert provided - imported <= {"tensorboard", "onnxscript", "annotated_types", "pydantic_core"}
    assert imported - provided <= {"typing_extensions", "botocore", "IPython"}


# The application's libraries: a Lightning project with a policy and its callback needs torch, Lightning (which needs
# torchmetrics and PyYAML), xxhash for the fingerprints and rich for the table in the log.
APPLICATION = {
    *("hydra", "omegaconf", "pydantic", "matplotlib", "torchvision", "PIL", "sklearn", "safetensors"),
    *("wandb", "tensorboard", "filelock", "boto3"),
}
PLAIN_PROJECT = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {APPLICATION} else self.finder.find_spec(name, path, target)

sys.meta_path = [Without(finder) for finder in sys.meta_path]
import lightning, torch
from frostline.freezing import FreezePolicy, FreezingSchedule
assert "rich" not in sys.modules

class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))

    def training_step(self, batch, batch_idx):
        return self.net(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

schedule = FreezingSchedule(policy=FreezePolicy.static("2.*"), attribute="net")
trainer = lightning.Trainer(
    max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, callbacks=[schedule],
)
trainer.fit(Module(), torch.utils.data.DataLoader(torch.rand(8, 2), batch_size=4))
print("held", schedule.verdict()["held"], trainer.global_step)
"""


def test_freezing_in_a_lightning_project_needs_none_of_the_applications_libraries() -> None:
    done = subprocess.run([sys.executable, "-c", PLAIN_PROJECT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "held True 4" in done.stdout
