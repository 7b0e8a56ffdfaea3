"""How long it takes to succeed, if runs that fail are restarted.

References, cited where each method is implemented:

- N. Hansen, A. Auger, R. Ros, O. Mersmann, T. Tušar and D. Brockhoff. COCO: a platform for comparing continuous
  optimizers in a black-box setting. *Optimization Methods and Software* 36(1):114-144, 2021.
- K. Price. Differential evolution vs. the functions of the second ICEO. *IEEE International Conference on Evolutionary
  Computation*, 153-157, 1997. It introduces the expected running time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pyexperimenter.analysis.exact_tests import Array

_RESTARTS, _FEWEST = 10_000, 1_000
_MOST_RUNS = 200_000  # about the most runs to draw, unless for the fewest restarts
_SEED = 20_210_114


def expected_running_time(spent: Sequence[float] | Array, reached: Sequence[bool] | Array) -> float:
    """Return the expected running time until a success (Price, 1997; Hansen et al., 2021).

    It is that of restarting a run until one succeeds: the budget that all runs spent, also those that did not succeed,
    divided by the number of successes. Restarts must be possible, and a run that goes on longer is not considered.

    Parameters
    ----------
    spent : sequence of float
        The budget of each run until it succeeded, or until it ended.
    reached : sequence of bool
        Whether it succeeded.

    Returns
    -------
    float
        Infinite without a success.

    Examples
    --------
    >>> round(expected_running_time([100, 250, 1000, 400], [True, True, False, True]), 2)
    583.33
    >>> expected_running_time([1000], [False])
    inf
    """
    successes = int(np.sum(reached))
    return float(np.sum(spent)) / successes if successes else math.inf


def simulated_restarts(spent: Sequence[float] | Array, reached: Sequence[bool] | Array) -> Array:
    """Return running times of simulated restarts (Hansen et al., 2021, section 5.2).

    Runs are drawn with replacement until one is successful; their budgets are added. With few runs, the quantiles of
    these times are rough.

    Parameters
    ----------
    spent, reached
        As for `expected_running_time`.

    Returns
    -------
    array of float
        Always the same 10,000, or fewer if few runs succeed; in no order; infinite without a success.

    Examples
    --------
    >>> times = simulated_restarts([100, 250, 1000, 400], [True, True, False, True])
    >>> float(times.min()), abs(float(times.mean()) - 583.33) < 15
    (100.0, True)
    """
    times, successes = np.asarray(spent, dtype=float), np.asarray(reached, dtype=bool)
    succeeded, failed = times[successes], times[~successes]
    if not len(succeeded):
        return np.full(_FEWEST, np.inf)
    generator = np.random.default_rng(_SEED)
    rate = len(succeeded) / len(times)
    restarts = min(_RESTARTS, max(_FEWEST, int(_MOST_RUNS * rate)))
    found: Array = generator.choice(succeeded, restarts)
    if len(failed):
        failures = generator.geometric(rate, restarts) - 1
        of = np.repeat(np.arange(restarts), failures)
        found += np.bincount(of, generator.choice(failed, len(of)), minlength=restarts)
    return found
