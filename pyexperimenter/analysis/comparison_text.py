"""A comparison in words: the tables that are printed, and a paragraph for a paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from pyexperimenter.analysis.cells import as_text, decimals_for
from pyexperimenter.analysis.pair_tests import CORRECTED, NEMENYI, WILCOXON
from pyexperimenter.analysis.rank_tests import EXACT, chi_squared_p, nemenyi_p

if TYPE_CHECKING:
    from pyexperimenter.analysis.comparison import Comparison

# With fewer levels or blocks, the asymptotic distributions of Friedman's statistic are too inaccurate to print.
_LEVELS, _BLOCKS = 4, 8
_ALPHA = 0.05
# The printed columns: headers, and the formats of rows of `Comparison.pairwise`; `number` is that of the shift.
_SHIFT = ("shift", "{difference:{number}}")
_INTERVAL = ("95 % interval", "[{low:{number}}, {high:{number}}]")
_WINS, _R = ("win/tie/loss", "{wins}/{ties}/{losses}"), ("r", "{rank_biserial:.2f}")
_P, _ADJUSTED = ("p", "{p_value:.3g}"), "{adjusted:.3g}"
_SHOWN = {
    WILCOXON: [_SHIFT, _INTERVAL, _WINS, _R, ("W", "{statistic:.4g}"), _P],
    NEMENYI: [_SHIFT, _WINS, _R, ("rank difference", "{rank_difference:.3f}")],
    CORRECTED: [("mean", _SHIFT[1]), _INTERVAL, _WINS, ("t", "{statistic:.4g}"), _P],
}
_EQUIVALENCE = [
    ("equivalence p", "{p_equivalence:.3g}"),
    ("p (Holm)", "{p_equivalence_holm:.3g}"),
    ("P(first better)", "{first_better:.3f}"),
    ("P(equivalent)", "{equivalent:.3f}"),
    ("P(second better)", "{second_better:.3f}"),
]
# The effect sizes in words.
_SHIFT_WORDS = "Hodges-Lehmann shift {difference:{number}}"
_INTERVAL_WORDS = ", 95 % interval {low:{number}} to {high:{number}}"
_R_WORDS = "matched-pairs rank-biserial correlation {rank_biserial:.2f}"
_EFFECTS = {
    WILCOXON: [_SHIFT_WORDS + _INTERVAL_WORDS, _R_WORDS],
    NEMENYI: [_SHIFT_WORDS, _R_WORDS],
    CORRECTED: ["mean difference {difference:{number}}" + _INTERVAL_WORDS],
}


def paragraph(comparison: Comparison, alpha: float) -> str:
    """Return a paragraph for a paper, at this significance level."""
    limits = [] if comparison.pairwise_test == CORRECTED else _limits(comparison)
    tested = [*_compared(comparison), *comparison.notes, *_tested(comparison)]
    return " ".join(
        f"{sentence}." for sentence in [*tested, *limits, *_found(comparison, alpha), *_equivalent(comparison, alpha)]
    )


def _compared(comparison: Comparison) -> list[str]:
    n, k = comparison.scores.shape
    aim = "higher" if comparison.better == "max" else "lower"
    levels = f"{k} levels of {comparison.by} ({', '.join(map(as_text, comparison.scores.columns))})"
    means = f"the mean over {' and '.join(comparison.over)}" if comparison.over else "that of one run"
    complete = f"{comparison.missing} runs are missing or left out" if comparison.missing else "no run is missing"
    return [
        f"We compared {levels} by {comparison.value} ({aim} is better) on {n} blocks ({', '.join(comparison.blocks)})",
        f"Each score is {means}, of {comparison.runs} runs in total; {complete}",
    ]


def _tested(comparison: Comparison) -> list[str]:
    pairs = len(comparison.pairwise)
    adjusted = f", with p-values adjusted for {pairs} pairs by {_correction(comparison)}'s method" if pairs > 1 else ""
    if comparison.pairwise_test == CORRECTED:
        return [
            "The blocks are random splits of one data set, so pairs were compared by the t test whose variance is "
            f"corrected for overlapping training data (Nadeau and Bengio, 2003){adjusted}"
        ]
    exact = "exact" if len(comparison.scores) <= EXACT else "by a normal approximation"
    wilcoxon = f"the two-sided Wilcoxon signed-rank test ({exact}; zero differences are ranked)"
    if pairs == 1:
        return [f"They were compared by {wilcoxon}: W = {comparison.statistic:.4g}, p = {comparison.p_value:.3g}"]
    each = "the Nemenyi test" if comparison.pairwise_test == NEMENYI else f"{wilcoxon}{adjusted}"
    friedman = f"chi² = {comparison.statistic:.4g}, p = {comparison.p_value:.3g}"
    how = "by permutation" if len(comparison.scores) <= EXACT else "by the chi² distribution"
    return [f"All levels were compared by the Friedman test ({how}: {friedman}), pairs by {each}"]


def _found(comparison: Comparison, alpha: float) -> list[str]:
    """Name the pairs that differ significantly, the better level first, and count the others."""
    adjusted, nemenyi = comparison.adjusted, comparison.pairwise_test == NEMENYI
    sentences = []
    for pair, p in zip(comparison.pairwise.to_dict("records"), adjusted, strict=True):
        if p > alpha:
            continue
        pair |= {"number": _number_format(pair)}
        ahead = -pair["rank_difference"] if nemenyi else pair["difference"] * (1 if comparison.better == "max" else -1)
        if ahead < 0:
            pair |= {"first": pair["second"], "second": pair["first"], "wins": pair["losses"]}
            pair |= {name: -pair[name] for name in ("difference", "rank_biserial") if name in pair}
            pair |= {"low": -pair["high"], "high": -pair["low"]} if "low" in pair else {}
        effects = "; ".join(text.format_map(pair) for text in _EFFECTS[comparison.pairwise_test])
        names = f"{as_text(pair['first'])} is significantly better than {as_text(pair['second'])}"
        wins = f"better in {pair['wins']} of {len(comparison.scores)} blocks"
        sentences.append(f"{names} ({wins}; {effects}; p = {p:.3g})")
    if len(sentences) > 1 and not nemenyi:
        sentences.append("Each interval is for its pair alone")
    others = adjusted[adjusted > alpha]
    if len(others):
        number = "No pair differs" if len(others) == len(adjusted) else "No other pair differs"
        sentences.append(f"{number} significantly at the level {alpha:g} (smallest p = {others.min():.3g})")
    return sentences


def report(comparison: Comparison) -> str:
    """Return what is printed: the tests, the average ranks, the pairs, and what the columns mean."""
    tables = [line for table in _tables(comparison, "simple") for line in (table, "")]
    return "\n".join([*_sentences(comparison), "", *tables, _legend(comparison)])


def report_html(comparison: Comparison) -> str:
    """Return the same as HTML."""
    before, after = (
        [f"<p>{escape(text)}</p>" for text in texts] for texts in (_sentences(comparison), [_legend(comparison)])
    )
    return "".join([*before, *_tables(comparison, "html"), *after])


def _sentences(comparison: Comparison) -> list[str]:
    n, k = comparison.scores.shape
    aim = "higher" if comparison.better == "max" else "lower"
    means = f", means over {', '.join(comparison.over)}" if comparison.over else ""
    what = (
        f"{comparison.value} of {k} levels of {comparison.by} over {n} blocks ({', '.join(comparison.blocks)}){means}"
    )
    return [f"{what}; {aim} is better", *_results(comparison), *comparison.notes]


def _results(comparison: Comparison) -> list[str]:
    n, k = comparison.scores.shape
    if comparison.test == CORRECTED:
        of_pairs, adjusted = (
            ("", "")
            if k == 2
            else (f"s of {len(comparison.pairwise)} pairs, the largest", f" ({_correction(comparison)})")
        )
        t = f"|t({n - 1})| = {comparison.statistic:.4g}, p{adjusted} = {comparison.p_value:.3g}"
        return [f"Corrected resampled t test{of_pairs}: {t}"]
    if comparison.test != "Friedman":
        return [
            f"Wilcoxon signed-rank test: W = {comparison.statistic:.4g}, p = {comparison.p_value:.3g}",
            *_limits(comparison),
        ]
    how = "permutation p" if n <= EXACT else "p"
    sentences = [f"Friedman test: chi² = {comparison.statistic:.4g}, {how} = {comparison.p_value:.3g}"]
    if k >= _LEVELS and n >= _BLOCKS:
        p = chi_squared_p(comparison.statistic, k)
        sentences.append(f"with the chi² distribution: chi²({k - 1}) = {comparison.statistic:.4g}, p = {p:.3g}")
        f, p = comparison.iman_davenport
        if math.isfinite(f):
            sentences.append(f"Iman-Davenport test: F({k - 1}, {(k - 1) * (n - 1)}) = {f:.4g}, p = {p:.3g}")
    return [*sentences, f"Pairs: {pairs_tested(comparison)}", *_limits(comparison)]


def pairs_tested(comparison: Comparison) -> str:
    """Name the test of the pairs, and the correction."""
    if comparison.pairwise_test == NEMENYI:
        return "Nemenyi test"
    return f"{comparison.pairwise_test} tests with {_correction(comparison)}'s correction"


def _correction(comparison: Comparison) -> str:
    return "Nemenyi" if comparison.pairwise_test == NEMENYI else comparison.correction.capitalize()


def _limits(comparison: Comparison) -> list[str]:
    """Say so if there are too few blocks for any pair to differ significantly."""
    n, k = comparison.scores.shape
    nemenyi = comparison.pairwise_test == NEMENYI
    least = nemenyi_p(k - 1, n, k) if nemenyi else min(1.0, k * (k - 1) / 2 * 2 ** (1 - n))
    least_p = f"p ({_correction(comparison)}) cannot be below {least:.3g}"
    return [f"{n} blocks are too few: {least_p}, whatever the results are"] if least > _ALPHA else []


def _tables(comparison: Comparison, form: str) -> list[str]:
    from tabulate import tabulate

    ranks = [[as_text(level), f"{rank:.3f}"] for level, rank in comparison.average_ranks.items()]
    columns = [*_SHOWN[comparison.pairwise_test], (f"p ({_correction(comparison)})", _ADJUSTED)]
    tables = [tabulate(ranks, [comparison.by, "average rank"], form, disable_numparse=True, colalign=["left", "right"])]
    for shown in [columns] if comparison.rope is None else [columns, _EQUIVALENCE]:
        pairs = []
        for pair, adjusted in zip(comparison.pairwise.to_dict("records"), comparison.adjusted, strict=True):
            pair |= {"number": _number_format(pair), "adjusted": adjusted}
            numbers = [cell.format_map(pair) for _, cell in shown]
            pairs.append([as_text(pair["first"]), as_text(pair["second"]), *numbers])
        headers, align = ["", "", *(name for name, _ in shown)], ["left"] * 2 + ["right"] * len(shown)
        tables.append(tabulate(pairs, headers, form, disable_numparse=True, colalign=align))
    return tables


def _legend(comparison: Comparison) -> str:
    wins = "win/tie/loss: blocks in which the first is better, equal or worse"
    if comparison.pairwise_test == CORRECTED:
        lines = ["mean: of first - second, with the interval of the t test of this pair alone", wins]
    else:
        alone = ", with the interval of the Wilcoxon test of this pair alone"
        lines = [
            "shift: Hodges-Lehmann estimate of first - second" + alone * (comparison.pairwise_test != NEMENYI),
            wins,
            "r: matched-pairs rank-biserial correlation, 1 if the first is always better, -1 if the second is",
        ]
    if comparison.rope is not None:
        test, bayesian = _equivalence_tests(comparison)
        lines += [
            f"equivalence p: of {test} that the levels differ by at most {comparison.rope:g}",
            f"P: posterior probabilities of {bayesian}; better: by more than {comparison.rope:g}",
        ]
    return "\n".join(lines)


def _equivalence_tests(comparison: Comparison) -> tuple[str, str]:
    if comparison.test == CORRECTED:
        return "two one-sided corrected t tests", "the correlated Bayesian t test"
    return "two one-sided Wilcoxon tests", "the Bayesian signed-rank test"


def _equivalent(comparison: Comparison, alpha: float) -> list[str]:
    """Say which pairs are equivalent, and of which of three cases the posterior probability is at least 1 - alpha."""
    if comparison.rope is None:
        return []
    test, bayesian = _equivalence_tests(comparison)
    equivalent, certain = [], []
    for pair in comparison.pairwise.to_dict("records"):
        first, second = as_text(pair["first"]), as_text(pair["second"])
        if pair["p_equivalence_holm"] <= alpha:
            equivalent.append(f"{first} and {second} (p = {pair['p_equivalence_holm']:.3g})")
        cases = {
            "first_better": f"{first} is better than {second}",
            "equivalent": f"{first} and {second} are equivalent",
            "second_better": f"{second} is better than {first}",
        }
        certain += [f"{case} ({pair[name]:.3f})" for name, case in cases.items() if pair[name] >= 1 - alpha]
    adjusted = ", adjusted by Holm's method" if len(comparison.pairwise) > 1 else ""
    return [
        f"Differences of at most {comparison.rope:g} count as practically equivalent",
        f"Equivalent at the level {alpha:g} by {test}{adjusted}: {'; '.join(equivalent) or 'no pair'}",
        f"With a posterior probability of at least {1 - alpha:g} by {bayesian}: {'; '.join(certain) or 'nothing'}",
    ]


def _number_format(pair: Mapping[Any, Any]) -> str:
    """Return the format of the shift, with two significant digits of half its interval."""
    digits = decimals_for((pair["high"] - pair["low"]) / 2) if "low" in pair else None
    return ".3g" if digits is None else f".{digits}f"
