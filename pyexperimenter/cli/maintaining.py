"""Commands that change experiments and tables that exist."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import click

from pyexperimenter.cli.printing import experiments
from pyexperimenter.cli.study_options import (
    STATES,
    Assignment,
    StudyOptions,
    ids_option,
    study_options,
    where_option,
    yes_option,
)


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


@click.command()
@click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
@click.option(
    "--default",
    "defaults",
    type=Assignment(),
    multiple=True,
    metavar="KEYFIELD=VALUE",
    help="Value of a new keyfield in the rows that exist.",
)
@study_options
def migrate(study: StudyOptions, dry_run: bool, defaults: tuple[tuple[str, Any], ...]) -> None:
    """Add to the tables what the config has gained.

    That is columns and logtables. Nothing is taken away.
    """
    done = study.open().migrate(dry_run, dict(defaults))
    for line in done:
        click.echo(f"{'would ' if dry_run else ''}{line}")
    if not done:
        click.echo("Nothing to do: the tables have all that the config has", err=True)


@click.command()
@click.option("--confirm", metavar="NAME", help="The table's name, instead of being asked for it.")
@study_options
def delete(study: StudyOptions, confirm: str | None) -> None:
    """Drop the table and its side tables.

    The table's name is asked for, as everything in them is lost.
    """
    experimenter = study.open()
    name, number = experimenter.config.table.name, sum(experimenter.counts().values())
    if confirm is None:
        click.echo(f"This deletes {experiments(number)} with results, logs and attempts.", err=True)
        confirm = click.prompt(f"Type the table's name ({name}) to do so", err=True)
    if confirm != name:
        raise click.ClickException(f"{confirm!r} is not the table's name, {name!r}; nothing was deleted")
    experimenter.delete_table()
    click.echo(f"{name} was deleted")


COMMANDS = (reset, release, sync, migrate, delete)
