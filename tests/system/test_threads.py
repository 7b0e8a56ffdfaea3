"""Threads and processes of one function write through an outage: nothing is lost, doubled or out of order."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus
from pyexperimenter.config import load_config
from pyexperimenter.execution.journaling_store import JournalingStore, replay_journals
from tests.support.proxies import CutOffWorker, Proxy, through_port
from tests.support.study import store, study, wait_until, worker
from tests.support.target import Target

THREADS, WRITES = 8, 10  # at a time


@contextmanager
def switched(target: Target) -> Iterator[tuple[Target, Callable[[], Any], Callable[[], Any]]]:
    """Yield a way to the database, what takes it away, and what gives it back."""
    if target.server is None:
        away = f"{target.database}.away"

        def take() -> None:
            wait_until(lambda: not Path(f"{target.database}-wal").exists())  # nobody has it open
            os.rename(target.database, away)

        yield target, take, lambda: os.rename(away, target.database)
    else:
        with closing(Proxy(target.server.host, target.server.port)) as proxy:
            yield through_port(target, proxy.port), proxy.refuse, proxy.heal


@pytest.mark.parametrize("together", [True, False], ids=["while it comes back", "while it is away"])
def test_threads_write_through_an_outage(target: Target, tmp_path: Path, together: bool) -> None:
    opened = store(target)
    experiment = opened.claim(worker())
    assert experiment is not None
    opened.database.close()
    attempt = experiment.attempt
    logtables = {"epochs": {"epoch": "INT", "loss": "DOUBLE"}}
    with switched(target) as (way, take, give):
        config = load_config(
            study(way, Execution={"isolation": "none", "max_outage": 0.3}, logtables=logtables),
            credentials_path=way.credentials_file,
        )
        journaling = JournalingStore(config, tmp_path / "journals", worker().identity)
        phase = threading.Barrier(THREADS + 1)

        def write(thread: int) -> None:
            for part in range(3):
                phase.wait(60)
                for number in range(WRITES):
                    epoch = part * WRITES + number
                    journaling.write_logs(attempt, {"epochs": {"epoch": epoch, "loss": float(thread)}})
                    journaling.write_results(attempt, {"accuracy": float(epoch)})
                if not (together and part == 1):
                    phase.wait(60)

        with ThreadPoolExecutor(THREADS) as pool:
            writing = [pool.submit(write, thread) for thread in range(THREADS)]
            phase.wait(60)
            phase.wait(60)
            take()
            phase.wait(60)  # the second part
            if together:
                wait_until(lambda: any(file.read_bytes() for file in (tmp_path / "journals").glob("*")))
                give()
            else:
                phase.wait(60)
                give()
            phase.wait(60)
            phase.wait(60)
            for done in writing:
                done.result()
        journaling.finish(attempt, ExperimentStatus.DONE)
        journaling.raise_if_journaled()
        journaling.database.close()
    assert list((tmp_path / "journals").iterdir()) == []
    written = target.query("SELECT loss, epoch FROM study__epochs ORDER BY ID")
    for thread in range(THREADS):
        assert [epoch for loss, epoch in written if loss == thread] == list(range(3 * WRITES))
    assert target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("done", 3 * WRITES - 1)]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_process_that_the_function_forks_has_a_journal_of_its_own(target: Target, tmp_path: Path) -> None:
    """It neither waits for the lock of its parent's journal nor takes that from its parent."""
    opened = store(target)
    journaling = CutOffWorker(target, tmp_path / "journals")
    attempt = journaling.claim_by(opened)
    opened.database.close()
    processes = multiprocessing.get_context("fork")
    for number in range(3):  # before and after the parent has begun a journal
        forked = processes.Process(target=journaling.write_logs, args=[attempt, {"epochs": {"epoch": number}}])
        forked.start()
        forked.join(60)
        assert forked.exitcode == 0
        journaling.write_logs(attempt, {"epochs": {"epoch": 10 + number}})
    journaling.die()
    assert len(list((tmp_path / "journals").iterdir())) == 4
    assert replay_journals(opened, tmp_path / "journals", logging.getLogger("test")) == 4
    assert list((tmp_path / "journals").iterdir()) == []
    written = target.query("SELECT epoch FROM study__epochs ORDER BY ID")
    assert sorted(epoch for (epoch,) in written) == [0, 1, 2, 10, 11, 12]
    opened.database.close()
