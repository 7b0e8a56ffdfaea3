"""The examples, run as a newcomer runs them, each in its own directory and with every warning an error."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import scipy.stats
import yaml

from pyexperimenter.config import load_config
from pyexperimenter.grid import Grid
from tests.support.study import wait_until
from tests.support.target import Target

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CREDENTIALS = EXAMPLES / "mysql" / "database_credentials.example.yml"


class Example:
    """A copy of an example, with a configuration that takes seconds, and a separate working directory."""

    def __init__(self, name: str, folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
        self.folder = folder / name
        shutil.copytree(EXAMPLES / name, self.folder, ignore=shutil.ignore_patterns("*.db*", "__pycache__"))
        self.files = set(self.folder.iterdir())
        self.work = folder / "work"
        self.work.mkdir()
        config = self.folder / "config.yml"
        root = yaml.safe_load(config.read_text())
        change(root["PY_EXPERIMENTER"])
        config.write_text(yaml.safe_dump(root, sort_keys=False))

    def start(self, command: list[Any], **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.work,
            env={**os.environ, "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
            encoding="utf-8",
        )

    def run(self, *options: str, **environment: str) -> str:
        return self.output(self.start([sys.executable, self.folder / "run.py", *options], **environment))

    def output(self, process: subprocess.Popen[str]) -> str:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "Warning" not in errors
        assert set(self.folder.iterdir()) == self.files
        return output

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        (database,) = self.work.glob("*.db")
        connection = sqlite3.connect(database, isolation_level=None)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()


def grid_of(name: str) -> Grid:
    grid = load_config(EXAMPLES / name / "config.yml").table.grid
    assert grid is not None
    return grid


def keyfields(root: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = root["Database"]["table"]["keyfields"]
    return found


@pytest.mark.parametrize("folder", sorted(path for path in EXAMPLES.iterdir() if path.is_dir()), ids=lambda p: p.name)
def test_each_example_is_described(folder: Path) -> None:
    readme = (folder / "README.md").read_text()
    assert readme.startswith("# ") and 10 <= len(readme.splitlines()) <= 32
    assert f"]({folder.name})" in (EXAMPLES / "README.md").read_text()
    for path in re.findall(r"\]\(([^)]+)\)", readme):
        assert (folder / path).exists(), path


# svm_study

KERNELS = ["linear", "poly", "rbf", "sigmoid"]
DATASETS = ["breast_cancer", "digits", "iris", "wine"]
SMALL = 5 * 4 * 2  # linear, rbf, sigmoid, 2 poly; of each 4 data sets, 2 seeds


@pytest.fixture(scope="module")
def svm_study(tmp_path_factory: pytest.TempPathFactory) -> Example:
    def small(root: dict[str, Any]) -> None:
        keyfields(root)["C"]["values"] = [1]
        keyfields(root)["gamma"]["values"] = [0.1]
        keyfields(root)["seed"]["values"]["stop"] = 2

    return Example("svm_study", tmp_path_factory.mktemp("examples"), small)


@pytest.fixture(scope="module")
def output(svm_study: Example, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its output without matplotlib, which the extra `examples` does not install."""
    blocked = tmp_path_factory.mktemp("blocked")
    (blocked / "matplotlib.py").write_text("raise ModuleNotFoundError('blocked', name='matplotlib')\n")
    return svm_study.run(PYTHONPATH=str(blocked))


def test_gamma_and_degree_are_set_only_for_kernels_that_have_them() -> None:
    grid = grid_of("svm_study")
    # linear, 2 rbf, 2 sigmoid, 4 poly; of each 4 data sets, 3 C, 5 seeds
    assert len(grid) == 9 * 4 * 3 * 5 == len(list(grid))
    for row in grid:
        assert (row["gamma"] is None) == (row["kernel"] == "linear")
        assert (row["degree"] is None) == (row["kernel"] != "poly")


def test_every_experiment_is_done(output: str, svm_study: Example) -> None:
    counts = dict(re.findall(r"^(created|running|done|error|paused) +(\d+)$", output, re.M))
    assert counts == {"created": "0", "running": "0", "done": str(SMALL), "error": "0", "paused": "0"}
    assert svm_study.query("SELECT status, COUNT(*) FROM svm GROUP BY status") == [("done", SMALL)]


def test_two_workers_share_the_work_and_none_is_doubled(output: str, svm_study: Example) -> None:
    assert load_config(EXAMPLES / "svm_study" / "config.yml").n_jobs == 2
    attempts = svm_study.query("SELECT worker, COUNT(*) FROM svm__attempts GROUP BY worker")
    assert len(attempts) in (1, 2)  # on a busy machine, one may have finished before the other has started
    assert sum(count for _, count in attempts) == SMALL


def test_results_are_plausible_and_each_class_is_logged(output: str, svm_study: Example) -> None:
    for column in ("cv_accuracy", "accuracy", "f1"):
        assert svm_study.query(f"SELECT COUNT(*) FROM svm WHERE {column} BETWEEN 0.5 AND 1") == [(SMALL,)]
    assert svm_study.query("SELECT COUNT(*) FROM svm WHERE fit_seconds > 0") == [(SMALL,)]
    # 10 experiments on each data set, of 3, 3, 2 and 10 classes
    assert svm_study.query("SELECT COUNT(*) FROM svm__classes") == [(10 * (3 + 3 + 2 + 10),)]


def test_the_table_has_mean_and_interval_of_the_best_setting(output: str, svm_study: Example) -> None:
    assert re.search(rf"^\| dataset +\| +{' +[|] +'.join(KERNELS)} +\|$", output, re.M)
    for dataset in DATASETS:
        (line,) = re.findall(rf"^\| {dataset} .*±.*$", output, re.M)
        cells = re.findall(r"\d\.\d{3} ± \d\.\d{3}", line)
        assert cells == [expected_cell(svm_study, dataset, kernel) for kernel in KERNELS]
        best = max(cells)
        assert f"**{best}**" in line and line.count("**") >= 2


def expected_cell(svm_study: Example, dataset: str, kernel: str) -> str:
    accuracies = []
    for seed in (0, 1):
        sql = "SELECT accuracy FROM svm WHERE dataset = '{}' AND kernel = '{}' AND seed = {} ORDER BY {}"
        order = "ROUND(cv_accuracy, 9) DESC, degree"
        accuracies.append(svm_study.query(sql.format(dataset, kernel, seed, order))[0][0])
    # Student's interval with the corrected variance of two random splits
    half = scipy.stats.t.ppf(0.975, 1) * math.sqrt(1 / 2 + 0.3 / 0.7) * stdev(accuracies)
    return f"{mean(accuracies):.3f} ± {half:.3f}"


def test_the_latex_is_a_booktabs_table(output: str) -> None:
    latex = output[output.index(r"\begin{tabular}") : output.index(r"\end{tabular}")]
    header, *body = re.findall(r"^(.*) \\\\$", latex, re.M)
    assert header == " & ".join(["dataset", *KERNELS])
    assert [line.partition(" & ")[0] for line in body] == [name.replace("_", r"\_") for name in DATASETS]
    assert all(line.count(r"\pm") == len(KERNELS) and r"\mathbf{" in line for line in body)
    assert re.findall(r"\\\w+rule", latex) == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert not re.search(r"(?<!\\)[_%#]", latex)


def test_it_continues_what_is_open_or_else_starts_afresh(output: str, svm_study: Example) -> None:
    svm_study.query("UPDATE svm SET status = 'created' WHERE dataset = 'iris' AND seed = 0")
    svm_study.run("--continue")
    executed = "SELECT number, COUNT(*) FROM svm__attempts GROUP BY number ORDER BY number"
    assert svm_study.query(executed) == [(1, SMALL), (2, 5)]
    svm_study.run()
    assert svm_study.query(executed) == [(1, SMALL)]


def test_nothing_but_the_database_is_left(output: str, svm_study: Example) -> None:
    assert {path.name for path in svm_study.work.iterdir() if not path.name.startswith("svm_study.db")} == set()


# conditional_grid


def test_conditional_grid_gives_each_algorithm_its_hyperparameters() -> None:
    rows = list(grid_of("conditional_grid"))
    own = {
        "knn": {"weights", "n_neighbors"},
        "random_forest": {"max_features", "max_depth"},
        "logistic_regression": {"C"},
        "baseline": set(),
    }
    for row in rows:
        is_set = {name for name, value in row.items() if value is not None}
        assert is_set == {"dataset", "metric", "algorithm"} | own[row["algorithm"]]
    assert len(rows) == 3 * (7 + 6 + 5 + 1)
    assert {(row["dataset"], row["metric"]) for row in rows} == {
        ("wine", "balanced_accuracy"),
        ("breast_cancer", "roc_auc"),
        ("digits", "accuracy"),
    }
    assert not [row for row in rows if row["n_neighbors"] == 1 and row["weights"] == "distance"]


def test_conditional_grid_compares_the_best_settings(tmp_path: Path) -> None:
    def wine_only(root: dict[str, Any]) -> None:
        root["n_jobs"] = 1
        for name in ("dataset", "metric"):
            del keyfields(root)[name]["values"][1:]
        del root["Database"]["table"]["include"][1:]

    example = Example("conditional_grid", tmp_path, wine_only)
    output = example.run()
    best = dict(example.query("SELECT algorithm, MAX(score) FROM classifiers WHERE status = 'done' GROUP BY algorithm"))
    assert best["baseline"] == pytest.approx(1 / 3)
    assert min(best[name] for name in ("knn", "random_forest", "logistic_regression")) > 0.9
    for algorithm, score in best.items():
        bold = r"\*\*" if score == max(best.values()) else ""
        assert re.search(rf"^\| {algorithm} +\| +{bold}{score:.3f}{bold} \|$", output, re.M)
    ((neighbors, weights),) = example.query(
        "SELECT n_neighbors, weights FROM classifiers WHERE algorithm = 'knn' "
        "ORDER BY ROUND(score, 9) DESC, weights, n_neighbors LIMIT 1"
    )
    assert re.search(rf"^wine +{weights} +{neighbors}$", output, re.M)
    assert "with the highest score, of 1 (algorithm=baseline), 7 (algorithm=knn), 5" in output
    assert "score is what the settings were chosen by, and so it is optimistic" in output
    assert example.query("SELECT COUNT(*) FROM classifiers__attempts") == [(19,)]


# logtables


def test_logtables_has_a_row_for_each_epoch_and_confusion(tmp_path: Path) -> None:
    def short(root: dict[str, Any]) -> None:
        root["n_jobs"] = 1
        keyfields(root)["seed"]["values"]["stop"] = 1
        keyfields(root)["learning_rate"]["values"] = [0.01]
        root["Custom"]["epochs"] = 10

    example = Example("logtables", tmp_path, short)
    output = example.run()
    curves = example.query("SELECT experiment_id, epoch, test_accuracy, train_loss FROM training__epochs ORDER BY 1, 2")
    assert [(row[0], row[1]) for row in curves] == [(n, epoch) for n in (1, 2) for epoch in range(1, 11)]
    for number, solver in example.query("SELECT ID, solver FROM training"):
        accuracies = [row[2] for row in curves if row[0] == number]
        assert example.query(f"SELECT test_accuracy, best_epoch FROM training WHERE ID = {number}") == [
            (accuracies[-1], accuracies.index(max(accuracies)) + 1)
        ]
        # 540 test samples
        wrong = f"SELECT SUM(samples) FROM training__confusions WHERE experiment_id = {number}"
        assert example.query(wrong) == [(540 - round(540 * accuracies[-1]),)]
        assert solver in output and f"{accuracies[-1]:.3f}" in output
    assert (example.work / "curves.png").read_bytes().startswith(b"\x89PNG")


# pause_and_continue


def test_pause_and_continue_goes_on_where_it_paused(tmp_path: Path) -> None:
    def short(root: dict[str, Any]) -> None:
        root["n_jobs"] = 1
        keyfields(root)["alpha"]["values"] = [0.0001]
        keyfields(root)["hidden_units"]["values"] = [8, 128]
        root["Custom"] |= {"epochs": 8, "epochs_of_a_portion": 4}

    example = Example("pause_and_continue", tmp_path, short)
    output = example.run()
    assert re.findall(r"^ +(\d+) +0\.0001 paused +4 ", output, re.M) == ["8", "128"]
    output = example.run()
    assert re.findall(r"^ +(\d+) +0\.0001 +done +8 ", output, re.M) == ["8", "128"]

    portions = "SELECT first_epoch, last_epoch FROM networks__portions WHERE experiment_id = {} ORDER BY ID"
    assert [example.query(portions.format(number)) for number in (1, 2)] == [[(1, 4), (5, 8)]] * 2
    accuracies = "SELECT validation_accuracy, test_accuracy FROM networks ORDER BY ID"
    (small, tested), (large, best) = example.query(accuracies)
    assert small < large and tested is None and 0.5 < best < 1
    outcomes = "SELECT outcome, COUNT(*) FROM networks__attempts GROUP BY outcome ORDER BY outcome"
    assert example.query(outcomes) == [("attached", 1), ("done", 2), ("paused", 2)]
    assert {path.name for path in (example.work / "checkpoints").iterdir()} == {"1.joblib", "2.joblib"}


# adaptive


def test_adaptive_refines_around_the_best_and_can_be_repeated(tmp_path: Path) -> None:
    def few_folds(root: dict[str, Any]) -> None:
        root["Custom"]["folds"] = 2
        root["n_jobs"] = 1
        # Each of its ten rounds would start a process that loads scikit-learn.
        root.setdefault("Execution", {})["isolation"] = "none"

    example = Example("adaptive", tmp_path, few_folds)
    steps = r"^step (\S+): (\d+) experiments added, (\d+) existed$"
    rounds = re.findall(steps, example.run(), re.M)
    assert [step for step, _, _ in rounds] == ["4", "2", "1", "0.5"]
    added = [int(count) for _, count, _ in rounds]
    assert added[0] == 3 * 6 * 5 and all(0 < count <= 3 * 8 for count in added[1:])
    assert example.query("SELECT status, COUNT(*) FROM search GROUP BY status") == [("done", sum(added))]

    best = "SELECT MAX(accuracy) FROM search WHERE ID {} {} AND dataset = 'breast_cancer'"
    ((coarse,),), ((fine,),) = (example.query(best.format(sign, added[0])) for sign in ("<=", ">"))
    assert fine > 0.95 and fine >= coarse - 0.01

    assert [count for _, count, _ in re.findall(steps, example.run(), re.M)] == ["0"] * 4
    assert example.query("SELECT COUNT(*) FROM search__attempts") == [(sum(added),)]


# mysql


def of_server(target: Target) -> dict[str, str]:
    assert target.server is not None
    return {
        "PYEXPERIMENTER_DB_USER": target.server.user,
        "PYEXPERIMENTER_DB_PASSWORD": target.server.password,
        "PYEXPERIMENTER_DB_HOST": target.server.host,
        "PYEXPERIMENTER_DB_PORT": str(target.server.port),
    }


def test_mysql_is_shared_by_all_who_start_it(mariadb_target: Target, tmp_path: Path) -> None:
    def small(root: dict[str, Any]) -> None:
        root["Database"]["database"] = mariadb_target.database
        keyfields(root)["size"]["values"] = [8, 16]
        keyfields(root)["seed"]["values"]["stop"] = 10
        root["Execution"] = {"heartbeat": "2s", "lease": "60s"}  # who waits looks again at each heartbeat

    example = Example("mysql", tmp_path, small)
    command = [sys.executable, example.folder / "run.py"]
    processes = [example.start(command, **of_server(mariadb_target)) for _ in range(2)]
    outputs = [example.output(process) for process in processes]
    assert mariadb_target.query("SELECT status, COUNT(*) FROM lattices GROUP BY status") == [("done", 2 * 5 * 10)]
    assert mariadb_target.query("SELECT outcome, COUNT(*) FROM lattices__attempts GROUP BY outcome") == [("done", 100)]
    assert any("'done': 100" in output for output in outputs)
    shares = dict(mariadb_target.query("SELECT occupied, AVG(percolates) FROM lattices GROUP BY occupied"))
    assert shares[0.5] < 0.5 < shares[0.7]
    # A cluster that reaches from top to bottom has a site in each row.
    too_small = "SELECT COUNT(*) FROM lattices WHERE percolates AND largest_cluster * size < 0.999"
    assert mariadb_target.query(too_small) == [(0,)]
    # The table of the last to finish is complete; the other may warn about running experiments.
    assert any(re.search(r"^\| 16 +\|( +\d\.\d\d \|){5}$", output, re.M) for output in outputs)


@pytest.mark.parametrize("name", ["mysql", "slurm_array"])
def test_the_credential_file_to_copy_is_right(name: str) -> None:
    config = load_config(EXAMPLES / name / "config.yml", credentials_path=CREDENTIALS)
    assert config.database.credentials is not None
    assert (config.database.credentials.user, config.database.credentials.host) == ("researcher", "127.0.0.1")


# slurm_array


@pytest.fixture
def slurm_array(mariadb_target: Target, tmp_path: Path) -> Iterator[tuple[Example, Callable[..., Any]]]:
    """The example, filled, and a function that starts a task of its array by the script, with SLURM's variables."""

    def small(root: dict[str, Any]) -> None:
        keyfields(root)["variables"]["values"] = [20]
        keyfields(root)["ratio"]["values"] = [3]
        keyfields(root)["seed"]["values"]["stop"] = 12
        root["Execution"]["grace"] = "1s"

    example = Example("slurm_array", tmp_path, small)
    environment = {**of_server(mariadb_target), "STUDY_DATABASE": mariadb_target.database}
    started: list[subprocess.Popen[str]] = []

    def task(number: int, **more: str) -> subprocess.Popen[str]:
        variables = {
            **environment,
            "SLURM_JOB_ID": str(13 + number),
            "SLURM_ARRAY_JOB_ID": "12",
            "SLURM_ARRAY_TASK_ID": str(number),
            "SLURM_JOB_END_TIME": str(int(time.time()) + 3600),
            "PYTHON": sys.executable,
            **more,
        }
        started.append(example.start(["bash", example.folder / "array.sbatch"], **variables))
        return started[-1]

    example.work = example.folder  # where it is submitted from
    assert "added=12" in example.run("fill", **environment)
    yield example, task
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_slurm_array_script_is_one_that_sbatch_takes() -> None:
    script = EXAMPLES / "slurm_array" / "array.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    before_commands = script.read_text().partition("\nexec")[0]  # sbatch reads no further than the first command
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", before_commands, re.M))
    assert {"array", "requeue"} < set(options) and options["signal"] == "B:TERM@60"
    execution = load_config(EXAMPLES / "slurm_array" / "config.yml", credentials_path=CREDENTIALS).execution
    assert execution.grace < 30  # SLURM's KillWait, and less than the 60 s of the signal


def test_slurm_array_tasks_share_the_experiments(
    slurm_array: tuple[Example, Callable[..., Any]], mariadb_target: Target
) -> None:
    example, task = slurm_array
    for process in [task(number, MAX_EXPERIMENTS="4") for number in (0, 1)]:
        example.output(process)
    assert mariadb_target.query(
        "SELECT job_id, outcome, COUNT(*) FROM walksat__attempts GROUP BY job_id, outcome ORDER BY job_id"
    ) == [("12_0", "done", 4), ("12_1", "done", 4)]
    assert mariadb_target.query("SELECT COUNT(*) FROM walksat WHERE status = 'done' AND solved") == [(8,)]
    output = example.run("show", **of_server(mariadb_target), STUDY_DATABASE=mariadb_target.database)
    assert "'created': 4" in output and "'done': 8" in output
    assert re.search(r"^3\.0 +1\.00$", output, re.M)


def test_slurm_array_gives_back_its_experiments_when_time_is_over(
    slurm_array: tuple[Example, Callable[..., Any]], mariadb_target: Target
) -> None:
    example, task = slurm_array
    # Contradictions are never solved, so this experiment lasts.
    config = example.folder / "config.yml"
    config.write_text(config.read_text().replace("max_flips: 20000", "max_flips: 1000000000"))
    mariadb_target.query("UPDATE walksat SET ratio = 50")
    process = task(3)
    wait_until(lambda: mariadb_target.query("SELECT COUNT(*) FROM walksat WHERE status = 'running'") == [(1,)])
    process.send_signal(signal.SIGTERM)  # to the script alone, as B: requests; Python has replaced it by exec
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert mariadb_target.query("SELECT status, COUNT(*) FROM walksat GROUP BY status") == [("created", 12)]
    assert mariadb_target.query("SELECT job_id, outcome FROM walksat__attempts") == [("12_3", "released")]
