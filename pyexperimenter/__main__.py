"""``python -m pyexperimenter``: the command line."""

from pyexperimenter.cli import main

if __name__ == "__main__":
    main(prog_name="pyexperimenter")
