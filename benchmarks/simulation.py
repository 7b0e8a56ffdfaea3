"""Simulate thousands of workers on one database, with measured costs.

The model: the server does one thing at a time, and each takes as long as it does under load (MEASURED). Each worker is
a process with a thread for its heartbeats. Both hold a connection while they wait for the server, and for some time
after: heartbeats for half a second, and workers for as long as the library does, which depends on how many connections
there are when it opens one. If all `connections` are in use, they are refused and try again after random waits that
double up to four seconds. Experiments take 0.5 to 1.5 times their mean. Workers are in the middle of one when the
simulation begins.

Run:  python benchmarks/simulation.py                                             make the table of docs/scale.md
      python benchmarks/simulation.py --mysql mysql://user:password@host:port     compare with real workers
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import multiprocessing
import os
import random
import signal
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from common import mysql_config, print_table, raw_mysql
from workers import rows_a_second

from pyexperimenter import ExperimentStatus, PyExperimenter
from pyexperimenter.config import load_config
from pyexperimenter.database.claims import Claim
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.execution.provenance import worker_info

# Seconds after which an idle connection is closed: that of a heartbeat, of a worker, and of a worker in a crowd. The
# connections of workers are closed after half to all of MOST seconds in any case. A crowd is a share of the limit.
IDLE_HEARTBEAT, IDLE_WORKER, IDLE_IN_A_CROWD, MOST, CROWD = 0.5, 5.0, 0.1, 60.0, 0.75
HEARTBEAT = 60.0
FIRST_WAIT, LONGEST_WAIT = 0.005, 4.0
MANY = 16  # workers that keep the server busy
REFUSED = "Connection_errors_max_connections"


@dataclass(frozen=True)
class Cost:
    """The cost of one operation of the server: seconds under load, and statements."""

    seconds: float
    statements: float


@dataclass(frozen=True)
class Costs:
    """The costs of the operations that workers need."""

    experiment: Cost  # finish one, claim the next
    connection: Cost
    heart_connection: Cost
    beat: Cost
    look: Cost


MEASURED = Costs(
    experiment=Cost(0.0022, 8),
    connection=Cost(0.0004, 6),
    heart_connection=Cost(0.0002, 2),
    beat=Cost(0.0008, 3),
    look=Cost(0.0001, 1),
)


@dataclass(frozen=True)
class Load:
    """The load that workers put on a server."""

    experiments: float  # per second
    statements: float  # per second
    busy: float  # share of the time
    connections: float  # open, on average
    refused: float  # connections per second
    gaps: list[float]  # seconds from the end of a worker's experiment to the start of its next one

    def row(self) -> list[Any]:
        median, late = (statistics.quantiles(self.gaps, n=20)[i] * 1000 if len(self.gaps) > 1 else 0 for i in (9, 18))
        figures = [
            f"{self.experiments:,.3g}",
            f"{self.statements:,.0f}",
            f"{self.busy:.0%}",
            f"{self.connections:,.0f}",
        ]
        return [*figures, f"{self.refused:,.0f}", f"{median:,.0f}", f"{late:,.0f}"]


COLUMNS = ["experiments/s", "statements/s", "busy", "connections", "refused/s", "median gap, ms", "95 % gap, ms"]


class Simulation:
    """One server and its workers; events are functions to call at certain times."""

    def __init__(self, costs: Costs, workers: int, length: float, connections: int, seed: int = 1) -> None:
        self.costs, self.length, self.limit = costs, length, connections
        self.random = random.Random(seed)
        self.now = self.free = self.worked = self.statements = self.held = 0.0
        self.open = self.refused = 0
        self.gaps: list[float] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        for _ in range(workers):
            Client(self, self.length, costs.connection, self._end_experiment, keeps=True).after(
                self.random.random() * length
            )
            Client(self, HEARTBEAT, costs.heart_connection, self._beat).after(self.random.random() * HEARTBEAT)

    def at(self, time: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), call))

    def serve(self, *costs: Cost) -> float:
        """Let the server do this after all earlier requests; return when it will have finished."""
        seconds = sum(cost.seconds for cost in costs)
        self.statements += sum(cost.statements for cost in costs)
        self.worked += seconds
        self.free = max(self.now, self.free) + seconds
        return self.free

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            time, _, call = heapq.heappop(self._events)
            self.held += self.open * (time - self.now)
            self.now = time
            call()

    def load(self) -> Load:
        """Simulate until the load is steady, and then measure for as long again."""
        seconds = min(max(4 * self.length, 120.0), 900.0)
        self.run(seconds)
        before = (self.statements, self.worked, self.held, self.refused)
        self.gaps.clear()
        self.run(2 * seconds)
        after = (self.statements, self.worked, self.held, self.refused)
        statements, busy, held, refused = ((b - a) / seconds for a, b in zip(before, after, strict=True))
        return Load(len(self.gaps) / seconds, statements, min(busy, 1.0), held, refused, self.gaps)

    def _end_experiment(self, client: Client) -> None:
        through = self.serve(self.costs.experiment)
        self.at(through, lambda: self.gaps.append(through - client.asked))
        client.rest(through, self.length * (0.5 + self.random.random()))

    def _beat(self, client: Client) -> None:
        client.turns += 1
        looks = [self.costs.look] if client.turns % 2 else []
        client.rest(self.serve(self.costs.beat, *looks), HEARTBEAT)


class Client:
    """A worker or its heartbeat: sends a request, rests, and sends the next."""

    def __init__(
        self, of: Simulation, period: float, opening: Cost, ask: Callable[[Client], None], keeps: bool = False
    ) -> None:
        self._of, self._period, self._opening, self._ask, self._keeps = of, period, opening, ask, keeps
        self._idle, self._oldest = IDLE_HEARTBEAT, math.inf
        self._connected = False
        self._uses = 0
        self.asked = 0.0
        self.turns = 0

    def after(self, seconds: float) -> None:
        self._of.at(self._of.now + seconds, self._begin)

    def rest(self, begin: float, seconds: float) -> None:
        """Be idle from this time on, until the connection is closed."""
        self._uses += 1
        uses = self._uses
        self._of.at(max(begin, min(begin + self._idle, self._oldest)), lambda: self._close(uses))
        self._of.at(begin + seconds, self._begin)

    def _begin(self) -> None:
        self.asked = self._of.now
        self._connect(FIRST_WAIT)

    def _connect(self, wait: float) -> None:
        of = self._of
        if not self._connected:
            if of.open >= of.limit:
                of.refused += 1
                of.at(of.now + wait * of.random.random(), lambda: self._connect(min(2 * wait, LONGEST_WAIT)))
                return
            of.open += 1
            self._connected = True
            if self._keeps:
                self._idle = IDLE_WORKER if of.open < CROWD * of.limit else IDLE_IN_A_CROWD
                self._oldest = of.now + MOST * of.random.uniform(0.5, 1)
            of.serve(self._opening)
        self._uses += 1
        self._ask(self)

    def _close(self, uses: int) -> None:
        if uses == self._uses and self._connected:
            self._connected = False
            self._of.open -= 1


# The costs on this machine and its server


def asked(connection: Any, what: str = "Questions") -> int:
    """Return a counter of the server. Reading it counts as one question."""
    cursor = connection.cursor()
    cursor.execute(f"SHOW GLOBAL STATUS LIKE '{what}'")
    return int(cursor.fetchone()[1])


def measure(url: str) -> Costs:
    seconds_a_row = 1 / max(_rate(url) for _ in range(3))
    with raw_mysql(url) as (connection, database, credentials):
        config = mysql_config(database, _seeds(500))
        PyExperimenter(config, log_level="ERROR", database_credential_file_path=credentials).fill_table_from_config()
        loaded = load_config(config, credentials_path=credentials)
        store, heart = ExperimentStore(loaded), ExperimentStore(loaded)
        store.database.keep_connections()
        heart.database.spare_settings()
        info = worker_info("benchmark", "benchmark")

        def open_and_close(store: ExperimentStore) -> None:
            with store.database.query():
                pass
            store.database.close()

        held = store.claim(info)

        def execute() -> None:
            nonlocal held
            results = {"accuracy": 0.5}
            held = store.finish(held.attempt, ExperimentStatus.DONE, results=results, claim=Claim(info)).claimed

        def cost(operation: Callable[[], Any], seconds: float | None = None) -> Cost:
            operation()
            before = asked(connection)
            for _ in range(20):
                operation()
            statements = round((asked(connection) - before) / 20)
            return Cost(seconds or _seconds_each(operation), statements)

        attempt = store.claim(worker_info("benchmark", "another")).attempt
        return Costs(
            experiment=cost(execute, seconds_a_row),
            connection=cost(lambda: open_and_close(store)),
            heart_connection=cost(lambda: open_and_close(heart)),
            beat=cost(lambda: heart.beat([attempt])),
            look=cost(heart.silent),
        )


def _rate(url: str) -> float:
    with raw_mysql(url) as (_, database, credentials):
        config = mysql_config(database, _seeds(2000))
        return rows_a_second(config, MANY, database_credential_file_path=credentials)


def _seconds_each(operation: Callable[[], Any], seconds: float = 3.0) -> float:
    """Return the seconds that one operation takes while many processes repeat it."""
    context = multiprocessing.get_context("fork")
    done = context.SimpleQueue()

    def hammer() -> None:
        count, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            operation()
            count += 1
        done.put(count)

    processes = [context.Process(target=hammer) for _ in range(MANY)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return seconds / sum(done.get() for _ in processes)


def _seeds(rows: int) -> dict[str, Any]:
    return {"seed": {"type": "INT", "values": {"start": 0, "stop": rows}}}


def real(url: str, workers: int, length: float, connections: int, seconds: float = 15.0) -> Load:
    """Measure the load of real workers whose experiments sleep."""
    context = multiprocessing.get_context("fork")
    all_have_one, told = context.Barrier(workers + 1), context.Queue()
    with raw_mysql(url) as (connection, database, credentials):
        cursor = connection.cursor()
        cursor.execute("SELECT @@max_connections")
        (usual,) = cursor.fetchone()
        cursor.execute(f"SET GLOBAL max_connections = {connections}")
        config = mysql_config(database, _seeds(30_000))
        options = {"log_level": "CRITICAL", "database_credential_file_path": credentials}
        PyExperimenter(config, **options).fill_table_from_config()

        def work() -> None:
            begins, ends = [], []

            def sleep(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> dict[str, float]:
                begins.append(time.monotonic())
                if len(begins) == 1:
                    all_have_one.wait()
                elif begins[-1] > ends[0] + 2 * seconds:
                    os.kill(os.getpid(), signal.SIGINT)  # the measurement is over
                time.sleep(length * (0.5 + random.random()) if ends else length * random.random())
                ends.append(time.monotonic())
                return {"accuracy": 0.5}

            with suppress(KeyboardInterrupt):
                PyExperimenter(config, **options).execute(sleep)
            told.put(list(zip(ends, begins[1:], strict=False)))

        processes = [context.Process(target=work) for _ in range(workers)]
        for process in processes:
            process.start()
        all_have_one.wait()
        time.sleep(seconds)
        begin, before, refused_before = time.monotonic(), asked(connection), asked(connection, REFUSED)
        held = []
        while time.monotonic() < begin + seconds:
            held.append(asked(connection, "Threads_connected") - 1)
            time.sleep(0.2)
        statements = asked(connection) - before - len(held) - 2
        refused = asked(connection, REFUSED) - refused_before
        end = time.monotonic()
        gaps = [later - ended for _ in processes for ended, later in told.get() if begin <= later <= end]
        for process in processes:
            process.join()
        cursor.execute(f"SET GLOBAL max_connections = {usual}")
    each = end - begin
    return Load(len(gaps) / each, statements / each, math.nan, statistics.mean(held), refused / each, gaps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mysql", help="compare with this server, whose user must be able to set global variables")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.mysql is None:
        table = [
            [f"{workers:,}", name, f"{connections:,}", *Simulation(MEASURED, workers, length, connections).load().row()]
            for connections in (151, 100_000)
            for workers in (1000, 10_000)
            for name, length in (("1 s", 1.0), ("1 min", 60.0), ("1 h", 3600.0))
        ]
        print_table(["workers", "experiment", "max_connections", *COLUMNS], table)
        return
    for _ in range(arguments.rounds):
        costs = measure(arguments.mysql)
        print(f"load {os.getloadavg()[0]:.1f}, {costs}\n", flush=True)
        table = []
        for workers, length, connections in (
            (8, 0.0, 151),
            (64, 0.0, 151),
            (64, 1.0, 151),
            (200, 1.0, 151),
            (200, 1.0, 60),
        ):
            shown = [workers, f"{length:g} s", connections]
            table.append([*shown, "real", *real(arguments.mysql, workers, length, connections).row()])
            table.append([*shown, "model", *Simulation(costs, workers, length, connections).load().row()])
        print_table(["workers", "experiment", "max_connections", "", *COLUMNS], table)
        print(f"\nload {os.getloadavg()[0]:.1f}\n", flush=True)


if __name__ == "__main__":
    main()
