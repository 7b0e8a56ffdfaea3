"""More workers than the server accepts connections: all get their turn, and nothing is lost or done twice."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.mariadb import PrivateMariaDB
from tests.support.study import experimenter, study
from tests.support.target import Target, write_credentials

WORKERS = 200  # MariaDB takes 151 connections by default
ROWS = 1000


def nap(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> dict[str, float]:
    time.sleep(0.05)
    return {"accuracy": 1.0}


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_200_workers_share_151_connections(private_mariadb: PrivateMariaDB, tmp_path: Path) -> None:
    private_mariadb.create_database("many")
    credentials = write_credentials(tmp_path / "credentials.yml", private_mariadb)
    target = Target("mariadb", "mysql", "many", private_mariadb, credentials)
    config = study(target, keyfields={"seed": {"type": "INT", "values": {"start": 0, "stop": ROWS}}})
    experimenter(target, config).fill_table_from_config()
    # Forked, as 200 interpreters that each import the library would take most of the time.
    context = multiprocessing.get_context("fork")
    start, executed = context.Barrier(WORKERS, timeout=60), context.SimpleQueue()

    def work() -> None:
        study_ = experimenter(target, config)
        start.wait()
        executed.put(study_.execute(nap))

    workers = [context.Process(target=work, daemon=True) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + 120
    for worker in workers:
        worker.join(max(0, deadline - time.monotonic()))
    assert [worker.exitcode for worker in workers] == [0] * WORKERS
    assert sum(executed.get() for _ in workers) == ROWS
    assert target.query("SELECT status, COUNT(*) FROM study GROUP BY status") == [("done", ROWS)]
    assert target.query("SELECT COUNT(*), COUNT(DISTINCT experiment_id) FROM study__attempts") == [(ROWS, ROWS)]
    ((_, most),) = target.query("SHOW VARIABLES LIKE 'max_connections'")
    ((_, refused),) = target.query("SHOW GLOBAL STATUS LIKE 'Connection_errors_max_connections'")
    assert int(most) < WORKERS
    assert int(refused) > 0  # otherwise nothing was tested
