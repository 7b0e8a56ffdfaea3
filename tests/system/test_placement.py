"""Where workers run: joblib's backends, dask, the share of the cores, and several machines."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import joblib
import pytest

from pyexperimenter import ResultProcessor
from pyexperimenter.execution.pool import number_of_workers
from tests.support.study import credentials, outcomes, statuses, wait_until
from tests.support.supervision import BEGINNING, await_note, configured, filled, note
from tests.support.target import A_FILE_AND_A_SERVER, Target

DATABASES = A_FILE_AND_A_SERVER


def told_parent(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    # The first two wait for each other, so that two run at the same time.
    note(custom, f"begun {keyfields['seed']}")
    if keyfields["seed"] < 2:
        await_note(custom, f"begun {1 - keyfields['seed']}")
    return {"accuracy": os.getppid()}


def test_minus_one_is_a_worker_for_each_core() -> None:
    assert [number_of_workers(n_jobs) for n_jobs in (-1, 3)] == [joblib.cpu_count(), 3]


@pytest.fixture(scope="module")
def dask_workers() -> Iterator[set[int]]:
    """The process IDs of two workers of a cluster, which joblib finds if its backend is dask."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        yield set(client.run(os.getpid).values())


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_workers_are_where_dask_places_them(
    target: Target, tmp_path: Path, dask_workers: set[int], n_jobs: int
) -> None:
    study_ = filled(target, tmp_path)
    assert statuses(target) == {"created": 6}
    function = told_parent if n_jobs == 2 else tell_parent
    with joblib.parallel_config(backend="dask"):
        assert study_.execute(function, n_jobs=n_jobs) == 6
    assert statuses(target) == outcomes(target) == {"done": 6}
    parents = {int(parent) for (parent,) in target.query("SELECT DISTINCT accuracy FROM study")}
    assert parents <= dask_workers
    assert len(parents) == n_jobs


def tell_parent(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    return {"accuracy": os.getppid()}


@pytest.mark.parametrize("backend", [None, "threading", "loky"])
def test_workers_are_children_of_this_process_without_a_backend(
    target: Target, tmp_path: Path, backend: str | None
) -> None:
    study_ = filled(target, tmp_path)
    assert statuses(target) == {"created": 6}
    with nullcontext() if backend is None else joblib.parallel_config(backend=backend):
        assert study_.execute(told_parent, n_jobs=2) == 6
    assert statuses(target) == outcomes(target) == {"done": 6}
    parents = {int(parent) for (parent,) in target.query("SELECT DISTINCT accuracy FROM study")}
    if backend == "loky":
        assert len(parents) == 2
        assert os.getpid() not in parents
    else:
        assert parents == {os.getpid()}


THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def tell_threads(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    return {"model": json.dumps([os.environ.get(name) for name in THREADS])}


@pytest.mark.parametrize("n_jobs", [1, 2, 3])
def test_workers_share_the_cores_unless_their_number_is_set(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_jobs: int
) -> None:
    study_ = filled(target, tmp_path)
    for name in [name for name in os.environ if name.endswith("_NUM_THREADS")]:
        monkeypatch.delenv(name)
    share = max(1, len(os.sched_getaffinity(0)) // n_jobs)
    assert study_.execute(tell_threads, n_jobs=n_jobs) == 6
    assert target.query("SELECT DISTINCT model FROM study") == [(json.dumps([str(share)] * 3),)]
    assert "OMP_NUM_THREADS" not in os.environ
    study_.reset_experiments("done")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert study_.execute(tell_threads, n_jobs=n_jobs) == 6
    assert target.query("SELECT DISTINCT model FROM study") == [(json.dumps(["7", None, None]),)]


def tell_machine(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    machine = platform.node()
    note(custom, f"here is {machine}")
    # So that each has its share.
    wait_until(lambda: len(list(Path(custom["directory"]).glob("here is *"))) == 2)
    return {"model": machine}


def test_two_machines_share_the_table(target: Target, tmp_path: Path) -> None:
    renamed = ["unshare", "--uts", "sh", "-c", 'hostname other && exec "$0" "$@"']
    if not shutil.which("unshare") or subprocess.run([*renamed, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a process may not have a host name of its own here")
    filled(target, tmp_path)
    code = BEGINNING + "from test_placement import tell_machine\nprint(study.execute(tell_machine))"
    (tmp_path / "script.py").write_text(code)
    command = [sys.executable, str(tmp_path / "script.py"), json.dumps(configured(target, tmp_path))]
    command.append(json.dumps(credentials(target), default=str))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert statuses(target) == {"created": 6}
    machines = [
        subprocess.Popen(
            [*prefix, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for prefix in ([], renamed)
    ]
    told = [machine.communicate(timeout=120) for machine in machines]
    assert [stderr for _, stderr in told] == ["", ""]
    assert sum(int(stdout) for stdout, _ in told) == 6
    assert statuses(target) == outcomes(target) == {"done": 6}
    assert target.query("SELECT COUNT(DISTINCT experiment_id) FROM study__attempts") == [(6,)]
    joined = "study t JOIN study__attempts a ON a.experiment_id = t.ID WHERE t.machine = a.machine"
    assert target.query(f"SELECT COUNT(*) FROM {joined} AND t.machine = t.model") == [(6,)]
    assert set(target.query("SELECT machine FROM study")) == {(platform.node(),), ("other",)}
