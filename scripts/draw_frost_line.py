"""Draw the README's picture: `frostline graph` of a ResNet-18 whose layer4 and head train.

python scripts/draw_frost_line.py [docs/figures/frost_line.svg]
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FIGURE = Path(__file__).resolve().parents[1] / "docs/figures/frost_line.svg"
# Random weights and 32-bit floats on every machine: the figure does not depend on downloads or on the processor.
OVERRIDES = ("freeze=to_layer3", "model.weights=none", "trainer.precision=32-true", "data.image_size=224")


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "frostline", "graph", *OVERRIDES, f"output={folder}"], check=True)
        shutil.copyfile(Path(folder) / "stages.svg", target)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURE)
