"""The command that exports whole tables for other programs."""

from __future__ import annotations

import sys
from typing import Any

import click

from pyexperimenter.cli.printing import echo
from pyexperimenter.cli.study_options import (
    StudyOptions,
    check_filled,
    only_grid_option,
    study_options,
    where_option,
)
from pyexperimenter.jsonable import counted

_FORMATS = ("csv", "json", "parquet", "xlsx")


@click.command()
@click.argument("file")
@click.option(
    "--what",
    default="experiments",
    show_default=True,
    metavar="NAME",
    help="experiments, attempts, codecarbon, or the name of a logtable.",
)
@click.option("--joined", is_flag=True, help="Add the keyfields of the experiment to each row of a side table.")
@where_option
@only_grid_option
@click.option("--format", "kind", type=click.Choice(_FORMATS), help="Format, if not that of the extension of FILE.")
@click.option(
    "--escape-formulas", is_flag=True, help="In CSV, put ' before texts that a spreadsheet would read as formulas."
)
@study_options
def export(
    study: StudyOptions,
    file: str,
    what: str,
    joined: bool,
    where: str | None,
    only_grid: bool,
    kind: str | None,
    escape_formulas: bool,
) -> None:
    """Write a table to a file.

    The extension of FILE selects the format: .csv, .json, .parquet or .xlsx. A FILE of - is stdout.
    """
    experimenter = study.open_for_reading()
    check_filled(experimenter)
    target: Any = sys.stdout if file == "-" else file
    kind = kind or ("csv" if file == "-" else None)
    rows = experimenter.export(target, what, joined, where, kind, escape_formulas, only_grid)
    echo(f"Wrote {counted(rows, 'row')}{'' if file == '-' else f' to {file}'}", err=True)


COMMANDS = (export,)
