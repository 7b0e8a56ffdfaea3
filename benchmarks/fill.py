"""Compare a fill with a bare driver that inserts the same rows into the same kind of table, with the same indexes.

Run:  python benchmarks/fill.py [--rows 1000000] [--mysql mysql://user:password@host:port] [--postgresql URL]
"""

from __future__ import annotations

import argparse
import itertools
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import mysql_config, postgresql_config, print_table, raw_mysql, raw_postgresql, sqlite_config

from pyexperimenter import PyExperimenter

DATASETS = [f"dataset-{index}" for index in range(10)]
RATES = [index / 10 for index in range(10)]
BARE_TABLE = """CREATE TABLE bare (ID {id}, dataset VARCHAR(50), seed INT, rate DOUBLE PRECISION,
creation_date TIMESTAMP NULL, status VARCHAR(255), start_date TIMESTAMP NULL, name TEXT, machine VARCHAR(255),
accuracy DOUBLE PRECISION, end_date TIMESTAMP NULL, error TEXT)"""
BARE_INDEXES = [
    "CREATE UNIQUE INDEX bare_unique ON bare (dataset, seed, rate)",
    "CREATE INDEX bare_status ON bare (status, ID)",
]
BARE_COPY = "COPY bare (dataset, seed, rate, creation_date, status) FROM STDIN"
BARE_INSERT = "INSERT INTO bare (dataset, seed, rate, creation_date, status) VALUES ({0}, {0}, {0}, {0}, {0})"


def grid_rows(rows: int) -> Iterator[tuple[Any, ...]]:
    for key in itertools.product(DATASETS, range(rows // 100), RATES):
        yield (*key, "2026-01-01 00:00:00", "created")


def keyfields(rows: int) -> dict[str, Any]:
    return {
        "dataset": {"type": "VARCHAR(50)", "values": DATASETS},
        "seed": {"type": "INT", "values": {"start": 0, "stop": rows // 100}},
        "rate": {"type": "DOUBLE", "values": RATES},
    }


def timed(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def bare_sqlite(path: Path, rows: int) -> float:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(BARE_TABLE.format(id="INTEGER PRIMARY KEY AUTOINCREMENT"))
    for index in BARE_INDEXES:
        connection.execute(index)

    def insert() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(BARE_INSERT.format("?"), grid_rows(rows))
        connection.execute("COMMIT")

    return timed(insert)


def bare_server(connection: Any, rows: int, id_column: str) -> float:
    cursor = connection.cursor()
    cursor.execute(BARE_TABLE.format(id=f"BIGINT PRIMARY KEY {id_column}"))
    for index in BARE_INDEXES:
        cursor.execute(index)

    def insert() -> None:
        cursor.execute("START TRANSACTION")
        if hasattr(cursor, "copy"):  # PostgreSQL's fastest way
            with cursor.copy(BARE_COPY) as copy:
                for row in grid_rows(rows):
                    copy.write_row(row)
        else:
            cursor.executemany(BARE_INSERT.format("%s"), list(grid_rows(rows)))
        cursor.execute("COMMIT")

    return timed(insert)


def ours(config: dict[str, Any], **options: Any) -> tuple[float, float]:
    experimenter = PyExperimenter(config, log_level="ERROR", **options)
    first = timed(experimenter.fill_table_from_config)
    again = timed(experimenter.fill_table_from_config)
    return first, again


def peak_megabytes(config: dict[str, Any]) -> float:
    """Fill in a new process, so that only the fill counts."""
    script = (
        "import sys, json, resource; from pyexperimenter import PyExperimenter;"
        "PyExperimenter(json.loads(sys.argv[1]), log_level='ERROR').fill_table_from_config();"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(config)], capture_output=True, text=True, check=True
    )
    return int(done.stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mysql", help="also measure this server")
    parser.add_argument("--postgresql", help="also measure this server")
    parser.add_argument("--server-rows", type=int, default=100_000, help="rows of these servers")
    arguments = parser.parse_args()
    table = []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as directory:
            bare = bare_sqlite(Path(directory) / "bare.db", arguments.rows)
            config = sqlite_config(directory, keyfields(arguments.rows))
            first, again = ours(config)
            table.append(["SQLite", arguments.rows, bare, first, bare / first, again / first])
        for name, url, raw, id_column, config_of in (
            ("MySQL/MariaDB", arguments.mysql, raw_mysql, "AUTO_INCREMENT", mysql_config),
            ("PostgreSQL", arguments.postgresql, raw_postgresql, "GENERATED ALWAYS AS IDENTITY", postgresql_config),
        ):
            if url:
                rows = arguments.server_rows
                with raw(url) as (connection, database, credentials):
                    bare = bare_server(connection, rows, id_column)
                    config = config_of(database, keyfields(rows))
                    first, again = ours(config, database_credential_file_path=credentials)
                    table.append([name, rows, bare, first, bare / first, again / first])
    print_table(["database", "rows", "bare s", "ours s", "ours/bare rows/s", "refill/fill time"], table)
    with tempfile.TemporaryDirectory() as directory:
        peak = peak_megabytes(sqlite_config(directory, keyfields(arguments.rows)))
    print(f"peak memory of the SQLite fill: {peak:.0f} MB")


if __name__ == "__main__":
    main()
