"""A model card (Mitchell et al., 2019, arXiv 1810.03993) in Markdown, from what a run recorded and nothing else."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from frostline.calibration import temperature_text
from frostline.storage.names import printable_name
from frostline.tracking.report import CLASS_COLUMNS, class_row, metric_rows

FEW = 30  # test images of a class: with fewer, a share of a half has a standard error of more than 9 points
MOST_CLASSES = 200  # rows of the table


def model_card(described: Mapping[str, Any], facts: Mapping[str, Any], *, parameters: int, tested: bool) -> str:
    """The card.

    Args:
        described: what the checkpoint says of itself.
        facts: the run's facts.json; empty where the checkpoint lies in no run folder.
        parameters: of the network.
        tested: whether the facts' results are those of this checkpoint.
    """
    results, calibration = facts if tested else {}, described.get("calibration")
    parts = (
        _model(described, facts, parameters),
        _data(described, facts),
        _results(results),
        _limits(results, facts, calibration),
    )
    sections = zip(("Model", "Data", "Results", "Limits"), parts, strict=True)
    made = ("How it was made", _made(described, facts))
    title = f"# {_text(_architecture(described))}, {len(described['images']['classes'])} classes"
    texts = [f"## {name}\n\n" + "\n".join(lines) for name, lines in (*sections, made)]
    return "\n\n".join([title, *texts]) + "\n"


def _architecture(described: Mapping[str, Any]) -> str:
    model = (described.get("recipe") or {}).get("model") or {}
    return str(model.get("name") or model.get("_target_") or "network built by hand")


def _model(described: Mapping[str, Any], facts: Mapping[str, Any], parameters: int) -> Iterator[str]:
    images, head = described["images"], (described.get("recipe") or {}).get("head") or {}
    yield f"- network: {_text(_architecture(described))}, {parameters:,} parameters"
    if head:
        yield f"- head: {_text(head.get('name') or head.get('_target_'))}"
    yield f"- input: RGB images, {images['image_size']} × {images['image_size']} pixels"
    yield f"- classes: {', '.join(map(_text, images['classes']))}"
    if source := (facts.get("weights") or {}).get("source"):
        yield f"- weights before the training: {_text(source)}"


def _data(described: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    data, recorded = described["settings"].get("data") or {}, facts.get("data") or {}
    if not data and not recorded:
        yield "The checkpoint does not say on which data it was trained."
        return
    place = data.get("path") or data.get("root")
    yield f"- source: {_text(data.get('name') or data.get('_target_'))}{f', {_text(place)}' if place else ''}"
    for split, count in (recorded.get("images") or {}).items():
        yield f"- {split}: {count:,} images"
    for reason, count in (recorded.get("left_out") or {}).items():
        yield f"- left out: {count:,} ({_text(reason)})"
    augment = (described["settings"].get("augment") or {}).get("name")
    if augment:
        yield f"- augmentation: {_text(augment)}"


def _results(facts: Mapping[str, Any]) -> Iterator[str]:
    if not facts.get("results"):
        yield "No test of this checkpoint is recorded."
        return
    yield from ("| metric | value |", "|---|---|")
    for name, value in metric_rows(facts["results"]):
        yield f"| {_text(name)} | {value} |"
    rows: Sequence[Mapping[str, Any]] = facts.get("per_class") or ()
    if rows:
        yield from ("", f"| {' | '.join(CLASS_COLUMNS)} |", "|---" * len(CLASS_COLUMNS) + "|")
    for row in rows[:MOST_CLASSES]:
        name, *numbers = class_row(row)
        yield f"| {' | '.join((_text(name), *numbers))} |"
    if len(rows) > MOST_CLASSES:
        yield f"\n{len(rows) - MOST_CLASSES:,} more classes are in facts.json of the run."


def _limits(
    results: Mapping[str, Any], facts: Mapping[str, Any], calibration: Mapping[str, Any] | None
) -> Iterator[str]:
    yield "- It gives every image one of the classes above, also an image of something else."
    if results.get("results"):
        yield "- The results hold for images of the same source; others were not tested."
    rows = results.get("per_class") or ()
    if few := [row for row in rows if row["images"] < FEW]:
        names = ", ".join(f"{_text(row['class'])} ({row['images']})" for row in few[:20])
        more = f" and {len(few) - 20:,} more" if len(few) > 20 else ""
        yield f"- Fewer than {FEW} test images, so that their results are uncertain: {names}{more}."
    for name, value in (results.get("results") or {}).items():
        if name.endswith("/calibration_error"):
            without = " without its temperature" if calibration else ""
            yield f"- Its probabilities{without} differ from the share that is right by {100 * value:.1f} % on average."
    if calibration:
        [*_, (split, found)] = calibration["results"].items()
        by = f"differ from the share that is right by {100 * found['after']['calibration_error']:.1f} % on average"
        yield f"- With its {temperature_text(calibration)}, its probabilities {by}, {split} images."
    if warning := (facts.get("weights") or {}).get("warning"):
        yield f"- Warning of the run: {_text(warning)}"


def _made(described: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    settings, freezing = described["settings"], facts.get("freezing") or {}
    for phase in described["policy"].get("phases") or ():
        yield f"- phase {_text(phase['name'])} trains: {', '.join(map(_text, phase['train']))}"
    if freezing.get("tensors_compared"):
        held = "stayed bit-identical" if freezing["held"] else "did NOT stay unchanged"
        yield f"- frozen tensors {held}: {freezing['tensors_compared']:,} were compared"
    if facts.get("steps") is not None:
        yield f"- optimizer steps: {facts['steps']:,}; epochs: {facts['epochs']:,}"
    for group, keys in (("optimizer", ("name", "lr", "weight_decay")), ("data", ("batch_size",))):
        section = settings.get(group) or {}
        if texts := [f"{key} {_text(section[key])}" for key in keys if section.get(key) is not None]:
            yield f"- {group}: {', '.join(texts)}"
    if settings.get("seed") is not None:
        yield f"- seed: {settings['seed']}"
    if facts.get("command"):
        yield f"- command: {_text(facts['command'])}"
    if facts.get("started"):
        yield f"- started: {_text(facts['started'])}"
    if git := facts.get("git"):
        yield f"- git commit: {_text(git['commit'])}{', with changes' if git.get('dirty') else ''}"
    if versions := facts.get("versions"):
        yield f"- versions: {', '.join(f'{name} {_text(version)}' for name, version in versions.items() if version)}"


def _text(value: object) -> str:
    """A name from outside as text in one line of Markdown: none of its characters is markup."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&$])", r"\\\1", printable_name(value))
