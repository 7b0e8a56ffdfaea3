"""Shared by the benchmarks: configurations, a raw connection to a server, and the printing of tables."""

from __future__ import annotations

import tempfile
import urllib.parse
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import yaml
from tabulate import tabulate


def sqlite_config(directory: str, keyfields: dict[str, Any]) -> dict[str, Any]:
    return _config("sqlite", str(Path(directory) / "study.db"), keyfields)


def mysql_config(database: str, keyfields: dict[str, Any]) -> dict[str, Any]:
    return _config("mysql", database, keyfields)


def postgresql_config(database: str, keyfields: dict[str, Any]) -> dict[str, Any]:
    return _config("postgresql", database, keyfields)


def _config(provider: str, database: str, keyfields: dict[str, Any]) -> dict[str, Any]:
    table = {"name": "study", "keyfields": keyfields, "resultfields": {"accuracy": "DOUBLE"}}
    return {
        "PY_EXPERIMENTER": {
            "Database": {"provider": provider, "database": database, "table": table},
            "Execution": {"isolation": "none"},
        }
    }


@contextmanager
def raw_mysql(url: str) -> Iterator[tuple[Any, str, str]]:
    """Create a database; yield a driver's connection to it, its name, and a credential file."""
    parts = urllib.parse.urlsplit(url)
    user, password = urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.password or "")
    name = f"benchmark_{uuid.uuid4().hex[:8]}"
    connection = pymysql.connect(
        host=parts.hostname,
        port=parts.port or 3306,
        user=user,
        password=password,
        charset="utf8mb4",
        autocommit=True,
    )
    cursor = connection.cursor()
    cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    cursor.execute(f"USE {name}")
    with _credentials(parts.hostname or "localhost", parts.port or 3306, user, password) as credentials:
        try:
            yield connection, name, credentials
        finally:
            cursor.execute(f"DROP DATABASE {name}")
            connection.close()


@contextmanager
def raw_postgresql(url: str) -> Iterator[tuple[Any, str, str]]:
    """Do the same on PostgreSQL."""
    parts = urllib.parse.urlsplit(url)
    user, password = urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.password or "")
    address = {"host": parts.hostname or "localhost", "port": parts.port or 5432, "user": user, "password": password}
    name = f"benchmark_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(**address, dbname="postgres", autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            with (
                psycopg.connect(**address, dbname=name, autocommit=True, prepare_threshold=None) as connection,
                _credentials(address["host"], address["port"], user, password) as credentials,
            ):
                yield connection, name, credentials
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def _credentials(host: str, port: int, user: str, password: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        credentials = Path(directory) / "credentials.yml"
        credentials.touch(mode=0o600)
        standard = {"server": host, "port": port}
        content = {
            "CREDENTIALS": {"Database": {"user": user, "password": password}, "Connection": {"Standard": standard}}
        }
        credentials.write_text(yaml.safe_dump(content))
        yield str(credentials)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]], floats: str = ".2f") -> None:
    print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=floats))
