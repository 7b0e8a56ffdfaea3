"""Measure how many experiments one worker executes per second out of a million open ones, by what it may claim.

Run:  python benchmarks/selections.py [--rows 1000000] [--mysql mysql://user:password@host:port] [--postgresql URL]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

from claim import returned
from common import mysql_config, postgresql_config, print_table, raw_mysql, raw_postgresql, sqlite_config

from pyexperimenter import PyExperimenter


def rates(config: dict[str, Any], rows: int, executed: int, **options: Any) -> list[float]:
    experimenter = PyExperimenter(config, log_level="ERROR", **options)
    experimenter.fill_table_from_config()
    found = []
    for selection in (
        {},
        {"order_by": "-seed"},
        {"where": f"seed > {rows // 2} AND seed % 10 = 0"},
        {"random_order": True},
    ):
        start = time.perf_counter()
        assert experimenter.execute(returned, max_experiments=executed, **selection) == executed
        found.append(executed / (time.perf_counter() - start))
    experimenter.delete_table()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--executed", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mysql", help="also measure this server")
    parser.add_argument("--postgresql", help="also measure this server")
    arguments = parser.parse_args()
    keyfields = {"seed": {"type": "INT", "values": {"start": 0, "stop": arguments.rows}}}
    table = []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as directory:
            found = rates(sqlite_config(directory, keyfields), arguments.rows, arguments.executed)
            table.append(["SQLite", *found])
        for name, url, raw, config_of in (
            ("MySQL/MariaDB", arguments.mysql, raw_mysql, mysql_config),
            ("PostgreSQL", arguments.postgresql, raw_postgresql, postgresql_config),
        ):
            if url:
                with raw(url) as (_, database, credentials):
                    config, options = config_of(database, keyfields), {"database_credential_file_path": credentials}
                    table.append([name, *rates(config, arguments.rows, arguments.executed, **options)])
    print_table(["database", "by ID", "order_by", "where", "random_order"], sorted(table), ".0f")


if __name__ == "__main__":
    main()
