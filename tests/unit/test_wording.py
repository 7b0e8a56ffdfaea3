"""What commands print names commands and options, not methods and arguments."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyexperimenter import PyExperimenter
from pyexperimenter.cli.wording import in_commands

PACKAGE = Path(__file__).resolve().parents[2] / "pyexperimenter"
METHODS = "|".join(name for name in dir(PyExperimenter) if name[0] != "_")
# About arguments that commands always give correctly, about Python code, or about old code.
NOT_PRINTED = {"analysis/cells.py", "result_processor.py", "predecessor.py", "__init__.py"} | {
    "dashboard/pages/listing.py",
    "dashboard/pages/outcomes.py",
}


def messages(tree: ast.AST) -> Iterator[str]:
    """Yield the texts of a module that are not docstrings; what f-strings insert is '7'."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in node.values)
        elif not isinstance(node, ast.Expr):  # of docstrings
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.Constant) and isinstance(child.value, str):
                    yield child.value


def test_no_command_prints_the_call_of_a_method() -> None:
    named: dict[str, str] = {}
    for path in PACKAGE.rglob("*.py"):
        if str(path.relative_to(PACKAGE)) in NOT_PRINTED:
            continue
        for text in messages(ast.parse(path.read_text(encoding="utf-8"))):
            if re.search(rf"\b(?:{METHODS})\(", text) and "deprecated" not in text:
                named[text] = in_commands(text)
    assert len(named) > 10  # otherwise nothing is tested
    assert [text for text in named.values() if re.search(rf"\b(?:{METHODS})\(", text)] == []


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("reset it: reset_experiments(ids=[12])", "reset it: pyexperimenter reset --id 12"),
        (
            "call migrate(defaults={'a': ..., 'b': ...}), None for NULL",
            "run pyexperimenter migrate with --default NAME=VALUE for each, or null",
        ),
        ("or call migrate() to add it", "or run pyexperimenter migrate to add it"),
        ("failures={'a b': 0.0}, or failures='drop'", "--failures a b=0.0, or --failures drop"),
        ("unit='seed' or pairing='all'; pass better='max'", "--unit seed or --pairing all; pass --better max"),
        ("let create_table(create_database=True) do so", "let pyexperimenter fill --create-database do so"),
        ("a column named execute, and my_sync()", "a column named execute, and my_sync()"),
    ],
)
def test_methods_become_commands(message: str, expected: str) -> None:
    assert in_commands(message) == expected
