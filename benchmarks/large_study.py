"""A study of many experiments that was never executed, for the benchmark of the dashboard and its pictures.

Each experiment has one attempt, of about a minute, on one of eight machines; together they took nine days. One in ten
failed, a quarter are open, and the last ones are running.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyexperimenter import PyExperimenter

CURVES = "k.dataset=%22d3%22&k.method=%22m4%22&where=seed+%3C+6"
"""Parameters of a URL for experiments that have logs."""

_RUNNING = 64
_STATUS = """CASE WHEN ID > {rows} - {running} THEN 'running' WHEN ID > {ended} THEN 'created'
    WHEN ID * 7919 % 1009 % 10 = 3 THEN 'error' ELSE 'done' END"""
_ACCURACY = """0.55 + 0.02 * SUBSTR(method, 2) - 0.03 * (SUBSTR(dataset, 2) % 4) + 0.008 * depth
    + CASE rate WHEN 0.001 THEN -0.1 WHEN 0.1 THEN 0.08 WHEN 10 THEN -0.05 ELSE 0 END + ID * 7919 % 1009 / 10090.0"""
_ERROR = (
    "'Traceback (most recent call last):\n  File \"/home/me/x.py\", line '",
    *("(seed % 10)", "', in f\nValueError: the loss is not finite in epoch '", "(seed % 10)"),
)
_SPEED = "CASE rate WHEN 0.001 THEN 0.02 WHEN 0.01 THEN 0.1 WHEN 0.1 THEN 0.6 WHEN 1 THEN 0.3 ELSE 0.04 END"
_LOSS = f"(0.3 + 0.02 * depth + 2.0 / (1 + epoch.ID * {_SPEED}))"


def large_config(base: Callable[[str, dict[str, Any]], dict[str, Any]], database: str, rows: int) -> dict[str, Any]:
    """Return the config of a study of so many experiments in a database."""
    keyfields = {
        "dataset": {"type": "VARCHAR(50)", "values": [f"d{number}" for number in range(10)]},
        "method": {"type": "VARCHAR(50)", "values": [f"m{number}" for number in range(10)]},
        "rate": {"type": "DOUBLE", "values": [0.001, 0.01, 0.1, 1.0, 10.0]},
        "depth": {"type": "INT", "values": {"start": 0, "stop": 10}},
        "seed": {"type": "INT", "values": {"start": 0, "stop": max(1, rows // 5000)}},
    }
    config = base(database, keyfields)
    config["PY_EXPERIMENTER"]["Database"]["logtables"] = {"epochs": {"epoch": "INT", "loss": "DOUBLE"}}
    return config


def large_study(config: dict[str, Any], rows: int, **options: Any) -> PyExperimenter:
    """Fill the table, and make it look as if most experiments had been executed."""
    study = PyExperimenter(config, log_level="ERROR", **options)
    study.fill_table_from_config()
    run, ended = study.execute_custom_query, rows * 3 // 4
    if config["PY_EXPERIMENTER"]["Database"]["provider"] == "sqlite":
        before, error, machine = "datetime('now', -({0}) || ' seconds')", " || ".join(_ERROR), "'node' || (ID % 8)"
    else:
        before, error = "UTC_TIMESTAMP(6) - INTERVAL ({0}) SECOND", f"CONCAT({', '.join(_ERROR)})"
        machine = "CONCAT('node', ID % 8)"
    age = f"{ended} - ID % {ended}"  # seconds, of each end
    run(f"UPDATE study SET status = {_STATUS.format(rows=rows, running=_RUNNING, ended=ended)}")
    run(f"UPDATE study SET accuracy = {_ACCURACY} WHERE status = 'done'")
    run(f"UPDATE study SET error = {error} WHERE status = 'error'")
    run(f"UPDATE study SET end_date = {before.format(age)} WHERE ID <= {ended}")
    values = {
        **{"experiment_id": "ID", "number": "1", "run": "1", "worker": "'w'", "output": "'printed'"},
        **{"machine": machine, "pid": "4000 + ID % 64", "wall_seconds": "50 + ID % 20", "cpu_seconds": "45 + ID % 20"},
        "max_rss_bytes": "300000000 + ID % 1000 * 100000",
        "outcome": "CASE status WHEN 'running' THEN NULL WHEN 'created' THEN 'released' ELSE status END",
    }
    values["ended"] = f"CASE WHEN status <> 'running' THEN {before.format(age)} END"
    values["started"] = before.format(f"CASE status WHEN 'running' THEN 30 ELSE {age} + 50 + ID % 20 END")
    values["heartbeat"] = before.format(f"CASE status WHEN 'running' THEN 5 ELSE {age} END")
    order = "ORDER BY status = 'running', status <> 'created', ID"
    run(f"INSERT INTO study__attempts ({', '.join(values)}) SELECT {', '.join(values.values())} FROM study {order}")
    run(
        "INSERT INTO study__epochs (experiment_id, attempt_id, epoch, loss) "
        f"SELECT t.ID, a.ID, epoch.ID, {_LOSS.replace('depth', 't.depth').replace('rate', 't.rate')} "
        "FROM study t JOIN study__attempts a ON a.experiment_id = t.ID JOIN study epoch ON epoch.ID <= 40 "
        "WHERE t.dataset = 'd3' AND t.method = 'm4' AND t.seed < 6"
    )
    return study
