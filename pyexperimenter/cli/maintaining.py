"""Commands that change experiments and tables that exist."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import click

from pyexperimenter.cli.printing import echo
from pyexperimenter.cli.study_options import (
    STATES,
    Assignment,
    StudyOptions,
    check_filled,
    ids_option,
    latest_options,
    study_options,
    where_option,
    yes_option,
)
from pyexperimenter.jsonable import counted


@click.command()
@click.argument("states", nargs=-1, metavar="[STATE]...", type=click.Choice([*STATES[1:], "all"]))
@where_option
@ids_option
@click.option("--error", metavar="TEXT", help="Only experiments whose error contains this text, ignoring case.")
@latest_options
@yes_option
@study_options
def reset(
    study: StudyOptions,
    states: tuple[str, ...],
    where: str | None,
    ids: tuple[int, ...],
    error: str | None,
    yes: bool,
    **latest: str | None,
) -> None:
    """Make experiments open again.

    The experiments keep their IDs, but lose their results and errors. Their attempts and logs are kept.

    STATE is done, error, paused, running or all. Without it, the options select among experiments that are done, paused
    or in error.
    """
    if not (states or ids) and where is error is None and not any(latest.values()):
        raise click.UsageError("which experiments? Name a state, as in: pyexperimenter reset error")
    experimenter = study.open()

    def reset_them(dry_run: bool) -> int:
        return experimenter.reset_experiments(
            *states, where=where, ids=ids or None, dry_run=dry_run, error=error, **latest
        )

    _confirm_and_change("Reset", "Reset", reset_them, yes)


@click.command()
@where_option
@ids_option
@yes_option
@study_options
def release(study: StudyOptions, where: str | None, ids: tuple[int, ...], yes: bool) -> None:
    """Release experiments whose workers are gone.

    Otherwise they are released when their leases expire. A worker that is still alive is stopped, and its experiment is
    open again.
    """
    experimenter = study.open()

    def release_them(dry_run: bool) -> int:
        return experimenter.release_experiments(where, ids or None, dry_run)

    _confirm_and_change("Release", "Released", release_them, yes)


@click.command()
@click.argument("states", nargs=-1, metavar="[STATE]...", type=click.Choice([*STATES, "all"]))
@click.option("--files", is_flag=True, help="Remove files that no experiment has anymore, instead of experiments.")
@yes_option
@study_options
def prune(study: StudyOptions, states: tuple[str, ...], files: bool, yes: bool) -> None:
    """Remove experiments that are not in the grid of the config.

    Their attempts and logs are removed, too. Only open experiments are removed, unless you name other states: created,
    running, done, error, paused or all.
    """
    from pyexperimenter.study.status import outside_grid_text

    experimenter = study.open()
    if files:
        if states:
            raise click.UsageError("--files removes no experiments, so it takes no state")
        _confirm_and_change("Remove", "Removed", experimenter.prune_files, yes, "file")
        return
    experimenter.prune(dry_run=True)  # refuses a missing table or grid
    if others := experimenter.counts(outside_grid=True):
        echo(outside_grid_text(others), err=True)
    _confirm_and_change("Remove", "Removed", lambda dry_run: experimenter.prune(states or "created", dry_run), yes)


@click.command()
@click.argument("states", nargs=-1, metavar="[STATE]...", type=click.Choice([*STATES, "all"]))
@where_option
@ids_option
@yes_option
@study_options
def remove(study: StudyOptions, states: tuple[str, ...], where: str | None, ids: tuple[int, ...], yes: bool) -> None:
    """Remove experiments with their attempts and logs.

    STATE is created, running, done, error, paused or all. Running experiments are removed only if you name their state.
    """
    if not (states or ids) and where is None:
        raise click.UsageError("which experiments? Name them, as in: pyexperimenter remove --id 7")
    experimenter = study.open()

    def remove_them(dry_run: bool) -> int:
        return experimenter.remove_experiments(where, ids or None, states or None, dry_run)

    _confirm_and_change("Remove", "Removed", remove_them, yes)


def _confirm_and_change(
    verb: str, participle: str, act: Callable[[bool], int], yes: bool, noun: str = "experiment"
) -> None:
    """Change experiments, or something else, after showing how many and asking for confirmation."""
    chosen = act(True)
    if not chosen:
        echo(f"No matching {noun}s", err=True)
        return
    if not yes:
        click.confirm(f"{verb} {counted(chosen, noun)}?", abort=True, err=True)
    echo(f"{participle} {counted(act(False), noun)}")


@click.command()
@study_options
def sync(study: StudyOptions) -> None:
    """Write results that are waiting in journals.

    They wait there if the database could not be reached when they arrived. Repeating this is safe.
    """
    echo(f"Updated {counted(study.open(log_level=logging.INFO).sync(), 'execution')}")


@click.command()
@click.option("--dry-run", is_flag=True, help="Report the changes without applying them.")
@click.option(
    "--default",
    "defaults",
    type=Assignment(),
    multiple=True,
    metavar="KEYFIELD=VALUE",
    help="Value of a new keyfield in existing rows; may be repeated.",
)
@study_options
def migrate(study: StudyOptions, dry_run: bool, defaults: tuple[tuple[str, Any], ...]) -> None:
    """Add new columns and logtables of the config to the tables.

    Nothing is removed.
    """
    from pyexperimenter.config.domains import as_declared

    experimenter = study.open()
    types = experimenter.config.table.keyfields
    values = {name: as_declared(types[name], value) if name in types else value for name, value in defaults}
    done = experimenter.migrate(dry_run, values)
    for line in done:
        echo(f"{'would ' if dry_run else ''}{line}")
    if not done:
        echo("Nothing to do: the tables have all columns and logtables of the config", err=True)


@click.command()
@click.option("--confirm", metavar="NAME", help="The table's name, to delete without being asked for it.")
@study_options
def delete(study: StudyOptions, confirm: str | None) -> None:
    """Delete the table and its side tables.

    Everything in them is lost, so you are asked to type the table's name.
    """
    experimenter = study.open()
    name, number = experimenter.config.table.name, sum(experimenter.counts().values())
    if confirm is None:
        echo(f"This deletes {counted(number, 'experiment')} with all results, logs and attempts.", err=True)
        confirm = click.prompt(f"Type the table's name ({name}) to confirm", err=True)
    if confirm != name:
        raise click.ClickException(f"{confirm!r} is not the table's name, {name!r}; nothing was deleted")
    experimenter.delete_table()
    echo(f"Deleted {name}")


@click.command()
@click.argument("target")
@click.option(
    "--provider",
    type=click.Choice(["sqlite", "mysql", "postgresql"]),
    default="sqlite",
    show_default=True,
    help="Kind of the other database; mysql is also for MariaDB.",
)
@click.option(
    "--target-credentials",
    default="config/database_credentials.yml",
    show_default=True,
    metavar="FILE",
    help="Credentials for the other server.",
)
@click.option("--snapshot", is_flag=True, help="Copy even if experiments are running; the copy executes them again.")
@study_options
def copy(study: StudyOptions, target: str, provider: str, target_credentials: str, snapshot: bool) -> None:
    """Copy the study to another database.

    TARGET is a SQLite file, or the name of a database on a server. Repeat the command to complete a copy that was
    interrupted.
    """
    experimenter = study.open_for_reading()
    check_filled(experimenter)
    rows = experimenter.copy_to(target, provider, target_credentials, snapshot=snapshot)
    echo(f"Copied {counted(rows, 'experiment')} to {target}")


@click.command()
@click.argument("file")
@click.option("--snapshot", is_flag=True, help="Archive even if experiments are running.")
@study_options
def archive(study: StudyOptions, file: str, snapshot: bool) -> None:
    """Write the whole study to a zip file.

    It has the database, the configs, uncommitted changes of the code, the files of the runs, the appendix, and
    checksums. All commands that read accept it as the config.
    """
    experimenter = study.open_for_reading()
    check_filled(experimenter)
    echo(f"Archived {counted(experimenter.archive(file, snapshot), 'experiment')} in {file}")


COMMANDS = (reset, release, prune, remove, sync, migrate, copy, archive, delete)
