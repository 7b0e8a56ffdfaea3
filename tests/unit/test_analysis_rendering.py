"""Tables of papers: their layout, what is bold, what is marked, and that no name breaks the format."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter.analysis import compare, summarize, to_html, to_latex, to_markdown, to_text
from pyexperimenter.analysis.summary import COLUMNS
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError


def summary(cells, columns=(), **attrs):
    """Make a summary: cells map the values of the keyfields to (mean, std, n, missing); the last key may be a value."""
    lines = [(*key, *statistics) for key, statistics in cells.items()]
    names = [*attrs.pop("names", ["dataset", "kernel"]), "mean", "std", "n", "missing"]
    made = pd.DataFrame(lines, columns=names)
    made.attrs = {"values": ["accuracy"], "columns": list(columns), "stat": "mean±std"} | attrs
    return made


def grid():
    return summary(
        {
            ("iris", "linear"): (0.95, 0.0123, 5, 0),
            ("iris", "rbf"): (0.9634, 0.01, 3, 2),
            ("wine", "linear"): (0.9, np.nan, 1, 0),
        },
        columns=["kernel"],
    )


def latex_lines(table, **options):
    """Render a LaTeX table; return its lines without the comment."""
    comment, *lines = to_latex(table, **options).split("\n")
    assert comment.startswith("% needs ")
    return lines


def cells_of(markdown):
    """Return the cells of a Markdown table that has no pipes in its cells, without header and note."""
    lines = markdown.split("\n\n")[0].split("\n")[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# Whole tables


def test_markdown():
    assert to_markdown(grid(), best="max").split("\n") == [
        "| dataset   |             linear |                rbf |",
        "|:----------|-------------------:|-------------------:|",
        "| iris      |      0.950 ± 0.012 | 0.963 ± 0.010 †3/5 |",
        "| wine      | **0.900 ± –** †1/1 |                  – |",
        "",
        "accuracy: mean ± standard deviation over up to n = 5 runs. † Fewer results: results / runs.",
    ]


def test_latex():
    assert latex_lines(grid(), best="max", digits=2, caption="Accuracy, $n=5$", label="tab:a") == [
        r"\begin{table}",
        r"\centering",
        r"\caption{Accuracy, $n=5$}",
        r"\label{tab:a}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"dataset & linear & rbf \\",
        r"\midrule",
        r"iris & $0.95 \pm 0.01$ & $0.96 \pm 0.01^{\dagger 3/5}$ \\",
        r"wine & $\mathbf{0.90 \pm \mbox{--}}^{\dagger 1/1}$ & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip{\footnotesize accuracy: mean $\pm$ standard deviation over up to n = 5 runs. "
        r"$\dagger$ Fewer results: results / runs.\par}",
        r"\end{table}",
    ]


def test_html():
    assert to_html(grid(), best="max").split("\n") == [
        "<table>",
        "<thead>",
        "<tr><th>dataset</th><th>linear</th><th>rbf</th></tr>",
        "</thead>",
        "<tbody>",
        "<tr><th>iris</th><td>0.950 ± 0.012</td><td>0.963 ± 0.010 <sup>†3/5</sup></td></tr>",
        "<tr><th>wine</th><td><strong>0.900 ± –</strong> <sup>†1/1</sup></td><td>–</td></tr>",
        "</tbody>",
        "<tfoot>",
        '<tr><td colspan="3">accuracy: mean ± standard deviation over up to n = 5 runs. '
        "† Fewer results: results / runs.</td></tr>",
        "</tfoot>",
        "</table>",
    ]


def test_a_complete_table_has_no_marks_and_shows_n():
    complete = summary({("iris", "rbf"): (0.5, 0.1, 5, 0), ("wine", "rbf"): (0.6, 0.1, 5, 0)})
    text = to_markdown(complete)
    assert "†" not in text
    assert text.endswith("\n\naccuracy: mean ± standard deviation over n = 5 runs.")
    assert "n = 1 run." in to_markdown(summary({("iris", "rbf"): (0.5, np.nan, 1, 0)}))


@pytest.mark.parametrize(("options", "environment"), [({}, False), ({"caption": "c"}, True), ({"label": "l"}, True)])
def test_latex_makes_a_float_where_there_is_something_to_say(options, environment):
    lines = latex_lines(grid(), **options)
    assert lines[0].startswith(r"\begin{table}" if environment else r"\begin{tabular}")
    assert (r"\caption{c}" in lines) == ("caption" in options)
    assert (r"\label{l}" in lines) == ("label" in options)


# Layout


def several_values():
    return summary(
        {
            ("iris", "linear", 1, "accuracy"): (0.9, 0.1, 5, 0),
            ("iris", "linear", 2, "accuracy"): (0.8, 0.1, 5, 0),
            ("iris", "rbf", 1, "accuracy"): (0.7, 0.1, 5, 0),
            ("iris", "linear", 1, "seconds"): (3.25, 0.5, 5, 0),
            ("iris", "linear", 2, "seconds"): (2.25, 0.5, 5, 0),
            ("iris", "rbf", 1, "seconds"): (1.25, 0.5, 5, 0),
        },
        names=["dataset", "kernel", "C", "value"],
        columns=["kernel", "C"],
        values=["accuracy", "seconds"],
    )


def test_several_values_are_groups_of_columns():
    lines = latex_lines(several_values(), stat="mean", digits={"accuracy": 2, "seconds": 1})
    assert lines[2:9] == [
        r" & \multicolumn{3}{c}{accuracy} & \multicolumn{3}{c}{seconds} \\",
        r"\cmidrule(lr){2-4} \cmidrule(lr){5-7}",
        r" & \multicolumn{2}{c}{linear} & \multicolumn{1}{c}{rbf} & \multicolumn{2}{c}{linear} & "
        r"\multicolumn{1}{c}{rbf} \\",
        r"\cmidrule(lr){2-3} \cmidrule(lr){4-4} \cmidrule(lr){5-6} \cmidrule(lr){7-7}",
        r"dataset & C = 1 & C = 2 & C = 1 & C = 1 & C = 2 & C = 1 \\",
        r"\midrule",
        r"iris & $0.90$ & $0.80$ & $0.70$ & $3.2$ & $2.2$ & $1.2$ \\",
    ]
    assert '<tr><th></th><th colspan="3">accuracy</th><th colspan="3">seconds</th></tr>' in to_html(several_values())
    header = to_markdown(several_values()).split("\n")[0]
    assert [cell.strip() for cell in header.strip("|").split("|")][1:3] == [
        "accuracy, linear, C = 1",
        "accuracy, linear, C = 2",
    ]


def test_without_columns_the_value_is_the_header():
    table = to_markdown(grid(), columns=[])
    assert re.split(r"\s*\|\s*", table.split("\n")[0])[1:-1] == ["dataset", "kernel", "accuracy"]
    assert [cells[:2] for cells in cells_of(table)] == [["iris", "linear"], ["iris", "rbf"], ["wine", "linear"]]


def test_columns_may_be_renamed():
    assert [cells[0] for cells in cells_of(to_markdown(grid(), columns="dataset"))] == ["linear", "rbf"]


def test_rows_keep_their_order_and_columns_are_sorted_null_last():
    table = summary(
        {
            ("wine", np.nan): (1, 0, 5, 0),
            ("wine", 10.0): (2, 0, 5, 0),
            ("iris", 0.5): (3, 0, 5, 0),
        },
        names=["dataset", "gamma"],
        columns=["gamma"],
    )
    text = to_markdown(table, stat="mean", digits=0)
    assert re.split(r"\s*\|\s*", text.split("\n")[0])[1:-1] == ["dataset", "gamma = 0.5", "gamma = 10", "gamma = –"]
    assert cells_of(text) == [["wine", "–", "2", "1"], ["iris", "3", "–", "–"]]


def test_null_among_the_rows():
    table = summary({(np.nan,): (1, 0, 5, 0), (2,): (2, 0, 5, 0)}, names=["gamma"])
    assert cells_of(to_markdown(table, stat="mean", digits=0)) == [["–", "1"], ["2", "2"]]


def test_a_summary_without_attrs_is_enough():
    bare = grid()
    bare.attrs = {}
    assert cells_of(to_markdown(bare))[0] == ["iris", "linear", "0.950 ± 0.012"]
    assert to_markdown(bare).endswith(
        "\n\nMean ± standard deviation over up to n = 5 runs. † Fewer results: results / runs."
    )
    assert cells_of(to_markdown(bare, columns="kernel")) == cells_of(to_markdown(grid()))


def test_a_summary_without_its_column_keyfield_is_enough():
    only = grid().query("kernel == 'linear'").drop(columns="kernel")
    assert cells_of(to_markdown(only, stat="mean")) == [["iris", "0.950"], ["wine", "0.900 †1/1"]]


def test_what_summarize_makes_is_shown_as_it_was_asked_for():
    table = pd.DataFrame(
        {
            "ID": range(1, 9),
            "dataset": ["iris"] * 4 + ["wine"] * 4,
            "kernel": ["linear", "linear", "rbf", "rbf"] * 2,
            "seed": [0, 1] * 4,
            "creation_date": pd.Timestamp("2026-01-01"),
            "status": "done",
            "accuracy": [0.1, 0.3, 0.2, 0.6, 0.5, 0.7, 0.4, 0.8],
        }
    )
    made = summarize(table, "accuracy", rows="dataset", columns="kernel", stat="median±iqr")
    wine = to_markdown(made[made["dataset"] == "wine"], digits=2)
    assert cells_of(wine) == [["wine", "0.60 [0.55, 0.65]", "0.60 [0.50, 0.70]"]]
    assert r"accuracy: median \[Q1, Q3] over n = 2 runs." in to_markdown(made)
    assert r"wine & $0.600 [0.550, 0.650]$ & $0.600 [0.500, 0.700]$ \\" in to_latex(made)
    assert cells_of(to_markdown(made, stat="mean", digits=1))[0] == ["iris", "0.2", "0.4"]


# Numbers


@pytest.mark.parametrize(
    ("mean", "std", "markdown", "latex"),
    [
        (-0.5, 0.25, "-0.50 ± 0.25", r"$-0.50 \pm 0.25$"),
        (-0.001, 0.0, "0.00 ± 0.00", r"$0.00 \pm 0.00$"),
        (np.inf, np.nan, "inf ± –", r"$\infty \pm \mbox{--}$"),
        (-np.inf, np.nan, "-inf ± –", r"$-\infty \pm \mbox{--}$"),
        (np.nan, np.nan, "–", r"$\mbox{--}$"),
        (1234567.891, 1e-9, "1234567.89 ± 0.00", r"$1234567.89 \pm 0.00$"),
    ],
)
def test_numbers(mean, std, markdown, latex):
    table = summary({("iris", "rbf"): (mean, std, 5, 0)})
    assert cells_of(to_markdown(table, digits=2))[0][2] == markdown
    assert latex_lines(table, digits=2)[4] == rf"iris & rbf & {latex} \\"


def test_a_cell_of_open_rows_is_marked():
    table = summary({("iris", "rbf"): (np.nan, np.nan, 0, 5), ("wine", "rbf"): (0.5, 0.1, 5, 0)})
    assert cells_of(to_markdown(table))[0][2] == "– †0/5"


def test_a_cell_with_open_runs_is_marked_despite_an_equal_count():
    table = summary({("iris", "rbf"): (0.5, 0.1, 5, 1), ("wine", "rbf"): (0.5, 0.1, 5, 0)})
    assert [cells[2] for cells in cells_of(to_markdown(table))] == ["0.500 ± 0.100 †5/6", "0.500 ± 0.100"]


# The best


def bold(table, **options):
    """Return which cells are bold, row by row."""
    return [
        [cell.startswith("**") for cell in cells[1:]] for cells in cells_of(to_markdown(table, stat="mean", **options))
    ]


def means(*rows):
    cells = {(f"d{i}", f"k{j}"): (mean, 0.1, 5, 0) for i, row in enumerate(rows) for j, mean in enumerate(row)}
    return summary(cells, columns=["kernel"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[False, False], [False, False]]),
        ({"best": "max"}, [[True, False], [False, True]]),
        ({"best": "min"}, [[False, True], [True, False]]),
        ({"best": "max", "best_per": "column"}, [[True, False], [False, True]]),
        ({"best": "min", "best_per": "column"}, [[False, True], [True, False]]),
        ({"best": {"accuracy": "max"}, "best_per": "row"}, [[True, False], [False, True]]),
    ],
)
def test_the_best_is_bold(options, expected):
    assert bold(means([0.5, 0.1], [0.3, 0.4]), **options) == expected


def test_columns_are_compared_where_rows_have_one_cell():
    table = means([0.5, 0.1], [0.3, 0.4])
    assert [cell[2].startswith("**") for cell in cells_of(to_markdown(table, columns=[], stat="mean", best="max"))] == [
        True,
        False,
        False,
        False,
    ]


def test_ties_at_the_digits_shown_are_all_bold():
    assert bold(means([0.9624, 0.9634, 0.9631]), best="max") == [[False, True, True]]
    assert bold(means([0.9624, 0.9634, 0.9631]), best="max", digits=4) == [[False, True, False]]
    assert bold(means([0.1 + 0.2, 0.3]), best="max", digits=9) == [[True, True]], "a rounding error is not a difference"
    assert bold(means([-0.0001, 0.0, 0.1]), best="min") == [[True, True, False]]


def test_auto_shows_two_significant_digits_of_the_spread():
    cells = {
        ("iris", "linear"): (0.98765, 3.2e-5, 5, 0),
        ("iris", "rbf"): (0.98761, 0.0123, 5, 0),
        ("wine", "linear"): (12.5, 0.0996, 5, 0),
        ("wine", "rbf"): (1234.5, 120, 5, 0),
        ("yeast", "linear"): (0.5, 0, 5, 0),
        ("yeast", "rbf"): (0.5, 1e-17, 5, 0),
        ("zoo", "linear"): (0.98765, 3.2e-5, 5, 0),
        ("zoo", "rbf"): (0.9912, 0.12, 5, 0),
    }
    table = summary(cells, columns=["kernel"])
    assert cells_of(to_markdown(table, digits="auto", best="max")) == [
        ["iris", "**0.987650 ± 0.000032**", "**0.988 ± 0.012**"],
        ["wine", "12.50 ± 0.10", "**1234 ± 120**"],
        ["yeast", "**0.500 ± 0.000**", "**0.500 ± 0.000**"],
        ["zoo", "**0.987650 ± 0.000032**", "**0.99 ± 0.12**"],
    ]
    assert cells_of(to_markdown(table, digits={"accuracy": "auto"}, stat="mean"))[0] == ["iris", "0.987650", "0.988"]
    assert cells_of(to_markdown(several_values(), digits={"accuracy": "auto"}))[0][1].count("0") > 0


def test_nan_is_never_the_best_and_infinity_may_be():
    assert bold(means([np.nan, 0.5, np.nan]), best="max") == [[False, True, False]]
    assert bold(means([np.nan, np.nan]), best="max") == [[False, False]]
    assert bold(means([np.inf, 0.5]), best="max") == [[True, False]]
    assert bold(means([np.inf, -0.5]), best="min") == [[False, True]]


def test_incomplete_cells_are_never_the_best():
    def marks(n, missing):
        return bold(
            summary({("d", "a"): (0.5, 0.1, n, missing), ("d", "b"): (0.4, 0.1, 5, 0)}, columns=["kernel"]), best="max"
        )

    assert marks(5, 0) == [[True, False]]
    assert marks(4, 1) == marks(4, 0) == [[False, False]], "of the other cell, it is not known"
    unpaired = summary({("d", "a"): (0.5, 0.1, 4, 1), ("d", "b"): (0.6, 0.1, 4, 0)}, columns=["kernel"])
    assert bold(unpaired.assign(unpaired=[0, 1]), best="max") == [[False, True]], (
        "it has a result, which does not count"
    )


def test_each_value_has_its_own_best():
    options = {"best": {"accuracy": "max", "seconds": "min"}}
    assert bold(several_values(), **options) == [[True, False, False, False, False, True]]
    assert bold(several_values(), best={"seconds": "min"}) == [[False, False, False, False, False, True]]
    with pytest.raises(
        InvalidValueError, match=r"for each whether max or min is best: {'accuracy': 'max', 'seconds': "
    ):
        bold(several_values(), best="max")


def methods(scores, **options):
    """Summarize accuracies of methods, data sets x methods (x seeds)."""
    scores = np.asarray(scores, dtype=float)
    scores = scores.reshape(*scores.shape, *[1] * (3 - scores.ndim))
    index = np.indices(scores.shape).reshape(3, -1)
    table = pd.DataFrame({"ID": range(scores.size), **dict(zip(("dataset", "method", "seed"), index, strict=True))})
    table = table.assign(method=table["method"].map(lambda number: f"m{number}"))
    table = table.assign(creation_date=pd.Timestamp("2026-01-01"), status="done", accuracy=scores.ravel())
    return table if options.pop("raw", False) else summarize(table, "accuracy", **options)


def different(blocks=8):
    """The best method, one that is not distinguished from it, and one that is always worse."""
    generator = np.random.default_rng(0)
    best = generator.random((blocks, 1)) + 1
    return np.hstack([best, best + np.where(np.arange(blocks) % 2, 0.1, -0.11)[:, None], best - 0.3])


def test_what_is_not_distinguished_from_the_best_is_marked():
    made = methods(different(), rows="method", over=["dataset", "seed"], better="max")
    assert bold(made, best="max") == [[True], [False], [False]]
    assert bold(made, best="indistinguishable") == [[True], [True], [False]]
    pairs = compare(methods(different(), raw=True), "accuracy", by="method", blocks="dataset").pairwise
    assert list(made["p_best"]) == pytest.approx([1, *pairs["p_holm"][:2]]), "the p-values that compare() prints"
    note = "Marked: not distinguished from the best of the column (Wilcoxon signed-rank tests with Holm's correction, p"
    assert f"{note} > 0.05)." in to_text(made, best="indistinguishable")
    assert "Marked" not in to_text(made, best="max")
    fewer = methods(-different(), rows="method", over=["dataset", "seed"], better="min", stat="median")
    assert bold(fewer, best="indistinguishable") == [[True], [True], [False]]


def test_each_row_has_its_own_tests():
    scores = np.stack([different(7).T, -different(7).T])  # data sets x methods x seeds
    made = methods(scores, rows="dataset", columns="method", better="max", unit="seed")
    assert bold(made, best="indistinguishable") == [[True, True, False], [False, False, True]]
    few = methods(scores[:, :, :5], rows="dataset", columns="method", better="max")
    assert bold(few, best="indistinguishable") == [[True, True, True], [True, True, True]]
    assert "5 units are too few to distinguish any." in to_text(few, best="indistinguishable")
    splits = methods(scores[:, :, :5], rows="dataset", columns="method", better="max", test_share=0.1)
    assert "(corrected resampled t tests with Holm's" in to_text(splits, best="indistinguishable")
    assert "too few" not in to_text(splits, best="indistinguishable")


def test_an_incomplete_best_distinguishes_nothing():
    table = methods(different(), raw=True)
    table.loc[3, "status"] = "created"
    with pytest.warns(UserWarning, match="1 run still open"):
        made = summarize(table, "accuracy", rows="method", over=["dataset", "seed"], better="max")
    assert bold(made, best="indistinguishable") == [[False], [False], [False]]


def test_tests_that_were_not_made_are_named():
    made = methods(different(), rows="method", over=["dataset", "seed"])
    with pytest.raises(InvalidValueError, match=r"no tests of accuracy; tell summarize\(\) what is better"):
        to_text(made, best="indistinguishable")
    made = methods(np.stack([different().T] * 2), rows="dataset", columns="method", better="max")
    for options in ({"best_per": "column"}, {"columns": "dataset"}):
        with pytest.raises(InvalidValueError, match=r"compares the cells that summarize\(\) tested"):
            to_text(made, best="indistinguishable", **options)
    table = methods(different(), raw=True).assign(seconds=1.0)
    for better, values, message in (
        ("higher", "accuracy", "better: 'higher' is unknown; choose 'max', 'min' or None"),
        ({"f1": "max"}, "accuracy", "better: 'f1' is not summarized; choose from accuracy"),
        ("max", ["accuracy", "seconds"], r"for one value; .* is better: {'accuracy': 'max', 'seconds': 'max'}"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            summarize(table, values, rows="method", over=["dataset", "seed"], better=better)
    made = summarize(table, ["accuracy", "seconds"], "method", over=["dataset"], better={"accuracy": "max"})
    assert bold(made, best={"accuracy": "indistinguishable", "seconds": "min"})[2] == [False, True]


# What is refused


@pytest.mark.parametrize("render", [to_latex, to_markdown, to_html])
@pytest.mark.parametrize(
    ("table", "options", "error", "message"),
    [
        (grid(), {"columns": "seed"}, InvalidColumnError, "no column 'seed', only dataset, kernel, mean"),
        (grid(), {"columns": ["dataset", "kernel"]}, InvalidColumnError, "leave at least one for the rows"),
        (grid(), {"stat": "median±iqr"}, InvalidColumnError, "no column 'median'.* pass what summarize"),
        (grid(), {"stat": "mode"}, InvalidValueError, "'mode' is unknown"),
        (grid().drop(columns="n"), {}, InvalidColumnError, "no column 'n'"),
        (grid()[:0], {}, InvalidValueError, "the summary has no rows"),
        (grid(), {"best": "greatest"}, InvalidValueError, "best: 'greatest' is unknown; choose 'max', 'min', 'indist"),
        (
            grid(),
            {"best": {"acuracy": "max"}},
            InvalidValueError,
            "best: 'acuracy' is not in the summary; choose from accuracy",
        ),
        (grid(), {"best_per": "table"}, InvalidValueError, "best_per: 'table' is unknown"),
        (grid(), {"digits": 10**10}, InvalidValueError, "digits: 10000000000 is not a whole number from 0 to 300"),
        (grid(), {"digits": -1}, InvalidValueError, "digits: -1 is not a whole number from 0 to 300"),
        (grid(), {"digits": "all"}, InvalidValueError, "digits: 'all' is not a whole number"),
        (grid(), {"digits": {"f1": 2}}, InvalidValueError, "digits: 'f1' is not in the summary"),
        (
            pd.concat([grid(), grid()[1:2]]),
            {},
            InvalidValueError,
            "several rows for accuracy at dataset=iris, kernel=rbf",
        ),
    ],
)
def test_what_is_refused_is_named(render, table, options, error, message):
    with pytest.raises(error, match=message):
        render(table, **options)


# Names

NASTY = [
    "breast_cancer",
    "_private_ __init__",
    "50 % & more",
    "a|b",
    "$x^2$",
    "#1 {x} \\alpha ~tilde",
    "<script>&amp;</script>",
    "[link](x) *bold* `code`",
    "[1] at the beginning of a row",
    "* at the beginning of a row",
    "line\nbreak",
    "–†±",
    '"quoted"',
]
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Zs")) | st.just(" "), min_size=1
)


class Cells(HTMLParser):
    """Collects the texts of the cells of an HTML table."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.texts.append("")

    def handle_data(self, data):
        if self.texts:
            self.texts[-1] += data.strip("\n")


def named(text):
    return summary({(text, text): (0.5, 0.1, 5, 0)}, names=[text, text + "2"], columns=[text + "2"], values=[text])


@given(TEXTS.map(str.strip).filter(lambda text: text not in ("", *COLUMNS)) | st.sampled_from(NASTY))
def test_html_shows_names_as_they_are(text):
    parser = Cells()
    parser.feed(to_html(named(text)))
    shown = " ".join(text.split())
    assert parser.texts[:3] == [shown, shown, shown]
    assert parser.texts[4].startswith(f"{shown}: mean")
    assert parser.tags <= {"table", "thead", "tbody", "tfoot", "tr", "th", "td"}


@given(st.text("ab_*|`<>[]()\\~&$#!1 ", min_size=1).map(str.strip).filter(bool) | st.sampled_from(NASTY))
def test_markdown_shows_names_as_they_are(text):
    markdown_it = pytest.importorskip("markdown_it")
    shown = " ".join(text.split())
    table = summary({(text,): (0.5, 0.1, 5, 0)}, names=["method"], values=["accuracy"])
    parser = Cells()
    parser.feed(markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(to_markdown(table)))
    assert parser.texts[:3] == ["method", "accuracy", shown]
    assert parser.tags <= {"table", "thead", "tbody", "tr", "th", "td", "p"}


def read_latex(text):
    """Return what LaTeX would print: commands for letters are replaced, and no other special character is allowed."""
    commands = {
        r"\textbackslash{}": "\\",
        r"\textasciitilde{}": "~",
        r"\textasciicircum{}": "^",
        r"\textless{}": "<",
        r"\textgreater{}": ">",
        r"\textbar{}": "|",
        r"$\pm$": "±",
        r"$\dagger$": "†",
        "{[}": "[",
        "{*}": "*",
        "--": "–",
    }
    tokens = re.findall("|".join(map(re.escape, commands)) + r"|\\[&%$#_{}]|[^\\&%$#_{}~^<>|]", text)
    assert "".join(tokens) == text, "something here is no letter for LaTeX"
    return "".join(commands.get(token, token.removeprefix("\\")) for token in tokens)


@given(st.text("ab_%&#${}\\~^<>|[]*± ", min_size=1).map(str.strip).filter(bool) | st.sampled_from(NASTY))
def test_latex_shows_names_as_they_are(text):
    table = summary({(text,): (0.5, 0.1, 5, 0)}, names=["method"])
    line = latex_lines(table)[4]
    name = line.removesuffix(r" & $0.500 \pm 0.100$ \\")
    assert name != line
    assert read_latex(name) == " ".join(text.split())
    assert not name.startswith(("[", "*")), "it would be an argument of the line's end above"


@pytest.mark.parametrize(
    ("value", "latex"),
    [
        (-1, "$-1$"),
        (0.5, "$0.5$"),
        (10.0, "$10$"),
        (1e-05, r"$1 \times 10^{-5}$"),
        (2.5e20, r"$2.5 \times 10^{20}$"),
        (True, "True"),
        ("-1", "-1"),
        (None, "--"),
        (float("inf"), "inf"),
    ],
)
def test_latex_writes_numbers_as_numbers(value, latex):
    table = summary({(value,): (0.5, 0.1, 5, 0)}, names=["C"])
    assert latex_lines(table)[4].split(" & ")[0] == latex


def test_numbers_can_be_scaled_to_percent():
    for digits in (1, "auto"):
        text = to_text(grid(), scale=100, digits=digits, best="max")
        iris = re.split(r"  +", text.split("\n")[2])
        assert iris == ["iris", "95.0 ± 1.2", "96.3 ± 1.0 †3/5"]
        assert text.endswith("† Fewer results: results / runs. Multiplied: accuracy by 100.")
    both = to_markdown(several_values(), scale={"accuracy": 100})
    assert both.endswith("Multiplied: accuracy by 100.")
    assert to_markdown(several_values(), scale={"accuracy": 1}) == to_markdown(several_values())
    for scale in (0, -1, float("nan"), "much"):
        with pytest.raises(InvalidValueError, match=r"scale: .* is not a positive number"):
            to_text(grid(), scale=scale)
    with pytest.raises(InvalidValueError, match="scale: 'nix' is not in the summary"):
        to_html(grid(), scale={"nix": 100})


def test_a_latex_table_can_span_both_columns_of_a_page():
    lines = latex_lines(grid(), caption="c", environment="table*")
    assert (lines[0], lines[-1]) == (r"\begin{table*}", r"\end{table*}")


def test_a_comment_names_the_packages():
    assert to_latex(grid()).startswith("% needs \\usepackage{booktabs}\n")
    assert to_latex(grid(), siunitx=True).startswith("% needs \\usepackage{booktabs,siunitx}\n")
    sideways = {"environment": "sidewaystable"}
    assert to_latex(grid(), caption="c", **sideways).startswith("% needs \\usepackage{booktabs,rotating}\n")
    assert to_latex(grid(), **sideways).startswith("% needs \\usepackage{booktabs}\n"), "without a caption, no float"


# Columns of siunitx


def test_siunitx_aligns_numbers_at_their_decimal_markers():
    assert latex_lines(grid(), best="max", siunitx=True) == [
        r"\begingroup",
        r"\sisetup{mode=text, reset-text-series=false, separate-uncertainty, retain-zero-uncertainty, "
        "table-align-text-after=false}",
        r"\begin{tabular}{lS[table-format=1.3(4)]S[table-format=1.3(4){$^{\dagger 3/5}$}]}",
        r"\toprule",
        r"dataset & {linear} & {rbf} \\",
        r"\midrule",
        r"iris & 0.950 \pm 0.012 & 0.963 \pm 0.010{$^{\dagger 3/5}$} \\",
        r"wine & {$\mathbf{0.900 \pm \mbox{--}}^{\dagger 1/1}$} & {--} \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\endgroup",
        r"\par\smallskip{\footnotesize accuracy: mean $\pm$ standard deviation over up to n = 5 runs. "
        r"$\dagger$ Fewer results: results / runs.\par}",
    ]


@pytest.mark.parametrize(
    ("numbers", "digits", "form"),
    [
        ([(0.5, 0.25)], 2, "1.2(3)"),
        ([(-0.5, 0.25), (12.5, 0.1)], 1, "-2.1(2)"),
        ([(0.5, 12.5)], 3, "1.3(5)"),
        ([(1.5, 0.0123), (120, 3.4)], "auto", "3.3(4)"),
        ([(95, 2)], 0, "2.0(1)"),
        ([(-0.0001, 0)], 1, "1.1(2)"),  # 0.0, without a sign
    ],
)
def test_siunitx_has_room_for_all_numbers_of_a_column(numbers, digits, form):
    cells = {(f"d{row}", "rbf"): (*number, 5, 0) for row, number in enumerate(numbers)}
    lines = latex_lines(summary(cells, columns=["kernel"]), digits=digits, siunitx=True)
    assert lines[2] == rf"\begin{{tabular}}{{lS[table-format={form}]}}"


def test_siunitx_shows_what_is_not_a_number_in_braces():
    cells = {("a", "x"): (np.inf, np.nan, 5, 0), ("b", "x"): (np.nan, np.nan, 0, 0)}
    lines = latex_lines(summary(cells, columns=["kernel"]), siunitx=True)
    assert lines[2] == r"\begin{tabular}{lr}", "there is no number to align"
    assert lines[6:8] == [r"a & {$\infty \pm \mbox{--}$} \\", r"b & {$\mbox{--}^{\dagger 0/0}$} \\"]


def test_siunitx_shows_intervals_after_the_number():
    made = methods([[0.25, 0.5], [0.75, 1.0]], rows="dataset", columns="method", stat="median±iqr")
    lines = latex_lines(made, digits=2, best="max", siunitx=True)
    assert lines[2].endswith(r"{lS[table-format=1.2{ $[0.25, 0.25]$}]S[table-format=1.2{ $\mathbf{[0.50, 0.50]}$}]}")
    assert lines[6] == r"$0$ & 0.25{ $[0.25, 0.25]$} & \bfseries 0.50{ $\mathbf{[0.50, 0.50]}$} \\"
