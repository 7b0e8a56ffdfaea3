"""Measure how many experiments per second 1 to 64 workers execute that claim at the same time.

Each worker is a process that executes a function which returns a result, with `isolation: none`. By default the
function does nothing; with `--seconds`, it sleeps. The measurement begins when each worker has claimed its first
experiment, to leave out the start of processes, and ends with the last experiment. The times are those of the attempts
in the database.

Run:  python benchmarks/workers.py [--rows 3000] [--mysql mysql://user:password@host:port] [--postgresql URL]
      python benchmarks/workers.py --workers 150 --rows 1500 --seconds 1 ...
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from typing import Any

from common import mysql_config, postgresql_config, print_table, raw_mysql, raw_postgresql, sqlite_config

from pyexperimenter import PyExperimenter

WORKERS = [1, 2, 4, 8, 16, 32, 64]


def work(config: dict[str, Any], all_have_one: Any, seconds: float, options: dict[str, Any]) -> None:
    waited = False

    def function(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> dict[str, float]:
        nonlocal waited
        if not waited:
            all_have_one.wait()
            waited = True
        time.sleep(seconds)
        return {"accuracy": 0.5}

    PyExperimenter(config, log_level="ERROR", **options).execute(function)


def rows_a_second(config: dict[str, Any], workers: int, length: float = 0.0, **options: Any) -> float:
    experimenter = PyExperimenter(config, log_level="ERROR", **options)
    experimenter.fill_table_from_config()
    context = multiprocessing.get_context("fork")  # the library is loaded only once
    all_have_one = context.Barrier(workers)
    processes = [context.Process(target=work, args=(config, all_have_one, length, options)) for _ in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * workers
    attempts = experimenter.get_attempts()
    assert set(attempts["outcome"]) == {"done"} and attempts["experiment_id"].is_unique
    seconds = (attempts["ended"].max() - attempts["ended"].min()).total_seconds()
    experimenter.delete_table()
    return (len(attempts) - workers) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0, help="for which the function sleeps")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--mysql", help="also measure this server")
    parser.add_argument("--postgresql", help="also measure this server")
    arguments = parser.parse_args()
    keyfields = {"seed": {"type": "INT", "values": {"start": 0, "stop": arguments.rows}}}
    table = []

    def measure(name: str, config: dict[str, Any], **options: Any) -> None:
        for _ in range(arguments.rounds):
            rates = [rows_a_second(config, workers, arguments.seconds, **options) for workers in arguments.workers]
            load = os.getloadavg()[0]
            table.append([name, *rates, rates[-1] / max(rates), load])

    with tempfile.TemporaryDirectory() as directory:
        measure("SQLite", sqlite_config(directory, keyfields))
    for name, url, raw, config_of in (
        ("MySQL/MariaDB", arguments.mysql, raw_mysql, mysql_config),
        ("PostgreSQL", arguments.postgresql, raw_postgresql, postgresql_config),
    ):
        if url:
            with raw(url) as (_, database, credentials):
                measure(name, config_of(database, keyfields), database_credential_file_path=credentials)
    print_table(["database", *arguments.workers, "last/best", "load"], table)


if __name__ == "__main__":
    main()
