"""The example study, run as a newcomer runs it, in a directory of its own and with every warning an error."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import yaml

from pyexperimenter.config import load_config

STUDY = Path(__file__).resolve().parents[2] / "examples" / "svm_study"
KERNELS = ["linear", "poly", "rbf", "sigmoid"]
SMALL = 5 * 4 * 2  # linear, rbf, sigmoid, 2 poly; of each 4 data sets, 2 seeds
DATASETS = ["breast cancer", "digits", "iris", "wine"]


def run_study(folder: Path, *options: str) -> str:
    (folder / "work").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, folder / "run.py", *options],
        cwd=folder / "work",
        env={**os.environ, "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with one C, one gamma and two seeds, so that it takes seconds."""
    folder = tmp_path_factory.mktemp("examples") / "svm_study"
    folder.mkdir()
    shutil.copy(STUDY / "run.py", folder)
    config = yaml.safe_load((STUDY / "config.yml").read_text())
    keyfields = config["PY_EXPERIMENTER"]["Database"]["table"]["keyfields"]
    keyfields["C"]["values"] = [1]
    keyfields["gamma"]["values"] = [0.1]
    keyfields["seed"]["values"]["stop"] = 2
    (folder / "config.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def output(small_study: Path) -> str:
    return run_study(small_study)


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(folder / "work" / "svm_study.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_the_grid_has_gamma_and_degree_only_where_the_kernel_has_them() -> None:
    grid = load_config(STUDY / "config.yml").table.grid
    assert grid is not None
    # linear, 2 rbf, 2 sigmoid, 4 poly; of each 4 data sets, 3 C, 5 seeds
    assert len(grid) == 9 * 4 * 3 * 5 == len(list(grid))
    for row in grid:
        assert (row["gamma"] is None) == (row["kernel"] == "linear")
        assert (row["degree"] is None) == (row["kernel"] != "poly")


def test_every_experiment_is_done(output: str, small_study: Path) -> None:
    counts = dict(re.findall(r"^(created|running|done|error|paused) +(\d+)$", output, re.M))
    assert counts == {"created": "0", "running": "0", "done": str(SMALL), "error": "0", "paused": "0"}
    assert rows(small_study, "SELECT status, COUNT(*) FROM svm GROUP BY status") == [("done", SMALL)]


def test_two_workers_share_the_work_and_none_is_doubled(output: str, small_study: Path) -> None:
    assert load_config(STUDY / "config.yml").n_jobs == 2
    attempts = rows(small_study, "SELECT worker, COUNT(*) FROM svm__attempts GROUP BY worker")
    assert len(attempts) in (1, 2)  # where the machine is busy, one may be through before the other has started
    assert sum(count for _, count in attempts) == SMALL


def test_results_are_plausible_and_each_class_is_logged(output: str, small_study: Path) -> None:
    for column in ("cv_accuracy", "accuracy", "f1"):
        assert rows(small_study, f"SELECT COUNT(*) FROM svm WHERE {column} BETWEEN 0.5 AND 1") == [(SMALL,)]
    assert rows(small_study, "SELECT COUNT(*) FROM svm WHERE fit_seconds > 0") == [(SMALL,)]
    # 10 experiments on each data set, of 3, 3, 2 and 10 classes
    assert rows(small_study, "SELECT COUNT(*) FROM svm__classes") == [(10 * (3 + 3 + 2 + 10),)]


def test_the_table_has_mean_and_deviation_of_the_setting_with_the_best_cv_accuracy(
    output: str, small_study: Path
) -> None:
    assert re.search(rf"^dataset +{' +'.join(KERNELS)}$", output, re.M)
    for dataset in DATASETS:
        (line,) = re.findall(rf"^{dataset}  .*±.*$", output, re.M)
        cells = re.findall(r"\d\.\d{3} ± \d\.\d{3}", line)
        assert cells == [expected_cell(small_study, dataset.replace(" ", "_"), kernel) for kernel in KERNELS]


def expected_cell(folder: Path, dataset: str, kernel: str) -> str:
    by_setting: dict[Any, list[tuple[float, float]]] = {}
    sql = f"SELECT degree, cv_accuracy, accuracy FROM svm WHERE dataset = '{dataset}' AND kernel = '{kernel}'"
    for degree, cv_accuracy, accuracy in rows(folder, sql):
        by_setting.setdefault(degree, []).append((cv_accuracy, accuracy))
    best = max(by_setting.values(), key=lambda runs: mean(cv for cv, _ in runs))
    accuracies = [accuracy for _, accuracy in best]
    assert len(accuracies) == 2  # seeds
    return f"{mean(accuracies):.3f} ± {stdev(accuracies):.3f}"


def test_the_latex_is_a_booktabs_table(output: str) -> None:
    latex = output[output.index(r"\begin{tabular}") : output.index(r"\end{tabular}")]
    header, *body = re.findall(r"^(.*) \\\\$", latex, re.M)
    assert header == " & ".join(["dataset", *KERNELS])
    assert [line.partition(" & ")[0] for line in body] == DATASETS
    assert all(line.count(r"$\pm$") == len(KERNELS) and r"\textbf{" in line for line in body)
    assert re.findall(r"\\\w+rule", latex) == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert not re.search(r"(?<!\\)[_%#]", latex)


def test_it_continues_what_is_open_and_starts_anew_otherwise(output: str, small_study: Path) -> None:
    connection = sqlite3.connect(small_study / "work" / "svm_study.db")
    with connection:
        connection.execute("UPDATE svm SET status = 'created' WHERE dataset = 'iris' AND seed = 0")
    connection.close()
    run_study(small_study, "--continue")
    executed = "SELECT number, COUNT(*) FROM svm__attempts GROUP BY number ORDER BY number"
    assert rows(small_study, executed) == [(1, SMALL), (2, 5)]
    run_study(small_study)
    assert rows(small_study, executed) == [(1, SMALL)]


def test_nothing_is_written_beside_the_script(output: str, small_study: Path) -> None:
    assert {path.name for path in small_study.iterdir()} == {"config.yml", "run.py", "work"}
    left = {path.name for path in (small_study / "work").iterdir()}
    assert {name for name in left if not name.startswith("svm_study.db")} == set()
