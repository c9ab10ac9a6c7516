"""The benchmark's section of docs/benchmarks-history.md and its picture, from the results file alone."""

from pathlib import Path

from scripts.benchmark.contest.competitors import FOUR_VIEWS, FROSTLINE, TITLES
from scripts.benchmark.contest.peers.task import WORKLOADS
from scripts.benchmark.contest.results import (
    Record,
    Row,
    bare_seconds,
    fastest_peer,
    images_seen,
    last,
    ratio,
    read_lines,
    row_of,
    rows,
    target_results,
)  # fmt: skip
from scripts.benchmark.document import put_section

STANDARD_SIZE = (2000, 500)  # training and validation images; the targets are for this one
EXPERT = (
    " The script by hand (`peers/expert.py`) is as fast as an expert makes it: the frozen part without a graph, its "
    "features computed once where the images do not vary, channels-last, bf16, fused SGD; scikit-learn fits its "
    "LogisticRegression to the same features, in its own iterations. × expert: how many times as much the script takes."
)
OURS, PEER, PEER_FAST = "#1b7fb5", "#9aa5ad", "#cfd6da"


def write_report(results: Path, *, document: Path, picture: Path) -> None:
    """Put the section between its markers (at the end, where there are none yet), and draw the picture.

    Raises:
        ValueError: no run in the results.
    """
    lines = read_lines(results)
    found = rows(lines)
    if not found:
        raise ValueError(f"{results} holds no run.")
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(found, picture, subtitle=_setting(last(lines, "contest")))
    link = picture.resolve().relative_to(document.resolve().parent)
    text = section(lines, picture=str(link))
    put_section(document, section_name(last(lines, "contest")), text)


def section_name(contest: Record) -> str:
    """`contest`, and with the numbers of images where they are not those of the targets."""
    size = (contest["train_images"], contest["val_images"]) if contest else STANDARD_SIZE
    return "contest" if size == STANDARD_SIZE else f"contest-{size[0]}-{size[1]}"


def section(lines: list[Record], *, picture: str) -> str:
    """The text between the markers."""
    found, contest, limits = rows(lines), last(lines, "contest"), last(lines, "limits")
    name = section_name(contest)
    size = "" if name == "contest" else f", {contest['train_images']:,} + {contest['val_images']:,} images"
    parts = [
        f"## Beside its competitors{size}",
        "",
        _introduction(contest, expert=any(row.is_expert for row in found)),
        "",
    ]
    parts += [f"![Wall time of each competitor]({picture})", ""]
    if name == "contest":
        parts += _targets(found)
    for workload in dict.fromkeys(row.workload for row in found):
        parts += _table([row for row in found if row.workload == workload], found, contest, limits)
    parts += _limits(limits)
    measured = [line for line in lines if line.get("kind") == "contest"]
    commands = dict.fromkeys(line["command"] for line in measured)
    parts += [_environment(measured), "", "```", *(commands or ["make benchmark"]), "```"]
    return "\n".join(parts)


def _introduction(contest: Record, *, expert: bool) -> str:
    weights = contest.get("weights") or "weights trained for 100 steps on other synthetic classes"
    return (
        "Whole processes from start to end, in turns, on the same JPEG files, initial weights and number of optimizer "
        f"steps (ResNet-18 from {weights}, 224 px, batch 32, SGD 0.01 with momentum 0.9), each peer as its users "
        f"write it. {_setting(contest)}. A table shows medians over the runs, each with a seed of its own. CPU s: "
        "processor seconds of the process tree; start: those until the first image is opened; images/s: training and "
        "validation images of all epochs by wall time; peak memory: the largest proportional set size of the tree; "
        "accuracy: on the validation images after the last epoch, in brackets the lowest and the highest; ×: how many "
        "times as much the fastest peer as its users write it takes; bare: what the bare model would need for the same "
        "passes, at its best rate in the same benchmark, as a share of the wall time after the start (above 100 % "
        "where passes are saved); others: what other programs used of the machine meanwhile."
    ) + (EXPERT if expert else "")


def _setting(contest: Record) -> str:
    if not contest:
        return "unknown setting"
    threads = contest["threads"] or f"all {contest['cores']}"
    return f"{contest['train_images']:,} + {contest['val_images']:,} images, {threads} threads"


def _targets(found: list[Row]) -> list[str]:
    results = target_results(found)
    if not results:
        return []
    lines = ["| target | × | wall | processor time | peak memory | |", "|---|---:|---:|---:|---:|---|"]
    for verdict in results:
        cells = [
            f"{verdict.ratios[m]:.2f} ({verdict.against[m]})" if m in verdict.ratios else ""
            for m in ("wall", "cpu", "memory")
        ]
        target = "> 1" if "memory" in verdict.ratios else f"≥ {verdict.target:g}"
        lines.append(f"| {verdict.text} | {target} | {' | '.join(cells)} | {'met' if verdict.met else '**missed**'} |")
    return [*lines, ""]


def _table(here: list[Row], found: list[Row], contest: Record, limits: Record) -> list[str]:
    workload = here[0].workload
    lines = [
        f"### {WORKLOADS[workload].title}",
        "",
        "| | wall s | × | CPU s | × | start CPU s | images/s | peak memory MB | accuracy | bare | others | runs |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    expert = row_of(found, workload, "expert")
    if expert is not None:
        lines[-2:] = [f"{lines[-2]} × expert |", f"{lines[-1]}---:|"]
    for row in here:
        cells = [
            _number(row["wall"]), _times(row, found, "wall"), _number(row["cpu"]), _times(row, found, "cpu"),
            _number(row["start_cpu"]), "", _number((row["peak_pss"] or 0) / 1e6, 0), "", "", _share(row["others"]),
            f"{row.repeats}" + (f" × {row.multiplied}" if row.multiplied > 1 else ""),
        ]  # fmt: skip
        wall = row["wall"] or float("nan")
        if contest:
            sizes = {"train": contest["train_images"], "val": contest["val_images"]}
            cells[5] = _number(images_seen(workload, **sizes) / wall)
            if limits:
                working = wall - (row["start_wall"] or 0.0)
                cells[8] = _share(bare_seconds(workload, **sizes, limits=limits) / working)
        cells[7] = _accuracy(row)
        if expert is not None:
            cells.append(_number(ratio(row, expert, "wall"), 2))
        lines.append(f"| {TITLES.get(row.competitor, row.competitor)} | {' | '.join(cells)} |")
    if any(row.multiplied > 1 for row in here):
        lines += ["", "A peer's sweep is its W1a × 12, not run: each of the twelve would start again and do the same."]
    return [*lines, ""]


def _limits(limits: Record) -> list[str]:
    if not limits:
        return []
    lines = [
        "### The machine's own limit",
        "",
        "| | per second of the clock |",
        "|---|---:|",
        f"| bare model, frozen, {limits['precision']}, channels-last (compute only) | "
        f"{limits['forward']['wall']:.1f} images |",
        f"| bare model, whole training step, {limits['precision']}, channels-last (compute only) | "
        f"{limits['step']['wall']:.1f} images |",
    ]
    for name, text in (("centre", "resize and centre crop"), ("crop", "random-resized crop and flip")):
        for loader, title in (("frostline", "frostline's loader"), ("plain", "the tutorial's loader, no workers")):
            lines.append(f"| data only, {text}: {title} | {limits[f'loading_{name}'][loader]['wall']:.0f} images |")
    lines += [
        f"| matrix product, {limits['precision']} | {limits['product']['wall']:.0f} billion operations |",
        f"| matrix product, float32 | {limits['product_float32']['wall']:.0f} billion operations |",
    ]
    share = limits["forward"]["wall"] * limits["forward_gflop"] / limits["product"]["wall"]
    text = f"The frozen model does {100 * share:.0f} % of the operations per second that the matrix product does."
    return [*lines, "", text, ""]


def _environment(measured: list[Record]) -> str:
    """The machine of the last of the commands; commits and versions of them all, for each had its own peers."""
    if not measured:
        return ""
    contest = measured[-1]
    shared = ", ".join(dict.fromkeys(name for line in measured for name in line.get("in_frostlines_environment", [])))
    own = f" In frostline's own environment, where their start may be slower: {shared}." if shared else ""
    used = dict.fromkeys(pair for line in measured for pair in line["versions"].items())
    versions = ", ".join(f"{name} {version}" for name, version in used)
    commits = ", ".join(dict.fromkeys(line["commit"] for line in measured))
    return (
        f"{contest['when'][:10]}, {contest['processor']}, {contest['cores']} cores, {contest['memory_gib']:.0f} GiB; "
        f"frostline at {commits}; {versions}.{own}"
    )


def _times(row: Row, found: list[Row], measure: str) -> str:
    value = ratio(row, fastest_peer(found, row.workload, measure), measure)
    return "" if value is None else f"{value:.2f}"


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _accuracy(row: Row) -> str:
    if row["accuracy"] is None:
        return ""
    low, high = 100 * min(row.accuracies), 100 * max(row.accuracies)
    return f"{100 * row['accuracy']:.1f} %" + (f" ({low:.1f} to {high:.1f})" if low < high else "")


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def draw(found: list[Row], picture: Path, *, subtitle: str) -> None:
    """Bars of wall seconds, one panel for each workload, frostline's at the top of each."""
    from matplotlib import pyplot

    from frostline.figures import STYLE, save_figure

    workloads = list(dict.fromkeys(row.workload for row in found))
    counts = [sum(row.workload == workload for row in found) for workload in workloads]
    with pyplot.rc_context({**STYLE, "font.size": 9, "font.family": "sans-serif"}):
        figure, panels = pyplot.subplots(
            len(workloads), 1, figsize=(8.5, 0.5 + sum(0.75 + 0.24 * count for count in counts)),
            gridspec_kw={"height_ratios": [count + 1 for count in counts]}, squeeze=False, layout="constrained",
        )  # fmt: skip
        for panel, workload in zip(panels[:, 0], workloads, strict=True):
            here = [row for row in found if row.workload == workload]
            seconds = [row["wall"] or 0.0 for row in here]
            colours = [OURS if not row.is_peer else PEER_FAST if row.is_fast else PEER for row in here]
            panel.barh(range(len(here)), seconds, color=colours, height=0.72)
            panel.set_yticks(range(len(here)), [_plain_title(row.competitor) for row in here])
            panel.invert_yaxis()
            panel.set_xlim(0, max(seconds) * 1.13)
            for place, value in enumerate(seconds):
                panel.text(value, place, f" {value:,.1f} s", va="center", ha="left")
            # Ending where the bars end: the longest would run out of the picture at their left.
            panel.set_title(WORKLOADS[workload].title, loc="right", fontsize=9, fontweight="bold")
            panel.spines[["top", "right", "left"]].set_visible(False)
            panel.tick_params(left=False)
            panel.xaxis.set_visible(False)
            panel.spines["bottom"].set_visible(False)
        figure.suptitle(f"Wall time, whole process, {subtitle}; shorter is better", fontsize=10)
        save_figure(figure, picture)
        pyplot.close(figure)


def _plain_title(competitor: str) -> str:
    return {FROSTLINE: "frostline", FOUR_VIEWS: "frostline, 4 cached views"}.get(competitor, TITLES[competitor])
