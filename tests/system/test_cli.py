"""The command line, on a study with results, logs, errors and open rows."""

from __future__ import annotations

import csv
import importlib
import inspect
import itertools
import json
import os
import re
import select
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import matplotlib as mpl
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result

from pyexperimenter import PyExperimenter
from pyexperimenter.analysis import compare
from pyexperimenter.cli import main, printing
from pyexperimenter.cli.commands import COMMANDS
from pyexperimenter.cli.printing import print_matrix, printable
from pyexperimenter.config import json_schema
from pyexperimenter.study.groups import ExperimentGroup
from tests.support.study import study as study_config
from tests.support.study import wait_until
from tests.support.target import Target

PROGRAM = [sys.executable, "-m", "pyexperimenter"]
FUNCTIONS = """
import pathlib, time

def train(keyfields, results, custom):
    print("training", keyfields["dataset"])
    results.process_logs({"epochs": [{"epoch": epoch, "loss": 1 / (epoch + 1)} for epoch in range(2)]})
    if keyfields["dataset"] == "wine" and keyfields["seed"]:
        raise ValueError(f"no wine with seed {keyfields['seed']}")
    return {"accuracy": 0.5 + keyfields["seed"] / 10, "model": "a\\nb"}

def wait_for_go(keyfields, results, custom):
    while not pathlib.Path("go").exists():
        time.sleep(0.01)

nothing = 3
"""


@contextmanager
def study_in(directory: Path) -> Iterator[Path]:
    """Work in a directory, on a study of 2 data sets and 3 seeds that is configured at the default path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.delenv("PYEXPERIMENTER_CONFIG", raising=False)
        patch.setattr(sys, "path", list(sys.path))
        write_config(directory, Target("sqlite", "sqlite", "study"))
        (directory / "functions.py").write_text(FUNCTIONS)
        yield directory
        sys.modules.pop("functions", None)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """The working directory of a study without a table."""
    with study_in(tmp_path):
        yield tmp_path


def write_config(directory: Path, target: Target, **changes: Any) -> None:
    (directory / "config").mkdir(exist_ok=True)
    config = study_config(target, **{"Execution": {"function": "functions:train"}, **changes})
    (directory / "config" / "experiment_configuration.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    if target.credentials_file is not None:
        shutil.copy(target.credentials_file, directory / "config" / "database_credentials.yml")


# Click before 8.2 mixes stdout and stderr by default; before 8.4 a prompt on stderr leaves a trace on stdout.
RUNNER = CliRunner(**({"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}))


def call(*arguments: str, code: int = 0, given: str | None = None) -> Result:
    """Run a command in this process."""
    result = RUNNER.invoke(main, arguments, input=given, catch_exceptions=True)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def data(*arguments: str) -> Any:
    return json.loads(call(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def executed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with study_in(tmp_path_factory.mktemp("executed")) as directory:
        call("fill")
        call("run", "-n", "5")
    return directory


@pytest.fixture
def executed(executed_once: Path, directory: Path) -> Path:
    """Of the study 1, 2, 3 and 4 are done, 5 in error, 6 is open."""
    shutil.copytree(executed_once, directory, dirs_exist_ok=True)
    return directory


# From start to finish


def test_a_starter_is_written_checked_filled_run_and_summarized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    schema = "new/config/experiment_configuration.schema.json"
    config = "new/config/experiment_configuration.yml"
    assert call("init", "new").stdout.splitlines() == [config, "new/experiment.py", schema]
    assert Path(config).read_text().startswith(f"# yaml-language-server: $schema={Path(schema).name}\n")
    assert json.loads(Path(schema).read_text()) == json_schema()
    new = tmp_path / "new"

    def run(*arguments: str) -> str:
        return subprocess.run(
            [*PROGRAM, *arguments], cwd=new, check=True, capture_output=True, encoding="utf-8", env=strict()
        ).stdout

    assert "120 experiments" in run("validate")
    assert not (new / "my_study.db").exists()
    assert run("fill") == "Added 120 experiments, 0 already existed\n"
    assert run("run", "-j", "2").startswith("Executed 120 experiments\n")
    summary = json.loads(run("table", "deviation", "--rows", "method,strata", "--columns", "samples", "--json"))
    assert len(summary) == 4 * 3
    assert all(line["n"] == 10 and line["missing"] == 0 for line in summary)
    printed = subprocess.run(
        [sys.executable, "experiment.py"], cwd=new, check=True, capture_output=True, text=True, env=strict()
    )
    assert "stratified" in printed.stdout  # the same through Python
    before = (new / "experiment.py").read_text()
    monkeypatch.chdir(new)
    assert "exists and is not overwritten" in call("init", code=1).stderr
    assert (new / "experiment.py").read_text() == before


def strict() -> dict[str, str]:
    return {**os.environ, "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8"}


def test_the_same_on_every_server(directory: Path, target: Target) -> None:
    write_config(directory, target, name="anew")
    call("fill")
    assert call("run").stdout.startswith("Executed 6 experiments\n")
    assert data("status")["counts"] == {"created": 0, "running": 0, "done": 4, "error": 2, "paused": 0}
    assert [row["ID"] for row in data("list", "-w", "seed = 0", "--order-by", "-ID")] == [4, 1]
    assert data("errors")[0]["example_ids"] == [5, 6]
    assert call("reset", "error", "--error", "SEED 2", "-y").stdout == "Reset 1 experiment\n"
    assert data("show", "6")["row"]["status"] == "created"
    assert len(data("logs", "1")["epochs"]) == 2
    message = {"sqlite": "no such column: nix", "mysql": "Unknown column 'nix'", "postgresql": 'column "nix" does not'}
    assert message[target.provider] in call("list", "-w", "nix = 1", code=1).stderr
    assert call("delete", "--confirm", "anew").stdout == "Deleted anew\n"


@pytest.mark.parametrize("target", ["mariadb", "mysql", "postgresql"], indirect=True)
def test_fill_creates_the_database(directory: Path, target: Target) -> None:
    assert target.server is not None
    write_config(directory, replace(target, database=(name := f"{target.database}_new")))
    try:
        assert name in call("fill", code=1).stderr
        assert call("fill", "--create-database").stdout == "Added 6 experiments, 0 already existed\n"
    finally:
        target.server.drop_database(name)


def test_a_study_without_a_grid(directory: Path) -> None:
    write_config(directory, Target("sqlite", "sqlite", "study"), keyfields={"seed": "INT"}, logtables={})
    assert "there is no grid" in call("validate").stdout
    PyExperimenter().fill_table_with_rows([{"seed": 1}])
    assert "no logtables" in call("logs", "1").stderr


def test_validate_shows_the_grid_and_touches_no_database(directory: Path) -> None:
    shown = call("validate", "--head", "2").stdout.splitlines()
    assert shown[0].endswith(f"is valid: table study in sqlite {directory}/study.db")
    assert shown[1] == "6 experiments, starting with:"
    assert [line.split() for line in shown[2:]] == [
        ["dataset", "seed"],
        ["---------", "------"],
        ["iris", "0"],
        ["iris", "1"],
    ]
    assert data("validate", "--head", "1")["first"] == [{"dataset": "iris", "seed": 0}]
    assert call("validate", "--head", "0").stdout.splitlines() == [shown[0], "6 experiments"]
    assert json.loads(call("validate", "--schema").stdout)["title"] == "PyExperimenter configuration"
    assert not (directory / "study.db").exists()


def test_fill_creates_no_directory(directory: Path) -> None:
    assert call("fill", "--create-database").stdout == "Added 6 experiments, 0 already existed\n"
    write_config(directory, Target("sqlite", "sqlite", "no/where/study"))
    message = call("fill", "--create-database", code=1).stderr
    assert message == f"Error: {directory}/no/where is not a directory; create it, or choose another path\n"


def test_run_takes_config_and_function_in_each_form(directory: Path) -> None:
    config = "config/experiment_configuration.yml"
    call("fill")
    one = ("-n", "1")
    for arguments in [(), (config,), ("functions:train",), (config, "functions:train"), (config, "functions.py:train")]:
        assert call("run", *arguments, *one).stdout.startswith("Executed 1 experiment\n")
    assert call("run", "functions:train", "-w", "seed = 99").stdout.startswith("Executed 0 experiments\n")
    assert "expected" in call("run", config, "functions:train", "more", code=2).stderr


def test_run_hands_its_options_on(directory: Path) -> None:
    call("fill")
    call("run", "-n", "2", "--order-by", "-seed,dataset", "--name", "me", "-j", "1")
    assert [(row["ID"], row["name"]) for row in data("list", "-s", "done", "-s", "error")] == [(3, "me"), (6, "me")]
    wrong = call("run", "--stop-after", "1ms", code=1).stderr
    assert wrong.startswith("Error: stop_after: '1ms' is not a positive duration")
    assert call("run", "--random-order", "--stop-after", "1h").stdout.startswith("Executed 4 experiments\n")


def test_run_prints_the_first_failure_of_a_kind(directory: Path) -> None:
    call("fill")

    def printed(*options: str) -> str:
        return subprocess.run([*PROGRAM, "run", *options], capture_output=True, text=True, check=True).stderr

    whole = printed()
    assert whole.count("Traceback") == 1
    assert whole.endswith("ValueError in train: 1 more\n")
    call("reset", "error", "-y")
    assert printed("--quiet") == ""
    assert data("status")["counts"]["error"] == 2


# Reading


def test_status(executed: Path) -> None:
    Target("sqlite", "sqlite", "study.db").query("UPDATE study__attempts SET ended = datetime('now', '-1 minute')")
    lines = call("status").stdout.splitlines()
    assert lines[0] == f"study in {executed}/study.db"
    assert lines[1].endswith("5 of 6 finished (83%)")
    assert lines[2] == "created 1  running 0  done 4  error 1  paused 0"
    assert lines[3] == "no worker is running"
    assert data("status")["total"] == 6


def test_no_errors_are_not_red(executed: Path) -> None:
    def shown() -> str:
        return RUNNER.invoke(main, ["status"], color=True).stdout

    assert "\x1b[31merror 1" in shown()
    call("reset", "error", "-y")
    assert "\x1b[2merror 0" in shown()
    assert "\x1b[31merror" not in shown()


def test_a_worker_has_a_name_in_the_status(executed: Path) -> None:
    target = Target("sqlite", "sqlite", "study.db")
    target.query("UPDATE study SET status = 'running' WHERE ID = 6")
    target.query("""
        INSERT INTO study__attempts (experiment_id, number, run, worker, machine, pid, started, heartbeat)
        VALUES (6, 1, 1, '0f3a.0', 'node5', 4711, datetime(), datetime())
    """)
    lines = call("status").stdout.splitlines()
    assert lines[-3].split() == ["ID", "running", "for", "heartbeat", "worker", "job"]
    assert "node5:4711" in lines[-1]
    assert re.fullmatch(r"[\d,.]+ an hour, (up to )?\d+\w( to \d+\w)? to go", lines[3])
    assert all(len(line) <= 80 for line in lines[1:])


def test_status_by_columns_is_a_matrix(executed: Path) -> None:
    assert call("status", "--by", "seed,dataset").stdout.endswith("""
done/planned (errors) by seed, dataset
seed    iris    wine
------  ------  -------
0       1/1     1/1
1       1/1     0/1 (1)
2       1/1     0/1
""")
    assert call("status", "--by", "dataset").stdout.endswith("""
dataset    done
---------  -------
iris       3/3
wine       1/3 (1)
""")
    first = data("status", "--by", "dataset,seed")["by"][0]
    assert (first["values"], first["counts"]["done"]) == ({"dataset": "iris", "seed": 0}, 1)
    assert "nix" in call("status", "--by", "nix", code=1).stderr


def test_a_matrix_that_does_not_fit_has_a_line_for_each_group(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = dict.fromkeys(("created", "running", "error", "paused"), 0)
    groups = [
        ExperimentGroup({"model": model, "dataset": f"a data set {number}"}, {**counts, "done": number})
        for model in ("tree", "svm")
        for number in range(9)
    ]
    print_matrix(["model", "dataset"], groups)
    assert len(capsys.readouterr().out.splitlines()) == 6
    monkeypatch.setattr(printing, "_columns", lambda: 80)
    print_matrix(["model", "dataset"], groups, most=5)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 10
    assert shown[4].split() == ["tree", "a", "data", "set", "0", "0/0"]
    assert shown[-1] == "... 13 more lines"
    assert all(len(line) <= 80 for line in shown)


def test_list(executed: Path) -> None:
    header, _, *rows = call("list").stdout.splitlines()
    assert header.split() == ["ID", "dataset", "seed", "status", "accuracy", "model", "error"]
    assert len(rows) == 6
    assert rows[0].split() == ["1", "iris", "0", "done", "0.5", "a", "b"]  # two lines become one
    assert rows[4].endswith("ValueError: no wine with seed 1")
    assert [row["ID"] for row in data("list", "-s", "error", "-s", "created")] == [5, 6]
    assert [row["ID"] for row in data("list", "-s", "done", "-w", "seed = 0 OR seed = 1 -- both")] == [1, 2, 4]
    assert data("list", "--columns", "seed, accuracy", "-n", "1") == [{"seed": 0, "accuracy": 0.5}]
    shown, _, first = call("list", "--columns", "seed,accuracy", "-n", "1").stdout.splitlines()
    assert (shown.split(), first.split()) == (["seed", "accuracy"], ["0", "0.5"])
    assert data("list", "-s", "created")[0]["accuracy"] is None
    empty = call("list", "-w", "1 = 2")
    assert (empty.stdout, empty.stderr) == ("", "No matching experiments\n")


def test_show(executed: Path) -> None:
    shown = call("show", "5").stdout
    assert re.search(r"^Experiment 5  error$", shown, re.M)
    for words in ("dataset wine", "seed 1", "accuracy", "1 error .* ValueError: no wine with seed 1"):
        assert re.search(rf"^ *{words.replace(' ', ' +')}", shown, re.M), words
    assert "Traceback (most recent call last)" in shown
    assert shown.rstrip().endswith("Last output\ntraining wine")
    unstarted = call("show", "6").stdout.splitlines()
    assert unstarted[0] == "Experiment 6  created"
    assert not {"Attempts", "Error", "Last output"} & set(unstarted)
    details = data("show", "1")
    assert (details["row"]["seed"], details["row"]["model"]) == (0, "a\nb")
    assert [attempt["outcome"] for attempt in details["attempts"]] == ["done"]


def test_errors(executed: Path) -> None:
    call("run")
    first, *variants, ids, shared = call("errors").stdout.splitlines()
    assert re.fullmatch(r"2  ValueError: no wine with seed …", first)
    assert variants == ["   1 ValueError: no wine with seed 1", "   1 ValueError: no wine with seed 2"]
    assert ids.strip() == "ID 5, 6"
    assert shared.strip() == "all have dataset = wine"
    assert "   | ValueError: no wine with seed 1" in call("errors", "-v").stdout
    call("reset", "error", "-y")
    assert call("errors").stderr == "No experiments are in error\n"
    call("run", "-n", "1")
    assert len(call("errors").stdout.splitlines()) == 2  # what a single one has is not shared


def test_a_process_that_was_killed_is_explained_once(executed: Path) -> None:
    output = """epoch 1
Thread 0x1 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 9 in wait

Current thread 0x2 (most recent call first):
  File "/usr/lib/python3.11/json/encoder.py", line 8 in encode
  File "/me/functions.py", line 7 in train
  File "/usr/lib/python3.11/site-packages/pyexperimenter/execution/worker.py", line 6 in run
  File "<string>", line 1 in <module>
"""
    error = f"exceeded time_limit 2s and was killed\nLast output:\n{output}"
    target = Target("sqlite", "sqlite", "study.db")
    target.query("UPDATE study SET error = ? WHERE ID = 5", error)
    target.query("UPDATE study__attempts SET error = ?, output = ? WHERE experiment_id = 5", error, output)
    cause = "exceeded time_limit 2s in train (functions.py:7)"
    assert call("list", "-s", "error").stdout.splitlines()[-1].endswith(f"  {cause}")
    explained = """\
exceeded time_limit 2s and was killed
Stack (most recent call first):
  ... 1 frame of libraries ...
  File "/me/functions.py", line 7 in train

Last output
epoch 1
"""
    shown = call("show", "5").stdout
    assert shown.endswith(f"\nError\n{explained}")
    assert shown.count(cause) == 1
    assert "   | epoch 1\n" in call("errors", "-v").stdout


def test_logs(executed: Path) -> None:
    title, header, _, *rows, _ = call("logs", "1").stdout.splitlines()
    assert title == "epochs (2 rows)"
    assert header.split() == ["timestamp", "epoch", "loss", "attempt_id"]
    assert len(rows) == 2
    call("reset", "--id", "1", "-y")
    assert data("logs", "1", "epochs") == {"epochs": []}
    assert call("logs", "1").stdout == "epochs (0 rows)\n\n"
    assert len(data("logs", "1", "--all-attempts")["epochs"]) == 2


# Changing


def test_reset_asks_with_the_count(executed: Path) -> None:
    asked = call("reset", "done", given="n\n", code=1)
    assert "Reset 4 experiments? [y/N]" in asked.stderr
    assert data("status")["counts"]["done"] == 4
    assert call("reset", "done", "-w", "seed > 0", given="y\n").stdout.endswith("Reset 2 experiments\n")
    assert call("reset", "--id", "4", "--id", "5", "--id", "99", "--yes").stdout == "Reset 2 experiments\n"
    assert data("status")["counts"] == {"created": 5, "running": 0, "done": 1, "error": 0, "paused": 0}
    assert call("reset", "error").stderr == "No matching experiments\n"
    assert "Name a state" in call("reset", code=2).stderr


def test_list_and_reset_by_the_last_execution(executed: Path) -> None:
    experimenter = PyExperimenter(log_level="ERROR")
    experimenter.execute_custom_query("UPDATE study__attempts SET git_commit = 'abc1', job_id = '12_' || experiment_id")
    experimenter.execute_custom_query("UPDATE study__attempts SET git_commit = 'abe1' WHERE experiment_id > 3")
    assert [row["ID"] for row in data("list", "--outcome", "error")] == [5]
    assert [row["ID"] for row in data("list", "--commit", "ab", "--job", "12", "-w", "seed > 0")] == [2, 3, 5]
    assert call("reset", "--commit", "abe", "-y").stdout == "Reset 2 experiments\n"
    assert call("reset", "--job", "12_3", "-y").stdout == "Reset 1 experiment\n"
    assert call("reset", "done", "--outcome", "error", "-y").stderr == "No matching experiments\n"
    assert data("status")["counts"] == {"created": 4, "running": 0, "done": 2, "error": 0, "paused": 0}
    assert "'nix' is not the beginning of a commit's hash" in call("reset", "--commit", "nix", "-y", code=1).stderr
    assert "'nix' is not one of 'done', 'error'" in call("list", "--outcome", "nix", code=2).stderr


def test_rows_outside_the_grid_are_shown_left_out_and_pruned(executed: Path, caplog: pytest.LogCaptureFixture) -> None:
    keyfields = {
        "dataset": {"type": "VARCHAR(50)", "values": ["iris", "wine", "houses"]},
        "seed": {"type": "INT", "values": [0, 1]},
    }
    write_config(executed, Target("sqlite", "sqlite", "study"), keyfields=keyfields)
    others = "2 experiments in the table are not in the grid of the configuration (created 1, done 1)"
    assert call("fill").stdout == "Added 2 experiments, 4 already existed\n"
    assert caplog.messages == [f"{others}: pyexperimenter prune removes open ones, and --only-grid leaves them out"]
    assert call("status").stdout.splitlines()[3] == f"{others}; to remove open ones: pyexperimenter prune"
    assert data("status")["outside_grid"] == {"created": 1, "done": 1}
    assert [row["ID"] for row in data("list", "--only-grid")] == [1, 2, 4, 5, 11, 12]
    exported = json.loads(call("export", "-", "--format", "json", "--only-grid", "-w", "ID < 4").stdout)
    assert [row["ID"] for row in exported] == [1, 2]
    table = ["table", "accuracy", "--rows", "dataset", "--failures", "drop", "--only-grid", "-w", "dataset = 'iris'"]
    assert data(*table)[0]["mean"] == pytest.approx(0.55)
    assert call("run", "--only-grid").stdout.startswith("Executed 2 experiments\n")
    asked = call("prune", given="n\n", code=1).stderr
    assert f"{others}\nRemove 1 experiment? [y/N]" in asked
    assert call("prune", "done", "-y").stdout == "Removed 1 experiment\n"
    assert call("prune", given="y\n").stdout.endswith("Removed 1 experiment\n")
    assert call("prune").stderr == "No matching experiments\n"
    assert [row["ID"] for row in data("list")] == [1, 2, 4, 5, 11, 12]
    assert "not in the grid" not in call("status").stdout


def test_remove_asks_with_the_count(executed: Path) -> None:
    assert "Remove 2 experiments? [y/N]" in call("remove", "-w", "seed = 0", given="n\n", code=1).stderr
    assert call("remove", "--id", "1", "--id", "99", "-y").stdout == "Removed 1 experiment\n"
    assert call("remove", "error", "-y").stdout == "Removed 1 experiment\n"
    assert call("remove", "error", "-y").stderr == "No matching experiments\n"
    assert "Name them" in call("remove", code=2).stderr
    assert [row["ID"] for row in data("list")] == [2, 3, 4, 6]


def test_release(executed: Path) -> None:
    experimenter = PyExperimenter(log_level="ERROR")
    experimenter.execute_custom_query("UPDATE study SET status = 'running' WHERE ID > 4")
    assert "Release 2 experiments?" in call("release", given="n\n", code=1).stderr
    assert call("release", "--id", "6", "-w", "seed = 2", "-y").stdout == "Released 1 experiment\n"
    assert experimenter.counts()["running"] == 1


def test_debug(executed: Path) -> None:
    shown = call("debug", "1")
    assert shown.stdout.splitlines()[0] == "training iris"
    assert "epochs: epoch = 1, loss = 0.5" in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith("returned {'accuracy': 0.5")
    failed = call("debug", "5", "functions.py:train", code=1).stderr
    assert failed.splitlines()[1].endswith('functions.py", line 8, in train')  # where the researcher's own code begins
    assert failed.endswith("ValueError: no wine with seed 1\n")
    asked = subprocess.run(
        [*PROGRAM, "debug", "5", "--pdb"],
        input="p keyfields['seed'] + 1000\nq\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1001" in asked.stdout  # the debugger is where the error was raised
    assert data("status")["counts"]["error"] == 1


def test_migrate_and_sync(executed: Path) -> None:
    more = {"dataset": "VARCHAR(50)", "seed": "INT", "depth": "INT"}
    write_config(
        executed,
        Target("sqlite", "sqlite", "study"),
        keyfields=more | {"note": "VARCHAR(9)", "version": "VARCHAR(9)"},
        resultfields={"accuracy": "DOUBLE", "model": "LONGTEXT", "time": "DOUBLE"},
    )
    defaults = ["--default", "depth=3", "--default", "note=[x", "--default", "version=3.10"]  # the second is not YAML
    would = call("migrate", "--dry-run", *defaults).stdout
    assert would.startswith("would ") and "depth" in would and "time" in would
    assert call("status", "--debug", "--table", "study").exit_code == 0
    done = call("migrate", *defaults).stdout
    assert done == would.replace("would ", "")
    assert {(row["depth"], row["note"], row["version"]) for row in data("list")} == {(3, "[x", "3.10")}
    assert call("migrate").stderr.startswith("Nothing to do")
    assert "is not an assignment" in call("migrate", "--default", "depth", code=2).stderr
    assert call("sync").stdout == "Updated 0 executions\n"


def test_delete_asks_for_the_name(executed: Path) -> None:
    refused = call("delete", given="yes\n", code=1)
    assert "This deletes 6 experiments with all" in refused.stderr and "nothing was deleted" in refused.stderr
    assert call("delete", given="study\n").stdout.endswith("Deleted study\n")
    assert "no such table: study; fill the table first" in call("run", code=1).stderr


# Exporting


def test_export(executed: Path) -> None:
    call("export", "all.csv")
    with open("all.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["ID"] for row in rows] == list("123456")
    assert (rows[0]["accuracy"], rows[0]["model"], rows[5]["accuracy"]) == ("0.5", "a\nb", "")
    call("export", "logs.json", "--what", "epochs", "--joined", "-w", "seed = 1")
    logs = json.loads(Path("logs.json").read_text())
    assert [(row["experiment_id"], row["dataset"], row["epoch"]) for row in logs] == [
        (2, "iris", 0), (2, "iris", 1), (5, "wine", 0), (5, "wine", 1)
    ]  # fmt: skip
    call("export", "attempts.parquet", "--what", "attempts")
    assert list(pd.read_parquet("attempts.parquet")["outcome"]) == ["done"] * 4 + ["error"]
    call("export", "all.xlsx", "-w", "status = 'done'")
    assert list(pd.read_excel("all.xlsx")["seed"]) == [0, 1, 2, 0]
    printed = call("export", "-", "--format", "json")
    assert len(json.loads(printed.stdout)) == 6
    assert printed.stderr == "Wrote 6 rows\n"


def test_table(executed: Path) -> None:
    refused = call("table", "accuracy", "--rows", "dataset", code=1).stderr
    assert "accuracy: of 6 runs, 1 failed: dataset=wine (1 of 3). Say what they count as" in refused
    drop = ["--failures", "drop", "--pairing", "all"]
    options = ["--format", "latex", "--best", "max", "--digits", "2", "--label", "t"]
    latex = call("table", "accuracy", "--rows", "dataset", *options, *drop).stdout
    assert r"$\mathbf{0.60 \pm 0.10}$" in latex and r"\label{t}" in latex
    both = call("table", "accuracy", "ID", "--rows", "dataset", "--best", "accuracy=max", "--best", "ID=min", *drop)
    assert re.search(r"^iris +\*0\.600 ± 0\.100 +\*2\.000 ± 1\.000$", both.stdout, re.M), both.stdout
    wide = ["--environment", "table*", "--scale", "accuracy=100", "--digits", "0"]
    latex = call("table", "accuracy", "--rows", "dataset", *options, *drop, *wide).stdout
    assert r"\begin{table*}" in latex and r"$\mathbf{60 \pm 10}$" in latex
    aligned = call("table", "accuracy", "--rows", "dataset", *options, "--siunitx", *drop).stdout
    assert r"\bfseries 0.60 \pm 0.10" in aligned and "siunitx" in aligned.split("\n")[0]
    by_seed = ["--columns", "seed", "-w", "status = 'done'"]
    result = call("table", "accuracy", "--rows", "dataset", *by_seed, "-o", "t.md", "--format", "markdown")
    assert result.stdout == ""
    assert Path("t.md").read_text().startswith("| dataset")
    incomplete = call("table", "accuracy", "--rows", "dataset", *drop)
    assert re.search(r"^wine +0\.500 ± – †1/3$", incomplete.stdout, re.M)
    assert "Warning: " in incomplete.stderr
    (iris, wine) = data("table", "accuracy", "--rows", "dataset", "--stat", "median", *drop)
    assert (iris["median"], iris["n"], wine["missing"]) == (0.6, 3, 2)
    (iris, wine) = data("table", "accuracy", "--rows", "dataset", "--failures", "accuracy=0")
    assert (iris["n"], wine["n"], wine["mean"], wine["failed"], wine["open"]) == (2, 2, 0.25, 1, 1)
    (both,) = data(
        "table", "accuracy", "--rows", "model", "--over", "dataset,seed", "--unit", "seed", *drop, "-w", "ID < 5"
    )
    assert (both["n"], both["n_units"]) == (4, 4)
    share = ["--stat", "ci95", "--test-share", "0.1", "-w", "dataset = 'iris'"]
    (iris,) = data("table", "accuracy", "--rows", "dataset", *share)
    assert iris["ci95"] == pytest.approx(4.302653 * 0.1 * (1 / 3 + 1 / 9) ** 0.5)
    for option in (["--caption", "x"], ["--siunitx"]):
        assert "--format latex" in call("table", "accuracy", "--rows", "dataset", *option, *drop, code=2).stderr


def test_a_table_of_the_best_settings(directory: Path) -> None:
    keyfields = {"dataset": "VARCHAR(20)", "C": "INT", "seed": "INT"}
    write_config(
        directory, Target("sqlite", "sqlite", "study"), keyfields=keyfields, resultfields={"cv": "INT", "y": "INT"}
    )
    study_ = PyExperimenter(log_level="ERROR")
    study_.fill_table_with_rows({"dataset": d, "C": c, "seed": s} for d in "ab" for c in (1, 2) for s in (0, 1))
    study_.execute(
        lambda fields, *_: {"cv": fields["C"] * (-1) ** fields["seed"], "y": 10 * fields["C"] * (fields["seed"] + 1)}
    )
    for better, expected in (("max", [20, 20]), ("min", [25, 25])):
        options = ["--select-on", "cv", "--select-by", "dataset,seed", "--select-better", better]
        summary = data("table", "y", "--rows", "dataset", *options)
        assert [row["mean"] for row in summary] == expected
        by_hand = study_.summarize("y", "dataset", select={"by": ["dataset", "seed"], "on": "cv", "better": better})
        assert by_hand["mean"].tolist() == expected
    shown = call("table", "y", "--rows", "dataset", *options).stdout
    assert "For each dataset, seed, the setting (C) with the lowest cv, of 2" in shown
    choice = {"by": ["dataset", "seed"], "on": "cv"}
    compared = study_.compare("y", "dataset", "seed", over=None, select=choice, unit="seed")
    assert compared.notes[0] == "For each dataset, seed, the setting (C) with the highest cv, of 2"
    assert "need each other" in call("table", "y", "--rows", "dataset", "--select-on", "cv", code=2).stderr


def test_validate_checks_the_function(directory: Path) -> None:
    write_config(directory, Target("sqlite", "sqlite", "study"), Execution={"function": "functions.py:train"})
    assert "is valid" in call("validate").stdout
    for name, message in {
        "functions.py:nothing": "is of type int, not a function",
        "functions.py:nix": "nix",
        "nix.py:train": "nix.py",
        "functions.py:pathlib.Path.cwd": "cannot be called with keyfields",
    }.items():
        write_config(directory, Target("sqlite", "sqlite", "study"), Execution={"function": name})
        assert message in call("validate", code=1).stderr
    assert not Path("study.db").exists()


@pytest.fixture
def analyzed(directory: Path) -> Path:
    """A study of three methods on six data sets with two seeds and two settings; b is the best of methods."""
    keyfields = {"method": "VARCHAR(9)", "dataset": "INT", "C": "INT", "seed": "INT"}
    write_config(
        directory,
        Target("sqlite", "sqlite", "study"),
        keyfields=keyfields,
        resultfields={"cv": "DOUBLE", "y": "DOUBLE"},
    )
    rows = itertools.product("abc", range(6), (1, 2), range(2))
    study_ = PyExperimenter(log_level="ERROR")
    study_.fill_table_with_rows(dict(zip(keyfields, row, strict=True)) for row in rows)

    def run(fields: dict[str, Any], results: Any, custom: Any) -> dict[str, float]:
        results.process_logs({"epochs": [{"epoch": epoch, "loss": 1 / (1 + epoch)} for epoch in range(3)]})
        score = {"a": 0, "b": 10, "c": 5}[fields["method"]] + fields["dataset"] * fields["C"]
        return {"cv": -fields["C"], "y": score}

    study_.execute(run)
    return directory


SELECTED = ["--select-on", "cv", "--select-by", "method,dataset,seed"]


def test_compare(analyzed: Path) -> None:
    arguments = ["compare", "y", "--by", "method", "--blocks", "dataset", *SELECTED]
    found = data(*arguments)
    assert (found["test"], list(found["average_ranks"])) == ("Friedman", ["b", "c", "a"])
    by_hand = PyExperimenter(log_level="ERROR").select(["method", "dataset", "seed"], "cv", "y")
    assert found["p_value"] == pytest.approx(compare(by_hand, "y", "method", "dataset").p_value)
    assert [pair["p_holm"] for pair in found["pairwise"]] == pytest.approx([3 / 32] * 3)
    assert "the setting (C) with the highest cv" in found["notes"][0]
    assert call(*arguments).stdout.startswith("y of 3 levels of method over 6 blocks (dataset), means over seed; ")
    assert "Friedman" in call(*arguments, "--describe").stdout
    assert data(*arguments, "--better", "min", "--test", "nemenyi")["pairwise_test"] == "Nemenyi"
    assert (
        "keyfield 'C' has several values"
        in call("compare", "y", "--by", "method", "--blocks", "dataset", code=1).stderr
    )


def test_anytime(analyzed: Path) -> None:
    curves = ["epochs", "loss", "--budget", "epoch", "--by", "method", "--better", "min", "--over", "dataset,C,seed"]
    found = data("anytime", *curves, "--targets", "0.5,0.1", "--at", "1", "--auc")
    assert [line["mean"] for line in found["at"]] == [0.5] * 3
    assert [(line["ert"], line["successes"]) for line in found["targets"][:2]] == [(None, 0), (1, 24)]
    assert found["auc"][0]["auc"] == pytest.approx(0.75)
    assert "method  target  n  successes  ert" in call("anytime", *curves, "--targets", "0.5,0.1").stdout
    assert "give budgets (--at), targets (--targets) or --auc" in call("anytime", *curves, code=2).stderr
    assert "'1,x' are not numbers" in call("anytime", *curves, "--at", "1,x", code=2).stderr


def test_primary(analyzed: Path) -> None:
    assert "declares no primary test" in call("primary", code=1).stderr
    config = Path("config/experiment_configuration.yml")
    declared = yaml.safe_load(config.read_text(encoding="utf-8"))
    primary = {"value": "y", "by": "method", "blocks": "dataset", "over": ["C", "seed"]}
    declared["PY_EXPERIMENTER"]["Analysis"] = {"primary": primary}
    config.write_text(yaml.safe_dump(declared), encoding="utf-8")
    (found,) = data("primary")
    assert (found["value"], found["test"]) == ("y", "Friedman")
    assert found["notes"][0].startswith("Primary test, which is fixed by the first run")
    assert "Primary test, which" in call("primary", "--describe").stdout
    same = ["compare", "y", "--by", "method", "--blocks", "dataset", "--over", "C,seed"]
    assert found["notes"] == data(*same)["notes"]
    assert "Exploratory: " in call(*same, "--better", "min").stdout


@pytest.mark.filterwarnings("ignore:a task has only 2 runs")
def test_aggregate(analyzed: Path) -> None:
    arguments = ["aggregate", "y", "--by", "method", "--tasks", "dataset", *SELECTED]
    found = data(*arguments)
    assert [line["method"] for line in found["interquartile_means"]] == ["a", "b", "c"]
    assert found["improvement_probabilities"][0]["probability"] == 0
    assert data(*arguments, "--better", "min")["improvement_probabilities"][0]["probability"] == 1
    assert call(*arguments).stdout.splitlines()[0].split() == ["method", "iqm", "low", "high", "n"]


def test_pareto(analyzed: Path) -> None:
    arguments = ["pareto", "y=max", "cv=max", "--by", "method,C", "--over", "dataset,seed"]
    assert [(line["method"], line["C"]) for line in data(*arguments)] == [("b", 2), ("b", 1)]
    assert sum(line["front"] for line in data(*arguments, "--all")) == 2
    assert call(*arguments).stdout.splitlines()[0].split() == ["method", "C", "y", "cv", "n"]
    assert "'' is unknown for y" in call("pareto", "y", "cv=max", "--by", "method", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        (["result", "y", "--x", "dataset", "--hue", "method", "--stat", "ci95", *SELECTED], {"dataset", "y"}),
        (["heatmap", "y", "--x", "dataset", "--y", "method", *SELECTED], {"dataset", "method"}),
        (
            ["curves", "epochs", "loss", "--index", "epoch", "--hue", "method", "--over", "dataset,C,seed"],
            {"epoch", "loss"},
        ),
        (
            ["anytime", "epochs", "loss", "--budget", "epoch", "--by", "method", "--over", "dataset,C,seed"],
            {"epoch", "best loss so far"},
        ),
        (
            ["pareto", "y=max", "cv=max", "--by", "method,C", "--over", "dataset,seed", "--hue", "method"],
            {"y", "cv"},
        ),
        (["profiles", "y", "--by", "method", "--tasks", "dataset", *SELECTED], {"y", "share of runs above"}),
        (["progress", "-w", "seed = 0"], {"time (UTC)", "experiments finished"}),
        (["ranks", "y", "--by", "method", "--blocks", "dataset", *SELECTED], {"b (1.00)", "c (2.00)", "a (3.00)"}),
    ],
    ids=lambda argument: argument[0] if isinstance(argument, list) else "",
)
def test_plot(analyzed: Path, arguments: list[str], labels: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "none")  # texts, instead of their outlines
    call("plot", *arguments, "-o", "figure.svg", "--size", "5", "3")
    figure = ElementTree.parse("figure.svg").getroot()
    assert (figure.get("width"), figure.get("height")) == ("360pt", "216pt")
    shown = {text.strip() for text in figure.itertext()}
    assert labels <= shown, shown
    call("plot", *arguments, "-o", "figure.png")
    assert Path("figure.png").read_bytes().startswith(b"\x89PNG")
    assert (
        "figure.jpg does not end with .pdf, .png or .svg" in call("plot", *arguments, "-o", "figure.jpg", code=2).stderr
    )
    assert call("-c", "nix.yml", "plot", *arguments, "-o", "figure.pdf", code=1).stderr.startswith("Error: ")


# Mistakes


WRONG = [
    (["show", "99"], 1, r"has no experiment with ID 99"),
    (["logs", "99"], 1, r"has no experiment with ID 99"),
    (["debug", "99"], 1, r"has no experiment with ID 99"),
    (["logs", "1", "nix"], 1, r"'nix' is not a logtable; configured are epochs"),
    (["list", "-w", "nix = 1"], 1, r"no such column: nix; check the names of columns"),
    (["list", "-w", "seed ="], 1, r"syntax error"),
    (["list", "--columns", "nix"], 1, r"the table has no column 'nix'; it has ID, dataset, seed, "),
    (["list", "--order-by", "nix"], 1, r"the table has no column 'nix'"),
    (["reset", "done", "-w", "nix = 1"], 1, r"no such column: nix"),
    (["run", "-w", "nix = 1"], 1, r"no such column: nix"),
    (["run", "--order-by", "nix"], 1, r"the table has no column 'nix'"),
    (["table", "nix", "--rows", "dataset"], 1, r"the table has no column 'nix'; choose from "),
    (["table", "accuracy", "--rows", "nix"], 1, r"the table has no column 'nix'"),
    (["table", "accuracy", "--rows", "dataset", "--stat", "mode"], 1, r"'mode'"),
    (["export", "a.txt"], 1, r"'txt' is not a format for this file; choose from csv, json, parquet, xlsx"),
    (["export", "no/such/a.csv"], 1, r"the directory .*/no/such does not exist; create it first"),
    (["export", "a.csv", "--what", "nix"], 1, r"'nix' is not a logtable"),
    (["export", "-", "--format", "xlsx"], 1, r"'xlsx' is not a format for this file"),
    (["status", "-c", "nix.yml"], 1, r"nix.yml: there is no such configuration file; .*pyexperimenter init"),
    (["-c", "nix.yml", "status"], 1, r"nix.yml: there is no such configuration file"),
    (["status", "nix.db"], 1, r"there is no database file /.*/nix.db; fill the table first, or check the path"),
    (["run", "nix:train"], 1, r"no module named 'nix' in /"),
    (["run", "nix.py:train"], 1, r"the file /.*/nix.py does not exist"),
    (["run", "functions:trian"], 1, r"functions.py has no 'trian'; did you mean 'train'\?"),
    (["run", "functions:nothing"], 1, r"nothing in .*/functions.py is of type int, not a function"),
    (["run", "functions:"], 1, r"'functions:' does not name a function; write module:function or file.py:function"),
    (["run", "functions.train"], 1, r"'functions.train' does not name a function; write functions:train$"),
    (["run", "functions.py"], 1, r"'functions.py' does not name a function; write functions.py:function$"),
    (["run", "functions.py::train"], 1, r"write functions.py:train$"),
    (["run", "config/experiment_configuration.yml", "functions.py.train"], 1, r"write functions.py:train$"),
    (["run", "config/experiment_configuration.yml", "src/functions.train"], 1, r"write src/functions.py:train$"),
    (["debug", "1", "src/functions:train"], 1, r"src/functions is not a module; write src/functions.py:train$"),
    (["nix"], 2, r"No such command 'nix'"),
    (["execute"], 2, r"No such command .execute.\. Use: pyexperimenter run"),
    (["show", "one"], 2, r"'one' is not a valid integer"),
    (["reset", "failed"], 2, r"'failed' is not one of "),
    (["list", "--columns", ","], 2, r"name at least one column"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "message"), WRONG, ids=[" ".join(arguments) for arguments, *_ in WRONG])
def test_an_error_is_one_line_with_its_remedy(executed: Path, arguments: list[str], code: int, message: str) -> None:
    result = call(*arguments, code=code)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1 if code == 1 else result.stderr.startswith("Usage: ")
    assert re.search(rf"^Error: .*{message}", result.stderr, re.M), result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["list"], ["run"], ["errors"], ["table", "accuracy", "--rows", "seed"], ["export", "a.csv"]],
)
def test_an_empty_table_is_an_error_that_says_fill(directory: Path, arguments: list[str]) -> None:
    PyExperimenter(log_level="ERROR").create_table()
    assert call(*arguments, code=1).stderr == (
        "Error: the table study has no experiments; insert them with: pyexperimenter fill\n"
    )


def test_debug_option_shows_the_traceback(executed: Path) -> None:
    for arguments in (["--debug", "show", "99"], ["show", "99", "--debug"]):
        result = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 1
        assert result.stderr.startswith("Traceback (most recent call last)")


def test_a_function_must_be_named(directory: Path) -> None:
    path = directory / "config" / "experiment_configuration.yml"
    config = yaml.safe_load(path.read_text())
    del config["PY_EXPERIMENTER"]["Execution"]["function"]
    path.write_text(yaml.safe_dump(config))
    call("fill")
    assert "which function?" in call("run", code=2).stderr


EVIL = "a\x1b]0;title\x07\x9b31mb\u202ec"


def test_texts_of_the_database_give_no_commands_to_the_terminal(executed: Path) -> None:
    """But colors remain."""
    with closing(sqlite3.connect("study.db")) as database, database:
        database.execute("UPDATE study SET model = :text, error = :text, status = 'error'", {"text": EVIL})
    for command in (["list"], ["show", "1"], ["errors", "-v"], ["list", "--json"]):
        printed = call(*command).stdout
        assert "a" in printed
        assert not set(EVIL) & set(printed) - set("abc]0;title31m"), command
    assert json.loads(call("list", "--json").stdout)[0]["model"] == EVIL
    assert printable("\x1b[31mred\x1b[0m\ttab\r\n") == "\x1b[31mred\x1b[0m\ttab\r\n"


def test_an_interrupt_says_so(executed: Path) -> None:
    (executed / "interrupted.py").write_text("def interrupt(*_):\n    raise KeyboardInterrupt\n")
    assert call("debug", "6", "interrupted:interrupt", code=130).stderr.endswith("Interrupted\n")


def test_an_option_of_sbatch_may_be_no_yaml(directory: Path) -> None:
    for comment in ("[draft", "run # 2", "#2"):
        assert f"#SBATCH --comment='{comment}'\n" in call("submit", "--dry-run", "-o", f"comment={comment}").stdout


def test_options_of_sbatch_are_passed_as_they_are_written(directory: Path) -> None:
    options = ["account=0123", "begin=12:30", "comment=3.10", "nodes=1", "requeue=true"]
    path = directory / "config" / "experiment_configuration.yml"
    profile = "".join(f"      {option.replace('=', ': ')}\n" for option in options)
    path.write_text(f"{path.read_text()}\n  Cluster:\n    default:\n      time: 4:00:00\n{profile}")
    script = call("submit", "--dry-run").stdout
    lines = ["account=0123", "begin=12:30", "comment=3.10", "nodes=1", "requeue", "time=240"]
    assert [line for line in lines if f"#SBATCH --{line}\n" in script] == lines
    given = [argument for option in [*options, "time=4:00:00"] for argument in ("-o", option)]
    path.write_text(path.read_text().replace(profile, ""))
    assert call("submit", "--dry-run", *given).stdout.partition("exec")[0] == script.partition("exec")[0]


# Modules that cannot be imported


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_package", r"No module named 'no_such_package' \(.*broken.py, line 1\)"),
        ("\nx = 1 / 0", r"ZeroDivisionError: division by zero \(.*broken.py, line 2\)"),
        ("def f(:", r"SyntaxError: .*line 1"),
        ("import sys; sys.exit(3)", r"SystemExit: 3 \(.*broken.py, line 1\)"),
    ],
)
def test_why_a_module_cannot_be_imported(executed: Path, code: str, message: str) -> None:
    (executed / "broken.py").write_text(code)
    result = subprocess.run([*PROGRAM, "run", "broken:f"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert re.match(rf"Error: broken cannot be imported: {message}", result.stderr), result.stderr


def test_a_part_of_a_package_is_refused_with_its_name(executed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("old/pack", "new/inner"):
        (executed / package).mkdir(parents=True)
        (executed / package / "helper.py").touch()
        (executed / package / "relative.py").write_text(
            "from .helper import __name__ as name\ndef f(*_): print(name)\n"
        )
    (executed / "old/pack/__init__.py").touch()
    error = call("debug", "1", "new/inner/relative.py:f", code=1).stderr
    assert error.endswith(f"relative.py, line 1); in the directory {executed}, write new.inner.relative:f\n")
    error = call("debug", "1", "old/pack/relative.py:f", code=1).stderr
    assert error.endswith(f"; in the directory {executed / 'old'}, write pack.relative:f\n")
    assert call("debug", "1", "new.inner.relative:f").stdout.startswith("new.inner.helper\n")


def test_a_file_with_dots_in_its_name_is_refused(executed: Path) -> None:
    (executed / "train.v2.py").write_text("def f(*_): ...")
    error = call("run", "train.v2.py:f", code=1).stderr
    assert error.endswith("a dot in the name of a module means a package; rename it to train_v2.py\n")


def test_a_file_whose_name_is_taken_is_refused(executed: Path) -> None:
    (executed / "json.py").write_text("def f(*_): ...")
    assert "has the same module name; rename it" in call("run", "json.py:f", code=1).stderr


# Terminals and pipes


def test_a_broken_pipe_is_silent(executed: Path) -> None:
    experimenter = PyExperimenter(log_level="ERROR")
    experimenter.fill_table_with_rows({"dataset": "iris", "seed": seed} for seed in range(100, 20_000))
    listing = subprocess.Popen([*PROGRAM, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert listing.stdout is not None and listing.stderr is not None
    with listing:
        assert listing.stdout.readline()
        listing.stdout.close()
        assert listing.stderr.read() == b""


def on_a_terminal(*arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    ours, theirs = os.openpty()
    process = subprocess.Popen([*PROGRAM, *arguments], stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    return process, ours


def read_to_end(terminal: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode()


def test_colors_are_for_terminals_only(executed: Path) -> None:
    process, terminal = on_a_terminal("status")
    assert "\033[" in read_to_end(terminal)
    assert process.wait() == 0
    assert b"\033" not in subprocess.run([*PROGRAM, "status"], capture_output=True, check=True).stdout


def test_on_a_terminal_a_long_list_is_cut_and_says_so(executed: Path) -> None:
    PyExperimenter(log_level="ERROR").fill_table_with_rows({"dataset": "iris", "seed": seed} for seed in range(9, 90))
    process, terminal = on_a_terminal("list")
    assert len(read_to_end(terminal).splitlines()) == 2 + 50
    process.wait()
    assert len(call("list").stdout.splitlines()) == 2 + 6 + 81


def test_a_table_that_lacks_a_new_resultfield_can_be_read(directory: Path) -> None:
    call("fill")
    write_config(directory, Target("sqlite", "sqlite", "study"), resultfields={"accuracy": "DOUBLE", "new": "INT"})
    for command in (["show", "1"], ["list"]):
        done = call(*command)
        assert "accuracy" in done.stdout
        assert "new" not in done.stdout


@pytest.mark.parametrize("command", [["show", "1"], ["list"]], ids=" ".join)
def test_a_table_that_is_not_of_a_study_is_named(directory: Path, command: list[str]) -> None:
    call("fill")
    done = call(*command, "--table", "study__attempts", code=1)
    assert "the table study__attempts is not that of a study: it has no column creation_date" in done.stderr


def test_watch_follows_a_study_until_it_is_finished(directory: Path) -> None:
    call("fill")
    running = subprocess.Popen(
        [*PROGRAM, "run", "functions:wait_for_go"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: data("status")["counts"]["running"] == 1)
        process, terminal = on_a_terminal("status", "--watch", "--every", "0.1")
        seen = ""

        def shows(text: str) -> bool:
            nonlocal seen
            if select.select([terminal], [], [], 0)[0]:
                seen += os.read(terminal, 65536).decode()
            return text in re.sub(r"\033\[[\d;]*m", "", seen)

        wait_until(lambda: shows("running 1"))
        wait_until(lambda: shows("heartbeat"))  # the table of workers
    finally:
        (directory / "go").touch()
    wait_until(lambda: shows("done 6"))
    assert process.wait(60) == 0  # without an option
    os.close(terminal)
    assert running.wait(60) == 0


# Help, completion, start


def test_every_command_and_option_has_help() -> None:
    for name, command in main.commands.items():
        text = call(name, "--help").stdout
        assert command.help and len(command.get_short_help_str(100)) < 62, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts}"
                assert parameter.opts[-1] in text


@pytest.mark.parametrize("width", [50, 80, 100])
def test_the_help_says_what_the_commands_say(width: int) -> None:
    """It does not import them."""
    context = click.Context(main)
    ours, theirs = click.HelpFormatter(width=width), click.HelpFormatter(width=width)
    main.format_commands(context, ours)
    click.Group.format_commands(main, context, theirs)
    assert ours.getvalue() == theirs.getvalue()


def test_every_command_of_a_module_is_listed() -> None:
    for module in {module for module, _ in COMMANDS.values()}:
        found = [command.name for command in importlib.import_module(f"pyexperimenter.cli.{module}").COMMANDS]
        assert sorted(found) == sorted(name for name, (place, _) in COMMANDS.items() if place == module)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    """What the script of a shell asks the program is answered."""
    program = Path(sys.executable).with_name("pyexperimenter")
    script = subprocess.run([program, "completion", shell], capture_output=True, text=True, check=True).stdout
    ((variable, mode),) = set(re.findall(r"(_\w+_COMPLETE)=(\w+)", script))
    for words, expected in (("pyexperimenter sta", "status"), ("pyexperimenter reset er", "error")):
        *_, last = words.split()
        number = str(len(words.split()) - 1)
        asked = {variable: mode, "COMP_WORDS": words, "COMP_CWORD": last if shell == "fish" else number}
        done = subprocess.run([program], env={**os.environ, **asked}, capture_output=True, text=True, check=True)
        assert re.split(r"[\n,\t]", done.stdout.strip())[:2] == ["plain", expected], done.stdout


def test_completion_in_bash() -> None:
    programs = os.path.dirname(sys.executable)
    complete = (
        'eval "$(pyexperimenter completion bash)"; COMP_WORDS=(pyexperimenter reset er) COMP_CWORD=2; '
        '$(complete -p pyexperimenter | grep -o "_[a-z_]*completion") pyexperimenter; echo "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", complete], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "error\n"


def test_help_imports_nothing_that_it_does_not_need() -> None:
    code = (
        "import sys\nfrom pyexperimenter.cli import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    print(*(name for name in sys.modules), file=sys.stderr)"
    )
    without_coverage = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=without_coverage
    )
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not loaded & {
        "pandas",
        "numpy",
        "joblib",
        "yaml",
        "pydantic",
        "pymysql",
        "sqlite3",
        "tabulate",
        "tqdm",
        "jinja2",
    }
    assert {name for name in done.stderr.split() if name.startswith("pyexperimenter.")} == {
        *("pyexperimenter.cli", "pyexperimenter.cli.app", "pyexperimenter.cli.commands", "pyexperimenter.cli.printing"),
        *("pyexperimenter.cli.wording", "pyexperimenter.durations", "pyexperimenter.exceptions"),
        *("pyexperimenter.jsonable", "pyexperimenter.paths"),
    }


def test_the_program_is_installed() -> None:
    program = Path(sys.executable).with_name("pyexperimenter")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"pyexperimenter, version \d+\.\d+\.\d+\S*\n", version)
