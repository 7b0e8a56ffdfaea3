"""The database goes away and comes back, in every way: no result is lost, none is written twice, nothing hangs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus, PyExperimenter, PyExperimenterError, ResultProcessor
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import DatabaseError, DatabaseFullError, ResultsInJournalError, ServerUnreachableError
from tests.support.mariadb import PrivateMariaDB
from tests.support.postgresql import PrivatePostgreSQL
from tests.support.proxies import CutOffWorker, Proxy, leading_nowhere, through_port
from tests.support.study import credentials, experimenter, isolations, outcomes, statuses, store, study, wait_until
from tests.support.target import Target, write_credentials


@dataclass(frozen=True)
class Signs:
    """Files by which functions, wherever they run, and the test tell each other how far they are."""

    directory: Path

    def give(self, sign: object) -> None:
        (self.directory / str(sign)).touch()

    def wait_for(self, sign: object) -> None:
        wait_until((self.directory / str(sign)).exists)


@pytest.fixture
def signs(tmp_path: Path) -> Signs:
    (tmp_path / "signs").mkdir()
    return Signs(tmp_path / "signs")


@pytest.fixture
def proxy(mariadb_target: Target) -> Iterator[Proxy]:
    assert mariadb_target.server is not None
    way = Proxy(mariadb_target.server.host, mariadb_target.server.port)
    yield way
    way.close()


@pytest.fixture
def private_target(private_mariadb: PrivateMariaDB, tmp_path: Path) -> Target:
    private_mariadb.create_database("pe")
    return Target("mariadb", "mysql", "pe", private_mariadb, write_credentials(tmp_path / "c.yml", private_mariadb))


def seeds(rows: int) -> dict[str, Any]:
    return {"seed": {"type": "INT", "values": {"start": 0, "stop": rows}}}


def configured(target: Target, signs: Signs, rows: int, **execution: Any) -> dict[str, Any]:
    """A study of so many rows whose journals are beside the signs."""
    return study(
        target,
        keyfields=seeds(rows),
        Custom={"signs": str(signs.directory)},
        Execution={"journal": str(journals_of(signs)), **execution},
    )


def filled(target: Target, signs: Signs, rows: int, **execution: Any) -> PyExperimenter:
    study_ = experimenter(target, configured(target, signs, rows, **execution))
    study_.fill_table_from_config()
    return study_


def journals_of(signs: Signs) -> Path:
    return signs.directory.with_name("journals")


@contextmanager
def executing(study_: PyExperimenter, function: Callable[..., Any], **options: Any) -> Iterator[Future[int]]:
    """Execute in a thread: the main thread is the test's, whose servers end with the thread that started them."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(study_.execute, function, **options)


def assert_each_done_once(target: Target, rows: int, logs: int) -> None:
    """By one attempt a row, whose results and logs are complete. Claims of which nobody knew were released."""
    assert statuses(target) == {"done": rows}
    ended = outcomes(target)
    assert ended.pop("released", 0) >= 0
    assert ended == {"done": rows}
    assert target.query("SELECT COUNT(DISTINCT experiment_id) FROM study__attempts WHERE outcome = 'done'") == [(rows,)]
    right = "accuracy * 4 = seed AND model = seed AND error IS NULL"
    assert target.query(f"SELECT COUNT(*) FROM study WHERE {right}") == [(rows,)]
    written = target.query(
        "SELECT a.experiment_id, COUNT(e.ID), COUNT(DISTINCT e.epoch) FROM study__attempts a "
        "LEFT JOIN study__epochs e ON e.attempt_id = a.ID WHERE a.outcome = 'done' GROUP BY a.experiment_id"
    )
    assert {(rows, epochs) for _, rows, epochs in written} == {(logs, logs)}
    assert target.query("SELECT COUNT(*) FROM study__epochs") == [(rows * logs,)]


def measure(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    """Write results, logs and results again; the 10th waits in the middle until it is told that the outage began."""
    signs, seed = Signs(Path(custom["signs"])), keyfields["seed"]
    results.process_results({"model": str(seed)})
    results.process_logs({"epochs": [{"epoch": epoch, "loss": 0.5} for epoch in (1, 2)]})
    signs.give(f"started {seed}")
    if seed == 9:
        signs.wait_for("the outage began")
    results.process_logs({"epochs": {"epoch": 3, "loss": 0.5}})
    return {"accuracy": seed / 4}


# Outages that are waited for


@isolations
@pytest.mark.parametrize("end", ["killed", "shut down"])
def test_a_server_that_goes_down_and_comes_back_costs_nothing(
    private_target: Target, private_mariadb: PrivateMariaDB, signs: Signs, isolation: str, end: str
) -> None:
    study_ = filled(private_target, signs, 40, isolation=isolation, max_outage=60)
    with executing(study_, measure, n_jobs=2) as execution:
        signs.wait_for("started 9")
        if end == "killed":
            private_mariadb.kill()
        else:
            private_mariadb.stop()
        signs.give("the outage began")
        time.sleep(1)  # for which it is away
        private_mariadb.start()
        assert execution.result() == 40
    assert_each_done_once(private_target, 40, 3)
    assert not journals_of(signs).exists()


@isolations
def test_connections_that_are_cut_at_random_cost_nothing(
    mariadb_target: Target, proxy: Proxy, signs: Signs, isolation: str
) -> None:
    filled(mariadb_target, signs, 120)
    target = through_port(mariadb_target, proxy.port)
    study_ = experimenter(target, configured(target, signs, 120, isolation=isolation, max_outage=60))
    with executing(study_, measure, n_jobs=2) as execution:
        signs.wait_for("started 9")
        proxy.cut_at_random(0.02, seed=1)
        signs.give("the outage began")
        assert execution.result() == 120
    assert proxy.cuts > 10
    assert_each_done_once(mariadb_target, 120, 3)
    assert not journals_of(signs).exists()


@isolations
@pytest.mark.parametrize("for_good", [False, True], ids=["goes on", "is forgotten"])
def test_a_silent_connection_costs_nothing(
    mariadb_target: Target, proxy: Proxy, signs: Signs, isolation: str, for_good: bool
) -> None:
    """If it does not go on, it is given up, and what was to be written is written through another."""
    filled(mariadb_target, signs, 11)
    target = through_port(mariadb_target, proxy.port)
    study_ = experimenter(target, configured(target, signs, 11, isolation=isolation, max_outage=4))
    with executing(study_, measure) as execution:
        signs.wait_for("started 9")
        proxy.blackhole(for_good)
        signs.give("the outage began")
        assert proxy.holding.wait(60)
        proxy.heal()
        assert execution.result() == 11
    assert_each_done_once(mariadb_target, 11, 3)
    assert not journals_of(signs).exists()


# Outages that are longer than a worker waits


def away_in_the_middle(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    """Write some results and logs before the outage, the rest in it. Custom's `death` says when it is killed."""
    signs = Signs(Path(custom["signs"]))
    results.process_results({"model": "before"})
    results.process_logs({"epochs": {"epoch": 1, "loss": 0.5}})
    signs.give("started")
    signs.wait_for("the outage began")
    results.process_results({"model": "within"})
    results.process_logs({"epochs": [{"epoch": 2, "loss": 0.5}, {"epoch": 3, "loss": 0.5}]})
    print("printed within")
    if custom.get("death") == "back":
        signs.wait_for("the outage ended")
    if custom.get("death"):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"accuracy": 0.5}


@contextmanager
def outage(proxy: Proxy, signs: Signs) -> Iterator[None]:
    """In the middle of a function that says when it has started; the database is back when the block ends."""
    signs.wait_for("started")
    proxy.refuse()
    signs.give("the outage began")
    yield
    proxy.heal()


def journaled(
    target: Target, proxy: Proxy, signs: Signs, isolation: str, death: str | None = None, **options: Any
) -> tuple[PyExperimenter, ResultsInJournalError]:
    """Execute one of two rows, whose end finds the database away for too long."""
    filled(target, signs, 2)
    config = configured(through_port(target, proxy.port), signs, 2, isolation=isolation, max_outage=2)
    config["PY_EXPERIMENTER"]["Custom"]["death"] = death
    study_ = experimenter(through_port(target, proxy.port), config)
    with executing(study_, away_in_the_middle, **options) as execution, outage(proxy, signs):
        with pytest.raises(ResultsInJournalError) as error:
            execution.result()
        assert statuses(target) == {"created": 1, "running": 1}
        assert outcomes(target) == {None: 1}
        assert target.query("SELECT accuracy, model, error FROM study WHERE ID = 1") == [(None, "before", None)]
        assert target.query("SELECT epoch FROM study__epochs") == [(1,)]
    return study_, error.value


def assert_synced(target: Target, signs: Signs) -> None:
    assert statuses(target) == {"created": 1, "done": 1}
    assert outcomes(target) == {"done": 1}
    assert target.query("SELECT accuracy, model, error FROM study WHERE ID = 1") == [(0.5, "within", None)]
    assert target.query("SELECT epoch, attempt_id FROM study__epochs ORDER BY ID") == [(1, 1), (2, 1), (3, 1)]
    assert target.query("SELECT late_results FROM study__attempts") == [(None,)]
    assert list(journals_of(signs).iterdir()) == []


# A script, below, is the fourth case.
@pytest.mark.parametrize(
    ("isolation", "options"), [("process", {"max_experiments": 1}), ("none", {"max_experiments": 1}), ("none", {})]
)
def test_results_wait_in_a_journal_for_the_database(
    mariadb_target: Target, proxy: Proxy, signs: Signs, isolation: str, options: dict[str, int]
) -> None:
    study_, error = journaled(mariadb_target, proxy, signs, isolation, **options)
    (journal,) = journals_of(signs).iterdir()
    assert str(journal) in str(error)
    assert "the next execute() in this directory writes it, or sync()" in str(error)
    assert study_.sync() == 1
    assert_synced(mariadb_target, signs)
    if isolation == "process":
        assert mariadb_target.query("SELECT output FROM study__attempts") == [("printed within\n",)]
    assert study_.sync() == 0


def test_an_execution_whose_end_waits_in_a_journal_is_not_given_back(
    mariadb_target: Target, proxy: Proxy, signs: Signs
) -> None:
    """Although the database is back when the worker ends."""
    filled(mariadb_target, signs, 2)
    target = through_port(mariadb_target, proxy.port)
    study_ = experimenter(target, configured(target, signs, 2, isolation="none", max_outage=2))
    proxy.cut_on(b"outcome = 'done'", b"SELECT worker FROM")  # the end, and what is asked before a journal is written
    with pytest.raises(ResultsInJournalError):
        study_.execute(again)
    assert statuses(mariadb_target) == {"created": 1, "running": 1}
    assert outcomes(mariadb_target) == {None: 1}
    proxy.heal()
    assert study_.sync() == 1
    assert statuses(mariadb_target) == {"created": 1, "done": 1}
    assert outcomes(mariadb_target) == {"done": 1}


def test_a_process_that_dies_while_the_database_is_away_has_its_death_in_the_journal(
    mariadb_target: Target, proxy: Proxy, signs: Signs
) -> None:
    study_, error = journaled(mariadb_target, proxy, signs, "process", death="away")
    (journal,) = journals_of(signs).iterdir()
    assert str(journal) in str(error)
    assert study_.sync() == 1
    assert_dead(mariadb_target, signs)
    assert study_.sync() == 0


def assert_dead(target: Target, signs: Signs) -> None:
    assert statuses(target) == {"created": 1, "error": 1}
    assert outcomes(target) == {"error": 1}
    ((accuracy, model, cause),) = target.query("SELECT accuracy, model, error FROM study WHERE ID = 1")
    assert (accuracy, model) == (None, "within")
    assert cause == "killed by SIGKILL (out of memory?)\nThe last that it printed:\nprinted within\n"
    assert target.query("SELECT epoch FROM study__epochs ORDER BY ID") == [(1,), (2,), (3,)]
    assert target.query("SELECT late_results, output FROM study__attempts") == [(None, "printed within\n")]
    assert list(journals_of(signs).iterdir()) == []


def test_a_process_that_dies_when_the_database_is_back_has_written_what_it_reported(
    mariadb_target: Target, proxy: Proxy, signs: Signs
) -> None:
    filled(mariadb_target, signs, 2)
    target = through_port(mariadb_target, proxy.port)
    config = configured(target, signs, 2, isolation="process", max_outage=2)
    config["PY_EXPERIMENTER"]["Custom"]["death"] = "back"
    with executing(experimenter(target, config), away_in_the_middle, max_experiments=1) as execution:
        with outage(proxy, signs):
            wait_until(lambda: [file for file in journals_of(signs).glob("*") if file.read_text().count("\n") == 2])
        signs.give("the outage ended")
        assert execution.result() == 1
    assert_dead(mariadb_target, signs)


SCRIPT = """
import json, sys
from pyexperimenter import PyExperimenter
from test_outages import away_in_the_middle, wait_for_the_end

config, options = json.loads(sys.argv[2]), json.loads(sys.argv[3])
study = PyExperimenter(config, log_level="ERROR", **options)
if sys.argv[1] == "sync":
    print(study.sync())
else:
    study.execute(globals()[sys.argv[1]])
"""


@contextmanager
def script(target: Target, config: dict[str, Any], doing: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script that executes a function of this module, or syncs; it does not outlive the block."""
    options = {name: str(value) for name, value in credentials(target).items()}
    command = [sys.executable, "-c", SCRIPT, doing, json.dumps(config), json.dumps(options)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_script_whose_results_wait_in_a_journal_says_so_and_fails(
    mariadb_target: Target, proxy: Proxy, signs: Signs
) -> None:
    study_ = filled(mariadb_target, signs, 2)
    target = through_port(mariadb_target, proxy.port)
    config = configured(target, signs, 2, isolation="process", max_outage=2)
    with script(target, config, "away_in_the_middle") as process:
        with outage(proxy, signs):
            _, told = process.communicate(timeout=120)
        assert process.returncode == 1
    (journal,) = journals_of(signs).iterdir()
    last = told.splitlines()[-1]
    assert last.startswith("pyexperimenter.exceptions.ResultsInJournalError: Can't connect to MySQL server on")
    assert f"waits in {journal}: the next execute() in this directory writes it, or sync()" in last
    assert study_.sync() == 1
    assert_synced(mariadb_target, signs)


@pytest.mark.timeout(60)
def test_a_server_that_is_not_there_at_the_beginning_is_not_waited_for(
    private_target: Target, private_mariadb: PrivateMariaDB, signs: Signs
) -> None:
    filled(private_target, signs, 2)
    private_mariadb.kill()
    study_ = experimenter(private_target, configured(private_target, signs, 2, isolation="process", max_outage=6000))
    with pytest.raises(ServerUnreachableError, match="check host, port and that the server runs"):
        study_.execute(measure)
    private_mariadb.start()
    assert statuses(private_target) == {"created": 2}
    assert outcomes(private_target) == {}


# Journals


def cut_off(target: Target, signs: Signs, rows: int = 1, logs: int = 2) -> tuple[ExperimentStore, CutOffWorker]:
    """Executions of so many rows that ended while the database was away, in the journal of a worker that lives."""
    opened = store(target, filled=False, keyfields=seeds(rows))
    cut_off = CutOffWorker(target, journals_of(signs), keyfields=seeds(rows))
    epochs = {"epochs": [{"epoch": epoch, "loss": 0.5} for epoch in range(logs)]}
    for attempt in [cut_off.claim_by(opened) for _ in range(rows)]:
        cut_off.write_logs(attempt, epochs)
        cut_off.finish(attempt, ExperimentStatus.DONE, results={"accuracy": 0.5, "model": "late"})
    return opened, cut_off


def test_the_next_execution_writes_what_waits_in_a_journal(target: Target, signs: Signs) -> None:
    study_ = filled(target, signs, 3)
    cut_off(target, signs, 2)[1].die()
    assert statuses(target) == {"created": 1, "running": 2}
    assert study_.execute(again) == 1
    assert statuses(target) == {"done": 3}
    assert outcomes(target) == {"done": 3}
    assert target.query("SELECT model, COUNT(*) FROM study GROUP BY model ORDER BY model") == [
        ("again", 1),
        ("late", 2),
    ]
    assert list(journals_of(signs).iterdir()) == []


@pytest.mark.parametrize("how", ["reset", "reaped"])
def test_results_that_waited_while_the_row_was_executed_anew_stay_with_their_own_attempt(
    target: Target, signs: Signs, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    study_ = filled(target, signs, 1)
    opened, worker = cut_off(target, signs)
    worker.die()
    if how == "reset":
        assert study_.reset_experiments("running") == 1
    else:
        target.query("UPDATE study__attempts SET lease_until = '2000-01-01 00:00:00'")  # long ago
        (silent,) = opened.silent()
        assert opened.reap(silent, max_lost=3)
    elsewhere = configured(target, signs, 1, isolation="none", journal=str(tmp_path / "elsewhere"))
    assert experimenter(target, elsewhere).execute(again) == 1
    row = "SELECT status, accuracy, model, error FROM study"
    assert target.query(row) == [("done", 0.75, "again", None)]
    (journal,) = journals_of(signs).iterdir()
    study_.logger.setLevel("WARNING")
    assert study_.sync() == 0
    assert target.query(row) == [("done", 0.75, "again", None)]
    attempts = target.query("SELECT number, outcome, late_results FROM study__attempts ORDER BY ID")
    assert [(number, outcome, late and json.loads(late)) for number, outcome, late in attempts] == [
        (1, "reset" if how == "reset" else "lost", {"accuracy": 0.5, "model": "late"}),
        (2, "done", None),
    ]
    assert target.query("SELECT attempt_id, epoch FROM study__epochs") == [(2, 10)]
    assert not journal.exists()
    assert f"{journal}: attempt 1 does not hold experiment 1 any more" in caplog.text
    assert study_.sync() == 0


def again(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    results.process_logs({"epochs": {"epoch": 10, "loss": 0.1}})
    return {"accuracy": 0.75, "model": "again"}


def test_a_sync_while_the_database_is_still_away_keeps_the_journal(target: Target, signs: Signs) -> None:
    study_ = filled(target, signs, 1)
    _, worker = cut_off(target, signs)
    worker.die()
    (journal,) = journals_of(signs).iterdir()
    content = journal.read_text()
    away = leading_nowhere(target)
    with pytest.raises(DatabaseError):
        experimenter(away, configured(away, signs, 1)).sync()
    assert journal.read_text().rstrip() == content.rstrip()
    assert study_.sync() == 1
    assert not journal.exists()
    assert statuses(target) == {"done": 1}


def test_a_journal_is_written_once_however_often_the_writer_is_killed(target: Target, signs: Signs) -> None:
    rows, logs = 25, 20
    study_ = filled(target, signs, rows)
    _, worker = cut_off(target, signs, rows, logs)
    worker.die()
    assert target.query("SELECT COUNT(*) FROM study__epochs") == [(0,)]
    done = [0]
    while len(done) < 4 and done[-1] < rows:
        with script(target, configured(target, signs, rows), "sync"):
            # Killed in whatever it does after the next attempt.
            wait_until(lambda: statuses(target).get("done", 0) > done[-1])
        done.append(statuses(target)["done"])
    study_.sync()
    assert_synced_rows(target, rows, logs)
    assert list(journals_of(signs).iterdir()) == []


def assert_synced_rows(target: Target, rows: int, logs: int) -> None:
    assert statuses(target) == {"done": rows}
    assert outcomes(target) == {"done": rows}
    assert target.query("SELECT COUNT(*) FROM study WHERE accuracy = 0.5 AND model = 'late'") == [(rows,)]
    written = "SELECT COUNT(*) FROM study__epochs GROUP BY attempt_id"
    assert target.query(written) == [(logs,)] * rows
    assert target.query("SELECT COUNT(*) FROM study__attempts WHERE late_results IS NOT NULL") == [(0,)]


def test_a_journal_of_a_living_worker_is_left_to_it(target: Target, signs: Signs) -> None:
    filled(target, signs, 1)
    _, worker = cut_off(target, signs)
    (journal,) = journals_of(signs).iterdir()
    content = journal.read_text()
    with script(target, configured(target, signs, 1), "sync") as syncing:
        assert syncing.communicate(timeout=60) == ("0\n", "")
    assert journal.read_text() == content
    assert statuses(target) == {"running": 1}
    worker.die()
    with script(target, configured(target, signs, 1), "sync") as syncing:
        assert syncing.communicate(timeout=60) == ("1\n", "")
    assert not journal.exists()
    assert_synced_rows(target, 1, 2)


# Heartbeats


def wait_for_the_end(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    signs = Signs(Path(custom["signs"]))
    signs.give(f"started {keyfields['seed']}")
    signs.wait_for("end")
    return {"accuracy": keyfields["seed"] / 4}


@isolations
def test_an_outage_longer_than_the_lease_costs_no_living_worker_its_row(
    mariadb_target: Target, proxy: Proxy, signs: Signs, isolation: str
) -> None:
    """Although another experimenter, which the outage passes by, looks for silent workers in the middle of it."""
    heartbeat, lease = 4, 4.5
    execution = {"isolation": isolation, "heartbeat": heartbeat, "lease": lease}
    filled(mariadb_target, signs, 1)
    target = through_port(mariadb_target, proxy.port)
    study_ = experimenter(target, configured(target, signs, 1, **execution))
    looking = Proxy(*proxy.server)
    other = through_port(mariadb_target, looking.port)
    beaten = "SELECT heartbeat, lease_until > UTC_TIMESTAMP(6) FROM study__attempts"
    with closing(looking), executing(study_, wait_for_the_end) as execution_:
        signs.wait_for("started 0")
        proxy.refuse()
        ((last, _),) = wait_until(lambda: [row for row in mariadb_target.query(beaten) if not row[1]])
        looking.swallow_next(b"a.lease_until <")
        with script(other, configured(other, signs, 1, **execution), "wait_for_the_end") as process:
            # It has looked, and looks again.
            assert looking.swallowed.wait(60)
            proxy.heal()
            # It ends when nobody is silent any more, as there is nothing for it to do.
            assert process.communicate(timeout=60) == ("", "")
            assert process.returncode == 0
        ((heartbeat_, holds),) = mariadb_target.query(beaten)
        assert heartbeat_ > last
        assert holds
        assert statuses(mariadb_target) == {"running": 1}
        assert outcomes(mariadb_target) == {None: 1}
        signs.give("end")
        assert execution_.result() == 1
    assert statuses(mariadb_target) == {"done": 1}
    assert outcomes(mariadb_target) == {"done": 1}


# Locks of others, and a full disk


@isolations
def test_a_row_that_a_person_has_locked_is_waited_for(
    private_target: Target, private_mariadb: PrivateMariaDB, signs: Signs, isolation: str
) -> None:
    """For longer than the server lets a statement wait."""
    private_target.query("SET GLOBAL innodb_lock_wait_timeout = 1")
    study_ = filled(private_target, signs, 10, isolation=isolation)
    with executing(study_, measure) as execution, closing(private_target.connect()) as person:
        signs.wait_for("started 9")
        cursor = person.cursor()
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM study WHERE ID = 10 FOR UPDATE")
        waits = "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_waits'"
        ((_, before),) = private_target.query(waits)
        signs.give("the outage began")
        # The second begins when the first was in vain.
        wait_until(lambda: int(private_target.query(waits)[0][1]) >= int(before) + 2)
        assert statuses(private_target) == {"running": 1, "done": 9}
        cursor.execute("ROLLBACK")
        assert execution.result() == 10
    assert_each_done_once(private_target, 10, 3)
    assert not journals_of(signs).exists()


@pytest.mark.parametrize("kill", ["KILL {}", "KILL QUERY {}"])
def test_a_connection_that_an_administrator_kills_costs_nothing(
    mariadb_target: Target, signs: Signs, kill: str
) -> None:
    study_ = filled(mariadb_target, signs, 10, isolation="none")
    with executing(study_, measure) as execution, closing(mariadb_target.connect()) as person:
        signs.wait_for("started 9")
        cursor = person.cursor()
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM study WHERE ID = 10 FOR UPDATE")
        signs.give("the outage began")
        waiting = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND info LIKE '%FOR UPDATE'"
        ((waits,),) = wait_until(lambda: mariadb_target.query(waiting))
        cursor.execute(kill.format(waits))
        cursor.execute("ROLLBACK")
        assert execution.result() == 10
    assert_each_done_once(mariadb_target, 10, 3)
    assert not journals_of(signs).exists()


LOCKER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


@isolations
def test_a_file_that_another_process_has_locked_is_waited_for(
    sqlite_target: Target, signs: Signs, isolation: str
) -> None:
    study_ = filled(sqlite_target, signs, 20, isolation=isolation, max_outage=60)
    command = [sys.executable, "-c", LOCKER, sqlite_target.database]
    with executing(study_, measure, n_jobs=2) as execution:
        signs.wait_for("started 9")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as locker:
            assert locker.stdout is not None
            assert locker.stdout.readline() == "locked\n"
            before = statuses(sqlite_target)
            signs.give("the outage began")
            time.sleep(1)  # for which it is locked
            assert statuses(sqlite_target) == before
            locker.communicate()
        assert execution.result() == 20
    assert_each_done_once(sqlite_target, 20, 3)
    assert not journals_of(signs).exists()


def on_a_full_disk(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    """No file of this process may grow beyond the custom field `most` from now on."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (custom["most"], hard))
    results.process_results({"model": "x" * 5000})
    results.process_logs({"epochs": [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.5}]})
    return {"accuracy": 0.5}


def test_results_that_find_the_disk_full_wait_in_a_journal(sqlite_target: Target, signs: Signs) -> None:
    config = configured(sqlite_target, signs, 2, isolation="process", max_outage=2)
    config["PY_EXPERIMENTER"]["Custom"]["most"] = 16 * 1024  # less than the database, more than the journal
    study_ = experimenter(sqlite_target, config)
    study_.fill_table_from_config()
    with pytest.raises(ResultsInJournalError, match=r"disk .*nothing committed was lost"):
        study_.execute(on_a_full_disk)
    assert statuses(sqlite_target) == {"created": 1, "running": 1}
    assert outcomes(sqlite_target) == {None: 1}
    assert sqlite_target.query("SELECT accuracy, model FROM study WHERE ID = 1") == [(None, None)]
    assert sqlite_target.query("PRAGMA integrity_check") == [("ok",)]
    assert study_.sync() == 1
    assert statuses(sqlite_target) == {"created": 1, "done": 1}
    assert outcomes(sqlite_target) == {"done": 1}
    assert sqlite_target.query("SELECT accuracy, length(model) FROM study WHERE ID = 1") == [(0.5, 5000)]
    assert sqlite_target.query("SELECT epoch FROM study__epochs ORDER BY ID") == [(1,), (2,)]
    assert list(journals_of(signs).iterdir()) == []


def test_a_disk_too_full_for_a_journal_is_told_of(sqlite_target: Target, signs: Signs) -> None:
    config = configured(sqlite_target, signs, 2, isolation="process", max_outage=2)
    config["PY_EXPERIMENTER"]["Custom"]["most"] = 1024
    study_ = experimenter(sqlite_target, config)
    study_.fill_table_from_config()
    with pytest.raises(PyExperimenterError, match=re.escape(str(journals_of(signs)))):
        study_.execute(on_a_full_disk)
    assert sqlite_target.query("PRAGMA integrity_check") == [("ok",)]
    assert sqlite_target.query("SELECT COUNT(accuracy), COUNT(model) FROM study") == [(0, 0)]
    assert sqlite_target.query("SELECT COUNT(*) FROM study__epochs") == [(0,)]
    study_.sync()
    study_.reset_experiments("all")
    assert study_.execute(again) == 2
    assert statuses(sqlite_target) == {"done": 2}


@contextmanager
def no_room(target: Target, table: str) -> Iterator[None]:
    """Let a PostgreSQL server find the disk full where it writes the first rows of a table, which only later ones open.

    Their file is /dev/full, which takes nothing, and says so as a disk does.
    """
    assert isinstance(target.server, PrivatePostgreSQL)
    ((place,),) = target.query("SELECT pg_relation_filepath(CAST(? AS regclass))", table)
    file = target.server.home / "data" / place
    assert file.stat().st_size == 0
    aside = file.rename(file.with_name(f"{file.name}.aside"))
    file.symlink_to("/dev/full")
    yield
    aside.rename(file)


needs_dev_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")


@needs_dev_full
def test_a_fill_that_finds_the_servers_disk_full_can_be_repeated(postgresql_target: Target, signs: Signs) -> None:
    config = configured(postgresql_target, signs, 20)
    experimenter(postgresql_target, config).create_table()
    with no_room(postgresql_target, "study"):
        filling = experimenter(postgresql_target, config)
        with pytest.raises(DatabaseFullError, match=r"No space left on device; free some space on the server; noth"):
            filling.fill_table_from_config()
        assert statuses(postgresql_target) == {}
    assert experimenter(postgresql_target, config).fill_table_from_config() == (20, 0)


def large_model(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    results.process_results({"accuracy": 0.5})
    results.process_logs({"epochs": {"epoch": 1, "loss": 0.5}})
    return {"model": os.urandom(5000).hex()}  # which cannot be compressed


@needs_dev_full
def test_results_that_find_the_servers_disk_full_wait_in_a_journal(postgresql_target: Target, signs: Signs) -> None:
    filled(postgresql_target, signs, 2)
    config = configured(postgresql_target, signs, 2, isolation="none", max_outage=2)
    # Large values have a table of their own.
    ((table,),) = postgresql_target.query(
        "SELECT CAST(reltoastrelid AS regclass) FROM pg_class WHERE relname = 'study'"
    )
    with no_room(postgresql_target, table):
        with pytest.raises(ResultsInJournalError, match=r"No space left on device; free some space on the server"):
            experimenter(postgresql_target, config).execute(large_model)
        assert statuses(postgresql_target) == {"created": 1, "running": 1}
        assert postgresql_target.query("SELECT accuracy, model FROM study WHERE ID = 1") == [(0.5, None)]
    study_ = experimenter(postgresql_target, config)
    assert study_.sync() == 1
    assert study_.execute(large_model) == 1
    assert statuses(postgresql_target) == outcomes(postgresql_target) == {"done": 2}
    assert postgresql_target.query("SELECT accuracy, length(model) FROM study") == [(0.5, 10_000)] * 2
    assert postgresql_target.query("SELECT experiment_id, epoch FROM study__epochs ORDER BY ID") == [(1, 1), (2, 1)]
    assert list(journals_of(signs).iterdir()) == []
