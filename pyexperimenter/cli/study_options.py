"""Options and arguments that several commands share, and the study that they name."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyexperimenter.cli.app import debug_option
from pyexperimenter.database.records import OUTCOMES
from pyexperimenter.durations import seconds
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.paths import DEFAULT_CREDENTIALS

if TYPE_CHECKING:
    from pyexperimenter.experimenter import PyExperimenter

Command = Callable[..., Any]

PATIENCE = 60.0
"""Seconds for which commands that read wait for a database that is away."""

STATES = [status.value for status in ExperimentStatus if status is not ExperimentStatus.ALL]


@dataclass(frozen=True)
class StudyOptions:
    """Options that name a study.

    Attributes
    ----------
    config, credentials : str
        Paths of its files. The first may also be the SQLite file or the archive of the study.
    table : str or None
        Name of the table, to override the config's.
    """

    config: str
    credentials: str
    table: str | None

    def open(self, config: str | None = None, log_level: int = logging.WARNING, **more: Any) -> PyExperimenter:
        """Return the experimenter of the study."""
        from pyexperimenter.database.backends.sqlite import is_sqlite_file
        from pyexperimenter.experimenter import PyExperimenter
        from pyexperimenter.study.archive import is_archive

        source = config or self.config
        if is_sqlite_file(source) or is_archive(source) or Path(source).suffix == ".db":
            return PyExperimenter.open(source, self.table, log_level=log_level, **more)
        return PyExperimenter(source, self.credentials, table_name=self.table, log_level=log_level, **more)

    def open_for_reading(self) -> PyExperimenter:
        """Return the experimenter of the study, which waits for a database that is away, and says so."""
        experimenter = self.open()
        experimenter._store.database.wait_out(PATIENCE, silence=PATIENCE, for_user=True)
        return experimenter


def study_options(command: Command) -> Command:
    """Add the options that name a study, and pass them to the command as its first argument."""

    @click.option(
        "-c",
        "--config",
        metavar="FILE",
        help="Config of the study, or its SQLite file or archive; can also be given before the command.",
    )
    @click.option(
        "--credentials",
        default=DEFAULT_CREDENTIALS,
        show_default=True,
        metavar="FILE",
        help="Credentials for the database server.",
    )
    @click.option("--table", "table_name", metavar="NAME", help="Name of the table, instead of the config's.")
    @debug_option
    @functools.wraps(command)
    def run(
        *context: Any,
        config: str,
        credentials: str,
        table_name: str | None,
        study_file: str | None = None,
        **arguments: Any,
    ) -> Any:
        return command(*context, StudyOptions(study_file or config, credentials, table_name), **arguments)

    return run  # type: ignore[no-any-return] # click's decorators


study_file = click.argument("study_file", required=False, metavar="[STUDY]")
"""Config or SQLite file of the study, for commands without other arguments."""

ID = click.IntRange(1, 2**63 - 1)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
where_option = click.option(
    "-w", "--where", metavar="SQL", help="Only experiments that match this, as in \"seed < 5 AND kernel = 'rbf'\"."
)
only_grid_option = click.option(
    "--only-grid", is_flag=True, help="Only experiments that are in the grid of the config."
)
ids_option = click.option(
    "--id", "ids", type=ID, multiple=True, metavar="ID", help="Only the experiment with this ID; may be repeated."
)


def decorated(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Add options to a command, shown in this order."""
    return functools.reduce(lambda result, option: option(result), reversed(options), command)


def latest_options(command: Command) -> Command:
    """Add the options that select experiments by their last execution."""
    return decorated(
        command,
        click.option("--commit", metavar="HASH", help="Only experiments last executed with this git commit."),
        click.option("--job", metavar="ID", help="Only experiments last executed in this cluster job."),
        click.option("--outcome", type=click.Choice(OUTCOMES), help="Only experiments whose last execution ended so."),
    )


smoke_option = click.option(
    "--smoke",
    type=click.IntRange(0, 2),
    is_flag=False,
    flag_value=1,
    default=0,
    metavar="[1|2]",
    help="First execute a few experiments that have every value of each keyfield (2: every pair of values), and go on "
    "only if none fails.",
)


yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")


class NameList(click.ParamType):  # type: ignore[type-arg] # generic in newer click only
    """Names separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Split a text into names."""
        names = [name.strip() for name in str(value).split(",") if name.strip()]
        if not names:
            self.fail("name at least one column", param, ctx)
        return names


class Duration(click.ParamType):  # type: ignore[type-arg] # generic in newer click only
    """A duration, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds of a readable duration."""
        try:
            return seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Assignment(click.ParamType):  # type: ignore[type-arg] # generic in newer click only
    """A name and a value, which is read as YAML; numbers and booleans are `Written`."""

    name = "assignment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Split a text into name and value."""
        from pyexperimenter.config.source import FileProblem
        from pyexperimenter.config.yaml_file import read

        name, equals, text = str(value).partition("=")
        if not (name and equals):
            self.fail(f"{value!r} is not an assignment; write NAME=VALUE", param, ctx)
        if " #" in f" {text}" and text[:1] not in "\"'[{":
            return name, text  # YAML would leave out a comment
        try:
            return name, read(text)[0]
        except FileProblem:
            return name, text


def check_filled(experimenter: PyExperimenter) -> None:
    """Raise an error that explains how to fill the table, if it has no experiments.

    Raises
    ------
    ClickException
        If the table has no experiments.
    """
    if not sum(experimenter.counts().values()):
        raise click.ClickException(
            f"the table {experimenter.config.table.name} has no experiments; insert them with: pyexperimenter fill"
        )


def config_and_function(names: tuple[str, ...]) -> tuple[str | None, str | None]:
    """Return config and function, each of which can be omitted.

    Raises
    ------
    UsageError
        If there are more names than two.
    """
    if len(names) > 2:
        raise click.UsageError(f"expected only a config and a function, but got {' '.join(names)}")
    if len(names) == 2:
        return names
    (name,) = names or (None,)
    return (None, name) if name is None or _is_function(name) else (name, None)


def _is_function(name: str) -> bool:
    """Return whether a name is meant as a function, even if it lacks the colon."""
    if ":" in name or name.endswith(".py"):
        return True
    module = name.rpartition(".")[0].replace(".", "/")
    return Path(f"{module}.py").is_file() and not Path(name).exists()


def load_function_of(experimenter: PyExperimenter, name: str | None) -> Callable[..., Any]:
    """Load the function of this name, or that of the config.

    Raises
    ------
    UsageError
        If neither names one.
    """
    from pyexperimenter.execution.function import load_function

    name = name or experimenter.config.execution.function
    if name is None:
        raise click.UsageError(
            "which function? Give it as module:function, or as the key function in the config's section Execution"
        )
    return load_function(name)
