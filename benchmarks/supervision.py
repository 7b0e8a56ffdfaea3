"""Measure the cost of supervision: `isolation: process` compared with `isolation: none`, and 64 workers that only wait.

Per row: claim, an empty function that returns a result, finish. To leave out the start of processes, the time of a
study with few rows is subtracted from that of a study with many.

Run:  python benchmarks/supervision.py [--rows 1000] [--mysql mysql://user:password@host:port]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from common import mysql_config, print_table, raw_mysql, sqlite_config

from pyexperimenter import PyExperimenter

_FEW = 50


def returned(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> dict[str, float]:
    return {"accuracy": 0.5}


def wait_for_file(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> None:
    while not Path(custom["file"]).exists():
        time.sleep(0.5)


def milliseconds_a_row(config: dict[str, Any], isolation: str, rows: int, **options: Any) -> float:
    def seconds(rows: int) -> float:
        keyfields = {"seed": {"type": "INT", "values": {"start": 0, "stop": rows}}}
        config["PY_EXPERIMENTER"]["Database"]["table"]["keyfields"] = keyfields
        config["PY_EXPERIMENTER"]["Execution"] = {"isolation": isolation}
        experimenter = PyExperimenter(config, log_level="ERROR", **options)
        experimenter.fill_table_from_config()
        start = time.perf_counter()
        assert experimenter.execute(returned) == rows
        took = time.perf_counter() - start
        experimenter.delete_table()
        return took

    few = seconds(_FEW)
    return (seconds(_FEW + rows) - few) / rows * 1000


def statements_a_second(connection: Any, config: dict[str, Any], workers: int, period: float, **options: Any) -> float:
    """Count the statements that the server receives while all workers are in the middle of a long experiment."""

    def questions() -> int:
        cursor = connection.cursor()
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Questions'")
        return int(cursor.fetchone()[1])

    root = config["PY_EXPERIMENTER"]
    root["Database"]["table"]["keyfields"] = {"seed": {"type": "INT", "values": {"start": 0, "stop": workers}}}
    root["Execution"] = {"isolation": "process"}
    with tempfile.TemporaryDirectory() as directory:
        root["Custom"] = {"file": f"{directory}/stop"}
        experimenter = PyExperimenter(config, log_level="ERROR", **options)
        experimenter.fill_table_from_config()
        thread = threading.Thread(target=experimenter.execute, args=[wait_for_file], kwargs={"n_jobs": workers})
        thread.start()
        while experimenter.counts()["running"] < workers:
            time.sleep(0.5)
        before, start = questions(), time.perf_counter()
        time.sleep(period)
        asked = questions() - before - 1
        took = time.perf_counter() - start
        Path(f"{directory}/stop").touch()
        thread.join()
    experimenter.delete_table()
    return asked / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--period", type=float, default=130, help="seconds; a little more than two heartbeats")
    parser.add_argument("--mysql", help="also measure this server")
    arguments = parser.parse_args()
    table = []

    def compare(name: str, config: dict[str, Any], **options: Any) -> None:
        for _ in range(arguments.rounds):
            none, process = (
                milliseconds_a_row(config, isolation, arguments.rows, **options) for isolation in ("none", "process")
            )
            table.append([name, none, process, process - none, process / none])

    with tempfile.TemporaryDirectory() as directory:
        compare("SQLite", sqlite_config(directory, {}))
    if arguments.mysql:
        with raw_mysql(arguments.mysql) as (_, database, credentials):
            compare("MySQL/MariaDB", mysql_config(database, {}), database_credential_file_path=credentials)
    print_table(["database", "none, ms/row", "process, ms/row", "difference, ms", "ratio"], table)
    if arguments.mysql:
        with raw_mysql(arguments.mysql) as (connection, database, credentials):
            options = {"database_credential_file_path": credentials}
            config = mysql_config(database, {})
            rate = statements_a_second(connection, config, arguments.workers, arguments.period, **options)
            print(f"\n{arguments.workers} workers in long experiments send {rate:.2f} statements per second")


if __name__ == "__main__":
    main()
