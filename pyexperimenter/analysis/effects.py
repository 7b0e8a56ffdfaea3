"""Effect sizes for paired scores: by how much, how consistently, and how often the first is better than the second.

References, cited where each method is implemented:

- J. L. Hodges and E. L. Lehmann. Estimates of location based on rank tests. *Annals of Mathematical Statistics*
  34(2):598-611, 1963.
- M. Hollander and D. A. Wolfe. *Nonparametric Statistical Methods*. Wiley, 1973. Section 3.3 has the interval.
- D. S. Kerby. The simple difference formula: an approach to teaching nonparametric correlation. *Comprehensive
  Psychology* 3, article 1, 2014.
- G. E. Noether. Wilcoxon confidence intervals for location parameters in the discrete case. *Journal of the American
  Statistical Association* 62(317):184-188, 1967.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from pyexperimenter.analysis.exact_tests import Array, signed_rank_quantile
from pyexperimenter.analysis.rank_tests import EXACT, Scores, differences_of, ranked_differences

IntArray = npt.NDArray[np.int64]


def shift(first: Scores, second: Scores, alpha: float = 0.05) -> tuple[float, float, float]:
    """Estimate by how much the first scores are higher, with the interval that belongs to the Wilcoxon test.

    The estimate is the median of the Walsh averages, the averages of two differences or of one with itself (Hodges and
    Lehmann, 1963). The interval contains all shifts that the test does not reject, so its ends are Walsh averages
    (Hollander and Wolfe, 1973). It is exact for up to 400 pairs without ties; with ties, it covers the shift at least
    as often (Noether, 1967).

    Parameters
    ----------
    first, second : sequence of float
        One score for each block.
    alpha : float
        One minus the confidence level.

    Returns
    -------
    (float, float, float)
        The estimate and both ends of the interval. The ends are infinite for fewer than six pairs: no 95 % interval
        exists.

    Examples
    --------
    >>> before = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]  # Hollander and Wolfe (1973), table 3.1
    >>> after = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    >>> [round(value, 3) for value in shift(before, after)]
    [0.46, 0.01, 0.786]
    """
    ordered = np.sort(differences_of(first, second))
    n = len(ordered)
    averages = n * (n + 1) // 2
    center = (_walsh_average(ordered, (averages + 1) // 2) + _walsh_average(ordered, averages // 2 + 1)) / 2
    outside = signed_rank_quantile(n, alpha) if n <= EXACT else _approximate_quantile(n, alpha)
    if outside == 0:
        return center, -math.inf, math.inf
    return center, _walsh_average(ordered, outside), _walsh_average(ordered, averages + 1 - outside)


def _approximate_quantile(n: int, alpha: float) -> int:
    """Return `signed_rank_quantile` by a normal approximation."""
    return int(n * (n + 1) / 4 + NormalDist().inv_cdf(alpha / 2) * math.sqrt(n * (n + 1) * (2 * n + 1) / 24))


def _walsh_average(ordered: Array, k: int) -> float:
    """Return the k-th smallest Walsh average of differences in ascending order, without computing all of them.

    Averages of infinity with minus infinity count as 0, as the test treats these two as a tie.
    """
    places = np.arange(len(ordered))
    opposite = int((ordered == -np.inf).sum() * (ordered == np.inf).sum())
    known = [*ordered[np.isfinite(ordered)].tolist(), *[0.0] * (opposite > 0)]

    def partners(value: float) -> IntArray:
        """Count for each difference those from itself on with which its average is at most this value."""
        return (np.searchsorted(ordered, 2 * value - ordered, side="right") - places).clip(min=0)

    def enough(value: float) -> bool:
        return int(partners(value).sum()) - opposite * (value < 0) >= k

    low, high = min(known, default=0.0), max(known, default=0.0)
    if not enough(high):
        return math.inf
    if enough(low):
        return -math.inf if enough(np.nextafter(low, -math.inf)) else low
    closest = 1e-13 * max(-low, high)
    while high - low > closest:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    last = places + partners(high) - 1
    with np.errstate(invalid="ignore"):
        averages = np.nan_to_num((ordered + ordered[last]) / 2, posinf=np.inf, neginf=-np.inf)
    return float(averages[(last >= places) & (averages <= high + closest)].max())


def rank_biserial(first: Scores, second: Scores) -> float:
    """Return the matched-pairs rank-biserial correlation, the effect size of the Wilcoxon test (Kerby, 2014).

    It is the difference between the rank sums of the positive and of the negative differences, as a share of all ranks:
    1 if the first scores are always higher, 0 if both sums are equal, -1 if the first scores are always lower. The
    ranks of zero differences belong to neither sum.

    Parameters
    ----------
    first, second : sequence of float
        One score for each block.

    Examples
    --------
    >>> rank_biserial([2, 4, 6], [1, 2, 7])  # ranks 1.5, 3, and -1.5
    0.5
    """
    differences, ranks = ranked_differences(first, second)
    return float((np.sign(differences) * ranks).sum() / ranks.sum())
