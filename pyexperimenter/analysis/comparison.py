"""The result of paired tests: its numbers, and the groups of levels that they do not distinguish."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyexperimenter.analysis import comparison_text
from pyexperimenter.analysis.cells import as_text
from pyexperimenter.analysis.pair_tests import NEMENYI
from pyexperimenter.analysis.rank_tests import iman_davenport, nemenyi
from pyexperimenter.exceptions import InvalidValueError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        ``"Wilcoxon signed-rank"`` for two levels, ``"Friedman"`` for more; ``"corrected resampled t"`` if the blocks
        are random splits of one data set.
    statistic : float
        The smaller of the two rank sums (Wilcoxon), chi-squared (Friedman), or the largest absolute t.
    p_value : float
        The exact p-value of a two-sided test (Wilcoxon), the permutation p-value (Friedman), or the smallest ``p_holm``
        (t); see `rank_tests`.
    average_ranks : pandas.Series
        Level -> rank, averaged over the blocks, best first; 1 is the best rank, and ties get the average of theirs.
    pairwise_test : str
        ``"Wilcoxon signed-rank"``, ``"Nemenyi"`` or ``"corrected resampled t"``: the test of the pairs of levels.
    pairwise : pandas.DataFrame
        A row for each pair of levels:

        - ``first`` and ``second``, the levels;
        - ``difference``, by how much the scores of the first are higher: the Hodges-Lehmann estimate of the shift; and
          with the Wilcoxon test ``low`` and ``high``, the ends of its 95 % interval, not adjusted for the number of
          pairs;
        - ``wins``, ``ties`` and ``losses``: in how many blocks the first level is better, equal, or worse;
        - ``rank_biserial``, the matched-pairs rank-biserial correlation: 1 if the first is always better, -1 if the
          second is; see `effects` for both effect sizes;
        - ``statistic`` and ``p_value`` of the Wilcoxon signed-rank test, and ``p_holm``, the p-value adjusted for the
          number of pairs by Holm's method, and ``p_shaffer`` by Shaffer's, if chosen; or ``rank_difference``, the
          difference of the average ranks, and ``p_nemenyi``, the p-value of the Nemenyi test, which is adjusted for the
          number of pairs, too;
        - with a region of practical equivalence, ``p_equivalence``, the p-value of the test that the levels are
          equivalent, and ``p_equivalence_holm``, adjusted by Holm's method; and ``first_better``, ``equivalent`` and
          ``second_better``, the posterior probabilities of the Bayesian test. See `equivalence`.

        For the corrected t test, ``difference``, ``low`` and ``high`` are the mean difference and its 95 % interval,
        and ``statistic`` is t; there is no ``rank_biserial``.
    over : tuple of str
        Keyfields with several values that were averaged over first.
    notes : tuple of str
        What a reader has to know: blocks and runs that are left out, and how far the conclusion reaches.
    runs : int
        The number of runs behind the scores.
    missing : int
        The number of other runs: without a result, or left out.
    rope : float or None
        Half the width of the region of practical equivalence, in the units of the value.
    correction : str
        ``"holm"`` or ``"shaffer"``: how the p-values of the pairs are adjusted, unless by the Nemenyi test.
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
    pairwise_test: str
    pairwise: pd.DataFrame
    over: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    runs: int = 0
    missing: int = 0
    rope: float | None = None
    correction: str = "holm"

    @property
    def adjusted(self) -> pd.Series[float]:
        """The p-values of `pairwise`, adjusted for the number of pairs."""
        return self.pairwise["p_nemenyi" if self.pairwise_test == NEMENYI else f"p_{self.correction}"]

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
            If the pairs were not compared with the Nemenyi test, or if `alpha` is not between 0 and 1.
        """
        if self.pairwise_test != NEMENYI:
            raise InvalidValueError(
                f"the {self.pairwise_test} test of the pairs has no critical difference; compare with test='nemenyi'"
            )
        _check_alpha(alpha)
        return nemenyi(*self.scores.shape, alpha)

    def cliques(self, alpha: float = 0.05) -> list[tuple[Any, ...]]:
        """Return the maximal groups of levels of which no two differ significantly.

        Two levels differ significantly if their adjusted p-value in `pairwise` is at most `alpha`. A group can leave
        out levels whose average ranks lie between those of its members.

        Parameters
        ----------
        alpha : float
            Significance level.

        Raises
        ------
        InvalidValueError
            If `alpha` is not between 0 and 1.
        """
        return [tuple(self.average_ranks.index[level] for level in clique) for clique in self._cliques(alpha)]

    def _cliques(self, alpha: float) -> list[list[int]]:
        """Return the groups as positions in `average_ranks`."""
        _check_alpha(alpha)
        places = self.average_ranks.index.get_indexer(self.scores.columns).tolist()  # finds NULL, too
        similar: dict[int, set[int]] = {place: set() for place in places}
        pairs = zip(combinations(places, 2), self.adjusted, strict=True)
        for (first, second), p_value in pairs:
            if p_value > alpha:
                similar[first].add(second)
                similar[second].add(first)
        return sorted(sorted(clique) for clique in _maximal_cliques(similar) if len(clique) > 1)

    def critical_difference_diagram(self, ax: Axes | None = None, alpha: float = 0.05) -> Axes:
        """Draw a critical difference diagram (Demšar, 2006, figure 1).

        It shows the average ranks, the best on the right. Bars join the levels of the `cliques`, so they say what the
        p-values of `pairwise` say. Dots are the levels that belong to a bar, which is dotted where it passes others.
        With the Nemenyi test, the critical difference is drawn, too.

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

        names, ranks = [as_text(level) for level in self.average_ranks.index], list(self.average_ranks)
        note = f"Bars: no significant difference\n({comparison_text.pairs_tested(self)}, p > {alpha:g})"
        critical = self.critical_difference(alpha) if self.pairwise_test == NEMENYI else None
        return draw_critical_differences(names, ranks, self._cliques(alpha), note, critical, ax)

    def describe(self, alpha: float = 0.05) -> str:
        """Return a paragraph for a paper, which says in words what was compared and tested, and the results.

        Parameters
        ----------
        alpha : float
            Significance level.

        Raises
        ------
        InvalidValueError
            If `alpha` is not between 0 and 1.
        """
        _check_alpha(alpha)
        return comparison_text.paragraph(self, alpha)

    def __repr__(self) -> str:
        return comparison_text.report(self)

    def _repr_html_(self) -> str:
        return comparison_text.report_html(self)


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise InvalidValueError(f"alpha: {alpha} is not between 0 and 1; 0.05 is usual")


def _maximal_cliques(neighbors: Mapping[int, set[int]]) -> Iterator[set[int]]:
    """Yield the maximal groups whose members are all neighbors of each other (Bron and Kerbosch, 1973).

    C. Bron and J. Kerbosch. Algorithm 457: finding all cliques of an undirected graph. *Communications of the ACM*
    16(9):575-577, 1973; with the pivot of their second version.

    >>> sorted(sorted(group) for group in _maximal_cliques({0: {1, 2}, 1: {0, 2}, 2: {0, 1, 3}, 3: {2}}))
    [[0, 1, 2], [2, 3]]
    """

    def extend(group: set[int], candidates: set[int], done: set[int]) -> Iterator[set[int]]:
        if not candidates and not done:
            yield group
            return
        pivot = max(candidates | done, key=lambda node: len(neighbors[node] & candidates))
        for node in candidates - neighbors[pivot]:
            yield from extend(group | {node}, candidates & neighbors[node], done & neighbors[node])
            candidates, done = candidates - {node}, done | {node}

    yield from extend(set(), set(neighbors), set())
