"""The study that tests of databases and processes run: a configuration as a dict, and experimenters for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus, PyExperimenter
from pyexperimenter.config import load_config
from pyexperimenter.database.records import WorkerInfo
from pyexperimenter.database.store import ExperimentStore
from tests.support.target import Target

KEYFIELDS = {
    "dataset": {"type": "VARCHAR(50)", "values": ["iris", "wine"]},
    "seed": {"type": "INT", "values": {"start": 0, "stop": 3}},
}
RESULTFIELDS = {"accuracy": "DOUBLE", "model": "LONGTEXT"}

isolations = pytest.mark.parametrize("isolation", ["process", "none"])


def study(target: Target, **changes: Any) -> dict[str, Any]:
    """Return a configuration of 2 x 3 experiments; `changes` go into the table, or into the section they belong to."""
    table = {"name": "study", "keyfields": KEYFIELDS, "resultfields": RESULTFIELDS}
    # In this process, so that functions can report to the test; tests of supervision set it differently.
    root: dict[str, Any] = {"Execution": {"isolation": "none"}}
    logtables = changes.pop("logtables", {"epochs": {"epoch": "INT", "loss": "DOUBLE"}})
    for section in ("Custom", "CodeCarbon", "Execution", "n_jobs"):
        if section in changes:
            root[section] = changes.pop(section)
    database = {
        "provider": target.provider,
        "database": target.database,
        "table": table | changes,
        "logtables": logtables,
    }
    return {"PY_EXPERIMENTER": {**root, "Database": database}}


def experimenter(target: Target, config: Mapping[str, Any] | None = None, **options: Any) -> PyExperimenter:
    return PyExperimenter(config or study(target), **credentials(target), **{"log_level": "ERROR", **options})


def store(target: Target, filled: bool = True, **changes: Any) -> ExperimentStore:
    config = load_config(study(target, **changes), credentials_path=target.credentials_file)
    opened = ExperimentStore(config)
    if filled:
        opened.tables.create(codecarbon=False)
        grid = config.table.grid
        assert grid is not None
        opened.fill(grid.tuples(opened.keyfield_encoders))
    return opened


def credentials(target: Target) -> dict[str, Any]:
    return {} if target.credentials_file is None else {"database_credential_file_path": target.credentials_file}


def worker(name: str = "tester") -> WorkerInfo:
    return WorkerInfo(name, f"{name}-identity", "here", 1, None, None, None, None, "3", "0")


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Return the condition's value once it is true; fail if that takes too long."""
    start = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - start
        assert waited < seconds, f"the condition did not become true within {seconds} s"
        time.sleep(min(0.01 + waited / 20, 0.1))  # checks cost time of the cores that others are waited for on
    return value


def use_in_every_way(target: Target, directory: Path) -> None:
    """Create, fill, migrate, execute with heartbeats, pause, resume, attach, reset, release, reap and delete."""
    execution = {"isolation": "none", "heartbeat": 0.2, "lease": 1, "journal": str(directory)}
    config = study(target, Execution=execution)
    study_, opened = experimenter(target, config), store(target, filled=False, Execution=execution)
    study_.fill_table_from_config()

    def until_renewed(keyfields: dict[str, Any], results: Any, custom: Any) -> Any:
        """Run for longer than the first lease."""
        until = "SELECT lease_until FROM study__attempts WHERE experiment_id = ?"
        lease = target.query(until, results.experiment_id)
        wait_until(lambda: target.query(until, results.experiment_id) != lease)
        results.process_logs({"epochs": {"epoch": 1}})
        return ExperimentStatus.PAUSED

    def write(results: Any) -> None:
        results.process_results({"accuracy": 0.5})

    assert study_.execute(until_renewed, max_experiments=1) == 1
    study_.unpause_experiment(1, lambda *_: None)
    study_.attach(write, 1)
    assert study_.add_experiment_and_execute({"dataset": "new"}, lambda *_: None) == 7
    config["PY_EXPERIMENTER"]["Database"]["logtables"]["more"] = {"value": "INT"}
    config["PY_EXPERIMENTER"]["Database"]["table"]["resultfields"] = {**RESULTFIELDS, "more": "INT"}
    assert len(experimenter(target, config).migrate()) == 2
    study_ = experimenter(target, config)
    assert target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("done", 0.5)]
    for _ in range(2):
        assert opened.claim(worker()) is not None
    assert study_.release_experiments(ids=[2]) == 1
    (silent,) = wait_until(opened.silent)
    assert opened.reap(silent, max_lost=3)
    assert study_.reset_experiments("done") == 2
    assert study_.counts() == {"created": 7, "running": 0, "done": 0, "error": 0, "paused": 0}
    study_.delete_table()
    opened.database.close()


def statuses(target: Target) -> dict[str, int]:
    """Return how many rows have each status."""
    return dict(target.query("SELECT status, COUNT(*) FROM study GROUP BY status"))


def outcomes(target: Target) -> dict[str | None, int]:
    """Return how many attempts have each outcome; None is that of open ones."""
    return dict(target.query("SELECT outcome, COUNT(*) FROM study__attempts GROUP BY outcome"))
