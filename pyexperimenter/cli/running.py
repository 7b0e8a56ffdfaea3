"""Commands that execute experiments, or let them be executed anew."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from pyexperimenter.cli.printing import experiments, print_status
from pyexperimenter.cli.study_options import (
    STATES,
    NameList,
    StudyOptions,
    check_filled,
    ids_option,
    study_options,
    where_option,
    yes_option,
)
from pyexperimenter.exceptions import PyExperimenterError

if TYPE_CHECKING:
    from pyexperimenter.experimenter import PyExperimenter


@click.command()
@click.argument("names", nargs=-1, metavar="[CONFIG] [MODULE:FUNCTION]")
@click.option("-j", "--n-jobs", type=int, metavar="N", help="Workers, instead of the config's; -1: one on each core.")
@click.option("-n", "--max-experiments", type=int, default=-1, metavar="N", help="Most experiments to execute.")
@where_option
@click.option(
    "--order-by", type=NameList(), metavar="COLUMNS", help="Take open experiments in this order; -COLUMN: falling."
)
@click.option("--random-order", is_flag=True, help="Take open experiments from random places.")
@click.option("--stop-after", metavar="DURATION", help="Begin no experiment that this time cannot hold, as in 3h50m.")
@click.option("--wait", is_flag=True, help="Stay until none is running either, and take over what other workers lose.")
@click.option("--name", default="PyExperimenter", metavar="NAME", help="Written into the column name.")
@study_options
def run(
    study: StudyOptions,
    names: tuple[str, ...],
    n_jobs: int | None,
    max_experiments: int,
    where: str | None,
    order_by: list[str] | None,
    random_order: bool,
    stop_after: str | None,
    wait: bool,
    name: str,
) -> None:
    """Execute open experiments until none is left.

    FUNCTION is given as module:function or file.py:function, or as the key function of the config's section Execution.
    That experiments fail is a result, not an error of this command. Ctrl-C gives experiments in execution back.
    """
    config, function_name = told_apart(names)
    experimenter = study.open(config, name=name)
    function = load_named_function(experimenter, function_name)
    check_filled(experimenter)
    executed = experimenter.execute(
        function,
        random_order,
        n_jobs,
        max_experiments,
        where=where,
        order_by=order_by,
        stop_after=stop_after,
        wait=wait,
    )
    click.echo(f"Executed {experiments(executed)}")
    print_status(experimenter.config.table.name, experimenter.status())


def told_apart(names: tuple[str, ...]) -> tuple[str | None, str | None]:
    """Return config and function, of which each may be left out.

    Raises
    ------
    UsageError
        If there is more.
    """
    if len(names) > 2:
        raise click.UsageError(f"config and function are expected, but got {' '.join(names)}")
    if len(names) == 2:
        return names
    (name,) = names or (None,)
    return (None, name) if name is None or ":" in name else (name, None)


def load_named_function(experimenter: PyExperimenter, name: str | None) -> Callable[..., Any]:
    """Return the function of this name, or that of the config.

    Raises
    ------
    UsageError
        If neither is given.
    """
    from pyexperimenter.execution.function import load_function

    name = name or experimenter.config.execution.function
    if name is None:
        raise click.UsageError(
            "which function? Name it as module:function, or as the key function of the config's section Execution"
        )
    return load_function(name)


@click.command()
@click.argument("experiment_id", metavar="ID", type=int)
@click.argument("function", metavar="[MODULE:FUNCTION]", required=False)
@click.option("--pdb", is_flag=True, help="Look into an exception with the debugger.")
@study_options
@click.pass_context
def debug(ctx: click.Context, study: StudyOptions, experiment_id: int, function: str | None, pdb: bool) -> None:
    """Execute one experiment here, and write nothing.

    What it reports is printed. Its status does not matter and stays as it is.
    """
    from pyexperimenter.execution.function import user_traceback

    experimenter = study.open()
    loaded = load_named_function(experimenter, function)
    try:
        returned = experimenter.debug(experiment_id, loaded, pdb)
    except PyExperimenterError:
        raise
    except Exception as error:
        click.echo(user_traceback(error), nl=False, err=True)
        ctx.exit(1)
    click.echo(f"returned {returned!r}")


@click.command()
@click.argument("states", nargs=-1, metavar="[STATE]...", type=click.Choice([*STATES[1:], "all"]))
@where_option
@ids_option
@click.option("--error", metavar="TEXT", help="Only experiments whose error contains this; letter case does not count.")
@yes_option
@study_options
def reset(
    study: StudyOptions,
    states: tuple[str, ...],
    where: str | None,
    ids: tuple[int, ...],
    error: str | None,
    yes: bool,
) -> None:
    """Make experiments open again.

    They keep their IDs and lose results and errors. Attempts and logs stay on record.

    STATE is done, error, paused, running or all; without it, those done, paused or in error that the options choose.
    """
    if not states and where is None and not ids and error is None:
        raise click.UsageError("which experiments? Name states, as in: pyexperimenter reset error")
    experimenter = study.open()

    def reset_them(dry_run: bool) -> int:
        return experimenter.reset_experiments(*states, where=where, ids=ids or None, dry_run=dry_run, error=error)

    _after_question("Reset", "reset", reset_them, yes)


@click.command()
@where_option
@ids_option
@yes_option
@study_options
def release(study: StudyOptions, where: str | None, ids: tuple[int, ...], yes: bool) -> None:
    """Give back what workers that are gone were running.

    Without this, that happens when their leases are over. A worker that is alive is stopped, and its experiment is
    open again.
    """
    experimenter = study.open()

    def release_them(dry_run: bool) -> int:
        return experimenter.release_experiments(where, ids or None, dry_run)

    _after_question("Release", "released", release_them, yes)


def _after_question(verb: str, participle: str, act: Callable[[bool], int], yes: bool) -> None:
    """Do something to experiments when asked whether to, with their number."""
    chosen = act(True)
    if not chosen:
        click.echo(f"No experiment to be {participle}", err=True)
        return
    if not yes:
        click.confirm(f"{verb} {experiments(chosen)}?", abort=True, err=True)
    click.echo(f"{participle.capitalize()} {experiments(act(False))}")


@click.command()
@study_options
def sync(study: StudyOptions) -> None:
    """Write results that wait in journals.

    They wait there because the database was away when they came. To do it twice is fine.
    """
    click.echo(f"Brought {study.open(log_level=logging.INFO).sync()} executions up to date")


COMMANDS = (run, debug, reset, release, sync)
