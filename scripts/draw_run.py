"""Draw the README's picture: what a run prints, as an SVG that needs no font from elsewhere.

python scripts/draw_run.py docs/figures/run.svg [key=value …]
"""

import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]


def main(target: Path, overrides: list[str]) -> None:
    words = [sys.executable, str(ROOT / "train.py"), "callbacks.progress_bar=false", *overrides]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    # The picture is about the run, not about where this checkout lies.
    printed = done.stdout.replace(f"{Path.cwd()}/", "")
    console = Console(record=True, width=96, file=StringIO())
    console.print(Text("$ make train", style="bold"))
    console.print(Text(printed.rstrip()))
    svg = console.export_svg(title="frostline")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(
        re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code", "Menlo, Consolas")
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
