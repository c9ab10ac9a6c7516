"""The gradients as a picture: size of the gradient and of the step, parameter by parameter, on logarithmic axes."""

from collections.abc import Mapping, Sequence

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
    size.bar(at, [flow.maximum for flow in received], width=0.8, color=WARM_LINE, alpha=0.35)
    size.bar(at, [flow.mean or 0 for flow in received], width=0.8, color=WARM_LINE)
    moved = {place[flow.name]: flow.update_ratio for flow in received if flow.update_ratio}
    step.plot(list(moved), list(moved.values()), "o", color=WARM_INK, ms=4)
    step.axhline(1e-3, color=INK, linewidth=0.8, linestyle=":")
    frozen = [place[flow.name] for flow in flows if not flow.trainable]
    ends = [sum(map(len, list(stages.values())[: index + 1])) for index in range(len(stages))]
    for axis, label, drawn in (
        (size, "|gradient|", any(flow.squares for flow in received)),
        (step, "‖Δw‖ / ‖w‖", bool(moved)),
    ):
        axis.set_ylabel(label)
        axis.set_yscale("log" if drawn else "linear")
        axis.set_xlim(-0.7, len(place) - 0.3)
        axis.tick_params(axis="x", length=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.25)
        for index in frozen:
            axis.axvspan(index - 0.5, index + 0.5, color=ICE, linewidth=0)
        for end in ends:
            axis.axvline(end - 0.5, color=ICE_INK, linewidth=0.6, alpha=0.5)
    middles = [end - (len(names) + 1) / 2 for end, names in zip(ends, stages.values(), strict=True)]
    step.set_xticks(middles, list(stages))
    legend = [
        Patch(color=WARM_LINE, label="mean |g|"),
        Patch(color=WARM_LINE, alpha=0.35, label="max |g|"),
        Patch(facecolor=ICE, edgecolor=ICE_LINE, label="frozen: no gradient"),
    ]
    size.legend(handles=legend, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=8)
    return figure
