"""With odd arguments, commands do what they say or end with a message: no traceback, no secret, nothing half done.

`make stress SECONDS=600` runs this for ten minutes.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from hypothesis import strategies as st

from pyexperimenter.cli import main
from pyexperimenter.database.connection import _IDLE
from tests.support.fuzzed_commands import STREAMS, attempt
from tests.support.fuzzing import ODD_NUMBERS, ODD_TEXTS, Subject, fuzz
from tests.support.study import experimenter, study
from tests.support.target import Target

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

SECRET = "hunter2horse"
FUNCTIONS = """
def f(*_):
    return {"accuracy": 1}

def fails(*_):
    raise ValueError("no")
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with studies: one that is under way, one that is not filled, and one whose server is away."""
    directory = tmp_path_factory.mktemp("template")
    target = Target("sqlite", "sqlite", str(directory / "study.db"))
    running = experimenter(target)
    running.fill_table_from_config()

    def function(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
        results.process_logs({"epochs": {"epoch": 1, "loss": 0.5}})
        if keyfields["seed"] == 2:
            raise ValueError("no seed \udcff 2\u202e".encode("utf-8", "replace").decode())
        return {"accuracy": 0.25, "model": "=1+1\n\x1b[31m\N{SNOWMAN}"}

    running.execute(function, max_experiments=4)
    with closing(sqlite3.connect(target.database, isolation_level=None)) as connection:
        connection.execute("UPDATE study SET status = 'running' WHERE ID = 5")
        connection.execute("UPDATE study SET status = 'paused' WHERE ID = 4")
        connection.execute("UPDATE study__attempts SET output = ?", ("\x1b]0;title\x07 \N{SNOWMAN}",))
    _IDLE.clear()  # closes the database, and so removes its log
    here = Target("sqlite", "sqlite", "study.db")
    more = {"keyfields": {**study(here)["PY_EXPERIMENTER"]["Database"]["table"]["keyfields"], "more": "INT"}}
    configs = {
        "study.yml": study(here),
        "empty.yml": study(Target("sqlite", "sqlite", "empty.db")),
        "other.yml": study(here, resultfields={"accuracy": "INT", "new": "TEXT"}, logtables={}),
        "more.yml": study(here, **more),
        "server.yml": study(Target("mariadb", "mysql", "study")),
    }
    for name, config in configs.items():
        (directory / name).write_text(yaml.safe_dump(config), encoding="utf-8")
    (directory / "broken.yml").write_text("PY_EXPERIMENTER: [", encoding="utf-8")
    (directory / "functions.py").write_text(FUNCTIONS, encoding="utf-8")
    connection = {"Standard": {"server": "127.0.0.1", "port": 1}}
    credentials = {"Database": {"user": "me", "password": SECRET}, "Connection": connection}
    (directory / "credentials.yml").touch(mode=0o600)
    (directory / "credentials.yml").write_text(yaml.safe_dump({"CREDENTIALS": credentials}), encoding="utf-8")
    (directory / "folder").mkdir()
    return directory


# Arguments

WORDS = st.one_of(
    ODD_TEXTS.map(lambda text: text.replace("\0", "")),
    st.binary(max_size=4).map(lambda content: os.fsdecode(content.replace(b"\0", b""))),
    ODD_NUMBERS.map(str),
)
COLUMNS = st.sampled_from(
    ["dataset", "seed", "accuracy", "model", "ID", "status", "error", "-seed", "name", "epoch", "log"]
)
CONFIGS = st.sampled_from(
    ["study.yml"] * 12 + ["empty.yml", "other.yml", "more.yml", "server.yml", "broken.yml", "folder", "no.yml"]
)
PATHS = st.sampled_from(
    [
        *("out.csv", "out.json", "out.xlsx", "out.parquet", "-", ".", "", "folder", "folder/out.csv", "no/out.csv"),
        *("~/out.csv", "/dev/null", "/dev/full", "/dev/full/x.csv", "/proc/out.csv", "functions.py", "functions.py/x"),
        *("x" * 300 + ".csv", "é.CSV"),
    ]
)
FUNCTION_NAMES = st.sampled_from(
    [
        *("functions:f", "functions.py:f", "functions:fails", "functions:no", "no:f", ":", "functions:", ":f"),
        *("json:dumps", "functions.py", "os:getcwd", "functions:f:f", "functions:FUNCTIONS", "sys:maxsize"),
    ]
)
SQL = """
seed   dataset   accuracy   status   ID   study   nothing   =   <   <>   IS   NULL   NOT   IN   LIKE   BETWEEN
(   )   AND   OR   1   -1   'iris'   '   "   `   ''   --   /*   */   ;   ,   ?   :x   %s   %   @x   $1   SELECT
(SELECT 1)   (SELECT 1 UNION SELECT 2)   UNION   DROP TABLE study   DELETE FROM study   LIMIT 1   ORDER BY
COUNT(*)   abs(-9223372036854775808)   zeroblob(999999999999)   json('{')   hex(randomblob(9))   CASE
RETURNING *   x'00'   0x1   1e999   '\N{SNOWMAN}'   CAST(   AS INT)   COLLATE nothing   GLOB
"""
TOKENS = st.sampled_from([*re.split(r"   |\n", SQL.strip()), "9" * 400, "\udcff", "\n", "\t"])
CONDITIONS = st.one_of(
    st.sampled_from(
        ["seed = 1", "seed < 2 AND dataset = 'iris'", "status = 'done'", "accuracy > 0.1", "1", "0", "seed", "''"]
    ),
    st.lists(TOKENS, max_size=7).map(" ".join),
    WORDS,
)
BY_NAME: dict[str, st.SearchStrategy[str]] = {
    "where": CONDITIONS,
    "config": CONFIGS,
    "credentials": st.sampled_from(
        ["credentials.yml"] * 6 + ["no.yml", "folder", "study.yml", "broken.yml", "study.db"]
    ),
    "table_name": st.sampled_from(["study", "study", "other", "study__attempts", "sqlite_master", "a;b", "", "x" * 70]),
    "names": st.one_of(FUNCTION_NAMES, CONFIGS),
    "function": FUNCTION_NAMES,
    # As many processes as are asked for are started.
    "n_jobs": st.sampled_from(["1", "1", "0", "-2", "x", "1.5", "", "+1", " 1", "-9" + "9" * 400]),
    "confirm": st.sampled_from(["study", "study", "other", ""]),
    **dict.fromkeys(["file", "output", "directory", "folder"], PATHS),
    **dict.fromkeys(
        ["columns", "order_by", "rows", "over", "values"], st.lists(COLUMNS, min_size=1, max_size=3).map(",".join)
    ),
    **dict.fromkeys(["experiment_id", "ids"], st.integers(0, 8).map(str)),
}
INPUTS = st.sampled_from([b"", b"y\n", b"n\n", b"study\n", b"\xff\n", b"\0", b"y"])


def values_of(parameter: click.Parameter) -> st.SearchStrategy[str]:
    """Return the values of an option or argument: usual ones mostly, and odd ones."""
    if parameter.name in BY_NAME:
        usual = BY_NAME[parameter.name]
    elif isinstance(parameter.type, click.Choice):
        usual = st.sampled_from(list(parameter.type.choices))
    elif isinstance(parameter.type, (click.types.IntRange, click.types.IntParamType, click.types.FloatParamType)):
        usual = ODD_NUMBERS.map(str)
    else:
        return WORDS
    exact = parameter.name in ("n_jobs", "file", "output", "directory", "folder")
    return usual if exact else st.integers(0, 7).flatmap(lambda number: usual if number else WORDS)


@st.composite
def commands(draw: st.DrawFn) -> list[str]:
    """A command with arguments and options."""
    name = draw(st.sampled_from(list(main.commands)))
    words = [name]
    for parameter in main.commands[name].params:
        often = parameter.required or parameter.name in ("config", "credentials", "names")
        if parameter.name == "watch" or not draw(st.integers(0, 9)) < (9 if often else 2):  # it would watch for ever
            continue
        for _ in range(draw(st.sampled_from([1, 1, 1, 2])) if parameter.multiple or parameter.nargs == -1 else 1):
            flag = draw(st.sampled_from(parameter.opts)) if isinstance(parameter, click.Option) else None
            value = "" if isinstance(parameter, click.Option) and parameter.is_flag else draw(values_of(parameter))
            if flag is None or (isinstance(parameter, click.Option) and parameter.is_flag):
                words.append(flag or value)
            else:
                words += [f"{flag}={value}"] if flag.startswith("--") and draw(st.booleans()) else [flag, value]
    if name == "submit":
        words.append("--dry-run")
    if draw(st.integers(0, 9)) == 0:
        words.insert(draw(st.integers(0, len(words))), draw(WORDS))
    return words


CALLS = st.tuples(
    st.one_of(commands(), commands(), commands(), st.lists(WORDS, max_size=4)),
    INPUTS,
    st.sampled_from([None] * 600 + STREAMS),
)


def test_commands(template: Path, pytestconfig: pytest.Config) -> None:
    with closing(Subject(attempt)) as subject:

        def check(call: tuple[list[str], bytes, str | None]) -> None:
            output, wrong = subject(str(template), *call)
            if wrong:
                pytest.fail(f"{call}: {wrong}", pytrace=False)
            assert SECRET not in output

        fuzz(CALLS, check, pytestconfig)
