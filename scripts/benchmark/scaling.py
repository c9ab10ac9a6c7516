"""How cost grows: with images, classes, resolution, workers and the cache, each as a series, a plot and its fit.

Usage: python scripts/benchmark/scaling.py [--quick] [--document docs/benchmarks-history.md]
       [--picture docs/figures/scaling.svg] [--json docs/figures/scaling.json] [--from FILE]

Every point runs in a fresh process with one thread (scripts/benchmark/scaling_points.py), one after another. Costs are
in processor time, which other programs on the machine hardly change; memory is the process's own. --from draws and
writes again from an earlier --json, without measuring. --quick takes few and small points, to see that all works; its
fits mean nothing and it writes no document.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run by its path, Python looks in this folder only

import torch
from scripts.benchmark.contest.images import make_folder
from scripts.benchmark.document import processor, put_section
from scripts.benchmark.scaling_report import draw, section

POINTS = Path(__file__).with_name("scaling_points.py")
# Stages of ResNet-18 at 224 pixels: the shape of what each returns.
SHAPES = {"layer4": [512], "layer3": [256, 14, 14], "layer2": [128, 28, 28], "layer1": [64, 56, 56]}
Series = list[dict[str, Any]]


def plan(*, quick: bool, folder: str) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Series -> the kind of its points, and each point's options."""
    base = {"images": 2000, "classes": 10, "workers": 0, "epochs": 2 if quick else 8}
    images = [320, 640] if quick else [1000, 3000, 10_000, 30_000, 100_000]
    classes = [10, 1000] if quick else [10, 100, 1000, 10_000]
    sides = [64, 96] if quick else [64, 96, 128, 160, 224, 320]
    sizes = {"layer4": 200, "layer3": 64} if quick else {"layer4": 20_000, "layer3": 640, "layer2": 320, "layer1": 160}
    stores = [100, 200] if quick else [100, 1000, 10_000]
    workers = [1] if quick else [0, 1, 2]
    many = 320 if quick else 20_000
    return {
        "images": (
            "train",
            [base | {"images": n, "epochs": 3 if quick else max(4, min(16, 100_000 // n))} for n in images],
        ),
        "classes": ("train", [base | {"images": 320 if quick else 2000, "classes": n} for n in classes]),
        "resolution": ("resolution", [{"side": side, "repeats": 2 if quick else 8} for side in sides]),
        "workers": ("train", [base | {"images": many, "workers": n, "epochs": 2 if quick else 3} for n in workers]),
        "decoding": ("loading", [{"folder": folder, "workers": n} for n in workers]),
        "row size": ("reading", [{"shape": SHAPES[name], "rows": n, "batches": 20} for name, n in sizes.items()]),
        "cache size": ("reading", [{"shape": SHAPES["layer3"], "rows": n, "batches": 30} for n in stores]),
    }


def run_point(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    """One point's options and figures.

    Raises:
        RuntimeError: the process failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-W", "ignore", str(POINTS), kind, json.dumps(options)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{kind} {options} failed:\n{done.stderr}")
    return {key: value for key, value in options.items() if key != "folder"} | json.loads(done.stdout.splitlines()[-1])


def measure(*, quick: bool) -> dict[str, Any]:
    """All series, with the machine they ran on."""
    series: dict[str, Series] = {}
    with tempfile.TemporaryDirectory() as folder:
        images = make_folder(Path(folder) / "jpegs", train_images=40 if quick else 320, val_images=10)
        for name, (kind, points) in plan(quick=quick, folder=str(images)).items():
            series[name] = []
            for options in points:
                series[name].append(run_point(kind, options))
                print(name, json.dumps(series[name][-1]), flush=True)
    return {"series": series, "quick": quick, "machine": machine(), "when": time.strftime("%Y-%m-%d")}


def machine() -> str:
    return f"{processor()}, {len(os.sched_getaffinity(0))} cores, one thread; torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--document", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--from", dest="earlier", type=Path, help="an earlier --json, to draw and write again")
    options = parser.parse_args()
    if options.quick and options.document:
        parser.error("--quick measures too little for a document")
    if options.document and not options.picture:
        parser.error("--document shows the picture: name it with --picture")
    found = json.loads(options.earlier.read_text()) if options.earlier else measure(quick=options.quick)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.picture:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        draw(found, options.picture)
    link = "scaling.svg"
    if options.document:
        link = str(options.picture.resolve().relative_to(options.document.resolve().parent))
    text = section(found, picture=link)
    print(text)
    if options.document:
        put_section(options.document, "scaling", text)


if __name__ == "__main__":
    main()
