"""What a command imports, without unneeded work: a quarter of a start."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import within it what a command needs.

    torchmetrics 1.9 imports scipy.signal, where scipy is installed, only to give it a name that it has lost
    (`hamming`): one of the five seconds of processor time that a training takes to start. It is shown a stand-in that
    has the name; a later import of scipy.signal finds the real one. And Python looks for garbage among the 400,000
    objects of what has been imported again and again, 0.6 seconds, where there is none: it waits until the end.
    """
    stand_in = ModuleType("scipy.signal")
    stand_in.__dict__["hamming"] = None
    shown = "torchmetrics" not in sys.modules and "scipy.signal" not in sys.modules
    if shown:
        sys.modules["scipy.signal"] = stand_in
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if shown:
            del sys.modules["scipy.signal"]
        if collecting:
            gc.enable()
