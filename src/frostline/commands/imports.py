"""An import that nobody needs, and that takes a fifth of a start."""

import sys
from types import ModuleType


def import_torchmetrics() -> None:
    """Import torchmetrics, and let scipy.signal wait until somebody wants it.

    torchmetrics 1.9 imports scipy.signal, where scipy is installed, only to give it a name that it has lost
    (`hamming`): one of the five seconds of processor time that a training takes to start. It is shown a stand-in that
    has the name; whoever imports scipy.signal later finds the real one.
    """
    if "torchmetrics" in sys.modules or "scipy.signal" in sys.modules:
        return
    stand_in = ModuleType("scipy.signal")
    stand_in.__dict__["hamming"] = None
    sys.modules["scipy.signal"] = stand_in
    try:
        import torchmetrics  # noqa: F401
    finally:
        del sys.modules["scipy.signal"]
