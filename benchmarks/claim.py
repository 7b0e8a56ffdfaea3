"""Compare one worker that executes an empty function with a bare driver loop: claim, one result, finish.

The bare loop is as durable, and writes an attempt for each experiment, too. It commits once for each experiment, since
it ends one and claims the next in one transaction, and once more for a result if the function calls `process_results`.

Run:  python benchmarks/claim.py [--rows 2000] [--mysql mysql://user:password@host:port] [--postgresql URL]
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import mysql_config, postgresql_config, print_table, raw_mysql, raw_postgresql, sqlite_config

from pyexperimenter import PyExperimenter


def reported(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> None:
    results.process_results({"accuracy": 0.5})


def returned(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> dict[str, float]:
    return {"accuracy": 0.5}


COLUMNS = {
    "bare": "seed INT, status VARCHAR(20), accuracy DOUBLE PRECISION",
    "attempts": "experiment_id BIGINT, number INT, worker VARCHAR(255), outcome VARCHAR(20)",
}


def bare_loop(run: Callable[..., Any], begin: str, mark: str, lock: str, separate_result: bool) -> int:
    """Execute all open rows with as few statements as correctness allows."""
    done, held = 0, None
    while True:
        run(begin)
        if held is not None:
            result = "" if separate_result else ", accuracy = 0.5"
            run(f"UPDATE bare SET status = 'done'{result} WHERE ID = {mark} AND status = 'running'", held)
            run(f"UPDATE attempts SET outcome = 'done' WHERE experiment_id = {mark} AND outcome IS NULL", held)
            done += 1
        row = run(f"SELECT ID, seed FROM bare WHERE status = 'created' ORDER BY ID LIMIT 1{lock}").fetchone()
        if row is not None:
            held = row[:1]
            run(f"UPDATE bare SET status = 'running' WHERE ID = {mark} AND status = 'created'", held)
            run(f"INSERT INTO attempts (experiment_id, number, worker) VALUES ({mark}, 1, 'bare')", held)
        run("COMMIT")
        if row is None:
            return done
        if separate_result:
            run(f"UPDATE bare SET accuracy = 0.5 WHERE ID = {mark}", held)


def bare_tables(cursor: Any, rows: int, mark: str, id_column: str) -> None:
    for name, columns in COLUMNS.items():
        cursor.execute(f"DROP TABLE IF EXISTS {name}")
        cursor.execute(f"CREATE TABLE {name} (ID {id_column}, {columns})")
    cursor.execute("CREATE INDEX bare_status ON bare (status, ID)")
    cursor.execute("CREATE INDEX attempts_experiment ON attempts (experiment_id)")
    cursor.executemany(f"INSERT INTO bare (seed, status) VALUES ({mark}, 'created')", [(seed,) for seed in range(rows)])


def bare_sqlite(path: Path, rows: int, separate_result: bool) -> float:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    bare_tables(connection.cursor(), rows, "?", "INTEGER PRIMARY KEY AUTOINCREMENT")
    start = time.perf_counter()
    assert bare_loop(connection.execute, "BEGIN IMMEDIATE", "?", "", separate_result) == rows
    return rows / (time.perf_counter() - start)


def bare_server(connection: Any, rows: int, separate_result: bool, id_column: str) -> float:
    cursor = connection.cursor()
    bare_tables(cursor, rows, "%s", f"BIGINT PRIMARY KEY {id_column}")

    def run(sql: str, parameters: Any = None) -> Any:
        cursor.execute(sql, parameters)
        return cursor

    start = time.perf_counter()
    assert bare_loop(run, "START TRANSACTION", "%s", " FOR UPDATE SKIP LOCKED", separate_result) == rows
    return rows / (time.perf_counter() - start)


def ours(config: dict[str, Any], rows: int, function: Callable[..., Any], **options: Any) -> float:
    experimenter = PyExperimenter(config, log_level="ERROR", **options)
    experimenter.fill_table_from_config()
    start = time.perf_counter()
    assert experimenter.execute(function) == rows
    seconds = time.perf_counter() - start
    experimenter.delete_table()
    return rows / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mysql", help="also measure this server")
    parser.add_argument("--postgresql", help="also measure this server")
    arguments = parser.parse_args()
    rows = arguments.rows
    keyfields = {"seed": {"type": "INT", "values": {"start": 0, "stop": rows}}}
    table = []
    for _ in range(arguments.rounds):
        for function in (reported, returned):
            separate = function is reported
            with tempfile.TemporaryDirectory() as directory:
                bare = bare_sqlite(Path(directory) / "bare.db", rows, separate)
                rate = ours(sqlite_config(directory, keyfields), rows, function)
                table.append(["SQLite", function.__name__, bare, rate, rate / bare])
            for name, url, raw, id_column, config_of in (
                ("MySQL/MariaDB", arguments.mysql, raw_mysql, "AUTO_INCREMENT", mysql_config),
                ("PostgreSQL", arguments.postgresql, raw_postgresql, "GENERATED ALWAYS AS IDENTITY", postgresql_config),
            ):
                if url:
                    with raw(url) as (connection, database, credentials):
                        bare = bare_server(connection, rows, separate, id_column)
                        config = config_of(database, keyfields)
                        rate = ours(config, rows, function, database_credential_file_path=credentials)
                        table.append([name, function.__name__, bare, rate, rate / bare])
    print_table(["database", "result is", "bare rows/s", "ours rows/s", "ratio"], sorted(table))


if __name__ == "__main__":
    main()
