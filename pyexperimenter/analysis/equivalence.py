"""How likely two levels are practically equivalent: tests with a region of practical equivalence.

The region contains all differences of at most `rope`, in the units of the score. Only who knows the study can say how
large a difference matters, so there is no default.

References, cited where each method is implemented:

- A. Benavoli, G. Corani, J. Demšar and M. Zaffalon. Time for a change: a tutorial for comparing multiple classifiers
  through Bayesian analysis. *Journal of Machine Learning Research* 18(77):1-36, 2017.
- G. Corani and A. Benavoli. A Bayesian approach for comparing cross-validated algorithms on multiple data sets.
  *Machine Learning* 100(2-3):285-304, 2015.
- D. J. Schuirmann. A comparison of the two one-sided tests procedure and the power approach for assessing the
  equivalence of average bioavailability. *Journal of Pharmacokinetics and Biopharmaceutics* 15(6):657-680, 1987.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import numpy.typing as npt

from pyexperimenter.analysis.exact_tests import Array
from pyexperimenter.analysis.rank_tests import Scores, corrected_mean, differences_of, student, wilcoxon_less

IntArray = npt.NDArray[np.int64]

_PRIOR = 0.5  # the weight of the prior, which is at the difference 0
_DRAWN, _FEWEST = 50_000, 2_000  # samples of the posterior distribution
_MOST_WEIGHTS = 4_000_000  # the most weights to draw in total, unless for the fewest samples
_CHUNK = 1_000_000  # weights to draw at a time
_SEED = 20_170_077


def tost(first: Scores, second: Scores, rope: float) -> float:
    """Test whether paired scores differ by at most `rope`, with two one-sided Wilcoxon tests (Schuirmann, 1987).

    It rejects that the first is higher by `rope` or more, and that it is lower by `rope` or more. The region then
    contains the 1 - 2 alpha interval of `effects.shift`. As for the Wilcoxon test, the differences must be symmetric
    about their center.

    Parameters
    ----------
    first, second : sequence of float
        One score for each block.
    rope : float
        Positive half width of the region of practical equivalence.

    Returns
    -------
    float
        The larger p-value of both tests. If it is at most alpha, the levels are equivalent. It is exact for up to 400
        pairs.

    Examples
    --------
    >>> tost([3, 5, 1, 4, 2, 6], [3.1, 4.8, 1.3, 3.6, 2.5, 5.4], rope=1)  # 1 of 64 for both
    0.015625
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    return max(wilcoxon_less(a, b + rope), wilcoxon_less(b, a + rope))


def tost_of_splits(first: Scores, second: Scores, rope: float, split_ratio: float) -> float:
    """Test the same with t tests on random splits of one data set, whose variance is that of `rank_tests.corrected_t`.

    Parameters
    ----------
    first, second : sequence of float
        One score for each split.
    rope : float
        Positive half width of the region of practical equivalence.
    split_ratio : float
        n_test / n_train; with 0, the splits are independent.

    Examples
    --------
    >>> differences = [0.02, 0.01, 0.03, 0, 0.015, 0.025, 0.005, 0.01, 0.02, 0.015]
    >>> round(tost_of_splits(differences, [0] * 10, 0.03, 1 / 9), 5)
    0.00298
    """
    below, above = _tails(first, second, rope, split_ratio)
    return max(sys.float_info.min, below, above)


def signed_rank_probabilities(first: Scores, second: Scores, rope: float) -> tuple[float, float, float]:
    """Return how likely the first is practically higher, equivalent or lower (Benavoli et al., 2017, section 4.2.2).

    This is the Bayesian signed-rank test. Its prior is a Dirichlet process of strength 0.5 at the difference 0. Blocks
    must be independent. The answer is about the median of the differences on further blocks of the same kind.

    Parameters
    ----------
    first, second : sequence of float
        One score for each block.
    rope : float
        Half width of the region of practical equivalence, at least 0.

    Returns
    -------
    (float, float, float)
        Posterior probabilities, which sum to 1, from 50,000 samples that are always the same; for more than 80
        blocks, from fewer.

    Examples
    --------
    >>> differences = [0.02, 0.03, -0.01, 0.015, 0.004, 0.05, 0.012, -0.002, 0.03, 0.02]
    >>> [round(p, 2) for p in signed_rank_probabilities(differences, [0] * 10, rope=0.01)]
    [0.82, 0.18, 0.0]
    """
    values = np.append(0.0, differences_of(first, second))
    order = np.argsort(values, kind="stable")
    values = values[order]
    above, below = _places(values, 2 * rope), _places(values, -2 * rope)
    drawn = min(_DRAWN, max(_FEWEST, _MOST_WEIGHTS // len(values)))
    at_once = max(1, _CHUNK // len(values))
    generator = np.random.default_rng(_SEED)
    winners = np.zeros(3, dtype=np.int64)
    for start in range(0, drawn, at_once):
        number = min(at_once, drawn - start)
        weights = generator.standard_exponential((number, len(values)))
        weights[:, 0] = generator.standard_gamma(_PRIOR, number)
        weights = (weights / weights.sum(axis=1, keepdims=True))[:, order]
        lower, higher = _mass_below(weights, below), 1 - _mass_below(weights, above)
        winners += np.bincount(np.argmax([higher, 1 - higher - lower, lower], axis=0), minlength=3)
    higher_p, equivalent, lower_p = (winners / drawn).tolist()
    return higher_p, equivalent, lower_p


def _places(values: Array, edge: float) -> tuple[IntArray, IntArray]:
    """Count for each value those with which its sum is below the edge, and those with which it is at most the edge.

    The values are in ascending order. Sums of infinity and minus infinity are 0: these are a tie.
    """
    places = []
    for value in values:
        with np.errstate(invalid="ignore"):
            sums = values + value
        places.append(np.searchsorted(np.where(np.isnan(sums), 0.0, sums), [edge, np.nextafter(edge, np.inf)]))
    less, most = np.transpose(places)
    return less, most


def _mass_below(weights: Array, places: tuple[IntArray, IntArray]) -> Array:
    """Return the total weight of the pairs of values below the edge; pairs at the edge count half."""
    cumulated = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(weights, axis=1)], axis=1)
    less, most = places
    before = cumulated[:, less] if np.array_equal(less, most) else (cumulated[:, less] + cumulated[:, most]) / 2
    mass: Array = np.einsum("ij,ij->i", weights, before)
    return mass


def split_probabilities(first: Scores, second: Scores, rope: float, split_ratio: float) -> tuple[float, float, float]:
    """Return the same for random splits of one data set: the correlated Bayesian t test (Corani and Benavoli, 2015).

    The posterior distribution of the mean difference is Student's, with the corrected variance of
    `rank_tests.corrected_t`. It holds for this data set only.

    Parameters
    ----------
    first, second : sequence of float
        One score for each split.
    rope : float
        Half width of the region of practical equivalence, at least 0.
    split_ratio : float
        n_test / n_train.

    Examples
    --------
    >>> differences = [0.02, 0.01, 0.03, 0, 0.015, 0.025, 0.005, 0.01, 0.02, 0.015]
    >>> [round(p, 4) for p in split_probabilities(differences, [0] * 10, 0.005, 1 / 9)]
    [0.9795, 0.02, 0.0005]
    """
    lower, higher = _tails(first, second, rope, split_ratio)
    return higher, 1 - higher - lower, lower


def _tails(first: Scores, second: Scores, rope: float, split_ratio: float) -> tuple[float, float]:
    """Return the probabilities of Student's t below and above the region: p-values and posterior probabilities."""
    mean, error, degrees = corrected_mean(first, second, split_ratio)
    ends = [-rope - mean, mean - rope]
    scaled = [end / error if error else math.copysign(math.inf, end) if end else 0.0 for end in ends]
    below, above = (float(student().cdf(end, degrees)) for end in scaled)
    return below, above
