"""The best setting against enumeration; what must not choose; what is said about the choice."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter.analysis import compare, select, summarize, to_text
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError

BY = ["dataset", "method", "seed"]


def experiments(rows, **columns):
    """Make a table as `get_table` returns them, of rows (dataset, method, seed, C, gamma, cv, accuracy)."""
    names = ("dataset", "method", "seed", "C", "gamma", "cv", "accuracy")
    made = pd.DataFrame(rows, columns=names).astype({"gamma": "float64", "cv": "float64", "accuracy": "float64"})
    made.insert(0, "ID", range(1, len(made) + 1))
    made.insert(6, "creation_date", pd.Timestamp("2026-01-01"))
    made.insert(7, "status", "done")
    return made.assign(**columns)


def study():
    """Two data sets x a tree with three and an SVM with four settings x two seeds; all cv are different."""
    settings = [("svm", c, gamma) for c in (1, 10) for gamma in (0.1, 0.2)]
    settings += [("tree", c, None) for c in (1, 2, 3)]
    cells = [(dataset, *setting, seed) for dataset in ("iris", "wine") for setting in settings for seed in (0, 1)]
    cv = np.random.default_rng(0).permutation(len(cells)) / len(cells)
    return experiments(
        [
            (dataset, method, seed, c, gamma, score, number / 100)
            for number, ((dataset, method, c, gamma, seed), score) in enumerate(zip(cells, cv, strict=True))
        ]
    )


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["iris", "wine"]),
        st.sampled_from(["svm", "tree"]),
        st.integers(0, 1),
        st.sampled_from([1, 2, 10]),
        st.sampled_from([None, 0.1, 0.2]),
        st.sampled_from([0.1, 0.2, 0.3, 0.1 + 0.2, math.inf, -math.inf, None]),
        st.just(0.5),
        st.sampled_from(["done", "done", "done", "error", "created"]),
    ),
    min_size=2,
    max_size=25,
    unique_by=lambda row: row[:5],
)


@given(ROWS, st.sampled_from(["max", "min"]), st.sampled_from(["worst", "drop"]))
def test_the_choice_is_that_of_enumeration(rows, better, failures):
    table = experiments([row[:-1] for row in rows], status=[row[-1] for row in rows])

    def preference(row):
        """Smaller is better."""
        *_, c, gamma, cv, _, status = row
        if status == "error" or (status == "done" and cv is None):
            kind, cv = 2, 0
        elif status == "created":
            kind, cv = 1, 0
        else:
            kind, cv = 0, round(cv, 9) if math.isfinite(cv) else cv
        return kind, -cv if better == "max" else cv, c, math.inf if gamma is None else gamma

    groups = {}
    for number, row in enumerate(rows, start=1):
        groups.setdefault(row[:3], []).append((preference(row), number))
    expected = [min(group) for group in groups.values()]
    expected = sorted(number for (kind, *_), number in expected if failures == "worst" or kind < 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of failed and open ones
        try:
            chosen = select(table, BY, "cv", "accuracy", better, failures=failures)
        except InvalidColumnError:
            assert all(len(group) == 1 for group in groups.values())
            return
    assert chosen["ID"].tolist() == expected
    ended = {key: sum(rows[number - 1][-1] != "created" for _, number in group) for key, group in groups.items()}
    assert chosen["n_settings"].tolist() == [ended[rows[number - 1][:3]] for number in expected]


def test_the_order_of_the_rows_does_not_matter():
    table = study().assign(cv=0.5)
    chosen = select(table, BY, "cv", "accuracy")
    shuffled = select(table.sample(frac=1, random_state=0).set_axis([7] * len(table)), BY, "cv", "accuracy")
    pd.testing.assert_frame_equal(chosen, shuffled.sort_values("ID", ignore_index=True))
    assert chosen[["method", "C", "gamma"]].drop_duplicates().fillna(-1).values.tolist() == [
        ["svm", 1, 0.1],
        ["tree", 1, -1],
    ]


def test_the_settings_are_no_keyfields_any_more():
    chosen = select(study(), BY, "cv", "accuracy")
    assert list(chosen) == ["ID", *BY, "creation_date", "status", "cv", "accuracy", "C", "gamma", "n_settings"]
    summary = summarize(chosen, "accuracy", rows="dataset", columns="method")
    assert summary["n"].tolist() == [2] * 4
    assert list(select(study().query("method == 'tree'"), BY, "cv", "accuracy"))[1:5] == [*BY, "gamma"]


def test_a_seed_is_not_chosen_by_the_others():
    """The setting that all seeds together prefer has seen the test data of each."""
    rows = [
        ("iris", "svm", seed, c, None, cv, 0.5) for seed, c, cv in [(0, 1, 0.9), (0, 2, 0.8), (1, 1, 0.1), (1, 2, 0.8)]
    ]
    assert select(experiments(rows), BY, "cv", "accuracy")["C"].tolist() == [1, 2]


def test_it_says_what_was_chosen_and_among_how_many():
    table = study()
    table.loc[table["method"] == "tree", "cv"] = 0.5
    chosen = select(table, BY, "cv", "accuracy")
    rule = (
        "For each dataset, method, seed, the setting (C, gamma) with the highest cv, of 4 (method=svm), 3 (method=tree)"
    )
    ties = "In 4 of 8 choices, several settings were equal; the first in the order of C, gamma was taken"
    assert chosen.attrs["notes"] == [rule, ties]
    summary = summarize(chosen, "accuracy", rows="method", columns="dataset")
    assert f"{rule}. {ties}." in " ".join(to_text(summary).split())
    only = select(table.query("method == 'svm'"), BY, "cv", "accuracy", "min")
    assert only.attrs["notes"] == ["For each dataset, method, seed, the setting (C, gamma) with the lowest cv, of 4"]
    some = select(table.drop(index=[0, 12]), BY, "cv", "accuracy")
    assert some.attrs["notes"][0].endswith("with the highest cv, of 2 to 4")


def test_a_comparison_says_how_the_settings_were_chosen():
    table = study()
    chosen = select(table, BY, "cv", "accuracy")
    comparison = compare(chosen, "accuracy", by="method", blocks="dataset", over="seed")
    assert comparison.notes[0] == chosen.attrs["notes"][0]
    assert chosen.attrs["notes"][0] in repr(comparison)
    assert chosen.attrs["notes"][0] in comparison.describe()


def test_what_the_study_declares_is_kept():
    table = study()
    table.attrs = {"unit": ["dataset"], "test_share": 0.3}
    assert select(table, BY, "cv", "accuracy").attrs | {"notes": []} == table.attrs | {"notes": []}


@pytest.mark.parametrize(("status", "cv"), [("error", 0.5), ("done", None)])
def test_failures_are_an_error_until_it_is_said_what_they_count_as(status, cv):
    table = study()
    table.loc[0, ["status", "cv"]] = status, cv
    hopeless = (table["dataset"] == "wine") & (table["method"] == "tree") & (table["seed"] == 1)
    table.loc[hopeless, ["status", "cv"]] = status, cv
    said = (
        r"4 of 28 experiments failed or have no cv: dataset=iris, method=svm, seed=0 \(1\); "
        r"dataset=wine, method=tree, seed=1 \(3\)"
    )
    with pytest.raises(InvalidValueError, match=rf"^{said}; choose failures='worst' or failures='drop'$"):
        select(table, BY, "cv", "accuracy")
    with pytest.warns(UserWarning, match=f"^{said}$"):
        worst = select(table, BY, "cv", "accuracy", failures="worst")
    with pytest.warns(UserWarning, match=f"^{said}$"):
        dropped = select(table, BY, "cv", "accuracy", failures="drop")
    failure = worst[worst["cv"].isna() | (worst["status"] == "error")]
    assert failure[[*BY, "C", "n_settings"]].values.tolist() == [["wine", "tree", 1, 1, 3]]
    pd.testing.assert_frame_equal(worst.drop(failure.index).reset_index(drop=True), dropped)
    with pytest.raises(InvalidValueError, match="failures"):  # a failure of the method is not lost on the way
        summarize(worst, "cv", "method", "dataset")


def test_open_settings_are_reported_and_not_chosen():
    table = study()
    best = select(table, BY, "cv", "accuracy")["ID"]
    table.loc[table["ID"].isin(best), "status"] = "running"
    said = r"8 of 28 experiments are still open: dataset=iris, method=svm, seed=0 \(1\); .* and 5 more$"
    with pytest.warns(UserWarning, match=said):
        chosen = select(table, BY, "cv", "accuracy")
    assert not set(chosen["ID"]) & set(best)
    assert chosen["n_settings"].tolist() == [3, 3, 2, 2, 3, 3, 2, 2]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"by": []}, InvalidColumnError, "by: no keyfield is named"),
        ({"by": "nix"}, InvalidColumnError, "by: 'nix' is not a keyfield; choose from dataset, method, seed, C, gamma"),
        ({"by": ["dataset", "method"]}, InvalidColumnError, "by: without 'seed', its best value would be chosen"),
        (
            {"by": [*BY, "C", "gamma"]},
            InvalidColumnError,
            "by: there is one experiment for each dataset, method, seed, C",
        ),
        ({"by": [*BY, "seed"]}, InvalidColumnError, "'seed' is named twice"),
        ({"on": "nix"}, InvalidColumnError, "no column 'nix'"),
        ({"report": "nix"}, InvalidColumnError, "no column 'nix'"),
        ({"on": "status"}, InvalidValueError, "'status' is not numeric"),
        ({"on": "accuracy"}, InvalidValueError, "on: 'accuracy' is also what you report, .* or pass optimistic=True"),
        ({"report": ["cv", "accuracy"]}, InvalidValueError, "on: 'cv' is also what you report"),
        ({"better": "most"}, InvalidValueError, "better: 'most' is unknown"),
        ({"failures": "ignore"}, InvalidValueError, "failures: 'ignore' is unknown; choose 'error', 'worst' or 'drop'"),
        ({"table": study()[:0]}, InvalidValueError, "the table has no rows"),
        ({"table": pd.concat([study(), study()])}, InvalidValueError, "repeat the keyfields"),
        ({"table": study().assign(n_settings=1)}, InvalidColumnError, "has a column 'n_settings' already"),
    ],
)
def test_what_is_refused_is_named(change, error, message):
    with pytest.raises(error, match=message):
        select(**({"table": study(), "by": BY, "on": "cv", "report": "accuracy"} | change))


def test_units_are_not_chosen():
    table = study()
    table.attrs = {"unit": ["dataset"]}
    with pytest.raises(InvalidColumnError, match="by: without 'dataset', its best value would be chosen"):
        select(table, ["method", "seed"], "cv", "accuracy")


def test_choosing_on_what_is_reported_is_said():
    chosen = select(study(), BY, "accuracy", "accuracy", optimistic=True)
    assert chosen.attrs["notes"][1:] == ["accuracy is what the settings were chosen by, and so it is optimistic"]


def test_json_keyfields_are_settings_too():
    table = study()[:8].drop(columns="C")
    table["gamma"] = [{"gamma": n} for n in range(8)]
    table["method"] = [{"name": "svm"}] * 8
    chosen = select(table, BY, "cv", "accuracy")
    assert chosen["method"].tolist() == [{"name": "svm"}] * 2
    assert {gamma["gamma"] % 2 for gamma in chosen["gamma"]} == {0, 1}
