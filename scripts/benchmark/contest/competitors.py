"""The competitors: their commands and their environments, one for each peer, as its users would install it.

A shared environment would make some start slower than they are: fastai imports timm and torchmetrics imports
transformers wherever they are installed.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmark.contest.peers.task import BATCH, IMAGE_SIZE, RESIZED, SWEEP, WORKLOADS

ROOT = Path(__file__).resolve().parents[3]
VENVS = ROOT / ".venv-benchmark"
REQUIREMENTS = ROOT / "scripts" / "benchmark" / "requirements.txt"
PEERS_FOLDER = Path(__file__).parent / "peers"
FROSTLINE = "frostline"
FOUR_VIEWS = "frostline-4-views"
# The optimizer settings that W1 to W3 take; the sweep has them too, and its accuracy is compared there.
STANDARD = ("sgd", 0.9, 0.01)


@dataclass(frozen=True)
class Peer:
    """What a user would take instead.

    Attributes:
        environment: folder below .venv-benchmark.
        packages: what is installed there, in the versions of requirements.txt.
        workloads: those that it has a way for.
        anywhere: runs in frostline's own environment too, if it must.
        expert: not as users write it, but as fast as it can be; has no second form with channels-last and bf16.
    """

    title: str
    script: str
    environment: str
    packages: tuple[str, ...]
    workloads: tuple[str, ...] = ("w1a", "w1b", "w2", "w3", "w4")
    anywhere: bool = False
    expert: bool = False


TORCH = ("torch", "torchvision", "pillow")
PEERS = {
    "plain": Peer("plain PyTorch loop (tutorial)", "plain.py", "plain", TORCH, anywhere=True),
    "lightning": Peer(
        "Lightning + BackboneFinetuning", "lightning_callback.py", "lightning", (*TORCH, "lightning"), anywhere=True
    ),
    "fastai": Peer("fastai vision_learner", "fastai_learner.py", "fastai", (*TORCH, "fastai")),
    "hf": Peer("Hugging Face Trainer", "hf_trainer.py", "hf", (*TORCH, "transformers", "accelerate", "datasets")),
    "torchvision": Peer(
        "torchvision reference step", "torchvision_reference.py", "plain", TORCH, workloads=("w2",), anywhere=True
    ),
    "timm": Peer("timm reference step", "timm_reference.py", "timm", (*TORCH, "timm"), workloads=("w2",)),
    "expert": Peer("script by hand (expert)", "expert.py", "plain", TORCH, anywhere=True, expert=True),
    "sklearn": Peer(
        "scikit-learn on features", "sklearn_probe.py", "sklearn", (*TORCH, "scikit-learn"), workloads=("w1a",),
        anywhere=True, expert=True,
    ),
}  # fmt: skip
TITLES = {
    FROSTLINE: "**frostline**",
    FOUR_VIEWS: "**frostline**, `cache.views=4`",
    **{name: peer.title for name, peer in PEERS.items()},
    **{f"{name}+fast": f"{peer.title}, channels-last, bf16" for name, peer in PEERS.items()},
}


def competitors(workload: str, *, chosen: Sequence[str], fast_peers: bool) -> list[str]:
    """The names that run a workload, frostline's first; `+fast` marks a peer with channels-last and bf16."""
    names = []
    if FROSTLINE in chosen:
        names.append(FROSTLINE)
        if workload == "w1b" and has_cache():
            names.append(FOUR_VIEWS)
    peers = [name for name in PEERS if name in chosen and workload in PEERS[name].workloads]
    return names + peers + ([f"{name}+fast" for name in peers if not PEERS[name].expert] if fast_peers else [])


def has_cache() -> bool:
    """Whether this frostline has the feature cache's config group."""
    return (ROOT / "conf" / "cache").is_dir()


def python_of(name: str) -> Path:
    """The interpreter of a peer.

    Raises:
        ValueError: its environment is not there, and it does not run in frostline's.
    """
    peer = PEERS[name.removesuffix("+fast")]
    python = VENVS / peer.environment / "bin" / "python"
    if python.exists():
        return python
    if peer.anywhere:
        return Path(sys.executable)
    raise ValueError(f"{name} needs {python.parent.parent}: `make benchmark` sets it up, or leave {name} out.")


def peer_command(
    name: str,
    workload: str,
    *,
    data: Path,
    weights: Path,
    output: Path,
    setting: tuple[str, float, float] = STANDARD,
    seed: int = 0,
) -> list[str]:
    """A peer's command; it writes `output/report.json`."""
    peer = PEERS[name.removesuffix("+fast")]
    optimizer, momentum, lr = setting
    return [
        str(python_of(name)), str(PEERS_FOLDER / peer.script), "--data", str(data), "--weights", str(weights),
        "--workload", workload, "--output", str(output), "--report", str(output / "report.json"),
        "--optimizer", optimizer, "--momentum", str(momentum), "--lr", str(lr),
        "--seed", str(seed), *(["--fast"] if name.endswith("+fast") else []),
    ]  # fmt: skip


def frostline_command(
    name: str, workload: str, *, data: Path, weights: Path, output: Path, seed: int = 0, extra: Sequence[str] = ()
) -> list[str]:
    """frostline's command, as a user types it; what it leaves lies below `output`."""
    task = WORKLOADS[workload]
    overrides = [
        "data=image_folder", f"data.path={data}", f"data.image_size={IMAGE_SIZE}",
        f"data.resize={RESIZED / IMAGE_SIZE:.3f}", f"data.batch_size={BATCH}",
        f"augment={'crop' if task.augment else 'none'}", "model=resnet18", f"model.weights={weights}",
        "optimizer=sgd", "optimizer.lr=0.01", "optimizer.momentum=0.9", "optimizer.weight_decay=0.0",
        "scheduler=constant", f"seed={seed}", f"trainer.max_epochs={task.epochs}", f"output_dir={output / 'runs'}",
    ]  # fmt: skip
    if len(task.phases) == 1:
        overrides.append(f"freeze={ {'head': 'backbone', 'all': 'none'}[task.phases[0][0]] }".replace(" ", ""))
    else:
        overrides += ["freeze=file", f"freeze.path={_policy(workload, output)}"]
    if has_cache():
        # Each run its own: nothing that an earlier one wrote may help. The sweep's twelve share one.
        overrides.append(f"cache.folder={output / 'cache'}")
        if name == FOUR_VIEWS:
            overrides.append("cache.views=4")
    if task.runs > 1:
        swept = {"optimizer": 0, "optimizer.momentum": 1, "optimizer.lr": 2}
        overrides = [o for o in overrides if o.partition("=")[0] not in swept]
        for key, place in swept.items():
            values = dict.fromkeys(setting[place] for setting in SWEEP)
            overrides.append(f"{key}={','.join(map(str, values))}")
        overrides = ["-m", *overrides]
    return [sys.executable, str(ROOT / "train.py"), *overrides, *extra]


def _policy(workload: str, output: Path) -> Path:
    """W3 as a policy file. JSON is YAML."""
    trains = {"head": ["head"], "layer4": ["from:layer4"], "all": ["all"]}
    phases = [
        {"name": part, "train": trains[part], "until": {"epochs": epochs}}
        for part, epochs in WORKLOADS[workload].phases
    ]
    del phases[-1]["until"]
    path = output / "policy.yaml"
    path.write_text(json.dumps({"phases": phases, "batch_norm": "frozen", "dropout": "frozen"}))
    return path


def reached_by_peer(output: Path) -> dict[str, float]:
    """Accuracy after the last epoch, and optimizer steps, as the peer's script reports them."""
    found: dict[str, float] = json.loads((output / "report.json").read_text())
    return found


def reached_by_frostline(workload: str, output: Path) -> dict[str, float]:
    """The same from frostline's run folder; of the sweep, from the run with the others' settings.

    Raises:
        ValueError: not as many run folders as runs.
    """
    import csv

    folders = sorted(path.parent for path in (output / "runs").rglob("facts.json"))
    if len(folders) != WORKLOADS[workload].runs:
        raise ValueError(f"{len(folders)} run folders below {output / 'runs'}, not {WORKLOADS[workload].runs}.")
    if len(folders) > 1:
        [folder] = [folder for folder in folders if _setting(folder) == STANDARD]
    else:
        [folder] = folders
    with (folder / "metrics.csv").open() as file:
        values = [row["val/accuracy"] for row in csv.DictReader(file) if row.get("val/accuracy")]
    steps = sum(json.loads((each / "facts.json").read_text())["steps"] for each in folders)
    return {"accuracy": float(values[-1]), "steps": steps // len(folders)}


def _setting(folder: Path) -> tuple[str, float, float]:
    import yaml

    optimizer = yaml.safe_load((folder / "config.yaml").read_text())["optimizer"]
    return optimizer["name"], float(optimizer["momentum"]), float(optimizer["lr"])


def set_up(names: Sequence[str]) -> None:
    """Make the environments of these peers, with compiled bytecode; those that are there stay.

    Raises:
        ValueError: uv is missing.
    """
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if uv is None:
        raise ValueError("uv is missing: `make install` puts it into .venv.")
    wanted = REQUIREMENTS.read_text()
    # fastai's releases name a highest torch; the benchmark runs all on the same one.
    overrides = VENVS / "overrides.txt"
    VENVS.mkdir(exist_ok=True)
    overrides.write_text("".join(f"{line}\n" for line in wanted.splitlines() if line.startswith(("torch==", "torchv"))))
    for peer in {peer.environment: peer for peer in (PEERS[name] for name in names)}.values():
        folder = VENVS / peer.environment
        marker = folder / "installed.txt"
        if marker.exists() and marker.read_text() == wanted:
            continue
        print(f"setting up {folder.relative_to(ROOT)} …", flush=True)
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), "--compile-bytecode",
             "--constraints", str(REQUIREMENTS), "--overrides", str(overrides), *peer.packages],
            check=True,
        )  # fmt: skip
        marker.write_text(wanted)


def versions(names: Sequence[str]) -> dict[str, str]:
    """Installed versions of what the benchmark compares, over all its environments."""
    words = (
        "torch", "torchvision", "lightning", "fastai", "transformers", "accelerate", "datasets", "timm", "pillow",
        "scikit-learn",
    )  # fmt: skip
    program = (
        "import importlib.metadata as m, json; "
        f"print(json.dumps({{w: m.version(w) for w in {words!r} if any(m.distributions(name=w))}}))"
    )
    pythons = {Path(sys.executable), *(python_of(name) for name in names if name in PEERS)}
    found: dict[str, str] = {"python": ".".join(map(str, sys.version_info[:3]))}
    for python in sorted(pythons):
        found |= json.loads(subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout)
    return found
