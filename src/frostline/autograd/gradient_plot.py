"""The gradients as a picture: size of the gradient and of the step, parameter by parameter, on logarithmic axes."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from frostline.autograd.flow import Flow
from frostline.figures import ICE, ICE_INK, ICE_LINE, INK, WARM_INK, WARM_LINE, styled


@styled
def plot_gradients(flows: Sequence[Flow], stages: Mapping[str, Sequence[str]], *, title: str) -> Figure:
    """Parameters in execution order from left to right, grouped by stage; frozen ones on a blue ground.

    flows: of single parameters. stages: stage -> names of the parameters in it.
    """
    place = {name: index for index, name in enumerate(name for names in stages.values() for name in names)}
    figure = Figure(figsize=(max(8.0, 0.19 * len(place) + 2), 6.4), layout="constrained")
    size, step = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    size.set_title(title, loc="left", fontweight="bold")
    received = [flow for flow in flows if flow.receiving]
    at = [place[flow.name] for flow in received]
    size.bar(at, [flow.largest or 0 for flow in received], width=0.8, color=WARM_LINE, alpha=0.35)
    size.bar(at, [flow.mean or 0 for flow in received], width=0.8, color=WARM_LINE)
    size.set_ylabel("|gradient|")
    moved = [flow for flow in received if flow.update_ratio]
    step.plot(
        [place[flow.name] for flow in moved], [flow.update_ratio or 0 for flow in moved], "o", color=WARM_INK, ms=4
    )
    step.axhline(1e-3, color=INK, linewidth=0.8, linestyle=":")
    step.set_ylabel("‖Δw‖ / ‖w‖")
    frozen = [place[flow.name] for flow in flows if not flow.trainable]
    for axis, drawn in ((size, any(flow.squares for flow in received)), (step, bool(moved))):
        axis.set_yscale("log" if drawn else "linear")
        axis.set_xlim(-0.7, len(place) - 0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.25)
        for index in frozen:
            axis.axvspan(index - 0.5, index + 0.5, color=ICE, linewidth=0)
    _name_stages(size, step, stages)
    size.legend(
        handles=[
            Patch(color=WARM_LINE, label="mean |g|"),
            Patch(color=WARM_LINE, alpha=0.35, label="max |g|"),
            Patch(facecolor=ICE, edgecolor=ICE_LINE, label="frozen: no gradient"),
        ],
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=3,
        frameon=False,
        fontsize=8,
    )
    return figure


def _name_stages(size: Any, step: Any, stages: Mapping[str, Sequence[str]]) -> None:
    start, ticks = 0, []
    for names in stages.values():
        ticks.append(start + (len(names) - 1) / 2)
        start += len(names)
        for axis in (size, step):
            axis.axvline(start - 0.5, color=ICE_INK, linewidth=0.6, alpha=0.5)
    step.set_xticks(ticks, list(stages))
    for axis in (size, step):
        axis.tick_params(axis="x", length=0)
