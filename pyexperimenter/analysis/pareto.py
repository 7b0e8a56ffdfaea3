"""The settings that no other setting beats in all objectives at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pyexperimenter.analysis.cells import Names, as_text, averaged_over, check_columns, keyfields_of, levels, listed
from pyexperimenter.analysis.exact_tests import Array
from pyexperimenter.analysis.plots import axes_or_new, describe, styles
from pyexperimenter.analysis.summary import summarize
from pyexperimenter.exceptions import InvalidValueError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def pareto(
    table: pd.DataFrame, objectives: Mapping[str, str], by: Names = None, over: Names = "seed", **how: Any
) -> pd.DataFrame:
    """Find the Pareto front of the means of several objectives.

    A setting is on the front if no other one is at least as good in all objectives and better in one. Means are
    compared as they are, without regard to their uncertainty: with few runs, a setting is on the front by luck.

    Parameters
    ----------
    table : pandas.DataFrame
        Experiments, as returned by `get_table`; you may drop rows.
    objectives : mapping of str to {"min", "max"}
        Resultfields, and which of their values are good, as in ``{"error": "min", "seconds": "min"}``.
    by : str or sequence of str, optional
        Keyfields whose combinations are the settings; by default all that are not averaged over.
    over : str or sequence of str, optional
        Keyfields to average over.
    **how
        `unit`, `failures`, `pairing` and `attempts`, as for `summarize`.

    Returns
    -------
    pandas.DataFrame
        A row for each setting, sorted by the first objective: the columns of `by`, the mean of each objective, ``n``,
        the number of runs of the objective with the fewest, and ``front``, whether it is on the front. A setting that
        lacks a mean is not.

    Raises
    ------
    InvalidColumnError, InvalidValueError
        As for `summarize`; or if there are fewer than two objectives.

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "ID": [1, 2, 3], "depth": [1, 2, 3], "creation_date": pd.Timestamp("2026-01-01"), "status": "done",
    ...     "error": [0.3, 0.2, 0.25], "seconds": [1.0, 3.0, 4.0],
    ... })
    >>> print(pareto(table, {"error": "min", "seconds": "min"}).to_string(index=False))
     depth  error  seconds  n  front
         2   0.20      3.0  1   True
         3   0.25      4.0  1  False
         1   0.30      1.0  1   True
    """
    if len(objectives) < 2:
        raise InvalidValueError(f"objectives: {dict(objectives)!r} are fewer than two; give at least two")
    for name, aim in objectives.items():
        if aim not in ("min", "max"):
            raise InvalidValueError(f"objectives: {aim!r} is unknown for {name}; choose 'min' or 'max'")
    averaged = averaged_over(table, over, listed(by))
    keys = listed(by) or [name for name in keyfields_of(table) if name not in averaged]
    summary = summarize(table, list(objectives), rows=keys, over=averaged, stat="mean", **how)
    blocks = [part.reset_index(drop=True) for _, part in summary.groupby("value", sort=False)]  # in the same order
    settings = blocks[0][keys].assign(**{name: part["mean"] for name, part in zip(objectives, blocks, strict=True)})
    signs = [1 if aim == "min" else -1 for aim in objectives.values()]
    costs = settings[list(objectives)].to_numpy() * signs
    settings["n"] = np.min([part["n"] for part in blocks], axis=0)
    settings["front"] = on_front(costs)
    order = np.lexsort(costs.T[::-1])
    return settings.iloc[order].reset_index(drop=True)


def plot_pareto(
    table: pd.DataFrame,
    objectives: Mapping[str, str],
    by: Names = None,
    over: Names = "seed",
    hue: Names = None,
    ax: Axes | None = None,
    **how: Any,
) -> Axes:
    """Draw the means of two objectives, and the front as steps: what is beyond them, no setting reaches.

    Parameters
    ----------
    table, objectives, by, over, **how
        As for `pareto`; two objectives, the first of which is on the horizontal axis.
    hue : str or sequence of str, optional
        Keyfields of `by` whose combinations get a color each.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InvalidColumnError, InvalidValueError
        As for `pareto`; or if there are other than two objectives.
    PyExperimenterError
        If matplotlib is missing.
    """
    if len(objectives) != 2:
        raise InvalidValueError(f"objectives: {dict(objectives)!r} are not two, which a figure can show")
    axes = axes_or_new(ax)
    points = pareto(table, objectives, by, over, **how)
    check_columns(points, listed(hue))
    (x, x_aim), (y, _) = objectives.items()
    front = points[points["front"]].sort_values(x)
    steps = "steps-post" if x_aim == "min" else "steps-pre"
    axes.plot(front[x], front[y], drawstyle=steps, color="gray", linewidth=1, label="front")
    codes, labels = levels(points, listed(hue))
    for number, (names, style) in enumerate(zip(labels, styles(axes), strict=False)):
        of = points[codes == number]
        label = ", ".join(map(as_text, names)) or "settings"
        axes.plot(of[x], of[y], label=label, **{**style, "linestyle": "none"})
    describe(axes, x, y, listed(hue))
    return axes


def on_front(costs: Array) -> npt.NDArray[np.bool_]:
    """Return which points no other point dominates, n points × m costs; points with NaN are not.

    >>> on_front(np.array([[1, 3], [2, 2], [2, 3], [3, 1], [1, 3]])).tolist()
    [True, True, False, True, True]
    """
    found = np.zeros(len(costs), dtype=bool)
    front = np.empty((0, costs.shape[1]))
    for place in np.lexsort(costs.T[::-1]):  # no later point dominates an earlier one
        point = costs[place]
        if np.isnan(point).any():
            continue
        if not ((front <= point).all(axis=1) & (front < point).any(axis=1)).any():
            found[place] = True
            front = np.vstack([front, point])
    return found
