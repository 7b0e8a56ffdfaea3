"""Results that wait in a journal: the next execution or a sync writes them, once, where they belong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyexperimenter import ExperimentStatus
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import DatabaseError
from tests.support.outages import (
    Signs,
    again,
    configured,
    filled,
    journals_of,
    script,
    seeds,
)
from tests.support.proxies import CutOffWorker, leading_nowhere
from tests.support.study import experimenter, outcomes, statuses, store, wait_until
from tests.support.target import Target


def cut_off(target: Target, signs: Signs, rows: int = 1, logs: int = 2) -> tuple[ExperimentStore, CutOffWorker]:
    """Return a worker that lives, and whose journal has executions of so many rows that ended while it was cut off."""
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
def test_late_results_of_a_row_that_was_run_again_stay_apart(
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
    assert f"{journal}: attempt 1 no longer holds experiment 1" in caplog.text
    assert study_.sync() == 0


def test_a_sync_during_the_outage_keeps_the_journal(target: Target, signs: Signs) -> None:
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


def test_a_journal_is_written_once_even_if_sync_is_often_killed(target: Target, signs: Signs) -> None:
    rows, logs = 25, 20
    study_ = filled(target, signs, rows)
    _, worker = cut_off(target, signs, rows, logs)
    worker.die()
    assert target.query("SELECT COUNT(*) FROM study__epochs") == [(0,)]
    done = [0]
    while len(done) < 4 and done[-1] < rows:
        with script(target, configured(target, signs, rows), "sync"):
            # Killed at any point after the next attempt.
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
