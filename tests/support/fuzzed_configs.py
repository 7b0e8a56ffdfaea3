"""What the fuzzer of configurations does with one of them, in a process of its own."""

from __future__ import annotations

import io
import itertools
import logging
import os
import shutil
import sqlite3
import traceback
import warnings
from contextlib import closing, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from pyexperimenter import PyExperimenter
from pyexperimenter.exceptions import PyExperimenterError
from tests.support.editor_schema import refusals

_MOST_ROWS = 300  # of a grid that is filled


def attempt(source: Any, credentials: bytes | None) -> tuple[bool, str, str, str]:
    """Load a configuration, and fill its table if that is a file.

    Parameters
    ----------
    source : bytes, dict or (str, bytes)
        The name of a file and its content, or the configuration itself.
    credentials : bytes or None
        The content of the credential file.

    Returns
    -------
    tuple
        Whether it is valid; what is shown of it; the variables in tracebacks; and what is wrong.
    """
    for entry in os.scandir():
        shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)
    if isinstance(source, tuple):
        name, content = source
        Path(name).write_bytes(content)
        source = name
    if credentials is not None:
        Path("credentials").touch(mode=0o600)
        Path("credentials").write_bytes(credentials)
    shown, variables = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(shown)
    logging.getLogger("py-experimenter").addHandler(handler)
    valid, wrong = False, ""
    try:
        with redirect_stdout(shown), redirect_stderr(shown), warnings.catch_warnings():
            warnings.simplefilter("always")
            experimenter = PyExperimenter(source, "credentials")
            print(repr(experimenter), repr(experimenter.config))
            valid = True
            wrong = _use(experimenter)
            if isinstance(source, str) and source.endswith(".yml"):
                wrong = wrong or "; ".join(refusals(experimenter.config.text))
    except PyExperimenterError as error:
        _show(error, shown, variables)
        wrong = _half_made()
    except BaseException as error:
        _show(error, shown, variables)
        wrong = "".join(traceback.format_exception(error))[-3000:]
    finally:
        logging.getLogger("py-experimenter").removeHandler(handler)
    return valid, shown.getvalue(), variables.getvalue(), wrong


def _show(error: BaseException | None, shown: io.StringIO, variables: io.StringIO) -> None:
    """Write an error and its causes, and the variables of the library and of what it calls, which some tools show."""
    while error is not None:
        print(*traceback.format_exception(error, chain=False), file=shown)
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if not frame.f_code.co_filename.startswith(str(Path(__file__).parents[1])):
                with suppress(Exception):  # some values are too odd
                    print(frame.f_locals, file=variables)
        error = error.__cause__ or error.__context__


def _use(experimenter: PyExperimenter) -> str:
    config = experimenter.config
    rows = [] if config.table.grid is None else list(itertools.islice(config.table.grid, _MOST_ROWS + 1))
    if config.database.provider != "sqlite":
        address = config.database.credentials
        if (address.host, address.port) == ("127.0.0.1", 1) and not config.database.use_ssh_tunnel:
            experimenter.counts()  # nothing listens there
        return ""
    if not 0 < len(rows) <= _MOST_ROWS:
        return ""
    if (rule := config.table.replicate) is not None and config.table.grid is not None:
        first = config.table.grid.values_of(rule.over)[: rule.min]  # what a fill adds before there are results
        rows = [row for row in rows if row[rule.over] in first]
    added = experimenter.fill_table_from_config().added
    again = experimenter.fill_table_from_config().added
    found = len(experimenter.get_table())
    experimenter._store.database.close()
    if (added, again, found) == (len(rows), 0, len(rows)):
        return ""
    return f"a fill has {len(rows)} rows; {added} were added, then {again}, and {found} were found"


def _half_made() -> str:
    """Return which tables are there although the fill failed."""
    for path in Path().rglob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
        if tables:
            return f"{path} was left with {tables}"
    return ""
