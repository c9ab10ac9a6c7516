"""How fast a CUDA device trains ResNet-18 behind the frost line, beside what the device can do at all.

Usage: python scripts/benchmark/gpu.py [--document docs/benchmarks-history.md] [--seconds 2] [--json FILE]

On one device, and on all where there are several (by torchrun, DistributedDataParallel): images per second of training
steps at 224 px in bf16 and channels-last, on batches that lie on the device, so that it is the device that is measured
and not the loader; only cached features are read from a feature store and copied in each step. Each workload runs
eagerly, by torch.compile and as a CUDA graph; what fails is a row that says why. Beside each rate stand the operations
and bytes counted (scripts/benchmark/counting.py) and their share of two ceilings measured in the same run: a matrix
product in bf16, and a copy within the device's memory.

Without a CUDA device nothing is measured, and the section of --document says so; figures that stand there already are
left alone. `--device cpu` runs the same loop on the CPU with whatever small sizes are given, to try it out; its figures
are printed, and never written into a document.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run by its path, Python looks in this folder only

import torch
from scripts.benchmark.counting import count
from scripts.benchmark.device_steps import (
    MODES,
    WORKLOADS,
    Behind,
    captured,
    make_batch,
    make_step,
    make_store,
    reading,
)  # fmt: skip
from scripts.benchmark.document import put_section, section_in
from scripts.benchmark.gpu_report import NOT_MEASURED, section

ROUNDS, PRODUCT_SIDE, COPY_BYTES = 5, 8192, 2**30
Result = dict[str, Any]


def settle(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def agreed(seconds: float, device: torch.device) -> float:
    """The longest of what the ranks say: if they took different numbers of steps, they would wait for ever."""
    if not torch.distributed.is_initialized():
        return seconds
    longest = torch.tensor(seconds, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(longest, op=torch.distributed.ReduceOp.MAX)
    return longest.item()


def rate(work: Callable[[], object], *, device: torch.device, seconds: float) -> float:
    """Runs per second of the clock: the median of rounds that last `seconds` together, after one that warms up."""
    per_round, times = 1, list[float]()
    while len(times) < ROUNDS:
        settle(device)
        start = time.perf_counter()
        for _ in range(per_round):
            work()
        settle(device)
        taken = agreed(time.perf_counter() - start, device)
        if not times and taken < seconds / ROUNDS / 2:
            per_round *= 2  # too short to be measured: warm up on
            continue
        times.append(taken / per_round)
    return 1 / statistics.median(times)


def ceilings(device: torch.device, *, seconds: float, side: int, copied: int) -> dict[str, float]:
    """Operations per second of a bf16 matrix product, and bytes per second, read and written, of a copy."""
    left, right = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    products = rate(lambda: torch.mm(left, right), device=device, seconds=seconds)
    copies = rate(lambda: target.copy_(source), device=device, seconds=seconds)
    return {"operations_per_s": 2 * side**3 * products, "bytes_per_s": 2 * copied * copies}


def count_all(workload: str, *, batch_size: int, image_size: int) -> dict[str, float]:
    """Operations and bytes of a step, per image."""

    def prepare() -> Callable[[], object]:
        batch, labels = make_batch(
            workload, batch_size=batch_size, image_size=image_size, device=torch.device("cpu")
        )  # fmt: skip
        return make_step(Behind(workload=workload), batch, labels)[0]

    found = count(prepare)
    return {"operations": found.operations / batch_size, "bytes": found.bytes / batch_size}


def measure(
    workload: str, *, mode: str, batch_size: int, image_size: int, device: torch.device, seconds: float
) -> Result:
    """One row; a failure is a row too."""
    devices = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    row: Result = {"workload": workload, "mode": mode, "batch_size": batch_size, "devices": devices}
    try:
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            module: torch.nn.Module = Behind(workload=workload, compiled=mode == "compile")
            module = module.to(device, memory_format=torch.channels_last)
            if devices > 1:
                module = torch.nn.parallel.DistributedDataParallel(
                    module, device_ids=[device.index] if device.type == "cuda" else None
                )
            batch, labels = make_batch(workload, batch_size=batch_size, image_size=image_size, device=device)
            step: Callable[[], object]
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            start = time.perf_counter()
            step, optimizer = make_step(module, batch, labels, cache_casts=mode != "graph")
            if mode == "graph":
                step = captured(step, optimizer)
            if workload == "cached":
                step = reading(make_store(Path(folder)), batch, step)
            step()
            settle(device)
            row["first_step_s"] = time.perf_counter() - start
            row["images_per_s"] = devices * batch_size * rate(step, device=device, seconds=seconds)
            if device.type == "cuda":
                row["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    except Exception as error:  # whatever the compiler or the driver raises belongs into the table
        row["failed"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error) else ''}"
    return row


def measure_here(options: argparse.Namespace) -> None:
    """The rows of this process, or of this rank; rank 0 writes them."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device(options.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    if world_size > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    size = {"image_size": options.image_size, "device": device, "seconds": options.seconds}
    rows = [
        measure(workload, mode=options.modes[0], batch_size=options.batch_sizes[0], **size)
        for workload in options.workloads
    ]
    found: Result = {"rows": rows}
    if options.ceilings:
        found["ceilings"] = ceilings(
            device, seconds=options.seconds, side=options.product_side, copied=options.copy_bytes
        )
    if rank == 0:
        options.measure.write_text(json.dumps(found))
    if world_size > 1:
        torch.distributed.destroy_process_group()


def in_processes(options: argparse.Namespace, *, devices: int) -> Result:
    """All rows, each mode and batch size in a process of its own: a failed capture can leave the driver unusable."""
    rows: list[Result] = []
    limits: dict[str, float] = {}
    for mode in options.modes:
        for batch_size in options.batch_sizes:
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder) / "rows.json"
                words = [
                    str(Path(__file__).resolve()), "--measure", str(target), "--device", options.device,
                    "--modes", mode, "--batch-sizes", str(batch_size), "--workloads", *options.workloads,
                    "--image-size", str(options.image_size), "--seconds", str(options.seconds),
                    "--product-side", str(options.product_side), "--copy-bytes", str(options.copy_bytes),
                    *([] if limits else ["--ceilings"]),
                ]  # fmt: skip
                launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
                done = subprocess.run(
                    [sys.executable, *(launcher if devices > 1 else []), *words],
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                found = json.loads(target.read_text()) if target.exists() else {"rows": []}
            limits = found.get("ceilings", limits)
            last = (done.stderr.strip().splitlines() or [""])[-1][:160]
            missing = {"mode": mode, "batch_size": batch_size, "devices": devices}
            rows += found["rows"] or [
                {"workload": name, **missing, "failed": f"the process ended with {done.returncode}: {last}"}
                for name in options.workloads
            ]
            print(*(json.dumps(row) for row in rows[-len(options.workloads) :]), sep="\n", flush=True)
    return {"rows": rows, "ceilings": limits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--devices", type=int, help="how many; by default one, and then all there are")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 256], help="of each device")
    parser.add_argument("--modes", choices=tuple(MODES), nargs="+", default=list(MODES))
    parser.add_argument("--workloads", choices=tuple(WORKLOADS), nargs="+", default=list(WORKLOADS))
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--product-side", type=int, default=PRODUCT_SIDE)
    parser.add_argument("--copy-bytes", type=int, default=COPY_BYTES)
    parser.add_argument("--document", type=Path)
    parser.add_argument("--json", type=Path, help="file for what was measured and counted")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ceilings", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_here(options)
        return
    if options.device == "cpu" and options.document:
        parser.error("--device cpu only tries the script out: its figures do not go into a document")
    present = torch.cuda.device_count() if options.device == "cuda" else 1
    found: Result = {"rows": [], "ceilings": {}, "device": None, "image_size": options.image_size}
    if present:
        found["device"] = torch.cuda.get_device_name() if options.device == "cuda" else "the CPU: a trial, no figure"
        for devices in [options.devices] if options.devices else sorted({1, present}):
            more = in_processes(options, devices=devices)
            found["rows"] += more["rows"]
            found["ceilings"] = found["ceilings"] or more["ceilings"]
    else:
        print("There is no CUDA device here: not measured.")
        found["rows"] = [
            {"workload": workload, "mode": mode, "batch_size": batch_size, "devices": 1}
            for batch_size in options.batch_sizes for workload in options.workloads for mode in options.modes
        ]  # fmt: skip
    found["counted"] = {
        f"{workload} {batch_size}": count_all(workload, batch_size=batch_size, image_size=options.image_size)
        for workload in options.workloads
        for batch_size in options.batch_sizes
    }
    found["versions"] = {"torch": torch.__version__, "CUDA": torch.version.cuda if present else None}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    text = section(found, command="python scripts/benchmark/gpu.py --document docs/benchmarks-history.md")
    print(text)
    if options.document:
        before = section_in(options.document, "gpu")
        if not present and before is not None and NOT_MEASURED not in before:
            print(f"{options.document} holds figures of a CUDA device; they stay.")
        else:
            put_section(options.document, "gpu", text)


if __name__ == "__main__":
    main()
