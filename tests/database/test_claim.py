from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from pyexperimenter import ExperimentStatus
from pyexperimenter.database import claims
from pyexperimenter.database.claims import Claim
from pyexperimenter.database.connection import Cursor
from pyexperimenter.database.records import Experiment, Usage
from pyexperimenter.database.statements import Statements
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import (
    ClaimLostError,
    ExperimentExistsError,
    InvalidColumnError,
    InvalidExperimentError,
    NoPausedExperimentsException,
    UndecodableValueError,
)
from tests.support.outages import seeds
from tests.support.study import experimenter, store, wait_until, worker
from tests.support.target import Target


def claim(opened: ExperimentStore, **selection: object) -> Experiment:
    experiment = opened.claim(worker(), opened.selection(**selection))  # type: ignore[arg-type]
    assert experiment is not None
    return experiment


def test_claims_go_by_id_and_end_with_none(target: Target) -> None:
    opened = store(target)
    claimed = [claim(opened) for _ in range(6)]
    assert [experiment.id for experiment in claimed] == [1, 2, 3, 4, 5, 6]
    assert claimed[4].keyfields == {"dataset": "wine", "seed": 1}
    assert opened.claim(worker()) is None
    assert target.query("SELECT DISTINCT status, name, machine FROM study") == [("running", "tester", "here")]
    assert target.query("SELECT COUNT(*) FROM study WHERE start_date IS NULL") == [(0,)]


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the database is sent."""
    translated, sent = Cursor._translated, []

    def noted(cursor: Cursor, sql: str, parameters: Mapping[str, Any]) -> tuple[str, list[Any]]:
        sent.append(sql)
        return translated(cursor, sql, parameters)

    monkeypatch.setattr(Cursor, "_translated", noted)
    return sent


def test_a_claim_takes_six_statements_an_end_four_and_both_together_eight(
    target: Target, statements: list[str]
) -> None:
    opened = store(target)

    def taken() -> int:
        number = len(statements)
        statements.clear()
        return number

    taken()
    for _ in range(2):
        experiment = claim(opened)
        assert taken() == 6
        ended = opened.finish(experiment.attempt, ExperimentStatus.DONE, claim=Claim(worker()))
        assert taken() == 8
        assert ended.claimed is not None
        opened.finish(ended.claimed.attempt, ExperimentStatus.DONE, results={"accuracy": 0.5})
        assert taken() == 4


def test_rows_between_many_that_have_ended_are_found_by_few_statements(target: Target, statements: list[str]) -> None:
    opened = store(target, keyfields=seeds(1000))
    target.query("UPDATE study SET status = 'done' WHERE ID NOT IN (1, 1000)")
    statements.clear()
    assert {claim(opened, random_order=True).id for _ in range(2)} == {1, 1000}
    assert len(statements) <= 2 * 9


def test_claims_in_random_order_take_every_row_once(target: Target) -> None:
    orders = set()
    for _ in range(4):
        opened = store(target)
        orders.add(tuple(claim(opened, random_order=True).id for _ in range(6)))
        assert opened.claim(worker(), opened.selection(random_order=True)) is None
        opened.reset(["all"], None, None, dry_run=False)
    assert all(sorted(order) == [1, 2, 3, 4, 5, 6] for order in orders)
    assert len(orders) > 1


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"dataset": "wine"}, [4, 5, 6]),
        ({"dataset": "wine", "seed": [0, 2]}, [4, 6]),
        ({"seed": range(1, 3)}, [2, 3, 5, 6]),
        ("seed % 2 = 0 AND dataset LIKE 'i%'", [1, 3]),
        ("dataset = 'what?' OR seed = 2 -- ?", [3, 6]),
        ({"dataset": None}, []),
        ({"ID": [3, 5]}, [3, 5]),
    ],
)
@pytest.mark.parametrize("is_slow", [False, True])
def test_where_takes_a_share_only(
    target: Target, where: object, expected: list[int], is_slow: bool, request: pytest.FixtureRequest
) -> None:
    if is_slow:
        request.getfixturevalue("slow")
    opened = store(target)
    selection = opened.selection(where=where)  # type: ignore[arg-type]
    claimed = []
    while experiment := opened.claim(worker(), selection):
        claimed.append(experiment.id)
    assert claimed == expected


@pytest.mark.parametrize(
    ("order_by", "expected"),
    [
        ("seed", [1, 4, 2, 5, 3, 6]),
        (["-seed", "dataset DESC"], [6, 3, 5, 2, 4, 1]),
        ("dataset DESC, seed ASC", [4, 5, 6, 1, 2, 3]),
    ],
)
def test_order_by_decides_who_is_first(target: Target, order_by: object, expected: list[int]) -> None:
    opened = store(target)
    assert [claim(opened, order_by=order_by).id for _ in range(6)] == expected
    assert opened.claim(worker(), opened.selection(order_by=order_by)) is None  # type: ignore[arg-type]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every search counts as slow, so that what it finds serves many claims, however long they take."""
    monkeypatch.setattr(claims, "_SLOW", 0.0)
    monkeypatch.setattr(claims, "_SHARE", 1e-9)


def plan(opened: ExperimentStore, sql: str, parameters: Mapping[str, Any]) -> str:
    """Return how the database runs a query on a table that is known to be large."""
    explain = "EXPLAIN QUERY PLAN" if opened.schema.dialect.name == "sqlite" else "EXPLAIN"
    with opened.database.transaction() as cursor:
        cursor.run("ANALYZE TABLE study" if opened.schema.dialect.name == "mysql" else "ANALYZE study")
        return "\n".join(map(str, cursor.all(f"{explain} {sql}", **parameters)))


@pytest.mark.parametrize("how", [{"order_by": "-seed"}, {"where": "seed >= 1500"}])
@pytest.mark.usefixtures("slow")
def test_later_claims_neither_sort_nor_scan(target: Target, statements: list[str], how: dict[str, Any]) -> None:
    opened = store(target, keyfields=seeds(2000))
    selection = opened.selection(**how)
    expected = [f"{seed:g}" for seed in (range(1999, 1989, -1) if "order_by" in how else range(1500, 1510))]
    first = claim(opened, **how)
    claimed = [first, claim(opened, **how)]
    statements.clear()
    while len(claimed) < 10:
        ended = opened.finish(claimed[-1].attempt, ExperimentStatus.DONE, claim=Claim(worker(), selection))
        assert ended.claimed is not None
        claimed.append(ended.claimed)
    assert [f"{experiment.keyfields['seed']}" for experiment in claimed] == expected
    assert len(statements) == 8 * 8
    assert not [sql for sql in statements if "ORDER BY" in sql]
    search = opened._search(selection)
    assert search is not None
    steps = plan(opened, *search).lower()
    by_id = {"sqlite": "integer primary key (rowid=?)", "mysql": "'primary'", "postgresql": '("id" = '}
    assert by_id[target.provider] in steps
    assert not any(word in steps for word in ("sort", "b-tree", "scan study", "seq scan", "'all'", "'index'"))


@pytest.mark.usefixtures("slow")
def test_rows_that_others_took_are_skipped_by_few_statements(target: Target, statements: list[str]) -> None:
    opened, other = store(target, keyfields=seeds(1000)), store(target, keyfields=seeds(1000), filled=False)
    claim(opened, order_by="-seed")
    target.query("UPDATE study SET status = 'done' WHERE ID > 400")
    statements.clear()
    assert claim(opened, order_by="-seed").id == 400
    assert len(statements) == 6 + 4  # one miss, and three reads of 256
    target.query("UPDATE study SET status = 'created' WHERE ID > 990")
    target.query("UPDATE study SET status = 'done' WHERE ID < 400")
    assert claim(opened, order_by="-seed").id == 1000, "it looks again before it finds nothing open"
    assert claim(other, order_by="-seed").id == 999


@pytest.mark.usefixtures("slow")
def test_a_row_that_was_found_is_not_claimed_if_it_no_longer_meets_the_condition(target: Target) -> None:
    opened = store(target)
    where = {"dataset": "iris"}
    assert [claim(opened, where=where).id for _ in range(2)] == [1, 2]
    target.query("UPDATE study SET dataset = 'rose' WHERE ID = 3")
    assert opened.claim(worker(), opened.selection(where=where)) is None
    assert claim(opened).id == 3


def test_what_was_found_long_ago_is_searched_for_again(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_SHARE", 1e9)
    opened = store(target)
    assert [claim(opened, order_by="-seed").id for _ in range(2)] == [3, 6]
    opened.reset(["all"], None, [3], dry_run=False)
    assert claim(opened, order_by="-seed").id == 3


@pytest.mark.parametrize("how", [{"order_by": "seed"}, {"random_order": True}])
def test_many_rows_that_have_ended_are_not_candidates(
    target: Target, statements: list[str], how: dict[str, Any]
) -> None:
    opened = store(target, keyfields=seeds(1000))
    target.query("UPDATE study SET status = 'done' WHERE ID <> 1000")
    statements.clear()
    assert claim(opened, **how).id == 1000
    assert len(statements) <= 9


@pytest.mark.parametrize("selection", [{"where": {"sed": 1}}, {"order_by": "sed"}, {"order_by": "-sed"}])
def test_a_column_that_is_not_there_is_named(sqlite_target: Target, selection: dict[str, object]) -> None:
    with pytest.raises(InvalidColumnError, match=r"no column 'sed'; it has ID, dataset, seed, "):
        store(sqlite_target).selection(**selection)  # type: ignore[arg-type]


def test_later_writes_of_a_lost_claim_are_refused_and_kept(target: Target) -> None:
    opened = store(target)
    lost = claim(opened)
    assert opened.reset(["running"], None, None, dry_run=False) == 1
    holder = claim(opened)
    assert holder.id == lost.id
    for write in (
        lambda: opened.write_results(lost.attempt, {"accuracy": 0.1}),
        lambda: opened.write_logs(lost.attempt, {"epochs": {"loss": 1}}),
        lambda: opened.finish(lost.attempt, ExperimentStatus.DONE, None, Usage(), {"model": "late"}),
        lambda: opened.release(lost.attempt),
    ):
        with pytest.raises(ClaimLostError, match=f"attempt {lost.attempt.id} no longer holds experiment {lost.id}"):
            write()
    opened.finish(holder.attempt, ExperimentStatus.DONE, None, Usage(), {"accuracy": 0.9})
    assert target.query("SELECT status, accuracy, model FROM study WHERE ID = ?", lost.id) == [("done", 0.9, None)]
    assert target.query("SELECT COUNT(*) FROM study__epochs") == [(0,)]
    attempts = target.query("SELECT number, outcome, late_results FROM study__attempts ORDER BY ID")
    assert [(number, outcome, late and json.loads(late)) for number, outcome, late in attempts] == [
        (1, "reset", {"accuracy": 0.1, "model": "late"}),
        (2, "done", None),
    ]


def test_late_results_that_json_cannot_hold_are_kept_as_text(target: Target) -> None:
    opened = store(target, resultfields={"raw": "BLOB", "tree": "JSON"})
    lost = claim(opened)
    opened.reset(["running"], None, None, dry_run=False)
    with pytest.raises(ClaimLostError):
        opened.write_results(lost.attempt, {"raw": b"\0", "tree": {"depth": [3]}})
    ((late,),) = target.query("SELECT late_results FROM study__attempts")
    assert json.loads(late) == {"raw": repr(b"\0"), "tree": {"depth": [3]}}


def test_the_late_output_of_an_experiment_without_results_is_kept(target: Target) -> None:
    opened = store(target)
    lost = claim(opened)
    opened.reset(["running"], None, None, dry_run=False)
    with pytest.raises(ClaimLostError):
        opened.finish(lost.attempt, ExperimentStatus.DONE, output="printed")
    assert target.query("SELECT output, late_results FROM study__attempts") == [("printed", None)]


def test_a_row_opened_by_hand_is_claimed_and_its_holder_superseded(target: Target) -> None:
    opened = store(target)
    lost = claim(opened)
    opened.write_results(lost.attempt, {"accuracy": 0.1})
    target.query("UPDATE study SET status = 'created' WHERE ID = ?", lost.id)
    with pytest.raises(ClaimLostError):
        opened.finish(lost.attempt, ExperimentStatus.DONE)
    holder = claim(opened)
    assert holder.id == lost.id
    assert target.query("SELECT accuracy FROM study WHERE ID = ?", lost.id) == [(None,)]
    assert target.query("SELECT outcome FROM study__attempts ORDER BY ID") == [("superseded",), (None,)]
    opened.finish(holder.attempt, ExperimentStatus.DONE)
    ended = target.query("SELECT ended, outcome, concludes FROM study__attempts ORDER BY ID")
    target.query("UPDATE study SET status = 'created' WHERE ID = ?", lost.id)
    attached, _ = opened.attach(lost.id, worker("guest"))
    assert claim(opened).id == lost.id
    after = target.query("SELECT ended, outcome, concludes FROM study__attempts ORDER BY ID")
    assert after[:2] == ended, "history is not rewritten"
    assert [outcome for _, outcome, _ in after[2:]] == ["superseded", None]
    with pytest.raises(ClaimLostError):
        opened.write_results(attached, {"accuracy": 0.1})


def test_a_row_deleted_by_hand_takes_attempts_and_logs_with_it(target: Target) -> None:
    opened = store(target)
    lost = claim(opened)
    opened.write_logs(lost.attempt, {"epochs": {"loss": 1}})
    target.query("DELETE FROM study WHERE ID = ?", lost.id)
    with pytest.raises(ClaimLostError):
        opened.finish(lost.attempt, ExperimentStatus.DONE)
    assert target.query("SELECT COUNT(*) FROM study__attempts") == [(0,)]
    assert target.query("SELECT COUNT(*) FROM study__epochs") == [(0,)]


def test_a_row_inserted_or_edited_by_hand_is_executed(target: Target) -> None:
    opened = store(target)
    target.query("UPDATE study SET seed = 77 WHERE ID = 1")
    target.query("INSERT INTO study (dataset, seed) VALUES ('by hand', 5)")
    assert claim(opened).keyfields == {"dataset": "iris", "seed": 77}
    assert claim(opened, where={"dataset": "by hand"}).keyfields == {"dataset": "by hand", "seed": 5}


def test_an_unreadable_row_becomes_an_error_and_the_queue_goes_on(sqlite_target: Target) -> None:
    opened = store(sqlite_target)
    sqlite_target.query("UPDATE study SET seed = 'three' WHERE ID = 1")
    assert claim(opened).id == 2
    ((status, error, end),) = sqlite_target.query("SELECT status, error, end_date FROM study WHERE ID = 1")
    assert status == "error"
    assert end is not None
    assert "column seed holds 'three', which is not an integer (INT); correct it by SQL" in error


def test_release_opens_the_row_as_if_never_claimed(target: Target) -> None:
    opened = store(target)
    before = target.query("SELECT * FROM study ORDER BY ID")
    experiment = claim(opened)
    opened.write_results(experiment.attempt, {"accuracy": 0.5})
    opened.release(experiment.attempt)
    assert target.query("SELECT * FROM study ORDER BY ID") == before
    assert target.query("SELECT outcome FROM study__attempts WHERE ended IS NOT NULL") == [("released",)]


@pytest.mark.parametrize("status", ["created", "done", "paused"])
def test_a_row_that_is_no_longer_running_is_neither_released_nor_finished(target: Target, status: str) -> None:
    opened = store(target)
    attempt = claim(opened).attempt
    opened.write_results(attempt, {"accuracy": 0.5})
    target.query("UPDATE study SET status = ? WHERE ID = 1", status)
    before = target.query("SELECT * FROM study ORDER BY ID")
    for write in (
        lambda: opened.release(attempt),
        lambda: opened.finish(attempt, ExperimentStatus.DONE),
        lambda: opened.finish(attempt, ExperimentStatus.ERROR, "no", retries=1),
    ):
        with pytest.raises(ClaimLostError):
            write()
    assert target.query("SELECT * FROM study ORDER BY ID") == before
    assert target.query("SELECT outcome FROM study__attempts") == [(None,)]


def test_a_resumed_row_keeps_its_results_but_not_its_end(target: Target) -> None:
    opened = store(target)
    attempt = claim(opened).attempt
    opened.finish(attempt, ExperimentStatus.PAUSED, results={"accuracy": 0.5})
    target.query("UPDATE study SET error = 'by hand', start_date = NULL WHERE ID = 1")
    state = "SELECT status, accuracy, start_date IS NULL, end_date IS NULL, error FROM study WHERE ID = 1"
    assert target.query(state) == [("paused", 0.5, True, False, "by hand")]
    opened.resume(1, replace(worker("other"), machine="there"))
    assert target.query(state) == [("running", 0.5, False, True, None)]
    assert target.query("SELECT name, machine FROM study WHERE ID = 1") == [("other", "there")]


def test_only_a_paused_experiment_is_resumed(target: Target) -> None:
    opened = store(target)
    for experiment_id, why in ((1, "its status is created"), (99, "the table has no such ID")):
        with pytest.raises(NoPausedExperimentsException, match=f"with ID {experiment_id}: {why}"):
            opened.resume(experiment_id, worker())
    for _ in range(2):
        opened.finish(claim(opened).attempt, ExperimentStatus.PAUSED)
    opened.resume(2, worker())
    assert target.query("SELECT ID FROM study WHERE status = 'paused'") == [(1,)]


def test_a_paused_experiment_that_cannot_be_read_is_not_resumed(sqlite_target: Target) -> None:
    opened = store(sqlite_target)
    opened.finish(claim(opened).attempt, ExperimentStatus.PAUSED)
    sqlite_target.query("UPDATE study SET seed = 'three' WHERE ID = 1")
    with pytest.raises(UndecodableValueError, match=r"column seed holds 'three'.*correct it by SQL"):
        opened.resume(1, worker())
    assert sqlite_target.query("SELECT status, error FROM study WHERE ID = 1") == [("paused", None)]


def test_an_error_without_retries_leaves_no_attempts(target: Target) -> None:
    opened = store(target)
    assert opened.finish(claim(opened).attempt, ExperimentStatus.ERROR, "no").attempts_left == 0
    assert opened.finish(claim(opened).attempt, ExperimentStatus.ERROR, "no", retries=2).attempts_left == 2


def test_an_end_may_be_repeated_although_the_row_is_running_again(target: Target) -> None:
    opened = store(target)
    attempt = claim(opened).attempt
    opened.finish(attempt, ExperimentStatus.DONE)
    opened.reset(["done"], None, None, dry_run=False)
    claim(opened)
    opened.finish(attempt, ExperimentStatus.DONE)
    assert target.query("SELECT status FROM study WHERE ID = 1") == [("running",)]
    assert target.query("SELECT outcome FROM study__attempts ORDER BY ID") == [("done",), (None,)]


def test_a_stopped_worker_gives_back_all_it_holds(target: Target) -> None:
    opened = store(target)
    held = [claim(opened).id for _ in range(2)]
    other = opened.claim(worker("other"))
    assert other is not None
    assert opened.release_worker(worker().identity) == held
    assert opened.counts() == {"created": 5, "running": 1, "done": 0, "error": 0, "paused": 0}


def test_an_experiment_that_is_not_there_is_named(sqlite_target: Target) -> None:
    opened = store(sqlite_target)
    assert opened.keyfields_of(4) == {"dataset": "wine", "seed": 0}
    for ask in (opened.keyfields_of, lambda experiment_id: opened.attach(experiment_id, worker())):
        with pytest.raises(InvalidExperimentError, match="the table study has no experiment with ID 99"):
            ask(99)


def test_add_and_claim_takes_an_open_row_and_reports_others(target: Target) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    ran = []

    def function(keyfields: dict[str, object], results: object, custom: object) -> dict[str, float]:
        ran.append(keyfields)
        return {"accuracy": 1}

    assert study_.add_experiment_and_execute({"dataset": "wine", "seed": 1}, function) == 5
    added = study_.add_experiment_and_execute({"dataset": "Wine", "seed": 1}, function)
    assert ran == [{"dataset": "wine", "seed": 1}, {"dataset": "Wine", "seed": 1}]
    with pytest.raises(ExperimentExistsError, match=rf"exists with ID {added} and is done; reset it"):
        study_.add_experiment_and_execute({"dataset": "Wine", "seed": 1}, function)
    assert len(ran) == 2
    without_seed = study_.add_experiment_and_execute({"dataset": "wine"}, function)
    assert study_.get_table(f"ID = {without_seed}")["seed"].isna().all()
    assert ran[2] == {"dataset": "wine", "seed": None}


def test_an_id_is_given_by_the_database_alone(postgresql_target: Target) -> None:
    """An ID set by hand would not be counted, and a fill would mistake a later row with that ID for an existing one."""
    store(postgresql_target)
    with pytest.raises(psycopg.Error, match="GENERATED ALWAYS"):
        postgresql_target.query("INSERT INTO study (ID, dataset, seed) VALUES (7, 'by hand', 5)")


def test_locked_rows_do_not_look_like_an_empty_table(mariadb_target: Target) -> None:
    """Nor are they asked for hundreds of times a second: a person's session may lock them for minutes."""
    opened = store(mariadb_target)
    other = mariadb_target.connect()
    other.begin()
    other.cursor().execute("SELECT ID FROM study FOR UPDATE")

    def commits() -> int:
        return int(mariadb_target.query("SHOW GLOBAL STATUS LIKE 'Com_commit'")[0][1])

    with ThreadPoolExecutor(1) as pool:
        before, start = commits(), time.monotonic()
        claiming = pool.submit(opened.claim, worker())
        wait_until(lambda: commits() >= before + 9)  # one for each try
        assert time.monotonic() - start > 1
        assert not claiming.done()
        other.rollback()
        other.close()
        experiment = claiming.result(60)
    assert experiment is not None
    assert experiment.id == 1


@pytest.mark.parametrize("target", ["mariadb", "postgresql"], indirect=True)
@pytest.mark.parametrize("how", [{}, {"order_by": "seed DESC"}, {"random_order": True}])
def test_a_claim_locks_the_row_that_it_takes_only(target: Target, how: dict[str, Any]) -> None:
    opened = store(target)
    selection = opened.selection(**how)
    with ThreadPoolExecutor(1) as pool, opened.database.transaction() as cursor:
        row = opened._first_open(cursor, selection)
        claimed = [pool.submit(opened.claim, worker(), selection).result(20) for _ in range(5)]
    assert row is not None
    assert row[0] not in [experiment and experiment.id for experiment in claimed]


@pytest.mark.parametrize("target", ["mariadb", "postgresql"], indirect=True)
def test_a_race_that_is_lost_between_two_statements_goes_on_with_the_next_row(target: Target) -> None:
    """The claim does not depend on row locks. Without them, others may take a row that it has just read."""
    opened = store(target)
    opened.schema.dialect = replace(opened.schema.dialect, row_lock="", skip_locked="")
    opened._sql = Statements(opened.schema)
    with ThreadPoolExecutor(1) as pool, target.transaction() as run:
        run("UPDATE study SET status = 'running', name = 'other' WHERE ID = 1")
        claiming = pool.submit(opened.claim, worker())
        wait_until(target.sessions_waiting)
        run()
        experiment = claiming.result(60)
    assert experiment is not None
    assert experiment.id == 2
    assert target.query("SELECT ID, name FROM study WHERE status = 'running' ORDER BY ID") == [
        (1, "other"),
        (2, "tester"),
    ]
    assert target.query("SELECT experiment_id FROM study__attempts") == [(2,)]
