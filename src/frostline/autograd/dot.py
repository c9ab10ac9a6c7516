"""Graphs in Graphviz's DOT language, in the colours of the pictures."""

from collections.abc import Iterable, Mapping

from frostline.figures import ICE, ICE_LINE, INK, PAPER, WARM, WARM_LINE

COLOURS = {
    "frozen": f'style="rounded,filled,dashed" fillcolor="{ICE}" color="{ICE_LINE}"',
    "trainable": f'fillcolor="{WARM}" color="{WARM_LINE}"',
    "": f'fillcolor="{PAPER}" color="{INK}"',
}


def dot_text(
    title: str, nodes: Mapping[str, tuple[str, str]], edges: Iterable[tuple[str, str, Mapping[str, object]]]
) -> str:
    """A directed graph.

    nodes: name -> (label, "frozen", "trainable" or ""). edges: (from, to, attributes).
    """
    lines = ["digraph autograd {", '  node [shape=box style="rounded,filled" fontname="DejaVu Sans Mono" fontsize=11];']
    lines.append(f"  label={_quoted(title)} labelloc=t;")
    lines += [f"  {name} [label={_quoted(label)} {COLOURS[state]}];" for name, (label, state) in nodes.items()]
    for source, target, attributes in edges:
        style = " ".join(f"{key}={_quoted(str(value))}" for key, value in attributes.items())
        lines.append(f"  {source} -> {target}" + (f" [{style}];" if style else ";"))
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
