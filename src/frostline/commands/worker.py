"""One of several processes of a run: `python -m frostline.commands.worker RUN_FOLDER`."""

import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path


def end_with(parent: int) -> None:
    """Save and stop when the process that started this one is gone, as nothing else would end it."""
    while os.getppid() == parent:
        time.sleep(2)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()

    from frostline.commands.fast_exit import collect_rarely, fast_exit

    collect_rarely()
    with fast_exit():
        from frostline.commands.terminal import show_only_printable
        from frostline.commands.train import train_in
        from frostline.config import secret_values

        show_only_printable()

        config, secrets = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - from the process that started this one
        secret_values.also_know(secrets)
        train_in(Path(sys.argv[1]), config)
