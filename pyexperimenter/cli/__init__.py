"""The command line: each command parses, makes one call of the facade, and prints.

Data go to stdout, messages to stderr. Heavy modules are imported by the commands that need them, so that help is fast.
"""

from pyexperimenter.cli import analyzing, dashboard, exporting, maintaining, reading, running, starting, submitting
from pyexperimenter.cli.app import completion, main

for module in (starting, running, submitting, reading, dashboard, analyzing, exporting, maintaining):
    for command in module.COMMANDS:
        main.add_command(command)
main.add_command(completion)

__all__ = ["main"]
