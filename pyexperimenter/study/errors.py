"""Experiments in error, grouped by what went wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyexperimenter.database.reader import ExperimentReader
from pyexperimenter.study.details import readable

_EXAMPLES = 5  # IDs kept per group


@dataclass(frozen=True)
class ErrorGroup:
    """Experiments that failed in the same way.

    Attributes
    ----------
    summary : str
        The exception, without details in which the experiments differ.
    count : int
        Number of experiments.
    example_ids : sequence of int
        IDs of some of them.
    shared : Mapping
        Keyfields that have the same value in all of them, but not in the whole table.
    error : str
        The error of the first example.
    """

    summary: str
    count: int
    example_ids: Sequence[int]
    shared: Mapping[str, Any]
    error: str


@dataclass
class _Group:
    """A group while the errors are read."""

    error: str
    summary: str
    shared: dict[str, Any]
    count: int = 0
    ids: list[int] = field(default_factory=list)

    def add(self, experiment_id: int, keyfields: Mapping[str, Any], summary: str) -> None:
        self.count += 1
        if summary != self.summary:
            self.summary = _without_details(self.summary)
        if len(self.ids) < _EXAMPLES:
            self.ids.append(experiment_id)
        self.shared = {name: value for name, value in self.shared.items() if keyfields[name] == value}


def error_groups(reader: ExperimentReader) -> list[ErrorGroup]:
    """Group the experiments in error by what went wrong, with the largest group first."""
    types = reader.schema.keyfields
    groups: dict[str, _Group] = {}
    everywhere: dict[str, Any] | None = None  # keyfields with the same value in all experiments in error
    for experiment_id, *values, error in reader.error_rows():
        keyfields = dict(zip(types, values, strict=True))
        everywhere = keyfields if everywhere is None else everywhere
        everywhere = {name: value for name, value in everywhere.items() if keyfields[name] == value}
        text = "" if error is None else str(error)
        summary = summary_of(text)
        groups.setdefault(normalized(text), _Group(text, summary, keyfields)).add(experiment_id, keyfields, summary)
    found = sorted(groups.values(), key=lambda group: group.count, reverse=True)
    constant = {name for name in everywhere or () if not reader.has_other(name, found[0].ids[0])}
    return [
        ErrorGroup(
            group.summary,
            group.count,
            group.ids,
            {
                name: readable(name, value, types)
                for name, value in group.shared.items()
                if group.count > 1 and name not in constant
            },
            group.error,
        )
        for group in found
    ]


def normalized(error: str | None) -> str:
    """Return an error without the details that differ between errors of a kind: numbers, quoted texts, paths.

    Examples
    --------
    >>> normalized("ValueError: seed 7 of 'iris' at 0x7f3a") == normalized("ValueError: seed 12 of 'wine' at 0x81bc")
    True
    """
    return "\n".join(
        _FOLDER.sub(r"\1", line) if _is_place(line) else _without_details(line) for line in _relevant_lines(error)
    )


def _relevant_lines(error: str | None) -> Iterator[str]:
    """Yield the places and the exception of a traceback, without the code between them."""
    for line in _OUTPUT.split(error or "")[0].splitlines():
        line = _MARGIN.sub("", line)
        if _is_place(line) or not line.startswith(" "):
            yield line


_OUTPUT = re.compile(r"\n(?:Last output|The last that it printed):")  # the latter in errors of earlier versions
# The following need time linear in the length of the line, which may be megabytes.
_MARGIN = re.compile(r"^ +[|+][-+]* ?")  # of the parts of an exception group
_FOLDER = re.compile(r'^(  File ")[^"]*/')
_QUOTED = re.compile(r"""(?<!\w)[bru]{0,2}(?:'[^']*'|"[^"]*")""", re.I)  # not the apostrophe of "can't"
_WORD = re.compile(r"[^\s'\"(),:;=<>\[\]{}]+")
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def _is_place(line: str) -> bool:
    return line.startswith("  File ")


def _without_details(line: str) -> str:
    line = _QUOTED.sub("'…'", line)
    if "/" in line:
        line = _WORD.sub(lambda word: "…" if "/" in word[0] else word[0], line)
    return _NUMBER.sub("…", line)


def summary_of(error: str) -> str:
    """Return the most informative line: in a traceback, the exception after the last place."""
    lines = [line for line in _relevant_lines(error) if line.strip()]
    places = [index for index, line in enumerate(lines) if _is_place(line)]
    behind = lines[places[-1] + 1 :] if places else lines
    return (behind or lines or ["no error text"])[0].strip()
