"""One of several processes of a run: `python -m frostline.commands.worker RUN_FOLDER`."""

import sys
from pathlib import Path

from frostline.commands.run_folder import read_config
from frostline.commands.train import train_in

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    train_in(folder, read_config(folder))
