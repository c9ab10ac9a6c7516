"""A training's start pays for no import that it does not use."""

import subprocess
import sys

SCRIPT = """
import sys
from frostline.commands.imports import import_torchmetrics

import_torchmetrics()
import frostline.commands.build, frostline.commands.train, frostline.data.digits
assert "torchmetrics" in sys.modules
assert "scipy.signal" not in sys.modules
import scipy.signal
assert scipy.signal.windows.hamming(3).round(2).tolist() == [0.08, 1, 0.08]
assert scipy.signal.__spec__ is not None
"""


def test_a_training_starts_without_scipy_signal_and_whoever_wants_it_gets_it() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], check=True)
