"""The gradients as a table for terminals and files."""

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from frostline.autograd.diagnose import diagnose
from frostline.autograd.flow import Flow
from frostline.tables import new_table


def gradient_table(flows: Sequence[Flow]) -> Group:
    """A row for each stage and, below, a sentence on each; fits 80 columns."""
    table = new_table("stage", "trains", "norm", "mean |g|", "max |g|", "zeros", "Δw/w", "noise")
    for flow in flows:
        share = "-" if flow.zero_share is None else f"{100 * flow.zero_share:.3g} %"
        norm, mean, largest, ratio, noise = (
            "-" if number is None else f"{number:.2e}"
            for number in (flow.norm, flow.mean, flow.largest, flow.update_ratio, flow.noise)
        )
        style = "" if flow.trainable else "cyan"
        trains = f"{flow.trainable}/{flow.tensors}"
        table.add_row(flow.name, trains, norm, mean, largest, share, ratio, noise, style=style)
    return Group(table, Text(""), *(Text(diagnose(flow, flows)) for flow in flows))
