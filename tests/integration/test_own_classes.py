"""Configs and classes of the user's own, without touching the package."""

from pathlib import Path

import pytest
import torch

from tests.integration.conftest import FROSTLINE, SHORT, Cli, only_run

MINE = """
import torch
from frostline.data.source import LabelledImages

class Sign(torch.optim.Optimizer):
    def __init__(self, params, lr: float, scale: float = 1.0):
        super().__init__(params, {"lr": lr, "scale": scale})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p -= group["lr"] * group["scale"] * p.grad.sign()
        return loss

class Cosine(torch.nn.Module):
    def __init__(self, features: int, classes: int, temperature: float):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(classes, features))
        self.temperature = temperature

    def forward(self, x):
        return torch.nn.functional.linear(torch.nn.functional.normalize(x), self.weight) / self.temperature

class Tiny(torch.nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(3, width, 3, stride=2), torch.nn.ReLU())
        self.pool = torch.nn.AdaptiveAvgPool2d(1)
        self.fc = torch.nn.Linear(width, 1)

    def forward(self, x):
        return self.fc(self.pool(self.stem(x)).flatten(1))

class Bars(LabelledImages):
    def __init__(self, length): self.length = length
    def __len__(self): return self.length
    @property
    def labels(self): return [i % 2 for i in range(self.length)]
    def __getitem__(self, i):
        image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        if i % 2: image[:, 16] = 255
        else: image[:, :, 16] = 255
        return image, i % 2

class Source:
    def __init__(self, *, length: int): self.length = length
    @property
    def classes(self): return ["across", "down"]
    def dataset(self, split): return Bars(self.length)
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    conf = tmp_path / "my_conf"
    for group in ("optimizer", "head", "model", "data", "experiment"):
        (conf / group).mkdir(parents=True)
    (conf / "my_classes.py").write_text(MINE)
    (conf / "optimizer/sign.yaml").write_text("_target_: my_classes.Sign\nlr: 0.001\nscale: 2.0\n")
    (conf / "head/cosine.yaml").write_text("_target_: my_classes.Cosine\ntemperature: 0.1\n")
    (conf / "model/tiny.yaml").write_text("_target_: my_classes.Tiny\nwidth: 8\n")
    (conf / "data/bars.yaml").write_text("_target_: my_classes.Source\nlength: 40\n")
    (conf / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /optimizer: sign\n  - override /head: cosine\n"
        "  - override /model: tiny\n  - override /data: bars\n"
    )
    return conf


OWN = [word for word in SHORT if not word.startswith(("model.", "data."))] + ["data.image_size=32"]


def test_own_optimizer_head_backbone_and_source_train_together(mine: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli(*FROSTLINE, "train", "--config-dir", "my_conf", "experiment=mine", *OWN[:-1])
    assert done.returncode == 0, done.stdout + done.stderr
    state = torch.load(only_run(tmp_path) / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert set(state) == {"stem.0.weight", "stem.0.bias", "fc.weight"}
    evaluation = [*FROSTLINE, "evaluate", f"checkpoint={only_run(tmp_path)}/checkpoints/last.ckpt"]
    again = cli(*evaluation, "trust_checkpoint=true", env={"PYTHONPATH": str(mine)})
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("group", "text", "message"),
    [
        ("optimizer", "_target_: my_classes.Sign\nlr: 0.1\nscael: 2\n", "Did you mean `scale`?"),
        ("optimizer", "_target_: my_classes.Sing\nlr: 0.1\n", "Did you mean `my_classes.Sign`?"),
        ("optimizer", "_target_: os.system\nlr: 0.1\n", "is not a subclass of torch.optim"),
        ("head", "_target_: my_classes.Cosine\n", "head.temperature: missing"),
        ("data", "_target_: my_classes.Source\nlenght: 3\n", "length"),
    ],
)
def test_a_mistake_in_an_own_yaml_file_is_one_clear_message(
    mine: Path, cli: Cli, group: str, text: str, message: str
) -> None:
    (mine / group / "wrong.yaml").write_text(text)
    done = cli(*FROSTLINE, "train", "--config-dir", "my_conf", f"{group}=wrong", "model.weights=none")
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
