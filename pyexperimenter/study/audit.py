"""Audits: some finished experiments are drawn, executed again and compared."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyexperimenter.config import ExperimentConfig
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError
from pyexperimenter.execution.again import execute_again
from pyexperimenter.execution.provenance import worker_info
from pyexperimenter.execution.task import ExperimentFunction
from pyexperimenter.fieldtypes import Kind
from pyexperimenter.jsonable import jsonable, to_json
from pyexperimenter.machine.system import system_random

if TYPE_CHECKING:
    import pandas as pd

    from pyexperimenter.analysis.auditing import Audit

# What an execution depends on -> how it is called when results differ; no column has such a name.
_MADE_BY = {"git_commit": "git commit", "git_diff_hash": "uncommitted changes", "environment": "environment hash"}


def compared_fields(config: ExperimentConfig, tolerances: Mapping[str, float], ignore: Sequence[str]) -> list[str]:
    """Return the resultfields that an audit compares: all but times and those that are ignored.

    Raises
    ------
    InvalidColumnError
        If a name is not a resultfield.
    """
    fields = config.table.resultfields
    for parameter, names in (("tolerances", tolerances), ("ignore", ignore)):
        for name in names:
            if name not in fields:
                raise InvalidColumnError(f"{parameter}: {name!r} is not a resultfield; choose from {', '.join(fields)}")
    return [name for name, field in fields.items() if field.kind is not Kind.DATETIME and name not in ignore]


def audit(
    store: ExperimentStore,
    config: ExperimentConfig,
    function: ExperimentFunction,
    table_of: Callable[[], pd.DataFrame],
    plan: Mapping[str, Any],
    rules: Mapping[str, Any],
    name: str,
) -> Audit:
    """Begin an audit, or go on with it.

    Parameters
    ----------
    store, config
        The study.
    function : callable
        The experiment function.
    table_of : callable
        Returns the experiments from which the sample is drawn.
    plan : Mapping
        What makes this audit another one than others: its ``size`` and ``seed``, and which experiments are meant.
    rules : Mapping
        The ``fields`` that are compared, and their ``tolerances``, which do not change once the audit has begun.
    name : str
        The name of the experimenter.

    Raises
    ------
    InvalidValueError
        If there is nothing to audit, or the audit was begun with other rules.
    """
    import pandas as pd

    from pyexperimenter.analysis.auditing import audit_of, sample_of

    key = f"audit-{hashlib.sha256(to_json(jsonable(plan)).encode()).hexdigest()[:16]}"
    table, design = table_of(), config.table.design
    settings = list(design.compare if design else ())
    worker = worker_info(name, f"{key}.{uuid.uuid4().hex}", function)
    begun = store.events(key)
    if not begun:
        if table.empty:
            raise InvalidValueError("no experiment is finished, so there is nothing to audit")
        ids = sample_of(table, plan["size"], [*settings, "machine"], plan["seed"])
        store.keep_event(worker.library, key, {**jsonable(plan), **rules, "ids": ids, "population": len(table)})
        begun = store.events(key)  # perhaps that of another process, which was faster
    first = begun[0]
    if {rule: first[rule] for rule in rules} != rules:
        raise InvalidValueError(
            f"this audit was begun with the tolerances {first['tolerances']} and the fields "
            f"{', '.join(first['fields'])}; keep them, or take another seed to begin another audit"
        )
    still = set(table["ID"])  # others were reset or removed
    left = [experiment_id for experiment_id in first["ids"] if experiment_id in still]
    for experiment_id in system_random.sample(left, len(left)):  # so that several processes seldom take the same
        if experiment_id not in store.audits(key):
            done = execute_again(function, store, config, experiment_id)
            store.record_audit(experiment_id, worker, done.results, done.error, done.usage)
    names, rows = store.attempt_rows(left, ["experiment_id", "outcome", *_MADE_BY])
    attempts = pd.DataFrame(rows, columns=names).rename(columns=_MADE_BY)
    first_executions = attempts[attempts["outcome"].isin(["done", "error"])]
    made_by = first_executions.drop_duplicates("experiment_id", keep="last").drop(columns="outcome")
    found = [(experiment_id, *again) for experiment_id, again in store.audits(key).items() if experiment_id in left]
    return audit_of(
        table.merge(made_by, how="left", left_on="ID", right_on="experiment_id"),
        pd.DataFrame(found, columns=["experiment_id", "results", "error"]),
        described=[*config.table.keyfields, "machine", *made_by.columns.drop("experiment_id")],
        planned=len(first["ids"]),
        population=first["population"],
        **rules,
    )
