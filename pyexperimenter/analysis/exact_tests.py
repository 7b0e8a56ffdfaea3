"""Exact p-values of rank tests, even with ties, from the distribution of all permutations.

Cited where they are used:

- R. A. Fisher. *The Design of Experiments*. Oliver and Boyd, 1935. It introduces permutation tests.
- B. Phipson and G. K. Smyth. Permutation p-values should never be zero. *Statistical Applications in Genetics and
  Molecular Biology* 9(1), article 39, 2010. The p-value from B random permutations is (b + 1) / (B + 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

_LARGEST = 1_000_000  # the most column sums to enumerate at a time
_DRAWN, _FEWEST = 100_000, 10_000  # random permutations, if there are too many to enumerate
_MOST_RANKS = 100_000_000  # the most ranks to permute in total, unless for the fewest permutations
_CHUNK = 2_000_000  # ranks to permute at a time
_SEED = 20_060_101

Array = npt.NDArray[np.float64]


def signed_rank_p(ranks: Sequence[float], statistic: float) -> float:
    """Return the exact two-sided p-value of the Wilcoxon signed-rank statistic.

    Under the null hypothesis, each rank has either sign with probability 1/2. The distribution of the sum of the
    positive ones is computed by convolution. This takes time cubic in the number of ranks; 400 take a
    twentieth of a second.

    Parameters
    ----------
    ranks : sequence of float
        Ranks of the nonzero differences. They are multiples of 1/2, since ties get the average of their ranks.
    statistic : float
        The smaller of the rank sums of the positive and the negative differences.

    Examples
    --------
    >>> signed_rank_p([1, 2, 3, 4, 5], 0)  # 2 of 32
    0.0625
    >>> signed_rank_p([3, 3, 3, 3, 3, 6, 7], 3)
    0.09375
    """
    return min(1.0, 2 * rank_sum_p(ranks, statistic))


def rank_sum_p(ranks: Sequence[float], largest: float) -> float:
    """Return how likely the sum of the positive ranks is at most `largest`: the p-value of a one-sided test.

    >>> rank_sum_p([1, 2, 3, 4, 5], 1)  # 2 of 32
    0.0625
    """
    doubled = np.rint(2 * np.asarray(ranks, dtype=float)).astype(int)
    divisor = max(1, int(np.gcd.reduce(doubled)))  # 2 without ties
    return float(_rank_sums(doubled // divisor, round(2 * largest) // divisor).sum())


@cache
def signed_rank_quantile(n: int, alpha: float) -> int:
    """Return how many of the smallest sums of n signed ranks without ties have, doubled, at most probability alpha.

    This is the number of Walsh averages to leave out at both ends of the confidence interval (see `effects.shift`).

    Parameters
    ----------
    n : int
        Number of ranks.
    alpha : float
        Significance level of a two-sided test.

    Examples
    --------
    >>> signed_rank_quantile(5, 0.05), signed_rank_quantile(5, 2 / 32), signed_rank_quantile(9, 0.05)
    (0, 1, 6)
    """
    return int(np.searchsorted(2 * np.cumsum(_rank_sums(np.arange(1, n + 1), n * (n + 1) // 2)), alpha, side="right"))


def _rank_sums(ranks: npt.NDArray[np.int64], largest: int) -> Array:
    """Return the probability of each sum of the positive ranks from 0 to the largest of interest, by convolution."""
    probabilities = np.zeros(largest + 1)
    probabilities[0] = 1.0
    end = 1
    for rank in ranks:
        probabilities[:end] /= 2
        end = min(end + int(rank), largest + 1)
        if rank < end:
            probabilities[rank:end] += probabilities[: end - rank].copy()
    return probabilities


def friedman_p(ranks: Array) -> float:
    """Return the permutation p-value of the Friedman statistic: how likely a statistic is to be at least as large.

    Under the null hypothesis, all orders of the ranks of a block are equally likely. They are enumerated as long as
    there are at most a million column sums at a time. Otherwise, some are drawn, always the same: 100,000, but
    10,000 or more if there are more than a thousand ranks.

    Parameters
    ----------
    ranks : array of float
        N blocks × k levels; ties get the average of their ranks.

    Examples
    --------
    >>> round(friedman_p(np.array([[1, 2, 3]] * 3)), 5)  # 6 of 216
    0.02778
    """
    doubled = np.rint(2 * np.asarray(ranks, dtype=float)).astype(np.int64)
    observed = _spread(doubled.sum(axis=0)[None])[0]
    exact = _enumerated(doubled, observed)
    return _drawn(doubled, observed) if exact is None else exact


def _spread(sums: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the sum of squares of each row, which is an increasing function of the Friedman statistic."""
    squares: npt.NDArray[np.int64] = (sums**2).sum(axis=1)
    return squares


def _enumerated(doubled: npt.NDArray[np.int64], observed: int) -> float | None:
    """Return the exact p-value, or None if there are too many column sums.

    Column sums that only differ in their order are equivalent, so they are counted together.
    """
    levels = doubled.shape[1]
    base = 2 * doubled.size + 1  # larger than any column sum
    if math.factorial(levels) > _LARGEST or base**levels >= 2**63:
        return None
    orders = _orders(levels)
    place_values = base ** np.arange(levels)  # encodes the sums as one number, which is faster to compare
    sums = np.zeros((1, levels), dtype=np.int64)
    weights: Array = np.ones(1)
    for block in doubled:
        if np.ptp(block) == 0:
            sums = sums + block
            continue
        possible, times = np.unique(block[orders], axis=0, return_counts=True)
        if len(sums) * len(possible) > _LARGEST:
            return None
        reached = np.sort((sums[:, None] + possible).reshape(-1, levels), axis=1)
        chances: Array = np.outer(weights, times / times.sum()).ravel()
        _, first, where = np.unique(reached @ place_values, return_index=True, return_inverse=True)
        sums, weights = reached[first], np.bincount(where, chances).astype(float)
    return min(1.0, float(weights[_spread(sums) >= observed].sum()))


def _orders(levels: int) -> npt.NDArray[np.int64]:
    """Return all permutations of the levels, one per row."""
    found = np.zeros((1, 0), dtype=np.int64)
    for level in range(levels):
        found = np.concatenate([np.insert(found, place, level, axis=1) for place in range(level + 1)])
    return found


def _drawn(doubled: npt.NDArray[np.int64], observed: int) -> float:
    """Return an estimate from random permutations that is not too small on average (Phipson and Smyth, 2010)."""
    generator = np.random.default_rng(_SEED)
    at_once = max(1, _CHUNK // doubled.size)
    drawn = min(_DRAWN, max(_FEWEST, _MOST_RANKS // doubled.size))
    extreme, left = 0, drawn
    while left:
        number = min(at_once, left)
        permuted = generator.permuted(np.broadcast_to(doubled, (number, *doubled.shape)), axis=2)
        extreme += int((_spread(permuted.sum(axis=1)) >= observed).sum())
        left -= number
    return (extreme + 1) / (drawn + 1)
