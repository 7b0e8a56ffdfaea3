"""Commands that start a study: they write its files, check its config and fill its table."""

from __future__ import annotations

import itertools
import sys

import click

from pyexperimenter.cli.app import main
from pyexperimenter.cli.printing import echo, print_json, print_rows
from pyexperimenter.cli.study_options import StudyOptions, check_filled, json_option, load_function_of, study_options
from pyexperimenter.jsonable import counted, records


@click.command()
@click.argument("directory", default=".")
def init(directory: str) -> None:
    """Write a config and an experiment function to start from.

    Both have comments and run without changes. They are written to DIRECTORY, by default the working directory.
    Existing files are not overwritten.
    """
    from pyexperimenter.study.starter import write_starter

    for path in write_starter(directory):
        echo(path)
    enter = "" if directory == "." else f"cd {directory}; "
    echo(f"Next: {enter}pyexperimenter validate, then fill, then run", err=True)


@click.command()
@click.option(
    "--head",
    type=click.IntRange(0, sys.maxsize),
    default=5,
    show_default=True,
    metavar="N",
    help="Number of rows of the grid to show.",
)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of configs instead, for editors.")
@json_option
@study_options
def validate(study: StudyOptions, head: int, schema: bool, as_json: bool) -> None:
    """Check the config and its function, and show the grid.

    Shows the size of the grid and its first rows. Does not use the database.
    """
    if schema:
        from pyexperimenter.config import json_schema

        print_json(json_schema())
        return
    experimenter = study.open()
    config = experimenter.config
    if config.execution.function is not None:
        from pyexperimenter.execution.function import check_function

        check_function(load_function_of(experimenter, None))
    grid = config.table.grid
    rows = [] if grid is None else list(itertools.islice(grid, head))
    if as_json:
        print_json({"source": config.source, "experiments": 0 if grid is None else len(grid), "first": rows})
        return
    echo(
        f"{config.source} is valid: table {config.table.name} in {config.database.provider} {config.database.database}"
    )
    if grid is None:
        echo("No keyfield has values, so there is no grid; fill the table with rows of your own")
        return
    echo(f"{counted(len(grid), 'experiment')}{', starting with:' if rows else ''}")
    if rows:
        print_rows([list(row.values()) for row in rows], list(rows[0]))


@click.command()
@click.option("--create-database", is_flag=True, help="Also create the server's database if it does not exist.")
@study_options
def fill(study: StudyOptions, create_database: bool) -> None:
    """Insert the missing experiments of the grid.

    Creates the table if it does not exist.
    """
    experimenter = study.open()
    if create_database:
        experimenter.create_table(create_database=True)
    added, skipped = experimenter.fill_table_from_config()
    echo(f"Added {counted(added, 'experiment')}, {skipped} already existed")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only report.")
@json_option
@study_options
def replicate(study: StudyOptions, dry_run: bool, as_json: bool) -> None:
    """Insert more seeds where intervals are still too wide.

    The key replicate of the config's table says what is wide enough. Shows each interval.
    """
    experimenter = study.open()
    check_filled(experimenter)
    found = experimenter.replicate(dry_run)
    if as_json:
        print_json(records(found))
    else:
        print_rows(found.itertuples(index=False), list(found.columns))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    For bash, add to ~/.bashrc: eval "$(pyexperimenter completion bash)"
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "pyexperimenter", "_PYEXPERIMENTER_COMPLETE").source())


COMMANDS = (init, validate, fill, replicate, completion)
