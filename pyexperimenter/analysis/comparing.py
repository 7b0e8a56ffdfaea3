"""Comparison of the levels of a keyfield over many problems, by rank-based tests as recommended by Demšar (2006)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pyexperimenter.analysis.cells import (
    SEED,
    Names,
    as_text,
    averaged_over,
    cell_name,
    checked,
    levels,
    listed,
    some_of,
    warn,
)
from pyexperimenter.analysis.comparison import Comparison
from pyexperimenter.analysis.pair_tests import CORRECTED, CORRECTIONS, TESTS, WILCOXON, pairwise
from pyexperimenter.analysis.rank_tests import friedman, holm, rank
from pyexperimenter.analysis.units import Failures, Rules, rules_of, units_of
from pyexperimenter.analysis.versions import mixed_versions
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError


def compare(
    table: pd.DataFrame,
    value: str,
    by: str,
    blocks: str | Sequence[str],
    better: str = "max",
    over: Names = "seed",
    test: str = "wilcoxon",
    attempts: pd.DataFrame | None = None,
    *,
    unit: Names = None,
    failures: Failures = "error",
    pairing: str | None = None,
    test_share: float | None = None,
    rope: float | None = None,
    correction: str = "holm",
) -> Comparison:
    """Test whether the levels of a keyfield differ, with paired tests over blocks.

    Two levels are compared with the Wilcoxon signed-rank test. More levels are compared with the Friedman test, and
    their pairs with the Wilcoxon test and Holm's correction, or with the Nemenyi test. The critical difference diagram
    draws the result of the same test of pairs.

    Parameters
    ----------
    table : pandas.DataFrame
        Experiments, as returned by `get_table`; you may drop rows.
    value : str
        Resultfield to compare.
    by : str
        Keyfield whose levels are compared, such as the method. NULL is a level, too.
    blocks : str or sequence of str
        Keyfields whose combinations are the blocks, such as the data set. Blocks must be independent, so they must not
        be finer than the unit. Runs with several seeds on the same data set are not independent; average over them.
    better : {"max", "min"}
        Whether the largest or the smallest value gets rank 1.
    over : str or sequence of str, optional
        Keyfields to average over before testing. ``"seed"`` is ignored if there is no such keyfield, or if it has
        another role.
    test : {"wilcoxon", "nemenyi"}
        How the pairs of three or more levels are tested.
    attempts : pandas.DataFrame, optional
        Executions, as returned by `get_attempts`, for a warning about different versions as in `summarize`.
    unit : str or sequence of str, optional
        Keyfield of what is independent, as for `summarize`. ``"seed"`` allows blocks of single runs; then the
        conclusion holds for these data sets only.
    failures : {"error", "worst", "drop"} or float
        What experiments in error, and those that are done without a number, count as: as an error of this call; as the
        worst result of all, so that a level has the worst rank in each block in which it failed; as not there; or as
        this number. Dropping favors what fails where it is bad.
    pairing : {"common", "all"}, optional
        ``"common"`` averages, in each block, only over combinations of `over` that have a result for all levels.
        ``"all"`` averages over all that each level has.
    test_share : float, optional
        If seeds are random splits of a data set: the share of the test part, as for `summarize`. Then a test whose
        blocks are splits of one data set is a t test with the corrected variance.
    rope : float, optional
        Region of practical equivalence: differences of at most this size do not matter, in the units of `value`. Then
        each pair is also tested for equivalence, by two one-sided tests and by a Bayesian test.
    correction : {"holm", "shaffer"}
        How the p-values of three or more levels are adjusted. Shaffer's method rejects at least as much as Holm's. It
        is for hypotheses that two levels have the same distribution.

    Returns
    -------
    Comparison
        Print it, or let a notebook display it.

    Raises
    ------
    InvalidColumnError
        If a column does not exist or has two roles, or if a keyfield that is not named varies within a block and
        level; the message names it.
    InvalidValueError
        If experiments failed and `failures` does not say what they count as; if blocks are finer than the unit; if the
        value is not numeric or an option is unknown; or if there are fewer than two levels (three for the Nemenyi test)
        or fewer than two complete blocks.
    PyExperimenterError
        If SciPy is missing.

    Warns
    -----
    UserWarning
        If blocks or runs are left out because a level lacks their result, if the numbers of runs behind the means
        differ, or if the results come from different versions of the code or environments. The comparison prints what
        is left out, too.

    Notes
    -----
    The Wilcoxon test ranks zero differences and splits their ranks between both signs (Demšar, 2006, page 7), so that
    equal results are evidence for equality. Its p-value is exact for up to 400 blocks, even with ties. With fewer
    than six blocks, it cannot be below 0.05. The p-value of the Friedman test is based on all permutations within the
    blocks, or on up to 100,000 of them, always the same, if there are too many; for more than 400 blocks, it is that of
    the chi-squared distribution. The p-values of the chi-squared and F distributions are printed as well for four or
    more levels and eight or more blocks; with fewer, they are inaccurate.
    Scores are ties if their relative difference is below 1e-9. The module `rank_tests` has the references for all
    methods.

    Random splits of one data set share training data, so their results are correlated, and rank tests reject too often.
    Their pairs are compared with the corrected resampled t test (Nadeau and Bengio, 2003) and Holm's correction.

    The result of the Nemenyi test for two levels depends on the other levels, so pairs are compared with the Wilcoxon
    test by default (A. Benavoli, G. Corani and F. Mangili. Should we really use post-hoc tests based on mean-ranks?
    *Journal of Machine Learning Research* 17(5):1-10, 2016).

    A difference that is not significant is no evidence of equivalence. With `rope`, the pairs are tested for it by
    Wilcoxon tests against a shift by `rope` in either direction (TOST), and by the Bayesian signed-rank test; on splits
    of one data set by t tests, and by the correlated Bayesian t test. See the module `equivalence`.

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "ID": range(1, 13),
    ...     "kernel": ["linear", "rbf"] * 6,
    ...     "dataset": [name for name in "abcdef" for _ in range(2)],
    ...     "creation_date": pd.Timestamp("2026-01-01"),
    ...     "status": "done",
    ...     "accuracy": [0.90, 0.91, 0.80, 0.82, 0.70, 0.73, 0.60, 0.64, 0.50, 0.55, 0.40, 0.46],
    ... })
    >>> compare(table, "accuracy", by="kernel", blocks="dataset")
    accuracy of 2 levels of kernel over 6 blocks (dataset); higher is better
    Wilcoxon signed-rank test: W = 0, p = 0.0312
    <BLANKLINE>
    kernel      average rank
    --------  --------------
    rbf                1.000
    linear             2.000
    <BLANKLINE>
                   shift     95 % interval    win/tie/loss      r    W       p    p (Holm)
    ------  ---  -------  ----------------  --------------  -----  ---  ------  ----------
    linear  rbf   -0.035  [-0.060, -0.010]           0/0/6  -1.00    0  0.0312      0.0312
    <BLANKLINE>
    shift: Hodges-Lehmann estimate of first - second, with the interval of the Wilcoxon test of this pair alone
    win/tie/loss: blocks in which the first is better, equal or worse
    r: matched-pairs rank-biserial correlation, 1 if the first is always better, -1 if the second is
    """
    if better not in ("max", "min"):
        raise InvalidValueError(f"better: {better!r} is unknown; choose 'max' or 'min'")
    if test not in TESTS:
        raise InvalidValueError(f"test: {test!r} is unknown; choose 'wilcoxon' or 'nemenyi'")
    if correction not in CORRECTIONS:
        raise InvalidValueError(f"correction: {correction!r} is unknown; choose 'holm' or 'shaffer'")
    if correction != "holm" and test == "nemenyi":
        raise InvalidValueError("correction: the Nemenyi test has its own; leave this option out")
    if rope is not None and not 0 < rope < math.inf:
        raise InvalidValueError(f"rope: {rope} is not a positive number; give the largest difference without relevance")
    if not listed(blocks):
        raise InvalidColumnError("blocks: no keyfield is named; name at least one")
    averaged = averaged_over(table, over, [by, *listed(blocks)])
    rules = rules_of(table, [value], unit, failures, pairing, test_share)
    # Blocks of a declared unit consist of whole units, so they are not splits of one.
    split_ratio = rules.split_ratio([*listed(blocks), *averaged]) if SEED in rules.unit or not rules.unit else 0.0
    independent = f"No unit is declared: all combinations of {', '.join(listed(blocks))} count as independent"
    undeclared = [independent] if len(listed(blocks)) > 1 and not rules.unit else []
    if split_ratio and test == "nemenyi":
        raise InvalidValueError("test: the Nemenyi test is not for splits of one data set; leave this option out")
    worst = -math.inf if better == "max" else math.inf
    matrix, runs, notes = _blocks_by_levels(table, value, by, listed(blocks), averaged, rules, worst, attempts)
    over_several = tuple(name for name in averaged if table[name].astype(str).nunique() > 1)
    runs_as_units = SEED in rules.unit and (SEED in listed(blocks) or not over_several)
    ranks = rank(matrix, better)
    if test == "nemenyi" and matrix.shape[1] == 2:
        raise InvalidValueError(f"test: the Nemenyi test needs at least three levels of {by}; for two, use 'wilcoxon'")
    tested = pairwise(matrix, ranks, better, test, split_ratio, rope, correction)
    if split_ratio:
        overall, statistic, p_value = CORRECTED, tested["statistic"].abs().max(), tested[f"p_{correction}"].min()
    elif len(tested) == 1:
        overall, statistic, p_value = WILCOXON, tested["statistic"].iloc[0], tested["p_value"].iloc[0]
    else:
        overall, (statistic, p_value) = "Friedman", friedman(ranks)
    return Comparison(
        value=value,
        by=by,
        blocks=tuple(listed(blocks)),
        better=better,
        scores=matrix,
        test=overall,
        statistic=float(statistic),
        p_value=float(p_value),
        average_ranks=ranks.mean().sort_values(kind="stable").rename("average rank"),
        pairwise_test=CORRECTED if split_ratio else TESTS[test],
        pairwise=tested,
        over=over_several,
        notes=(
            *table.attrs.get("notes", []),
            *notes,
            *rules.remarks(split_ratio > 0, runs_as_units),
            *undeclared,
            *([_shared_chance(matrix)] if table.attrs.get("blocks") else []),
        ),
        runs=runs,
        missing=len(table) - runs,
        rope=rope,
        correction=correction,
    )


def _shared_chance(matrix: pd.DataFrame) -> str:
    """Say how far results in the same block have chance in common, which cancels out in their differences."""
    correlations = matrix.corr().to_numpy()[np.triu_indices(matrix.shape[1], 1)]
    shared = f"{np.mean(correlations):.2f}"
    return f"Results of two levels in the same block have a correlation of {shared}, averaged over pairs"


def family(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Note in each comparison its p-value adjusted by Holm's method for the number of comparisons, if several."""
    if len(comparisons) < 2:
        return list(comparisons)
    values = ", ".join(comparison.value for comparison in comparisons)
    adjusted = holm([comparison.p_value for comparison in comparisons])
    texts = [f"Adjusted by Holm's method for {len(adjusted)} values ({values}): p = {p:.3g}" for p in adjusted]
    return [
        dataclasses.replace(comparison, notes=(*comparison.notes, text))
        for comparison, text in zip(comparisons, texts, strict=True)
    ]


def _check_independent(table: pd.DataFrame, blocks: list[str], rules: Rules) -> None:
    """Raise an error if blocks cut a unit into pieces, which are not independent."""
    if SEED in rules.unit:
        return
    blocks_of_units = levels(table, blocks)[0].groupby(levels(table, rules.unit)[0]).nunique()
    if (blocks_of_units.max() > 1) if rules.unit else SEED in blocks:
        unit = list(rules.unit) or [name for name in blocks if name != SEED] or ["dataset"]
        raise InvalidValueError(
            f"blocks: runs of one {' and '.join(unit)} are in several blocks ({', '.join(blocks)}), so the blocks are "
            f"not independent; use blocks={unit if len(unit) > 1 else unit[0]!r} and average over the rest, as in "
            "over='seed'; or unit='seed' for a conclusion that holds for these data sets only"
        )


def _blocks_by_levels(
    table: pd.DataFrame,
    value: str,
    by: str,
    blocks: list[str],
    over: list[str],
    rules: Rules,
    worst: float,
    attempts: pd.DataFrame | None,
) -> tuple[pd.DataFrame, int, list[str]]:
    """Return the mean scores, blocks × levels, of the complete blocks, the number of their runs, and notes on them."""
    remedy = "name it in blocks (or in over, to average over it first)"
    table = checked(table, [value], [by, *blocks], over, remedy)
    _check_independent(table, blocks, rules)
    units = units_of(table, value, [by, *blocks], over, rules, within=blocks, worst=worst)
    block_codes, block_labels = levels(units.cells, blocks)
    level_codes, level_labels = levels(units.cells, [by])
    with np.errstate(invalid="ignore"):
        means = units.values.groupby(level="cell").mean().reindex(units.cells.index)
    matrix = means.set_axis([block_codes, level_codes]).unstack()
    complete = matrix.notna().all(axis="columns")
    if len(level_labels) < 2 or complete.sum() < 2:
        counts = zip(level_labels, matrix.notna().sum(), strict=True)
        raise InvalidValueError(
            f"a test needs at least two levels of {by} and two blocks ({', '.join(blocks)}) with a result for each "
            f"level; complete blocks: {complete.sum()} of {len(complete)}; "
            + some_of(f"{by}={as_text(level)} in {count}" for (level,), count in counts)
            + "".join(f"; {note}" for note in units.notes)
        )
    notes = units.notes
    if not complete.all():
        names = "; ".join(cell_name(blocks, block_labels[block]) for block in complete.index[~complete])
        number = f"{(~complete).sum()} of {len(complete)} blocks"
        notes = [f"{number} left out because a level of {by} has no result: {names}", *notes]
    warn([*notes, *mixed_versions(table, [by, *blocks], attempts)])
    matrix = matrix[complete]
    matrix.index = pd.MultiIndex.from_tuples([block_labels[block] for block in matrix.index], names=blocks)
    matrix.columns = pd.Index([level for (level,) in level_labels], name=by, dtype=object)
    return matrix, int(units.cells.loc[block_codes.map(complete), "n"].sum()), notes
