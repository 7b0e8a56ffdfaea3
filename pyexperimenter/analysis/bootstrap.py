"""Bootstrap: what would have come out if the units, or the runs of each task, had been drawn again.

References, cited where each method is implemented:

- R. Agarwal, M. Schwarzer, P. S. Castro, A. Courville and M. G. Bellemare. Deep reinforcement learning at the edge of
  the statistical precipice. *Advances in Neural Information Processing Systems* 34, 2021.
- B. Efron. Better bootstrap confidence intervals. *Journal of the American Statistical Association* 82(397):171-185,
  1987.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from pyexperimenter.analysis.exact_tests import Array

LEAST = 20
"""The fewest units of an interval: with 5 to 10, it covers the mean in 75 to 91 % of the cases instead of 95 %."""

_RESAMPLES, _FEWEST = 10_000, 1_000
_MOST_VALUES = 20_000_000  # the most values to draw in total, unless for the fewest resamples
_CHUNK = 1_000_000  # values to draw at a time
_SEED = 19_870_082


def bca_intervals(samples: Array) -> tuple[Array, Array]:
    """Return bias-corrected and accelerated 95 % bootstrap intervals of means (Efron, 1987).

    They are not symmetric if the values are skewed, and assume that the values of a sample are independent. For very
    skewed values, they are too short even with 100 of them (docs/statistics.md has a simulation).

    Parameters
    ----------
    samples : array of float
        Samples × values; at least `LEAST` values, all of them finite.

    Returns
    -------
    (array of float, array of float)
        Both ends for each sample, from 10,000 resamples that are always the same (fewer for more than 2,000 values).

    Examples
    --------
    >>> low, high = bca_intervals(np.arange(30)[None] ** 2.0)
    >>> round(low.item(), 1), round(high.item(), 1)
    (202.4, 386.1)
    """
    n = samples.shape[1]
    mean = samples.mean(axis=1)
    deviations = samples - mean[:, None]
    parts = []
    left, generator = number_of_resamples(n), np.random.default_rng(_SEED)
    while left:
        number = min(left, max(1, _CHUNK // n))
        parts.append(counts(generator, number, n) @ deviations.T / n)  # of deviations, whose means lose no digits
        left -= number
    means = np.sort(np.concatenate(parts), axis=0)
    means[np.abs(means) < 1e-12 * np.abs(samples).max()] = 0.0  # ties with the mean, but for rounding errors
    least = 1 / len(means)
    below = ((means < 0).mean(axis=0) + (means <= 0).mean(axis=0)) / 2
    normal = NormalDist()
    bias = np.array([normal.inv_cdf(share) for share in below.clip(least, 1 - least)])
    with np.errstate(invalid="ignore"):  # of equal values, 0 / 0
        acceleration = np.nan_to_num((deviations**3).sum(axis=1) / (6 * (deviations**2).sum(axis=1) ** 1.5))
    ends = []
    for level in (0.025, 0.975):
        z = bias + normal.inv_cdf(level)
        shares = [normal.cdf(value) for value in bias + z / (1 - acceleration * z)]
        ends.append(mean + [np.quantile(of, share) for of, share in zip(means.T, shares, strict=True)])
    return ends[0], ends[1]


def resamples(sizes: Sequence[int]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield resamples, always the same: places of values, each drawn within its stratum (Agarwal et al., 2021).

    Parameters
    ----------
    sizes : sequence of int
        The number of values of each stratum. The values of a stratum are next to each other.

    Yields
    ------
    array of int
        Resamples × values, in parts.

    Examples
    --------
    >>> drawn = np.concatenate(list(resamples([2, 3])))
    >>> drawn.shape, [sorted(set(column)) for column in drawn.T.tolist()]
    ((10000, 5), [[0, 1], [0, 1], [2, 3, 4], [2, 3, 4], [2, 3, 4]])
    """
    of = np.repeat(sizes, sizes)
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    left = number_of_resamples(len(of))
    generator = np.random.default_rng(_SEED)
    while left:
        number = min(left, max(1, _CHUNK // len(of)))
        yield start + (generator.random((number, len(of))) * of).astype(np.int64)
        left -= number


def number_of_resamples(size: int) -> int:
    """Return how many resamples to draw of so many values."""
    return min(_RESAMPLES, max(_FEWEST, _MOST_VALUES // size))


def counts(generator: np.random.Generator, resamples: int, size: int) -> Array:
    """Draw how often each of some values is in each resample (resamples × values)."""
    places = np.arange(resamples)[:, None] * size + generator.integers(0, size, (resamples, size))
    return np.bincount(places.ravel(), minlength=places.size).reshape(places.shape).astype(float)


def percentile_interval(statistics: Array) -> tuple[Array, Array]:
    """Return the ends of the 95 % percentile interval of resampled statistics (resamples × statistics)."""
    low, high = np.quantile(statistics, [0.025, 0.975], axis=0)
    return low, high


def interquartile_mean(values: Array) -> Array:
    """Return the mean of the middle half along the last axis: a quarter of the values is cut off at both ends.

    >>> float(interquartile_mean(np.array([0, 1, 2, 3, 100])))
    2.0
    """
    n = values.shape[-1]
    cut = math.floor(n / 4)
    ordered = np.partition(values, [cut, n - cut - 1], axis=-1) if cut else values
    found: Array = ordered[..., cut : n - cut].mean(axis=-1)
    return found
