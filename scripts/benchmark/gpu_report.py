"""The section of docs/benchmarks-history.md on CUDA devices, from what `gpu.py` found."""

import time
from collections.abc import Mapping
from typing import Any

from scripts.benchmark.device_steps import MODES, WORKLOADS

NOT_MEASURED = "not measured"


def section(found: Mapping[str, Any], *, command: str) -> str:
    """The text between the markers.

    Args:
        found: `rows`, `ceilings`, `counted`, `device` (None: there was none), `image_size`, `versions`.
    """
    limits, counted = found["ceilings"], found["counted"]
    rows = sorted(found["rows"], key=lambda row: (row["devices"], row["batch_size"]))
    parts = ["## On a GPU", "", _introduction(found), ""]
    parts += ["| ceiling, measured in the same run | |", "|---|---:|"]
    parts += [
        f"| matrix product, bf16 | {_per(limits.get('operations_per_s'), 1e12, 'TFLOP/s')} |",
        f"| copy within the device's memory, read + written | {_per(limits.get('bytes_per_s'), 1e9, 'GB/s')} |",
        "",
        "| trains | batch | devices | way | images/s | GFLOP per image | MB per image | of the product | of the copy | "
        "first step s | peak GB |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cost = counted[f"{row['workload']} {row['batch_size']}"]
        parts.append(_line(row, cost, limits))
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    parts += ["", f"{time.strftime('%Y-%m-%d')}, {found['device'] or 'no CUDA device'}, {versions}."]
    return "\n".join([*parts, "", "```", command, "```"])


def _introduction(found: Mapping[str, Any]) -> str:
    text = (
        f"ResNet-18, {found['image_size']} px, bf16 and channels-last, SGD with momentum; batches lie on the device, "
        "so that the loader is not measured; cached features are read from a feature store and copied in each step. "
        "Batch sizes are of each device. Operations and bytes are counted, not measured "
        "(`scripts/benchmark/counting.py`): the bytes are those of a program that fuses nothing, so that a share of "
        "the copy above 100 % means fusion or a cache, and not a mistake."
    )
    if found["device"] is None:
        return f"**No CUDA device was at hand: {NOT_MEASURED}.** What is counted needs none. {text}"
    return text


def _line(row: Mapping[str, Any], cost: Mapping[str, float], limits: Mapping[str, float]) -> str:
    title, _ = WORKLOADS[row["workload"]]
    speed = row.get("images_per_s")
    cells = [title, str(row["batch_size"]), str(row["devices"]), MODES[row["mode"]]]
    if "failed" in row:
        rate = "failed: " + row["failed"].replace("|", "\\|")
    else:
        rate = NOT_MEASURED if speed is None else f"{speed:,.0f}"
    cells += [rate, _short(cost["operations"] / 1e9), _short(cost["bytes"] / 1e6)]
    for name, limit in (("operations", "operations_per_s"), ("bytes", "bytes_per_s")):
        known = speed is not None and limit in limits
        cells.append(f"{100 * share(speed, cost[name], limits[limit], row['devices']):.1f} %" if known else "")
    cells.append(f"{row['first_step_s']:.1f}" if "first_step_s" in row else "")
    cells.append(f"{row['peak_bytes'] / 1e9:.2f}" if "peak_bytes" in row else "")
    return f"| {' | '.join(cells)} |"


def share(speed: float, cost: float, limit: float, devices: int) -> float:
    """Of a device's limit per second, what `speed` images per second on so many devices make use of."""
    return speed / devices * cost / limit


def _per(value: float | None, unit: float, name: str) -> str:
    return NOT_MEASURED if value is None else f"{value / unit:,.0f} {name}"


def _short(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3g}"
