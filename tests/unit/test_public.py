"""What `pyexperimenter` exports: all public names, each loaded on first use."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
import typing

import pytest

import pyexperimenter
from pyexperimenter import exceptions

CLASSES = {
    "Anytime",
    "Audit",
    "BlockCounts",
    "Comparison",
    "Dashboard",
    "ErrorGroup",
    "ExperimentDetails",
    "ExperimentGroup",
    "ExperimentStatus",
    "FillCount",
    "PyExperimenter",
    "ResultProcessor",
    "StudyStatus",
    "Submission",
    "WorkerState",
}
ERRORS = {
    name
    for name, value in vars(exceptions).items()
    if isinstance(value, type) and value.__module__ == exceptions.__name__
}


def test_exported_names() -> None:
    assert set(pyexperimenter.__all__) == CLASSES | ERRORS | {"__version__"}
    assert set(pyexperimenter.__all__) <= set(dir(pyexperimenter))


@pytest.mark.parametrize("name", sorted(CLASSES | ERRORS))
def test_exported_names_resolve(name: str) -> None:
    assert getattr(pyexperimenter, name).__name__ == name
    assert issubclass(getattr(pyexperimenter, name), Exception) is (name in ERRORS)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Experimenter'"):
        pyexperimenter.Experimenter  # noqa: B018


def test_classes_in_public_signatures_are_exported() -> None:
    pytest.importorskip("matplotlib")
    import pandas as pd
    from matplotlib.axes import Axes

    names = {name: getattr(pyexperimenter, name) for name in CLASSES} | {"pd": pd, "Axes": Axes}
    named = set()
    for class_ in (pyexperimenter.PyExperimenter, pyexperimenter.ResultProcessor, pyexperimenter.Submission):
        for name, member in inspect.getmembers(class_, inspect.isfunction):
            if name[0] != "_":
                named |= set(_classes(typing.get_type_hints(member, localns=names)))
    ours = {class_ for class_ in named if class_.__module__.startswith("pyexperimenter")}
    assert ours >= {
        pyexperimenter.FillCount,
        pyexperimenter.StudyStatus,
        pyexperimenter.Submission,
    }  # otherwise nothing is tested
    assert {class_.__name__ for class_ in ours} <= CLASSES


def _classes(hints: object) -> typing.Iterator[type]:
    """Yield the classes in type hints, however deep."""
    if isinstance(hints, dict):
        for hint in hints.values():
            yield from _classes(hint)
    elif isinstance(hints, list | tuple):
        for hint in hints:
            yield from _classes(hint)
    elif isinstance(hints, type) and not typing.get_args(hints):
        yield hints
    else:
        yield from _classes(typing.get_args(hints))


def test_every_module_can_be_imported() -> None:
    """As tools for documentation do."""
    found = [module.name for module in pkgutil.walk_packages(pyexperimenter.__path__, "pyexperimenter.")]
    assert "pyexperimenter.__main__" in found
    for name in found:
        importlib.import_module(name)  # which must not run the command line


def test_import_loads_nothing_else() -> None:
    code = "import sys, pyexperimenter; print(*(name for name in sys.modules if name.startswith('pyexperimenter.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
