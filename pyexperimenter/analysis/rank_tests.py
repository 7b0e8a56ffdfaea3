"""Rank-based tests for paired data, and corrections for multiple testing; from SciPy, as far as it has them.

References, cited where each method is implemented:

- J. Demšar. Statistical comparisons of classifiers over multiple data sets. *Journal of Machine Learning Research*
  7:1-30, 2006. It recommends these tests; some examples below are taken from it.
- M. Friedman. The use of ranks to avoid the assumption of normality implicit in the analysis of variance. *Journal of
  the American Statistical Association* 32(200):675-701, 1937.
- S. García and F. Herrera. An extension on "Statistical comparisons of classifiers over multiple data sets" for all
  pairwise comparisons. *Journal of Machine Learning Research* 9:2677-2694, 2008.
- S. Holm. A simple sequentially rejective multiple test procedure. *Scandinavian Journal of Statistics* 6(2):65-70,
  1979.
- R. L. Iman and J. M. Davenport. Approximations of the critical region of the Friedman statistic. *Communications in
  Statistics - Theory and Methods* 9(6):571-595, 1980.
- C. Nadeau and Y. Bengio. Inference for the generalization error. *Machine Learning* 52(3):239-281, 2003.
- P. B. Nemenyi. *Distribution-free multiple comparisons*. PhD thesis, Princeton University, 1963.
- J. P. Shaffer. Modified sequentially rejective multiple test procedures. *Journal of the American Statistical
  Association* 81(395):826-831, 1986.
- F. Wilcoxon. Individual comparisons by ranking methods. *Biometrics Bulletin* 1(6):80-83, 1945.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from pyexperimenter.analysis.cells import optional_import
from pyexperimenter.analysis.exact_tests import Array, friedman_p, rank_sum_p, signed_rank_p
from pyexperimenter.exceptions import InvalidValueError

Scores = Sequence[float] | Array

_TOLERANCE = 1e-9  # relative to the scores; smaller differences are rounding errors
EXACT = 400  # the most blocks for which p-values are not asymptotic; more would take seconds for each test


def _stats() -> Any:
    return optional_import("scipy.stats", "stats")


def student() -> Any:
    """Return Student's t distribution."""
    return _stats().t


def rank(scores: pd.DataFrame, better: str) -> pd.DataFrame:
    """Rank the scores of each row: 1 is the best, and ties get the average of their ranks.

    Parameters
    ----------
    scores : pandas.DataFrame
        Blocks × levels. Scores are ties if their relative difference is below 1e-9.
    better : {"max", "min"}
        Whether the largest or the smallest score is the best.

    Examples
    --------
    >>> rank(pd.DataFrame([[0.9, 0.7, 0.3 + 0.6]]), "max").to_numpy()
    array([[1.5, 3. , 1.5]])
    """
    values = scores.to_numpy(dtype=float) * (1 if better == "min" else -1)
    ranks = [_tied_ranks(row, np.abs(row)) for row in values]
    return pd.DataFrame(ranks, index=scores.index, columns=scores.columns)


def _tied_ranks(values: Array, sizes: Array) -> Array:
    """Rank values in ascending order; neighbors are tied if they differ by less than 1e-9 of the larger size."""
    order = np.argsort(values, kind="stable")
    ordered, scale = values[order], sizes[order]
    with np.errstate(invalid="ignore"):  # infinity - infinity
        gaps = np.diff(ordered)
    near = np.isfinite(gaps) & (gaps <= _TOLERANCE * np.maximum(scale[1:], scale[:-1]))
    groups = np.concatenate([[0], np.cumsum(~(near | (ordered[1:] == ordered[:-1])))])
    places = np.arange(1, len(values) + 1)
    ranks = np.empty(len(values))
    ranks[order] = (np.bincount(groups, places) / np.bincount(groups))[groups]
    return ranks


def differences_of(first: Scores, second: Scores) -> Array:
    """Subtract paired scores; the result is 0 if their relative difference is below 1e-9.

    >>> differences_of([0.3, 0.1 + 0.2, np.inf], [0.2, 0.3, np.inf]).round(3)
    array([0.1, 0. , 0. ])
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    with np.errstate(invalid="ignore"):
        found: Array = np.where((a == b) | (np.abs(a - b) <= _TOLERANCE * _sizes(a, b)), 0.0, a - b)
    return found


def ranked_differences(first: Scores, second: Scores) -> tuple[Array, Array]:
    """Subtract paired scores as `differences_of`, and rank the absolute differences; ties get their average rank.

    >>> ranked_differences([0.3, 0.1, 0.5], [0.2, 0.2, 0.5])[1]
    array([2.5, 2.5, 1. ])
    """
    differences = differences_of(first, second)
    sizes = _sizes(np.asarray(first, dtype=float), np.asarray(second, dtype=float))
    return differences, _tied_ranks(np.abs(differences), sizes)


def _sizes(a: Array, b: Array) -> Array:
    """Return the larger absolute value of each pair; 0 for infinite pairs, which have no rounding errors."""
    sizes: Array = np.where(np.isfinite(a) & np.isfinite(b), np.maximum(np.abs(a), np.abs(b)), 0.0)
    return sizes


def wilcoxon(first: Scores, second: Scores) -> tuple[float, float]:
    """Compare paired scores with the two-sided Wilcoxon signed-rank test (Wilcoxon, 1945).

    Zero differences are ranked, and their ranks are split evenly between both signs (Demšar, 2006, page 7). The p-value
    is exact for up to 400 pairs, even with ties; for more, it is a normal approximation.

    Parameters
    ----------
    first, second : sequence of float
        One score for each block. Two differences are tied if they differ by less than 1e-9 of the scores.

    Returns
    -------
    (float, float)
        The smaller of the rank sums of the positive and the negative differences, and the p-value.

    Examples
    --------
    >>> wilcoxon([1, 2, 3, 4, 5, 0], [0, 0, 0, 0, 0, 6])
    (6.0, 0.4375)
    >>> a, b = np.array([130, 133, 142, 144, 112, 126, 122]) / 150, np.array([129, 132, 140, 143, 113, 125, 119]) / 150
    >>> wilcoxon(a, b)  # five differences are equal
    (3.0, 0.09375)
    """
    differences, ranks = ranked_differences(first, second)
    split = ranks[differences == 0].sum() / 2
    statistic = float(min(ranks[differences > 0].sum(), ranks[differences < 0].sum()) + split)
    signed = ranks[differences != 0]
    if len(signed) <= EXACT:
        return statistic, signed_rank_p(signed, statistic - split)
    approximate = _stats().wilcoxon(np.sign(differences) * ranks, zero_method="zsplit", method="asymptotic")
    return statistic, float(approximate.pvalue)


def wilcoxon_less(first: Scores, second: Scores) -> float:
    """Return the p-value of the one-sided test that the first scores are lower; see `wilcoxon`.

    >>> wilcoxon_less([1, 2, 3, 4, 5, 6], [2, 4, 6, 8, 10, 3])  # 3.5 or less: 6 of 64
    0.09375
    """
    differences, ranks = ranked_differences(first, second)
    signed = ranks[differences != 0]
    if len(signed) <= EXACT:
        return rank_sum_p(signed, float(ranks[differences > 0].sum()))
    how = {"zero_method": "zsplit", "method": "asymptotic", "alternative": "less"}
    return float(_stats().wilcoxon(np.sign(differences) * ranks, **how).pvalue)


def corrected_t(first: Scores, second: Scores, split_ratio: float) -> tuple[float, float, float, float, float]:
    """Compare paired scores on random splits of one data set with the corrected t test (Nadeau and Bengio, 2003).

    The training parts of the splits overlap, so their scores are correlated. The variance of the mean difference is
    therefore taken as (1 / J + n_test / n_train) s² instead of s² / J, with J - 1 degrees of freedom.

    Parameters
    ----------
    first, second : sequence of float
        One score for each of J splits.
    split_ratio : float
        n_test / n_train.

    Returns
    -------
    (float, float, float, float, float)
        The mean difference, both ends of its 95 % interval, t, and the two-sided p-value, which is never 0; t = 0 and
        p = 1 if all pairs are equal.

    Raises
    ------
    InvalidValueError
        If a score is infinite.

    Examples
    --------
    >>> differences = [0.02, 0.01, 0.03, 0, 0.015, 0.025, 0.005, 0.01, 0.02, 0.015]
    >>> [round(value, 5) for value in corrected_t(differences, [0] * 10, 1 / 9)]
    [0.015, 0.00551, 0.02449, 3.57624, 0.00597]
    """
    mean, error, degrees = corrected_mean(first, second, split_ratio)
    half = float(student().ppf(0.975, degrees)) * error
    t = mean / error if error else math.copysign(math.inf, mean) if mean else 0.0
    p_value = max(sys.float_info.min, 2 * float(student().sf(abs(t), degrees)))
    return mean, mean - half, mean + half, t, p_value


def corrected_mean(first: Scores, second: Scores, split_ratio: float) -> tuple[float, float, int]:
    """Return the mean difference, its standard error and the degrees of freedom; see `corrected_t`.

    Raises
    ------
    InvalidValueError
        If a score is infinite.
    """
    differences = differences_of(first, second)
    if not np.isfinite(differences).all():
        raise InvalidValueError(
            "a t test needs finite differences; let failed runs count as a number, as in failures=0.0, or drop them"
        )
    count = len(differences)
    error = float(differences.std(ddof=1)) * math.sqrt(1 / count + split_ratio)
    return float(differences.mean()), error, count - 1


def p_against(best: int, scores: Array, split_ratio: float = 0.0) -> list[float]:
    """Return the adjusted p-value of each level in the test against one of them; 1 for that one.

    The best level is chosen by the same scores. So Holm's correction is for all pairs, not only for those with the best
    one: it could have been any of them.

    Parameters
    ----------
    best : int
        A column.
    scores : array of float
        N blocks × k levels.
    split_ratio : float
        If the blocks are random splits of one data set, n_test / n_train. Then the test is `corrected_t`, otherwise it
        is `wilcoxon`.

    Examples
    --------
    >>> scores = np.array([[8, 1, 7], [7, 2, 8], [9, 3, 9], [8, 4, 7], [7, 3, 8], [9, 2, 8], [6, 1, 8]])
    >>> [round(p, 3) for p in p_against(0, scores)]
    [1.0, 0.047, 1.0]
    """
    pairs = list(combinations(range(scores.shape[1]), 2))
    if len(scores) < 2 or not pairs:
        return [1.0] * scores.shape[1]
    found = []
    for first, second in pairs:
        pair = scores[:, first], scores[:, second]
        found.append(corrected_t(*pair, split_ratio)[-1] if split_ratio else wilcoxon(*pair)[1])
    adjusted = dict(zip(pairs, holm(found), strict=True))
    return [adjusted.get((min(level, best), max(level, best)), 1.0) for level in range(scores.shape[1])]


def friedman(ranks: pd.DataFrame) -> tuple[float, float]:
    """Test whether levels differ with the Friedman test (Friedman, 1937).

    Parameters
    ----------
    ranks : pandas.DataFrame
        N blocks × k levels, k at least 3.

    Returns
    -------
    (float, float)
        Friedman's chi-squared statistic, corrected for ties, and its permutation p-value: exact if there are few enough
        blocks or levels to enumerate all permutations, otherwise from 10,000 to 100,000 of them. For more than 400
        blocks, it is that of the chi-squared distribution.

    Examples
    --------
    >>> chi_squared, p = friedman(pd.DataFrame([[1, 2, 3], [1, 2, 3], [1, 3, 2], [1, 2, 3]]))
    >>> chi_squared, round(p, 5)
    (6.5, 0.04167)
    """
    if ranks.nunique(axis="columns").eq(1).all():
        return 0.0, 1.0  # SciPy would divide by zero
    result = _stats().friedmanchisquare(*ranks.to_numpy().T)
    if len(ranks) > EXACT:
        return float(result.statistic), max(sys.float_info.min, float(result.pvalue))
    return float(result.statistic), friedman_p(ranks.to_numpy(dtype=float))


def chi_squared_p(chi_squared: float, k: int) -> float:
    """Return the p-value of Friedman's statistic under its asymptotic chi-squared distribution (df = k - 1)."""
    return float(_stats().chi2.sf(chi_squared, k - 1))


def iman_davenport(chi_squared: float, n: int, k: int) -> tuple[float, float]:
    """Return the F statistic of Iman and Davenport (1980), less conservative than Friedman's chi-squared.

    F = (N - 1) chi² / (N (k - 1) - chi²) (Demšar, 2006, page 11). If chi² is corrected for ties, this is the F
    statistic of an analysis of variance of the ranks.

    Parameters
    ----------
    chi_squared : float
        As returned by `friedman`.
    n, k : int
        Number of blocks and of levels.

    Returns
    -------
    (float, float)
        F with k - 1 and (k - 1)(N - 1) degrees of freedom, and the p-value.

    Examples
    --------
    >>> round(iman_davenport(9.28, n=14, k=4)[0], 2)  # Demšar (2006), page 14
    3.69
    """
    rest = n * (k - 1) - chi_squared
    f = math.inf if math.isclose(rest, 0, abs_tol=1e-9) else (n - 1) * chi_squared / rest
    return f, float(_stats().f.sf(f, k - 1, (k - 1) * (n - 1)))


def nemenyi(n: int, k: int, alpha: float) -> float:
    """Return the critical difference between average ranks in the Nemenyi test (Nemenyi, 1963).

    CD = q √(k (k + 1) / (6 N)), where q is the 1 - alpha quantile of the studentized range distribution for k levels
    and infinitely many degrees of freedom, divided by √2 (Demšar, 2006, page 12 and table 5a).

    Parameters
    ----------
    n, k : int
        Number of blocks and of levels.
    alpha : float
        Significance level.

    Examples
    --------
    >>> round(nemenyi(n=14, k=4, alpha=0.05), 2), round(nemenyi(n=14, k=4, alpha=0.1), 2)  # Demšar (2006), page 14
    (1.25, 1.12)
    """
    return float(_stats().studentized_range.ppf(1 - alpha, k, np.inf)) * _rank_error(n, k)


def nemenyi_p(difference: float, n: int, k: int) -> float:
    """Return the p-value of a difference between average ranks in the Nemenyi test; it is adjusted for all pairs.

    Parameters
    ----------
    difference : float
        Between the average ranks of two levels, with either sign.
    n, k : int
        Number of blocks and of levels.

    Examples
    --------
    >>> round(nemenyi_p(nemenyi(n=14, k=4, alpha=0.05), n=14, k=4), 6)
    0.05
    """
    return float(_stats().studentized_range.sf(abs(difference) / _rank_error(n, k), k, np.inf))


def _rank_error(n: int, k: int) -> float:
    """Return the standard deviation of an average rank, in the limit of many blocks."""
    return math.sqrt(k * (k + 1) / (12 * n))


def holm(p_values: Sequence[float] | pd.Series[float]) -> list[float]:
    """Adjust p-values for multiple testing with the step-down method of Holm (1979).

    Rejecting all hypotheses whose adjusted p-value is at most alpha keeps the family-wise error rate at alpha. The
    smallest of m p-values is multiplied by m, the next by m - 1, and so on; no adjusted value is below a previous one.

    Parameters
    ----------
    p_values : sequence of float
        In any order.

    Returns
    -------
    list of float
        The adjusted p-values in the same order, at most 1.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    return _adjusted(p_values, range(len(p_values), 0, -1))


def shaffer(p_values: Sequence[float] | pd.Series[float], k: int) -> list[float]:
    """Adjust the p-values of all pairs of k levels with the static step-down method of Shaffer (1986).

    It is Holm's method, but the factors are the largest numbers of hypotheses that can be true at once. If two of
    three levels differ, for example, at most one of the other two pairs can be equal. So it rejects at least as much.
    This holds for hypotheses of the kind that both levels have the same distribution, for which A = B and B = C
    imply A = C.

    Parameters
    ----------
    p_values : sequence of float
        One for each of the k (k - 1) / 2 pairs, in any order.
    k : int
        Number of levels.

    Returns
    -------
    list of float
        The adjusted p-values in the same order, at most 1.

    Examples
    --------
    >>> shaffer([0.01, 0.04, 0.03], k=3)
    [0.03, 0.04, 0.03]
    """
    possible = sorted(_true_at_once(k))
    left = range(len(p_values), 0, -1)  # hypotheses that are not rejected yet
    return _adjusted(p_values, [max(number for number in possible if number <= most) for most in left])


@cache
def _true_at_once(k: int) -> frozenset[int]:
    """Return how many pairs of k levels can be equal, including none (Shaffer, 1986).

    Levels fall into groups of equal ones; `size` is that of the first group.

    >>> sorted(_true_at_once(5))  # García and Herrera (2008), page 2681
    [0, 1, 2, 3, 4, 6, 10]
    """
    sizes = range(1, k + 1)
    return frozenset(size * (size - 1) // 2 + rest for size in sizes for rest in _true_at_once(k - size)) or frozenset(
        [0]
    )


def _adjusted(p_values: Sequence[float] | pd.Series[float], factors: Sequence[int]) -> list[float]:
    """Multiply the p-values, in ascending order, by the factors; no adjusted value is below a previous one."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    result = np.empty_like(p)
    result[order] = np.maximum.accumulate(p[order] * np.asarray(factors)).clip(max=1)
    return [float(value) for value in result]
