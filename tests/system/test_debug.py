"""One experiment in this process, as a debugger needs it: its reports are printed, and nothing is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus, PyExperimenter, ResultProcessor
from pyexperimenter.exceptions import (
    InvalidExperimentError,
    InvalidLogFieldError,
    InvalidLogtableError,
    InvalidResultFieldError,
    InvalidValueError,
    MissingDatabaseError,
    MissingTableError,
)
from tests.support.study import credentials, experimenter, study
from tests.support.target import A_FILE_AND_A_SERVER, Target

DATABASES = A_FILE_AND_A_SERVER


def report(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    results.process_results({"accuracy": 0.5, "model": "svm"})
    results.process_logs({"epochs": [{"epoch": 1, "loss": 0.25}, {"epoch": 2}]})
    assert not results.stop_requested
    return {"keyfields": keyfields, "id": results.experiment_id, "custom": custom, "pid": os.getpid()}


@pytest.fixture
def filled(target: Target) -> PyExperimenter:
    """The study has the default, isolation; debugging does without it."""
    study_ = experimenter(target, study(target, Execution={"isolation": "process"}, Custom={"datapath": "data/"}))
    study_.fill_table_from_config()
    return study_


def everything(target: Target) -> list[Any]:
    tables = ("study", "study__attempts", "study__epochs", "study__meta")
    return [target.query(f"SELECT * FROM {table} ORDER BY ID") for table in tables]


def test_it_prints_reports_and_returns_what_the_function_returns(
    target: Target, filled: PyExperimenter, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(target)
    returned = filled.debug(5, report)
    assert returned == {
        "keyfields": {"dataset": "wine", "seed": 1},
        "id": 5,
        "custom": {"datapath": "data/"},
        "pid": os.getpid(),
    }
    assert capsys.readouterr().out.splitlines() == [
        "accuracy = 0.5",
        "model = 'svm'",
        "epochs: epoch = 1, loss = 0.25",
        "epochs: epoch = 2, loss = None",
    ]
    assert everything(target) == before


@pytest.mark.parametrize("returned", [None, ExperimentStatus.PAUSED, 7, {"no resultfield": 1}])
def test_whatever_the_function_returns_is_returned(target: Target, filled: PyExperimenter, returned: Any) -> None:
    before = everything(target)
    assert filled.debug(1, lambda *_: returned) is returned
    assert everything(target) == before


@pytest.mark.parametrize("status", ["running", "done", "error", "paused"])
def test_the_status_does_not_matter_and_stays(target: Target, filled: PyExperimenter, status: str) -> None:
    if status == "running":
        target.query("UPDATE study SET status = 'running' WHERE ID = 1")
    else:
        filled.execute(lambda *_: ExperimentStatus(status), max_experiments=1)
    before = everything(target)
    assert before[0][0][4] == status
    assert filled.debug(1, report)["id"] == 1
    assert everything(target) == before


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (
            lambda r: r.process_results({"acc": 1}),
            InvalidResultFieldError,
            "'acc' is not a resultfield; configured are",
        ),
        (lambda r: r.process_results({"model": b"x"}), InvalidValueError, "model: b'x' is not a string"),
        (
            lambda r: r.process_logs({"epoch": {"epoch": 1}}),
            InvalidLogtableError,
            "'epoch' is not a logtable; configured",
        ),
        (lambda r: r.process_logs({"epochs": {"los": 1}}), InvalidLogFieldError, "logtable epochs has no column 'los'"),
        (lambda r: r.process_logs({"epochs": {"epoch": "x"}}), InvalidValueError, "epoch: 'x' is not an integer"),
    ],
)
def test_what_is_wrong_is_reported_as_in_an_execution(
    target: Target, filled: PyExperimenter, write: Any, error: type[Exception], message: str
) -> None:
    before = everything(target)
    with pytest.raises(error, match=message):
        filled.debug(1, lambda keyfields, results, custom: write(results))
    assert everything(target) == before


def test_an_exception_comes_to_the_caller(target: Target, filled: PyExperimenter) -> None:
    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        raise LookupError(f"seed {keyfields['seed']}")

    before = everything(target)
    with pytest.raises(LookupError, match="seed 2"):
        filled.debug(3, function)
    assert everything(target) == before


def test_keyfields_and_custom_fields_are_the_functions_own(target: Target, filled: PyExperimenter) -> None:
    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        keyfields.clear()
        custom.clear()

    filled.debug(1, function)
    assert filled.debug(1, report)["custom"] == {"datapath": "data/"}
    assert filled.debug(1, report)["keyfields"] == {"dataset": "iris", "seed": 0}


@pytest.mark.parametrize("experiment_id", [0, 7, -1])
def test_a_missing_experiment_is_reported(target: Target, filled: PyExperimenter, experiment_id: int) -> None:
    before = everything(target)
    with pytest.raises(InvalidExperimentError, match=f"the table study has no experiment with ID {experiment_id}"):
        filled.debug(experiment_id, report)
    assert everything(target) == before


def test_a_missing_table_is_reported_and_not_created(target: Target) -> None:
    study_ = experimenter(target)
    if target.name == "sqlite":
        with pytest.raises(MissingDatabaseError, match="there is no"):
            study_.debug(1, report)
        assert not Path(target.database).exists()
    else:
        with pytest.raises(MissingTableError):
            study_.debug(1, report)
        show = "SELECT relname FROM pg_class WHERE relname LIKE 'study%'"
        assert target.query(show if target.provider == "postgresql" else "SHOW TABLES") == []


SCRIPT = """
import json, sys
from pyexperimenter import PyExperimenter

def inner(seed):
    secret = seed + 40
    raise ValueError("too deep")

def function(keyfields, results, custom):
    if keyfields["seed"] == 2:
        inner(keyfields["seed"])
    return {"accuracy": 0.5}

config, options = json.loads(sys.argv[1]), json.loads(sys.argv[2])
print("returned", PyExperimenter(config, log_level="ERROR", **options).debug(int(sys.argv[3]), function, pdb=True))
"""


def debugged(target: Target, directory: Path, experiment_id: int, commands: str) -> subprocess.CompletedProcess[str]:
    options = {name: str(value) for name, value in credentials(target).items()}
    (directory / "script.py").write_text(SCRIPT)
    arguments = [json.dumps(study(target)), json.dumps(options), str(experiment_id)]
    return subprocess.run(
        [sys.executable, str(directory / "script.py"), *arguments],
        input=commands,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_pdb_stops_where_the_exception_was_raised_then_raises_it(
    target: Target, filled: PyExperimenter, tmp_path: Path
) -> None:
    before = everything(target)
    ended = debugged(target, tmp_path, 3, "p secret\nup\np keyfields\nq\n")
    assert 'raise ValueError("too deep")' in ended.stdout
    assert "(Pdb) 42" in ended.stdout
    assert "(Pdb) {'dataset': 'iris', 'seed': 2}" in ended.stdout
    assert ended.stderr.splitlines()[-1] == "ValueError: too deep"
    assert ended.returncode == 1
    assert everything(target) == before


def test_pdb_is_not_entered_if_nothing_is_raised(target: Target, filled: PyExperimenter, tmp_path: Path) -> None:
    ended = debugged(target, tmp_path, 1, "p keyfields\n")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "returned {'accuracy': 0.5}\n", "")
