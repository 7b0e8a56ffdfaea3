"""What users can call, catch and type: public classes, functions and methods by full names, commands by their paths."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import click

from pyexperimenter.cli import main
from pyexperimenter.cluster import Submission
from pyexperimenter.database.records import FillCount


def public_objects() -> dict[str, Any]:
    """Return classes and functions for users, and the methods and properties of the classes."""
    found: dict[str, Any] = {
        "pyexperimenter.cluster.Submission": Submission,
        "pyexperimenter.database.records.FillCount": FillCount,
    }
    for name in ("pyexperimenter.exceptions", "pyexperimenter.inspection"):
        found |= {
            f"{name}.{member}": value
            for member, value in vars(importlib.import_module(name)).items()
            if isinstance(value, type) and value.__module__ == name and member[0] != "_"
        }
    for name in ("pyexperimenter", "pyexperimenter.analysis", "pyexperimenter.config"):
        module = importlib.import_module(name)
        members = {f"{name}.{member}": getattr(module, member) for member in module.__all__ if member[0] != "_"}
        found |= {member: value for member, value in members.items() if value not in found.values()}
    return found | dict(_members(found))


def _members(objects: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, found in objects.items():
        # What Python's own classes bring along is none of ours.
        for base in found.__mro__ if isinstance(found, type) else ():
            if base.__module__.startswith("pyexperimenter"):
                for member, value in vars(base).items():
                    if member[0] != "_" and (inspect.isfunction(value) or isinstance(value, property)):
                        yield f"{name}.{member}", value


def commands(command: click.Command = main, path: str = "pyexperimenter") -> dict[str, click.Command]:
    """Return a command with those below it."""
    found = {path: command}
    for name, below in getattr(command, "commands", {}).items():
        found |= commands(below, f"{path} {name}")
    return found


def options(command: click.Command) -> list[click.Option]:
    """Return the options of a command."""
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]
