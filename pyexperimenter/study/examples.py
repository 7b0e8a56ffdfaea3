"""Queries in SQL that fit any study. The guide "Work with the tables in SQL" shows them for its own."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter

from pyexperimenter.database.schema import Schema
from pyexperimenter.fieldtypes import FieldType, Kind

# In the words of the guide's study: {first} is its dataset, {second} its kernel, {result} its accuracy, and {index} and
# {logged} are epoch and loss. Only names can be filled in.
_QUERIES = {
    "Progress": """
SELECT {first}, status, COUNT(*) AS experiments FROM {table} GROUP BY {first}, status ORDER BY {first}, status
""",
    "Means": """
SELECT {first}, {second}, ROUND(CAST(AVG({result}) AS DECIMAL(38, 6)), 3) AS mean, COUNT({result}) AS runs
FROM {table} WHERE status = 'done' GROUP BY {first}, {second} ORDER BY {first}, mean DESC
""",
    "Best experiments": """
SELECT ID, {keyfields}, {result} FROM (
  SELECT {table}.*, ROW_NUMBER() OVER (PARTITION BY {first} ORDER BY {result} DESC, ID) AS place
  FROM {table} WHERE status = 'done'
) ranked WHERE place = 1 ORDER BY {first}
""",
    "Missing runs": """
SELECT {first}, {second}, COUNT(*) AS missing
FROM {table} WHERE status <> 'done' GROUP BY {first}, {second} ORDER BY {first}
""",
    "Certain errors": """
SELECT ID, {keyfields} FROM {table} WHERE error LIKE '%ValueError%' ORDER BY ID
""",
    "Ends of executions": """
SELECT outcome, COUNT(*) AS attempts FROM {attempts} GROUP BY outcome ORDER BY outcome
""",
    "Repeated executions": """
SELECT experiment_id, COUNT(*) AS attempts FROM {attempts} GROUP BY experiment_id HAVING COUNT(*) > 1
""",
    "Time and memory": """
SELECT {table}.{second}, ROUND(MAX(a.wall_seconds)) AS longest, ROUND(AVG(a.wall_seconds)) AS mean,
       ROUND(MAX(a.max_rss_bytes) / 1e6) AS memory
FROM {table} JOIN {attempts} a ON a.experiment_id = {table}.ID
WHERE a.outcome = 'done' GROUP BY {table}.{second} ORDER BY {table}.{second}
""",
    "Versions of the code": """
SELECT git_commit, git_diff_hash, library_version, COUNT(*) AS results
FROM {attempts} WHERE outcome = 'done' GROUP BY git_commit, git_diff_hash, library_version
""",
    "Last logs": """
SELECT logs.experiment_id, MAX(logs.{index}) AS last, ROUND(CAST(MIN(logs.{logged}) AS DECIMAL(38, 6)), 3) AS least
FROM {logtable} logs
JOIN (SELECT experiment_id, MAX(ID) AS last FROM {attempts} GROUP BY experiment_id) newest
  ON newest.last = logs.attempt_id
WHERE logs.experiment_id <= 3 GROUP BY logs.experiment_id ORDER BY logs.experiment_id
""",
}


def examples(schema: Schema) -> dict[str, str]:
    """Return the queries that a study has the fields for."""
    grouped = [name for name, field in schema.keyfields.items() if field.kind is not Kind.JSON]
    named = {"table": schema.table, "attempts": schema.attempts}
    named |= _named("first second", grouped) | _named("result", _numbers(schema.resultfields))
    for logtable, fields in schema.logfields.items():
        if len(numbers := _numbers(fields)) > 1:
            named |= {"logtable": schema.logtables[logtable]} | _named("index logged", numbers)
            break
    names = {key: schema.q(name) for key, name in named.items()}
    names["keyfields"] = ", ".join(map(schema.q, schema.keyfields))
    return {title: sql.strip().format_map(names) for title, sql in _QUERIES.items() if _fields(sql) <= names.keys()}


def _named(keys: str, names: list[str]) -> dict[str, str]:
    return dict(zip(keys.split(), names, strict=False))


def _numbers(fields: Mapping[str, FieldType]) -> list[str]:
    return [name for name, field in fields.items() if field.kind in (Kind.INTEGER, Kind.REAL)]


def _fields(sql: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(sql) if name}
