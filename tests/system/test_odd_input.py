"""Odd arguments, files, streams and surroundings end in one line with a remedy, or simply work."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pyexperimenter import PyExperimenter
from pyexperimenter.exceptions import PyExperimenterError
from tests.support.study import experimenter, study
from tests.support.target import Target

HUGE = 10**400
CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.fixture
def study_(sqlite_target: Target) -> PyExperimenter:
    filled = experimenter(sqlite_target)
    filled.fill_table_from_config()
    return filled


CALLS: dict[str, tuple[Callable[[PyExperimenter], Any], str]] = {
    "a column that is None": (lambda s: s.get_table(order_by=[None]), "no column 'None'"),
    "an order that is a number": (lambda s: s.get_table(order_by=5), "order_by: 5 is not a list"),
    "columns that are a number": (lambda s: s.get_table(columns=5), "columns: 5 is not a list"),
    "an ID without brackets": (lambda s: s.reset_experiments(ids=5), r"ids: 5 is not a list; write \[5\]"),
    "IDs in a text": (lambda s: s.reset_experiments(ids="12"), "ids: '12' is not a list"),
    "a huge ID": (lambda s: s.reset_experiments(ids=[HUGE]), "ID: .* is outside"),
    "a status that is a number": (lambda s: s.get_table(states=5), "states: 5 is not a list"),
    "a condition that is a number": (lambda s: s.get_table(where=5), "where: 5 is neither"),
    "a condition in a list that is none": (lambda s: s.get_table(where=["seed > 1", 5]), "where: 5 is neither"),
    "a huge value": (lambda s: s.get_table(where={"seed": HUGE}), "seed: .* is outside"),
    "a condition that is not Unicode": (lambda s: s.get_table(where="'\udcff'"), r"'\\udcff'(?s:.*) is not text"),
    "a limit that is not whole": (lambda s: s.get_table(limit=1.5), "limit: 1.5 is not a whole number"),
    "a limit below 0": (lambda s: s.get_table(limit=-1), "limit: -1 is not a whole number"),
    "a huge limit": (lambda s: s.get_table(limit=HUGE), "limit: .* is not a whole number from 0"),
    "no jobs": (lambda s: s.submit(print, workers=0, cluster="local"), "workers: 0 is not a whole number from 1"),
    "a script for no jobs": (lambda s: s.sbatch_script(print, workers=-1), "workers: -1 is not a whole number from 1"),
    "no workers": (lambda s: s.execute(print, n_jobs=0), "n_jobs: 0 is not a number of workers"),
    "half a worker": (lambda s: s.execute(print, n_jobs=0.5), "n_jobs: 0.5 is not a number of workers"),
    "an export with a null character": (lambda s: s.export("a\0b.csv"), "it contains a null character"),
    "the home of a stranger": (lambda s: s.export("~nobody_such/a.csv"), "is not a path: Could not determine home"),
}


@pytest.mark.parametrize(("call", "message"), CALLS.values(), ids=CALLS)
def test_a_wrong_argument_is_an_error_of_ours(
    study_: PyExperimenter, call: Callable[[PyExperimenter], Any], message: str
) -> None:
    with pytest.raises(PyExperimenterError, match=message):
        call(study_)
    assert study_.counts()["created"] == 6


@pytest.mark.parametrize("path", ["a\0b", "~nobody_such/a", "\ud800"])
@pytest.mark.parametrize(
    "parameter", ["experiment_configuration_file_path", "database_credential_file_path", "log_file"]
)
def test_a_path_that_cannot_be_one_is_an_error_of_ours(sqlite_target: Target, parameter: str, path: str) -> None:
    options = {"experiment_configuration_file_path": study(sqlite_target), parameter: path}
    with pytest.raises(PyExperimenterError, match="is not a path"):
        PyExperimenter(**options)


def test_keys_that_are_bytes_are_an_error_of_ours(sqlite_target: Target) -> None:
    with pytest.raises(PyExperimenterError, match="not bytes"):
        experimenter(sqlite_target, study(sqlite_target, keyfields={b"x": {"type": "INT", "values": [1]}}))


@pytest.mark.parametrize("value", [10**5000, CIRCLE, nested(300), nested(5000)], ids=["huge", "circle", "300", "5000"])
def test_a_dict_that_cannot_be_written_is_an_error_of_ours(sqlite_target: Target, value: object) -> None:
    with pytest.raises(PyExperimenterError, match=r"Exceeds|Circular|nested more than 100 levels|recursion"):
        experimenter(sqlite_target, study(sqlite_target, Custom={"value": value}))


# Config files

CONFIG = """
PY_EXPERIMENTER:
  Database:
    provider: sqlite
    database: study
    table:
      name: study
      keyfields:
        x: {type: %s, values: %s}
  Custom: {%s}
"""
ALIASES = "".join(f"&a{n} [{', '.join([f'*a{n - 1}'] * 10)}], " for n in range(1, 10))
REFERENCES = "".join(f"v{n}: '${{.v{n - 1}}}${{.v{n - 1}}}', " for n in range(1, 40))
CONFIGS = {
    "a time that is none": ("INT", "[!!timestamp x]", "", "'x' is not a valid !!timestamp"),
    "a number without a value": ("INT", "[!!float '']", "", "'' is not a valid !!float"),
    "a bool that is none": ("BOOL", "[!!bool maybe]", "", "'maybe' is not a valid !!bool"),
    "aliases within aliases": ("INT", "[1]", f"a: [&a0 [1], {ALIASES}]", "the aliases repeat more than 100000 values"),
    "lists within lists": ("INT", "[1]", f"a: {'[' * 500}{']' * 500}", "nested more than 100 levels deep"),
    "references to references": ("INT", "[1]", f"v0: aaaaaaaaaa, {REFERENCES}", "takes more than 20000 steps"),
    "a huge sample": ("DOUBLE", "{sample: uniform, low: 0, high: 1, num: 1000000000}", "", "draw at most 1000000"),
}


@pytest.mark.parametrize(("kind", "values", "custom", "message"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_is_refused_with_its_line(tmp_path: Path, kind: str, values: str, custom: str, message: str) -> None:
    path = tmp_path / "config.yml"
    path.write_text(CONFIG % (kind, values, custom))
    with pytest.raises(PyExperimenterError, match=message) as raised:
        PyExperimenter(path)
    assert f"{path}:" in str(raised.value)


def test_a_grid_may_have_more_keyfields_than_calls_can_be_nested(tmp_path: Path) -> None:
    keyfields = {f"k{number}": {"type": "INT", "values": [number]} for number in range(sys.getrecursionlimit() + 5)}
    wide = study(Target("sqlite", "sqlite", str(tmp_path / "study.db")), keyfields=keyfields)
    grid = PyExperimenter(wide).config.table.grid
    assert grid is not None
    assert next(iter(grid))["k1004"] == 1004


# The command line

PROGRAM = f"{sys.executable} -m pyexperimenter"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    keyfields = {"text": {"type": "VARCHAR(9)", "values": ["\N{SNOWMAN}"]}}
    config = study(Target("sqlite", "sqlite", str(tmp_path / "study.db")), keyfields=keyfields)
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (tmp_path / "functions.py").write_text("def f(*_):\n    return {'accuracy': 1}\n")
    shell("{program} fill", tmp_path)
    return tmp_path


def shell(command: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command.format(program=PROGRAM),
        shell=True,
        cwd=directory,
        capture_output=True,
        encoding="latin-1",
        env={**os.environ, "PYEXPERIMENTER_CONFIG": str(directory / "config.yml"), **environment},
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run functions:f -j 0", "n_jobs: 0 is not a number of workers"),
        ("run functions:f -n -2", "-2 is not in the range"),
        ("validate --head -1", "-1 is not in the range"),
        (f"validate --head {HUGE}", "is not in the range"),
        ("status --watch --every nan", "'nan' is not a positive duration"),
        ("status --watch --every -1", "'-1' is not a positive duration"),
        (f"show {HUGE}", "is not in the range"),
        ("show $(printf '\\377')", "is not a valid integer"),
        ("list --where $(printf '\\377')", "is not text that a database can read"),
        ("list --credentials ~nobody_such/x", "is not a path"),
    ],
)
def test_a_wrong_argument_is_one_line(directory: Path, arguments: str, message: str) -> None:
    done = shell(f"{{program}} {arguments}", directory)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert message in done.stderr.splitlines()[-1]


def test_an_answer_that_is_not_unicode_is_none(directory: Path) -> None:
    shell("{program} run functions:f", directory)
    done = shell("printf '\\377\\n' | {program} reset all", directory)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Aborted" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_a_terminal_without_some_characters_shows_the_others(directory: Path, encoding: str) -> None:
    assert "Executed 1 experiment" in shell("{program} run functions:f", directory, PYTHONIOENCODING=encoding).stdout
    done = shell("{program} list", directory, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_streams(directory: Path, closed: str) -> None:
    for command in ("run functions:f", "list", "status", "export -", "reset all -y", "run functions:f"):
        assert shell(f"{{program}} {command} {closed}", directory).returncode == 0, command
    assert "1 of 1 finished" in shell("{program} status", directory).stdout
    logging.getLogger().debug("the database is whole: %s", shell("{program} list", directory).stdout)


def test_a_deleted_working_directory_is_named(directory: Path) -> None:
    gone = directory / "gone"
    gone.mkdir()
    done = shell("rmdir ../gone; {program} -c config.yml list", gone)
    assert "Traceback" not in done.stderr
    assert "no longer exists" in done.stderr


def test_few_file_descriptors_are_enough(directory: Path) -> None:
    done = shell("ulimit -n 24; {program} run functions:f", directory)
    assert done.returncode == 0, done.stderr
