"""The best setting of each method, chosen by one score and reported with another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pyexperimenter.analysis.cells import (
    SEED,
    cell_name,
    checked,
    keyfields_of,
    levels,
    listed,
    numbers,
    some_of,
    warn,
)
from pyexperimenter.analysis.rank_tests import differences_of
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError


def select(
    table: pd.DataFrame,
    by: str | Sequence[str],
    on: str,
    report: str | Sequence[str],
    better: str = "max",
    *,
    failures: str = "error",
    optimistic: bool = False,
) -> pd.DataFrame:
    """Choose the best setting for each combination of `by`, such as data set, method and seed.

    The settings are the values of the other keyfields, such as hyperparameters. The result can be passed to `summarize`
    and `compare`, whose notes then say how the settings were chosen, and to the figures.

    Parameters
    ----------
    table : pandas.DataFrame
        Experiments, as returned by `get_table`; you may drop rows.
    by : str or sequence of str
        Keyfields for each combination of which a setting is chosen. The seed and the units of the study must be among
        them: what is training data for one seed is test data for another, so a setting that is chosen by all seeds
        together has seen the test data of each.
    on : str
        Resultfield to choose by, such as the accuracy in a cross-validation on the training data.
    report : str or sequence of str
        Resultfields that you are going to report, such as the accuracy on the test data.
    better : {"max", "min"}
        Whether the largest or the smallest value of `on` is the best.
    failures : {"error", "worst", "drop"}
        What is done if experiments failed or have no value of `on`: raise an error; choose them only where nothing else
        has a value, so that the failure counts as a result of the method; or never choose them, so that combinations
        without any value are left out.
    optimistic : bool
        Allow `on` to be in `report`. The best of many values is better than what the setting would reach on
        new data.

    Returns
    -------
    pandas.DataFrame
        The chosen rows of `table`. The columns of the settings are at the end, no longer among the keyfields, followed
        by ``n_settings``, the number of settings that were tried. Its ``attrs`` have ``notes``, sentences about the
        choice.

        Of equal values (up to a relative difference of 1e-9), the first in the order of the settings' values is
        chosen. If no experiment of a combination has ended, its row is one that is still open.

    Raises
    ------
    InvalidColumnError
        If a column does not exist or is not a keyfield, or if the seed or a unit would be chosen like a setting.
    InvalidValueError
        If `on` is in `report` and `optimistic` is not set, if experiments failed and `failures` does not say
        what to do, if an option is unknown, if `on` is not numeric, or if the table is empty.

    Warns
    -----
    UserWarning
        If experiments have failed or are still open.

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "ID": range(1, 5), "C": [1, 10, 1, 10], "seed": [0, 0, 1, 1],
    ...     "creation_date": pd.Timestamp("2026-01-01"), "status": "done",
    ...     "cv_accuracy": [0.8, 0.9, 0.7, 0.6], "accuracy": [0.85, 0.80, 0.75, 0.90],
    ... })
    >>> best = select(table, by="seed", on="cv_accuracy", report="accuracy")
    >>> best[["seed", "accuracy", "C", "n_settings"]].values.tolist()
    [[0.0, 0.8, 10.0, 2.0], [1.0, 0.75, 1.0, 2.0]]
    >>> best.attrs["notes"]
    ['For each seed, the setting (C) with the highest cv_accuracy, of 2']
    """
    by = listed(by)
    if not by:
        raise InvalidColumnError("by: no keyfield is named; name at least one")
    if better not in ("max", "min"):
        raise InvalidValueError(f"better: {better!r} is unknown; choose 'max' or 'min'")
    if failures not in ("error", "worst", "drop"):
        raise InvalidValueError(f"failures: {failures!r} is unknown; choose 'error', 'worst' or 'drop'")
    if on in listed(report) and not optimistic:
        raise InvalidValueError(
            f"on: {on!r} is also what you report, but the best of many values is too good to report; choose on another "
            "one, such as a score on validation data, or pass optimistic=True"
        )
    keyfields = keyfields_of(table)
    for name in by:
        if name not in keyfields:
            raise InvalidColumnError(f"by: {name!r} is not a keyfield; choose from {', '.join(keyfields)}")
    others = [name for name in keyfields if name not in by]
    rows = checked(table, list(dict.fromkeys([on, *listed(report)])), by, others, "name it in by")
    groups, labels = levels(rows, by)
    settings = [name for name in others if rows[name].groupby(groups).nunique(dropna=False).max() > 1]
    if not settings:
        raise InvalidColumnError(f"by: there is one experiment for each {', '.join(by)}, and so nothing to choose")
    replicates = [SEED, *listed(table.attrs.get("unit"))]
    for name in settings:
        if name in replicates:
            raise InvalidColumnError(f"by: without {name!r}, its best value would be chosen, as if it were a setting")
    if "n_settings" in table:
        raise InvalidColumnError("the table has a column 'n_settings' already; rename it first")

    score = numbers(rows, on).where(rows["status"] == "done")
    failed = (rows["status"] == "error") | ((rows["status"] == "done") & score.isna())
    is_open = score.isna() & ~failed
    if failed.any() and failures == "error":
        raise InvalidValueError(
            f"{failed.sum()} of {len(rows)} experiments failed or have no {on}: {_where(failed, groups, by, labels)}; "
            "choose failures='worst' or failures='drop'"
        )
    score = score if better == "max" else -score
    best = score.groupby(groups).transform("max")
    is_best = pd.Series(differences_of(score.tolist(), best.tolist()) == 0)
    order = pd.DataFrame({"group": groups, "setting": levels(rows, settings)[0]})
    order["rank"] = failed * 2 + is_open  # 0: has a value
    chosen = order[is_best | best.isna()].sort_values(["group", "rank", "setting"]).drop_duplicates("group").index
    if failures == "drop":
        chosen = chosen[~failed[chosen]]
    n_settings = (~is_open).groupby(groups).sum()

    chosen = chosen.sort_values()
    result: pd.DataFrame = table.iloc[chosen].reset_index(drop=True)
    moved = {name: result.pop(name) for name in settings}
    result = result.assign(**moved, n_settings=groups[chosen].map(n_settings).to_numpy())

    extreme = "highest" if better == "max" else "lowest"
    counts = pd.DataFrame(labels, columns=by).assign(n=n_settings.to_numpy())
    tried = _tried(counts, [name for name in by if name not in replicates])
    notes = [f"For each {', '.join(by)}, the setting ({', '.join(settings)}) with the {extreme} {on}, of {tried}"]
    ties = is_best.groupby(groups).sum().gt(1).sum()
    if ties:
        notes.append(
            f"In {ties} of {len(labels)} choices, several settings were equal; the first in the order of "
            f"{', '.join(settings)} was taken"
        )
    if on in listed(report):
        notes.append(f"{on} is what the settings were chosen by, and so it is optimistic")
    lacking = [
        f"{number} of {len(rows)} experiments {what}: {_where(which, groups, by, labels)}"
        for which, what in ((failed, f"failed or have no {on}"), (is_open, "are still open"))
        if (number := which.sum())
    ]
    warn(lacking)
    result.attrs = {**table.attrs, "notes": [*table.attrs.get("notes", []), *notes, *lacking]}
    return result


def _tried(counts: pd.DataFrame, methods: Sequence[str]) -> str:
    """Describe the numbers in the column ``n``, by the values of one of the other columns if that explains them."""
    if counts["n"].nunique() == 1:
        return str(counts["n"].iloc[0])
    for name in methods:
        codes, labels = levels(counts, [name])
        each = counts["n"].groupby(codes).agg(["min", "max"])
        if (each["min"] == each["max"]).all():
            return ", ".join(f"{n} ({cell_name([name], label)})" for n, label in zip(each["min"], labels, strict=True))
    return f"{counts['n'].min()} to {counts['n'].max()}"


def _where(rows: pd.Series[bool], groups: pd.Series[int], by: Sequence[str], labels: Sequence[Sequence[Any]]) -> str:
    """Name the combinations of some rows, with the number of these rows."""
    numbers = rows.groupby(groups).sum()
    named = zip(labels, numbers, strict=True)
    return some_of((f"{cell_name(by, label)} ({number})" for label, number in named if number), "; ")
