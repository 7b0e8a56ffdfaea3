"""Coverage of the intervals with which a replication to a precision stops, by simulation.

    python benchmarks/replication.py

The rule of `replicate` looks after each step, so its last interval holds less often than one of a fixed size. The
alternatives show why at least 10 values and intervals of 97 % are needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pyexperimenter.analysis import replication

Sample = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
MOST, STEP = 50, 5


def collapsing(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return np.where(rng.random(size) < 0.1, 0.3, rng.normal(0.9, 0.01, size))


# What is sampled, its mean and its standard deviation.
SAMPLES: dict[str, tuple[Sample, float, float]] = {
    "normal": (lambda rng, size: rng.normal(0, 1, size), 0, 1),
    "accuracies near 1": (lambda rng, size: rng.beta(19, 1, size), 0.95, (0.95 * 0.05 / 21) ** 0.5),
    "differences of accuracies": (
        lambda rng, size: rng.beta(19, 1, size) - rng.beta(19, 1, size),
        0,
        (0.095 / 21) ** 0.5,
    ),
    "one seed in ten collapses": (collapsing, 0.9 * 0.9 + 0.1 * 0.3, (0.1 * 0.9 * 0.6**2 + 0.9 * 0.01**2) ** 0.5),
}
RULES = [(5, 0.05), (10, 0.05), (10, replication.ALPHA), (20, replication.ALPHA)]
PRECISIONS = (0.3, 0.5, 0.7)  # wanted half widths, in standard deviations


def coverage(values: np.ndarray, mean: float, width: float, least: int, alpha: float) -> tuple[float, float]:
    """Return the share of studies whose last interval has the mean, and their mean number of values."""
    replication.ALPHA = alpha
    stopped, covered = np.zeros(len(values), bool), np.zeros(len(values), bool)
    counts = np.zeros(len(values))
    for n in range(least, MOST + 1, STEP):
        half = replication.half_widths(values[:, :n])
        stops = ~stopped & ((half <= width) | (n == MOST))
        covered |= stops & (abs(values[:, :n].mean(axis=1) - mean) <= half)
        counts[stops] = n
        stopped |= stops
    return float(covered.mean()), float(counts.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20_000)
    studies = parser.parse_args().studies
    error = 1.96 * stats.binom(studies, 0.95).std() / studies
    rows = []
    for name, (sample, mean, deviation) in SAMPLES.items():
        values = sample(np.random.default_rng(0), (studies, MOST))
        for least, alpha in RULES:
            found = [coverage(values, mean, share * deviation, least, alpha) for share in PRECISIONS]
            rows.append([name, least, f"{1 - alpha:.0%}", *(f"{right:.1%} ({n:.0f})" for right, n in found)])
    print(f"Coverage, and the mean number of values; {studies} studies each, so ±{error:.1%}")
    print(tabulate(rows, ["values", "min", "interval", *(f"±{share} sd" for share in PRECISIONS)], tablefmt="github"))


if __name__ == "__main__":
    main()
