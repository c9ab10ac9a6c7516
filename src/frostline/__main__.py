"""`python -m frostline COMMAND …` is `frostline COMMAND …`."""

from frostline.commands.main import program

if __name__ == "__main__":
    program()
