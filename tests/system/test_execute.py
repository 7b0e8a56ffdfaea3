"""The execution of the user's function: return values, exceptions, results, logs, several workers."""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

from pyexperimenter import ExperimentStatus, PyExperimenterError, ResultProcessor
from pyexperimenter.exceptions import (
    ClaimLostError,
    InvalidExperimentError,
    InvalidLogFieldError,
    InvalidLogtableError,
    InvalidResultFieldError,
    InvalidValueError,
    MissingDatabaseError,
    MissingTableError,
    NoPausedExperimentsException,
)
from pyexperimenter.experimenter import PyExperimenter
from tests.support.study import experimenter, isolations, study
from tests.support.target import Target

with suppress(ImportError):  # Windows lacks them
    import fcntl
    import termios


def one(target: Target, columns: str, row: int = 1) -> Any:
    ((*values,),) = target.query(f"SELECT {columns} FROM study WHERE ID = ?", row)
    return tuple(values)


@pytest.fixture
def filled(target: Target) -> PyExperimenter:
    study_ = experimenter(target, study(target, Custom={"datapath": "data/"}))
    study_.fill_table_from_config()
    return study_


def test_the_function_gets_keyfields_a_processor_and_custom_fields(filled: PyExperimenter) -> None:
    calls = []

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        calls.append((dict(keyfields), results.experiment_id, dict(custom)))
        keyfields.clear()
        custom.clear()

    assert filled.execute(function, max_experiments=2) == 2
    assert calls == [
        ({"dataset": "iris", "seed": 0}, 1, {"datapath": "data/"}),
        ({"dataset": "iris", "seed": 1}, 2, {"datapath": "data/"}),
    ]


@pytest.mark.parametrize(
    ("returned", "status", "error"),
    [
        (None, "done", None),
        (ExperimentStatus.DONE, "done", None),
        (ExperimentStatus.ERROR, "error", None),
        (ExperimentStatus.PAUSED, "paused", None),
        ({"accuracy": 0.5, "model": "svm"}, "done", None),
        (ExperimentStatus.RUNNING, "error", "the experiment function returned <ExperimentStatus.RUNNING"),
        (5, "error", "the experiment function returned 5; it may return None, one of ExperimentStatus.DONE, "),
        ({"accuracy": 0.5, "acc": 1}, "error", "'acc' is not a resultfield; configured are accuracy, model"),
        ({"accuracy": 0.5, "model": b"x"}, "error", "model: b'x' is not a string; decode it, or declare a BLOB"),
        ({"accuracy": 0.5, "model": pd.DataFrame({"a": [1]})}, "error", "model: a DataFrame is not a string, and its"),
    ],
)
def test_what_the_function_returns_decides_the_status(
    target: Target, filled: PyExperimenter, returned: Any, status: str, error: str | None
) -> None:
    filled.execute(lambda *_: returned, max_experiments=1)
    got = one(target, "status, error, accuracy")
    assert got[0] == status
    assert got[1] is None if error is None else error in got[1]
    assert got[2] == (0.5 if isinstance(returned, dict) else None)
    assert target.query("SELECT outcome FROM study__attempts") == [(status,)]
    assert one(target, "end_date IS NOT NULL") == (1,)


def fail(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    results.process_results({"accuracy": 0.25})
    raise ValueError(f"seed {keyfields['seed']} is bad 😀\0\ud800")


def leave(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    sys.exit("giving up")


@pytest.mark.parametrize(
    ("function", "last"), [(fail, "ValueError: seed 0 is bad 😀\\0\\ud800"), (leave, "SystemExit: giving up")]
)
def test_an_exception_is_a_result_and_the_others_go_on(
    target: Target, filled: PyExperimenter, function: Any, last: str
) -> None:
    assert filled.execute(function) == 6
    assert filled.counts() == {"created": 0, "running": 0, "done": 0, "error": 6, "paused": 0}
    (error,) = one(target, "error")
    lines = error.strip().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith(f'  File "{__file__}"'), "the traceback starts at the user's code"
    assert lines[-1] == last
    assert target.query("SELECT error FROM study__attempts WHERE experiment_id = 1") == [(error,)]


def test_an_interrupt_releases_the_row_and_goes_on(target: Target, filled: PyExperimenter) -> None:
    before = one(target, "*")

    def interrupted(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        results.process_results({"accuracy": 0.25})
        for _ in range(2):  # the second one stops at once
            os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which processes of pytest-xdist do not have
    with pytest.raises(KeyboardInterrupt):
        filled.execute(interrupted)
    assert one(target, "*") == before
    assert target.query("SELECT experiment_id, outcome FROM study__attempts") == [(1, "released")]


def test_results_may_be_written_in_parts_and_of_any_scalar_kind(target: Target, filled: PyExperimenter) -> None:
    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
        results.process_results({"accuracy": np.float32(0.5)})
        results.process_results({"model": {"depth": np.int64(3), "split": (1, 2)}})
        return {"accuracy": np.array(0.75)}

    filled.execute(function, max_experiments=1)
    accuracy, model = one(target, "accuracy, model")
    assert accuracy == 0.75
    assert json.loads(model) == {"depth": 3, "split": [1, 2]}


def test_a_wrong_result_is_refused_and_others_of_the_call_are_kept(target: Target, filled: PyExperimenter) -> None:
    problems: list[Exception] = []

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        for wrong in ({"acc": 1, "accuracy": 0.5}, {"model": "kept", "accuracy": "high"}):
            with pytest.raises(PyExperimenterError) as problem:
                results.process_results(wrong)
            problems.append(problem.value)

    filled.execute(function, max_experiments=1)
    assert [type(problem) for problem in problems] == [InvalidResultFieldError, InvalidValueError]
    assert str(problems[1]) == "accuracy: 'high' is not a number"
    assert one(target, "status, accuracy, model") == ("done", 0.5, "kept")


def test_an_uncaught_wrong_result_makes_the_row_an_error(target: Target, filled: PyExperimenter) -> None:
    filled.execute(lambda k, results, c: results.process_results({"accuracy": 0.5, "acc": 1}), max_experiments=1)
    status, accuracy, error = one(target, "status, accuracy, error")
    assert (status, accuracy) == ("error", 0.5)
    assert "InvalidResultFieldError: 'acc' is not a resultfield; configured are accuracy, model" in error


def test_nan_becomes_null_with_one_warning_naming_the_field(target: Target, filled: PyExperimenter) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filled.execute(lambda *_: {"accuracy": float("nan")})
    assert [str(warning.message) for warning in caught] == ["accuracy: nan is stored as NULL"]
    assert target.query("SELECT DISTINCT status, accuracy FROM study") == [("done", None)]


def test_result_timestamps(target: Target) -> None:
    study_ = experimenter(target, study(target, result_timestamps=True))
    study_.fill_table_from_config()
    study_.execute(lambda *_: {"accuracy": 1}, max_experiments=1)
    stamp, start = one(target, "accuracy_timestamp, start_date")
    assert str(stamp) >= str(start)
    assert one(target, "model_timestamp") == (None,)
    columns = list(study_.get_table().columns)
    assert columns[8:13] == ["accuracy", "accuracy_timestamp", "model", "model_timestamp", "end_date"]


def test_logs_are_rows_and_what_was_handed_in_is_not_changed(target: Target, filled: PyExperimenter) -> None:
    log = {"epochs": {"epoch": 1, "loss": np.float64(0.5)}}
    batch = {"epochs": [{"epoch": 2, "loss": 0.4}, {"epoch": 3}]}

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        results.process_logs(log)
        results.process_logs(log)
        results.process_logs(batch)
        results.process_logs({"epochs": []})
        assert repr(results) == "<ResultProcessor of experiment 1>"

    assert filled.execute(function, max_experiments=1) == 1
    assert log == {"epochs": {"epoch": 1, "loss": 0.5}}
    assert batch == {"epochs": [{"epoch": 2, "loss": 0.4}, {"epoch": 3}]}
    rows = target.query("SELECT experiment_id, epoch, loss, attempt_id FROM study__epochs ORDER BY ID")
    assert rows == [(1, 1, 0.5, 1), (1, 1, 0.5, 1), (1, 2, 0.4, 1), (1, 3, None, 1)]
    assert target.query("SELECT COUNT(*) FROM study__epochs WHERE timestamp IS NULL") == [(0,)]


@pytest.mark.parametrize(
    ("logs", "error", "message"),
    [
        ({"epoch": {"loss": 1}}, InvalidLogtableError, "'epoch' is not a logtable; configured are epochs"),
        ({"epochs": {"los": 1}}, InvalidLogFieldError, "logtable epochs has no column 'los'; it has epoch, loss"),
        ({"epochs": [{"loss": 1}, {"loss": "x"}]}, InvalidValueError, "loss: 'x' is not a number"),
    ],
)
def test_a_wrong_log_is_refused_whole(
    target: Target, filled: PyExperimenter, logs: dict[str, Any], error: type[Exception], message: str
) -> None:
    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        with pytest.raises(error, match=message):
            results.process_logs(logs)

    filled.execute(function, max_experiments=1)
    assert one(target, "status, error") == ("done", None)
    assert target.query("SELECT COUNT(*) FROM study__epochs") == [(0,)]


def test_pause_and_unpause_keep_results_and_logs_together(target: Target, filled: PyExperimenter) -> None:
    def first(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> ExperimentStatus:
        results.process_results({"accuracy": 0.5})
        results.process_logs({"epochs": {"epoch": 1}})
        return ExperimentStatus.PAUSED

    def second(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        assert keyfields == {"dataset": "iris", "seed": 1}
        results.process_results({"model": "svm"})
        results.process_logs({"epochs": {"epoch": 2}})

    filled.execute(first, max_experiments=3)
    with pytest.raises(NoPausedExperimentsException, match=r"ID 5: its status is created"):
        filled.unpause_experiment(5, second)
    with pytest.raises(NoPausedExperimentsException, match=r"ID 99: the table has no such ID"):
        filled.unpause_experiment(99, second)
    filled.unpause_experiment(2, second)
    assert one(target, "status, accuracy, model", 2) == ("done", 0.5, "svm")
    logs = filled.get_logtable("epochs", "experiment_id = 2")
    assert logs["epoch"].tolist() == [1, 2]
    assert logs["attempt_id"].nunique() == 2
    filled.reset_experiments(ids=[2])
    filled.execute(first, where={"ID": 2})
    assert filled.get_logtable("epochs", "log.experiment_id = 2")["epoch"].tolist() == [1]
    assert filled.get_logtable("epochs", "experiment_id = 2", all_attempts=True)["epoch"].tolist() == [1, 2, 1]


def test_attach_writes_to_running_and_to_finished_experiments(target: Target, filled: PyExperimenter) -> None:
    def attached(results: ResultProcessor) -> str:
        results.process_results({"model": "attached"})
        results.process_logs({"epochs": {"epoch": 7}})
        return "returned"

    other = experimenter(target)

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, float]:
        assert other.attach(attached, results.experiment_id) == "returned"
        return {"accuracy": 0.5}

    filled.execute(function, max_experiments=1)
    assert one(target, "status, accuracy, model") == ("done", 0.5, "attached")

    def afterwards(results: ResultProcessor) -> None:
        results.process_results({"model": "afterwards"})
        results.process_logs({"epochs": {"epoch": 8}})

    filled.attach(afterwards, 1)
    assert filled.get_logtable("epochs")["epoch"].tolist() == [7, 8], "both belong to the run"
    assert one(target, "status, accuracy, model") == ("done", 0.5, "afterwards")
    assert target.query("SELECT outcome FROM study__attempts ORDER BY ID") == [("done",), ("attached",)]
    with pytest.raises(InvalidExperimentError, match="no experiment with ID 99"):
        filled.attach(attached, 99)


def test_attempts_record_who_where_and_what_it_took(
    filled: PyExperimenter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(name, value)

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        ballast = bytearray(64 * 2**20)
        assert sum(range(10**6)) and ballast

    filled.execute(function, max_experiments=1)
    (attempt,) = filled.get_attempts().to_dict("records")
    assert (attempt["experiment_id"], attempt["number"], attempt["outcome"]) == (1, 1, "done")
    assert (attempt["machine"], attempt["pid"]) == (platform.node(), os.getpid())
    assert attempt["job_id"] == "7_3"
    assert attempt["python"] == platform.python_version()
    assert attempt["library_version"]
    assert attempt["ended"] >= attempt["started"]
    assert attempt["wall_seconds"] > 0
    assert attempt["cpu_seconds"] >= 0
    assert attempt["max_rss_bytes"] > 64 * 2**20


CODE = """
def train(keyfields, results, custom):
    results.process_logs({"epochs": {"epoch": 1, "loss": 0.5}})
    return {"accuracy": keyfields["seed"] + VERSION}
"""


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
@isolations
def test_each_version_of_the_code_is_known(
    target: Target, isolation: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The repository is that of the function, not that of the working directory."""
    module = tmp_path / f"{isolation}_code.py"
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x"]
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # by whose age a change within a second is not seen
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # nor in the processes of workers
    monkeypatch.syspath_prepend(str(tmp_path))
    study_ = experimenter(target, study(target, Execution={"isolation": isolation}))
    study_.fill_table_from_config()
    for version in (1, 2, 3, 2, 2, 2):
        module.write_text(f"VERSION = {version}{CODE}")
        if version == 1:
            for command in (["init", "-q"], ["add", module.name], ["commit", "-qm", "first"]):
                subprocess.run([*git, *command], cwd=tmp_path, check=True)
        sys.modules.pop(module.stem, None)
        study_.execute(importlib.import_module(module.stem).train, max_experiments=1)
    sys.modules.pop(module.stem)
    table, attempts = study_.get_table(), study_.get_attempts()
    assert (table["accuracy"] - table["seed"]).tolist() == [1, 2, 3, 2, 2, 2]
    head = subprocess.run([*git, "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    commit = head.stdout.strip()
    assert attempts["git_commit"].tolist() == [commit] * 6
    assert attempts["git_dirty"].tolist() == [False, True, True, True, True, True]
    clean, second, third, *others = attempts["git_diff_hash"]
    assert pd.isna(clean)
    assert {second, *others} == {second} != {third}
    for analyze in (
        lambda: study_.summarize("accuracy", "dataset"),
        lambda: study_.compare("accuracy", "seed", "dataset"),
        lambda: study_.plot_result("accuracy", "dataset"),
        lambda: study_.plot_heatmap("accuracy", "dataset", "seed", over=None),
        lambda: study_.plot_curves("epochs", "loss", "epoch", over=["dataset", "seed"]),
    ):
        with pytest.warns(UserWarning, match=rf"git commit {commit[:10]}\+{third} with uncommitted changes \(1 exp"):
            analyze()


def test_max_experiments_is_a_total_and_may_exceed_what_is_open(filled: PyExperimenter) -> None:
    assert filled.execute(lambda *_: None, n_jobs=2, max_experiments=3) == 3
    assert filled.counts()["done"] == 3
    assert filled.execute(lambda *_: None, n_jobs=2, max_experiments=50) == 3
    assert filled.execute(lambda *_: None) == 0
    assert filled.execute(lambda *_: None, max_experiments=0) == 0


def test_several_workers_share_the_table(target: Target) -> None:
    seeds = {"seed": {"type": "INT", "values": {"start": 0, "stop": 40}}}
    study_ = experimenter(target, study(target, keyfields=seeds, n_jobs=2), name="me")

    def function(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
        if keyfields["seed"] % 4 == 0:
            raise RuntimeError("every fourth")
        return {"accuracy": os.getpid()}

    study_.fill_table_from_config()
    assert study_.execute(function) == 40
    assert study_.counts() == {"created": 0, "running": 0, "done": 30, "error": 10, "paused": 0}
    assert os.getpid() not in {pid for (pid,) in target.query("SELECT DISTINCT accuracy FROM study")}
    assert target.query("SELECT DISTINCT name FROM study") == [("me",)]


def test_a_worker_that_dies_leaves_nothing_running(target: Target) -> None:
    study_ = experimenter(target, study(target, n_jobs=2))
    study_.fill_table_from_config()

    def function(keyfields: dict[str, Any], results: Any, custom: Any) -> None:
        if keyfields["seed"] == 2:
            os._exit(3)

    with pytest.raises(TerminatedWorkerError, match="terminated"):
        study_.execute(function)
    counts = study_.counts()
    assert counts["running"] == 0
    assert counts["created"] >= 1
    assert target.query("SELECT COUNT(*) FROM study__attempts WHERE ended IS NULL") == [(0,)]


def test_what_is_attached_is_taken_over_by_the_next_claim(target: Target, filled: PyExperimenter) -> None:
    def attached(results: ResultProcessor) -> None:
        experimenter(target).execute(lambda *_: {"accuracy": 1}, where={"ID": 1})
        with pytest.raises(ClaimLostError):
            results.process_results({"accuracy": 0})

    filled.attach(attached, 1)
    assert one(target, "status, accuracy") == ("done", 1)
    assert target.query("SELECT outcome FROM study__attempts ORDER BY ID") == [("superseded",), ("done",)]


def test_workers_use_the_file_of_the_directory_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers' processes are reused, and were started in the first directory."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        target = Target("sqlite", "sqlite", "relative")
        study_ = experimenter(target, study(target, n_jobs=2))
        study_.fill_table_from_config()
        assert study_.execute(lambda *_: None) == 6
        assert study_.counts()["done"] == 6


def test_executing_without_a_table_says_what_to_do(target: Target) -> None:
    with pytest.raises((MissingTableError, MissingDatabaseError), match=r"fill .*first"):
        experimenter(target).execute(lambda *_: None)
    with pytest.raises((MissingTableError, MissingDatabaseError), match=r"fill .*first"):
        experimenter(target).get_table()


def test_importing_the_library_is_light() -> None:
    heavy = {"pandas", "numpy", "joblib", "yaml", "pydantic"}
    code = f"import sys, pyexperimenter; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_time_limit_that_cannot_be_kept_is_reported(sqlite_target: Target, caplog: pytest.LogCaptureFixture) -> None:
    config = study(sqlite_target, Execution={"isolation": "none", "time_limit": "2h"})
    study_ = PyExperimenter(config, logger_name="told", log_level="WARNING")
    study_.fill_table_from_config()
    study_.execute(lambda *_: {"accuracy": 0.5})
    (record,) = caplog.records
    assert record.getMessage().startswith("time_limit has no effect with isolation: none")


def test_emissions_are_measured_where_the_config_says_so(target: Target, tmp_path: Path) -> None:
    codecarbon = {"offline_mode": True, "country_iso_code": "DEU", "measure_power_secs": 1}
    study_ = experimenter(target, study(target, CodeCarbon=codecarbon))
    study_.fill_table_from_config()
    study_.execute(lambda *_: None, max_experiments=1)
    table = study_.get_codecarbon_table()
    assert table["experiment_id"].tolist() == [1]
    assert table["duration_seconds"][0] >= 0
    assert table["country_iso_code"].tolist() == ["DEU"]
    assert table["offline_mode"].tolist() == [True]
    without = experimenter(target, study(target, CodeCarbon=codecarbon), use_codecarbon=False)
    without.execute(lambda *_: None, max_experiments=1)
    assert len(study_.get_codecarbon_table()) == 1
    study_.execute(lambda *_: None, max_experiments=2)
    assert study_.get_codecarbon_table()["experiment_id"].tolist() == [1, 3, 4]


def test_emissions_that_cannot_be_written_do_not_cost_the_experiment(
    sqlite_target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    config = study(sqlite_target, CodeCarbon={"offline_mode": True, "country_iso_code": "DEU"})
    study_ = PyExperimenter(config, logger_name="emitted", log_level="WARNING")
    study_.fill_table_from_config()

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
        sqlite_target.query("DROP TABLE study_codecarbon")
        return {"accuracy": 0.5}

    assert study_.execute(function, max_experiments=1) == 1
    assert study_.counts()["done"] == 1
    (record,) = caplog.records
    assert record.getMessage().startswith("the emissions of experiment 1 were not written: no such table")


def test_bars_are_shown_on_a_terminal_only(sqlite_target: Target) -> None:
    script = (
        "import json, sys; from pyexperimenter import PyExperimenter\n"
        "study = PyExperimenter(json.loads(sys.argv[1]), log_level='ERROR')\n"
        "study.fill_table_from_config(); study.execute(lambda *_: None, max_experiments=10)"
    )
    keyfields = {"seed": {"type": "INT", "values": {"start": 0, "stop": 30_000}}}
    config = json.dumps(study(sqlite_target, keyfields=keyfields))
    command = [sys.executable, "-c", script, config]
    quiet = subprocess.run(command, stderr=subprocess.PIPE, check=True)
    assert quiet.stderr == b""
    Path(sqlite_target.database).unlink()
    controller, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    with subprocess.Popen(command, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        try:
            while part := os.read(controller, 65536):
                shown += part
        except OSError:  # how Linux reports that no process has the terminal open any more
            pass
    os.close(controller)
    assert process.returncode == 0
    assert b"fill: 100%" in shown
    assert b"30000/30000" in shown
    assert b"experiments:" in shown
    assert b"| 10/30000 [" in shown
    assert b"error=0]" in shown
