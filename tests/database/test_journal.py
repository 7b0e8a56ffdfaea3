"""The contents of a journal reach the database unchanged, once, and through their own attempt only."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from pyexperimenter import ExperimentStatus
from pyexperimenter.config import load_config
from pyexperimenter.database.records import Attempt, Ending, Note, Usage
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import ClaimLostError, DatabaseError, MissingDatabaseError, ResultsInJournalError
from pyexperimenter.execution.journal_file import SUFFIX, Entry, open_journal
from pyexperimenter.execution.journaling_store import JournalingStore, replay_journals
from tests.support.proxies import CutOffWorker
from tests.support.study import store, study, wait_until, worker
from tests.support.target import Target

with suppress(ImportError):  # Windows lacks it
    import fcntl

LOGGER = logging.getLogger("test")
TIME = "2026-01-02 03:04:05"
EPOCHS = {"epochs": (["epoch", "loss"], [(1, 0.5), (2, 0.25)])}
LOGS = {"epochs": [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]}


@pytest.fixture
def opened(target: Target) -> Iterator[ExperimentStore]:
    opened = store(target)
    yield opened
    opened.database.close()


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    return tmp_path / "results" / "journals"  # neither exists yet


def claim(opened: ExperimentStore) -> Attempt:
    experiment = opened.claim(worker())
    assert experiment is not None
    return experiment.attempt


def notes(token: str = "last", **ending: Any) -> list[Note]:
    """The reports of a function that wrote results, logs, results again, and returned."""
    end = Ending(**{"outcome": "done", "usage": Usage(1.5, 1.25, 1000), "output": "printed", **ending})
    return [
        Note(TIME, f"{token}-but-two", results={"accuracy": 0.25, "model": "tree"}),
        Note(TIME, f"{token}-but-one", logs=EPOCHS),
        Note(TIME, token, results={"accuracy": 0.5}, ending=end),
    ]


def logs_of(target: Target) -> list[tuple[Any, ...]]:
    return target.query("SELECT experiment_id, attempt_id, epoch, loss FROM study__epochs ORDER BY ID")


# The journal is written to the database


def test_a_result_that_the_table_refuses_is_reported(sqlite_target: Target) -> None:
    opened = store(sqlite_target)
    sqlite_target.query(
        "CREATE TRIGGER own BEFORE UPDATE ON study WHEN NEW.model = 'tree' BEGIN SELECT RAISE(ABORT, 'no trees'); END"
    )
    problems = opened.replay(claim(opened), *notes())
    assert list(problems) == ["last-but-two"]
    assert str(problems["last-but-two"]).startswith("model: no trees")
    assert sqlite_target.query("SELECT status, accuracy, model FROM study WHERE ID = 1") == [("done", 0.5, None)]


def test_results_logs_and_the_end_are_written(target: Target, opened: ExperimentStore) -> None:
    opened.replay(claim(opened), *notes())
    row = target.query("SELECT status, accuracy, model, error, end_date IS NOT NULL FROM study WHERE ID = 1")
    assert row == [("done", 0.5, "tree", None, 1)]
    assert logs_of(target) == [(1, 1, 1, 0.5), (1, 1, 2, 0.25)]
    assert {str(time) for (time,) in target.query("SELECT timestamp FROM study__epochs")} == {TIME}
    attempt = "outcome, error, output, wall_seconds, cpu_seconds, max_rss_bytes, late_results, ended IS NOT NULL"
    assert target.query(f"SELECT {attempt} FROM study__attempts") == [
        ("done", None, "printed", 1.5, 1.25, 1000, None, 1)
    ]


def test_all_is_written_or_nothing(target: Target, opened: ExperimentStore) -> None:
    attempt = claim(opened)
    wrong = Note(TIME, "third", logs={"epochs": (["no_such_column"], [(1,)])})
    with pytest.raises(DatabaseError, match="no_such_column"):
        opened.replay(attempt, *notes()[:2], wrong)
    assert target.query("SELECT status, accuracy, model FROM study WHERE ID = 1") == [("running", None, None)]
    assert logs_of(target) == []
    assert target.query("SELECT outcome, replayed FROM study__attempts") == [(None, None)]


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "goes on"])
def test_writing_it_twice_does_nothing(target: Target, opened: ExperimentStore, ended: bool) -> None:
    attempt = claim(opened)
    noted = notes() if ended else notes()[:2]
    for _ in range(2):
        opened.replay(attempt, *noted)
        accuracy, status = (0.5, "done") if ended else (0.25, "running")
        assert target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [(status, accuracy)]
        assert logs_of(target) == [(1, 1, 1, 0.5), (1, 1, 2, 0.25)]
        assert target.query("SELECT outcome, late_results FROM study__attempts") == [("done" if ended else None, None)]


def test_what_was_written_before_is_not_written_again(target: Target, opened: ExperimentStore) -> None:
    attempt = claim(opened)
    opened.replay(attempt, *notes()[:2])
    opened.replay(attempt, *notes())
    assert target.query("SELECT status, accuracy, model FROM study WHERE ID = 1") == [("done", 0.5, "tree")]
    assert logs_of(target) == [(1, 1, 1, 0.5), (1, 1, 2, 0.25)]


@pytest.mark.parametrize("how", ["reset", "taken over", "deleted"])
def test_an_attempt_that_lost_its_row_keeps_what_it_noted(target: Target, opened: ExperimentStore, how: str) -> None:
    attempt = claim(opened)
    if how == "reset":
        assert opened.reset(["running"], None, None, dry_run=False) == 1
    elif how == "taken over":
        target.query("UPDATE study SET status = 'created' WHERE ID = 1")
        opened.finish(claim(opened), ExperimentStatus.DONE, results={"accuracy": 0.75})
    else:
        target.query("DELETE FROM study WHERE ID = 1")
    before = target.query("SELECT ID, status, accuracy, model FROM study ORDER BY ID")
    for noted in (notes()[:2], notes(), notes()):
        with pytest.raises(ClaimLostError, match="nothing was written to the row"):
            opened.replay(attempt, *noted)
        assert target.query("SELECT ID, status, accuracy, model FROM study ORDER BY ID") == before
        assert logs_of(target) == []
    kept = target.query("SELECT late_results, output FROM study__attempts WHERE ID = ?", attempt.id)
    late = [(json.loads(results), output) for results, output in kept]  # MySQL writes JSON in its own way
    assert late == ([] if how == "deleted" else [({"accuracy": 0.5, "model": "tree"}, "printed")])


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_noted_failure_uses_up_a_retry(target: Target, opened: ExperimentStore, retries: int) -> None:
    failures = retries + 1
    for failure in range(1, failures + 1):
        opened.replay(claim(opened), *notes(f"token-{failure}", outcome="error", error="no", retries=retries))
        status, error = ("created", None) if failure < failures else ("error", "no")
        assert target.query("SELECT status, error FROM study WHERE ID = 1") == [(status, error)]
    outcomes = target.query("SELECT outcome, error FROM study__attempts ORDER BY ID")
    assert outcomes == [("retried", "no")] * retries + [("error", "no")]
    assert len(logs_of(target)) == 2 * failures


def test_times_of_results_are_written(target: Target) -> None:
    opened = store(target, result_timestamps=True)
    opened.replay(claim(opened), *notes())
    times = target.query(
        "SELECT accuracy_timestamp IS NULL, model_timestamp IS NULL FROM study WHERE ID < 3 ORDER BY ID"
    )
    assert times == [(0, 0), (1, 1)]


def test_logs_that_arrived_are_not_written_from_a_journal(target: Target, opened: ExperimentStore) -> None:
    attempt = claim(opened)
    for token, rows in (("one", 2), ("two", 4)):
        note = Note(TIME, token, logs=EPOCHS)
        opened.put(attempt, note)
        opened.replay(attempt, Note(TIME, f"{token}-before", results={"accuracy": 0.5}), note)
        assert len(logs_of(target)) == rows


@pytest.mark.parametrize("complete", [True, False])
def test_a_copy_of_a_journal_changes_nothing_that_is_newer(
    target: Target, opened: ExperimentStore, journals: Path, complete: bool
) -> None:
    """A copy of the whole journal, or of what it had before its last entry."""
    journaling = CutOffWorker(target, journals)
    attempt = journaling.claim_by(opened)
    journaling.write_results(attempt, {"accuracy": 0.25, "model": "old"})
    journaling.write_logs(attempt, LOGS)
    (journal,) = journals.iterdir()
    copy = journal.read_bytes()
    journaling.write_logs(attempt, {"epochs": {"epoch": 3, "loss": 0.125}})
    journaling.die()
    copy = journal.read_bytes() if complete else copy
    assert replay_journals(opened, journals, LOGGER) == 1
    opened.write_results(attempt, {"accuracy": 0.5})
    opened.write_logs(attempt, {"epochs": {"epoch": 4, "loss": 0.0625}})
    expected = [(1, 1, 1, 0.5), (1, 1, 2, 0.25), (1, 1, 3, 0.125), (1, 1, 4, 0.0625)]
    for ended in (False, True):
        journal.write_bytes(copy)
        assert replay_journals(opened, journals, LOGGER) == 1
        assert list(journals.iterdir()) == []
        assert logs_of(target) == expected
        status = "done" if ended else "running"
        assert target.query("SELECT status, accuracy, model FROM study WHERE ID = 1") == [(status, 0.5, "old")]
        assert target.query("SELECT late_results FROM study__attempts") == [(None,)]
        if not ended:
            opened.finish(attempt, ExperimentStatus.DONE)


def test_two_that_write_the_same_notes_at_once_double_nothing(target: Target, opened: ExperimentStore) -> None:
    """Both begin before either can write, as the row is locked."""
    attempt = claim(opened)
    copies = [store(target, filled=False) for _ in range(2)]
    with closing(target.connect()) as person, ThreadPoolExecutor(2) as pool:
        cursor = person.cursor()
        cursor.execute("BEGIN IMMEDIATE" if target.server is None else "BEGIN")
        if target.server is not None:
            cursor.execute(target.native("SELECT * FROM study WHERE ID = 1 FOR UPDATE"))
        writing = [pool.submit(copy.replay, attempt, *notes()[:2]) for copy in copies]
        if target.server is not None:
            wait_until(lambda: target.sessions_waiting() == 2)
        cursor.execute("ROLLBACK")
        for done in writing:
            assert done.result() == {}
    assert logs_of(target) == [(1, 1, 1, 0.5), (1, 1, 2, 0.25)]
    assert target.query("SELECT accuracy FROM study WHERE ID = 1") == [(0.25,)]


# Through a file


KINDS: dict[str, tuple[str, Any]] = {
    "an_int": ("INT", -5),
    "a_bigint": ("BIGINT", 2**63 - 1),
    "a_double": ("DOUBLE", 0.1),
    "a_tiny_double": ("DOUBLE", 5e-324),
    "a_decimal": ("DECIMAL(8,3)", 12345.678),
    "a_bool": ("BOOL", True),
    "a_varchar": ("VARCHAR(50)", "\U0001f9ea \u2028 \x85 \r\n\t '\" \\ \x1c trailing "),
    "an_empty_text": ("TEXT", ""),
    "a_longtext": ("LONGTEXT", "ü\n" * 1_000_000),
    "a_json": ("JSON", {"a": [1, None, 0.5, {"\0base64": "AA=="}], "\U0001f9ea": "\u2029"}),
    "a_datetime": ("DATETIME", datetime(2026, 1, 2, 3, 4, 5, 678901)),
    "a_date": ("DATE", date(2026, 1, 2)),
    "a_blob": ("LONGBLOB", bytes(range(256)) * 1000),
    "a_null": ("DOUBLE", None),
}


def test_values_of_every_kind_are_as_written_without_a_journal(target: Target, journals: Path) -> None:
    kinds = KINDS | ({"an_infinity": ("DOUBLE", float("-inf"))} if target.name in ("sqlite", "postgresql") else {})
    fields = {name: type_ for name, (type_, _) in kinds.items()}
    values = {name: value for name, (_, value) in kinds.items()}
    changes = {"resultfields": fields, "logtables": {"steps": fields}}
    opened = store(target, **changes)
    opened.database.patience = 0
    journaling = CutOffWorker(target, journals, **changes)
    straight, noted = claim(opened), journaling.claim_by(opened)
    for writing, attempt in ((opened, straight), (journaling, noted)):
        writing.write_results(attempt, values)
        writing.write_logs(attempt, {"steps": [values, {"a_double": 1.0}]})
        writing.finish(attempt, ExperimentStatus.PAUSED, "why \U0001f9ea", Usage(1.5), values, "printed \U0001f9ea")
    journaling.die()
    names = ", ".join(fields)
    assert target.query(f"SELECT status, {names} FROM study WHERE ID = 2") == [("running", *[None] * len(fields))]
    assert replay_journals(opened, journals, LOGGER) == 1
    assert list(journals.iterdir()) == []
    first, second = target.query(f"SELECT status, error, {names} FROM study WHERE ID < 3 ORDER BY ID")
    assert first == second
    assert [name for name, value in zip(fields, first[2:], strict=True) if value is None] == ["a_null"]
    first, second, *more = target.query(f"SELECT {names} FROM study__steps ORDER BY a_double, experiment_id")
    assert first == second
    assert len(more) == 2
    first, second = target.query("SELECT outcome, error, output, wall_seconds FROM study__attempts ORDER BY ID")
    assert first == second


def test_attempts_of_one_worker_are_kept_apart(target: Target, opened: ExperimentStore, journals: Path) -> None:
    journaling = CutOffWorker(target, journals)
    attempts = [journaling.claim_by(opened) for _ in range(3)]
    for attempt in attempts:
        journaling.write_logs(attempt, LOGS)
    for attempt in attempts:
        journaling.finish(attempt, ExperimentStatus.DONE, results={"accuracy": float(attempt.id)})
    journaling.die()
    assert replay_journals(opened, journals, LOGGER) == 3
    assert target.query("SELECT status, accuracy FROM study WHERE ID < 4 ORDER BY ID") == [
        ("done", 1.0),
        ("done", 2.0),
        ("done", 3.0),
    ]
    assert logs_of(target) == [(row, row, epoch, 0.5 / epoch) for row in (1, 2, 3) for epoch in (1, 2)]
    assert list(journals.iterdir()) == []


def test_only_its_end_is_the_end_of_an_attempt(sqlite_target: Target, journals: Path) -> None:
    opened = store(sqlite_target)
    journaling = CutOffWorker(sqlite_target, journals)
    one, other = journaling.claim_by(opened), journaling.claim_by(opened)
    journaling.write_results(one, {"accuracy": 0.5})
    journaling.finish(other, ExperimentStatus.DONE)
    assert not journaling.has_noted_end(one)
    assert journaling.has_noted_end(other)
    journaling.finish(one, ExperimentStatus.DONE)
    assert journaling.has_noted_end(one)
    journaling.die()


def test_a_living_workers_journal_is_written_before_its_next_write(sqlite_target: Target, tmp_path: Path) -> None:
    """And the next outage is waited for as long as the first."""
    opened = store(sqlite_target)
    attempt = claim(opened)
    journaling = JournalingStore(
        load_config(study(sqlite_target, Execution={"max_outage": 100})), tmp_path / "journals", worker().identity
    )
    opened.database.close()  # which merges it into one file
    os.rename(sqlite_target.database, tmp_path / "elsewhere")
    with pytest.raises(MissingDatabaseError):
        journaling.counts()
    journaling.write_results(attempt, {"accuracy": 0.25, "model": "tree"})
    journaling.write_logs(attempt, LOGS)
    assert journaling.database.patience == 5
    (journal,) = (tmp_path / "journals").iterdir()
    os.rename(tmp_path / "elsewhere", sqlite_target.database)
    journaling.write_results(attempt, {"accuracy": 0.5})
    assert not journal.exists()
    assert sqlite_target.query("SELECT accuracy, model FROM study WHERE ID = 1") == [(0.5, "tree")]
    assert len(logs_of(sqlite_target)) == 2
    assert journaling.database.patience == 100
    journaling.finish(attempt, ExperimentStatus.DONE)
    journaling.raise_if_journaled()
    assert sqlite_target.query("SELECT status, COUNT(*) FROM study GROUP BY status ORDER BY status") == [
        ("created", 5),
        ("done", 1),
    ]


@pytest.mark.parametrize("ending", [JournalingStore.give_up_soon, JournalingStore.hurry])
def test_a_worker_that_has_to_end_waits_a_few_seconds_from_then_on(
    sqlite_target: Target, journals: Path, ending: Callable[[JournalingStore], None]
) -> None:
    """Even if the database comes back in between."""
    opened = store(sqlite_target)
    journaling = JournalingStore(
        load_config(study(sqlite_target, Execution={"max_outage": 100})), journals, worker().identity
    )
    attempt = claim(opened)
    assert journaling.database.patience == 100
    ending(journaling)
    assert journaling.database.patience == 5
    journaling._patience.pause(100)
    journaling.write_results(attempt, {"accuracy": 0.25})
    journaling.raise_if_journaled()
    assert journaling.database.patience == 5


def test_in_a_hurry_what_is_being_written_is_journaled(
    sqlite_target: Target, journals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = store(sqlite_target)
    journaling = JournalingStore(load_config(study(sqlite_target)), journals, worker().identity)

    def killed(*_: Any, **__: Any) -> None:
        journaling.hurry()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ExperimentStore, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            journaling.finish(claim(opened), ExperimentStatus.DONE, results={"accuracy": 0.5})
    journaling.close()
    assert sqlite_target.query("SELECT status FROM study WHERE ID = 1") == [("running",)]
    assert replay_journals(opened, journals, LOGGER) == 1
    assert sqlite_target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("done", 0.5)]


def test_what_is_added_while_the_journal_is_being_written_follows(
    sqlite_target: Target, journals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = store(sqlite_target)
    journaling = JournalingStore(load_config(study(sqlite_target)), journals, worker().identity)
    attempt = claim(opened)
    journaling._patience.pause(100)
    journaling.write_results(attempt, {"accuracy": 0.25, "model": "tree"})
    replay = ExperimentStore.replay

    def joined(self: ExperimentStore, *entry: Any) -> Any:
        """Another thread is as quick as that, the first time."""
        monkeypatch.undo()
        journaling.write_results(attempt, {"accuracy": 0.5})
        return replay(self, *entry)

    monkeypatch.setattr(ExperimentStore, "replay", joined)
    assert journaling.caught_up()
    assert sqlite_target.query("SELECT accuracy, model FROM study WHERE ID = 1") == [(0.5, "tree")]
    assert list(journals.iterdir()) == []


def test_an_outage_while_the_journal_is_being_written_rejects_nothing(
    sqlite_target: Target, journals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = store(sqlite_target)
    opened.database.patience = 0
    journaling = CutOffWorker(sqlite_target, journals)
    journaling.finish(journaling.claim_by(opened), ExperimentStatus.DONE, results={"accuracy": 0.5})
    journaling.die()
    replay, away = ExperimentStore.replay, Path(f"{sqlite_target.database}.taken")

    def taken(self: ExperimentStore, *entry: Any) -> Any:
        opened.database.close()
        Path(sqlite_target.database).rename(away)
        return replay(self, *entry)

    with monkeypatch.context() as patched, pytest.raises(MissingDatabaseError):
        patched.setattr(ExperimentStore, "replay", taken)
        replay_journals(opened, journals, LOGGER)
    away.rename(sqlite_target.database)
    assert replay_journals(opened, journals, LOGGER) == 1
    assert sqlite_target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("done", 0.5)]
    assert list(journals.iterdir()) == []


def test_what_is_refused_for_good_is_not_taken_for_an_outage(sqlite_target: Target, journals: Path) -> None:
    opened = store(sqlite_target)
    config = load_config(study(sqlite_target))
    journaling, other = (JournalingStore(config, journals, identity) for identity in (worker().identity, "other"))
    attempt = claim(opened)
    journaling._patience.pause(100)
    journaling.write_results(attempt, {"accuracy": 0.25})
    sqlite_target.query("DROP TABLE study__attempts")
    with pytest.raises(DatabaseError, match="study__attempts"):
        journaling.caught_up()
    with pytest.raises(DatabaseError, match="study__attempts"):
        other.write_results(attempt, {"accuracy": 0.5})
    assert len(list(journals.iterdir())) == 1
    journaling.close()


def test_after_a_failed_try_writes_go_to_the_journal_for_as_long_as_that_took(
    sqlite_target: Target, journals: Path
) -> None:
    """A function that writes often should not spend most of its time waiting."""
    opened = store(sqlite_target)
    journaling = JournalingStore(load_config(study(sqlite_target)), journals, worker().identity)
    attempt = claim(opened)
    journaling._patience.pause(100)
    journaling.write_results(attempt, {"accuracy": 0.25})
    assert sqlite_target.query("SELECT accuracy FROM study WHERE ID = 1") == [(None,)]
    journaling.raise_if_journaled()  # tries at once, and the database is there
    assert sqlite_target.query("SELECT accuracy FROM study WHERE ID = 1") == [(0.25,)]
    journaling.write_results(attempt, {"accuracy": 0.5})
    assert sqlite_target.query("SELECT accuracy FROM study WHERE ID = 1") == [(0.5,)]
    assert list(journals.iterdir()) == []


def test_a_value_that_json_lacks_is_refused_and_leaves_nothing(journals: Path) -> None:
    """All values have been checked before; as a NULL, it would be lost."""
    journals.mkdir(parents=True)
    path = journals / f"one{SUFFIX}"
    journal = open_journal(path, wait=False)
    assert journal is not None
    with pytest.raises(TypeError, match="cannot be written to a journal"):
        journal.add(Entry("one", Attempt(1, 1), Note(TIME, results={"accuracy": object()})))
    journal.close()
    assert path.read_bytes() == b""


def test_a_closed_journal_has_what_is_left_and_no_descriptors(journals: Path) -> None:
    journals.mkdir(parents=True)
    path = journals / f"one{SUFFIX}"
    before = psutil.Process().num_fds()
    for _ in range(20):  # other threads may open a file meanwhile
        journal = open_journal(path, wait=False)
        assert journal is not None
        path.with_suffix(".new").write_bytes(b"of a process that was killed here")
        journal.close([b"first", b"second"])
        assert path.read_bytes() == b"first\nsecond\n"
        journal = open_journal(path, wait=False)
        assert journal is not None
        path.unlink()  # by a person
        journal.close([])
        assert list(journals.iterdir()) == []
    assert psutil.Process().num_fds() < before + 20


def test_one_byte_of_a_line_costs_no_line_after_it(journals: Path) -> None:
    journals.mkdir(parents=True)
    (journals / f"one{SUFFIX}").write_bytes(b"{")
    journal = open_journal(journals / f"one{SUFFIX}", wait=False)
    assert journal is not None
    journal.add(Entry("one", Attempt(1, 1), Note(TIME)))
    content = journal.read()
    assert (len(content.entries), [*content.unreadable]) == (1, [b"{"])
    journal.close()


# Journals that are incomplete or cannot be written


def test_a_journal_of_a_deleted_experiment_is_kept_and_reported(
    target: Target, opened: ExperimentStore, journals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journaling = CutOffWorker(target, journals)
    journaling.finish(journaling.claim_by(opened), ExperimentStatus.DONE, results={"accuracy": 0.5})
    journaling.die()
    target.query("DELETE FROM study WHERE ID = 1")
    (journal,) = journals.iterdir()
    content = journal.read_text()
    for _ in range(2):
        caplog.clear()
        assert replay_journals(opened, journals, LOGGER) == 0
        (record,) = caplog.records
        assert record.levelname == "ERROR"
        for part in (str(journal), "results of experiment 1 cannot be written", "was the experiment deleted?"):
            assert part in record.message
        assert journal.read_text() == content
    assert target.query("SELECT status, COUNT(*) FROM study GROUP BY status") == [("created", 5)]


def test_a_journal_kept_for_one_attempt_doubles_no_logs_of_another(
    target: Target, opened: ExperimentStore, journals: Path
) -> None:
    journaling = CutOffWorker(target, journals)
    deleted, goes_on = journaling.claim_by(opened), journaling.claim_by(opened)
    journaling.write_logs(deleted, LOGS)
    journaling.write_logs(goes_on, LOGS)
    journaling.die()
    target.query("DELETE FROM study WHERE ID = 1")
    assert replay_journals(opened, journals, LOGGER) == 1
    opened.write_logs(goes_on, {"epochs": {"epoch": 3, "loss": 0.125}})
    assert replay_journals(opened, journals, LOGGER) == 0
    assert logs_of(target) == [(2, 2, 1, 0.5), (2, 2, 2, 0.25), (2, 2, 3, 0.125)]
    assert len(list(journals.iterdir())) == 1


def test_a_journal_of_another_table_is_left_alone(
    target: Target, opened: ExperimentStore, journals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = store(target, name="study_2")
    journaling = CutOffWorker(target, journals, name="study_2")
    journaling.finish(journaling.claim_by(other), ExperimentStatus.DONE, results={"accuracy": 0.5})
    journaling.die()
    claim(opened)  # it has the same IDs
    (journal,) = journals.iterdir()
    assert replay_journals(opened, journals, LOGGER) == 0
    assert caplog.records == []
    assert journal.exists()
    assert target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("running", None)]
    assert replay_journals(other, journals, LOGGER) == 1
    assert not journal.exists()
    assert target.query("SELECT status, accuracy FROM study_2 WHERE ID = 1") == [("done", 0.5)]


def test_a_journal_of_another_database_is_kept(sqlite_target: Target, journals: Path) -> None:
    """Its table has the same name, and its rows have the same IDs."""
    opened = store(sqlite_target)
    elsewhere = replace(sqlite_target, database=f"{sqlite_target.database}.2.db")
    other = store(elsewhere)
    journaling = CutOffWorker(elsewhere, journals)
    journaling.finish(journaling.claim_by(other), ExperimentStatus.DONE, results={"accuracy": 0.5})
    journaling.die()
    claim(opened)
    (journal,) = journals.iterdir()
    assert replay_journals(opened, journals, LOGGER) == 0
    assert journal.exists()
    assert sqlite_target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("running", None)]
    assert replay_journals(other, journals, LOGGER) == 1
    assert not journal.exists()
    assert elsewhere.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("done", 0.5)]


def test_a_last_line_that_was_not_written_to_its_end_is_left_out(
    target: Target, opened: ExperimentStore, journals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journaling = CutOffWorker(target, journals)
    attempt = journaling.claim_by(opened)
    journaling.write_results(attempt, {"accuracy": 0.5})
    journaling.write_logs(attempt, LOGS)
    (journal,) = journals.iterdir()
    complete = journal.stat().st_size
    journaling.finish(attempt, ExperimentStatus.DONE, results={"accuracy": 0.75})
    journaling.die()
    os.truncate(journal, (complete + journal.stat().st_size) // 2)
    assert replay_journals(opened, journals, LOGGER) == 1
    assert [(record.levelname, str(journal) in record.message) for record in caplog.records] == [("WARNING", True)]
    (kept,) = journals.iterdir()
    assert f"1 of 3 entries cannot be written to the database, and are kept in {kept}: b'{{" in caplog.text
    assert kept.read_bytes().startswith(b'{"worker": "cut off", ')
    assert target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("running", 0.5)]
    assert len(logs_of(target)) == 2


def test_an_incomplete_line_costs_no_line_after_it(target: Target, opened: ExperimentStore, journals: Path) -> None:
    """A worker's next process continues the journal of one that was killed in the middle of a line."""
    attempt = CutOffWorker(target, journals).claim_by(opened)
    for epoch in (1, 2):
        journaling = CutOffWorker(target, journals)
        journaling.write_logs(attempt, {"epochs": {"epoch": epoch, "loss": 0.5}})
        if epoch == 1:
            (journal,) = journals.iterdir()
            os.truncate(journal, journal.stat().st_size // 2)
        journaling.die()
    assert replay_journals(opened, journals, LOGGER) == 1
    assert logs_of(target) == [(1, 1, 2, 0.5)]
    assert [file.name for file in journals.iterdir()] == [f"{journal.name}.rejected"]


def test_results_that_come_too_late_are_named(
    sqlite_target: Target, journals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = store(sqlite_target)
    journaling = CutOffWorker(sqlite_target, journals)
    attempt = journaling.claim_by(opened)
    journaling.write_results(attempt, {"accuracy": 0.25})
    journaling.finish(attempt, ExperimentStatus.DONE, results={"accuracy": 0.5})
    journaling.die()
    opened.reset(None, None, [1], dry_run=False)
    assert replay_journals(opened, journals, LOGGER) == 0
    (message,) = caplog.messages
    assert "study.cut off.journal.jsonl: " in message
    assert message.endswith("; the results are in late_results of the attempt")


def test_a_journal_that_is_in_use_hides_no_other(sqlite_target: Target, journals: Path) -> None:
    opened = store(sqlite_target)
    workers = [CutOffWorker(sqlite_target, journals, identity) for identity in ("alive", "dead")]
    for cut_off in workers:
        cut_off.finish(cut_off.claim_by(opened), ExperimentStatus.DONE)
    workers[1].die()
    assert replay_journals(opened, journals, LOGGER) == 1
    assert [file.name for file in journals.iterdir()] == ["study.alive.journal.jsonl"]
    workers[0].die()


def test_without_need_there_is_no_journal(target: Target, journals: Path) -> None:
    opened = store(target)
    journaling = JournalingStore(load_config(study(target), credentials_path=target.credentials_file), journals, "one")
    journaling.adopt()
    journaling.write_results(claim(opened), {"accuracy": 0.5})
    journaling.hurry()  # nothing is being written
    assert not journals.exists()


def test_what_was_noted_in_a_hurry_and_written_from_there_is_not_written_again(
    target: Target, journals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(target)
    put = JournalingStore._put
    journaling = JournalingStore(load_config(study(target), credentials_path=target.credentials_file), journals, "one")
    experiment = journaling.claim(replace(worker(), identity="one"))
    assert experiment is not None

    def overtaken(self: JournalingStore, attempt: Attempt, note: Note) -> object:
        journaling.hurry()
        assert journaling.caught_up()
        return put(self, attempt, note)

    monkeypatch.setattr(JournalingStore, "_put", overtaken)
    journaling.write_logs(experiment.attempt, LOGS)
    assert logs_of(target) == [(1, 1, 1, 0.5), (1, 1, 2, 0.25)]


@pytest.mark.parametrize("adopting", [True, False])
def test_a_journal_that_a_sync_is_at_hinders_no_worker(sqlite_target: Target, journals: Path, adopting: bool) -> None:
    """For example the journal of its dead process, when the next process has something to write."""
    opened = store(sqlite_target)
    dead, alive = CutOffWorker(sqlite_target, journals), CutOffWorker(sqlite_target, journals)
    attempt = dead.claim_by(opened)
    dead.write_logs(attempt, {"epochs": {"epoch": 1, "loss": 0.5}})
    dead.die()
    (journal,) = journals.iterdir()
    with journal.open("r+") as syncing:
        fcntl.flock(syncing, fcntl.LOCK_EX)
        release = threading.Timer(0.5, fcntl.flock, [syncing, fcntl.LOCK_UN])
        release.start()
        try:
            if adopting:
                alive.adopt()
                with pytest.raises(ResultsInJournalError):
                    alive.raise_if_journaled()
            alive.write_logs(attempt, {"epochs": {"epoch": 2, "loss": 0.5}})
        finally:
            release.join()
    alive.die()
    replay_journals(opened, journals, LOGGER)
    assert sorted(logs_of(sqlite_target)) == [(1, 1, 1, 0.5), (1, 1, 2, 0.5)]
    assert list(journals.iterdir()) == []
