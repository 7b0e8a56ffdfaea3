"""Tests of practical equivalence and Shaffer's correction, against SciPy, statsmodels, baycomp and enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.weightstats import ttost_paired

from pyexperimenter.analysis import compare
from pyexperimenter.analysis.effects import shift
from pyexperimenter.analysis.equivalence import (
    signed_rank_probabilities,
    split_probabilities,
    tost,
    tost_of_splits,
)
from pyexperimenter.analysis.rank_tests import corrected_t, holm, shaffer, wilcoxon, wilcoxon_less
from pyexperimenter.exceptions import InvalidValueError

SPLITS = [0.02, 0.01, 0.03, 0, 0.015, 0.025, 0.005, 0.01, 0.02, 0.015]
# Differences, half width of the region, and what baycomp 1.0.3 returns for y - x = differences:
# SignedRankTest.probs(x, y, rope=rope, nsamples=200_000)[::-1].
BAYCOMP = [
    ([0.02, 0.03, -0.01, 0.015, 0.004, 0.05, 0.012, -0.002, 0.03, 0.02], 0.01, [0.8207, 0.1793, 0]),
    ([0.017, 0.026, 0.017, -0.016, 0.028, 0.019], 0.01, [0.8016, 0.196, 0.0023]),
    (
        [0.019, 0.005, 0.007, -0.034, 0.051, 0.038, 0.008, 0.03, 0.021, 0.004, 0.035, 0.009],
        0.02,
        [0.2603, 0.7397, 0],
    ),
    ([-0.036, -0.046, -0.025], 0.01, [0, 0.0089, 0.9911]),
]
FINITE = st.floats(-5, 5).map(lambda value: round(value, 2))


def experiments(scores):
    """Make a table of N blocks x k levels."""
    lines = [(block, f"level {level}", 0, score) for block, row in enumerate(scores) for level, score in enumerate(row)]
    table = pd.DataFrame(lines, columns=["dataset", "method", "seed", "accuracy"])
    table.insert(0, "ID", range(1, len(table) + 1))
    table.insert(4, "creation_date", pd.Timestamp("2026-01-01"))
    table.insert(5, "status", "done")
    return table


def draws(seed, blocks=10, levels=3):
    return np.random.default_rng(seed).normal(0.8, 0.05, (blocks, levels))


# Functions


@pytest.mark.parametrize("n", [5, 12, 60, 400, 500])
def test_one_sided_wilcoxon_is_that_of_scipy(n):
    first = np.random.default_rng(n).normal(0, 1, n)
    method = "exact" if n <= 400 else "asymptotic"
    expected = scipy.stats.wilcoxon(first, alternative="less", method=method).pvalue
    assert wilcoxon_less(first, np.zeros(n)) == pytest.approx(expected)


@given(st.lists(FINITE, min_size=2, max_size=9), st.floats(0.01, 3))
def test_tost_is_the_larger_of_two_one_sided_tests(differences, rope):
    expected = 0.0
    for towards in (1, -1):
        shifted = towards * np.array(differences) - rope
        ranks = scipy.stats.rankdata(abs(shifted).round(9))
        kept = abs(shifted) > 1e-9
        sums = [ranks[kept] @ signs for signs in itertools.product([0, 1], repeat=kept.sum())]
        expected = max(expected, np.mean([total <= ranks[kept & (shifted > 0)].sum() for total in sums]))
    assert tost(differences, [0] * len(differences), rope) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_equivalence_means_that_the_interval_is_in_the_region(seed):
    differences = np.random.default_rng(seed).normal(0.2, 0.5, 14)
    _, low, high = shift(differences, np.zeros(14), alpha=0.1)
    assert (tost(differences, np.zeros(14), 0.4) <= 0.05) is (max(-low, high) < 0.4)


@pytest.mark.parametrize("seed", range(5))
def test_tost_of_independent_splits_is_that_of_statsmodels(seed):
    first, second = np.random.default_rng(seed).normal(0.8, 0.02, (2, 12))
    expected = ttost_paired(first, second, -0.03, 0.03)[0]
    assert tost_of_splits(first, second, 0.03, 0.0) == pytest.approx(expected)


@pytest.mark.parametrize("differences, rope, expected", BAYCOMP)
def test_bayesian_signed_rank_test_is_that_of_baycomp(differences, rope, expected):
    zeros = [0] * len(differences)
    found = signed_rank_probabilities(differences, zeros, rope)
    assert found == pytest.approx(expected, abs=0.008)
    assert signed_rank_probabilities(zeros, differences, rope) == pytest.approx(found[::-1], abs=0.008)
    assert sum(found) == pytest.approx(1)


def test_bayesian_signed_rank_test_equals_its_definition():
    differences = np.random.default_rng(3).integers(-4, 7, 9) / 2  # many sums are at the edge of the region
    values = np.append(0, differences)
    sums = values[:, None] + values
    weights = np.random.default_rng(0).dirichlet([0.5, *[1] * 9], 50_000)
    higher, lower = (
        np.einsum("ni,ij,nj->n", weights, np.heaviside(sign * sums - 2 * 1.0, 0.5), weights) for sign in (1, -1)
    )
    winners = np.argmax([higher, 1 - higher - lower, lower], axis=0)
    expected = np.bincount(winners, minlength=3) / 50_000
    assert signed_rank_probabilities(differences, [0] * 9, 1.0) == pytest.approx(expected, abs=0.01)


def test_infinite_scores_count_as_wins_and_losses():
    assert signed_rank_probabilities([math.inf] * 8, [1] * 8, 0.1) == pytest.approx((1, 0, 0), abs=0.02)
    assert signed_rank_probabilities([math.inf, 1] * 4, [1, math.inf] * 4, 0.1)[1] > 0.3
    assert tost([math.inf] + [1] * 9, [1] * 10, 0.1) < 0.05, "one failure of ten"


def test_correlated_bayesian_t_test_is_that_of_baycomp():
    found = split_probabilities(SPLITS, [0] * 10, 0.005, 1 / 9)
    # baycomp 1.0.3: CorrelatedTTest.probs(0, differences, rope=0.005, runs=1) with ten folds.
    assert found == pytest.approx((0.9795261795, 0.0199649408, 0.0005088797), abs=1e-9)


def test_equal_scores_are_equivalent():
    same = [0.5] * 8
    assert tost(same, same, 0.01) == 1 / 256
    assert tost_of_splits(same, same, 0.01, 0.25) < 1e-300
    assert signed_rank_probabilities(same, same, 0.01) == (0, 1, 0)
    assert split_probabilities(same, same, 0.01, 0.25) == (0, 1, 0)


def partitions(levels):
    """Yield all ways to divide levels into groups of equal ones."""
    if not levels:
        yield []
        return
    first, *rest = levels
    for partition in partitions(rest):
        yield [[first], *partition]
        for place, group in enumerate(partition):
            yield [*partition[:place], [first, *group], *partition[place + 1 :]]


@pytest.mark.parametrize("k", range(2, 8))
def test_shaffer_counts_what_can_be_true_at_once(k):
    counts = {sum(math.comb(len(group), 2) for group in partition) for partition in partitions(list(range(k)))}
    pairs = math.comb(k, 2)
    p_values = np.linspace(0.0001, 0.0002, pairs)
    factors = [max(count for count in counts if count <= left) for left in range(pairs, 0, -1)]
    assert shaffer(p_values[::-1], k)[::-1] == pytest.approx(np.maximum.accumulate(p_values * factors))


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_shaffer_rejects_at_least_as_much_as_holm(p_values):
    adjusted = shaffer(p_values, 4)
    assert all(p <= one <= other for p, one, other in zip(p_values, adjusted, holm(p_values), strict=True))


# Comparisons


def test_compare_tests_each_pair_for_equivalence():
    scores = draws(0)
    comparison = compare(experiments(scores), "accuracy", by="method", blocks="dataset", rope=0.02)
    expected = [tost(scores[:, one], scores[:, other], 0.02) for one, other in [(0, 1), (0, 2), (1, 2)]]
    assert comparison.pairwise["p_equivalence"].tolist() == pytest.approx(expected)
    assert comparison.pairwise["p_equivalence_holm"].tolist() == pytest.approx(holm(expected))
    chances = comparison.pairwise[["first_better", "equivalent", "second_better"]]
    assert tuple(chances.iloc[2]) == pytest.approx(signed_rank_probabilities(scores[:, 1], scores[:, 2], 0.02))
    lower = compare(experiments(scores), "accuracy", by="method", blocks="dataset", rope=0.02, better="min")
    assert lower.pairwise["first_better"].tolist() == chances["second_better"].tolist()
    nemenyi = compare(experiments(scores), "accuracy", by="method", blocks="dataset", rope=0.02, test="nemenyi")
    assert nemenyi.pairwise["p_equivalence"].tolist() == pytest.approx(expected)


def test_equivalence_is_printed_and_described():
    scores = draws(1)
    scores[:, 1] = scores[:, 0] + np.linspace(-0.004, 0.004, 10)
    scores[:, 2] = scores[:, 0] - 0.1
    comparison = compare(experiments(scores), "accuracy", by="method", blocks="dataset", rope=0.01)
    assert "equivalence p: of two one-sided Wilcoxon tests that the levels differ by at most 0.01" in repr(comparison)
    assert "P(equivalent)" in comparison._repr_html_()
    assert "Equivalent at the level 0.05 by two one-sided Wilcoxon tests, adjusted by Holm's method: " + (
        "level 0 and level 1 (p = 0.00293)."
    ) in (text := comparison.describe())
    assert "by the Bayesian signed-rank test: level 0 and level 1 are equivalent (1.000); " in text
    assert "level 0 is better than level 2 (1.000)" in text
    without = compare(experiments(scores), "accuracy", by="method", blocks="dataset")
    assert "quivalen" not in without.describe() + repr(without)


def test_splits_of_one_data_set_have_their_own_tests_of_equivalence():
    table = experiments(np.column_stack([SPLITS, [0] * 10])).assign(seed=lambda rows: rows["dataset"])
    table["dataset"] = "a"
    how = {"unit": "seed", "test_share": 0.1, "over": None, "rope": 0.005}
    comparison = compare(table, "accuracy", by="method", blocks="seed", **how)
    assert comparison.pairwise["first_better"].item() == pytest.approx(0.97952618)
    assert comparison.pairwise["p_equivalence"].item() == pytest.approx(0.97952618)
    assert corrected_t(SPLITS, [0] * 10, 1 / 9)[-1] == comparison.pairwise["p_value"].item()
    assert "two one-sided corrected t tests" in repr(comparison)


def test_shaffer_is_chosen():
    scores = draws(4, blocks=12, levels=4) + np.array([0, 0.04, 0.05, 0.1])
    options = {"by": "method", "blocks": "dataset"}
    comparison = compare(experiments(scores), "accuracy", correction="shaffer", **options)
    pairs = [wilcoxon(scores[:, one], scores[:, other])[1] for one, other in itertools.combinations(range(4), 2)]
    assert comparison.adjusted.tolist() == pytest.approx(shaffer(pairs, 4))
    assert comparison.pairwise["p_holm"].tolist() == pytest.approx(holm(pairs)), "beside Holm's"
    assert "p (Shaffer)" in repr(comparison)
    assert "tests with Shaffer's correction" in repr(comparison)
    assert "by Shaffer's method" in comparison.describe()
    alpha = next(p for p, other in zip(shaffer(pairs, 4), holm(pairs), strict=True) if p < other)
    with_holm = compare(experiments(scores), "accuracy", **options)
    assert comparison.cliques(alpha) != with_holm.cliques(alpha)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rope": 0}, "rope: 0 is not a positive number"),
        ({"rope": math.nan}, "rope: nan is not"),
        ({"rope": math.inf}, "rope: inf is not"),
        ({"correction": "bonferroni"}, "choose 'holm' or 'shaffer'"),
        ({"correction": "shaffer", "test": "nemenyi"}, "the Nemenyi test has its own"),
    ],
)
def test_refused(options, message):
    with pytest.raises(InvalidValueError, match=message):
        compare(experiments(draws(0)), "accuracy", by="method", blocks="dataset", **options)
