"""Compare `get_table` with `pandas.read_sql` of the same table: time and peak memory of processes of their own.

Run:  python benchmarks/read.py [--rows 1000000] [--mysql mysql://user:password@host:port] [--postgresql URL]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from typing import Any

from common import mysql_config, postgresql_config, print_table, raw_mysql, raw_postgresql, sqlite_config
from fill import keyfields

from pyexperimenter import PyExperimenter

# Each way is measured in a process of its own, whose peak memory is read at the end. The first reading is small, so
# that imports do not count.
SCRIPT = """
import json, resource, sqlite3, sys, time, warnings
import pandas
from pyexperimenter import PyExperimenter

way, config, options = json.loads(sys.argv[1])
experimenter = PyExperimenter(config, log_level="ERROR", **options)
experimenter.get_table(limit=10)
connect = experimenter._store.database._backend.connect
warnings.simplefilter("ignore")  # pandas prefers SQLAlchemy
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start, start_cpu = time.perf_counter(), time.process_time()
if way == "ours":
    table = experimenter.get_table()
else:
    table = pandas.read_sql("SELECT * FROM study", connect(False))
seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, cpu, most / 1024, before / 1024, len(table)]))
"""
HALF = "UPDATE study SET status = 'done', start_date = creation_date, name = 'n', machine = 'm', accuracy = seed * 0.1 "


def measured(way: str, config: dict[str, Any], options: dict[str, Any]) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([way, config, options])], capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout))


def compare(name: str, rows: int, rounds: int, config: dict[str, Any], **options: Any) -> list[list[Any]]:
    experimenter = PyExperimenter(config, log_level="ERROR", **options)
    experimenter.fill_table_from_config()
    experimenter.execute_custom_query(HALF + "WHERE seed % 2 = 0")
    table = []
    for _ in range(rounds):
        (pandas, cpu_pandas, most_pandas, *_), (ours, cpu, most, _, found) = (
            measured(way, config, options) for way in ("pandas", "ours")
        )
        assert found == rows
        times = [pandas, ours, ours / pandas, cpu_pandas, cpu, cpu / cpu_pandas]
        table.append([name, rows, *times, most_pandas, most, most / most_pandas])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mysql", help="also measure this server, with a tenth of the rows")
    parser.add_argument("--postgresql", help="also measure this server, with a tenth of the rows")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        table = compare("SQLite", arguments.rows, arguments.rounds, sqlite_config(directory, keyfields(arguments.rows)))
    for name, url, raw, config_of in (
        ("MySQL/MariaDB", arguments.mysql, raw_mysql, mysql_config),
        ("PostgreSQL", arguments.postgresql, raw_postgresql, postgresql_config),
    ):
        if url:
            rows = arguments.rows // 10
            with raw(url) as (_, database, credentials):
                config = config_of(database, keyfields(rows))
                table += compare(name, rows, arguments.rounds, config, database_credential_file_path=credentials)
    headers = [
        "database",
        "rows",
        "pandas s",
        "ours s",
        "time ours/pandas",
        "pandas CPU s",
        "ours CPU s",
        "CPU time ours/pandas",
        "pandas MB",
        "ours MB",
        "memory ours/pandas",
    ]
    print_table(headers, table)


if __name__ == "__main__":
    main()
