"""The names of all commands, whose modules are imported when they are asked for."""

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click

COMMANDS = {
    "init": ("starting", "Write a config and an experiment function to start from."),
    "validate": ("starting", "Check the config and its function, and show the grid."),
    "fill": ("starting", "Insert the missing experiments of the grid."),
    "replicate": ("starting", "Insert more seeds where intervals are still too wide."),
    "run": ("running", "Execute open experiments until none is left."),
    "debug": ("running", "Execute one experiment here, without writing anything."),
    "audit": ("running", "Execute SIZE finished experiments again, and compare results."),
    "submit": ("submitting", "Submit workers as jobs of a cluster."),
    "cancel": ("submitting", "Cancel SLURM jobs."),
    "status": ("reading", "Show the progress of the study."),
    "list": ("reading", "List experiments."),
    "show": ("reading", "Show one experiment in full."),
    "errors": ("reading", "Group the experiments in error by what went wrong."),
    "logs": ("reading", "Show what an experiment logged."),
    "files": ("reading", "Show the files that an experiment has saved or uses."),
    "environments": ("reading", "Show the environments in which experiments were executed."),
    "dashboard": ("dashboard", "Show a study in the browser until Ctrl-C."),
    "report": ("dashboard", "Write progress, failures and results to an HTML file."),
    "table": ("analyzing", "Summarize results as a table for a paper."),
    "compare": ("analyzing", "Test whether the levels of a keyfield differ."),
    "primary": ("analyzing", "Do the primary test that the config declares."),
    "aggregate": ("analyzing", "Aggregate normalized scores of several tasks."),
    "anytime": ("analyzing", "Show how good runs are at any time."),
    "pareto": ("analyzing", "Show the settings that no other beats in all objectives."),
    "plot": ("analyzing", "Draw a figure of the results."),
    "export": ("exporting", "Write a table to a file."),
    "appendix": ("reading", "Write a paragraph and a table on reproducibility for a paper."),
    "reset": ("maintaining", "Make experiments open again."),
    "release": ("maintaining", "Release experiments whose workers are gone."),
    "prune": ("maintaining", "Remove experiments that are not in the grid of the config."),
    "remove": ("maintaining", "Remove experiments with their attempts and logs."),
    "sync": ("maintaining", "Write results that are waiting in journals."),
    "migrate": ("maintaining", "Add new columns and logtables of the config to the tables."),
    "copy": ("maintaining", "Copy the study to another database."),
    "archive": ("maintaining", "Write the whole study to a zip file."),
    "delete": ("maintaining", "Delete the table and its side tables."),
    "completion": ("starting", "Print the completion script for a shell."),
}
"""The module and the short help of each command, in the order in which a study needs them."""


class LazyCommands(UserDict[str, Any]):
    """The commands by name. To import all would take longer than to print the help, or to start any of them."""

    def __getitem__(self, name: str) -> click.Command:
        module, _ = self.data[name]
        commands: dict[str | None, click.Command] = {
            command.name: command for command in import_module(f"pyexperimenter.cli.{module}").COMMANDS
        }
        return commands[name]
