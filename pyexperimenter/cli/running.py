"""Commands that execute experiments in this process or its children."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from typing import Any

import click

from pyexperimenter.cli.printing import echo, print_rows, print_status
from pyexperimenter.cli.study_options import (
    ID,
    Assignment,
    NameList,
    StudyOptions,
    check_filled,
    config_and_function,
    load_function_of,
    only_grid_option,
    smoke_option,
    study_options,
    where_option,
)
from pyexperimenter.exceptions import DatabaseError, PyExperimenterError
from pyexperimenter.jsonable import counted
from pyexperimenter.logger import hidden_failures


@click.command()
@click.argument("names", nargs=-1, metavar="[CONFIG] [MODULE:FUNCTION]")
@click.option(
    "-j", "--n-jobs", type=int, metavar="N", help="Number of workers, instead of the config's; -1 for one per core."
)
@click.option(
    "-n",
    "--max-experiments",
    type=click.IntRange(-1),
    default=-1,
    metavar="N",
    help="Maximum number of experiments to execute.",
)
@where_option
@only_grid_option
@click.option(
    "--order-by",
    type=NameList(),
    metavar="COLUMNS",
    help="Take open experiments in this order; -COLUMN for descending.",
)
@click.option("--random-order", is_flag=True, help="Take open experiments at random.")
@click.option(
    "--stop-after", metavar="DURATION", help="Start no experiment that would not finish in this time, as in 3h50m."
)
@click.option(
    "--wait", is_flag=True, help="Stay until no experiment is running, and take over those that other workers lose."
)
@smoke_option
@click.option(
    "--replicate", is_flag=True, help="Add seeds as the config says, and go on, until no interval is too wide."
)
@click.option("--name", default="PyExperimenter", metavar="NAME", help="Name to write to the column name.")
@click.option("-q", "--quiet", is_flag=True, help="Print no failures; by default, the first of each kind.")
@study_options
def run(
    study: StudyOptions,
    names: tuple[str, ...],
    n_jobs: int | None,
    max_experiments: int,
    where: str | None,
    only_grid: bool,
    order_by: list[str] | None,
    random_order: bool,
    stop_after: str | None,
    wait: bool,
    smoke: int,
    replicate: bool,
    name: str,
    quiet: bool,
) -> None:
    """Execute open experiments until none is left.

    Give the function as module:function or file.py:function, or as the key function in the config's section Execution.
    A failed experiment is a result of the study, not an error of this command. Ctrl-C releases running experiments.
    """
    config, function_name = config_and_function(names)
    experimenter = study.open(config, name=name)
    function = load_function_of(experimenter, function_name)
    check_filled(experimenter)
    execute = functools.partial(
        experimenter.execute,
        function,
        random_order,
        n_jobs,
        max_experiments,
        where=where,
        order_by=order_by,
        stop_after=stop_after,
        wait=wait,
        only_grid=only_grid,
        smoke=smoke,
    )
    with hidden_failures() if quiet else nullcontext():
        executed = execute()
        while replicate and experimenter.replicate()["add"].any():
            executed += execute()
    echo(f"Executed {counted(executed, 'experiment')}")
    try:
        print_status(experimenter.config.table.name, experimenter.status())
    except DatabaseError as error:  # of no importance to the job: all is executed and written
        echo(f"The status cannot be read: {error}", err=True)


@click.command()
@click.argument("experiment_id", metavar="ID", type=ID)
@click.argument("function", metavar="[MODULE:FUNCTION]", required=False)
@click.option("--pdb", is_flag=True, help="Open the debugger where an exception was raised.")
@study_options
@click.pass_context
def debug(ctx: click.Context, study: StudyOptions, experiment_id: int, function: str | None, pdb: bool) -> None:
    """Execute one experiment here, without writing anything.

    Prints what the experiment reports. It can have any status, which does not change.
    """
    from pyexperimenter.execution.function import user_traceback

    experimenter = study.open()
    loaded = load_function_of(experimenter, function)
    try:
        returned = experimenter.debug(experiment_id, loaded, pdb)
    except PyExperimenterError:
        raise
    except Exception as error:
        echo(user_traceback(error), nl=False, err=True)
        ctx.exit(1)
    echo(f"returned {returned!r}")


@click.command()
@click.argument("size", type=click.IntRange(1), metavar="SIZE")
@click.argument("function", metavar="[MODULE:FUNCTION]", required=False)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of the choice.")
@where_option
@click.option("--failed", is_flag=True, help="Also experiments in error, which should fail again.")
@click.option(
    "--tolerance",
    "tolerances",
    multiple=True,
    type=Assignment(),
    metavar="RESULTFIELD=NUMBER",
    help="Largest difference that counts as the same; may be repeated.",
)
@click.option("--ignore", type=NameList(), metavar="RESULTFIELDS", help="Do not compare these.")
@study_options
def audit(
    study: StudyOptions,
    size: int,
    function: str | None,
    seed: int,
    where: str | None,
    failed: bool,
    tolerances: tuple[tuple[str, Any], ...],
    ignore: list[str] | None,
) -> None:
    """Execute SIZE finished experiments again, and compare results.

    They are drawn at random. Their rows do not change. Repeat the command to go on after an interruption, or start it
    several times to share the work. If 59 give the same results, at least 95 % of all do, with a confidence of 95 %.
    """
    from pyexperimenter.config.source import plain

    experimenter = study.open()
    loaded = load_function_of(experimenter, function)
    allowed = {name: plain(difference) for name, difference in tolerances}
    found = experimenter.audit(loaded, size, seed, where, failed, allowed, ignore or [])
    if not found.differences.empty:
        print_rows(found.differences.itertuples(index=False), list(found.differences.columns))
    echo(found)


COMMANDS = (run, debug, audit)
