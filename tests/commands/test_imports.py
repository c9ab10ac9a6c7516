"""A training's start pays for no import that it does not use, nor for a search for garbage while it imports."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from frostline.commands.imports import quick_imports

SCRIPT = """
import gc, sys
from frostline.commands.imports import quick_imports

found = []
gc.callbacks.append(lambda phase, info: found.append(phase))
gc.collect()
assert found, "the test would see a search"
found.clear()
with quick_imports():
    import frostline.commands.build, frostline.commands.train, frostline.data.digits
    gc.freeze()
    assert not found
assert gc.isenabled()
assert "torchmetrics" in sys.modules
assert "scipy.signal" not in sys.modules
import scipy.signal
assert scipy.signal.windows.hamming(3).round(2).tolist() == [0.08, 1, 0.08]
assert scipy.signal.__spec__ is not None
"""


def test_a_training_starts_without_scipy_signal_and_any_process_wants_it_gets_it() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], check=True)


def test_the_search_for_garbage_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_import_that_fails_leaves_nothing_behind() -> None:
    before = sys.modules.get("scipy.signal")
    with pytest.raises(ModuleNotFoundError), quick_imports():
        import no_such_module  # noqa: F401
    assert gc.isenabled()
    assert sys.modules.get("scipy.signal") is before


def test_the_other_commands_start_so_too(tmp_path: Path) -> None:
    (tmp_path / "damaged.ckpt").write_bytes(b"no checkpoint")
    words = ["-X", "importtime", "-m", "frostline", "predict", "checkpoint=damaged.ckpt", "inputs=."]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "| " in done.stderr
    assert "torchmetrics" in done.stderr
    assert "scipy.signal" not in done.stderr
