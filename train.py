"""`python train.py key=value …` is `frostline train key=value …`; see `python train.py --help`."""

from frostline.commands.main import program

if __name__ == "__main__":
    program("train")
