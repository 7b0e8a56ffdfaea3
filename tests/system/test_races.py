"""Many processes on one table: every row is executed exactly once."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections import Counter
from typing import Any

import pytest

from pyexperimenter.database import store as store_module
from tests.support.study import experimenter, study
from tests.support.target import Target

ROWS = 1000
SEEDS = {"seed": {"type": "INT", "values": {"start": 0, "stop": ROWS}}}

# Real processes that need not each load the library again.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "tests.support.study",
        "pyexperimenter.config.build",
        "pyexperimenter.database.backends.mysql",
        "pyexperimenter.database.backends.postgresql",
        "pyexperimenter.execution.pool",
        "pyexperimenter.experimenter",
    ]
)


def work(target: Target, start: Any, finished: Any, options: dict[str, Any]) -> None:
    """In one process, execute until nothing is open, then report which rows were executed here."""
    ran: list[int] = []

    def function(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, float]:
        ran.append(keyfields["seed"])
        return {"accuracy": 1.0}

    study_ = experimenter(target, study(target, keyfields=SEEDS))
    start.wait()
    study_.execute(function, **options)
    finished.put(ran)


@pytest.mark.parametrize(
    "options", [{}, {"random_order": True}, {"order_by": "-seed"}], ids=["by id", "random", "order"]
)
def test_every_row_is_executed_exactly_once(target: Target, options: dict[str, Any]) -> None:
    processes = 8 if target.name == "sqlite" else 32
    experimenter(target, study(target, keyfields=SEEDS)).fill_table_from_config()
    start, finished = CONTEXT.Barrier(processes), CONTEXT.Queue()
    workers = [CONTEXT.Process(target=work, args=(target, start, finished, options)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    runs = Counter(seed for _ in workers for seed in finished.get(timeout=240))
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * processes
    assert set(runs.values()) == {1}
    assert set(runs) == set(range(ROWS))
    assert target.query("SELECT status, COUNT(*) FROM study GROUP BY status") == [("done", ROWS)]
    assert target.query("SELECT COUNT(*), COUNT(DISTINCT experiment_id) FROM study__attempts") == [(ROWS, ROWS)]


def fill(target: Target, start: Any, finished: Any) -> None:
    study_ = experimenter(target, study(target, keyfields=SEEDS))
    start.wait()
    finished.put(tuple(study_.fill_table_from_config()))


def test_several_fillers_at_once_double_no_row(target: Target) -> None:
    """The table does not exist yet, so they create it at the same time, too."""
    fillers = 4
    start, finished = CONTEXT.Barrier(fillers), CONTEXT.Queue()
    processes = [CONTEXT.Process(target=fill, args=(target, start, finished)) for _ in range(fillers)]
    for process in processes:
        process.start()
    counts = [finished.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * fillers
    assert sum(added for added, _ in counts) == ROWS
    assert all(added + skipped == ROWS for added, skipped in counts)
    assert target.query("SELECT COUNT(*), COUNT(DISTINCT seed) FROM study") == [(ROWS, ROWS)]


def fill_at_random(target: Target, start: Any, finished: Any) -> None:
    """Fill in small chunks, in an order that no other process has, so that they wait for each other's rows."""
    store_module._CHUNK = 20
    study_ = experimenter(target, study(target, keyfields=SEEDS))
    rows = [{"seed": seed} for seed in range(ROWS)]
    random.Random(os.getpid()).shuffle(rows)
    start.wait()
    finished.put(tuple(study_.fill_table_with_rows(rows)))


def test_fillers_of_the_same_rows_in_any_order_and_a_worker(target: Target) -> None:
    """Deadlocks of fillers are retried, and the worker executes no row twice."""
    fillers = 3
    experimenter(target, study(target, keyfields=SEEDS)).create_table()
    start, counts, ran = CONTEXT.Barrier(fillers + 1), CONTEXT.Queue(), CONTEXT.Queue()
    processes = [CONTEXT.Process(target=fill_at_random, args=(target, start, counts)) for _ in range(fillers)]
    processes.append(CONTEXT.Process(target=work, args=(target, start, ran, {"max_experiments": 20})))
    for process in processes:
        process.start()
    filled = [counts.get(timeout=200) for _ in range(fillers)]
    executed = ran.get(timeout=60)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * (fillers + 1)
    assert sum(added for added, _ in filled) == ROWS
    assert all(added + skipped == ROWS for added, skipped in filled)
    assert target.query("SELECT COUNT(*), COUNT(DISTINCT seed) FROM study") == [(ROWS, ROWS)]
    assert len(executed) == len(set(executed))


def nap(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, float]:
    time.sleep(0.3)
    return {"accuracy": 1.0}


# Since Python 3.12, forking with threads is warned of; here the thread is the one that closes idle connections.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_process_forked_after_a_fill_has_its_own_connection(target: Target) -> None:
    """SQLite's state of the parent's open file would be wrong in the child once the parent has closed it."""
    study_ = experimenter(target, study(target))
    study_.fill_table_from_config()
    process = multiprocessing.get_context("fork").Process(target=study_.execute, args=(nap,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert target.query("SELECT status, COUNT(*) FROM study GROUP BY status") == [("done", 6)]
