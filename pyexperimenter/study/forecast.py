"""How long what is left will take, although experiments of some kinds take longer than others. Pure functions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, pvariance
from typing import Any, NamedTuple

Kind = tuple[Any, ...]
"""Values of the keyfields that matter."""

_ENOUGH = 3  # executions of a kind, on average, before kinds are distinguished; of one kind, before its mean is used
_GAIN = 0.1  # share of the variance that a keyfield has to explain
_MOST_KEYFIELDS = 3
_INSTANT = 1e-3  # seconds; differences between shorter executions do not matter


class Interval(NamedTuple):
    """Seconds: the best estimate, and what it may be."""

    seconds: float
    low: float
    high: float


def explaining(rows: Sequence[Sequence[Any]], seconds: Sequence[float]) -> list[int]:
    """Return the positions of the columns whose values explain how long executions took.

    Columns are added one by one, that with the smallest variance within its groups first, as long as it explains a
    tenth of the variance. The variance is that of logarithms, as kinds of experiments differ by factors.

    Parameters
    ----------
    rows : sequence of sequences
        The values of the columns, for each execution.
    seconds : sequence of float
        How long each execution took.

    Examples
    --------
    >>> explaining([("svm", seed) for seed in range(9)] + [("net", seed) for seed in range(9)], [1.0] * 9 + [60.0] * 9)
    [0]
    """
    logs = [math.log(max(value, _INSTANT)) for value in seconds]
    chosen: list[int] = []
    total = unexplained = pvariance(logs) if logs else 0.0
    while total > 0 and len(chosen) < _MOST_KEYFIELDS:
        candidates = [
            (_within([tuple(row[at] for at in (*chosen, column)) for row in rows], logs), column)
            for column in range(len(rows[0]))
            if column not in chosen
        ]
        least, column = min(candidates, default=(math.inf, 0))
        if unexplained - least < _GAIN * total:
            break
        unexplained = least
        chosen.append(column)
    return chosen


def _within(kinds: Sequence[Kind], values: Sequence[float]) -> float:
    """Return the variance within kinds, with what chance may have taken from it; infinite if there are too many."""
    groups = by_kind(kinds, values)
    left = len(values) - len(groups)
    if len(values) < _ENOUGH * len(groups):
        return math.inf
    chance = math.sqrt(2 * (len(groups) - 1) / (left * len(values)))
    return sum(pvariance(group) * len(group) for group in groups.values()) / left * (1 + 3 * chance)


def by_kind(kinds: Sequence[Kind], values: Sequence[float]) -> dict[Kind, list[float]]:
    """Return the values of each kind."""
    groups = defaultdict[Kind, list[float]](list)
    for kind, value in zip(kinds, values, strict=True):
        groups[kind].append(value)
    return groups


def time_left(
    left: Mapping[Kind, float],
    finished: Mapping[Kind, Sequence[float]],
    recent: Sequence[float],
    rate: float,
    running: int,
) -> Interval:
    """Return how long what is left will take.

    It is the work that is left, divided by the work that was done per second recently. A kind that was executed less
    than three times may be as quick as the quickest, and as slow as the slowest. Executions that are running may be
    about to end, so the rate may be higher than it seems. Two standard deviations of both are added.

    Parameters
    ----------
    left : Mapping of Kind to float
        How many experiments of each kind are left.
    finished : Mapping of Kind to sequence of float
        How many seconds executions of each kind took.
    recent : sequence of float
        How many seconds those took that give the rate.
    rate : float
        How many ended per second.
    running : int
        How many are running.

    Examples
    --------
    >>> time_left({"svm": 10, "net": 10}, {"svm": [1.0] * 9, "net": [60.0] * 9}, [1.0] * 1000, rate=1, running=1)
    Interval(seconds=610.0, low=609.3..., high=610.0)
    """
    means = {kind: fmean(seconds) for kind, seconds in finished.items() if len(seconds) >= _ENOUGH}
    if not means:
        means = {(): fmean(recent)}
    quickest, slowest, usual = min(means.values()), max(means.values()), fmean(means.values())
    work = Interval(
        *(sum(count * means.get(kind, mean) for kind, count in left.items()) for mean in (usual, quickest, slowest))
    )
    variance = 0.0
    for kind, count in left.items():
        if kind in means:
            seconds = finished.get(kind, recent)
            variance += pvariance(seconds) * (count + count**2 / len(seconds))
    done_per_second = rate * max(fmean(recent), _INSTANT)
    deviation = math.hypot(
        math.sqrt(variance) / work.seconds if work.seconds else 0.0,
        math.sqrt(pvariance(recent) / len(recent)) / max(fmean(recent), _INSTANT),
    )
    longest = max((means.get(kind, slowest) for kind in left), default=0.0)
    return Interval(
        work.seconds / done_per_second,
        work.low / done_per_second / (1 + 2 * deviation) / (1 + running / len(recent)),
        max(work.high / done_per_second * (1 + 2 * deviation), longest),
    )
