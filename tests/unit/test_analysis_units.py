"""How runs count: failures, pairs, units and splits, against values by hand, by SciPy and by pandas."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter import PyExperimenter
from pyexperimenter.analysis import compare, plot_heatmap, plot_result, summarize, to_markdown
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError


def study(score, datasets="abcdefgh", methods=("old", "new"), seeds=5):
    """Make a table of data sets x methods x seeds; `score` gets the three."""
    rows = [(*cell, score(*cell)) for cell in itertools.product(datasets, methods, range(seeds))]
    table = pd.DataFrame(rows, columns=["dataset", "method", "seed", "accuracy"])
    table.insert(0, "ID", range(1, len(table) + 1))
    table.insert(4, "creation_date", pd.Timestamp("2026-01-01"))
    table.insert(5, "status", "done")
    return table


def noise(*cell):
    """Return a number that depends on all that is given, and is the same each time."""
    return np.random.default_rng([abs(hash(part)) if isinstance(part, int) else ord(part[0]) for part in cell]).normal()


def random_study(**options):
    return study(lambda dataset, method, seed: ord(dataset) / 10 + noise(dataset, method, seed), **options)


def fail(table, condition, status="error"):
    return table.assign(status=table["status"].mask(table.eval(condition), status))


QUIET = pytest.mark.filterwarnings("ignore::UserWarning")

# Failures


@pytest.mark.parametrize("analyze", ["summarize", "compare", "plot_result", "plot_heatmap"])
def test_failures_are_an_error_until_something_is_chosen(analyze):
    table = fail(random_study(), "dataset in ['a', 'b'] and method == 'new' and seed == 0")
    table.loc[7, "accuracy"] = np.nan
    call = {
        "summarize": lambda **how: summarize(table, "accuracy", "dataset", "method", **how),
        "compare": lambda **how: compare(table, "accuracy", "method", "dataset", **how),
        "plot_result": lambda **how: plot_result(table, "accuracy", "dataset", "method", **how),
        "plot_heatmap": lambda **how: plot_heatmap(table, "accuracy", "method", "dataset", **how),
    }[analyze]
    message = "accuracy: of 80 runs, 2 failed and 1 finished without a number: "
    with pytest.raises(InvalidValueError, match=message) as caught:
        call()
    assert "(2 of 5)" in str(caught.value) and "failures='drop'" in str(caught.value)
    with pytest.warns(UserWarning, match="^3 runs without a result .* left out"):
        call(failures="drop")
    with pytest.warns(UserWarning, match="^3 runs without a result .* counted as 0: "):
        call(failures=0)


def test_a_result_that_is_no_number_is_a_failure():
    table = random_study()
    table.loc[7, "accuracy"] = np.nan
    with pytest.raises(InvalidValueError, match="of 80 runs, 1 finished without a number: dataset=a, method=new"):
        summarize(table, "accuracy", "dataset", "method")


def test_open_runs_are_no_failures_but_are_named():
    table = fail(random_study(), "dataset == 'a' and method == 'new' and seed == 0", "created")
    with pytest.warns(UserWarning, match=r"^1 run still open: dataset=a, method=new \(1 of 5\)"):
        summary = summarize(table, "accuracy", "dataset", "method")
    assert summary[["open", "failed", "nan"]].sum().tolist() == [1, 0, 0]
    with pytest.warns(UserWarning, match="^1 run still open"):
        counted = summarize(table, "accuracy", "dataset", "method", failures=99)
    pd.testing.assert_frame_equal(counted, summary)


@QUIET
def test_a_method_that_fails_is_not_the_best():
    # A method that only succeeds with the two easiest of five seeds.
    table = study(lambda dataset, method, seed: 0.9 - 0.1 * seed - 0.05 * (method == "new"), "a")
    table = fail(table, "method == 'new' and seed > 1")
    dropped = summarize(table, "accuracy", "dataset", "method", failures="drop", pairing="all")
    assert dropped["mean"].tolist() == pytest.approx([0.8, 0.7]), "it looks better"
    assert "**" not in to_markdown(dropped, best="max")
    paired = summarize(table, "accuracy", "dataset", "method", failures="drop")
    assert paired["mean"].tolist() == pytest.approx([0.8, 0.85])
    cells = to_markdown(paired, best="max", stat="mean", digits=2).split("\n")
    assert cells[2] == "| a         | 0.80 †2/5 | **0.85** |"
    assert cells[4] == (
        "accuracy: mean over up to n = 2 runs. 3 runs without a result (failed or NaN) left out: dataset=a, method=new "
        "(3 of 5). 3 runs left out because other cells lack a result for the same seed: dataset=a, method=old "
        "(3 of 5). † Fewer results: results / runs."
    )
    counted = summarize(table, "accuracy", "dataset", "method", failures={"accuracy": 0.0})
    assert counted["mean"].tolist() == pytest.approx([(0.85 + 0.75) / 5, 0.7])
    assert counted[["n", "missing", "failed"]].to_numpy().tolist() == [[5, 0, 3], [5, 0, 0]]


@QUIET
def test_failed_data_sets_do_not_vanish_from_a_test():
    # The new method wins on six data sets and fails on four.
    table = study(lambda dataset, method, seed: (method == "new") * (1 + "abcdefghij".index(dataset)), "abcdefghij")
    table = fail(table, "method == 'new' and dataset in ['g', 'h', 'i', 'j']")
    dropped = compare(table, "accuracy", "method", "dataset", failures="drop")
    assert dropped.p_value == 2 / 2**6
    assert "4 of 10 blocks left out because a level of method has no result: dataset=g; dataset=h" in str(dropped)
    worst = compare(table, "accuracy", "method", "dataset", failures="worst")
    # The failures are the four largest differences, with ranks 7 to 10, in favor of the old method.
    assert worst.statistic == sum(range(1, 7))
    assert worst.p_value == pytest.approx(signs_enumerated([1, 2, 3, 4, 5, 6, 8.5, 8.5, 8.5, 8.5], 21))
    assert worst.scores["new"].isin([-math.inf]).sum() == 4
    assert "ranked worst: method=new, dataset=g (5 of 5)" in str(worst)
    lower = compare(table, "accuracy", "method", "dataset", better="min", failures="worst")
    assert lower.scores["new"].max() == math.inf


def signs_enumerated(ranks, statistic):
    """Return the share of all signs for which the smaller rank sum is at most the statistic."""
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product([0, 1], repeat=len(ranks))]
    return np.mean([min(one, sum(ranks) - one) <= statistic for one in sums])


@QUIET
def test_one_failed_run_is_enough_for_the_worst_rank():
    table = fail(random_study(), "method == 'new' and dataset == 'a' and seed == 3")
    comparison = compare(table, "accuracy", "method", "dataset", failures="worst")
    assert comparison.scores.loc["a", "new"].item() == -math.inf
    assert summarize(table, "accuracy", "dataset", "method", failures=np.float32("inf"))["mean"][0] == math.inf
    counted = compare(table, "accuracy", "method", "dataset", failures=0.0)
    expected = table.query("method == 'new' and dataset == 'a' and seed != 3")["accuracy"].sum() / 5
    assert counted.scores.loc["a", "new"].item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"failures": "worst"}, r"'worst' is a rank, of which there is no mean; .* failures={'accuracy': 0.0}"),
        ({"failures": "ignore"}, "failures: 'ignore' is unknown; choose 'error', 'drop', 'worst' or a number"),
        ({"failures": math.nan}, "failures: nan is unknown"),
        ({"failures": None}, "failures: None is unknown"),
        ({"test_share": "0.3"}, "test_share: '0.3' is not between 0 and 1"),
        ({"failures": {"acuracy": 0}}, "failures: 'acuracy' is not summarized; choose from accuracy"),
        ({"values": ["accuracy", "ID"], "failures": 0.0}, "failures: 0.0 is for one value; give a number for each"),
        ({"pairing": "some"}, "pairing: 'some' is unknown; choose 'common' or 'all'"),
        ({"test_share": 30}, "test_share: 30 is not between 0 and 1; for 30 % of the data, give 0.3"),
    ],
)
def test_what_is_refused_is_named(how, message):
    arguments = {"values": "accuracy", "rows": "dataset", "columns": "method"} | how
    with pytest.raises(InvalidValueError, match=message):
        summarize(random_study(), **arguments)


def test_a_unit_is_a_keyfield():
    with pytest.raises(InvalidColumnError, match="unit: 'data' is not a keyfield; choose from dataset, method, seed"):
        summarize(random_study(), "accuracy", "method", over=["dataset", "seed"], unit="data")


# Pairs


@QUIET
def test_identical_methods_with_other_seeds_do_not_differ():
    # 0.0078 if each method is averaged over the seeds that it has.
    table = study(lambda dataset, method, seed: ord(dataset) + seed, seeds=8)
    table = table[table["seed"].between(0, 4).where(table["method"] == "old", table["seed"].between(3, 7))]
    assert compare(table, "accuracy", "method", "dataset", pairing="all").p_value == 2 / 2**8
    comparison = compare(table, "accuracy", "method", "dataset")
    assert comparison.p_value == 1
    assert "48 runs left out because other cells lack a result for the same seed: method=new, dataset=a" in str(
        comparison
    )
    summary = summarize(table, "accuracy", "dataset", "method")
    assert summary.loc[summary["method"] == "new", "mean"].tolist() == [ord(d) + 3.5 for d in "abcdefgh"]
    assert summary.loc[summary["method"] == "old", "mean"].tolist() == [ord(d) + 3.5 for d in "abcdefgh"]
    assert summary["unpaired"].tolist() == [3] * 16
    with pytest.raises(InvalidValueError, match="no seed has a result in all cells to compare; pairing='all' averages"):
        summarize(table[table["seed"] != 3].query("seed != 4"), "accuracy", "dataset", "method")


@QUIET
@given(st.sets(st.tuples(st.sampled_from("ab"), st.sampled_from(["old", "new"]), st.integers(0, 4)), max_size=14))
def test_pairs_are_those_of_sets(gone):
    table = random_study(datasets="ab")
    alive = [cell not in gone for cell in table[["dataset", "method", "seed"]].itertuples(index=False, name=None)]
    table["status"] = np.where(alive, "done", "running")
    have = {cell: set(rows["seed"]) for cell, rows in table[alive].groupby(["dataset", "method"])}
    try:
        summary = summarize(table, "accuracy", "dataset", "method")
    except InvalidValueError as error:
        assert "pairing" in str(error)
        return
    for line in summary.itertuples():
        common = set.intersection(
            *(seeds for (dataset, _), seeds in have.items() if dataset == line.dataset), set(range(5))
        )
        mine = have.get((line.dataset, line.method), set()) & common
        rows = table[(table["dataset"] == line.dataset) & (table["method"] == line.method)]
        assert (line.n, line.unpaired) == (len(mine), len(have.get((line.dataset, line.method), set()) - common))
        assert line.mean == pytest.approx(rows.loc[rows["seed"].isin(mine), "accuracy"].mean(), nan_ok=True)


@QUIET
def test_data_sets_need_no_common_seeds():
    table = random_study()
    table = table[(table["dataset"] != "a") | (table["seed"] < 2)]
    assert summarize(table, "accuracy", "dataset", "method")["unpaired"].sum() == 0
    assert summarize(table, "accuracy", ["dataset", "method"], unit="dataset")["unpaired"].sum() == 0
    assert summarize(table, "accuracy", ["dataset", "method"])["unpaired"].sum() == 7 * 2 * 3


@QUIET
@given(
    st.lists(st.sampled_from(["done", "done", "done", "error", "running", "nan", "away"]), min_size=18, max_size=18),
    st.sampled_from(["drop", 0.5]),
    st.sampled_from(["common", "all"]),
    st.sampled_from([None, "dataset", "seed"]),
)
def test_summaries_equal_those_of_plain_loops(states, failures, pairing, unit):
    table = random_study(datasets="abc", seeds=3)
    table["status"] = ["done" if state == "nan" else state for state in states]
    table.loc[[state == "nan" for state in states], "accuracy"] = np.nan
    table = table[table["status"] != "away"]
    scores: dict[str, dict[tuple[str, int], float]] = {method: {} for method in table["method"]}
    for row in table.itertuples():
        failed = row.status == "error" or (row.status == "done" and math.isnan(row.accuracy))
        if failed and failures != "drop":
            scores[row.method][row.dataset, row.seed] = failures
        elif row.status == "done" and not failed:
            scores[row.method][row.dataset, row.seed] = row.accuracy
    if pairing == "common":
        common = set.intersection(*[set(runs) for runs in scores.values() if runs] or [set()])
        counted = {m: {run: score for run, score in runs.items() if run in common} for m, runs in scores.items()}
    else:
        counted = scores
    how = {"over": ["dataset", "seed"], "failures": failures, "pairing": pairing, "unit": unit}
    if any(scores.values()) and not any(counted.values()):
        with pytest.raises(InvalidValueError, match="pairing='all'"):
            summarize(table, "accuracy", "method", **how)
        return
    if table.empty:
        return
    for line in summarize(table, "accuracy", "method", **how).itertuples():
        runs = counted[line.method]
        by_unit = {}
        for (dataset, seed), score in runs.items():
            by_unit.setdefault((dataset, seed) if unit == "seed" else dataset, []).append(score)
        values = [sum(of_unit) / len(of_unit) for of_unit in by_unit.values()]
        mean = sum(values) / len(values) if values else math.nan
        variance = sum((x - mean) ** 2 for x in values) / (len(values) - 1) if len(values) > 1 else math.nan
        assert (line.mean, line.std) == pytest.approx((mean, variance**0.5), nan_ok=True)
        assert (line.n, line.n_units) == (len(runs), len(values))
        assert line.unpaired == len(scores[line.method]) - len(runs)
        assert line.n + line.missing + line.unpaired == (table["method"] == line.method).sum()


# Units


def means_of(table, keys):
    return table.groupby([*keys, "dataset"])["accuracy"].mean().groupby(keys)


@pytest.mark.parametrize("how", [{}, {"unit": "dataset"}])
def test_seeds_are_averaged_before_data_sets(how):
    table = random_study()
    summary = summarize(table, "accuracy", "method", over=["dataset", "seed"], stat="mean±ci95", **how)
    expected = means_of(table, ["method"])
    np.testing.assert_allclose(summary["mean"], expected.mean())
    np.testing.assert_allclose(summary["std"], expected.std(ddof=1))
    for line, (_, means) in zip(summary.itertuples(), expected, strict=True):
        low, high = scipy.stats.t.interval(0.95, 7, loc=means.mean(), scale=scipy.stats.sem(means))
        assert line.ci95 == pytest.approx((high - low) / 2)
    assert summary[["n", "n_units"]].to_numpy().tolist() == [[40, 8], [40, 8]]
    assert to_markdown(summary).endswith("over 8 units (dataset), each the mean of its runs; n = 40 runs.")
    ax = plot_result(table, "accuracy", x="method", over=["dataset", "seed"], stat="ci95", **how)
    ends = [segment[:, 1] for segment in ax.containers[0].lines[2][0].get_segments()]
    np.testing.assert_allclose([(high - low) / 2 for low, high in ends], summary["ci95"])


@QUIET
def test_each_unit_counts_once():
    table = random_study()
    table = table[(table["dataset"] != "a") | (table["seed"] == 0)]
    summary = summarize(table, "accuracy", "method", over=["dataset", "seed"])
    np.testing.assert_allclose(summary["mean"], means_of(table, ["method"]).mean())


def test_runs_may_be_units_if_said_so():
    table = random_study()
    summary = summarize(table, "accuracy", "method", over=["dataset", "seed"], unit="seed")
    np.testing.assert_allclose(summary["std"], table.groupby("method")["accuracy"].std())
    assert list(summary["n_units"]) == [40, 40]


def test_a_declared_unit_comes_with_the_table():
    table = random_study().assign(fold=0)[["ID", "dataset", "fold", *random_study().columns[2:]]]
    table = pd.concat([table, table.assign(fold=1, ID=table["ID"] + 80, accuracy=table["accuracy"] + 1)])
    folds = summarize(table, "accuracy", "method", over=["dataset", "fold", "seed"])
    assert list(folds["n_units"]) == [16, 16]
    table.attrs = {"unit": ["dataset"]}
    assert list(summarize(table, "accuracy", "method", over=["dataset", "fold", "seed"])["n_units"]) == [8, 8]
    overridden = summarize(table, "accuracy", "method", over=["dataset", "fold", "seed"], unit=["dataset", "fold"])
    assert list(overridden["n_units"]) == [16, 16]


def test_on_a_conditional_grid_only_cells_without_planned_results_are_marked(tmp_path):
    keyfields = {
        "dataset": {"type": "VARCHAR(9)", "values": list("ab")},
        "method": {"type": "VARCHAR(9)", "values": ["svm", "tree"]},
        "C": {"type": "INT", "values": [1, 2], "when": {"method": "svm"}},
        "seed": {"type": "INT", "values": [0, 1]},
    }
    table = {"name": "study", "keyfields": keyfields, "resultfields": {"accuracy": "DOUBLE"}}
    configuration = {
        "Database": {"provider": "sqlite", "database": str(tmp_path / "study"), "table": table},
        "Execution": {"isolation": "none"},
    }
    experimenter = PyExperimenter({"PY_EXPERIMENTER": configuration}, log_level="CRITICAL")
    experimenter.fill_table_from_config()
    experimenter.execute(lambda row, *_: {"accuracy": float(row["method"] == "tree")})
    how = {"over": ["C", "seed"], "pairing": "all"}
    summary = experimenter.summarize("accuracy", "dataset", "method", **how)  # warns of nothing
    assert list(summary["n"]) == [4, 2, 4, 2]
    assert to_markdown(summary, best="max", stat="mean", digits=1).split("\n") == [
        "| dataset   |   svm |    tree |",
        "|:----------|------:|--------:|",
        "| a         |   0.0 | **1.0** |",
        "| b         |   0.0 | **1.0** |",
        "",
        "accuracy: mean over up to 2 units (C), each the mean of its runs; up to n = 4 runs.",
    ]
    experimenter.execute_custom_query("UPDATE study SET status = 'created', accuracy = NULL WHERE ID = 5")
    with pytest.warns(UserWarning, match=r"^1 run still open: dataset=a, method=tree \(1 of 2\)$"):
        marked = to_markdown(experimenter.summarize("accuracy", "dataset", "method", **how), best="max", digits=1)
    assert "†1/2 |" in marked and marked.count("†") == 2  # that of the note, too


def test_the_configuration_declares_units_and_splits(tmp_path):
    keyfields = {"dataset": {"type": "VARCHAR(9)", "values": list("ab")}, "method": {"type": "INT", "values": [0, 1]}}
    keyfields["seed"] = {"type": "INT", "values": {"start": 0, "stop": 4}}
    table = {"name": "study", "keyfields": keyfields, "resultfields": {"accuracy": "DOUBLE"}}
    configuration = {
        "Database": {"provider": "sqlite", "database": str(tmp_path / "study"), "table": table},
        "Analysis": {"unit": "dataset", "resampling": {"test": 0.2}},
        "Execution": {"isolation": "none"},
    }
    experimenter = PyExperimenter({"PY_EXPERIMENTER": configuration}, log_level="CRITICAL")
    experimenter.fill_table_from_config()
    experimenter.execute(lambda row, *_: {"accuracy": noise(row["method"], row["seed"]) + (row["dataset"] == "a")})
    found = experimenter.get_table("dataset = 'a'")
    assert found.attrs == {"unit": ["dataset"], "test_share": 0.2} == found.query("method == 0").attrs
    line = experimenter.summarize("accuracy", "dataset", "method", stat="ci95").iloc[0]
    assert line["ci95"] == pytest.approx(scipy.stats.t.ppf(0.975, 3) * line["std"] * np.sqrt(1 / 4 + 0.25))
    assert list(experimenter.summarize("accuracy", "method", over=["dataset", "seed"])["n_units"]) == [2, 2]
    with pytest.raises(InvalidValueError, match="runs of one dataset are in several blocks"):
        experimenter.compare("accuracy", "method", "seed", over="dataset")
    splits = experimenter.compare("accuracy", "method", "seed", where={"dataset": "a"}, unit="seed")
    assert splits.test == "corrected resampled t"


def test_blocks_finer_than_the_unit_are_refused():
    # The data sets differ in which method is better; the seeds say the same each time.
    table = study(
        lambda dataset, method, seed: (method == "new") * ("abc".index(dataset) + 1) + noise("x", seed), "abc"
    )
    assert compare(table, "accuracy", "method", "dataset").p_value == 0.25
    message = r"runs of one dataset are in several blocks \(dataset, seed\), .*use blocks='dataset' .*unit='seed'"
    with pytest.raises(InvalidValueError, match=message):
        compare(table, "accuracy", "method", ["dataset", "seed"])
    for blocks in ("seed", ["dataset", "seed"]):
        with pytest.raises(InvalidValueError, match="runs of one dataset are in several blocks"):
            compare(
                table, "accuracy", "method", blocks, over=None if "dataset" in blocks else "dataset", unit="dataset"
            )
    table.attrs = {"unit": ["dataset"]}
    with pytest.raises(InvalidValueError, match="runs of one dataset are in several blocks"):
        compare(table, "accuracy", "method", ["dataset", "seed"])
    seeds = compare(table, "accuracy", "method", ["dataset", "seed"], unit="seed")
    assert seeds.p_value == 2 / 2**15
    assert str(seeds).split("\n")[2] == "Each run counts as a unit: the conclusion holds for these data sets only"


def test_blocks_may_be_coarser_than_the_unit_or_have_another_name():
    table = random_study()
    table.insert(1, "domain", table["dataset"].map(dict(zip("abcdefgh", "wwwxxyyz", strict=True))))
    coarse = compare(table, "accuracy", "method", "domain", over=["dataset", "seed"], unit="dataset")
    expected = means_of(table, ["domain", "method"]).mean().unstack()
    np.testing.assert_allclose(coarse.scores, expected)
    both = compare(table, "accuracy", "method", ["domain", "dataset"], unit="dataset")
    undeclared = compare(table, "accuracy", "method", ["domain", "dataset"])
    assert both.p_value == undeclared.p_value
    assert both.notes == ()
    assert undeclared.notes == ("No unit is declared: all combinations of domain, dataset count as independent",)


def test_a_study_without_seeds_needs_no_over():
    table = random_study(seeds=1).drop(columns="seed")
    assert list(summarize(table, "accuracy", "dataset", "method")["n"]) == [1] * 16
    assert compare(table, "accuracy", "method", "dataset").over == ()
    plot_result(table, "accuracy", "dataset", "method")
    plot_heatmap(table, "accuracy", "dataset", "method")
    each = summarize(random_study(), "accuracy", ["dataset", "seed"], "method")
    assert list(each["n"]) == [1] * 80


# Splits

NADEAU_BENGIO = [0.02, 0.01, 0.03, 0, 0.015, 0.025, 0.005, 0.01, 0.02, 0.015]


def splits(differences, methods=("old", "new")):
    return study(
        lambda _, method, seed: 0.5 + (method == methods[1]) * differences[seed], "a", methods, len(differences)
    )


def test_splits_of_one_data_set_have_the_corrected_variance():
    table = splits(NADEAU_BENGIO)
    comparison = compare(table, "accuracy", "method", "seed", unit="seed", test_share=0.1)
    assert comparison.test == "corrected resampled t"
    assert (comparison.statistic, comparison.p_value) == (
        pytest.approx(3.5762, abs=5e-5),
        pytest.approx(0.00597, abs=5e-6),
    )
    assert str(comparison).split("\n")[1] == "Corrected resampled t test: |t(9)| = 3.576, p = 0.00597"
    uncorrected = scipy.stats.ttest_1samp(NADEAU_BENGIO, 0)
    assert comparison.statistic == pytest.approx(uncorrected.statistic / np.sqrt(1 + 10 / 9))
    assert comparison.pairwise["difference"].item() == pytest.approx(np.mean(NADEAU_BENGIO))


def test_an_interval_over_splits_has_the_corrected_variance():
    table = splits(NADEAU_BENGIO)
    table.attrs = {"unit": ["dataset"], "test_share": 0.1}
    new = summarize(table, "accuracy", "dataset", "method", stat="ci95").iloc[0]
    # The interval excludes 0.5, the score of the other method, just as the test rejects at 0.00597.
    assert (new["mean"] - 0.5) / new["ci95"] == pytest.approx(3.5762 / scipy.stats.t.ppf(0.975, 9), abs=1e-4)
    plain = summarize(table.assign(), "accuracy", "dataset", "method", stat="ci95", test_share=1e-12).iloc[0]
    assert new["ci95"] == pytest.approx(plain["ci95"] * np.sqrt(1 + 10 / 9))
    assert "splits that share training data" in to_markdown(
        summarize(table, "accuracy", "dataset", "method", stat="ci95")
    )


def test_means_over_splits_of_several_data_sets_need_no_correction():
    table = random_study()
    for how in ({"unit": "dataset"}, {"unit": "dataset", "test_share": 0.3}):
        summary = summarize(table, "accuracy", "method", over=["dataset", "seed"], stat="ci95", **how)
        assert (
            summary["ci95"].tolist()
            == summarize(table, "accuracy", "method", over=["dataset", "seed"], stat="ci95")["ci95"].tolist()
        )
        comparison = compare(table, "accuracy", "method", "dataset", **how)
        assert (comparison.test, comparison.notes) == ("Wilcoxon signed-rank", ())
    # Blocks may name the data sets by another keyfield than the unit.
    renamed = table.assign(dataset=table["dataset"].map(ord))
    renamed.insert(1, "task", table["dataset"])
    comparison = compare(renamed, "accuracy", "method", "task", unit="dataset", test_share=0.3)
    assert (comparison.test, comparison.notes) == ("Wilcoxon signed-rank", ())


def test_data_sets_may_be_blocks_where_runs_are_units():
    declared = random_study()
    declared.attrs = {"unit": ["seed"]}
    assert compare(declared, "accuracy", "method", "dataset").notes == ()
    reach = "Each run counts as a unit: the conclusion holds for these data sets only"
    assert compare(declared, "accuracy", "method", "seed", over="dataset").notes == (reach,)
    assert compare(declared.query("dataset == 'a'"), "accuracy", "method", "seed").notes == (reach,)
    interval = summarize(declared, "accuracy", "method", over=["dataset", "seed"], stat="ci95")
    assert interval.attrs["notes"] == [reach]


@pytest.mark.parametrize("unit", [None, "seed"])
def test_a_test_share_needs_to_know_the_data_set(unit):
    message = r"not known whether runs that differ in dataset(, seed)? are splits .* unit='dataset'"
    with pytest.raises(InvalidValueError, match=message):
        summarize(
            random_study(), "accuracy", "method", over=["dataset", "seed"], stat="ci95", unit=unit, test_share=0.3
        )
    with pytest.raises(InvalidValueError, match=message):
        blocks = ["dataset", "seed"] if unit else "dataset"
        compare(random_study(), "accuracy", "method", blocks, unit=unit, test_share=0.3)


def test_pairs_of_splits_are_adjusted():
    differences = np.array(NADEAU_BENGIO)
    table = study(
        lambda _, method, seed: {"a": 0, "b": differences[seed], "c": noise("c", seed)}[method],
        "a",
        ("a", "b", "c"),
        10,
    )
    comparison = compare(table, "accuracy", "method", "seed", unit="seed", test_share=0.1)
    c = np.array([noise("c", seed) for seed in range(10)])
    pairs = [scipy.stats.ttest_1samp(d, 0).statistic / np.sqrt(1 + 10 / 9) for d in (-differences, -c, differences - c)]
    p = 2 * scipy.stats.t.sf(np.abs(pairs), 9)
    np.testing.assert_allclose(comparison.pairwise["statistic"], pairs)
    np.testing.assert_allclose(comparison.pairwise["p_value"], p)
    assert comparison.p_value == pytest.approx(3 * p[0])
    assert "Corrected resampled t tests of 3 pairs, the largest: |t(9)| = 3.576, p (Holm) = 0.0179" in str(comparison)


def test_splits_that_do_not_differ():
    table = splits([0.0] * 5)
    comparison = compare(table, "accuracy", "method", "seed", unit="seed", test_share=0.1)
    assert (comparison.statistic, comparison.p_value) == (0, 1)
    always = compare(splits([0.25] * 5), "accuracy", "method", "seed", unit="seed", test_share=0.1)
    assert 0 < always.p_value < 1e-100
    with pytest.raises(InvalidValueError, match="a t test needs finite differences"):
        compare(
            table.assign(accuracy=[math.inf, *table["accuracy"][1:]]),
            "accuracy",
            "method",
            "seed",
            unit="seed",
            test_share=0.1,
        )
