"""Simulate how often the printed tests reject a true hypothesis, and how often the printed intervals cover the truth.

Run:  python benchmarks/inference.py [--replications 2000] [--seed 0] [--only tests]

A test at the level 0.05 should reject in 5 % of the replications, and a 95 % interval should cover the truth in 95 %.
Each table also has what comes to mind first, and what the library did at first.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from common import print_table

from pyexperimenter.analysis import compare, exact_tests, summarize
from pyexperimenter.analysis.bootstrap import bca_intervals
from pyexperimenter.analysis.effects import shift
from pyexperimenter.analysis.equivalence import tost
from pyexperimenter.analysis.rank_tests import (
    chi_squared_p,
    friedman,
    holm,
    iman_davenport,
    nemenyi_p,
    rank,
    wilcoxon,
)

ALPHA = 0.05
BLOCKS = (3, 4, 6, 8, 12, 20)
Generator = np.random.Generator
Array = Any


def scores(generator: Generator, blocks: int, levels: int, ties: bool) -> Array:
    """Draw scores of levels that do not differ, on blocks that do: shares of 30, or numbers without ties."""
    if ties:
        return generator.binomial(30, generator.uniform(0.6, 0.95, (blocks, 1)), (blocks, levels)) / 30
    return generator.normal(generator.normal(size=(blocks, 1)), 1, (blocks, levels))


# Tests


def p_values(values: Array) -> dict[str, float]:
    """Return the p-value of each test that `compare` prints; of a family of tests the smallest adjusted one."""
    blocks, levels = values.shape
    if levels == 2:
        return {"Wilcoxon": wilcoxon(*values.T)[1]}
    ranks = rank(pd.DataFrame(values), "max")
    chi_squared, p = friedman(ranks)
    pairs = list(itertools.combinations(range(levels), 2))
    average = ranks.mean()
    return {
        "Friedman": p,
        "Holm": min(holm([wilcoxon(values[:, one], values[:, other])[1] for one, other in pairs])),
        "Nemenyi": nemenyi_p(average.max() - average.min(), blocks, levels),
        "chi²": chi_squared_p(chi_squared, levels),
        "F": iman_davenport(chi_squared, blocks, levels)[1],
    }


def tests(generator: Generator, replications: int) -> None:
    """Print how often each test rejects levels that do not differ."""
    # The p-value from fewer random permutations is as valid, but less precise. This saves an hour.
    exact_tests._LARGEST, exact_tests._DRAWN = 20_000, 999
    replications //= 2
    for levels in (2, 3, 4, 5):
        rows = []
        for ties, blocks in itertools.product((False, True), BLOCKS):
            drawn = [p_values(scores(generator, blocks, levels, ties)) for _ in range(replications)]
            found = pd.DataFrame(drawn)
            rows.append([blocks, "yes" if ties else "no", *(found <= ALPHA).mean(), _largest(found.iloc[:, 0])])
        print(f"\nRejections of {levels} levels that do not differ\n")
        print_table(["blocks", "ties", *found.columns, "largest p ≤ 0.05"], rows, ".3f")


def _largest(p: pd.Series[float]) -> float:
    """Return the largest p-value up to 0.05: without ties, an exact test rejects that often."""
    return float(p[p <= ALPHA].max()) if (p <= ALPHA).any() else 0.0


# Tables of experiments


def experiments(values: Array, names: tuple[str, ...]) -> pd.DataFrame:
    """Return a table as `get_table` does, with an axis of the array for each keyfield."""
    index = np.indices(values.shape).reshape(values.ndim, -1)
    table = pd.DataFrame({"ID": range(1, values.size + 1), **dict(zip(names, index, strict=True))})
    return table.assign(creation_date=pd.Timestamp("2026-01-01"), status="done", accuracy=values.ravel())


def coverage(values: Array, truth: float, names: tuple[str, ...], **options: Any) -> float:
    """Return how often the intervals of the mean cover the truth, with a replication in each cell."""
    table = experiments(values, ("replication", *names))
    summary = summarize(table, "accuracy", "replication", over=list(names), stat="mean±ci95", **options)
    return float((abs(summary["mean"] - truth) <= summary["ci95"]).mean())


def rejections(draws: Array, names: tuple[str, ...], **options: Any) -> list[float]:
    """Return how often two methods that do not differ are rejected: by `compare`, and with each run as a block.

    The draws are replications × methods × others.
    """
    declared = [
        compare(experiments(values, ("method", *names)), "accuracy", by="method", **options).p_value for values in draws
    ]
    runs = [wilcoxon(*values.reshape(2, -1))[1] for values in draws]
    return [float((np.array(p) <= ALPHA).mean()) for p in (declared, runs)]


# Random splits of one data set


class Splits:
    """Accuracies on random splits of data sets, of two equally good classifiers: centroids of different features."""

    def __init__(self, generator: Generator, examples: int, share: float) -> None:
        self.generator, self.examples, self.test = generator, examples, round(examples * share)
        self.center = np.full(5, 0.4)  # of one class; the other one is opposite

    def accuracies(self, replications: int, splits: int) -> Array:
        """Return replications x methods x splits; each replication is a data set of its own."""
        found = np.empty((replications, 2, splits))
        for replication, split in itertools.product(range(replications), range(splits)):
            if split == 0:
                labels, features = self._sample()
            order = self.generator.permutation(self.examples)
            test, train = order[: self.test], order[self.test :]
            for method in (0, 1):
                used = features[:, method]
                weights, threshold = self._train(labels[train], used[train])
                found[replication, method, split] = ((used[test] @ weights > threshold) == labels[test]).mean()
        return found

    def truth(self) -> float:
        """Return the expected accuracy after training on as many examples as in a split."""
        accuracies = []
        for _ in range(4000):
            labels, features = self._sample(self.examples - self.test)
            weights, threshold = self._train(labels, features[:, 0])
            reach, size = weights @ self.center, np.linalg.norm(weights)
            accuracies.append(scipy.stats.norm.cdf([(reach - threshold) / size, (reach + threshold) / size]).mean())
        return float(np.mean(accuracies))

    def _sample(self, examples: int | None = None) -> tuple[Array, Array]:
        labels = self.generator.random(examples or self.examples) < 0.5
        noise = self.generator.normal(size=(len(labels), 2, 5))
        return labels, noise + np.where(labels, 1, -1)[:, None, None] * self.center

    def _train(self, labels: Array, features: Array) -> tuple[Array, float]:
        one, other = features[labels].mean(axis=0), features[~labels].mean(axis=0)
        return one - other, (one - other) @ (one + other) / 2


SPLITS = ((200, 0.1, 10), (200, 0.3, 10), (200, 0.3, 30), (100, 0.5, 10))


def intervals(generator: Generator, replications: int) -> None:
    """Print how often intervals of means cover the truth."""
    rows: list[list[Any]] = []
    for seeds in (3, 5, 10, 20):
        values = generator.normal(0.8, 0.02, (replications, seeds))
        rows.append([f"{seeds} seeds of one data set", coverage(values, 0.8, ("seed",)), None])
    for datasets, seeds in ((5, 5), (10, 5), (20, 3)):
        shape = (replications, datasets, seeds)
        values = generator.normal(0.8, 0.1, (replications, datasets, 1)) + generator.normal(0, 0.03, shape)
        found = [coverage(values, 0.8, ("dataset", "seed"), unit=unit) for unit in ("dataset", "seed")]
        rows.append([f"{datasets} data sets with {seeds} seeds", *found])
    for examples, share, splits in SPLITS:
        study = Splits(generator, examples, share)
        values, truth = study.accuracies(replications // 2, splits)[:, 0], study.truth()
        found = [coverage(values, truth, ("seed",), **options) for options in ({"test_share": share}, {})]
        rows.append([f"{splits} splits of {examples} examples, {share:.0%} for tests", *found])
    print("\nCoverage of the 95 % interval of the mean\n")
    print_table(["means over", "as declared", "runs as units"], rows, ".3f")


def blocks(generator: Generator, replications: int) -> None:
    """Print how often two methods that do not differ are rejected, with repeated runs on the same data."""
    rows: list[list[Any]] = []
    replications //= 2
    for datasets, seeds in ((6, 5), (10, 5), (20, 3)):
        suits = generator.normal(0, 0.05, (replications, 2, datasets, 1))  # which method suits a data set
        draws = 0.8 + suits + generator.normal(0, 0.02, (replications, 2, datasets, seeds))
        found = rejections(draws, ("dataset", "seed"), blocks="dataset")
        rows.append([f"{datasets} data sets with {seeds} seeds", *found])
    for examples, share, splits in SPLITS:
        draws = Splits(generator, examples, share).accuracies(replications, splits)
        found = rejections(draws, ("seed",), blocks="seed", unit="seed", test_share=share)
        rows.append([f"{splits} splits of {examples} examples, {share:.0%} for tests", *found])
    print("\nRejections of two methods that do not differ\n")
    print_table(["blocks", "as declared", "runs as blocks"], rows, ".3f")


def marks(generator: Generator, replications: int) -> None:
    """Print how often a method is not marked by best="indistinguishable", although none differs."""
    rows: list[list[Any]] = []
    for levels, datasets in itertools.product((2, 3, 5), (8, 20)):
        drawn = np.stack([scores(generator, datasets, levels, ties=True).T for _ in range(replications)])
        table = experiments(drawn, ("replication", "method", "dataset"))
        summary = summarize(table, "accuracy", "replication", "method", over="dataset", better="max")
        lowest = summary.groupby("replication")["p_best"].min()
        rows.append([f"{levels} methods, {datasets} data sets", (lowest <= ALPHA).mean()])
    print("\nRows with a method that is distinguished from the best, although none differs\n")
    print_table(["row", "share"], rows, ".3f")


def shifts(generator: Generator, replications: int) -> None:
    """Print how often the interval of the shift covers it."""
    rows = []
    for number in (6, 7, 8, 12, 20, 50):
        line: list[Any] = [number]
        for drawn, truth in _differences(generator, (replications, number)):
            found = np.array([shift(differences, np.zeros(number)) for differences in drawn])
            line.append(((found[:, 1] <= truth) & (truth <= found[:, 2])).mean())
        rows.append(line)
    print("\nCoverage of the 95 % interval of the shift\n")
    print_table(["blocks", "normal", "Student, 3 df", "uniform", "ties", "ties, shift 0"], rows, ".3f")


def bootstrap(generator: Generator, replications: int) -> None:
    """Print how often the BCa interval covers a mean, also with fewer units than it is computed for."""
    draws = {
        "normal": (lambda shape: generator.normal(size=shape), 0.0),
        "exponential": (lambda shape: generator.exponential(size=shape), 1.0),
        "lognormal": (lambda shape: generator.lognormal(size=shape), math.exp(0.5)),
        "accuracies": (lambda shape: generator.binomial(30, 0.95, shape) / 30, 0.95),
    }
    rows = []
    for number in (5, 10, 20, 30, 50, 100):
        line: list[Any] = [number]
        for draw, truth in draws.values():
            samples = draw((replications, number))
            low, high = bca_intervals(samples)
            half = scipy.stats.t.ppf(0.975, number - 1) * scipy.stats.sem(samples, axis=1)
            line.append(((low <= truth) & (truth <= high)).mean())
            line.append((np.abs(samples.mean(axis=1) - truth) <= half).mean())
        rows.append(line)
    print("\nCoverage of the 95 % BCa bootstrap interval of the mean, and of Student's\n")
    print_table(["units", *(f"{name}{of}" for name in draws for of in ("", ", t"))], rows, ".3f")


def equivalence(generator: Generator, replications: int) -> None:
    """Print how often levels whose difference is at the edge of the region are called equivalent."""
    rows = []
    for number in (6, 8, 12, 20, 50):
        line: list[Any] = [number]
        for drawn, truth in _differences(generator, (replications, number)):
            pairs = zip(drawn - np.reshape(truth, (-1, 1)) + 1.0, strict=True)
            line.append(np.mean([tost(differences, np.zeros(number), 1.0) <= ALPHA for (differences,) in pairs]))
        rows.append(line)
    print("\nPairs at the edge of the region that are called equivalent\n")
    print_table(["blocks", "normal", "Student, 3 df", "uniform", "ties", "ties, shift 0"], rows, ".3f")


def _differences(generator: Generator, shape: tuple[int, int]) -> Iterator[tuple[Array, Array]]:
    """Yield differences and their true shifts."""
    none = np.zeros(shape[0])
    yield generator.normal(size=shape), none
    yield generator.standard_t(3, shape), none
    yield generator.uniform(-1, 1, shape), none
    truth = generator.uniform(-0.1, 0.1, shape[0])
    yield (generator.normal(truth[:, None], 0.1, shape) * 30).round() / 30, truth
    yield (generator.normal(0, 0.1, shape) * 30).round() / 30, none


PARTS = {
    "intervals": intervals,
    "shifts": shifts,
    "bootstrap": bootstrap,
    "blocks": blocks,
    "equivalence": equivalence,
    "marks": marks,
    "tests": tests,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(PARTS))
    arguments = parser.parse_args()
    error = math.sqrt(ALPHA * (1 - ALPHA) / arguments.replications)
    print(
        f"{arguments.replications} replications, half as many of tests; the standard error of a share of 0.05 or 0.95 "
        f"is {error:.4f} and {error * math.sqrt(2):.4f}"
    )
    for name, part in PARTS.items():
        if arguments.only in (None, name):
            start = time.perf_counter()
            part(np.random.default_rng(arguments.seed), arguments.replications)
            print(f"\n({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
