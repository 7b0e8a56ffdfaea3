"""Six processes do at random what workers and people do to a study, and some are killed: no invariant breaks.

`make stress SECONDS=600` runs this for ten minutes on each database and isolation level.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SERVERS
from tests.support.private_server import PrivateServer
from tests.support.stress import (
    BY_HAND,
    EXPECTED_BY_HAND,
    LATEST,
    Promise,
    act,
    configuration,
    faults,
    read_ledgers,
    writer,
)
from tests.support.study import experimenter, outcomes, statuses
from tests.support.target import Target, write_credentials

PROCESSES = 6

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.support.stress"])

# Each query finds what must not be, at no time: one statement sees one state of the database.
ALWAYS = {
    "a row has two open attempts": """
        SELECT experiment_id, COUNT(*) FROM study__attempts WHERE ended IS NULL
        GROUP BY experiment_id HAVING COUNT(*) > 1""",
    "attempts are numbered with gaps or doubles": """
        SELECT experiment_id, COUNT(*), COUNT(DISTINCT number), MIN(number), MAX(number) FROM study__attempts
        GROUP BY experiment_id
        HAVING COUNT(*) <> MAX(number) OR COUNT(DISTINCT number) <> COUNT(*) OR MIN(number) <> 1""",
    "an attempt has ended without an outcome, or the reverse": """
        SELECT ID, ended, outcome FROM study__attempts WHERE (ended IS NULL) <> (outcome IS NULL)""",
    "a row is running without an open attempt": f"""
        SELECT ID FROM study t WHERE status = 'running' AND COALESCE(error, '') <> '{BY_HAND}'
        AND NOT EXISTS (SELECT 1 FROM study__attempts WHERE experiment_id = t.ID AND ended IS NULL)""",
    "a row is done, but its latest execution is not": f"""
        SELECT ID FROM study t WHERE status = 'done' AND COALESCE(error, '') <> '{BY_HAND}' AND 'done' <> COALESCE(
            (SELECT outcome FROM study__attempts WHERE experiment_id = t.ID AND lease_until IS NOT NULL
            ORDER BY number DESC LIMIT 1), 'none')""",
    "an open row has results": f"""
        SELECT ID, first, last FROM study WHERE status = 'created' AND COALESCE(error, '') <> '{BY_HAND}'
        AND (first IS NOT NULL OR last IS NOT NULL)""",
    "a log was written twice": "SELECT token, COUNT(*) FROM study__tokens GROUP BY token HAVING COUNT(*) > 1",
    "a log is not of its attempt": """
        SELECT log.ID FROM study__tokens log LEFT JOIN study__attempts attempt ON attempt.ID = log.attempt_id
        WHERE attempt.ID IS NULL OR attempt.experiment_id <> log.experiment_id""",
}

# A row that was never executed may be running: who set its status by SQL executes it by another program.
STILL_RUNNING = """
    SELECT t.ID, t.error, t.start_date, a.ID, a.number, a.outcome, a.lease_until, a.heartbeat FROM study t
    JOIN study__attempts a ON a.experiment_id = t.ID WHERE t.status = 'running' ORDER BY t.ID, a.number"""

# The attempts of the latest run of each row that has been executed, and what the row has as results.
LATEST_RUNS = """
    SELECT t.ID, t.first, t.last, a.ID FROM study t JOIN study__attempts a ON a.experiment_id = t.ID
    WHERE t.status <> 'created' AND a.run = (SELECT MAX(run) FROM study__attempts WHERE experiment_id = t.ID)"""

REOPENED = {"retried", "released", "lost", "reset", "superseded"}
"""Outcomes of attempts whose rows were opened again, which empties them."""


@pytest.fixture
def stressed(server: str, level: str, tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Target]:
    """SQLite, or a server of its own that has this isolation level as its default."""
    if server == "sqlite":
        yield Target("sqlite", "sqlite", str(tmp_path / "study.db"))
        return
    kind = type(pytestconfig.stash[SERVERS].get(server))
    if not issubclass(kind, PrivateServer):
        pytest.skip("the default of another's server is not changed")
    postgresql = f"default_transaction_isolation={level.lower().replace('-', ' ')}"
    with closing(kind(postgresql if server == "postgresql" else f"--transaction-isolation={level}")) as private:
        private.create_database("stress")
        yield Target(server, kind.provider, "stress", private, write_credentials(tmp_path / "c.yml", private))


@pytest.mark.parametrize(
    ("server", "level"),
    [
        ("sqlite", ""),
        *(
            (server, level)
            for server in ("mariadb", "mysql", "postgresql")
            for level in ("READ-COMMITTED", "REPEATABLE-READ", "SERIALIZABLE")
        ),
    ],
)
def test_no_invariant_breaks(
    stressed: Target, tmp_path: Path, pytestconfig: pytest.Config, request: pytest.FixtureRequest
) -> None:
    seed = pytestconfig.getoption("--stress-seed") or random.randrange(1, 10**6)
    told = f"seed {seed}"
    journals = tmp_path / "journals"
    experimenter(stressed, configuration(stressed, journals)).fill_table_from_config()

    kills = run(stressed, tmp_path, seed, pytestconfig.getoption("--stress-seconds"))
    study_ = experimenter(stressed, configuration(stressed, journals, LATEST))
    study_.migrate(defaults={"part": 0})
    study_.create_table()
    study_.execute(lambda keyfields, results, custom: None, wait=True)  # and so takes what the dead have left

    promises = read_ledgers(tmp_path)
    kinds = Counter(f"{promise.kind} {promise.state}" for promise in promises.values())
    print(f"\n{request.node.name}, {told}: {kills} kills, attempts {outcomes(stressed)}, {dict(sorted(kinds.items()))}")
    rows = stressed.query("SELECT seed, part FROM study")
    assert Counter(rows) == Counter(set(rows)), told
    assert study_.fill_table_with_rows({"seed": seed, "part": part} for seed, part in rows).added == 0, told
    assert stressed.query(STILL_RUNNING) == [], told
    with stressed.session() as sql:
        assert broken(sql) == {}, told
    assert list(Audit(stressed, promises).problems()) == [], told
    assert {status: rows for status, rows in study_.counts().items() if rows} == statuses(stressed), told
    assert not journals.exists() or list(journals.iterdir()) == [], told


def run(target: Target, directory: Path, seed: int, seconds: float) -> int:
    """Run the processes for a time, kill and replace some, and return how many were killed."""
    moments = random.Random(seed)
    end = time.monotonic() + seconds
    running: list[Any] = []
    started = kills = 0
    try:
        while (left := end - time.monotonic()) > 0 and not faults(directory):
            while len(running) < PROCESSES:
                name = f"p{started}"
                process = CONTEXT.Process(target=act, args=(target, directory, name, f"{seed} {name}", end))
                process.start()
                running.append(process)
                started += 1
            wait([process.sentinel for process in running], min(left, moments.uniform(0, 1)))
            with suppress(*EXPECTED_BY_HAND), target.session() as sql:
                assert broken(sql) == {}, f"seed {seed}"
            if moments.random() < 0.3:
                process = running.pop(moments.randrange(PROCESSES))
                process.kill()
                process.join()
                kills += 1
        for process in running:
            process.join(120)
        assert faults(directory) == [], f"seed {seed}"
        assert [process.exitcode for process in running] == [0] * len(running), f"seed {seed}"
    finally:
        for process in running:
            process.kill()
            process.join()
    return kills


def broken(sql: Callable[[str], Any]) -> dict[str, Any]:
    """Return the invariants that do not hold now, with the rows that break them."""
    found = {invariant: sql(query) for invariant, query in ALWAYS.items()}
    runs: dict[tuple[Any, ...], set[int]] = defaultdict(set)
    for *row, attempt in sql(LATEST_RUNS):
        runs[tuple(row)].add(attempt)
    found["a row has results of an earlier run"] = [
        (row, value) for row, attempts in runs.items() for value in row[1:] if value and writer(value) not in attempts
    ]
    return {invariant: rows for invariant, rows in found.items() if rows}


class Audit:
    """Compares the tables, when all have finished, with what was promised."""

    def __init__(self, target: Target, promises: dict[str, Promise]) -> None:
        self._promises = promises
        self._deletions = [promise for promise in promises.values() if promise.kind == "delete"]
        self._deleted = {promise.details["row"] for promise in self._deletions}
        self._rows = read(target, "study", "ID", "seed", "status", "error", "first", "last", "attached")
        self._attempts = read(
            target, "study__attempts", "ID", "experiment_id", "number", "outcome", "lease_until", "late_results"
        )
        by_number = sorted(self._attempts.values(), key=lambda attempt: attempt["number"])
        # The latest execution of each row. What only attached has no lease.
        self._latest = {one["experiment_id"]: one for one in by_number if one["lease_until"] is not None}
        self._logs: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for token, *place in target.query("SELECT token, experiment_id, attempt_id FROM study__tokens"):
            self._logs[token].append(tuple(place))

    def problems(self) -> Iterator[str]:
        for promise in self._promises.values():
            row, attempt = promise.details.get("row"), promise.details.get("attempt")
            if promise.state == "kept" and attempt and not self._is_deleted(promise) and attempt not in self._attempts:
                yield f"the attempt has vanished: {promise}"
            elif not getattr(self, f"_has_{promise.kind}")(promise):
                yield f"not kept: {promise}; row {self._rows.get(row)}, attempt {self._attempts.get(attempt)}"
        for row in self._rows.values():
            for value in filter(None, (row["first"], row["last"], row["attached"])):
                if self._promises[value].details["row"] != row["ID"]:
                    yield f"{value} is of another row: {row}"
            if row["status"] == "done" and row["error"] != BY_HAND and row["last"] != self._expected_last(row):
                yield f"not the result of its latest execution: {row}"

    def _has_fill(self, promise: Promise) -> bool:
        """Each experiment that was filled in is there, unless it has been deleted since."""
        deleted = {seed for gone in self._deletions if gone.answered > promise.asked for seed in gone.details["seeds"]}
        present = {row["seed"] for row in self._rows.values()}
        return promise.state != "kept" or set(promise.details["seeds"]) <= present | deleted

    def _has_delete(self, promise: Promise) -> bool:
        """With the row, its attempts and logs are gone."""
        row = promise.details["row"]
        return promise.state != "kept" or not (
            row in self._rows
            or any(attempt["experiment_id"] == row for attempt in self._attempts.values())
            or any(place[0] == row for places in self._logs.values() for place in places)
        )

    def _has_claim(self, promise: Promise) -> bool:
        return self._is_deleted(promise) or self._attempt(promise)["experiment_id"] == promise.details["row"]

    def _has_end(self, promise: Promise) -> bool:
        """History is not rewritten."""
        kept = promise.state == "kept" and not self._is_deleted(promise)
        return not kept or self._attempt(promise)["outcome"] == promise.details["outcome"]

    def _has_log(self, promise: Promise) -> bool:
        found, whole = self._logs[promise.value], [(promise.details["row"], promise.details["attempt"])]
        if self._is_deleted(promise):
            return found == []
        return found in {"kept": [whole], "lost": [[]], "asked": [[], whole]}[promise.state]

    def _has_result(self, promise: Promise) -> bool:
        """It is in the row, in `late_results`, or something newer has replaced it; no lost one is in the row."""
        if self._is_deleted(promise) or promise.state == "asked":
            return True
        field, attempt = promise.details["field"], self._attempt(promise)
        late = json.loads(attempt["late_results"] or "{}").get(field)
        if late is not None and self._promises[late].answered >= promise.asked:
            return True
        if promise.state == "lost":
            return False
        row = self._rows[promise.details["row"]]
        if row[field] is None:
            return (
                row["status"] == "created"
                or row["error"] == BY_HAND
                or attempt["outcome"] in REOPENED
                or self._latest[row["ID"]]["number"] > attempt["number"]
            )
        newer = self._promises[row[field]]
        return newer.answered >= promise.asked and self._attempt(newer)["number"] >= attempt["number"]

    def _expected_last(self, row: dict[str, Any]) -> str | None:
        """Return what the latest execution of a row has written as `last`; without that, what the row has."""
        latest = self._latest[row["ID"]]["ID"]
        written = [
            promise.value
            for promise in self._promises.values()
            if promise.kind == "result" and promise.details["attempt"] == latest and promise.details["field"] == "last"
        ]
        return written[-1] if written else row["last"]

    def _attempt(self, promise: Promise) -> dict[str, Any]:
        return self._attempts[promise.details["attempt"]]

    def _is_deleted(self, promise: Promise) -> bool:
        row = promise.details["row"]
        return row in self._deleted and row not in self._rows


def read(target: Target, table: str, *columns: str) -> dict[int, dict[str, Any]]:
    """Return the rows of a table by their IDs."""
    rows = target.query(f"SELECT {', '.join(columns)} FROM {table} ORDER BY ID")
    return {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
