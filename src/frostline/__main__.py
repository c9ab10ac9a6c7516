"""`python -m frostline COMMAND …` is `frostline COMMAND …`."""

from frostline.commands.main import main

if __name__ == "__main__":
    main()
