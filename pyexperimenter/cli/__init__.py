"""The command line: each command parses, makes one call of the facade, and prints.

Data go to stdout, messages to stderr. Heavy modules are imported by the commands that need them, so that help is fast.
"""

from pyexperimenter.cli.app import main

__all__ = ["main"]
