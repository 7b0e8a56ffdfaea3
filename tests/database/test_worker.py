"""A worker's decisions: what it claims, when it stops, what it releases, and what it reports to what watches it."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus, ResultProcessor
from pyexperimenter.config import load_config
from pyexperimenter.database.records import Attempt
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import ResultsInJournalError, TooManyErrorsError
from pyexperimenter.execution import budget
from pyexperimenter.execution import worker as module
from pyexperimenter.execution.budget import Allowance
from pyexperimenter.execution.journaling_store import JournalingStore, replay_journals
from pyexperimenter.execution.stopping import Stop
from pyexperimenter.execution.task import WorkerReport, WorkerTask
from pyexperimenter.execution.watch import OwnWatch
from pyexperimenter.execution.worker import Worker, copies, run_one, run_worker
from pyexperimenter.machine.turns import Turns
from tests.support.proxies import leading_nowhere
from tests.support.study import outcomes, statuses, store, study
from tests.support.target import Target

LOGGER = logging.getLogger("test")


class Watch:
    """Records what it is told of, and lets the test act on it."""

    def __init__(self) -> None:
        self.stop = Stop()
        self.in_own_process = True
        self.endings: list[tuple[bool, bool]] = []
        self.looks: Iterator[float | None] = iter([None])
        self.held = True
        self.at_claim: Callable[[], object] = lambda: None
        self.at_end: Callable[[], object] = lambda: None

    def claimed(self, attempt: Attempt) -> None:
        self.at_claim()

    def holds(self) -> bool:
        return self.held

    def returned(self) -> str | None:
        return "printed"

    def ended(self, failed: bool, resultless: bool) -> None:
        self.endings.append((failed, resultless))
        self.at_end()

    def look(self, selection: object, waits: bool) -> float | None:
        return next(self.looks)


class Study:
    def __init__(self, target: Target, directory: Path) -> None:
        self.target = target
        self.directory = directory
        self.opened: ExperimentStore = store(target)
        self.watch = Watch()

    def task(self, function: Callable[..., Any], **options: Any) -> WorkerTask:
        fields = {name: options.pop(name) for name in ("limit", "errors", "allowance") if name in options}
        execution = {"isolation": "none", "max_outage": 0.001, **options}
        config = load_config(study(self.target, Execution=execution))
        return WorkerTask(config, function, "tester", "identity", journal=str(self.directory), **fields)

    def worker(self, function: Callable[..., Any], **options: Any) -> Worker:
        return Worker(self.task(function, **options), self.watch)

    def attempts(self, columns: str = "outcome, error") -> list[tuple[Any, ...]]:
        return self.target.query(f"SELECT {columns} FROM study__attempts ORDER BY ID")

    def take_database(self) -> None:
        Path(self.target.database).rename(leading_nowhere(self.target).database)

    def give_database(self) -> None:
        Path(leading_nowhere(self.target).database).rename(self.target.database)


@pytest.fixture
def here(sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    monkeypatch.setattr(Turns, "are_over", lambda self: False)  # whatever else runs on this machine
    here = Study(sqlite_target, tmp_path)
    yield here
    here.opened.database.close()


def in_turn(*actions: Callable[[], Any]) -> Callable[..., Any]:
    """Return a function that does these things, one at each call."""
    left = iter(actions)
    return lambda *_: next(left)()


def fail() -> None:
    raise ValueError("as the test wants it")


def pass_by(*_: object) -> dict[str, Any]:
    return {"accuracy": 0.5}


# What is claimed, and when


@pytest.mark.parametrize("own", [True, False])
def test_a_worker_ends_with_its_limit_and_its_process(here: Study, monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    monkeypatch.setattr(Turns, "wait", lambda self, should_stop: ahead.append(-1))
    ran: list[float] = []
    monkeypatch.setattr(Turns, "ran", lambda self, seconds: ran.append(seconds))
    end = Turns.end
    monkeypatch.setattr(Turns, "end", lambda self: (ran.append(1000), end(self)))
    here.watch.in_own_process = own
    here.watch.at_end = lambda: ahead.append(statuses(here.target).get("running", 0))
    ahead: list[int] = []
    report = here.worker(pass_by, limit=4, experiments_per_process=3).run_all()
    assert report == WorkerReport(3 if own else 4, used_up=own)
    expected = [-1, *[1] * (report.executed - 1), 0]
    assert ahead == expected, "after its turn has come, the next is claimed with the end of the last, and no other"
    assert outcomes(here.target) == {"done": report.executed}
    assert len(ran) == report.executed + 1
    assert min(ran) > 0
    assert ran[-1] == 1000, "the turn has ended, though this process may go on"


def test_a_worker_goes_on_until_nothing_is_open(here: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for as long as it is told to, and claims when something may be open."""
    waited: list[float] = []
    monkeypatch.setattr(here.watch.stop, "wait", waited.append)
    claims: list[int] = []
    claim = JournalingStore.claim
    monkeypatch.setattr(
        JournalingStore, "claim", lambda self, *what: (claims.append(len(waited)), claim(self, *what))[1]
    )
    ends: list[int] = []
    end = Turns.end
    monkeypatch.setattr(Turns, "end", lambda self: (ends.append(len(waited)), end(self)))

    def looks() -> Iterator[float | None]:
        assert ends[-1:] == [0], "others may have its turn while it waits"
        yield 7.0
        yield 3.0
        here.opened.reset(None, None, [2], dry_run=False)
        yield 0.0
        yield None

    here.watch.looks = looks()
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: 0.0, time=lambda: 0.0))
    assert here.worker(pass_by, allowance=Allowance(5.0, 5.0)).run_all() == WorkerReport(7)
    assert waited == [5.0, 3.0, 0.0]
    assert claims == [0, 0, 3, 3], "when it begins, and then when something may be open"


def test_nothing_is_claimed_after_a_stop(here: Study) -> None:
    function = in_turn(pass_by, here.watch.stop.request)
    assert here.worker(function).run_all() == WorkerReport(2, resultless=1)
    assert outcomes(here.target) == {"done": 2}


def test_what_was_claimed_before_a_stop_is_given_back(here: Study) -> None:
    here.watch.at_end = here.watch.stop.request
    assert here.worker(pass_by).run_all() == WorkerReport(1)
    assert here.attempts() == [("done", None), ("released", "its worker was stopped")]


def test_nothing_is_claimed_when_the_time_is_up(
    here: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SimpleNamespace(now=0.0, time=lambda: 0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(budget, "time", clock)
    function = in_turn(pass_by, lambda: setattr(clock, "now", 100.0))
    assert here.worker(function, allowance=Allowance(99.0, 99.0)).run_all().executed == 2
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["this worker starts no more experiments: its time is up"]
    assert outcomes(here.target) == {"done": 2}


@pytest.mark.parametrize("errors", [0, 1])
def test_nothing_is_claimed_after_too_many_errors_in_a_row(here: Study, errors: int) -> None:
    ahead: list[int] = []
    here.watch.at_end = lambda: ahead.append(statuses(here.target).get("running", 0))
    function = in_turn(*[fail] * (1 - errors), pass_by, fail, fail)
    report = here.worker(function, errors=errors, stop_after_errors=2).run_all()
    assert (report.executed, type(report.stopped_by)) == (4 - errors, TooManyErrorsError)
    assert [outcome for (outcome,) in here.attempts("outcome")] == ["error"] * (1 - errors) + ["done", "error", "error"]
    assert ahead == [1] * (3 - errors) + [0]
    report = here.worker(fail, errors=errors + 1, stop_after_errors=errors + 1).run_all()
    assert report.executed == 0
    assert str(report.stopped_by).startswith(f"the worker stopped after {['1 error', '2 errors in a row'][errors]}, ")


# What is reported


def test_what_watches_a_worker_learns_of_errors_and_missing_results(here: Study) -> None:
    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: object) -> Any:
        match results.experiment_id:
            case 1:
                results.process_results({"accuracy": 0.5})
            case 2:
                return {"accuracy": 0.5}
            case 3:
                fail()
            case 4:
                return ExperimentStatus.PAUSED
            case 5:
                return {"accuracy": object()}

    assert here.worker(function).run_all() == WorkerReport(6, resultless=1)
    good, bad, without = (False, False), (True, False), (False, True)
    assert here.watch.endings == [good, good, bad, good, bad, without]
    assert {output for (output,) in here.attempts("output")} == {"printed"}


@pytest.mark.parametrize(
    ("rules", "retried"),
    [
        ({}, True),
        ({"retry_on": ["ValueError"]}, True),
        ({"retry_on": ["KeyError"]}, False),
        ({"no_retry_on": ["Exception"]}, False),
        ({"retry_on": ["Exception"], "no_retry_on": ["ValueError"]}, False),
    ],
)
def test_an_exception_is_worth_a_retry_or_not(
    here: Study, caplog: pytest.LogCaptureFixture, rules: dict[str, Any], retried: bool
) -> None:
    here.target.query("DELETE FROM study WHERE ID > 1")
    report = here.worker(in_turn(fail, fail, pass_by), retries=2, **rules).run_all()
    assert report == WorkerReport(3 if retried else 1)
    messages = [record.getMessage().partition(":\n")[0] for record in caplog.records]
    again = "experiment 1 failed, and is open again;"
    failed = ["experiment 1 failed"]
    assert messages == ([f"{again} 2 attempts are left", f"{again} 1 attempt is left"] if retried else failed)
    assert statuses(here.target) == {"done" if retried else "error": 1}


def test_an_experiment_that_was_lost_is_no_error(here: Study, caplog: pytest.LogCaptureFixture) -> None:
    def function(keyfields: object, results: ResultProcessor, custom: object) -> None:
        assert not results.stop_requested
        here.watch.held = False
        assert results.stop_requested
        here.opened.reset(None, None, [1], dry_run=False)

    worker = here.worker(function, limit=1)
    assert worker.run_all() == WorkerReport(1)
    assert here.watch.endings == [(False, False)]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("the outcome of experiment 1 was not recorded: ")


@pytest.mark.parametrize(("own", "remedy"), [(True, "ended"), (False, "it may disturb the experiments that follow")])
def test_a_thread_that_is_left_running_uses_its_process_up(
    here: Study, caplog: pytest.LogCaptureFixture, own: bool, remedy: str
) -> None:
    over = threading.Event()
    thread = threading.Thread(target=lambda: over.wait(60), name="of the user")

    def function(keyfields: object, results: ResultProcessor, custom: object) -> dict[str, Any]:
        if results.experiment_id == 1:
            thread.start()
        return {"accuracy": 0.5}

    here.watch.in_own_process = own
    try:
        assert here.worker(function).run_all() == WorkerReport(1 if own else 6, used_up=own)
    finally:
        over.set()
        thread.join()
    assert [record.getMessage() for record in caplog.records] == [
        f"experiment 1 left running: thread of the user; {remedy}"
    ]


@pytest.mark.parametrize("own", [True, False])
def test_a_process_that_is_left_running_is_ended_if_all_that_runs_is_the_workers(
    here: Study, caplog: pytest.LogCaptureFixture, own: bool
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    here.watch.in_own_process = own
    try:
        here.worker(lambda *_: started.append(subprocess.Popen(["sleep", "600"])), limit=1).run_all()
        assert (started[0].poll() is None) is not own
    finally:
        started[0].kill()
        started[0].wait()
    (message,) = caplog.messages
    assert message.startswith(f"experiment 1 left running: process {started[0].pid} (")
    assert message.endswith("; ended" if own else "; it may disturb the experiments that follow")


# What stops a worker, and what it then releases


@pytest.mark.parametrize("error", [KeyboardInterrupt("stopped by SIGTERM"), ValueError("of the user")])
def test_only_the_interrupt_of_a_signal_stops_a_worker(here: Study, error: BaseException) -> None:
    def function(*_: object) -> None:
        here.watch.stop.interrupted = True
        raise error

    report = here.worker(function, limit=2).run_all()
    assert here.watch.endings == [(False, False)] if isinstance(error, KeyboardInterrupt) else [(True, False)] * 2
    if isinstance(error, KeyboardInterrupt):
        assert report == WorkerReport(0, error)
        measured = "outcome, error, output, wall_seconds IS NOT NULL"
        assert here.attempts(measured) == [("released", "its worker was stopped", "printed", 1)]
    else:
        assert report == WorkerReport(2)


@pytest.mark.parametrize("cause", ["RuntimeError: of the test", "stop"])
def test_an_error_of_the_library_releases_what_the_worker_holds(
    here: Study, caplog: pytest.LogCaptureFixture, cause: str
) -> None:
    error = RuntimeError("of the test")

    def raise_at_claim() -> None:
        if cause == "stop":
            here.watch.stop.request()
        raise error

    here.watch.at_claim = raise_at_claim
    worker = here.worker(pass_by, max_outage=100)
    assert worker.run_all() == WorkerReport(0, error)
    assert worker.store.database.patience == 5, "somebody may wait for its end"
    why = "its worker was stopped" + (f" by {cause}" if cause != "stop" else "")
    assert here.attempts() == [("released", why)]
    assert [record.getMessage() for record in caplog.records] == [f"experiment 1 was released: {why}"]


def test_one_experiment_of_its_own_is_executed_and_no_other(here: Study) -> None:
    def claim(worker: Worker) -> Any:
        return worker.store.claim(worker.info, worker._task.selection)

    assert run_one(here.task(pass_by), claim) == 1
    assert outcomes(here.target) == {"done": 1}


def test_one_experiment_of_its_own_is_released_if_it_cannot_be_executed(here: Study) -> None:
    def claim(worker: Worker) -> Any:
        worker.store.claim(worker.info, worker._task.selection)
        raise RuntimeError("of the test")

    with pytest.raises(RuntimeError, match="of the test"):
        run_one(here.task(pass_by), claim)
    assert here.attempts() == [("released", "its worker was stopped by RuntimeError: of the test")]


@pytest.mark.parametrize(("error", "limit"), [(None, None), (None, 1), (RuntimeError("of the test"), None)])
def test_an_experiment_whose_results_are_in_the_journal_is_not_released(
    here: Study, caplog: pytest.LogCaptureFixture, error: Exception | None, limit: int | None
) -> None:
    def function(*_: object) -> dict[str, Any]:
        here.opened.database.close()
        worker.store.database.close()
        here.take_database()
        return {"accuracy": 0.5}

    def raise_at_end() -> None:
        if error is not None:
            raise error

    here.watch.at_end = raise_at_end
    worker = here.worker(function, limit=limit)
    report = worker.run_all()
    assert report.executed == 1
    assert report.stopped_by is error if error else isinstance(report.stopped_by, ResultsInJournalError)
    assert caplog.records == []
    here.give_database()
    assert here.attempts() == [(None, None)]
    assert replay_journals(here.opened, here.directory, LOGGER) == 1, "the worker has closed it"
    assert here.attempts() == [("done", None)]


def test_an_experiment_of_its_own_whose_results_are_in_the_journal_is_not_released(here: Study) -> None:
    workers: list[Worker] = []

    def claim(worker: Worker) -> Any:
        workers.append(worker)
        return worker.store.claim(worker.info, worker._task.selection)

    def function(*_: object) -> dict[str, Any]:
        here.opened.database.close()
        workers[0].store.database.close()
        here.take_database()
        return {"accuracy": 0.5}

    with pytest.raises(ResultsInJournalError):
        run_one(here.task(function), claim)
    here.give_database()
    assert here.attempts() == [(None, None)]
    assert replay_journals(here.opened, here.directory, LOGGER) == 1, "the worker has closed it"
    assert here.attempts() == [("done", None)]


def test_what_cannot_be_released_is_reported(here: Study, caplog: pytest.LogCaptureFixture) -> None:
    def raise_at_claim() -> None:
        here.opened.database.close()
        worker.store.database.close()
        here.take_database()
        raise RuntimeError("of the test")

    here.watch.at_claim = raise_at_claim
    worker = here.worker(pass_by)
    assert type(worker.run_all().stopped_by) is RuntimeError
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("could not release the experiments of worker identity: ")


def test_what_stops_a_worker_before_it_begins_is_reported(here: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    error = KeyboardInterrupt()

    def interrupted(*_: object) -> None:
        raise error

    monkeypatch.setattr(module, "Worker", interrupted)
    assert run_worker(here.task(pass_by)) == WorkerReport(0, error)


@pytest.mark.parametrize("signals", [0, 2])
def test_an_interrupt_stops_more_than_the_worker_unless_a_signal_raised_it(
    here: Study, monkeypatch: pytest.MonkeyPatch, signals: int
) -> None:
    """A signal's usual effect, if it has one, has taken place by then: SIGUSR1 is a notice."""

    def claimed(*_: object) -> None:
        for _ in range(signals):
            signal.raise_signal(signal.SIGUSR1)
        raise KeyboardInterrupt

    monkeypatch.setattr(OwnWatch, "claimed", claimed)
    report = run_worker(here.task(pass_by, signals=["SIGUSR1"]))
    assert (report.executed, type(report.stopped_by)) == (0, type(None) if signals else KeyboardInterrupt)
    assert outcomes(here.target) == {"released": 1}


def test_the_versions_of_the_code_are_looked_up_for_each_worker(here: Study) -> None:
    module.code_state("of an earlier worker")
    run_worker(here.task(pass_by))
    assert module.code_state.cache_info().misses == 1


# Copies


def test_custom_fields_are_copied_if_they_can_be() -> None:
    custom = {"list": [1], "lock": threading.Lock()}
    copied = copies(custom)
    assert copied == custom
    assert copied["list"] is not custom["list"]
