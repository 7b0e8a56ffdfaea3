"""The study that tests of databases and processes run: a configuration as a dict, and experimenters for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pyexperimenter import PyExperimenter
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
    return PyExperimenter(config or study(target), **credentials(target), log_level="ERROR", **options)


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
    return WorkerInfo(name, f"{name}-identity", "here", 1, None, None, None, "3", "0")


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Return the condition's value once it is true; fail if that takes too long."""
    start = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - start
        assert waited < seconds, f"the condition did not become true within {seconds} s"
        time.sleep(min(0.01 + waited / 20, 0.1))  # checks cost time of the cores that others are waited for on
    return value


def statuses(target: Target) -> dict[str, int]:
    """Return how many rows have each status."""
    return dict(target.query("SELECT status, COUNT(*) FROM study GROUP BY status"))


def outcomes(target: Target) -> dict[str | None, int]:
    """Return how many attempts have each outcome; None is that of open ones."""
    return dict(target.query("SELECT outcome, COUNT(*) FROM study__attempts GROUP BY outcome"))
