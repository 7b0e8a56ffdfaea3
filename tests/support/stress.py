"""One process of the stress test: it does at random what workers and people do, and records what it was promised.

Each process has a ledger, an append-only file. A value is written there before the database is asked to store it, and
again when the database has answered. So the ledgers say what must be in the tables, even of processes that were killed.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import sqlite3
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pymysql

from pyexperimenter import ExperimentStatus, PyExperimenter
from pyexperimenter.config import load_config
from pyexperimenter.database.records import Experiment
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import (
    ClaimLostError,
    ExperimentExistsError,
    InvalidExperimentError,
    NoPausedExperimentsException,
    TableHasWrongStructureError,
)
from pyexperimenter.execution.heartbeat import shared_heartbeat
from pyexperimenter.execution.provenance import worker_info
from pyexperimenter.machine.turns import Turns
from pyexperimenter.result_processor import ResultProcessor
from tests.support.study import credentials, study
from tests.support.target import Target

SEEDS = 16
"""How many different experiments there are: few, so that the processes get into each other's way."""

BY_HAND = "by hand"
"""Marks, in the column `error`, a row whose status was set by SQL."""

EXPECTED = (
    ClaimLostError,  # another process reset, released, deleted or took the row
    ExperimentExistsError,  # add_experiment_and_execute: it is not open
    NoPausedExperimentsException,  # unpause_experiment: it is no longer paused
    InvalidExperimentError,  # attach: the row was deleted
)
"""What the library may raise here. Everything else is a fault."""

EXPECTED_BY_HAND = (
    *(sqlite3.IntegrityError, pymysql.IntegrityError, psycopg.IntegrityError),  # an INSERT of an existing experiment
    *(sqlite3.OperationalError, pymysql.OperationalError, psycopg.OperationalError),  # a deadlock, a lock timeout
)
"""What the drivers may raise when a person uses SQL: nobody repeats the statement."""


LATEST = 3
"""The last version of the configuration. From one to the next, resultfields, logtables and keyfields are added."""


def configuration(target: Target, journals: Path, version: int = 0) -> dict[str, Any]:
    added = [f"added_{number}" for number in range(version)]
    keyfields = {"seed": {"type": "INT", "values": {"start": 0, "stop": SEEDS}}}
    return study(
        target,
        keyfields=keyfields | ({"part": {"type": "INT", "values": [0]}} if version == LATEST else {}),
        resultfields=dict.fromkeys(["first", "last", "attached", *added], "VARCHAR(50)"),
        logtables={name: {"token": "VARCHAR(50)"} for name in ["tokens", *added]},
        Execution={
            "isolation": "none",
            "heartbeat": 0.2,
            "lease": 1,
            "retries": 1,
            "stop_after_errors": 0,
            "journal": str(journals),
        },
    )


@dataclass
class Promise:
    """What the database was asked to store, and its answer.

    `state` is "asked", "kept" once it was acknowledged, or "lost" after a ClaimLostError. `asked` and `answered` are
    times of the clock that all processes of a machine share.
    """

    value: str
    kind: str
    asked: float
    details: dict[str, Any]
    state: str = "asked"
    answered: float = float("inf")


class Ledger:
    """Writes the promises of one process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self._name = path.stem
        self._numbers = itertools.count()

    def ask(self, kind: str, **details: Any) -> str:
        """Record that something is asked for, and return a value for it that nothing else has; see `writer`."""
        value = f"{details.get('attempt')}.{self._name}.{next(self._numbers)}"
        self._write(value=value, kind=kind, asked=time.monotonic(), details=details)
        return value

    def answer(self, value: str, state: str) -> None:
        self._write(value=value, state=state, answered=time.monotonic())

    @contextmanager
    def promise(self, kind: str, **details: Any) -> Iterator[str]:
        """Ask before the block, and record after it how it went."""
        value = self.ask(kind, **details)
        try:
            yield value
        except ClaimLostError:
            self.answer(value, "lost")
            raise
        self.answer(value, "kept")

    def _write(self, **entry: Any) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")  # one call, so that a kill tears no line


def writer(value: str) -> int:
    """Return the ID of the attempt that a value was written for."""
    return int(value.partition(".")[0])


def read_ledgers(directory: Path) -> dict[str, Promise]:
    promises: dict[str, Promise] = {}
    for path in directory.glob("*.ledger"):
        for entry in map(json.loads, path.read_text().splitlines()):
            if entry["value"] in promises:
                promise = promises[entry["value"]]
                promise.state, promise.answered = entry["state"], entry["answered"]
            else:
                promises[entry["value"]] = Promise(**entry)
    return promises


class Actor:
    """Does one thing after another, each drawn at random.

    Parameters
    ----------
    target : Target
        The database.
    directory : Path
        Where its ledger and journals are.
    name : str
        Name of its ledger.
    seed : str
        Of its random numbers.
    """

    def __init__(self, target: Target, directory: Path, name: str, seed: str) -> None:
        self.target = target
        self.ledger = Ledger(directory / f"{name}.ledger")
        self.random = random.Random(seed)
        self.directory = directory
        self.version = 0  # of its configuration
        self.returned: list[str] = []  # values that an experiment function has returned
        self.configure()

    def configure(self) -> None:
        described = configuration(self.target, self.directory / "journals", self.version)
        self.experimenter = PyExperimenter(described, **credentials(self.target), log_level="CRITICAL")
        self.config = load_config(described, credentials_path=self.target.credentials_file)
        self.store = ExperimentStore(self.config)

    def run(self, end: float) -> None:
        """Act until the clock says `end`."""
        # As in a process that executes for hours, one heartbeat for all calls.
        with shared_heartbeat(self.config, logging.getLogger("stress")), self.target.session() as self.sql:
            while time.monotonic() < end:
                (act,) = self.random.choices(list(WEIGHTS), WEIGHTS.values())
                try:
                    with suppress(*EXPECTED):
                        act(self)
                except TableHasWrongStructureError:  # another process has added a keyfield
                    if self.version == LATEST:
                        raise
                    self.version = LATEST
                    self.configure()

    # Workers

    def execute(self) -> None:
        options = self.random.choice(
            [{}, {"random_order": True}, {"order_by": "-seed"}, {"where": {"seed": [1, 2, 3]}}]
        )
        with self.returned_values_settled():
            self.experimenter.execute(self.function, max_experiments=self.random.randint(1, 3), **options)

    def add_and_execute(self) -> None:
        seed = self.random.randrange(SEEDS)
        self.ledger.ask("fill", seeds=[seed])
        with self.returned_values_settled():
            self.experimenter.add_experiment_and_execute(self.keyfields(seed), self.function)

    def unpause(self) -> None:
        paused = self.some_rows("status = 'paused'")
        if paused:
            with self.returned_values_settled():
                self.experimenter.unpause_experiment(paused[0], self.function)

    def function(self, keyfields: dict[str, Any], results: ResultProcessor, custom: Any) -> Any:
        self.report(results, "first")
        ending = self.random.choice(["value", "value", "nothing", "paused", "exception"])
        if ending == "exception":
            raise ValueError("as planned")
        if ending == "value":
            self.returned.append(self.ledger.ask("result", field="last", **about(results)))
            return {"last": self.returned[-1]}
        return ExperimentStatus.PAUSED if ending == "paused" else None

    @contextmanager
    def returned_values_settled(self) -> Iterator[None]:
        """Record after the block that what was returned in it has been written: to the row, or as late results."""
        self.returned = []
        yield
        for value in self.returned:
            self.ledger.answer(value, "kept")

    def report(self, results: ResultProcessor, field: str) -> None:
        """Write some results and logs."""
        for _ in range(self.random.randrange(3)):
            if self.random.random() < 0.5:
                with self.ledger.promise("result", field=field, **about(results)) as value:
                    results.process_results({field: value})
            else:
                with ExitStack() as stack:
                    promises = [self.ledger.promise("log", **about(results)) for _ in range(self.random.randint(1, 3))]
                    tokens = [stack.enter_context(promise) for promise in promises]
                    results.process_logs({"tokens": [{"token": token} for token in tokens]})
            time.sleep(self.random.choice([0, 0, 0.02]))  # not for synchronization: it lets others go first

    def claim(self) -> tuple[Experiment, ResultProcessor] | None:
        experiment = self.store.claim(worker_info("stress", uuid.uuid4().hex), self.store.selection())
        if experiment is None:
            return None
        results = ResultProcessor(self.store, experiment.attempt)
        self.ledger.answer(self.ledger.ask("claim", **about(results)), "kept")
        self.report(results, "first")
        return experiment, results

    def claim_and_finish(self) -> None:
        if claimed := self.claim():
            experiment, results = claimed
            outcome = self.random.choice([ExperimentStatus.DONE, ExperimentStatus.ERROR, ExperimentStatus.PAUSED])
            with (
                self.ledger.promise("result", field="last", **about(results)) as value,
                self.ledger.promise("end", outcome=outcome.value, **about(results)),
            ):
                self.store.finish(experiment.attempt, outcome, results={"last": value})

    def claim_and_release(self) -> None:
        if claimed := self.claim():
            experiment, results = claimed
            with self.ledger.promise("end", outcome="released", **about(results)):
                self.store.release(experiment.attempt)

    def claim_and_vanish(self) -> None:
        """Claim a row and forget it: its lease expires."""
        self.claim()

    # People

    def attach(self) -> None:
        if rows := self.some_rows():
            self.experimenter.attach(lambda results: self.report(results, "attached"), rows[0])

    def reset(self) -> None:
        states, options = self.random.choice(
            [
                (["done", "error"], {}),
                (["all"], {"where": "last LIKE '%3'"}),
                (["all"], {"where": "first IS NULL"}),
                (["running", "done"], {"where": "first IS NOT NULL AND seed > 3"}),
                (["all"], {"ids": self.some_rows(most=4)}),
                ([], {"error": "planned"}),
                (["all"], {"where": self.half_of_the_rows()}),
            ]
        )
        self.experimenter.reset_experiments(*states, **options)

    def release(self) -> None:
        options: dict[str, Any] = self.random.choice(
            [
                {"where": "first IS NOT NULL"},
                {"ids": self.some_rows("status = 'running'", most=2)},
                {"where": self.half_of_the_rows()},
            ]
        )
        self.experimenter.release_experiments(**options)

    def half_of_the_rows(self) -> str:
        """Return a condition that is another one each time it is evaluated."""
        return {"sqlite": "ABS(RANDOM()) % 2 = 0", "mysql": "RAND() < 0.5", "postgresql": "RANDOM() < 0.5"}[
            self.target.provider
        ]

    def fill(self) -> None:
        seeds = self.random.sample(range(SEEDS), self.random.choice([1, 4, SEEDS]))
        with self.ledger.promise("fill", seeds=seeds):
            self.experimenter.fill_table_with_rows(map(self.keyfields, seeds))

    def keyfields(self, seed: int) -> dict[str, int]:
        return {"seed": seed} | ({"part": 0} if self.version == LATEST else {})

    def migrate(self) -> None:
        if self.version < LATEST:
            self.version = self.random.randint(self.version + 1, LATEST)
            self.configure()
            self.experimenter.migrate(defaults={"part": 0} if self.version == LATEST else None)

    # SQL by hand

    def set_status(self) -> None:
        status = self.random.choice(["created", "running", "done", "error", "paused"])
        for row in self.some_rows():
            with suppress(*EXPECTED_BY_HAND):
                self.sql("UPDATE study SET status = ?, error = ? WHERE ID = ?", status, BY_HAND, row)

    def delete_row(self) -> None:
        for row in self.some_rows():
            seeds = [seed for (seed,) in self.sql("SELECT seed FROM study WHERE ID = ?", row)]
            with suppress(*EXPECTED_BY_HAND), self.ledger.promise("delete", row=row, seeds=seeds):
                self.sql("DELETE FROM study WHERE ID = ?", row)

    def insert_row(self) -> None:
        seed = self.random.randrange(SEEDS)
        with suppress(*EXPECTED_BY_HAND), self.ledger.promise("fill", seeds=[seed]):
            self.sql("INSERT INTO study (seed) VALUES (?)", seed)

    def some_rows(self, condition: str = "1 = 1", most: int = 1) -> list[int]:
        found = [row for (row,) in self.sql(f"SELECT ID FROM study WHERE {condition}")]
        return self.random.sample(found, min(most, len(found)))


WEIGHTS: dict[Callable[[Actor], None], float] = {
    Actor.claim_and_finish: 30,
    Actor.execute: 10,
    Actor.attach: 8,
    Actor.reset: 8,
    Actor.fill: 5,
    Actor.set_status: 5,
    Actor.claim_and_release: 4,
    Actor.release: 4,
    Actor.unpause: 4,
    Actor.add_and_execute: 3,
    Actor.claim_and_vanish: 4,
    Actor.insert_row: 2,
    Actor.delete_row: 1,
    Actor.migrate: 1,
}
"""How often each happens."""


def about(results: ResultProcessor) -> dict[str, int]:
    """Return the row and the attempt that results are written for."""
    return {"row": results.experiment_id, "attempt": results._attempt.id}


def act(target: Target, directory: Path, name: str, seed: str, end: float) -> None:
    """Be one of the processes; write why it fails to a file."""
    Turns.are_over = lambda self: False  # type: ignore[method-assign]  # on a crowded machine, they would mostly wait
    try:
        Actor(target, directory, name, seed).run(end)
    except BaseException:
        (directory / f"{name}.fault").write_text(traceback.format_exc())
        raise SystemExit(1) from None


def faults(directory: Path) -> Sequence[str]:
    return [path.read_text() for path in directory.glob("*.fault")]
