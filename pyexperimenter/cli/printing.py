"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from numbers import Number
from typing import TYPE_CHECKING, Any

import click

from pyexperimenter.durations import duration_text, interval_text
from pyexperimenter.jsonable import counted, jsonable, one_line

if TYPE_CHECKING:
    from pyexperimenter.study.groups import ExperimentGroup
    from pyexperimenter.study.status import StudyStatus

COLORS = {"created": "blue", "running": "cyan", "done": "green", "error": "red", "paused": "yellow"}
_WIDEST = 60  # characters in a cell
_BAR = 40  # characters
# Control characters, except tabs, ends of lines and colors, and those that change the direction of text.
_COMMANDS = re.compile(
    r"(?!\x1b\[[\d;]*m)[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def echo(text: object = "", err: bool = False, nl: bool = True) -> None:
    """Print text that may come from the database, which must not give commands to the terminal."""
    click.echo(printable(str(text)), err=err, nl=nl)


def printable(text: str) -> str:
    r"""Replace what a terminal would obey instead of showing it.

    >>> printable("a\x1b]0;title\x07 \x1b[31mred\x1b[0m")
    'a�]0;title� \x1b[31mred\x1b[0m'
    """
    return _COMMANDS.sub("\N{REPLACEMENT CHARACTER}", text)


def print_json(value: Any) -> None:
    """Print as JSON, with times in ISO format, and null for missing values and for numbers that are not finite."""
    text = json.dumps(jsonable(value), ensure_ascii=False, indent=2)
    click.echo(_COMMANDS.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def print_rows(rows: Iterable[Sequence[Any]], headers: Sequence[str] = ()) -> None:
    """Print a table for people, one line per row, with numbers to the right and long texts cut."""
    from tabulate import tabulate

    rows = list(rows)
    columns = list(zip(*rows, strict=True))
    echo(
        tabulate(
            [[cell(value) for value in row] for row in rows],
            headers=list(headers),
            tablefmt="simple" if headers else "plain",
            disable_numparse=True,
            colalign=["right" if _are_numbers(column) else "left" for column in columns] or None,
        )
    )


def cell(value: Any) -> str:
    r"""Format a value as one short line.

    >>> cell(0.1 + 0.2), cell(None), cell("first\nsecond")
    ('0.3', '', 'first second')
    """
    return one_line(value, _WIDEST)


def _are_numbers(values: Iterable[Any]) -> bool:
    given = [value for value in values if cell(value)]
    return bool(given) and all(isinstance(value, Number) and not isinstance(value, bool) for value in given)


def heading(text: str) -> None:
    """Print a heading below an empty line."""
    echo()
    echo(click.style(text, bold=True))


def print_status(title: str, status: StudyStatus) -> None:
    """Print the progress of a study and its workers."""
    from pyexperimenter.study.status import outside_grid_text

    echo(click.style(title, bold=True))
    finished = status.total - status.counts["created"] - status.counts["running"]
    echo(f"{_bar(status)}  {finished} of {status.total} finished{_share(finished, status.total)}")
    counts = (
        click.style(f"{name} {count}", fg=COLORS.get(name) if count else None, dim=not count or None)
        for name, count in status.counts.items()
    )
    echo("  ".join(counts))
    if status.blocks is not None:
        of_blocks = asdict(status.blocks)
        total = of_blocks.pop("total")
        echo(f"{counted(total, 'block')}: {', '.join(f'{count} {name}' for name, count in of_blocks.items())}")
    if status.outside_grid:
        echo(f"{outside_grid_text(status.outside_grid)}; to remove open ones: pyexperimenter prune")
    if status.finished_per_hour is not None and status.eta_range is not None:
        rate = f"{status.finished_per_hour:,.{0 if status.finished_per_hour >= 10 else 1}f} an hour"
        echo(f"{rate}, {interval_text(*status.eta_range)} to go")
    elif status.is_idle:
        echo("no worker is running")
    if status.workers:
        echo()
        print_rows(
            (
                (
                    worker.experiment_id,
                    short_duration(worker.running_seconds),
                    f"{short_duration(worker.silent_seconds)} ago{'' if worker.alive else ', lease expired'}",
                    worker.name,
                    worker.job_id,
                )
                for worker in status.workers
            ),
            ["ID", "running for", "heartbeat", "worker", "job"],
        )


def print_matrix(by: Sequence[str], groups: Sequence[ExperimentGroup], most: int | None = None) -> None:
    """Print how many experiments of each group are done, with the values of the last column side by side.

    Without room for that, each group has a line.

    Parameters
    ----------
    by : sequence of str
        The columns that the groups differ in.
    groups : sequence of ExperimentGroup
        The experiments.
    most : int, optional
        Maximum number of lines.
    """
    rows = {tuple(map(cell, group.values.values())): _progress_of(group) for group in groups}
    headers = [*by, "done"]
    lines = [[*values, text] for values, text in rows.items()]
    across = list(dict.fromkeys(values[-1] for values in rows))
    if len(by) > 1:
        down = dict.fromkeys(values[:-1] for values in rows)
        matrix = [[*values, *(rows.get((*values, one), "") for one in across)] for values in down]
        widths = [max(len(click.unstyle(text)) for text in column) for column in zip(*matrix, strict=True)]
        labels = [*by[:-1], *(one or "NULL" for one in across)]
        if sum(max(len(label), width) + 2 for label, width in zip(labels, widths, strict=True)) <= _columns():
            headers, lines = labels, matrix
    heading(f"done/planned (errors) by {', '.join(by)}")
    print_rows(lines[:most], headers)
    if len(lines) > len(lines[:most]):
        echo(f"... {counted(len(lines) - len(lines[:most]), 'more line')}")


def _progress_of(group: ExperimentGroup) -> str:
    errors = group.counts["error"]
    return f"{group.counts['done']}/{group.total}" + (click.style(f" ({errors})", fg=COLORS["error"]) if errors else "")


def _columns() -> int:
    """Return the width of the terminal; without one, that of a wide one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 200


def short_duration(seconds: float) -> str:
    """Format a duration, rounded to minutes from an hour on.

    >>> short_duration(0), short_duration(93.2), short_duration(93784)
    ('0s', '1m33s', '1d2h3m')
    """
    return duration_text(round(seconds) if seconds < 3600 else round(seconds / 60) * 60)


def _bar(status: StudyStatus) -> str:
    """Draw a bar of the shares of all statuses, done first."""
    if not status.total:
        return "·" * _BAR
    parts, before, drawn = [], 0, 0
    for name, sign in (("done", "█"), ("error", "█"), ("paused", "▓"), ("running", "▒"), ("created", "·")):
        before += status.counts.get(name, 0)
        until = round(before / status.total * _BAR)
        parts.append(click.style(sign * (until - drawn), fg=COLORS[name]))
        drawn = until
    return "".join(parts)


def _share(part: int, whole: int) -> str:
    return f" ({part / whole:.0%})" if whole else ""
