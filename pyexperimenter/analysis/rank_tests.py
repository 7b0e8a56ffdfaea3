"""Paired tests by ranks, and what corrects them for their number: SciPy's where it has them, else a few lines.

The sources, named again where a method is implemented:

- J. Demšar. Statistical comparisons of classifiers over multiple data sets. *Journal of Machine Learning Research*
  7:1-30, 2006. It recommends these tests, and its examples are among ours.
- M. Friedman. The use of ranks to avoid the assumption of normality implicit in the analysis of variance. *Journal of
  the American Statistical Association* 32(200):675-701, 1937.
- S. Holm. A simple sequentially rejective multiple test procedure. *Scandinavian Journal of Statistics* 6(2):65-70,
  1979.
- R. L. Iman and J. M. Davenport. Approximations of the critical region of the Friedman statistic. *Communications in
  Statistics - Theory and Methods* 9(6):571-595, 1980.
- P. B. Nemenyi. *Distribution-free multiple comparisons*. PhD thesis, Princeton University, 1963.
- F. Wilcoxon. Individual comparisons by ranking methods. *Biometrics Bulletin* 1(6):80-83, 1945.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from pyexperimenter.analysis.cells import optional_import

_DIGITS = 12  # significant ones; what lies beyond is left by floating-point sums, and would tear ties apart


def _stats() -> Any:
    return optional_import("scipy.stats", "stats")


def rank(scores: pd.DataFrame, better: str) -> pd.DataFrame:
    """Rank each row's scores: 1 is the best, ties share the mean of their ranks.

    Parameters
    ----------
    scores : pandas.DataFrame
        Blocks × levels. Equal up to 12 significant digits is equal.
    better : {"max", "min"}
        Whether the greatest or the least score is the best.

    Examples
    --------
    >>> rank(pd.DataFrame([[0.9, 0.7, 0.3 + 0.6]]), "max").to_numpy()
    array([[1.5, 3. , 1.5]])
    """
    rounded = scores.map(lambda score: float(f"{score:.{_DIGITS}g}"))
    return rounded.rank(axis="columns", ascending=better == "min")


def difference(first: float, second: float) -> float:
    """Subtract as decimals of 12 significant digits, so that equal differences are equal.

    >>> 0.3 - 0.2, 0.2 - 0.1
    (0.09999999999999998, 0.1)
    >>> difference(0.3, 0.2), difference(0.2, 0.1)
    (0.1, 0.1)
    """
    a, b = Decimal(f"{first:.{_DIGITS}g}"), Decimal(f"{second:.{_DIGITS}g}")
    return 0.0 if a == b else float(a - b)  # also of infinities


def wilcoxon(differences: Sequence[float]) -> tuple[float, float]:
    """Test paired differences by Wilcoxon's signed-rank test (1945), two-sided.

    Differences of zero are ranked, and their ranks split between both signs (Demšar, 2006, page 7).

    Parameters
    ----------
    differences : sequence of float
        One for each block.

    Returns
    -------
    (float, float)
        The lesser of the sums of ranks of either sign, and its p-value.

    Examples
    --------
    >>> wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5, -0.6])
    (6.0, 0.4375)
    """
    if not any(differences):
        n = len(differences)
        return n * (n + 1) / 4, 1.0  # SciPy would divide by zero
    result = _stats().wilcoxon(differences, zero_method="zsplit")
    return float(result.statistic), float(result.pvalue)


def friedman(ranks: pd.DataFrame) -> tuple[float, float]:
    """Test whether levels differ by Friedman's test (1937).

    Parameters
    ----------
    ranks : pandas.DataFrame
        N blocks × k levels, k at least 3.

    Returns
    -------
    (float, float)
        Chi-squared with k - 1 degrees of freedom, corrected for ties, and its p-value.

    Examples
    --------
    >>> friedman(pd.DataFrame([[1, 2, 3], [1, 2, 3], [1, 3, 2], [1, 2, 3]]))[0]
    6.5
    """
    if ranks.nunique(axis="columns").eq(1).all():
        return 0.0, 1.0  # SciPy would divide by zero
    result = _stats().friedmanchisquare(*ranks.to_numpy().T)
    return float(result.statistic), float(result.pvalue)


def iman_davenport(chi_squared: float, n: int, k: int) -> tuple[float, float]:
    """Make the less conservative F of Friedman's chi-squared (Iman and Davenport, 1980; Demšar, 2006, page 11).

    F = (N - 1) chi² / (N (k - 1) - chi²). With chi² corrected for ties it is the F of an analysis of variance of the
    ranks.

    Parameters
    ----------
    chi_squared : float
        As from `friedman`.
    n, k : int
        Numbers of blocks and levels.

    Returns
    -------
    (float, float)
        F with k - 1 and (k - 1)(N - 1) degrees of freedom, and its p-value.

    Examples
    --------
    >>> round(iman_davenport(9.28, n=14, k=4)[0], 2)  # Demšar (2006), page 14
    3.69
    """
    rest = n * (k - 1) - chi_squared
    f = math.inf if math.isclose(rest, 0, abs_tol=1e-9) else (n - 1) * chi_squared / rest
    return f, float(_stats().f.sf(f, k - 1, (k - 1) * (n - 1)))


def nemenyi(n: int, k: int, alpha: float) -> float:
    """Return the critical difference of average ranks by Nemenyi's test (1963).

    CD = q √(k (k + 1) / (6 N)), where q is the quantile of the Studentized range for k levels and infinitely many
    degrees of freedom, over √2 (Demšar, 2006, page 12 and table 5a).

    Parameters
    ----------
    n, k : int
        Numbers of blocks and levels.
    alpha : float
        Level of significance.

    Examples
    --------
    >>> round(nemenyi(n=14, k=4, alpha=0.05), 2), round(nemenyi(n=14, k=4, alpha=0.1), 2)  # Demšar (2006), page 14
    (1.25, 1.12)
    """
    q = float(_stats().studentized_range.ppf(1 - alpha, k, np.inf)) / math.sqrt(2)
    return q * math.sqrt(k * (k + 1) / (6 * n))


def holm(p_values: Sequence[float] | pd.Series[float]) -> list[float]:
    """Adjust p-values for their number, so that any below alpha is significant at alpha in all (Holm, 1979).

    The least is multiplied by their number, the next by one less, and so on; none is less than the one before.

    Parameters
    ----------
    p_values : sequence of float
        In any order.

    Returns
    -------
    list of float
        In the same order, at most 1.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty_like(p)
    result[order] = adjusted.clip(max=1)
    return [float(value) for value in result]
