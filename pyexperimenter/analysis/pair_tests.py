"""Tests of the pairs of levels over the same blocks, and the effect sizes of each pair."""

from __future__ import annotations

from itertools import combinations

import pandas as pd

from pyexperimenter.analysis.effects import rank_biserial, shift
from pyexperimenter.analysis.rank_tests import corrected_t, differences_of, holm, nemenyi_p, wilcoxon

WILCOXON, NEMENYI, CORRECTED = "Wilcoxon signed-rank", "Nemenyi", "corrected resampled t"
TESTS = {"wilcoxon": WILCOXON, "nemenyi": NEMENYI}
ADJUSTED = {WILCOXON: "p_holm", NEMENYI: "p_nemenyi", CORRECTED: "p_holm"}
"""Test of the pairs -> the column with its p-values, adjusted for the number of pairs."""


def pairwise(matrix: pd.DataFrame, ranks: pd.DataFrame, better: str, test: str, split_ratio: float) -> pd.DataFrame:
    """Return the attribute of a `Comparison` with this name: the effect sizes and the test of each pair of columns."""
    pairs = list(combinations(range(matrix.shape[1]), 2))
    sign = 1 if better == "max" else -1
    lines = []
    for one, other in pairs:
        first, second = matrix.iloc[:, one].to_numpy(), matrix.iloc[:, other].to_numpy()
        gains = sign * differences_of(first, second)
        if split_ratio:
            center, low, high, statistic, p_value = corrected_t(first, second, split_ratio)
        else:
            center, low, high = shift(first, second)
            statistic, p_value = wilcoxon(first, second)
        lines.append(
            {
                "first": matrix.columns[one],
                "second": matrix.columns[other],
                "difference": center,
                "low": low,
                "high": high,
                "wins": int((gains > 0).sum()),
                "ties": int((gains == 0).sum()),
                "losses": int((gains < 0).sum()),
                "rank_biserial": sign * rank_biserial(first, second),
                "statistic": statistic,
                "p_value": p_value,
            }
        )
    found = pd.DataFrame(lines)
    if split_ratio:
        return found.drop(columns="rank_biserial").assign(p_holm=holm(found["p_value"]))
    if test == "wilcoxon":
        return found.assign(p_holm=holm(found["p_value"]))
    average = ranks.mean().to_numpy()
    apart = [float(average[one] - average[other]) for one, other in pairs]
    return found.drop(columns=["low", "high", "statistic", "p_value"]).assign(
        rank_difference=apart, p_nemenyi=[nemenyi_p(difference, *matrix.shape) for difference in apart]
    )
