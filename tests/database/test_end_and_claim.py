"""The end of an experiment and the claim of the next one, in one transaction: none of the two is lost or doubled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus
from pyexperimenter.config import load_config
from pyexperimenter.database.claims import Claim
from pyexperimenter.database.records import Experiment
from pyexperimenter.database.selection import Condition, Selection
from pyexperimenter.database.statements import Statements
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import ClaimLostError, DatabaseError
from pyexperimenter.execution.journaling_store import JournalingStore
from tests.database.test_lost_answers import LAST_COMMIT
from tests.support.proxies import Proxy, through_port
from tests.support.study import store, study, worker
from tests.support.target import Target

NEXT = Claim(worker())


def first(opened: ExperimentStore) -> Experiment:
    experiment = opened.claim(worker())
    assert experiment is not None
    return experiment


def end(opened: ExperimentStore, experiment: Experiment, claim: Claim = NEXT) -> Experiment | None:
    return opened.finish(experiment.attempt, ExperimentStatus.DONE, results={"accuracy": 0.5}, claim=claim).claimed


def rows(target: Target) -> list[tuple[Any, ...]]:
    return target.query("SELECT ID, status, accuracy FROM study WHERE status <> 'created' ORDER BY ID")


def attempts(target: Target) -> list[tuple[Any, ...]]:
    return target.query("SELECT experiment_id, number, outcome FROM study__attempts ORDER BY ID")


@pytest.fixture
def proxy(target: Target) -> Iterator[Proxy]:
    assert target.server is not None
    way = Proxy(target.server.host, target.server.port)
    yield way
    way.close()


on_servers = pytest.mark.parametrize("target", ["mariadb", "postgresql", "mysql"], indirect=True)


@pytest.mark.parametrize(("order", "random"), [("", False), ("seed", False), ("", True)])
def test_the_next_is_claimed_in_the_order_of_the_selection(target: Target, order: str, random: bool) -> None:
    opened = store(target)
    selection = opened.selection(order_by=f"-{order}" if order else None, random_order=random)
    claimed = end(opened, first(opened), Claim(worker(), selection))
    assert claimed is not None
    assert claimed.keyfields == opened.keyfields_of(claimed.id)
    if not random:
        assert claimed.keyfields == {"dataset": "iris", "seed": 2 if order else 1}
    assert rows(target) == [(1, "done", 0.5), (claimed.id, "running", None)]
    assert attempts(target) == [(1, 1, "done"), (claimed.id, 1, None)]


def test_when_nothing_is_open_only_the_end_is_written(target: Target) -> None:
    opened = store(target)
    none = Claim(worker(), Selection(Condition("seed = 7")))
    assert end(opened, first(opened), none) is None
    assert rows(target) == [(1, "done", 0.5)]


def test_a_claim_that_fails_does_not_undo_the_end(target: Target) -> None:
    opened = store(target)
    impossible = Claim(worker(), Selection(Condition("no_such_column = 1")))
    assert end(opened, first(opened), impossible) is None
    assert rows(target) == [(1, "done", 0.5)]
    with pytest.raises(DatabaseError, match="no_such_column"):
        opened.claim(*impossible)


def test_a_row_that_cannot_be_read_does_not_undo_the_end(target: Target) -> None:
    opened = store(target, keyfields={"grid": {"type": "JSON", "values": [[1], [2], [3]]}})
    experiment = first(opened)
    if target.provider == "sqlite":
        target.query("UPDATE study SET grid = '{' WHERE ID = 2")
        assert end(opened, experiment) is None
        assert [row[:2] for row in rows(target)] == [(1, "done"), (2, "error")]


def test_an_attempt_that_has_lost_its_row_claims_nothing(target: Target) -> None:
    opened = store(target)
    experiment = first(opened)
    opened.reset(None, None, [1], dry_run=False)
    with pytest.raises(ClaimLostError):
        end(opened, experiment)
    assert rows(target) == []
    assert attempts(target) == [(1, 1, "reset")]
    ((late,),) = target.query("SELECT late_results FROM study__attempts")
    assert "0.5" in late


def test_an_end_of_a_row_that_was_set_by_hand_is_not_taken_for_a_repetition(target: Target) -> None:
    """The attempt is still open then, and closing it must not look like its own earlier end."""
    opened = store(target)
    experiment = first(opened)
    target.query("UPDATE study SET status = 'created' WHERE ID = 1")
    with pytest.raises(ClaimLostError):
        end(opened, experiment)
    assert rows(target) == []


@on_servers
def test_a_race_that_is_lost_does_not_undo_the_end(target: Target) -> None:
    """Without locks, another worker may take the row that was found."""
    opened = store(target)
    experiment = first(opened)
    take = opened._take
    opened.schema.dialect = replace(opened.schema.dialect, row_lock="", skip_locked="")
    opened._sql = Statements(opened.schema)

    def late(*arguments: Any, **options: Any) -> Experiment | None:
        target.query("UPDATE study SET status = 'running', name = 'other' WHERE ID = 2")
        return take(*arguments, **options)

    opened._take = late  # type: ignore[method-assign]
    assert end(opened, experiment) is None
    assert rows(target) == [(1, "done", 0.5), (2, "running", None)]
    assert attempts(target) == [(1, 1, "done")]


# MySQL encrypts its connections, so that the proxy cannot see which answer it loses.
@pytest.mark.parametrize("target", ["mariadb"], indirect=True)
def test_an_answer_that_is_lost_loses_and_doubles_nothing(target: Target, proxy: Proxy) -> None:
    store(target)
    opened = store(through_port(target, proxy.port), filled=False)
    experiment = first(opened)
    proxy.swallow_next(LAST_COMMIT)
    claimed = end(opened, experiment)
    assert proxy.swallowed.is_set()
    assert claimed is not None
    assert claimed.keyfields == {"dataset": "iris", "seed": 1}
    assert attempts(target) == [(1, 1, "done"), (2, 1, None)]
    opened.finish(claimed.attempt, ExperimentStatus.DONE)
    assert [row[1] for row in rows(target)] == ["done", "done"]


@pytest.mark.parametrize("target", ["mariadb"], indirect=True)
def test_what_was_claimed_before_an_outage_is_claimed_again(target: Target, proxy: Proxy, tmp_path: Path) -> None:
    store(target)
    away = through_port(target, proxy.port)
    config = load_config(study(away, Execution={"max_outage": 0.5}), credentials_path=away.credentials_file)
    opened = JournalingStore(config, tmp_path, worker().identity)
    experiment = first(opened)
    proxy.swallow_next(LAST_COMMIT, then_refuse=True)
    assert end(opened, experiment) is None  # it is in the journal
    assert rows(target) == [(1, "done", 0.5), (2, "running", None)]
    proxy.heal()
    opened._patience.restore()
    opened.raise_if_journaled()
    assert first(opened).id == 2
    assert attempts(target) == [(1, 1, "done"), (2, 1, "released"), (2, 2, None)]


@on_servers
def test_an_experiment_and_what_it_writes_take_two_round_trips_each(target: Target, proxy: Proxy) -> None:
    store(target)
    opened = store(through_port(target, proxy.port), filled=False)
    experiment, logs = first(opened), {"epochs": [{"epoch": epoch, "loss": 0.5} for epoch in range(3)]}
    trips: list[list[int]] = [[], [], []]
    for _ in range(5):
        held, before = experiment, proxy.requests
        opened.write_logs(held.attempt, logs)
        after_logs = proxy.requests
        opened.write_results(held.attempt, {"accuracy": 0.25})
        after_results = proxy.requests
        claimed = end(opened, held)
        counts = (after_logs - before, after_results - after_logs, proxy.requests - after_results)
        for kind, number in zip(trips, counts, strict=True):
            kind.append(number)
        assert claimed is not None
        experiment = claimed
    assert [min(kind) for kind in trips] == [2, 2, 2]  # more if the connection was idle for long, and closed
    assert target.query("SELECT COUNT(*) FROM study__epochs") == [(15,)]
