"""The supervisor's decisions, with a process that follows a script, and with a clock that the script sets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus
from pyexperimenter.config import load_config
from pyexperimenter.database.records import Attempt
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import ResultsInJournalError, TooManyErrorsError, WorkerProcessError
from pyexperimenter.execution import stopping
from pyexperimenter.execution.heartbeat import Lease
from pyexperimenter.execution.journal_file import SUFFIX
from pyexperimenter.execution.journaling_store import replay_journals
from pyexperimenter.execution.stopping import Stop
from pyexperimenter.execution.supervision import supervisor
from pyexperimenter.execution.supervision.echo import Echo
from pyexperimenter.execution.supervision.messages import Answer, Claimed, Ended, NothingOpen, Returned, StopRequest
from pyexperimenter.execution.supervision.tail import Tail
from pyexperimenter.execution.task import WorkerReport, WorkerTask
from tests.support.proxies import CutOffWorker
from tests.support.study import outcomes, statuses, store, study, worker
from tests.support.target import Target

LOGGER = logging.getLogger("scripted")
Script = Generator[Sequence[Any], None, None]  # the messages that arrive until the supervisor looks again


class Process:
    """A worker's process that sends what a script yields, and ends with it."""

    def __init__(self, task: WorkerTask, script: Callable[[Process], Script]) -> None:
        self.task = task
        self.tail, self.echo = Tail(), Echo()
        self.max_rss_bytes: int | None = None
        self.is_disconnected = False
        self.suspended = self.has_printed_traceback = False
        self.sent: list[Any] = []
        self.waited: list[float] = []
        self._script = script(self)
        self._ended = False

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._script.close()

    def messages(self, seconds: float) -> Sequence[Any]:
        messages = next(self._script, None)
        self._ended = messages is None
        return messages or []

    def has_ended(self) -> bool:
        return self._ended

    def is_suspended(self) -> bool:
        return self.suspended

    def send(self, message: object) -> None:
        self.sent.append(message)

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)

    def read_output(self) -> None:
        pass

    def clear_output(self) -> None:
        self.tail.clear()

    def print_traceback(self) -> None:
        self.has_printed_traceback = True

    def end(self) -> str:
        return "killed by SIGKILL"


class Heartbeat:
    """Keeps leases, and loses none by itself."""

    def __init__(self) -> None:
        self.kept: list[Lease] = []

    def keep(self, attempt: Attempt) -> Lease:
        self.kept.append(Lease(attempt))
        return self.kept[-1]

    def drop(self, lease: Lease) -> None:
        self.kept.remove(lease)

    def look(self, selection: object, waits: bool) -> float:
        return 7.5


@dataclass
class Scene:
    """A supervisor's study, clock and stop, and the processes that it has started."""

    target: Target
    opened: ExperimentStore
    directory: Path
    clock: Any
    stop: Stop
    heartbeat: Heartbeat
    processes: list[Process]
    monkeypatch: pytest.MonkeyPatch

    def claim(self) -> Attempt:
        experiment = self.opened.claim(worker())
        assert experiment is not None
        return experiment.attempt

    def begin(self) -> Claimed:
        return Claimed(self.claim())

    def end(self, failed: bool = False, resultless: bool = False) -> Ended:
        outcome = ExperimentStatus.ERROR if failed else ExperimentStatus.DONE
        self.opened.finish(self.heartbeat.kept[-1].attempt, outcome, "failed" if failed else None)
        return Ended(failed, resultless)

    def pass_time(self, seconds: float, step: float = 1.0) -> Script:
        for _ in range(round(seconds / step)):
            self.clock.now += step
            yield []

    def supervisor(self, *scripts: Callable[[Process], Script], **options: Any) -> supervisor.Supervisor:
        """Return a supervisor whose processes follow these scripts, one each."""
        left = iter(scripts)

        def start(task: WorkerTask) -> Process:
            script = next(left, None)
            assert script is not None, "the supervisor starts one process more than it should"
            self.processes.append(Process(task, script))
            return self.processes[-1]

        self.monkeypatch.setattr(supervisor, "ChildProcess", start)
        errors, limit = options.pop("errors", 0), options.pop("limit", None)
        execution = {"isolation": "process", "max_outage": 0.001, **options}
        config = load_config(study(self.target, Execution=execution))
        task = WorkerTask(
            config, print, "tester", worker().identity, limit=limit, errors=errors, journal=str(self.directory)
        )
        return supervisor.Supervisor(task, self.stop, self.heartbeat, LOGGER)  # type: ignore[arg-type]

    def run(self, *scripts: Callable[[Process], Script], **options: Any) -> WorkerReport:
        try:
            return self.supervisor(*scripts, **options).run()
        finally:
            assert self.heartbeat.kept == []

    def take_database(self) -> None:
        self.opened.database.close()
        Path(self.target.database).rename(f"{self.target.database}.taken")

    def give_database(self) -> None:
        Path(f"{self.target.database}.taken").rename(self.target.database)

    def attempts(self, columns: str) -> list[tuple[Any, ...]]:
        return self.target.query(f"SELECT {columns} FROM study__attempts ORDER BY ID")


@pytest.fixture
def scene(sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    for module in (supervisor, stopping):
        monkeypatch.setattr(module, "time", clock)
    opened = store(sqlite_target)
    yield Scene(sqlite_target, opened, tmp_path, clock, Stop(), Heartbeat(), [], monkeypatch)
    opened.database.close()


def dies(process: Process) -> Script:
    yield from ()


def finishes(process: Process) -> Script:
    yield [WorkerReport(0)]


# The time limit


def test_the_time_limit_is_that_of_one_execution(scene: Scene) -> None:
    """It counts neither the time before, nor that in which the process, or this one, was suspended."""
    reached: list[str] = []

    def script(process: Process) -> Script:
        yield from scene.pass_time(50)
        yield [scene.begin()]
        yield from scene.pass_time(9, 0.25)
        yield [Returned(asks=False)]
        yield from scene.pass_time(50)
        yield [scene.end()]
        yield from scene.pass_time(50)
        yield [scene.begin()]
        process.suspended = True
        yield from scene.pass_time(50)
        process.suspended = False
        yield from scene.pass_time(1000, step=1000)  # which counts as one second
        yield from scene.pass_time(9)
        reached.append("the limit")
        yield from scene.pass_time(0.25, 0.25)
        reached.append("more")
        yield []

    report = scene.run(script, time_limit=10.0, limit=2)
    assert reached == ["the limit"]
    assert (report.executed, report.stopped_by) == (2, None)
    error = "exceeded time_limit 10s and was killed"
    assert scene.attempts("outcome, error, wall_seconds") == [("done", None, None), ("error", error, 1059.25)]
    assert scene.processes[0].has_printed_traceback


# Stops


@pytest.mark.parametrize(
    ("urgent", "returned", "seconds"),
    [(False, False, 3), (True, False, 0), (False, True, 5), (True, True, 5)],
)
def test_a_stop_gives_an_experiment_its_grace_and_time_to_record_its_outcome(
    scene: Scene, urgent: bool, returned: bool, seconds: float
) -> None:
    reached: list[str] = []

    def script(process: Process) -> Script:
        yield [scene.begin()]
        if returned:
            yield [Returned(asks=False)]
        scene.stop.request(urgent)
        yield from scene.pass_time(seconds, 0.25)
        yield []
        reached.append("the end of its grace")
        scene.clock.now += 0.25
        yield []
        reached.append("more")
        yield []

    report = scene.run(script, grace=3.0)
    assert reached == ["the end of its grace"]
    assert (report.executed, report.stopped_by) == (0, None)
    assert scene.attempts("outcome, error") == [("released", "its worker was stopped")]
    assert scene.processes[0].sent == [StopRequest()]
    assert not scene.processes[0].has_printed_traceback


def test_time_to_record_is_that_of_the_experiment_that_has_returned(scene: Scene) -> None:
    def script(process: Process) -> Script:
        yield [scene.begin(), Returned(asks=False)]
        yield [scene.end(), scene.begin()]
        scene.stop.request(urgent=True)
        scene.clock.now += 0.25
        yield []
        pytest.fail("the second experiment should be released by now")

    assert scene.run(script).executed == 1
    assert scene.attempts("outcome") == [("done",), ("released",)]


def test_one_of_several_supervisors_announces_a_stop(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    def script(process: Process) -> Script:
        scene.stop.request()
        yield from scene.pass_time(1, 0.25)
        yield [WorkerReport(0)]

    scene.run(script, grace=90.0)
    assert len(caplog.records) == 1
    scene.run(script, grace=90.0)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("stopping: running experiments have 1m30s to finish; repeat the signal")


def test_a_process_that_ends_after_a_stop_is_not_replaced(scene: Scene) -> None:
    def script(process: Process) -> Script:
        yield [scene.begin()]
        scene.stop.request()
        yield [scene.end()]

    assert scene.run(script).executed == 1


def test_an_interrupt_of_the_supervisor_releases_the_experiment(scene: Scene) -> None:
    def script(process: Process) -> Script:
        yield [scene.begin()]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scene.run(script)
    assert outcomes(scene.target) == {"released": 1}
    report = supervisor.supervise(scene.supervisor(script)._task)
    assert (report.executed, type(report.stopped_by)) == (0, KeyboardInterrupt)


# One process after another


def test_a_process_that_is_used_up_is_replaced_until_the_limit_is_reached(scene: Scene) -> None:
    def two(process: Process) -> Script:
        for failed in (False, True):
            yield [scene.begin()]
            process.tail.add(b"printed")
            yield [scene.end(failed, resultless=not failed)]
            assert process.tail.text() is None
        yield [WorkerReport(2, used_up=True)]

    report = scene.run(two, two, limit=4)
    assert report == WorkerReport(4, resultless=2)
    assert [process.task.limit for process in scene.processes] == [4, 2]
    assert [process.task.errors for process in scene.processes] == [0, 1]
    assert [process.waited for process in scene.processes] == [[2.0], [2.0]]
    assert statuses(scene.target) == {"created": 2, "done": 2, "error": 2}


def test_a_process_may_take_longer_to_exit_after_the_last_report(scene: Scene) -> None:
    problem = RuntimeError("problem")

    def script(process: Process) -> Script:
        yield [NothingOpen()]
        assert process.sent == [Answer(7.5)]
        yield [WorkerReport(0, problem)]

    assert scene.run(script) == WorkerReport(0, problem)
    assert scene.processes[0].waited == [10.0]


def test_three_processes_in_a_row_may_fail_to_start(scene: Scene) -> None:
    def dies_late(process: Process) -> Script:
        yield [scene.begin()]

    report = scene.run(dies, dies, dies_late, dies, dies, dies)
    assert (report.executed, len(scene.processes)) == (1, 6)
    assert isinstance(report.stopped_by, WorkerProcessError)
    expected = "3 processes of a worker ended before they executed anything: killed by SIGKILL"
    assert str(report.stopped_by) == expected
    assert scene.attempts("outcome, error") == [("error", "killed by SIGKILL")]


def test_deaths_count_as_errors_in_a_row(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    def dies_late(process: Process) -> Script:
        yield [scene.begin()]
        process.tail.add(b"the last words")
        yield []

    def succeeds(process: Process) -> Script:
        yield [scene.begin()]
        yield [scene.end()]
        yield [scene.begin()]

    report = scene.run(dies_late, succeeds, dies_late, stop_after_errors=2, errors=0)
    assert report.executed == 4
    assert isinstance(report.stopped_by, TooManyErrorsError)
    assert [process.task.errors for process in scene.processes] == [0, 1, 1]
    assert [record.getMessage() for record in caplog.records] == [
        f"experiment {number} failed: killed by SIGKILL" for number in (1, 3, 4)
    ]
    assert scene.attempts("output")[0] == ("the last words",)


@pytest.mark.parametrize("limit", [1, 2])
def test_a_death_counts_for_the_limit(scene: Scene, limit: int) -> None:
    def dies_late(process: Process) -> Script:
        yield [scene.begin()]

    assert scene.run(*[dies_late] * limit, limit=limit).executed == limit


# What a process held


def test_an_experiment_that_had_not_begun_is_released(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    def dies_before_it_begins(process: Process) -> Script:
        yield [scene.begin()]
        yield [scene.end()]
        scene.claim()  # dies before it says so

    assert scene.run(dies_before_it_begins, limit=1).executed == 1
    cause = "it had not begun: killed by SIGKILL"
    assert scene.attempts("outcome, error, wall_seconds") == [("done", None, None), ("released", cause, None)]
    assert [record.getMessage() for record in caplog.records] == [f"experiment 2 was released: {cause}"]


def test_an_experiment_that_is_lost_is_stopped_and_its_output_kept(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    def script(process: Process) -> Script:
        yield [scene.begin()]
        process.tail.add(b"the last words")
        (lease,) = scene.heartbeat.kept
        yield [scene.end()]
        lease.lost = True  # as a heartbeat that was under way may find
        yield []
        yield [scene.begin()]
        process.tail.add(b"more words")
        scene.opened.reset(None, None, [2], dry_run=False)
        scene.heartbeat.kept[-1].lost = True
        yield []
        pytest.fail("the second experiment should have been stopped by now")

    scene.run(script, finishes)
    assert scene.attempts("outcome, output") == [("done", None), ("reset", "more words")]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("experiment 2 was stopped: ")


def test_an_experiment_that_cannot_be_released_stops_no_worker(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    def script(process: Process) -> Script:
        yield [scene.begin()]
        scene.target.query(
            "CREATE TRIGGER refusing BEFORE UPDATE ON study BEGIN SELECT RAISE(ABORT, 'no more updates'); END"
        )
        scene.stop.request(urgent=True)
        scene.clock.now += 1
        yield []

    assert scene.run(script) == WorkerReport(0)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("experiment 1 could not be released: no more updates")
    assert statuses(scene.target) == {"created": 5, "running": 1}


# What a process left in its journal


@pytest.mark.parametrize("lasts", [False, True], ids=["outage", "longer outage"])
def test_an_end_in_the_journal_of_a_dead_process_is_kept(scene: Scene, lasts: bool) -> None:
    def script(process: Process) -> Script:
        yield [claimed := scene.begin()]
        cut_off = CutOffWorker(scene.target, scene.directory, worker().identity)
        cut_off.finish(claimed.attempt, ExperimentStatus.DONE, results={"accuracy": 0.5})
        cut_off.die()
        if lasts:
            scene.take_database()

    supervised = scene.supervisor(script, finishes)
    report = supervised.run()
    if lasts:
        assert isinstance(report.stopped_by, ResultsInJournalError)
        scene.give_database()
        assert replay_journals(scene.opened, scene.directory, LOGGER) == 1, "the supervisor has closed it"
    else:
        assert report == WorkerReport(0)
    assert scene.target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("done", 0.5)]
    assert outcomes(scene.target) == {"done": 1}


def test_a_death_while_the_database_is_away_is_in_the_journal(scene: Scene) -> None:
    def script(process: Process) -> Script:
        yield [scene.begin()]
        scene.take_database()

    report = scene.run(script)
    assert (report.executed, type(report.stopped_by)) == (1, ResultsInJournalError)
    scene.give_database()
    assert replay_journals(scene.opened, scene.directory, LOGGER) == 1
    assert scene.attempts("outcome, error") == [("error", "killed by SIGKILL")]


def test_a_death_is_an_error_even_if_the_journal_cannot_be_read(scene: Scene) -> None:
    def script(process: Process) -> Script:
        yield [scene.begin()]
        (scene.directory / f"study.{worker().identity}{SUFFIX}").mkdir()

    assert scene.run(script, limit=1) == WorkerReport(1)
    assert scene.attempts("outcome, error") == [("error", "killed by SIGKILL")]
