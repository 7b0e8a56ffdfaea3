"""Paired tests against published examples, SciPy and statsmodels; what is left out or refused."""

from __future__ import annotations

import itertools
import math
import re
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.formula.api
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests

from pyexperimenter.analysis import compare, exact_tests
from pyexperimenter.analysis.effects import rank_biserial, shift
from pyexperimenter.analysis.exact_tests import friedman_p
from pyexperimenter.analysis.rank_tests import (
    chi_squared_p,
    differences_of,
    friedman,
    holm,
    iman_davenport,
    nemenyi,
    rank,
    wilcoxon,
)
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError, PyExperimenterError

# Demšar (2006), table 6: the AUC of four variants of C4.5 on 14 data sets, adult to wine. In the paper the third
# variant has a better rank than the fourth on voting, the last but one, though both print as 0.975; here they differ.
VARIANTS = ["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"]
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)
# Table 5a: q for 2 to 10 levels.
Q = {
    0.05: [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164],
    0.10: [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920],
}


# Hollander and Wolfe, Nonparametric Statistical Methods (1973), table 3.1.
BEFORE = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
AFTER = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]


def experiments(scores, levels=None, seeds=1):
    """Make a table of N blocks x k levels (x seeds, which all have the same score)."""
    levels = levels or [f"level {number}" for number in range(scores.shape[1])]
    lines = [
        (block, level, seed, scores[block, number])
        for block in range(len(scores))
        for number, level in enumerate(levels)
        for seed in range(seeds)
    ]
    table = pd.DataFrame(lines, columns=["dataset", "method", "seed", "auc"])
    table.insert(0, "ID", range(1, len(table) + 1))
    table.insert(4, "creation_date", pd.Timestamp("2026-01-01"))
    table.insert(5, "status", "done")
    return table


def demsar(columns=4, **options):
    table = experiments(DEMSAR[:, :columns], VARIANTS[:columns])
    return compare(table, "auc", by="method", blocks="dataset", **options)


def distinct(seed, blocks, levels):
    """Scores without ties, also among differences."""
    return np.random.default_rng(seed).random((blocks, levels))


# Published examples


def test_friedman_of_demsar():
    comparison = demsar()
    assert (comparison.test, comparison.scores.shape) == ("Friedman", (14, 4))
    ranks = comparison.average_ranks
    assert [round(ranks[variant], 3) for variant in VARIANTS] == [3.143, 2.000, 2.893, 1.964]
    assert list(ranks.index) == ["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"], "the best first"
    # The paper's 9.28 is without the correction for ties, which divides by 1 - sum(t³ - t) / (N k (k² - 1)): three
    # pairs are tied, and four once.
    ties = 1 - (3 * (2**3 - 2) + (4**3 - 4)) / (14 * 4 * (4**2 - 1))
    assert comparison.statistic * ties == pytest.approx(9.28, abs=0.005)
    assert chi_squared_p(comparison.statistic, 4) == pytest.approx(scipy.stats.chi2.sf(comparison.statistic, 3))
    assert 0.0116 < comparison.p_value < 0.0167, "between those of F and chi²"
    f, p = iman_davenport(comparison.statistic * ties, 14, 4)
    assert f == pytest.approx(3.69, abs=0.005)
    assert p == pytest.approx(scipy.stats.f.sf(3.69, 3, 39), rel=0.01)


def test_nemenyi_of_demsar():
    comparison = demsar(test="nemenyi")
    assert comparison.critical_difference() == pytest.approx(1.25, abs=0.005)
    assert comparison.critical_difference(alpha=0.10) == pytest.approx(1.12, abs=0.005)
    # Page 14: at 0.05 no pair differs; at 0.10 C4.5 is worse than C4.5+m and C4.5+m+cf, and no other pair differs.
    assert comparison.cliques() == [("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5")]
    assert comparison.cliques(alpha=0.10) == [("C4.5+m+cf", "C4.5+m", "C4.5+cf"), ("C4.5+cf", "C4.5")]
    text = str(comparison)
    assert "\nPairs: Nemenyi test\n" in text
    assert "p (Nemenyi)" in text
    assert not any(word in text for word in ("Wilcoxon", "Holm", "interval")), "one test only"


@pytest.mark.parametrize(("alpha", "k", "q"), [(a, k, q) for a, row in Q.items() for k, q in enumerate(row, start=2)])
def test_quantiles_of_demsar(alpha, k, q):
    assert nemenyi(6, k, alpha) / math.sqrt(k * (k + 1) / 36) == pytest.approx(q, abs=0.0011)  # partly cut, not rounded


def test_wilcoxon_of_demsar():
    # Page 7: R+ = 93 and R- = 12, with the ranks of the two data sets without a difference split.
    comparison = demsar(columns=2)
    assert (comparison.test, comparison.statistic) == ("Wilcoxon signed-rank", 12)
    assert comparison.p_value < 0.05
    assert list(comparison.average_ranks.index) == ["C4.5+m", "C4.5"]


def test_wilcoxon_of_its_textbook():
    # Hollander and Wolfe, Nonparametric Statistical Methods (1973), table 3.1, the example of R's wilcox.test: nine
    # patients' depression before and after; V = 40 of 45, p = 0.019 one-sided.
    statistic, p_value = wilcoxon(BEFORE, AFTER)
    assert statistic == 45 - 40
    assert p_value / 2 == pytest.approx(0.01953, abs=1e-5)


def test_friedman_of_its_textbook():
    # Hollander and Wolfe (1973), table 7.1, the example of R's friedman.test: three ways to round first base, 22
    # players; chi² = 11.143 with 2 degrees of freedom, p = 0.003805.
    times = """5.40 5.50 5.55 5.85 5.70 5.75 5.20 5.60 5.50 5.55 5.50 5.40 5.90 5.85 5.70 5.45 5.55 5.60 5.40 5.40 5.35
    5.45 5.50 5.35 5.25 5.15 5.00 5.85 5.80 5.70 5.25 5.20 5.10 5.65 5.55 5.45 5.60 5.35 5.45 5.05 5.00 4.95 5.50 5.50
    5.40 5.45 5.55 5.50 5.55 5.55 5.35 5.45 5.50 5.55 5.50 5.45 5.25 5.65 5.60 5.40 5.70 5.65 5.55 6.30 6.30 6.25"""
    scores = np.array(times.split(), dtype=float).reshape(22, 3)
    comparison = compare(experiments(scores), "auc", by="method", blocks="dataset", better="min")
    assert comparison.statistic == pytest.approx(11.143, abs=0.0005)
    assert chi_squared_p(comparison.statistic, 3) == pytest.approx(0.003805, abs=5e-7)


def test_holm_of_a_published_example():
    # Holm's procedure on p-values 0.01, 0.04, 0.03, 0.005, as on Wikipedia's page of it: at 0.05 the first and the last
    # are significant.
    adjusted = holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])


# Other implementations


@settings(max_examples=25)  # statsmodels collects garbage each time
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_that_of_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


@given(st.integers(0, 1000), st.integers(2, 20), st.integers(3, 6))
def test_friedman_is_that_of_scipy(seed, blocks, levels):
    scores = distinct(seed, blocks, levels)
    comparison = compare(experiments(scores), "auc", by="method", blocks="dataset")
    expected = scipy.stats.friedmanchisquare(*scores.T)
    assert comparison.statistic == pytest.approx(expected.statistic)
    assert chi_squared_p(comparison.statistic, levels) == pytest.approx(expected.pvalue)


# Levels, blocks, chi² and the exact probability of that much or more, from enumeration.
EXACT = [
    (3, 3, 6.0, 0.02778),
    (3, 4, 6.5, 0.04167),
    (3, 4, 8.0, 0.00463),
    (3, 5, 6.4, 0.03935),
    (4, 3, 7.4, 0.03299),
    (4, 4, 7.5, 0.05172),
    (5, 3, 8.533, 0.04549),
]


@pytest.mark.parametrize(("levels", "blocks", "chi_squared", "p"), EXACT)
def test_friedman_with_few_blocks(levels, blocks, chi_squared, p):
    orders = np.array(list(itertools.permutations(range(1, levels + 1))))
    generator = np.random.default_rng(0)
    while True:
        ranks = pd.DataFrame(orders[generator.integers(len(orders), size=blocks)])
        if scipy.stats.friedmanchisquare(*ranks.to_numpy().T).statistic == pytest.approx(chi_squared, abs=0.001):
            assert friedman(ranks)[1] == pytest.approx(p, abs=5e-6)
            return


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=2, max_size=4))
def test_friedman_equals_enumeration_of_all_orders(scores):
    ranks = rank(pd.DataFrame(scores), "max").to_numpy()
    spread = ((ranks.sum(axis=0) - ranks.sum(axis=0).mean()) ** 2).sum()
    sums = [sum(map(np.array, orders)) for orders in itertools.product(*map(itertools.permutations, ranks))]
    expected = np.mean([((total - total.mean()) ** 2).sum() >= spread - 1e-9 for total in sums])
    assert friedman(pd.DataFrame(ranks))[1] == pytest.approx(expected)


def test_friedman_by_drawing(monkeypatch):
    ranks = np.array([[1, 2, 3, 4]] * 4 + [[4, 3, 2, 1], [1.5, 1.5, 3, 4]])
    exact = friedman_p(ranks)
    monkeypatch.setattr(exact_tests, "_LARGEST", 0)
    drawn = friedman_p(ranks)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / 100_000))
    assert drawn == friedman_p(ranks), "the same each time"
    assert friedman_p(np.tile([1, 2, 3, 4], (20, 1))) == 1 / 100_001, "never 0"


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=3, max_size=8).filter(len))
def test_iman_davenport_is_an_analysis_of_variance_of_ranks(scores):
    ranks = rank(pd.DataFrame(scores), "max")
    statistic, _ = friedman(ranks)
    f, p = iman_davenport(statistic, *ranks.shape)
    if ranks.nunique(axis=1).eq(1).all() or not np.ptp(ranks - ranks.mean(), axis=0).any():
        return  # nothing varies, or nothing but the levels: statsmodels would divide by zero
    long = ranks.melt(value_name="rank", var_name="level", ignore_index=False).rename_axis("block").reset_index()
    model = statsmodels.formula.api.ols("rank ~ C(level) + C(block)", long).fit()
    expected = anova_lm(model).loc["C(level)"]
    assert (f, p) == pytest.approx((expected["F"], expected["PR(>F)"]), abs=1e-9)


@given(st.integers(0, 1000), st.integers(2, 12))
def test_wilcoxon_equals_enumeration_of_all_signs(seed, n):
    differences = np.random.default_rng(seed).normal(0.3, 1, n)
    statistic, p_value = wilcoxon(differences, np.zeros(n))
    ranks = scipy.stats.rankdata(abs(differences))
    sums = [ranks @ signs for signs in itertools.product([0, 1], repeat=n)]
    positive = ranks[differences > 0].sum()
    assert statistic == min(positive, ranks.sum() - positive)
    tail = np.mean([total <= statistic for total in sums])
    assert p_value == pytest.approx(min(1, 2 * tail))


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=11))
def test_wilcoxon_with_ties_equals_enumeration_of_all_signs(differences):
    statistic, p_value = wilcoxon(differences, [0] * len(differences))
    ranks = scipy.stats.rankdata(np.abs(differences))
    zeros = ranks[np.equal(differences, 0)].sum() / 2
    signed = ranks[np.not_equal(differences, 0)]
    sums = [signed @ signs + zeros for signs in itertools.product([0, 1], repeat=len(signed))]
    assert p_value == pytest.approx(min(1, 2 * np.mean([total <= statistic for total in sums])))


@pytest.mark.parametrize("n", [20, 50, 200, 400])
def test_wilcoxon_of_many_blocks_is_exact(n):
    differences = np.random.default_rng(n).normal(0.1, 1, n)
    expected = scipy.stats.wilcoxon(differences, method="exact")
    assert wilcoxon(differences, np.zeros(n)) == pytest.approx((expected.statistic, expected.pvalue))


def test_wilcoxon_of_very_many_blocks_is_approximate():
    differences = np.random.default_rng(0).integers(-50, 52, 1500)
    expected = scipy.stats.wilcoxon(differences, zero_method="zsplit", method="asymptotic")
    assert wilcoxon(differences, np.zeros(1500)) == pytest.approx((expected.statistic, expected.pvalue))


@pytest.mark.parametrize("n", [30, 54, 75, 114, 150, 171, 540])
@pytest.mark.parametrize("seeds", [1, 3])
def test_shares_are_tied_where_their_counts_are(n, seeds):
    generator = np.random.default_rng(n)
    for _ in range(20):
        first = generator.integers(int(n * 0.7), n + 1, (9, seeds))
        second = np.clip(first + generator.integers(-4, 5, (9, seeds)), 0, n)
        counts = wilcoxon(first.sum(axis=1), second.sum(axis=1))
        assert wilcoxon((first / n).mean(axis=1), (second / n).mean(axis=1)) == pytest.approx(counts)
        both = np.stack([first, second], axis=1)
        ranks = [rank(pd.DataFrame(scores), "max") for scores in (both.sum(axis=2), (both / n).mean(axis=2))]
        np.testing.assert_array_equal(*ranks)


def test_pairs_are_tested_by_wilcoxon():
    scores = distinct(1, 12, 4)
    pairs = compare(experiments(scores, VARIANTS), "auc", by="method", blocks="dataset").pairwise
    effects = ["difference", "low", "high", "wins", "ties", "losses", "rank_biserial"]
    assert list(pairs) == ["first", "second", *effects, "statistic", "p_value", "p_holm"]
    assert list(zip(pairs["first"], pairs["second"], strict=True)) == list(itertools.combinations(sorted(VARIANTS), 2))
    for line in pairs.itertuples():
        first, second = (scores[:, VARIANTS.index(name)] for name in (line.first, line.second))
        expected = scipy.stats.wilcoxon(first, second)
        assert (line.statistic, line.p_value) == pytest.approx((expected.statistic, expected.pvalue))
        assert (line.wins, line.ties, line.losses) == ((first > second).sum(), 0, (first < second).sum())
    assert list(pairs["p_holm"]) == pytest.approx(list(multipletests(pairs["p_value"], method="holm")[1]))


def test_shift_of_its_textbook():
    # Hollander and Wolfe (1973), examples 3.3 and 3.4: -0.46, and (-0.786, -0.010) with 96.1 %, for after - before.
    assert shift(BEFORE, AFTER) == pytest.approx((0.46, 0.01, 0.786), abs=0.0005)
    assert shift(AFTER, BEFORE) == pytest.approx((-0.46, -0.786, -0.01), abs=0.0005)


def walsh_averages(differences):
    return sorted((a + b) / 2 for a, b in itertools.combinations_with_replacement(differences, 2))


@given(st.integers(0, 1000), st.integers(1, 25), st.booleans())
def test_shift_is_the_median_of_all_walsh_averages(seed, n, tied):
    generator = np.random.default_rng(seed)
    differences = generator.integers(-4, 6, n) if tied else generator.normal(0.3, 1, n)
    center, low, high = shift(differences, np.zeros(n))
    averages = walsh_averages(differences)
    assert center == pytest.approx(np.median(averages))
    assert low <= center <= high
    if n < 6:
        assert (low, high) == (-math.inf, math.inf)
    else:
        assert all(np.isclose(averages, end).any() for end in (low, high))


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(6, 20))
def test_the_interval_has_the_shifts_that_the_test_does_not_reject(seed, n):
    differences = np.random.default_rng(seed).normal(0.3, 1, n)
    _, low, high = shift(differences, np.zeros(n))
    for end, outward in ((low, -1), (high, 1)):
        assert wilcoxon(differences, np.full(n, end - 1e-6 * outward))[1] > 0.05
        assert wilcoxon(differences, np.full(n, end + 1e-6 * outward))[1] <= 0.05


@given(st.lists(st.integers(-4, 6), min_size=6, max_size=20))
def test_with_ties_the_interval_excludes_no_shift_that_the_test_does_not_reject(differences):
    _, low, high = shift(differences, np.zeros(len(differences)))
    for average in {*walsh_averages(differences)}:
        if wilcoxon(differences, np.full(len(differences), average))[1] > 0.05:
            assert low - 1e-9 <= average <= high + 1e-9


def test_many_blocks_take_seconds():
    scores = distinct(0, 1500, 6)
    comparison = compare(experiments(scores), "auc", by="method", blocks="dataset")
    expected = scipy.stats.friedmanchisquare(*scores.T)
    assert (comparison.statistic, comparison.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    assert f"Friedman test: chi² = {expected.statistic:.4g}, p = {expected.pvalue:.3g}" in str(comparison)
    assert "(by the chi² distribution: chi²" in comparison.describe()
    assert "(by a normal approximation; zero" in comparison.describe()
    scores[:, 0] += 9
    assert compare(experiments(scores), "auc", by="method", blocks="dataset").p_value > 0, "never 0"
    assert friedman_p(np.tile(np.arange(1.0, 6), (300, 1))) == 1 / 66_667, "fewer permutations of many ranks"


def test_the_interval_of_many_blocks_is_that_of_the_normal_approximation():
    differences = np.random.default_rng(0).normal(0.1, 1, 1001)
    averages = walsh_averages(differences)
    out = round(1001 * 1002 / 4 - 1.959964 * math.sqrt(1001 * 1002 * 2003 / 24) - 0.5)
    expected = (np.median(averages), averages[out - 1], averages[-out])
    assert shift(differences, np.zeros(1001)) == pytest.approx(expected)


@given(st.lists(st.sampled_from([-math.inf, -2, -1, 0, 1, 2, math.inf]), min_size=6, max_size=12))
def test_shift_of_infinite_differences(differences):
    expected = [0.0 if math.isnan(average) else average for average in walsh_averages(differences)]
    expected.sort()
    _, low, high = shift(differences, np.zeros(len(differences)))
    out = {6: 1, 7: 3, 8: 4, 9: 6, 10: 9, 11: 11, 12: 14}[len(differences)]  # R: qsignrank(0.025, 6:12)
    assert (low, high) == (expected[out - 1], expected[-out])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_rank_biserial_is_the_difference_between_the_shares_of_the_ranks(pairs):
    first, second = np.array(pairs).T
    differences = first - second
    ranks = scipy.stats.rankdata(abs(differences))
    favorable, unfavorable = ranks[differences > 0].sum(), ranks[differences < 0].sum()
    assert rank_biserial(first, second) == pytest.approx((favorable - unfavorable) / ranks.sum())
    assert rank_biserial(first, second) == -rank_biserial(second, first)


def test_effects_of_values_that_are_better_if_low():
    scores = np.array([[1.0, 2.0], [1.0, 3.0], [2.0, 2.0], [5.0, 1.0], [1.0, 4.0], [1.0, 9.0]])
    (line,) = compare(experiments(scores), "auc", by="method", blocks="dataset", better="min").pairwise.itertuples()
    assert (line.wins, line.ties, line.losses) == (4, 1, 1)
    assert line.difference == pytest.approx(-1.5), "the unit is that of the value"
    assert line.rank_biserial == pytest.approx((3 + 2 + 4 + 6 - 5) / 21), "the first is better"
    (line,) = compare(experiments(scores), "auc", by="method", blocks="dataset").pairwise.itertuples()
    assert (line.wins, line.losses, line.rank_biserial < 0) == (1, 4, True)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(3, 7), st.sampled_from(["wilcoxon", "nemenyi"]))
def test_cliques_say_what_the_printed_p_values_say(seed, levels, test):
    generator = np.random.default_rng(seed)
    scores = generator.normal(np.arange(levels) * 0.3, generator.uniform(0.05, 1, levels), (10, levels))
    comparison = compare(experiments(scores), "auc", by="method", blocks="dataset", test=test)
    adjusted = comparison.pairwise.set_index(["first", "second"]).iloc[:, -1]
    similar = {frozenset(pair) for pair, p in adjusted.items() if p > 0.05}
    groups = [
        set(group)
        for size in range(2, levels + 1)
        for group in itertools.combinations(comparison.average_ranks.index, size)
        if all(frozenset(pair) in similar for pair in itertools.combinations(group, 2))
    ]
    maximal = [group for group in groups if not any(group < other for other in groups)]
    found = comparison.cliques()
    assert sorted(map(sorted, found)) == sorted(map(sorted, maximal))
    for clique in found:
        assert list(comparison.average_ranks[list(clique)]) == sorted(comparison.average_ranks[list(clique)])


# Invariants

SCORES = st.integers(3, 8).flatmap(
    lambda blocks: st.integers(2, 3).flatmap(
        lambda levels: st.lists(
            st.lists(st.integers(0, 4), min_size=levels, max_size=levels), min_size=blocks, max_size=blocks
        )
    )
)


def numbers_of(comparison):
    pairs = comparison.pairwise.set_index(["first", "second"])
    return [comparison.statistic, comparison.p_value, *comparison.average_ranks.sort_index(), *pairs.to_numpy().ravel()]


@settings(max_examples=15)
@given(SCORES, st.integers(-50, 50), st.randoms())
def test_results_are_invariant_to_what_cannot_matter(scores, shift, random):
    scores = np.array(scores) / 10
    table = experiments(scores)
    comparison = compare(table, "auc", by="method", blocks="dataset")
    expected = pytest.approx(numbers_of(comparison))
    k = scores.shape[1]
    assert comparison.average_ranks.sum() == pytest.approx(k * (k + 1) / 2)
    assert 0 <= comparison.p_value <= 1
    assert (comparison.pairwise["p_holm"] >= comparison.pairwise["p_value"]).all()

    shuffled = table.iloc[random.sample(range(len(table)), len(table))]
    assert numbers_of(compare(shuffled, "auc", by="method", blocks="dataset")) == expected
    shifted = compare(experiments(scores + shift / 10), "auc", by="method", blocks="dataset")
    assert numbers_of(shifted) == expected
    reversed_ = compare(experiments(-scores), "auc", by="method", blocks="dataset", better="min")
    assert list(reversed_.average_ranks) == list(comparison.average_ranks)
    assert reversed_.p_value == pytest.approx(comparison.p_value)
    averaged = compare(experiments(scores, seeds=3), "auc", by="method", blocks="dataset", over="seed")
    assert numbers_of(averaged) == expected, "rounding errors of means do not break ties"


def test_rounding_errors_do_not_break_ties():
    assert rank(pd.DataFrame([[0.1 + 0.2, 0.3, 0.2]]), "max").to_numpy().tolist() == [[1.5, 1.5, 3]]
    assert differences_of([0.1 + 0.2, math.inf, math.inf], [0.3, 5.0, math.inf]).tolist() == [0, math.inf, 0]
    assert wilcoxon([1.3, 0.3, 5], [1.2, 0.2, 4]) == (0, 0.25)
    assert wilcoxon([math.inf, 2, math.inf], [1, math.inf, math.inf])[0] == 3


def test_levels_that_do_not_differ():
    for levels in (2, 3):
        comparison = compare(experiments(np.full((6, levels), 0.5)), "auc", by="method", blocks="dataset")
        assert comparison.p_value == 1
        assert list(comparison.pairwise["p_value"]) == [1] * len(comparison.pairwise)
        assert len(set(comparison.average_ranks)) == 1
    assert comparison.iman_davenport == (0, 1)


def test_levels_that_always_differ():
    comparison = compare(experiments(np.tile([0.1, 0.2, 0.3], (8, 1))), "auc", by="method", blocks="dataset")
    assert comparison.statistic == pytest.approx(16)
    assert comparison.iman_davenport == (math.inf, 0)
    assert comparison.cliques() == []

    def groups(blocks):
        table = experiments(np.tile([0.1, 0.2, 0.3], (blocks, 1)))
        return compare(table, "auc", by="method", blocks="dataset", test="nemenyi").cliques()

    assert groups(8) == [("level 2", "level 1"), ("level 1", "level 0")], "CD is 1.17"
    assert groups(11) == [], "CD is 0.9995"


def test_infinite_scores_are_the_worst_runtimes():
    scores = np.array([[1, np.inf, 2], [1, np.inf, np.inf], [3, 1, 2], [1, 2, 3]])
    comparison = compare(experiments(scores), "auc", by="method", blocks="dataset", better="min")
    assert list(comparison.average_ranks.sort_index()) == [1.5, 2.125, 2.375]
    assert comparison.statistic == pytest.approx(scipy.stats.friedmanchisquare(*scores.T).statistic)


# Levels and blocks


def test_null_is_a_level_and_numbers_are_levels():
    table = experiments(distinct(0, 6, 3), [0.1, 10.0, None])
    comparison = compare(table, "auc", by="method", blocks="dataset")
    assert list(comparison.scores.columns[:2]) == [0.1, 10.0]
    assert pd.isna(comparison.scores.columns[2])
    assert [len(clique) for clique in comparison.cliques()] == [3]
    assert "\n–  " in str(comparison)


def test_several_keyfields_make_blocks():
    table = experiments(distinct(0, 3, 2), seeds=2)
    comparison = compare(table, "auc", by="method", blocks=["dataset", "seed"], unit="seed")
    assert comparison.blocks == ("dataset", "seed")
    assert list(comparison.scores.index) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


def test_blocks_without_all_levels_are_left_out_and_named():
    scores = distinct(0, 10, 3)
    table = experiments(scores)
    table.loc[(table["dataset"] == 2) & (table["method"] == "level 1"), "status"] = "error"
    table.loc[(table["dataset"] == 5) & (table["method"] == "level 0"), "auc"] = np.nan
    table = table[(table["dataset"] != 7) | (table["method"] != "level 2")]
    message = r"^3 of 10 blocks left out because a level of method has no result: dataset=2; dataset=5; dataset=7\n"
    with pytest.warns(UserWarning, match=message) as caught:
        comparison = compare(table, "auc", by="method", blocks="dataset", failures="drop")
    assert (len(caught), caught[0].filename) == (1, __file__)
    kept = scores[[0, 1, 3, 4, 6, 8, 9]]
    assert comparison.statistic == pytest.approx(scipy.stats.friedmanchisquare(*kept.T).statistic)
    np.testing.assert_array_equal(comparison.scores, kept)
    assert all(str(line) in str(comparison) for line in str(caught[0].message).split("\n")), "printed, too"


def test_means_of_fewer_runs_are_reported():
    table = experiments(distinct(0, 6, 2), seeds=3)
    table.loc[0, "status"] = "running"
    with pytest.warns(UserWarning) as caught:
        comparison = compare(table, "auc", by="method", blocks="dataset", over="seed")
    assert comparison.notes == (
        "1 run still open: method=level 0, dataset=0 (1 of 3)",
        "1 run left out because other cells lack a result for the same seed: method=level 1, dataset=0 (1 of 3)",
    )
    assert str(caught[0].message) == "\n".join(comparison.notes)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"over": None},
            InvalidColumnError,
            r"'seed' has several values \(0, 1\) at method=level 0, dataset=0; "
            r"name it in blocks \(or in over, to average over it first\)",
        ),
        ({"blocks": []}, InvalidColumnError, "blocks: no keyfield is named"),
        ({"blocks": "method"}, InvalidColumnError, "'method' is named twice"),
        ({"by": "metod"}, InvalidColumnError, "no column 'metod'"),
        ({"value": "status", "over": "seed"}, InvalidValueError, "'status' is not numeric"),
        ({"test": "t", "over": "seed"}, InvalidValueError, "test: 't' is unknown; choose 'wilcoxon' or 'nemenyi'"),
        ({"better": "higher"}, InvalidValueError, "better: 'higher' is unknown; choose 'max' or 'min'"),
    ],
)
def test_what_is_refused_is_named(change, error, message):
    arguments = {"value": "auc", "by": "method", "blocks": "dataset"} | change
    with pytest.raises(error, match=message):
        compare(experiments(distinct(0, 3, 3), seeds=2), **arguments)


def test_a_level_without_results_is_named():
    table = experiments(distinct(0, 4, 2))
    table.loc[table["method"] == "level 1", "status"] = "created"
    message = r"complete blocks: 0 of 4; method=level 0 in 4, method=level 1 in 0"
    with pytest.raises(InvalidValueError, match=message):
        compare(table, "auc", by="method", blocks="dataset")


def test_one_level_is_not_enough():
    with pytest.raises(InvalidValueError, match="needs at least two levels of method"):
        compare(experiments(distinct(0, 4, 1)), "auc", by="method", blocks="dataset")


@pytest.mark.parametrize("alpha", [0, 1, 5])
def test_alpha_is_a_probability(alpha):
    comparison = demsar(test="nemenyi")
    for use in (comparison.critical_difference, comparison.cliques):
        with pytest.raises(InvalidValueError, match=f"alpha: {alpha} is not between 0 and 1"):
            use(alpha)


def test_only_nemenyi_has_a_critical_difference():
    with pytest.raises(InvalidValueError, match=r"Wilcoxon .* no critical difference; compare with test='nemenyi'"):
        demsar().critical_difference()
    with pytest.raises(InvalidValueError, match="the Nemenyi test needs at least three levels of method"):
        demsar(columns=2, test="nemenyi")


def test_two_levels_have_no_f():
    with pytest.raises(InvalidValueError, match="at least three levels"):
        _ = demsar(columns=2).iman_davenport


def test_missing_scipy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(PyExperimenterError, match=r"pip install 'pyexperimenter\[stats\]'"):
        demsar()


# Reading


def test_a_comparison_can_be_printed():
    lines = str(demsar()).split("\n")
    assert lines[0] == "auc of 4 levels of method over 14 blocks (dataset); higher is better"
    assert lines[1].startswith("Friedman test: chi² = 10.23, permutation p = 0.01")
    assert lines[2] == "with the chi² distribution: chi²(3) = 10.23, p = 0.0167"
    assert lines[3] == "Iman-Davenport test: F(3, 39) = 4.185, p = 0.0116"
    assert lines[4] == "Pairs: Wilcoxon signed-rank tests with Holm's correction"
    assert [line.split() for line in lines[6:12]][2:] == [
        ["C4.5+m+cf", "1.964"],
        ["C4.5+m", "2.000"],
        ["C4.5+cf", "2.893"],
        ["C4.5", "3.143"],
    ]
    pairs = [line for line in lines[13:] if line.startswith("C4.5")]
    assert len(pairs) == 6
    assert re.split("  +", pairs[1])[2:] == [
        "-0.013",
        "[-0.027, -0.003]",
        "2/2/10",
        "-0.77",
        "12",
        "0.00781",
        "0.0469",
    ]
    assert repr(demsar()) == str(demsar())
    few = compare(experiments(DEMSAR[:7, :], VARIANTS), "auc", by="method", blocks="dataset")
    assert "distribution" not in str(few), "not good enough for 7 blocks"
    always = compare(experiments(np.tile([1, 2, 3, 4], (8, 1))), "auc", by="method", blocks="dataset")
    assert " p = 0\n" not in str(always)


def test_a_test_that_cannot_reject_says_so():
    def text(blocks, levels, test="wilcoxon"):
        return str(compare(experiments(distinct(0, blocks, levels)), "auc", by="method", blocks="dataset", test=test))

    assert "5 blocks are too few: p (Holm) cannot be below 0.0625, whatever the results are" in text(5, 2)
    assert "7 blocks are too few: p (Holm) cannot be below 0.0938" in text(7, 4)
    assert "cannot be below 1," in text(2, 4)
    assert "too few" not in text(6, 2)
    assert "too few" not in text(8, 4)
    assert "2 blocks are too few: p (Nemenyi) cannot be below 0.112" in text(2, 3, "nemenyi")
    assert "too few" not in text(3, 3, "nemenyi")


def test_a_paragraph_for_a_paper_says_what_was_done():
    assert demsar().describe() == (
        "We compared 4 levels of method (C4.5, C4.5+cf, C4.5+m, C4.5+m+cf) by auc (higher is better) on 14 blocks "
        "(dataset). Each score is that of one run, of 56 runs in total; no run is missing. All levels were compared by "
        "the Friedman test (by permutation: chi² = 10.23, p = 0.0136), pairs by the two-sided Wilcoxon signed-rank "
        "test (exact; zero differences are ranked), with p-values adjusted for 6 pairs by Holm's method. C4.5+m is "
        "significantly better than C4.5 (better in 10 of 14 blocks; Hodges-Lehmann shift 0.013, 95 % interval 0.003 to "
        "0.027; matched-pairs rank-biserial correlation 0.77; p = 0.0469). No other pair differs significantly at the "
        "level 0.05 (smallest p = 0.0562)."
    )
    text = demsar(test="nemenyi").describe(alpha=0.1)
    assert "pairs by the Nemenyi test." in text
    assert not any(word in text for word in ("Wilcoxon", "Holm'", "interval"))
    assert [text.count(f"{better} is significantly better than C4.5 (") for better in ("C4.5+m", "C4.5+m+cf")] == [1, 1]
    assert "No pair differs significantly at the level 0.01 (smallest p = 0.0469)." in demsar().describe(0.01)
    with pytest.raises(InvalidValueError, match="alpha: 5 is not between 0 and 1"):
        demsar().describe(5)


def test_the_paragraph_says_what_is_missing_and_corrected():
    scores = np.stack([np.arange(6) / 10, np.arange(6) / 10 + [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]], axis=1)
    table = experiments(scores, ["slow", "quick"], seeds=2)
    table.loc[0, "status"] = "created"
    with pytest.warns(UserWarning, match="1 run still open"):
        text = compare(table, "auc", by="method", blocks="dataset", better="min").describe()
    assert "Each score is the mean over seed, of 22 runs in total; 2 runs are missing or left out. 1 run still" in text
    assert "They were compared by the two-sided Wilcoxon signed-rank test (exact; zero differences are ranked)" in text
    assert "slow is significantly better than quick (better in 6 of 6 blocks; Hodges-Lehmann shift -0.35, 95 % " in text
    assert "(p = 0.0312)" not in text
    assert text.count("p = 0.0312") == 2
    splits = table[table["dataset"] == 0].assign(status="done")
    splits = pd.concat([splits.assign(seed=splits["seed"] + 2 * n, auc=splits["auc"] + n / 100) for n in range(4)])
    splits["ID"] = range(len(splits))
    splits["auc"] += splits["seed"] * (splits["method"] == "slow") / 1000
    text = compare(splits, "auc", by="method", blocks="seed", unit="seed", test_share=0.2).describe()
    assert "the t test whose variance is corrected for overlapping training data (Nadeau and Bengio, 2003)." in text
    assert "quick is significantly better than slow (better in 8 of 8 blocks; mean difference 0." in text


def test_a_notebook_shows_it_as_html():
    table = experiments(distinct(0, 6, 2), ["<b>", "a & b"])
    text = compare(table, "auc", by="method", blocks="dataset")._repr_html_()
    assert "&lt;b&gt;" in text
    assert "a &amp; b" in text
    assert "<b>" not in text
    assert text.count("<table>") == 2


def test_a_comparison_is_not_changed():
    with pytest.raises(AttributeError):
        demsar().p_value = 0.0
