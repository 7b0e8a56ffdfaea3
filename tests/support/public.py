"""What users can call, catch and type: public classes, functions and methods by full names, commands by their paths."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import click

import pyexperimenter
from pyexperimenter.cli import main


def public_objects() -> dict[str, Any]:
    """Return classes and functions for users, and the methods and properties of the classes."""
    found: dict[str, Any] = {}
    # What two modules export is documented in the first of them.
    for name in ("pyexperimenter.analysis", "pyexperimenter.config", "pyexperimenter.exceptions", "pyexperimenter"):
        module = importlib.import_module(name)
        exported = getattr(module, "__all__", None) or [
            member for member in pyexperimenter.__all__ if member in vars(module)
        ]
        members = {f"{name}.{member}": getattr(module, member) for member in exported if member[0] != "_"}
        found |= {member: value for member, value in members.items() if value not in found.values()}
    return found | dict(_members(found))


def _members(objects: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, found in objects.items():
        # Members that come from Python's own classes are not ours.
        for base in found.__mro__ if isinstance(found, type) else ():
            if base.__module__.startswith("pyexperimenter"):
                for member, value in vars(base).items():
                    if member[0] != "_" and (inspect.isfunction(value) or isinstance(value, property)):
                        yield f"{name}.{member}", value


def commands(command: click.Command = main, path: str = "pyexperimenter") -> dict[str, click.Command]:
    """Return a command and its subcommands."""
    found = {path: command}
    for name, below in getattr(command, "commands", {}).items():
        found |= commands(below, f"{path} {name}")
    return found


def options(command: click.Command) -> list[click.Option]:
    """Return the options of a command."""
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]
