"""Comparison of the levels of a keyfield over many problems, by rank-based tests as recommended by Demšar (2006)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pyexperimenter.analysis.cells import Names, as_text, cell_name, checked, levels, listed, some_of, warn
from pyexperimenter.analysis.rank_tests import (
    chi_squared_p,
    differences_of,
    friedman,
    holm,
    iman_davenport,
    nemenyi,
    rank,
    wilcoxon,
)
from pyexperimenter.analysis.summary import incomplete, summarize_cells
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# With fewer levels or blocks, the asymptotic distributions of Friedman's statistic are too inaccurate to print.
_LEVELS, _BLOCKS = 4, 8
_ALPHA = 0.05


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """The results of paired tests on the levels of a keyfield, as returned by `compare`.

    Attributes
    ----------
    value : str
        The resultfield that is compared.
    by : str
        The keyfield whose levels are compared.
    blocks : tuple of str
        Keyfields whose combinations are the blocks (problems, data sets).
    better : str
        ``"max"`` or ``"min"``.
    scores : pandas.DataFrame
        The tested scores, N blocks × k levels.
    test : str
        ``"Wilcoxon signed-rank"`` for two levels, ``"Friedman"`` for more.
    statistic : float
        The smaller of the two rank sums (Wilcoxon), or chi-squared (Friedman).
    p_value : float
        The exact p-value of a two-sided test (Wilcoxon), or the permutation p-value (Friedman); see `rank_tests`.
    average_ranks : pandas.Series
        Level -> rank, averaged over the blocks, best first; 1 is the best rank, and ties get the average of theirs.
    pairwise : pandas.DataFrame
        A row for each pair of levels: ``first``, ``second``, ``difference`` (median of first - second over the
        blocks), ``statistic`` and ``p_value`` of the Wilcoxon signed-rank test, and ``p_holm``, the p-value adjusted
        for the number of pairs by Holm's method.
    """

    value: str
    by: str
    blocks: tuple[str, ...]
    better: str
    scores: pd.DataFrame
    test: str
    statistic: float
    p_value: float
    average_ranks: pd.Series[float]
    pairwise: pd.DataFrame

    @property
    def iman_davenport(self) -> tuple[float, float]:
        """F and p-value of the Iman-Davenport variant of the Friedman test, less conservative than chi-squared.

        Raises
        ------
        InvalidValueError
            If there are only two levels.
        """
        if self.test != "Friedman":
            raise InvalidValueError(
                "the Iman-Davenport statistic needs at least three levels; for two, use the Wilcoxon test in statistic "
                "and p_value"
            )
        return iman_davenport(self.statistic, *self.scores.shape)

    def critical_difference(self, alpha: float = 0.05) -> float:
        """Return the critical difference of the Nemenyi test: average ranks at least so far apart differ significantly.

        Parameters
        ----------
        alpha : float
            Significance level.

        Raises
        ------
        InvalidValueError
            If `alpha` is not between 0 and 1.
        """
        if not 0 < alpha < 1:
            raise InvalidValueError(f"alpha: {alpha} is not between 0 and 1; 0.05 is usual")
        return nemenyi(*self.scores.shape, alpha)

    def cliques(self, alpha: float = 0.05) -> list[tuple[Any, ...]]:
        """Return the maximal groups of levels that do not differ significantly from each other in the Nemenyi test.

        Parameters
        ----------
        alpha : float
            Significance level.
        """
        return [tuple(self.average_ranks.index[part]) for part in self._cliques(alpha)]

    def _cliques(self, alpha: float) -> list[slice]:
        critical, ranks = self.critical_difference(alpha), self.average_ranks.to_numpy()
        found: list[slice] = []
        for first, least in enumerate(ranks):
            end = int(np.searchsorted(ranks, least + critical))  # a difference equal to CD is significant
            if end - first > 1 and not (found and end <= found[-1].stop):
                found.append(slice(first, end))
        return found

    def critical_difference_diagram(self, ax: Axes | None = None, alpha: float = 0.05) -> Axes:
        """Draw a critical difference diagram (Demšar, 2006, figure 1).

        It shows the average ranks, the best on the right. Bars join the `cliques` of the Nemenyi test.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to draw on. The default is a new figure.
        alpha : float
            Significance level.

        Returns
        -------
        matplotlib.axes.Axes
            A notebook displays it, and ``ax.figure.savefig(path)`` saves it.

        Raises
        ------
        PyExperimenterError
            If matplotlib is missing.
        """
        from pyexperimenter.analysis.diagram import draw_critical_differences

        names, ranks = map(as_text, self.average_ranks.index), list(self.average_ranks)
        cliques = [(ranks[part][0], ranks[part][-1]) for part in self._cliques(alpha)]
        return draw_critical_differences(list(names), ranks, cliques, self.critical_difference(alpha), ax)

    def __repr__(self) -> str:
        ranks, pairs = self._tables("simple")
        return "\n".join([*self._sentences(), "", ranks, "", pairs])

    def _repr_html_(self) -> str:
        ranks, pairs = self._tables("html")
        return "".join([f"<p>{escape(sentence)}</p>" for sentence in self._sentences()] + [ranks, pairs])

    def _sentences(self) -> list[str]:
        n, k = self.scores.shape
        aim = "higher" if self.better == "max" else "lower"
        what = f"{self.value} of {k} levels of {self.by} over {n} blocks ({', '.join(self.blocks)}); {aim} is better"
        least = min(1.0, k * (k - 1) / 2 * 2 ** (1 - n))
        weak = [f"{n} blocks are too few: p (Holm) cannot be below {least:.3g}, whatever the results are"]
        weak = weak if least > _ALPHA else []
        if self.test != "Friedman":
            return [what, f"Wilcoxon signed-rank test: W = {self.statistic:.4g}, p = {self.p_value:.3g}", *weak]
        sentences = [what, f"Friedman test: chi² = {self.statistic:.4g}, permutation p = {self.p_value:.3g}"]
        if k >= _LEVELS and n >= _BLOCKS:
            p = chi_squared_p(self.statistic, k)
            sentences.append(f"with the chi² distribution: chi²({k - 1}) = {self.statistic:.4g}, p = {p:.3g}")
            f, p = self.iman_davenport
            if math.isfinite(f):
                sentences.append(f"Iman-Davenport test: F({k - 1}, {(k - 1) * (n - 1)}) = {f:.4g}, p = {p:.3g}")
        return sentences + weak

    def _tables(self, form: str) -> list[str]:
        from tabulate import tabulate

        ranks = [[as_text(level), f"{rank:.3f}"] for level, rank in self.average_ranks.items()]
        pairs = [
            [as_text(first), as_text(second), f"{difference:.4g}", f"{statistic:.4g}", f"{p:.3g}", f"{holm:.3g}"]
            for first, second, difference, statistic, p, holm in self.pairwise.itertuples(index=False, name=None)
        ]
        headers = ["", "", "median difference", "W", "p", "p (Holm)"]
        return [
            tabulate(ranks, [self.by, "average rank"], form, disable_numparse=True, colalign=["left", "right"]),
            tabulate(pairs, headers, form, disable_numparse=True, colalign=["left"] * 2 + ["right"] * 4),
        ]


def compare(
    table: pd.DataFrame,
    value: str,
    by: str,
    blocks: str | Sequence[str],
    better: str = "max",
    over: Names = None,
) -> Comparison:
    """Test whether the levels of a keyfield differ, with paired tests over blocks.

    Two levels are compared with the Wilcoxon signed-rank test. More levels are compared with the Friedman test; their
    pairs with the Wilcoxon test and Holm's correction, or with the Nemenyi test in the critical difference diagram.

    Parameters
    ----------
    table : pandas.DataFrame
        Experiments, as returned by `get_table`; you may drop rows.
    value : str
        Resultfield to compare.
    by : str
        Keyfield whose levels are compared, such as the method. NULL is a level, too.
    blocks : str or sequence of str
        Keyfields whose combinations are the blocks, such as the data set. Blocks should be independent. Runs with
        several seeds on the same data set are not; average over them.
    better : {"max", "min"}
        Whether the largest or the smallest value gets rank 1.
    over : str or sequence of str, optional
        Keyfields to average over before testing.

    Returns
    -------
    Comparison
        Print it, or let a notebook display it.

    Raises
    ------
    InvalidColumnError
        If a column does not exist or has two roles, or if a keyfield that is not named varies within a block and
        level; the message names it.
    InvalidValueError
        If the value is not numeric, `better` is unknown, or there are fewer than two levels or fewer than two complete
        blocks.
    PyExperimenterError
        If SciPy is missing.

    Warns
    -----
    UserWarning
        If blocks are left out because they lack a result for a level, or if the numbers of runs behind the means
        differ.

    Notes
    -----
    The Wilcoxon test ranks zero differences and splits their ranks between both signs (Demšar, 2006, page 7), so that
    equal results are evidence for equality. Its p-value is exact for up to 1,000 blocks, even with ties. With fewer
    than six blocks, it cannot be below 0.05. The p-value of the Friedman test is based on all permutations within the
    blocks, or on 100,000 of them, always the same, if there are too many. The p-values of the chi-squared and F
    distributions are printed as well for four or more levels and eight or more blocks; with fewer, they are inaccurate.
    Scores are ties if their relative difference is below 1e-9. The module `rank_tests` has the references for all
    methods.

    The result of the Nemenyi test for two levels depends on the other levels; for conclusions about pairs, prefer
    ``p_holm`` (A. Benavoli, G. Corani and F. Mangili. Should we really use post-hoc tests based on mean-ranks? *Journal
    of Machine Learning Research* 17(5):1-10, 2016).

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "ID": range(1, 13),
    ...     "kernel": ["linear", "rbf"] * 6,
    ...     "dataset": [name for name in "abcdef" for _ in range(2)],
    ...     "creation_date": pd.Timestamp("2026-01-01"),
    ...     "status": "done",
    ...     "accuracy": [0.90, 0.91, 0.80, 0.82, 0.70, 0.73, 0.60, 0.64, 0.50, 0.55, 0.40, 0.46],
    ... })
    >>> compare(table, "accuracy", by="kernel", blocks="dataset")
    accuracy of 2 levels of kernel over 6 blocks (dataset); higher is better
    Wilcoxon signed-rank test: W = 0, p = 0.0312
    <BLANKLINE>
    kernel      average rank
    --------  --------------
    rbf                1.000
    linear             2.000
    <BLANKLINE>
                   median difference    W       p    p (Holm)
    ------  ---  -------------------  ---  ------  ----------
    linear  rbf               -0.035    0  0.0312      0.0312
    """
    if better not in ("max", "min"):
        raise InvalidValueError(f"better: {better!r} is unknown; choose 'max' or 'min'")
    if not listed(blocks):
        raise InvalidColumnError("blocks: no keyfield is named; name at least one")
    matrix = _blocks_by_levels(table, value, by, listed(blocks), listed(over))
    ranks = rank(matrix, better)
    pairwise = _pairwise(matrix)
    if len(pairwise) == 1:
        test, statistic, p_value = "Wilcoxon signed-rank", pairwise["statistic"].iloc[0], pairwise["p_value"].iloc[0]
    else:
        test, (statistic, p_value) = "Friedman", friedman(ranks)
    return Comparison(
        value=value,
        by=by,
        blocks=tuple(listed(blocks)),
        better=better,
        scores=matrix,
        test=test,
        statistic=float(statistic),
        p_value=float(p_value),
        average_ranks=ranks.mean().sort_values(kind="stable").rename("average rank"),
        pairwise=pairwise,
    )


def _blocks_by_levels(table: pd.DataFrame, value: str, by: str, blocks: list[str], over: list[str]) -> pd.DataFrame:
    """Return the mean scores, blocks × levels, of the complete blocks."""
    remedy = "name it in blocks (or in over, to average over it first)"
    table = checked(table, [value], [by, *blocks], over, remedy)
    cells = summarize_cells(table, [value], [by, *blocks], "mean").drop(columns="value")
    block_codes, block_labels = levels(cells, blocks)
    level_codes, level_labels = levels(cells, [by])
    matrix = cells["mean"].set_axis([block_codes, level_codes]).unstack()
    complete = matrix.notna().all(axis="columns")
    if len(level_labels) < 2 or complete.sum() < 2:
        counts = zip(level_labels, matrix.notna().sum(), strict=True)
        raise InvalidValueError(
            f"a test needs at least two levels of {by} and two blocks ({', '.join(blocks)}) with a result for each "
            f"level; complete blocks: {complete.sum()} of {len(complete)}; "
            + some_of(f"{by}={as_text(level)} in {count}" for (level,), count in counts)
        )
    findings = list(incomplete(cells[block_codes.map(complete)], [by, *blocks]))
    if not complete.all():
        names = some_of((cell_name(blocks, block_labels[block]) for block in complete.index[~complete]), "; ")
        number = f"{(~complete).sum()} of {len(complete)} blocks"
        findings.insert(0, f"{number} left out because a level of {by} has no result: {names}")
    warn(findings)
    matrix = matrix[complete]
    matrix.index = pd.MultiIndex.from_tuples([block_labels[block] for block in matrix.index], names=blocks)
    matrix.columns = pd.Index([level for (level,) in level_labels], name=by, dtype=object)
    return matrix


def _pairwise(matrix: pd.DataFrame) -> pd.DataFrame:
    """Test each pair of columns."""
    lines = []
    for first, second in combinations(range(matrix.shape[1]), 2):
        scores = matrix.iloc[:, first].to_numpy(), matrix.iloc[:, second].to_numpy()
        pair = matrix.columns[first], matrix.columns[second]
        lines.append((*pair, median(differences_of(*scores)), *wilcoxon(*scores)))
    pairs = pd.DataFrame(lines, columns=["first", "second", "difference", "statistic", "p_value"])
    return pairs.assign(p_holm=holm(pairs["p_value"]))
