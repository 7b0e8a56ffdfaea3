"""Audits: a sample of the finished experiments, what it says about all of them, and what differs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pyexperimenter.analysis.cells import levels, optional_import
from pyexperimenter.analysis.covering import failures_by_value
from pyexperimenter.jsonable import is_missing, jsonable

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes
    ----------
    differences : pandas.DataFrame
        One row for each result that differs: ``ID``, ``field``, ``before`` and ``after``. The field ``error`` says that
        an experiment failed in only one of the two executions, or with another exception.
    audited : int
        Number of experiments that were executed again.
    planned : int
        Number of experiments in the sample.
    population : int
        Number of experiments from which the sample was drawn.
    common : str
        Which values the experiments that differ have.
    """

    differences: pd.DataFrame
    audited: int
    planned: int
    population: int
    common: str = ""

    @property
    def reproduced(self) -> int:
        """Number of experiments without a difference."""
        return self.audited - self.differences["ID"].nunique()

    @property
    def share(self) -> float:
        """The share of all experiments that would be reproduced, at least, with a confidence of 95 %."""
        return lower_bound(self.reproduced, self.audited, self.population)

    def __str__(self) -> str:
        text = f"{self.reproduced} of {self.audited} experiments gave the same results again"
        if self.audited < self.planned:
            text += f" ({self.planned - self.audited} of the sample are left)"
        if self.audited:
            text += f". With 95 % confidence, at least {self.share:.1%} of all {self.population} would"
        return f"{text}. Those that differ have {self.common}" if self.common else text


def lower_bound(reproduced: int, audited: int, population: int) -> float:
    """Return the share of a population that has a property, at least, with a confidence of 95 %.

    Parameters
    ----------
    reproduced, audited : int
        How many of the sample have it, and the size of the sample.
    population : int
        The number of all.

    Returns
    -------
    float
        The smallest share with which so many in the sample are not less likely than 5 %, by the hypergeometric
        distribution: a one-sided exact interval (Thompson, 2012, *Sampling*, section 5).

    Examples
    --------
    >>> round(lower_bound(59, 59, 10**7), 3), lower_bound(59, 59, 59), round(lower_bound(57, 59, 1000), 3)
    (0.95, 1.0, 0.9)
    """
    if not audited:
        return 0.0
    chance = optional_import("scipy.stats", "stats").hypergeom.sf
    low, high = reproduced - 1, population - (audited - reproduced)  # excluded, possible
    while high - low > 1:
        middle = (low + high) // 2
        possible = chance(reproduced - 1, population, middle, audited) > 1 - CONFIDENCE
        low, high = (low, middle) if possible else (middle, high)
    return high / population


def sample_of(table: pd.DataFrame, size: int, strata: Sequence[str], seed: int) -> list[int]:
    """Draw experiments, from each stratum as many as its share of all.

    Parameters
    ----------
    table : pandas.DataFrame
        Experiments.
    size : int
        How many to draw.
    strata : sequence of str
        Columns whose combinations are the strata.
    seed : int
        Seed of the choice, which depends on nothing else but the IDs.

    Returns
    -------
    list of int
        Their IDs, sorted. What is left after rounding goes to the strata with the largest remainders.
    """
    groups, _ = levels(table, strata)
    order = table["ID"].map(lambda identity: hashlib.sha256(f"{seed} {identity}".encode()).digest())
    ranked = pd.DataFrame({"ID": table["ID"], "group": groups, "order": order}).sort_values("order")
    counts = ranked["group"].value_counts().sort_index()
    quotas = counts * (min(size, len(table)) / max(len(table), 1))
    sizes = quotas.astype(int)
    missing = min(size, len(table)) - int(sizes.sum())
    sizes[(quotas - sizes).sort_values(ascending=False, kind="stable").index[:missing]] += 1
    chosen = ranked[ranked.groupby("group").cumcount() < ranked["group"].map(sizes)]
    return sorted(chosen["ID"].tolist())


def audit_of(
    table: pd.DataFrame,
    again: pd.DataFrame,
    fields: Sequence[str],
    tolerances: Mapping[str, float],
    described: Sequence[str],
    planned: int,
    population: int,
) -> Audit:
    """Compare experiments with their second execution.

    Parameters
    ----------
    table : pandas.DataFrame
        The experiments, with `fields`, ``status`` and ``error``.
    again : pandas.DataFrame
        Columns ``experiment_id``, ``results`` (a mapping) and ``error``.
    fields : sequence of str
        Resultfields to compare.
    tolerances : Mapping of str to float
        Field -> largest absolute difference of two numbers that count as the same; 0 for those that are not named.
    described : sequence of str
        Columns of `table` that may explain a difference.
    planned, population : int
        See `Audit`.
    """
    before = table.set_index("ID")
    found: list[dict[str, Any]] = []
    for experiment_id, results, error in again[["experiment_id", "results", "error"]].itertuples(index=False):
        row = before.loc[experiment_id]
        pairs: dict[str, tuple[Any, Any]] = {"error": (_exception(row["error"]), _exception(error))}
        if pairs["error"] == (None, None):
            pairs |= {name: (jsonable(row[name]), results.get(name)) for name in fields}
        found += [
            {"ID": experiment_id, "field": name, "before": old, "after": new}
            for name, (old, new) in pairs.items()
            if not _same(old, new, tolerances.get(name, 0.0))
        ]
    differences = pd.DataFrame(found, columns=["ID", "field", "before", "after"], dtype=object)
    audited = table[table["ID"].isin(again["experiment_id"])]
    status = audited["ID"].isin(differences["ID"]).map({True: "error", False: "done"})
    common = failures_by_value(audited.assign(status=status), described) if len(differences) else ""
    return Audit(differences, len(audited), planned, population, common)


def _exception(error: Any) -> str | None:
    """Return the class of the exception at the end of a traceback."""
    return None if is_missing(error) else str(error).strip().rpartition("\n")[2].partition(":")[0]


def _same(old: Any, new: Any, tolerance: float) -> bool:
    if is_missing(old) or is_missing(new):
        return is_missing(old) and is_missing(new)
    if tolerance and isinstance(old, (int, float)) and isinstance(new, (int, float)):
        return abs(old - new) <= tolerance
    return bool(old == new)
