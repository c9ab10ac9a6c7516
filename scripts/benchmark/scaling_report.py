"""The section of docs/benchmarks-history.md on how cost grows, and its picture, from what `scaling.py` found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scripts.benchmark.fits import Line, Power, line, power

MEASURED, FIT, SECOND, GREY = "#1b7fb5", "#9aa5ad", "#c2571a", "#5b6775"  # MUTED of frostline.figures
Found = Mapping[str, Any]


def values(found: Found, series: str, *names: str) -> list[list[float]]:
    """Columns of a series."""
    return [[float(point[name]) for point in found["series"][series]] for name in names]


def fits(found: Found) -> dict[str, Any]:
    """Every fitted curve; x and y are in the units of the points."""
    images, epoch, own = values(found, "images", "images", "epoch_s", "own_mb")
    classes, step, by_classes = values(found, "classes", "classes", "step_ms", "own_mb")
    side, image = values(found, "resolution", "side", "image_ms")
    size, row = values(found, "row size", "row_bytes", "row_us")
    total, at_total = values(found, "cache size", "total_bytes", "row_us")
    return {
        "epoch": power(images, epoch),
        "epoch line": line(images, epoch),
        "own memory": line(images, own),
        "classes": line(classes, step),
        "memory by classes": line([count**2 for count in classes], by_classes),
        "resolution": power(side, image),
        "row size": line(size, row),
        "cache size": power(total, at_total),
    }


def section(found: Found, *, picture: str) -> str:
    """The text between the markers."""
    fit = fits(found)
    epoch, rate, own = fit["epoch"], fit["epoch line"], fit["own memory"]
    classes, side, row, cache = fit["classes"], fit["resolution"], fit["row size"], fit["cache size"]
    pairs = fit["memory by classes"]
    last = {name: points[-1] for name, points in found["series"].items()}
    first = found["series"]["images"][0]
    rows = [
        (
            f"images, {_span(found, 'images', 'images')}",
            "processor time of an epoch, features cached",
            f"∝ images^{epoch.exponent:.2f}; {1e6 * rate.slope:.0f} µs per image",
            "exponent 1",
            epoch.worst,
        ),
        (
            "the same",
            "the process's own memory",
            f"{own.start:.0f} MB + {1e6 * own.slope:.0f} bytes per image",
            "flat but for the order of an epoch and the labels, 8 bytes each",
            own.worst,
        ),
        (
            f"classes, {_span(found, 'classes', 'classes')}",
            "a head-only step, batch 32",
            f"{classes.start:.2f} ms + {1000 * classes.slope:.3f} µs per class",
            "a constant and a term linear in classes: 512 weights each",
            classes.worst,
        ),
        (
            "the same",
            "the process's own memory",
            f"{pairs.start:.0f} MB + {1e6 * pairs.slope:.0f} bytes per pair of classes",
            "quadratic: a confusion matrix for validation and one for test, 8 bytes a pair, each with the zeros that "
            "it is reset to",
            pairs.worst,
        ),
        (
            f"resolution, {_span(found, 'resolution', 'side')} px",
            "the frozen prefix, per image",
            f"∝ side^{side.exponent:.2f}",
            "exponent 2: convolutions cost as many operations per pixel at any size",
            side.worst,
        ),
        (
            f"size of a cached row, {_span(found, 'row size', 'row_bytes')} bytes",
            "reading a row",
            f"{max(row.start, 0):.1f} µs + {1e-3 / row.slope:.2f} GB/s",
            "a constant and the bytes, read, summed for the checksum and copied",
            row.worst,
        ),
        (
            f"size of the cache, {_span(found, 'cache size', 'total_bytes', 1e6)} MB",
            "reading a row of 100 KB",
            f"∝ size^{cache.exponent:.2f}",
            "exponent 0 while the pages stay in memory; the smallest one fits into a processor's cache",
            cache.worst,
        ),
    ]
    lines = [
        "## How cost grows",
        "",
        "Each point is a fresh process with one thread. Costs are processor time, not wall time: the machine was "
        "shared with other work. Training epochs are real ones (Trainer, ImageDataModule, FastPath; ResNet-18, head "
        "only, batch 32, bf16, synthetic images, no validation), all of whose features are read back from the cache. "
        "It was filled with random features beforehand by `FeatureStore.write`, in another process, so that no "
        "prefix had to be computed. Of several epochs or repeats the fastest counts, the first left out. Reading is "
        "measured from pages that are in memory.",
        "",
        f"![Cost against images, classes, resolution, row size, cache size and workers]({picture})",
        "",
        "| what grows | cost | fit | expected | farthest point |",
        "|---|---|---|---|---:|",
        *(f"| {a} | {b} | {c} | {d} | {100 * e:.0f} % |" for a, b, c, d, e in rows),
        "",
        f"At {int(last['images']['images']):,} images the process's own memory is "
        f"{last['images']['own_mb']:,.0f} MB, with {first['own_mb']:,.0f} MB at "
        f"{int(first['images']):,}. The resident set grows from {first['peak_mb']:,.0f} to "
        f"{last['images']['peak_mb']:,.0f} MB: it counts libraries too, of which as much as 100 MB more or less are "
        "resident from run to run, and the pages of the cache that were read, 1 KB an image; the kernel can drop both. "
        "At "
        f"{int(last['classes']['classes']):,} classes the peak is {last['classes']['peak_mb']:,.0f} MB.",
        "",
        "| workers | epoch of cached features, processor s | by the clock | decoding a JPEG, processor ms per image | "
        "by the clock | starting them, processor s |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for cached, decoded in zip(found["series"]["workers"], found["series"]["decoding"], strict=True):
        cells = [
            f"{cached['workers']}", f"{cached['epoch_s']:.2f}", f"{cached['epoch_wall_s']:.2f}",
            f"{decoded['image_ms']:.2f}", f"{decoded['image_wall_ms']:.2f}", f"{max(0.0, decoded['start_s']):.2f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"{int(found['series']['workers'][0]['images']):,} images with cached features; JPEGs of 256–500 px to 224 px. "
        "Wall times are of a shared machine. Expected: workers change who does the work, not how much of it there is, "
        "and add what passing a batch between processes costs; for cached features that is more than reading them.",
        "",
        f"{found['when']}, {found['machine']}.",
        "",
        "```",
        f"python scripts/benchmark/scaling.py --document docs/benchmarks-history.md --picture docs/{picture} "
        f"--json docs/{Path(picture).with_suffix('.json')}",
        "```",
    ]
    return "\n".join(lines)


def _span(found: Found, series: str, name: str, unit: float = 1.0) -> str:
    (column,) = values(found, series, name)
    return f"{min(column) / unit:,.0f} to {max(column) / unit:,.0f}"


def draw(found: Found, picture: Path) -> None:
    """A panel for each series: points are measured, grey lines are the fits."""
    from matplotlib import pyplot

    from frostline.figures import STYLE, save_figure

    fit = fits(found)
    with pyplot.rc_context({**STYLE, "font.size": 9, "font.family": "sans-serif"}):
        figure, panels = pyplot.subplots(4, 2, figsize=(8.5, 11.5), layout="constrained")
        epoch, memory, classes, side, row, cache, workers, decoding = panels.flat
        _panel(epoch, found, "images", "images", "epoch_s", fit["epoch"])
        _label(epoch, "An epoch from cached features", "images", "processor s", f"∝ images^{fit['epoch'].exponent:.2f}")
        _panel(memory, found, "images", "images", "own_mb", fit["own memory"], logarithmic=False)
        images, peak = values(found, "images", "images", "peak_mb")
        memory.plot(images, peak, "s", color=SECOND, markersize=4)
        memory.annotate("with mapped pages and libraries", (images[-1], peak[-1]), ha="right", va="bottom",
                        xytext=(0, 6), textcoords="offset points", color=SECOND)  # fmt: skip
        memory.annotate("the process's own", (images[-1], values(found, "images", "own_mb")[0][-1]), ha="right",
                        va="top", xytext=(0, -7), textcoords="offset points", color=MEASURED)  # fmt: skip
        memory.set_ylim(0, 1.25 * max(peak))
        own = fit["own memory"]
        _label(memory, "Memory, by number of images", "images", "MB", "")
        memory.text(0.03, 0.06, f"own: {1e6 * own.slope:.0f} bytes per image", transform=memory.transAxes, color=GREY)
        _panel(classes, found, "classes", "classes", "step_ms", fit["classes"])
        _label(classes, "A head-only step of 32, by classes", "classes", "processor ms", "constant + linear")
        _panel(side, found, "resolution", "side", "image_ms", fit["resolution"])
        _label(side, "The frozen prefix, by resolution", "side, px", "processor ms per image",
               f"∝ side^{fit['resolution'].exponent:.2f}")  # fmt: skip
        _panel(row, found, "row size", "row_bytes", "row_us", fit["row size"])
        _label(row, "Reading a feature, by its size", "bytes per row", "processor µs", "constant + linear")
        _panel(cache, found, "cache size", "total_bytes", "row_us", fit["cache size"])
        _label(cache, "Reading 100 KB, by size of the cache", "bytes of the cache", "processor µs",
               f"∝ size^{fit['cache size'].exponent:.2f}")  # fmt: skip
        cache.set_ylim(1, 1000)
        _bars(workers, found, "workers", "epoch_s")
        cached = int(found["series"]["workers"][0]["images"])
        _label(workers, f"An epoch of {cached:,} cached images", "workers", "processor s", "")
        _bars(decoding, found, "decoding", "image_ms")
        _label(decoding, "Decoding a JPEG", "workers", "processor ms", "")
        for panel in panels.flat:
            panel.spines[["top", "right"]].set_visible(False)
        save_figure(figure, picture)
        pyplot.close(figure)


def _panel(
    panel: Any, found: Found, series: str, x: str, y: str, curve: Power | Line, *, logarithmic: bool = True
) -> None:
    across, up = values(found, series, x, y)
    between = np.geomspace(min(across), max(across), 100)
    panel.plot(between, curve(between), color=FIT, linewidth=1.2, zorder=1)
    panel.plot(across, up, "o", color=MEASURED, markersize=5, zorder=2)
    panel.set_xscale("log")
    if logarithmic:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(up) < 50 * min(up) else (1,)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    else:
        panel.set_ylim(0, None)
    if x == "side":
        panel.set_xticks(across, [f"{value:.0f}" for value in across])
        panel.minorticks_off()


def _bars(panel: Any, found: Found, series: str, y: str) -> None:
    workers, up = values(found, series, "workers", y)
    panel.bar(workers, up, color=MEASURED, width=0.55)
    panel.set_xticks(workers, [f"{value:.0f}" for value in workers])
    for place, value in zip(workers, up, strict=True):
        panel.text(place, value, f"{value:.2f}", ha="center", va="bottom")
    panel.set_ylim(0, 1.2 * max(up))


def _label(panel: Any, title: str, across: str, up: str, curve: str) -> None:
    panel.set_title(title, loc="left", fontsize=9, fontweight="bold")
    panel.set_xlabel(across)
    panel.set_ylabel(up)
    panel.text(0.03, 0.93, curve, transform=panel.transAxes, color=GREY, va="top")
