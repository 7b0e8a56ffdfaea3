"""Comparison of the levels of a keyfield over many problems, by rank-based tests as recommended by Demšar (2006)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pyexperimenter.analysis.cells import (
    SEED,
    Names,
    as_text,
    averaged_over,
    cell_name,
    checked,
    decimals_for,
    levels,
    listed,
    some_of,
    warn,
)
from pyexperimenter.analysis.effects import rank_biserial, shift
from pyexperimenter.analysis.rank_tests import (
    EXACT,
    chi_squared_p,
    corrected_t,
    differences_of,
    friedman,
    holm,
    iman_davenport,
    nemenyi,
    nemenyi_p,
    rank,
    wilcoxon,
)
from pyexperimenter.analysis.units import Failures, Rules, rules_of, units_of
from pyexperimenter.analysis.versions import mixed_versions
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# With fewer levels or blocks, the asymptotic distributions of Friedman's statistic are too inaccurate to print.
_LEVELS, _BLOCKS = 4, 8
_ALPHA = 0.05
# Test of the pairs -> its name, and the column with its p-values, adjusted for the number of pairs.
_WILCOXON, _NEMENYI, _CORRECTED = "Wilcoxon signed-rank", "Nemenyi", "corrected resampled t"
_TESTS = {"wilcoxon": _WILCOXON, "nemenyi": _NEMENYI}
_ADJUSTED = {_WILCOXON: "p_holm", _NEMENYI: "p_nemenyi", _CORRECTED: "p_holm"}
# The printed columns: headers, and the formats of rows of `Comparison.pairwise`; `number` is that of the shift.
_SHIFT = ("shift", "{difference:{number}}")
_INTERVAL = ("95 % interval", "[{low:{number}}, {high:{number}}]")
_WINS, _R = ("win/tie/loss", "{wins}/{ties}/{losses}"), ("r", "{rank_biserial:.2f}")
_P = [("p", "{p_value:.3g}"), ("p (Holm)", "{p_holm:.3g}")]
_SHOWN = {
    _WILCOXON: [_SHIFT, _INTERVAL, _WINS, _R, ("W", "{statistic:.4g}"), *_P],
    _NEMENYI: [_SHIFT, _WINS, _R, ("rank difference", "{rank_difference:.3f}"), ("p (Nemenyi)", "{p_nemenyi:.3g}")],
    _CORRECTED: [("mean", _SHIFT[1]), _INTERVAL, _WINS, ("t", "{statistic:.4g}"), *_P],
}
# The effect sizes in words.
_SHIFT_WORDS = "Hodges-Lehmann shift {difference:{number}}"
_INTERVAL_WORDS = ", 95 % interval {low:{number}} to {high:{number}}"
_R_WORDS = "matched-pairs rank-biserial correlation {rank_biserial:.2f}"
_EFFECTS = {
    _WILCOXON: [_SHIFT_WORDS + _INTERVAL_WORDS, _R_WORDS],
    _NEMENYI: [_SHIFT_WORDS, _R_WORDS],
    _CORRECTED: ["mean difference {difference:{number}}" + _INTERVAL_WORDS],
}


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
          number of pairs by Holm's method; or ``rank_difference``, the difference of the average ranks, and
          ``p_nemenyi``, the p-value of the Nemenyi test, which is adjusted for the number of pairs, too.

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
        if self.pairwise_test != _NEMENYI:
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
        pairs = zip(combinations(places, 2), self.pairwise[_ADJUSTED[self.pairwise_test]], strict=True)
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
        note = f"Bars: no significant difference\n({self._pairs_tested()}, p > {alpha:g})"
        critical = self.critical_difference(alpha) if self.pairwise_test == _NEMENYI else None
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
        limits = [] if self.pairwise_test == _CORRECTED else self._limits()
        sentences = [*self._compared(), *self.notes, *self._tested(), *limits, *self._found(alpha)]
        return " ".join(f"{sentence}." for sentence in sentences)

    def _compared(self) -> list[str]:
        n, k = self.scores.shape
        aim = "higher" if self.better == "max" else "lower"
        levels = f"{k} levels of {self.by} ({', '.join(map(as_text, self.scores.columns))})"
        means = f"the mean over {' and '.join(self.over)}" if self.over else "that of one run"
        complete = f"{self.missing} runs are missing or left out" if self.missing else "no run is missing"
        return [
            f"We compared {levels} by {self.value} ({aim} is better) on {n} blocks ({', '.join(self.blocks)})",
            f"Each score is {means}, of {self.runs} runs in total; {complete}",
        ]

    def _tested(self) -> list[str]:
        pairs = len(self.pairwise)
        adjusted = f", with p-values adjusted for {pairs} pairs by Holm's method" if pairs > 1 else ""
        if self.pairwise_test == _CORRECTED:
            return [
                "The blocks are random splits of one data set, so pairs were compared by the t test whose variance is "
                f"corrected for overlapping training data (Nadeau and Bengio, 2003){adjusted}"
            ]
        exact = "exact" if len(self.scores) <= EXACT else "by a normal approximation"
        wilcoxon = f"the two-sided Wilcoxon signed-rank test ({exact}; zero differences are ranked)"
        if pairs == 1:
            return [f"They were compared by {wilcoxon}: W = {self.statistic:.4g}, p = {self.p_value:.3g}"]
        each = "the Nemenyi test" if self.pairwise_test == _NEMENYI else f"{wilcoxon}{adjusted}"
        friedman = f"chi² = {self.statistic:.4g}, p = {self.p_value:.3g}"
        how = "by permutation" if len(self.scores) <= EXACT else "by the chi² distribution"
        return [f"All levels were compared by the Friedman test ({how}: {friedman}), pairs by {each}"]

    def _found(self, alpha: float) -> list[str]:
        """Name the pairs that differ significantly, the better level first, and count the others."""
        adjusted, nemenyi = self.pairwise[_ADJUSTED[self.pairwise_test]], self.pairwise_test == _NEMENYI
        sentences = []
        for pair, p in zip(self.pairwise.to_dict("records"), adjusted, strict=True):
            if p > alpha:
                continue
            pair |= {"number": _number_format(pair)}
            ahead = -pair["rank_difference"] if nemenyi else pair["difference"] * (1 if self.better == "max" else -1)
            if ahead < 0:
                pair |= {"first": pair["second"], "second": pair["first"], "wins": pair["losses"]}
                pair |= {name: -pair[name] for name in ("difference", "rank_biserial") if name in pair}
                pair |= {"low": -pair["high"], "high": -pair["low"]} if "low" in pair else {}
            effects = "; ".join(text.format_map(pair) for text in _EFFECTS[self.pairwise_test])
            names = f"{as_text(pair['first'])} is significantly better than {as_text(pair['second'])}"
            wins = f"better in {pair['wins']} of {len(self.scores)} blocks"
            sentences.append(f"{names} ({wins}; {effects}; p = {p:.3g})")
        if len(sentences) > 1 and not nemenyi:
            sentences.append("Each interval is for its pair alone")
        others = adjusted[adjusted > alpha]
        if len(others):
            number = "No pair differs" if len(others) == len(adjusted) else "No other pair differs"
            sentences.append(f"{number} significantly at the level {alpha:g} (smallest p = {others.min():.3g})")
        return sentences

    def __repr__(self) -> str:
        ranks, pairs = self._tables("simple")
        return "\n".join([*self._sentences(), "", ranks, "", pairs, "", self._legend()])

    def _repr_html_(self) -> str:
        before, after = (
            [f"<p>{escape(text)}</p>" for text in texts] for texts in (self._sentences(), [self._legend()])
        )
        return "".join([*before, *self._tables("html"), *after])

    def _sentences(self) -> list[str]:
        n, k = self.scores.shape
        aim = "higher" if self.better == "max" else "lower"
        means = f", means over {', '.join(self.over)}" if self.over else ""
        what = f"{self.value} of {k} levels of {self.by} over {n} blocks ({', '.join(self.blocks)}){means}"
        return [f"{what}; {aim} is better", *self._results(), *self.notes]

    def _results(self) -> list[str]:
        n, k = self.scores.shape
        if self.test == _CORRECTED:
            of_pairs, adjusted = ("", "") if k == 2 else (f"s of {len(self.pairwise)} pairs, the largest", " (Holm)")
            t = f"|t({n - 1})| = {self.statistic:.4g}, p{adjusted} = {self.p_value:.3g}"
            return [f"Corrected resampled t test{of_pairs}: {t}"]
        if self.test != "Friedman":
            return [f"Wilcoxon signed-rank test: W = {self.statistic:.4g}, p = {self.p_value:.3g}", *self._limits()]
        how = "permutation p" if n <= EXACT else "p"
        sentences = [f"Friedman test: chi² = {self.statistic:.4g}, {how} = {self.p_value:.3g}"]
        if k >= _LEVELS and n >= _BLOCKS:
            p = chi_squared_p(self.statistic, k)
            sentences.append(f"with the chi² distribution: chi²({k - 1}) = {self.statistic:.4g}, p = {p:.3g}")
            f, p = self.iman_davenport
            if math.isfinite(f):
                sentences.append(f"Iman-Davenport test: F({k - 1}, {(k - 1) * (n - 1)}) = {f:.4g}, p = {p:.3g}")
        return [*sentences, f"Pairs: {self._pairs_tested()}", *self._limits()]

    def _pairs_tested(self) -> str:
        if self.pairwise_test == _NEMENYI:
            return "Nemenyi test"
        return f"{self.pairwise_test} tests with Holm's correction"

    def _limits(self) -> list[str]:
        """Say so if there are too few blocks for any pair to differ significantly."""
        n, k = self.scores.shape
        if self.pairwise_test == _NEMENYI:
            adjusted, least = "Nemenyi", nemenyi_p(k - 1, n, k)
        else:
            adjusted, least = "Holm", min(1.0, k * (k - 1) / 2 * 2 ** (1 - n))
        least_p = f"p ({adjusted}) cannot be below {least:.3g}"
        return [f"{n} blocks are too few: {least_p}, whatever the results are"] if least > _ALPHA else []

    def _tables(self, form: str) -> list[str]:
        from tabulate import tabulate

        ranks = [[as_text(level), f"{rank:.3f}"] for level, rank in self.average_ranks.items()]
        headers, pairs = ["", "", *(name for name, _ in _SHOWN[self.pairwise_test])], []
        for pair in self.pairwise.to_dict("records"):
            pair["number"] = _number_format(pair)
            numbers = [cell.format_map(pair) for _, cell in _SHOWN[self.pairwise_test]]
            pairs.append([as_text(pair["first"]), as_text(pair["second"]), *numbers])
        align = ["left"] * 2 + ["right"] * (len(headers) - 2)
        return [
            tabulate(ranks, [self.by, "average rank"], form, disable_numparse=True, colalign=["left", "right"]),
            tabulate(pairs, headers, form, disable_numparse=True, colalign=align),
        ]

    def _legend(self) -> str:
        if self.pairwise_test == _CORRECTED:
            return (
                "mean: of first - second, with the interval of the t test of this pair alone\n"
                "win/tie/loss: blocks in which the first is better, equal or worse"
            )
        interval = (
            "" if self.pairwise_test == _NEMENYI else ", with the interval of the Wilcoxon test of this pair alone"
        )
        return (
            f"shift: Hodges-Lehmann estimate of first - second{interval}\n"
            "win/tie/loss: blocks in which the first is better, equal or worse\n"
            "r: matched-pairs rank-biserial correlation, 1 if the first is always better, -1 if the second is"
        )


def compare(
    table: pd.DataFrame,
    value: str,
    by: str,
    blocks: str | Sequence[str],
    better: str = "max",
    over: Names = "seed",
    test: str = "wilcoxon",
    attempts: pd.DataFrame | None = None,
    *,
    unit: Names = None,
    failures: Failures = "error",
    pairing: str = "common",
    test_share: float | None = None,
) -> Comparison:
    """Test whether the levels of a keyfield differ, with paired tests over blocks.

    Two levels are compared with the Wilcoxon signed-rank test. More levels are compared with the Friedman test, and
    their pairs with the Wilcoxon test and Holm's correction, or with the Nemenyi test. The critical difference diagram
    draws the result of the same test of pairs.

    Parameters
    ----------
    table : pandas.DataFrame
        Experiments, as returned by `get_table`; you may drop rows.
    value : str
        Resultfield to compare.
    by : str
        Keyfield whose levels are compared, such as the method. NULL is a level, too.
    blocks : str or sequence of str
        Keyfields whose combinations are the blocks, such as the data set. Blocks must be independent, so they must not
        be finer than the unit. Runs with several seeds on the same data set are not independent; average over them.
    better : {"max", "min"}
        Whether the largest or the smallest value gets rank 1.
    over : str or sequence of str, optional
        Keyfields to average over before testing. ``"seed"`` is ignored if there is no such keyfield, or if it has
        another role.
    test : {"wilcoxon", "nemenyi"}
        How the pairs of three or more levels are tested.
    attempts : pandas.DataFrame, optional
        Executions, as returned by `get_attempts`, for a warning about different versions as in `summarize`.
    unit : str or sequence of str, optional
        Keyfield of what is independent, as for `summarize`. ``"seed"`` allows blocks of single runs; then the
        conclusion holds for these data sets only.
    failures : {"error", "worst", "drop"} or float
        What experiments in error, and those that are done without a number, count as: as an error of this call; as the
        worst result of all, so that a level has the worst rank in each block in which it failed; as not there; or as
        this number. Dropping favors what fails where it is bad.
    pairing : {"common", "all"}
        ``"common"`` averages, in each block, only over combinations of `over` that have a result for all levels.
        ``"all"`` averages over all that each level has.
    test_share : float, optional
        If seeds are random splits of a data set: the share of the test part, as for `summarize`. Then a test whose
        blocks are splits of one data set is a t test with the corrected variance.

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
        If experiments failed and `failures` does not say what they count as; if blocks are finer than the unit; if the
        value is not numeric or an option is unknown; or if there are fewer than two levels (three for the Nemenyi test)
        or fewer than two complete blocks.
    PyExperimenterError
        If SciPy is missing.

    Warns
    -----
    UserWarning
        If blocks or runs are left out because a level lacks their result, if the numbers of runs behind the means
        differ, or if the results come from different versions of the code or environments. The comparison prints what
        is left out, too.

    Notes
    -----
    The Wilcoxon test ranks zero differences and splits their ranks between both signs (Demšar, 2006, page 7), so that
    equal results are evidence for equality. Its p-value is exact for up to 400 blocks, even with ties. With fewer
    than six blocks, it cannot be below 0.05. The p-value of the Friedman test is based on all permutations within the
    blocks, or on up to 100,000 of them, always the same, if there are too many; for more than 400 blocks, it is that of
    the chi-squared distribution. The p-values of the chi-squared and F distributions are printed as well for four or
    more levels and eight or more blocks; with fewer, they are inaccurate.
    Scores are ties if their relative difference is below 1e-9. The module `rank_tests` has the references for all
    methods.

    Random splits of one data set share training data, so their results are correlated, and rank tests reject too often.
    Their pairs are compared with the corrected resampled t test (Nadeau and Bengio, 2003) and Holm's correction.

    The result of the Nemenyi test for two levels depends on the other levels, so pairs are compared with the Wilcoxon
    test by default (A. Benavoli, G. Corani and F. Mangili. Should we really use post-hoc tests based on mean-ranks?
    *Journal of Machine Learning Research* 17(5):1-10, 2016).

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
                   shift     95 % interval    win/tie/loss      r    W       p    p (Holm)
    ------  ---  -------  ----------------  --------------  -----  ---  ------  ----------
    linear  rbf   -0.035  [-0.060, -0.010]           0/0/6  -1.00    0  0.0312      0.0312
    <BLANKLINE>
    shift: Hodges-Lehmann estimate of first - second, with the interval of the Wilcoxon test of this pair alone
    win/tie/loss: blocks in which the first is better, equal or worse
    r: matched-pairs rank-biserial correlation, 1 if the first is always better, -1 if the second is
    """
    if better not in ("max", "min"):
        raise InvalidValueError(f"better: {better!r} is unknown; choose 'max' or 'min'")
    if test not in _TESTS:
        raise InvalidValueError(f"test: {test!r} is unknown; choose 'wilcoxon' or 'nemenyi'")
    if not listed(blocks):
        raise InvalidColumnError("blocks: no keyfield is named; name at least one")
    averaged = averaged_over(table, over, [by, *listed(blocks)])
    rules = rules_of(table, [value], unit, failures, pairing, test_share)
    # Blocks of a declared unit consist of whole units, so they are not splits of one.
    split_ratio = rules.split_ratio([*listed(blocks), *averaged]) if SEED in rules.unit or not rules.unit else 0.0
    independent = f"No unit is declared: all combinations of {', '.join(listed(blocks))} count as independent"
    undeclared = [independent] if len(listed(blocks)) > 1 and not rules.unit else []
    if split_ratio and test == "nemenyi":
        raise InvalidValueError("test: the Nemenyi test is not for splits of one data set; leave this option out")
    worst = -math.inf if better == "max" else math.inf
    matrix, runs, notes = _blocks_by_levels(table, value, by, listed(blocks), averaged, rules, worst, attempts)
    over_several = tuple(name for name in averaged if table[name].astype(str).nunique() > 1)
    runs_as_units = SEED in rules.unit and (SEED in listed(blocks) or not over_several)
    ranks = rank(matrix, better)
    if test == "nemenyi" and matrix.shape[1] == 2:
        raise InvalidValueError(f"test: the Nemenyi test needs at least three levels of {by}; for two, use 'wilcoxon'")
    pairwise = _pairwise(matrix, ranks, better, test, split_ratio)
    if split_ratio:
        overall, statistic, p_value = _CORRECTED, pairwise["statistic"].abs().max(), pairwise["p_holm"].min()
    elif len(pairwise) == 1:
        overall, statistic, p_value = _WILCOXON, pairwise["statistic"].iloc[0], pairwise["p_value"].iloc[0]
    else:
        overall, (statistic, p_value) = "Friedman", friedman(ranks)
    return Comparison(
        value=value,
        by=by,
        blocks=tuple(listed(blocks)),
        better=better,
        scores=matrix,
        test=overall,
        statistic=float(statistic),
        p_value=float(p_value),
        average_ranks=ranks.mean().sort_values(kind="stable").rename("average rank"),
        pairwise_test=_CORRECTED if split_ratio else _TESTS[test],
        pairwise=pairwise,
        over=over_several,
        notes=(
            *table.attrs.get("notes", []),
            *notes,
            *rules.remarks(split_ratio > 0, runs_as_units),
            *undeclared,
        ),
        runs=runs,
        missing=len(table) - runs,
    )


def _check_independent(table: pd.DataFrame, blocks: list[str], rules: Rules) -> None:
    """Raise an error if blocks cut a unit into pieces, which are not independent."""
    if SEED in rules.unit:
        return
    blocks_of_units = levels(table, blocks)[0].groupby(levels(table, rules.unit)[0]).nunique()
    if (blocks_of_units.max() > 1) if rules.unit else SEED in blocks:
        unit = list(rules.unit) or [name for name in blocks if name != SEED] or ["dataset"]
        raise InvalidValueError(
            f"blocks: runs of one {' and '.join(unit)} are in several blocks ({', '.join(blocks)}), so the blocks are "
            f"not independent; use blocks={unit if len(unit) > 1 else unit[0]!r} and average over the rest, as in "
            "over='seed'; or unit='seed' for a conclusion that holds for these data sets only"
        )


def _blocks_by_levels(
    table: pd.DataFrame,
    value: str,
    by: str,
    blocks: list[str],
    over: list[str],
    rules: Rules,
    worst: float,
    attempts: pd.DataFrame | None,
) -> tuple[pd.DataFrame, int, list[str]]:
    """Return the mean scores, blocks × levels, of the complete blocks, the number of their runs, and notes on them."""
    remedy = "name it in blocks (or in over, to average over it first)"
    table = checked(table, [value], [by, *blocks], over, remedy)
    _check_independent(table, blocks, rules)
    units = units_of(table, value, [by, *blocks], over, rules, within=blocks, worst=worst)
    block_codes, block_labels = levels(units.cells, blocks)
    level_codes, level_labels = levels(units.cells, [by])
    with np.errstate(invalid="ignore"):
        means = units.values.groupby(level="cell").mean().reindex(units.cells.index)
    matrix = means.set_axis([block_codes, level_codes]).unstack()
    complete = matrix.notna().all(axis="columns")
    if len(level_labels) < 2 or complete.sum() < 2:
        counts = zip(level_labels, matrix.notna().sum(), strict=True)
        raise InvalidValueError(
            f"a test needs at least two levels of {by} and two blocks ({', '.join(blocks)}) with a result for each "
            f"level; complete blocks: {complete.sum()} of {len(complete)}; "
            + some_of(f"{by}={as_text(level)} in {count}" for (level,), count in counts)
            + "".join(f"; {note}" for note in units.notes)
        )
    notes = units.notes
    if not complete.all():
        names = "; ".join(cell_name(blocks, block_labels[block]) for block in complete.index[~complete])
        number = f"{(~complete).sum()} of {len(complete)} blocks"
        notes = [f"{number} left out because a level of {by} has no result: {names}", *notes]
    warn([*notes, *mixed_versions(table, [by, *blocks], attempts)])
    matrix = matrix[complete]
    matrix.index = pd.MultiIndex.from_tuples([block_labels[block] for block in matrix.index], names=blocks)
    matrix.columns = pd.Index([level for (level,) in level_labels], name=by, dtype=object)
    return matrix, int(units.cells.loc[block_codes.map(complete), "n"].sum()), notes


def _pairwise(matrix: pd.DataFrame, ranks: pd.DataFrame, better: str, test: str, split_ratio: float) -> pd.DataFrame:
    """Compare each pair of columns: the effect sizes, and the test."""
    pairs = list(combinations(range(matrix.shape[1]), 2))
    sign = 1 if better == "max" else -1
    lines = []
    for one, other in pairs:
        first, second = matrix.iloc[:, one].to_numpy(), matrix.iloc[:, other].to_numpy()
        gains = sign * differences_of(first, second)
        if split_ratio:
            center, low, high, statistic, p_value = corrected_t(first, second, split_ratio)
        else:
            center, low, high = shift(first, second)
            statistic, p_value = wilcoxon(first, second)
        lines.append(
            {
                "first": matrix.columns[one],
                "second": matrix.columns[other],
                "difference": center,
                "low": low,
                "high": high,
                "wins": int((gains > 0).sum()),
                "ties": int((gains == 0).sum()),
                "losses": int((gains < 0).sum()),
                "rank_biserial": sign * rank_biserial(first, second),
                "statistic": statistic,
                "p_value": p_value,
            }
        )
    found = pd.DataFrame(lines)
    if split_ratio:
        return found.drop(columns="rank_biserial").assign(p_holm=holm(found["p_value"]))
    if test == "wilcoxon":
        return found.assign(p_holm=holm(found["p_value"]))
    average = ranks.mean().to_numpy()
    apart = [float(average[one] - average[other]) for one, other in pairs]
    return found.drop(columns=["low", "high", "statistic", "p_value"]).assign(
        rank_difference=apart, p_nemenyi=[nemenyi_p(difference, *matrix.shape) for difference in apart]
    )


def _number_format(pair: Mapping[Any, Any]) -> str:
    """Return the format of the shift, with two significant digits of half its interval."""
    digits = decimals_for((pair["high"] - pair["low"]) / 2) if "low" in pair else None
    return ".3g" if digits is None else f".{digits}f"


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
