"""The pictures as Chromium lays them out: the truth about fonts, which the boxes computed elsewhere only assume."""

import json
import re
import shutil
import subprocess

import pytest

from frostline.autograd import draw_operations, draw_stages

from .networks import observed

pytestmark = pytest.mark.browser

MEASURE = """
<script>
const box = e => {
  const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom, e.textContent];
};
const texts = [...document.querySelectorAll('svg text')].map(box);
const rects = [...document.querySelectorAll('svg [id^=PatchCollection] path')].map(box);
const meet = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
// A line's box is taller than its letters; a fifth of it may touch.
const inner = b => [b[0], b[1] + 0.2 * (b[3] - b[1]), b[2], b[3] - 0.2 * (b[3] - b[1]), b[4]];
const within = (a, b) => b[0] <= a[0] && a[2] <= b[2];
const faults = [];
texts.forEach((a, i) => texts.slice(i + 1).forEach(b => { if (meet(inner(a), inner(b))) faults.push([a[4], b[4]]) }));
texts.forEach(a => rects.forEach(b => { if (meet(inner(a), b) && !within(a, b)) faults.push([a[4], 'box']) }));
const page = [document.documentElement.scrollWidth, texts.length, rects.length];
document.title = JSON.stringify({faults, page});
</script>
"""


@pytest.mark.parametrize("trainable", [("fc",), ("layer4", "fc"), ("layer2",), ("",)])
@pytest.mark.parametrize("view", ["stages", "operations"])
def test_no_label_overlaps_and_nothing_scrolls_sideways_at_1280_pixels(trainable, view, tmp_path):
    chromium = shutil.which("chromium")
    assert chromium, "the browser tests need Debian's chromium"
    observation = observed(*trainable)
    drawing = draw_stages(observation) if view == "stages" else draw_operations(observation.graph)
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><body style='margin:0'>{drawing._repr_svg_()}{MEASURE}</body>")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [
        chromium, *flags.split(), "--disable-component-update", "--disable-sync", "--window-size=1280,900",
        f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    measured = json.loads(re.search(r"<title>(\{.*?\})</title>", dom)[1].replace("&amp;", "&"))
    assert measured["faults"] == []
    width, texts, boxes = measured["page"]
    assert width <= 1280
    assert texts > 10
    assert boxes > 3
