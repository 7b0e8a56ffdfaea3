"""The group of all commands: common options, and how errors and warnings are printed."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from typing import Any

import click

from pyexperimenter import __version__
from pyexperimenter.cli.commands import COMMANDS, LazyCommands
from pyexperimenter.cli.printing import echo, printable
from pyexperimenter.cli.wording import in_commands
from pyexperimenter.exceptions import NoConfigFileError, PyExperimenterError
from pyexperimenter.paths import DEFAULT_CONFIG

_DEBUG = "pyexperimenter.debug"  # key in the context's meta, which a group and its command share
_STDERR = 2  # the highest descriptor of a standard stream
_INTERRUPTED = 130  # exit code, as of shells


class _Commands(click.Group):
    """Prints errors of the library and of files in one line, unless ``--debug`` asks for the traceback."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line, even if streams are closed."""
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
            pass  # it was closed; without this, the next file to be opened would be taken for a stream
        os.close(descriptor)
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open until the end
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal may lack characters of the study, or send others
        return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        logger = logging.getLogger("py-experimenter")
        logger.addFilter(_log_in_commands)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", UserWarning)
                warnings.showwarning = _show_warning  # type: ignore[assignment] # accepts the arguments of all callers
                return super().invoke(ctx)
        except (PyExperimenterError, OSError) as error:
            if ctx.meta.get(_DEBUG) or getattr(error, "errno", None) == errno.EPIPE:
                raise
            raise click.ClickException(printable(_in_words(error))) from error
        except KeyboardInterrupt:
            echo("Interrupted", err=True)
            ctx.exit(_INTERRUPTED)
        finally:
            logger.removeFilter(_log_in_commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Return the command; for the name of a method, say which command does the same."""
        same = in_commands(f"{args[0]}()")
        if args[0] not in self.commands and same.startswith("pyexperimenter "):
            ctx.fail(f"No such command '{args[0]}'. Use: {same}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order in which a study needs them."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what click does, without the commands themselves."""
        limit = formatter.width - 6 - max(map(len, COMMANDS))  # of click
        shown = {name: click.Command(name, help=text) for name, (_, text) in COMMANDS.items()}
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit)) for name, command in shown.items()])


def _in_words(error: Exception) -> str:
    remedy = (
        "; name one with -c, or write one with: pyexperimenter init" if isinstance(error, NoConfigFileError) else ""
    )
    return f"{in_commands(str(error))}{remedy}"


def _log_in_commands(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    if "\n" not in message:  # otherwise, it has a traceback, with the user's code
        record.msg, record.args = in_commands(message), ()
    return True


def _show_warning(message: Warning | str, *_: object) -> None:
    echo(click.style(f"Warning: {in_commands(str(message))}", fg="yellow"), err=True)


def debug_option(command: Any) -> Any:
    """Add ``--debug``, which can be given before and after the command's name."""

    def keep(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        ctx.meta[_DEBUG] = ctx.meta.get(_DEBUG, False) or value

    return click.option(
        "--debug", is_flag=True, expose_value=False, callback=keep, help="Show the traceback of errors."
    )(command)


@click.group(
    cls=_Commands,
    commands=LazyCommands(COMMANDS),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__)
@click.option(
    "-c",
    "--config",
    envvar="PYEXPERIMENTER_CONFIG",
    default=DEFAULT_CONFIG,
    show_default=True,
    show_envvar=True,
    metavar="FILE",
    help="Config of the study, YAML or INI, or its SQLite file.",
)
@debug_option
@click.pass_context
def main(ctx: click.Context, config: str) -> None:
    """Run large grids of experiments from one config file, with a database.

    Write a study (init), check it (validate), fill its table (fill), and execute it (run) with any number of workers.
    """
    if ctx.invoked_subcommand:
        ctx.default_map = {ctx.invoked_subcommand: _with_config(main.commands[ctx.invoked_subcommand], config)}


def _with_config(command: click.Command, config: str) -> dict[str, Any]:
    """Return the defaults of a command, or of the commands of a group."""
    if isinstance(command, click.Group):
        return {name: _with_config(below, config) for name, below in command.commands.items()}
    return {"config": config}
