"""Commands that show a study without changing it."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pyexperimenter.cli.printing import (
    COLORS,
    cell,
    echo,
    heading,
    print_json,
    print_matrix,
    print_rows,
    print_status,
)
from pyexperimenter.cli.study_options import (
    ID,
    STATES,
    Duration,
    NameList,
    StudyOptions,
    check_filled,
    json_option,
    latest_options,
    only_grid_option,
    study_file,
    study_options,
    where_option,
)
from pyexperimenter.jsonable import counted, records
from pyexperimenter.tracebacks import parts_of, summary_of, without_stacks

_DAY = 86400.0  # seconds
_FIRST = 50  # rows that list shows on a terminal by default
_ATTEMPT_COLUMNS = (
    *("number", "outcome", "started", "wall_seconds", "max_rss_bytes"),
    *("machine", "job_id", "git_commit", "environment"),
)


@click.command()
@study_file
@click.option("--watch", is_flag=True, help="Refresh until all experiments are finished, or until Ctrl-C.")
@click.option(
    "--every", type=Duration(), default="2s", show_default=True, metavar="DURATION", help="Interval of --watch."
)
@click.option(
    "--by", type=NameList(), metavar="COLUMNS", help="Also show how many are done for each combination of values."
)
@json_option
@study_options
def status(study: StudyOptions, watch: bool, every: float, by: list[str] | None, as_json: bool) -> None:
    """Show the progress of the study.

    Shows the number of experiments by status, how many finish in an hour, the time to go, and the workers. With --by,
    also a matrix, as for --by model,dataset.
    """
    experimenter = study.open_for_reading()
    while True:
        now = experimenter.status()
        groups = experimenter.group_by(by) if by else []
        if watch and sys.stdout.isatty():
            click.echo("\033[H\033[J", nl=False)  # from the top, without the flicker of an empty screen
        if as_json:
            print_json(
                {**asdict(now), "total": now.total, **({"by": [asdict(group) for group in groups]} if by else {})}
            )
        else:
            print_status(f"{experimenter.config.table.name} in {experimenter.config.database.database}", now)
            if by:
                print_matrix(by, groups, _room(len(now.workers)) if watch and sys.stdout.isatty() else None)
        if not watch or not now.counts["created"] + now.counts["running"]:
            break
        time.sleep(min(every, _DAY))
    if not now.total:
        check_filled(experimenter)


def _room(workers: int) -> int:
    """Return how many lines of a table fit on the terminal below the status."""
    return max(5, shutil.get_terminal_size().lines - 13 - workers)


@click.command("list")
@study_file
@where_option
@only_grid_option
@click.option(
    "-s",
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES),
    help="Only experiments in this state; may be repeated.",
)
@latest_options
@click.option("--columns", type=NameList(), metavar="COLUMNS", help="Columns to show, separated by commas.")
@click.option("--order-by", type=NameList(), metavar="COLUMNS", help="Columns to sort by; -COLUMN for descending.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(0),
    metavar="N",
    help=f"Maximum number of rows; on a terminal {_FIRST} by default.",
)
@json_option
@study_options
def list_experiments(
    study: StudyOptions,
    where: str | None,
    only_grid: bool,
    states: tuple[str, ...],
    columns: list[str] | None,
    order_by: list[str] | None,
    limit: int | None,
    as_json: bool,
    **latest: Any,
) -> None:
    """List experiments."""
    experimenter = study.open_for_reading()
    shown = _FIRST if limit is None and not as_json and sys.stdout.isatty() else limit
    table = experimenter.get_table(where, columns, order_by, shown, states or None, only_grid=only_grid, **latest)
    if as_json:
        print_json(records(table))
        return
    if table.empty:
        check_filled(experimenter)
        echo("No matching experiments", err=True)
        return
    if columns is None:
        fields = [*experimenter.config.table.keyfields, "status", *experimenter.config.table.resultfields]
        fields = [name for name in fields if name in table]  # not all, before a migrate
        table = table[["ID", *fields, *(["error"] if table["error"].notna().any() else [])]]
    print_rows((_colored(row) for row in table.to_dict("records")), list(table.columns))
    if limit is None and len(table) == shown:
        echo(f"Showing only the first {shown}; use -n N for more", err=True)


def _colored(row: dict[Any, Any]) -> list[Any]:
    """Return the cells of a row, with the cause of an error instead of its text."""
    if isinstance(row.get("error"), str):
        row["error"] = summary_of(row["error"])
    if row.get("status") in COLORS:
        row["status"] = click.style(row["status"], fg=COLORS[row["status"]])
    return list(row.values())


@click.command()
@click.argument("experiment_id", metavar="ID", type=ID)
@json_option
@study_options
def show(study: StudyOptions, experiment_id: int, as_json: bool) -> None:
    """Show one experiment in full.

    Shows its inputs, results, attempts, error and last output.
    """
    experimenter = study.open_for_reading()
    details = experimenter.get_experiment(experiment_id)
    if as_json:
        print_json(asdict(details))
        return
    table, row = experimenter.config.table, details.row
    state = str(row["status"])
    echo(f"{click.style(f'Experiment {experiment_id}', bold=True)}  {click.style(state, fg=COLORS.get(state))}")
    for title, names in (("Inputs", table.keyfields), ("Results", table.resultfields)):
        heading(title)
        print_rows((f"  {name}", cell(row[name])) for name in names if name in row)  # not all, before a migrate
    if details.attempts:
        heading("Attempts")
        print_rows(
            [
                [
                    *(attempt[name] for name in _ATTEMPT_COLUMNS),
                    summary_of(attempt["error"]) if attempt["error"] else "",
                ]
                for attempt in details.attempts
            ],
            [*_ATTEMPT_COLUMNS, "cause"],
        )
    output = details.attempts[-1]["output"] if details.attempts else None
    if row["error"]:
        heading("Error")
        echo(_explained(str(row["error"]), with_output=not output))
    if output and (printed := without_stacks(str(output))[0].rstrip()):
        heading("Last output")
        echo(printed)


def _explained(error: str, with_output: bool = True) -> str:
    """Return an error for people, with the stack of a killed process folded, before its output."""
    parts = parts_of(error)
    output = f"Last output:\n{parts.output}" if with_output and parts.output.strip() else ""
    return "\n".join(part.rstrip() for part in (parts.cause, parts.folded_stacks, output) if part)


@click.command()
@study_file
@click.option("-v", "--verbose", is_flag=True, help="Show a full traceback of each group.")
@json_option
@study_options
def errors(study: StudyOptions, verbose: bool, as_json: bool) -> None:
    """Group the experiments in error by what went wrong.

    Shows the size of each group, its commonest texts, some of its IDs, and the keyfield values that all its experiments
    share.
    """
    experimenter = study.open_for_reading()
    groups = experimenter.error_groups()
    if as_json:
        print_json([asdict(group) for group in groups])
        return
    if not groups:
        check_filled(experimenter)
        echo("No experiments are in error", err=True)
    for group in groups:
        examples = ", ".join(map(str, group.example_ids)) + (", ..." if group.count > len(group.example_ids) else "")
        echo(f"{click.style(str(group.count), fg='red', bold=True)}  {click.style(group.summary, bold=True)}")
        for text, count in group.variants.items():
            echo(f"   {count} {text}")
        echo(f"   ID {examples}")
        if group.shared:
            shared = (f"{name} = {cell(value) or 'NULL'}" for name, value in group.shared.items())
            echo(f"   all have {', '.join(shared)}")
        if verbose:
            echo("".join(f"   | {line}\n" for line in _explained(group.error).splitlines()))


@click.command()
@study_file
@json_option
@study_options
def environments(study: StudyOptions, as_json: bool) -> None:
    """Show the environments in which experiments were executed.

    Shows Python, the machine, and the packages in which they differ.
    """
    from pyexperimenter.analysis.versions import differing_packages

    found = study.open_for_reading().get_environments()
    if as_json:
        print_json(records(found))
        return
    if found.empty:
        echo("No environments are recorded", err=True)
        return
    installed = differing_packages(found.set_index("environment")["packages"].to_dict())
    found["gpus"] = found["gpus"].map(", ".join)
    columns = ["environment", "attempts", "python", "cpu", "cpus", "gpus", "platform"]
    print_rows(found[columns].itertuples(index=False), columns)
    for environment, packages in installed.items():
        echo(f"{environment}: {packages}")


@click.command()
@click.argument("experiment_id", metavar="ID", type=ID)
@click.option("-o", "--output", metavar="DIRECTORY", help="Copy the files there, under their names.")
@click.option("--all-attempts", is_flag=True, help="Include files from before the last reset.")
@json_option
@study_options
def files(study: StudyOptions, experiment_id: int, output: str | None, all_attempts: bool, as_json: bool) -> None:
    """Show the files that an experiment has saved or uses."""
    experimenter = study.open_for_reading()
    experimenter.get_experiment(experiment_id)  # raises if there is none
    found = experimenter.get_files(experiment_id, all_attempts)[["name", "role", "bytes", "timestamp", "path"]]
    if as_json:
        print_json(records(found))
    elif found.empty:
        echo("The experiment has no files", err=True)
    else:
        print_rows(found.itertuples(index=False), list(found.columns))
    for name, path in found[["name", "path"]].itertuples(index=False):
        if output is not None and path:
            target = Path(output, Path(name).name)  # a name may look like a path to somewhere else
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


@click.command()
@click.argument("experiment_id", metavar="ID", type=ID)
@click.argument("logtable", required=False)
@click.option("--all-attempts", is_flag=True, help="Include logs from before the last reset.")
@json_option
@study_options
def logs(study: StudyOptions, experiment_id: int, logtable: str | None, all_attempts: bool, as_json: bool) -> None:
    """Show what an experiment logged.

    Shows its rows in LOGTABLE, or in all logtables.
    """
    experimenter = study.open_for_reading()
    experimenter.get_experiment(experiment_id)  # raises if there is none
    names = [logtable] if logtable else list(experimenter.config.logtables)
    condition = f"experiment_id = {experiment_id}"
    frames = {name: experimenter.get_logtable(name, condition, all_attempts) for name in names}
    if as_json:
        print_json({name: records(frame) for name, frame in frames.items()})
        return
    if not names:
        echo("The config has no logtables", err=True)
    for name, frame in frames.items():
        echo(click.style(f"{name} ({counted(len(frame), 'row')})", bold=True))
        if not frame.empty:
            frame = frame.drop(columns=["ID", "experiment_id"])
            print_rows(frame.itertuples(index=False), list(frame.columns))
        echo()


@click.command()
@study_file
@click.option(
    "--format", "kind", type=click.Choice(["markdown", "latex"]), default="markdown", show_default=True, help="Format."
)
@study_options
def appendix(study: StudyOptions, kind: str) -> None:
    """Write a paragraph and a table on reproducibility for a paper.

    They say what was executed, what failed, where, with which versions, and what it took.
    """
    experimenter = study.open_for_reading()
    check_filled(experimenter)
    echo(experimenter.appendix(kind))


COMMANDS = (status, list_experiments, show, errors, logs, files, environments, appendix)
