"""Summaries against NumPy and statsmodels; what is refused instead of averaged; warnings."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.weightstats import DescrStatsW

from pyexperimenter import PyExperimenter
from pyexperimenter.analysis import compare, plot_curves, plot_heatmap, plot_result, summarize
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError, PyExperimenterError


def experiments(keyfields, results, status="done"):
    """Make a table as `get_table` returns them; the columns are lists or pandas' arrays of equal length."""
    length = len(next(iter(keyfields.values())))
    return pd.DataFrame(
        {
            "ID": range(1, length + 1),
            **keyfields,
            "creation_date": pd.Timestamp("2026-01-01"),
            "status": status,
            "start_date": pd.Timestamp("2026-01-01 10:00"),
            "name": "test",
            "machine": "here",
            **results,
            "end_date": pd.Timestamp("2026-01-01 11:00"),
            "error": None,
        }
    )


def study(seeds=3, **results):
    """Two data sets x two kernels, of which only one has a gamma, x seeds."""
    rows = [
        (dataset, kernel, gamma, seed)
        for dataset in ("iris", "wine")
        for kernel, gamma in (("linear", np.nan), ("rbf", 0.1))
        for seed in range(seeds)
    ]
    columns = dict(zip(("dataset", "kernel", "gamma", "seed"), map(list, zip(*rows, strict=True)), strict=True))
    return experiments(columns, results or {"accuracy": np.linspace(0, 1, len(rows))})


def attempts(experiment_ids, **columns):
    defaults = {"outcome": "done", "git_commit": "a" * 40, "git_dirty": False, "git_diff_hash": None}
    defaults |= {"python": "3.12.1", "library_version": "2.0.0"}
    made = pd.DataFrame({"ID": range(1, len(experiment_ids) + 1), "experiment_id": experiment_ids} | defaults | columns)
    return made.astype({"git_dirty": "boolean"})


COUNTS = ["n", "missing", "failed", "open", "nan", "unpaired", "n_units"]

# The statistics

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(st.tuples(st.sampled_from("abc"), NUMBERS), min_size=1, max_size=40), st.randoms())
def test_statistics_are_numpys_for_any_order_of_the_rows(rows, random):
    methods, values = zip(*rows, strict=True)
    table = experiments({"method": list(methods), "seed": list(range(len(rows)))}, {"loss": list(values)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # n differs
        summary = summarize(table, "loss", rows="method", stat="median±iqr", pairing="all")
        shuffled = table.iloc[random.sample(range(len(rows)), len(rows))]
        again = summarize(shuffled, "loss", rows="method", stat="median±iqr", pairing="all")
    assert list(summary["method"]) == sorted(set(methods))
    pd.testing.assert_frame_equal(summary, again)
    for line in summary.itertuples():
        sample = np.array([value for method, value in rows if method == line.method])
        assert line.n == len(sample)
        assert line.mean == pytest.approx(np.mean(sample), rel=1e-9, abs=1e-9)
        if len(sample) > 1:
            assert line.std == pytest.approx(np.std(sample, ddof=1), rel=1e-6, abs=1e-6)
        else:
            assert np.isnan(line.std)
        assert line.median == pytest.approx(np.median(sample))
        low, high = np.quantile(sample, [0.25, 0.75])
        assert (line.q1, line.q3, line.iqr) == pytest.approx((low, high, high - low), abs=1e-9)


def test_quartiles_of_infinite_values():
    times = [1, 2, 3, 4, np.inf]
    table = experiments({"method": ["a"] * 5, "seed": list(range(5))}, {"seconds": times})
    line = summarize(table, "seconds", rows="method", stat="median±iqr").iloc[0]
    assert (line.q1, line["median"], line.q3) == (2, 3, 4)
    assert np.isnan(line.iqr)


@given(st.lists(NUMBERS, min_size=2, max_size=20))
def test_ci95_is_that_of_statsmodels(values):
    table = experiments({"method": ["a"] * len(values), "seed": list(range(len(values)))}, {"loss": values})
    summary = summarize(table, "loss", rows="method", stat="mean±ci95")
    low, high = DescrStatsW(values).tconfint_mean(alpha=0.05)
    assert summary["ci95"].item() == pytest.approx((high - low) / 2, rel=1e-6, abs=1e-6)


def test_ci95_of_a_published_example():
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.2: ZARR13.DAT, N = 195, mean 9.261460, s = 0.022789;
    # the 95 % interval is (9.258242, 9.264679). Any sample with these moments will do.
    signs = np.array([1.0, -1.0] * 97 + [0.0])
    sample = 9.261460 + signs * 0.022789
    table = experiments({"method": ["a"] * 195, "seed": list(range(195))}, {"flow": sample})
    summary = summarize(table, "flow", rows="method", stat="ci95")
    assert summary["std"].item() == pytest.approx(0.022789, abs=1e-6)
    assert summary["ci95"].item() == pytest.approx((9.264679 - 9.258242) / 2, abs=2e-6)


@pytest.mark.parametrize(
    ("stat", "columns"),
    [
        ("mean±std", ["mean", "std"]),
        ("mean+-std", ["mean", "std"]),
        ("mean", ["mean", "std"]),
        ("mean ± ci95", ["mean", "std", "ci95"]),
        ("ci95", ["mean", "std", "ci95"]),
        ("median", ["mean", "std", "median"]),
        ("median±iqr", ["mean", "std", "median", "q1", "q3", "iqr"]),
    ],
)
def test_a_statistic_adds_its_columns(stat, columns):
    summary = summarize(study(), "accuracy", "dataset", "kernel", stat=stat)
    assert list(summary) == ["dataset", "kernel", *columns, *COUNTS]
    assert summary[columns].notna().all(axis=None)


def test_several_values_are_distinguished_by_a_column():
    table = study(accuracy=np.linspace(0, 1, 12), seconds=np.linspace(5, 6, 12))
    summary = summarize(table, ["seconds", "accuracy"], "dataset", "kernel")
    assert list(summary.columns[:3]) == ["dataset", "kernel", "value"]
    assert list(summary["value"]) == ["seconds"] * 4 + ["accuracy"] * 4
    only = summary[summary["value"] == "accuracy"].drop(columns="value").reset_index(drop=True)
    pd.testing.assert_frame_equal(only, summarize(table, "accuracy", "dataset", "kernel"))
    assert "value" not in summarize(table, ["accuracy"], "dataset", "kernel")


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        (pd.array([1, 2, 6, None], dtype="Int64"), 3, 7**0.5),
        (pd.array([True, False, True, None], dtype="boolean"), 2 / 3, (1 / 3) ** 0.5),
        ([True, False, True, True], 3 / 4, 0.5),
        ([1.5, np.nan, 2.5, np.nan], 2, 0.5**0.5),
        ([np.inf, 1.0, 2.0, 3.0], np.inf, np.nan),
        ([np.inf, -np.inf, 2.0, 3.0], np.nan, np.nan),
        ([np.nan] * 4, np.nan, np.nan),
    ],
)
def test_kinds_of_numbers(values, mean, std):
    table = experiments({"method": ["a"] * 4, "seed": [0, 1, 2, 3]}, {"loss": values})
    n = int(pd.Series(values).count())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* without a result")
        summary = summarize(table, "loss", rows="method", failures="drop")
    assert summary["mean"].item() == pytest.approx(mean, nan_ok=True)
    assert summary["std"].item() == pytest.approx(std, nan_ok=True)
    assert (summary["n"].item(), summary["missing"].item()) == (n, 4 - n)


# The cells


@pytest.mark.parametrize(
    "gamma",
    [
        [0.2, None, 0.1, None],
        pd.array([2, None, 1, None], dtype="Int64"),
        pd.array([True, None, False, None], dtype="boolean"),
        pd.Series(["b", None, "a", None], dtype=object),
        pd.Series(["b", None, "a", None], dtype="string"),
        pd.to_datetime(["2026-01-02", None, "2026-01-01", None]),
    ],
)
@pytest.mark.parametrize("second", [None, "method"])
def test_null_is_a_group_of_its_own_and_comes_last(gamma, second):
    table = experiments({"gamma": gamma, "method": ["m"] * 4, "seed": [0, 0, 0, 1]}, {"loss": [4.0, 1.0, 3.0, 2.0]})
    with warnings.catch_warnings():
        warnings.filterwarnings("error" if second else "ignore", "2 runs fewer than in other cells")
        summary = summarize(table, "loss", rows="gamma", columns=second, pairing="all")
    assert list(summary["mean"]) == [3.0, 4.0, 1.5]
    assert list(summary["n"]) == [1, 1, 2]
    assert list(summary["gamma"].isna()) == [False, False, True]


def test_json_keyfields_are_grouped_as_strings():
    settings = [{"b": 1, "a": 2}, {"a": 2, "b": 1}, [1], [1]]
    table = experiments({"settings": settings, "seed": [0, 1, 0, 1]}, {"loss": [1.0, 2.0, 3.0, 5.0]})
    summary = summarize(table, "loss", rows="settings")
    assert dict(zip(summary["settings"], summary["mean"], strict=True)) == {"[1]": 4.0, '{"a":2,"b":1}': 1.5}
    assert table["settings"][0] == {"b": 1, "a": 2}, "the table that was handed in is left alone"


def test_categories_keep_their_order():
    table = study()
    table["kernel"] = pd.Categorical(table["kernel"], ["rbf", "poly", "linear"])
    assert list(summarize(table, "accuracy", "dataset", "kernel")["kernel"]) == ["rbf", "linear"] * 2


def test_tables_with_an_index_of_their_own():
    table = study()
    expected = summarize(table, "accuracy", "dataset", "kernel")
    table.index = [7] * len(table)
    pd.testing.assert_frame_equal(summarize(table, "accuracy", "dataset", "kernel"), expected)


def test_other_columns_than_keyfields_make_cells_too():
    table = study().assign(machine=["fast", "slow", "slow"] * 4)
    summary = summarize(table, "accuracy", ["dataset", "kernel", "machine"])
    assert len(summary) == 8


def test_nothing_need_be_averaged_over():
    summary = summarize(study(), "accuracy", ["dataset", "kernel", "seed"], over=None)
    assert list(summary["mean"]) == list(np.linspace(0, 1, 12))
    assert set(summary["n"]) == {1}


def test_several_keyfields_are_averaged_over():
    summary = summarize(study(), "accuracy", "kernel", over=["dataset", "seed"])
    assert list(summary["n"]) == [6, 6]


# What is refused


def test_a_keyfield_that_is_not_named_is_not_averaged_over():
    message = r"'kernel' has several values \(linear, rbf\) at dataset=iris; name it in rows, columns or over"
    with pytest.raises(InvalidColumnError, match=message):
        summarize(study(), "accuracy", rows="dataset")


def test_null_and_a_value_are_several_values():
    table = study().assign(kernel="svm")
    with pytest.raises(InvalidColumnError, match=r"'gamma' has several values \(–, 0\.1\) at dataset=iris"):
        summarize(table, "accuracy", rows="dataset")


def test_a_keyfield_that_follows_from_the_cell_need_not_be_named():
    assert len(summarize(study(), "accuracy", "dataset", "kernel")) == 4  # gamma follows from the kernel


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"values": "acuracy"}, InvalidColumnError, "no column 'acuracy'; choose from ID, dataset, kernel"),
        ({"rows": "datset"}, InvalidColumnError, "no column 'datset'"),
        ({"over": "sed"}, InvalidColumnError, "no column 'sed'"),
        (
            {"over": "machine"},
            InvalidColumnError,
            "'machine' is not a keyfield; choose from dataset, kernel, gamma, seed",
        ),
        ({"over": ["kernel", "seed"]}, InvalidColumnError, "'kernel' is named twice"),
        ({"rows": ["kernel"]}, InvalidColumnError, "'kernel' is named twice"),
        ({"rows": []}, InvalidColumnError, "rows: no column is named"),
        ({"values": []}, InvalidColumnError, "values: no column is named"),
        ({"values": "error"}, InvalidValueError, "'error' is not numeric but object .all NULL."),
        (
            {"values": "name"},
            InvalidValueError,
            "'name' is not numeric but .*'test', 'test', 'test' and 1 more",
        ),
        ({"values": "end_date"}, InvalidValueError, "'end_date' is not numeric but datetime64"),
        ({"stat": "mode"}, InvalidValueError, "'mode' is unknown; choose from mean±std"),
        ({"table": study().iloc[:0]}, InvalidValueError, "the table has no rows"),
        (
            {"table": study().drop(columns="status")},
            InvalidColumnError,
            "no column 'status'; pass the table that get_table",
        ),
        ({"table": study().drop(columns="creation_date")}, InvalidColumnError, "no column 'creation_date'"),
        (
            {"table": study()[["ID", "creation_date", "status", "dataset", "kernel", "seed", "accuracy"]]},
            InvalidColumnError,
            "no keyfields between its columns ID and creation_date; keep the columns in the order of get_table",
        ),
        (
            {"table": pd.concat([study(), study()[:2]])},
            InvalidValueError,
            r"rows repeat the keyfields .* \(2 in total, such as the one with ID 1\)",
        ),
        (
            {"table": study().rename(columns={"dataset": "n"}), "rows": "n"},
            InvalidColumnError,
            r"'n' has the name of a statistic; rename it first: table.rename\(columns=\{'n': 'n_'\}\)",
        ),
    ],
)
def test_what_is_refused_is_named(change, error, message):
    arguments = {"table": study(), "values": "accuracy", "rows": "dataset", "columns": "kernel"} | change
    with pytest.raises(error, match=message) as caught:
        summarize(**arguments)
    assert isinstance(caught.value, PyExperimenterError)


# Warnings


@pytest.mark.parametrize("status", ["created", "running", "paused", "error"])
def test_rows_that_are_not_done_are_missing_even_with_a_value(status):
    table = study()
    table.loc[0, "status"] = status
    with pytest.warns(UserWarning) as caught:
        summary = summarize(table, "accuracy", "dataset", "kernel", failures="drop")
    first = "1 run without a result (failed or NaN) left out" if status == "error" else "1 run still open"
    notes = [
        f"{first}: dataset=iris, kernel=linear (1 of 3)",
        "1 run left out because other cells lack a result for the same seed: dataset=iris, kernel=rbf (1 of 3)",
    ]
    assert [str(warning.message) for warning in caught] == ["\n".join(notes)]
    assert summary.attrs["notes"] == notes
    assert caught[0].filename == __file__
    assert list(summary["missing"]) == [1, 0, 0, 0]
    assert list(summary["failed"] if status == "error" else summary["open"]) == [1, 0, 0, 0]
    assert list(summary["unpaired"]) == [0, 1, 0, 0]
    assert list(summary["n"]) == [2, 2, 3, 3]
    assert summary["mean"][:2].tolist() == pytest.approx([np.mean([1, 2]) / 11, np.mean([4, 5]) / 11])


def test_cells_without_runs_are_kept():
    table = study().assign(status="created")
    with pytest.warns(UserWarning, match=r"^12 runs still open: dataset=iris, kernel=linear \(3 of 3\)"):
        summary = summarize(table, "accuracy", "dataset", "kernel", stat="ci95")
    assert list(summary["n"]) == [0] * 4
    assert summary[["mean", "std", "ci95"]].isna().all(axis=None)


def test_rows_that_were_left_out_show_by_n():
    message = r"^1 run fewer than in other cells: dataset=iris, kernel=linear \(1 of 3\)$"
    with pytest.warns(UserWarning, match=message):
        summarize(study()[1:], "accuracy", "dataset", "kernel", pairing="all")


def test_only_a_few_cells_are_named():
    table = (
        study(seeds=9).query("seed > 0 or kernel == 'rbf'").assign(kernel=lambda t: t["kernel"] + t["seed"].map(str))
    )
    table.loc[table.index[::2], "status"] = "error"
    with pytest.warns(UserWarning, match=r"^\d+ runs without .*\) and \d+ more$") as caught:
        summarize(table, "accuracy", "dataset", "kernel", failures="drop", pairing="all")
    assert str(caught[0].message).partition("\n")[0].count("dataset=") == 3


def test_complete_cells_of_one_code_are_no_cause_for_a_warning():
    summarize(study(), "accuracy", "dataset", "kernel", attempts=attempts(list(range(1, 13))))


@pytest.mark.parametrize(
    ("column", "other", "message"),
    [
        (
            "git_commit",
            "b" * 40,
            "git commit aaaaaaaaaa (11 experiments); git commit bbbbbbbbbb (1 experiment, at {})",
        ),
        ("git_commit", None, "git commit aaaaaaaaaa (11 experiments); an unknown git commit (1 experiment, at {})"),
        (
            "git_dirty",
            True,
            "git commit aaaaaaaaaa (11 experiments); "
            "git commit aaaaaaaaaa with uncommitted changes (1 experiment, at {})",
        ),
        (
            "library_version",
            "1.0",
            "library version 2.0.0 (11 experiments); library version 1.0 (1 experiment, at {})",
        ),
        (
            ["git_dirty", "git_diff_hash"],
            [True, "0123456789"],
            "git commit aaaaaaaaaa (11 experiments); "
            "git commit aaaaaaaaaa+0123456789 with uncommitted changes (1 experiment, at {})",
        ),
    ],
)
def test_mixed_code_is_reported(column, other, message):
    mixed = attempts(list(range(1, 13)))
    mixed.loc[11, column] = other
    with pytest.warns(UserWarning) as caught:
        summarize(study(), "accuracy", "dataset", "kernel", attempts=mixed)
    assert [str(warning.message) for warning in caught] == [
        "the results come from different code: " + message.format("dataset=wine, kernel=rbf")
    ]


def test_two_dirty_states_of_a_commit_are_different_code():
    states = ["0123456789"] * 11 + ["abcdefabcd"]
    made = attempts(list(range(1, 13)), git_dirty=True, git_diff_hash=states)
    message = (
        r"git commit aaaaaaaaaa\+0123456789 with uncommitted changes \(11 experiments\); "
        r"git commit aaaaaaaaaa\+abcdefabcd with uncommitted changes \(1 experiment, at dataset=wine, kernel=rbf\)$"
    )
    with pytest.warns(UserWarning, match=message):
        summarize(study(), "accuracy", "dataset", "kernel", attempts=made)
    # A version that did not record the states cannot tell them apart.
    summarize(study(), "accuracy", "dataset", "kernel", attempts=made.drop(columns="git_diff_hash"))


LOGS = pd.DataFrame({"ID": range(1, 13), "experiment_id": range(1, 13), "epoch": 1, "loss": 0.5})


@pytest.mark.parametrize(
    ("analyze", "cell"),
    [
        (lambda table, made: summarize(table, "accuracy", "kernel", "dataset", attempts=made), "kernel=rbf, dataset="),
        (lambda table, made: compare(table, "accuracy", "kernel", "dataset", over="seed", attempts=made), "kernel=rbf"),
        (lambda table, made: plot_result(table, "accuracy", "kernel", "dataset", attempts=made), "kernel=rbf"),
        (lambda table, made: plot_heatmap(table, "accuracy", "dataset", "kernel", attempts=made), "kernel=rbf"),
        (
            lambda table, made: plot_curves(LOGS, table, "loss", "epoch", "kernel", ["dataset", "seed"], attempts=made),
            "kernel=rbf",
        ),
        (
            lambda table, made: plot_curves(
                LOGS, table[6:], "loss", "epoch", None, ["dataset", "kernel", "seed"], attempts=made
            ),
            "",
        ),
    ],
)
def test_every_analysis_reports_different_environments(analyze, cell):
    table = study().drop(columns="gamma")
    mixed = attempts(list(range(1, 13)), python=["3.12.1"] * 11 + ["3.13.0"])
    with pytest.warns(UserWarning) as caught:
        analyze(table, mixed)
    (warning,) = caught
    assert warning.filename == __file__
    start, cells = str(warning.message).split("Python 3.13.0 (1 experiment")
    assert start.startswith("the results come from different environments: Python 3.12.1 (")
    assert cell in cells and cells.endswith(")")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analyze(table, attempts(list(range(1, 13))))


def test_one_warning_reports_everything():
    table = study()
    table.loc[0, "status"] = "error"
    mixed = attempts(list(range(1, 13)), git_commit=["a" * 40] * 11 + ["b" * 40])
    with pytest.warns(UserWarning) as caught:
        summarize(table, "accuracy", "dataset", "kernel", attempts=mixed, failures="drop", pairing="all")
    assert len(caught) == 1
    assert [line.split(":")[0] for line in str(caught[0].message).split("\n")] == [
        "1 run without a result (failed or NaN) left out",
        "the results come from different code",
    ]


def test_only_the_executions_that_made_the_results_count():
    # Experiment 1 was lost, done, reset, done again, and looked at; of 12 nothing is recorded; 99 is not in the table.
    ids = [1, 1, 1, 1, *range(2, 12), 99]
    commits = ["b" * 40, "c" * 40, "a" * 40, "e" * 40, *["a" * 40] * 10, "d" * 40]
    made = attempts(ids, git_commit=commits, outcome=["lost", "done", "done", "attached", *["done"] * 11])
    summarize(study(), "accuracy", "dataset", "kernel", attempts=made.sample(frac=1, random_state=0))


def test_mixed_code_warns_with_json_keyfields_and_any_index():
    table = study().rename(columns={"kernel": "settings"}).set_axis([7] * 12, axis="index")
    table["settings"] = [{"kernel": kernel} for kernel in table["settings"]]
    mixed = attempts(list(range(1, 13)), library_version=["2.0.0"] * 11 + ["1.0"])
    message = r"version 1.0 \(1 experiment, at dataset=wine, settings=\{\"kernel\":\"rbf\"\}\)$"
    with pytest.warns(UserWarning, match=message):
        summarize(table, "accuracy", "dataset", "settings", attempts=mixed)


def test_studies_without_git_are_no_cause_for_a_warning():
    summarize(study(), "accuracy", "dataset", "kernel", attempts=attempts(list(range(1, 13)), git_commit=None))


# Whole


def test_a_study_from_its_configuration_to_its_summary(tmp_path):
    def function(keyfields, result_processor, custom_fields):
        if keyfields["kernel"] == "poly" and keyfields["seed"] == 1:
            raise ValueError
        return {"accuracy": len(keyfields["kernel"]) + keyfields["seed"] + (keyfields["gamma"] or 0)}

    keyfields = {
        "kernel": {"type": "VARCHAR(20)", "values": ["rbf", "linear", "poly"]},
        "gamma": {"type": "DOUBLE", "values": [0.25, 0.5], "when": {"kernel": ["rbf"]}},
        "seed": {"type": "INT", "values": {"start": 0, "stop": 2}},
    }
    table = {"name": "study", "keyfields": keyfields, "resultfields": {"accuracy": "DOUBLE"}}
    database = {"provider": "sqlite", "database": str(tmp_path / "study"), "table": table}
    execution = {"isolation": "none"}
    configuration = {"PY_EXPERIMENTER": {"Database": database, "Execution": execution}}
    experimenter = PyExperimenter(configuration, log_level="CRITICAL")
    experimenter.fill_table_from_config()
    experimenter.execute(function)
    with pytest.warns(UserWarning, match=r"^1 run without .* left out: kernel=poly, gamma=– \(1 of 2\)$"):
        summary = summarize(
            experimenter.get_table(),
            "accuracy",
            "kernel",
            "gamma",
            attempts=experimenter.get_attempts(),
            failures="drop",
        )
    assert summary.iloc[:, :6].fillna(-1).values.tolist() == [
        ["linear", -1, 6.5, 0.5**0.5, 2, 0],
        ["poly", -1, 4.0, -1, 1, 1],
        ["rbf", 0.25, 3.75, 0.5**0.5, 2, 0],
        ["rbf", 0.5, 4.0, 0.5**0.5, 2, 0],
    ]


def test_missing_scipy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(PyExperimenterError, match=r"scipy.stats is needed .* pip install 'pyexperimenter\[stats\]'"):
        summarize(study(), "accuracy", "dataset", "kernel", stat="ci95")
    summarize(study(), "accuracy", "dataset", "kernel")


def test_heavy_packages_are_imported_when_needed():
    program = (
        "import sys, pyexperimenter\n"
        "print([name for name in ('pandas', 'scipy', 'matplotlib') if name in sys.modules])\n"
        "from pyexperimenter.analysis import to_frame\n"
        "print([name for name in ('pandas', 'scipy', 'matplotlib') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "['pandas']"]
