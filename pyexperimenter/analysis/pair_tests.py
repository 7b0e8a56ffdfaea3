"""Tests of the pairs of levels over the same blocks, and the effect sizes of each pair."""

from __future__ import annotations

from itertools import combinations

import pandas as pd

from pyexperimenter.analysis.effects import rank_biserial, shift
from pyexperimenter.analysis.equivalence import (
    signed_rank_probabilities,
    split_probabilities,
    tost,
    tost_of_splits,
)
from pyexperimenter.analysis.exact_tests import Array
from pyexperimenter.analysis.rank_tests import corrected_t, differences_of, holm, nemenyi_p, shaffer, wilcoxon

WILCOXON, NEMENYI, CORRECTED = "Wilcoxon signed-rank", "Nemenyi", "corrected resampled t"
TESTS = {"wilcoxon": WILCOXON, "nemenyi": NEMENYI}
CORRECTIONS = ("holm", "shaffer")


def pairwise(
    matrix: pd.DataFrame,
    ranks: pd.DataFrame,
    better: str,
    test: str,
    split_ratio: float,
    rope: float | None,
    correction: str,
) -> pd.DataFrame:
    """Return the attribute of a `Comparison` with this name: the effect sizes and the tests of each pair of columns."""
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
            | ({} if rope is None else _equivalence(first, second, sign, rope, split_ratio))
        )
    found = pd.DataFrame(lines)
    found["p_holm"] = holm(found["p_value"])
    if correction == "shaffer":
        found["p_shaffer"] = shaffer(found["p_value"], matrix.shape[1])
    if rope is not None:
        found["p_equivalence_holm"] = holm(found["p_equivalence"])
    if split_ratio:
        return found.drop(columns="rank_biserial")
    if test == "wilcoxon":
        return found
    average = ranks.mean().to_numpy()
    apart = [float(average[one] - average[other]) for one, other in pairs]
    return found.drop(columns=["low", "high", "statistic", "p_value", "p_holm"]).assign(
        rank_difference=apart, p_nemenyi=[nemenyi_p(difference, *matrix.shape) for difference in apart]
    )


def _equivalence(first: Array, second: Array, sign: int, rope: float, split_ratio: float) -> dict[str, float]:
    if split_ratio:
        p_value = tost_of_splits(first, second, rope, split_ratio)
        chances = split_probabilities(first, second, rope, split_ratio)
    else:
        p_value, chances = tost(first, second, rope), signed_rank_probabilities(first, second, rope)
    better, equivalent, worse = chances[::sign]
    return {"p_equivalence": p_value, "first_better": better, "equivalent": equivalent, "second_better": worse}
