"""Measure `status()` of a large study, compared with a bare count, and `error_groups()`.

The table has a million experiments with one attempt each. Most are done, some are open, running or failed. The bare
count is ``SELECT status, COUNT(*) ... GROUP BY status``.

Run:  python benchmarks/status.py [--rows 1000000] [--errors 100000] [--mysql mysql://user:password@host:port]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any

from common import mysql_config, print_table, raw_mysql, sqlite_config

from pyexperimenter import PyExperimenter

_RUNNING = 64
_COUNT = "SELECT status, COUNT(*) FROM study GROUP BY status"


def large_study(config: dict[str, Any], rows: int, errors: int, now: str, **options: Any) -> PyExperimenter:
    """Make a study whose last experiments are running, and whose errors form ten groups."""
    study = PyExperimenter(config, log_level="ERROR", **options)
    study.fill_table_from_config()
    parts = [
        "'Traceback (most recent call last):\n  File \"/tmp/x.py\", line '",
        "(seed % 10)",
        f"', in f\n{'x' * 500}\n'",
    ]
    parts += ["'ValueError: seed '", "seed"]
    error = " || ".join(parts) if now.startswith("datetime") else f"CONCAT({', '.join(parts)})"
    run = study.execute_custom_query
    run(f"UPDATE study SET status = 'done' WHERE ID > {errors} AND ID <= {rows - rows // 4}")
    run(f"UPDATE study SET status = 'error', error = {error} WHERE ID <= {errors}")
    run(f"UPDATE study SET status = 'running' WHERE ID > {rows - _RUNNING}")
    ended = f"CASE WHEN status <> 'running' THEN {now} END"
    outcome = "CASE WHEN status = 'created' THEN 'released' WHEN status <> 'running' THEN status END"
    columns = "experiment_id, number, run, worker, machine, pid, started, heartbeat, ended, outcome, output"
    values = f"ID, 1, 1, 'w', 'here', 1, {now}, {now}, {ended}, {outcome}, 'printed'"
    run(f"INSERT INTO study__attempts ({columns}) SELECT {values} FROM study")
    return study


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measured(database: str, study: PyExperimenter, rows: int, errors: int, rounds: int) -> list[list[Any]]:
    assert len(study.status().workers) == _RUNNING
    table = []
    for _ in range(rounds):
        bare = seconds(lambda: study.execute_custom_query(_COUNT))
        ours = seconds(study.status)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grouping = seconds(lambda: check_groups(study, errors))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        table.append([database, rows, bare, ours, ours / bare, ours - bare, errors, grouping, grown])
    return table


def check_groups(study: PyExperimenter, errors: int) -> None:
    groups = study.error_groups()
    assert [group.count for group in groups] == [errors // 10] * 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--errors", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mysql", help="also measure this server")
    arguments = parser.parse_args()
    size = (arguments.rows, arguments.errors)
    keyfields = {"seed": {"type": "INT", "values": {"start": 0, "stop": arguments.rows}}}
    table = []
    with tempfile.TemporaryDirectory() as directory:
        study = large_study(sqlite_config(directory, keyfields), *size, "datetime('now')")
        table += measured("SQLite", study, *size, arguments.rounds)
    if arguments.mysql:
        with raw_mysql(arguments.mysql) as (_, database, credentials):
            config = mysql_config(database, keyfields)
            study = large_study(config, *size, "UTC_TIMESTAMP(6)", database_credential_file_path=credentials)
            table += measured("MySQL/MariaDB", study, *size, arguments.rounds)
    headers = ["database", "rows", "bare count s", "status() s", "ratio", "difference s"]
    print_table([*headers, "errors", "error_groups() s", "peak grew by MB"], table)


if __name__ == "__main__":
    main()
