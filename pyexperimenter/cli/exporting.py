"""Commands that export results: summaries for a paper, whole tables for other programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from pyexperimenter.cli.printing import counted, echo, print_json
from pyexperimenter.cli.study_options import (
    NameList,
    StudyOptions,
    check_filled,
    json_option,
    study_options,
    where_option,
)
from pyexperimenter.jsonable import records

_FORMATS = ("csv", "json", "parquet", "xlsx")
_RENDERINGS = {"text": "to_text", "latex": "to_latex", "markdown": "to_markdown", "html": "to_html"}


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
    kind: str | None,
    escape_formulas: bool,
) -> None:
    """Write a table to a file.

    The extension of FILE selects the format: .csv, .json, .parquet or .xlsx. A FILE of - is stdout.
    """
    experimenter = study.open_for_reading()
    check_filled(experimenter)
    target: Any = sys.stdout if file == "-" else file
    rows = experimenter.export(target, what, joined, where, kind or ("csv" if file == "-" else None), escape_formulas)
    echo(f"Wrote {counted(rows, 'row')}{'' if file == '-' else f' to {file}'}", err=True)


@click.command()
@click.argument("values", nargs=-1, required=True, metavar="RESULTFIELD...")
@click.option("--rows", type=NameList(), required=True, metavar="COLUMNS", help="Keyfields whose values form the rows.")
@click.option("--columns", type=NameList(), metavar="COLUMNS", help="Keyfields whose values form the columns.")
@click.option(
    "--over", type=NameList(), metavar="COLUMNS", help="Keyfields to aggregate over; by default seed, if there is one."
)
@click.option(
    "--unit", type=NameList(), metavar="COLUMNS", help="Keyfield of what is independent, or seed for each run."
)
@click.option(
    "--failures",
    multiple=True,
    default=["error"],
    metavar="[RESULTFIELD=]error|drop|NUMBER",
    help="What failed runs count as: an error of this command, nothing, or this number.",
)
@click.option(
    "--pairing",
    type=click.Choice(["common", "all"]),
    default="common",
    show_default=True,
    help="Average over what all cells of a row have in common, or over all that each has.",
)
@click.option(
    "--test-share", type=float, metavar="SHARE", help="If seeds are random splits: the share of the test part."
)
@click.option("--stat", default="mean±std", show_default=True, help="mean±std, median±iqr, ci95, mean or median.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(_RENDERINGS)),
    default="text",
    show_default=True,
    help="Format of the table.",
)
@click.option(
    "--digits",
    default="3",
    show_default=True,
    metavar="N|auto",
    callback=lambda context, option, value: _digits(value),
    help="Number of decimals; auto: two significant digits of each spread.",
)
@click.option(
    "--best",
    multiple=True,
    metavar="[RESULTFIELD=]max|min|indistinguishable",
    help="Mark the best cells, or those that tests do not distinguish from the best (see --better); with several "
    "resultfields, once for each that has a best.",
)
@click.option(
    "--better",
    multiple=True,
    metavar="[RESULTFIELD=]max|min",
    help="Test which cells of a row differ from the best one.",
)
@click.option(
    "--best-per", type=click.Choice(["row", "column"]), help="Compare the cells of each row or of each column."
)
@click.option(
    "--select-on", metavar="RESULTFIELD", help="Take only the best settings, chosen by this instead of RESULTFIELD."
)
@click.option(
    "--select-by", type=NameList(), metavar="COLUMNS", help="Choose a setting for each combination of these keyfields."
)
@click.option(
    "--select-better", type=click.Choice(["max", "min"]), default="max", show_default=True, help="What the best is."
)
@click.option(
    "--select-failures",
    type=click.Choice(["error", "worst", "drop"]),
    default="error",
    show_default=True,
    help="How failed runs are chosen: not at all, with an error; only if no other is left; or never.",
)
@click.option("--caption", metavar="TEXT", help="Caption of the LaTeX table.")
@click.option("--label", metavar="TEXT", help="Label of the LaTeX table.")
@where_option
@click.option("-o", "--output", metavar="FILE", help="Write the table to this file instead of printing it.")
@json_option
@study_options
def table(
    study: StudyOptions,
    values: tuple[str, ...],
    rows: list[str],
    columns: list[str] | None,
    over: list[str] | None,
    unit: list[str] | None,
    failures: tuple[str, ...],
    pairing: str,
    test_share: float | None,
    stat: str,
    kind: str,
    digits: int | str,
    best: tuple[str, ...],
    better: tuple[str, ...],
    best_per: str | None,
    select_on: str | None,
    select_by: list[str] | None,
    select_better: str,
    select_failures: str,
    caption: str | None,
    label: str | None,
    where: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Summarize results as a table for a paper.

    Each cell aggregates RESULTFIELD for one combination of rows and columns. Incomplete cells are marked.
    """
    experimenter = study.open_for_reading()
    check_filled(experimenter)
    how: dict[str, Any] = {"failures": _settings(failures, _count), "pairing": pairing, "unit": unit}
    how |= {"test_share": test_share, "better": _settings(better, str)}
    if (select_on is None) is not (select_by is None):
        raise click.UsageError("--select-on and --select-by need each other")
    if select_on is not None:
        how["select"] = {"by": select_by, "on": select_on, "better": select_better, "failures": select_failures}
    summary = experimenter.summarize(list(values), rows, columns, over or "seed", stat, where, **how)
    if as_json:
        print_json(records(summary))
        return
    from pyexperimenter import analysis

    options: dict[str, Any] = {"digits": digits, "best": _settings(best, str), "best_per": best_per}
    if kind == "latex":
        options |= {"caption": caption, "label": label}
    elif caption or label:
        raise click.UsageError("--caption and --label are for --format latex")
    text = getattr(analysis, _RENDERINGS[kind])(summary, **options)
    if output is None:
        echo(text)
        return
    with open(output, "w", encoding="utf-8") as file:
        file.write(f"{text}\n")


def _settings(settings: tuple[str, ...], read: Callable[[str], Any]) -> Any:
    """Return the last of several settings, or a dict if they are for resultfields, or None if there is none."""
    if not any("=" in setting for setting in settings):
        return read(settings[-1]) if settings else None
    named = (setting.rpartition("=")[::2] for setting in settings)
    return {name: read(setting) for name, setting in named}


def _digits(text: str) -> str | int:
    """Return a number of decimals; the renderer refuses what is neither a number nor auto."""
    try:
        return int(text)
    except ValueError:
        return text


def _count(text: str) -> str | float:
    """Return what a failed run counts as."""
    try:
        return float(text)
    except ValueError:
        return text


COMMANDS = (table, export)
