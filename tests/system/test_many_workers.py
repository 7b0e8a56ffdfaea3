"""More workers than the server accepts connections, or than the cores can serve: nothing is lost or done twice."""

from __future__ import annotations

import math
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter.execution.watch import OwnWatch
from pyexperimenter.machine import turns
from pyexperimenter.machine.locks import lock_file
from pyexperimenter.machine.turns import Turns
from tests.support.mariadb import PrivateMariaDB
from tests.support.study import experimenter, study, wait_until
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


def one_of_many(monkeypatch: pytest.MonkeyPatch, directory: Path, turn: float = 0.0) -> None:
    """Let the workers of this process be some of many on cores that are always busy, with turns of so many seconds."""
    monkeypatch.setattr(turns, "own_directory", lambda: directory)
    monkeypatch.setattr(turns, "workers", lambda: 100_000 * turns.PLACES)
    monkeypatch.setattr(turns, "_SHORT", math.inf)
    monkeypatch.setattr(turns, "_BUSY", -1)
    monkeypatch.setattr(turns, "_FIRST_TURN", turn)
    monkeypatch.setattr(turns, "TURN", turn)


def test_a_worker_holds_no_experiment_while_others_have_their_turn(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_of_many(monkeypatch, tmp_path)
    wait, running = Turns.wait, list[int]()

    def looking(its: Turns, should_stop: Any) -> None:
        ((count,),) = target.query("SELECT COUNT(*) FROM study WHERE status = 'running'")
        running.append(count)
        wait(its, should_stop)

    monkeypatch.setattr(Turns, "wait", looking)
    study_ = experimenter(target)
    study_.fill_table_from_config()
    assert study_.execute(lambda *_: {"accuracy": 1.0}) == 6
    assert running == [0] * 7
    assert target.query("SELECT status, COUNT(*) FROM study GROUP BY status") == [("done", 6)]
    assert target.query("SELECT COUNT(*) FROM study__attempts") == [(6,)]


def test_the_end_of_its_time_ends_the_wait(sqlite_target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Turns, "wait", lambda its, should_stop: wait_until(should_stop))
    study_ = experimenter(sqlite_target)
    study_.fill_table_from_config()
    assert study_.execute(lambda *_: {"accuracy": 1.0}, stop_after=0.1) == 0


def test_a_worker_without_experiments_has_no_place(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_of_many(monkeypatch, tmp_path, turn=1e-6)
    places = list[bool]()
    wait, look = Turns.wait, OwnWatch.look

    def waited(its: Turns, should_stop: Any) -> None:
        wait(its, should_stop)
        places.append(its._place is not None)

    def looking(watch: OwnWatch, *arguments: Any) -> float | None:
        for number in range(turns.PLACES):
            lock = lock_file(tmp_path / f"turn-{number}")
            assert lock is not None, "it still has its place"
            lock.release()
        return look(watch, *arguments)

    monkeypatch.setattr(Turns, "wait", waited)
    monkeypatch.setattr(OwnWatch, "look", looking)
    study_ = experimenter(sqlite_target)
    study_.fill_table_from_config()
    assert study_.execute(lambda *_: {"accuracy": 1.0}) == 6
    assert any(places), "it never had one"
