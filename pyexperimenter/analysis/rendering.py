"""Summaries rendered as tables in LaTeX, Markdown, HTML and plain text.

`layout` decides, for all formats, where each cell goes and which are bold or marked. This module only formats labels,
numbers and rows of cells.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd

from pyexperimenter.analysis.cells import NULL, Names, as_text
from pyexperimenter.analysis.layout import Best, Cell, Digits, Layout, Scale, lay_out

_MARK = "†"


def to_latex(
    summary: pd.DataFrame,
    columns: Names = None,
    stat: str | None = None,
    digits: Digits = 3,
    best: Best = None,
    best_per: str | None = None,
    caption: str | None = None,
    label: str | None = None,
    environment: str = "table",
    scale: Scale = 1,
    siunitx: bool = False,
) -> str:
    r"""Render a summary as a LaTeX table, whose first line is a comment with the packages that it needs.

    Parameters
    ----------
    summary : pandas.DataFrame
        As returned by `summarize`. You may drop or sort rows; the table keeps their order.
    columns : str or sequence of str, optional
        Keyfields whose values become columns, sorted with NULL last. The default is the `columns` of `summarize`.
    stat : str, optional
        What a cell shows, as for `summarize`, which is also the default.
    digits : int, "auto" or mapping of str to these
        Decimal places, for all values or for each value by its name. ``"auto"`` shows two significant digits of each
        spread, and 3 decimal places where there is none.
    best : {"max", "min", "indistinguishable"} or mapping of str to these, optional
        Print the largest or the smallest mean (or median) in bold, and all cells that show the same number. A cell with
        missing runs, or on a grid without conditions with fewer than those it is compared with, is never bold: if its
        number is the best, none is. With several values, give a mapping. ``"indistinguishable"`` prints the best in
        bold, and those that paired tests do not distinguish from it; `summarize` makes these tests if its `better` says
        what is better.
    best_per : {"row", "column"}, optional
        Compare the cells of a row or of a column, always for one value. The default is the row, or the column if the
        rows have a single cell.
    caption, label : str, optional
        LaTeX code, not escaped. With either of them, the ``tabular`` is in an `environment`.
    environment : str
        Such as ``"table*"``, which spans both columns of a page.
    scale : float or mapping of str to float
        What numbers are multiplied by, for all values or for each value by its name: 100 makes shares percentages.
        The note says so.
    siunitx : bool
        Align numbers at their decimal markers, in columns of the package siunitx (version 3).

    Returns
    -------
    str
        Names and strings are escaped; non-Latin letters need XeLaTeX or LuaLaTeX. A dash means that a number does not
        exist: a cell without runs, or the spread of a single run. Cells with missing runs are marked, and on a grid
        without conditions those with fewer than others. A note below the table explains the marks, and names runs that
        are missing.

    Raises
    ------
    InvalidColumnError
        If it is not a summary, or lacks a column that is needed.
    InvalidValueError
        If an option is unknown, or if two rows of the summary belong to the same cell.

    Examples
    --------
    >>> summary = pd.DataFrame({"kernel": ["linear", "rbf"], "mean": [0.92, 0.96], "std": [0.02, 0.01],
    ...                         "n": [5, 5], "missing": [0, 0]})
    >>> print(to_latex(summary, best="max"))
    % needs \usepackage{booktabs}
    \begin{tabular}{lr}
    \toprule
    kernel & mean $\pm$ standard deviation \\
    \midrule
    linear & $0.920 \pm 0.020$ \\
    rbf & $\mathbf{0.960 \pm 0.010}$ \\
    \bottomrule
    \end{tabular}
    \par\smallskip{\footnotesize Mean $\pm$ standard deviation over n = 5 runs.\par}
    """
    layout = lay_out(summary, columns, stat, digits, best, best_per, scale)
    width, packages = len(layout.names), ["booktabs"]
    write_cell = _siunitx_cell if siunitx else _latex_cell
    cells_of_columns = zip(*(cells for _, cells in layout.rows), strict=True)
    kinds = [_siunitx_column(cells) if siunitx else "r" for cells in cells_of_columns]
    lines = [rf"\begin{{tabular}}{{{'l' * width}{''.join(kinds)}}}", r"\toprule"]
    for level in range(len(layout.header) - 1):
        lines += _latex_spans(layout.spans(level), width)
    heads = [f"{{{escape_latex(head)}}}" if siunitx else escape_latex(head) for head in layout.header[-1]]
    lines += [" & ".join([*map(escape_latex, layout.names), *heads]) + r" \\", r"\midrule"]
    for names, cells in layout.rows:
        lines.append(" & ".join([*map(_latex_label, names), *map(write_cell, cells)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if siunitx:
        packages.append("siunitx")
        lines = [r"\begingroup", _SIUNITX, *lines, r"\endgroup"]
    lines.append(rf"\par\smallskip{{\footnotesize {escape_latex(layout.note)}\par}}")
    if caption is not None or label is not None:
        above = [rf"\caption{{{caption}}}"] * (caption is not None) + [rf"\label{{{label}}}"] * (label is not None)
        lines = [rf"\begin{{{environment}}}", r"\centering", *above, *lines, rf"\end{{{environment}}}"]
        packages += _PACKAGES.get(environment, ())
    return "\n".join([rf"% needs \usepackage{{{','.join(packages)}}}", *lines])


def to_markdown(
    summary: pd.DataFrame,
    columns: Names = None,
    stat: str | None = None,
    digits: Digits = 3,
    best: Best = None,
    best_per: str | None = None,
    scale: Scale = 1,
) -> str:
    """Render a summary as a Markdown table (GitHub's pipe tables, which most tools read).

    Parameters, result and errors are those of `to_latex`.

    Examples
    --------
    >>> summary = pd.DataFrame({"kernel": ["linear", "rbf"], "mean": [0.92, 0.96], "std": [0.02, 0.01],
    ...                         "n": [5, 4], "missing": [0, 1]})
    >>> print(to_markdown(summary, digits=2, best="max"))
    | kernel   |   mean ± standard deviation |
    |:---------|----------------------------:|
    | linear   |                 0.92 ± 0.02 |
    | rbf      |            0.96 ± 0.01 †4/5 |
    <BLANKLINE>
    Mean ± standard deviation over up to n = 5 runs. † Fewer results: results / runs.
    """
    layout = lay_out(summary, columns, stat, digits, best, best_per, scale)
    table = _tabulated(
        layout, "pipe", lambda value: escape_markdown(as_text(value)), lambda cell: _marked(cell, "**{}**")
    )
    return f"{table}\n\n{escape_markdown(layout.note)}"


def to_text(
    summary: pd.DataFrame,
    columns: Names = None,
    stat: str | None = None,
    digits: Digits = 3,
    best: Best = None,
    best_per: str | None = None,
    scale: Scale = 1,
) -> str:
    """Render a summary as plain text, with a star at the best.

    Parameters, result and errors are those of `to_latex`.

    Examples
    --------
    >>> summary = pd.DataFrame({"kernel": ["linear", "rbf"], "mean": [0.92, 0.96], "std": [0.02, 0.01],
    ...                         "n": [5, 4], "missing": [0, 1]})
    >>> print(to_text(summary, digits=2, best="max"))
    kernel      mean ± standard deviation
    --------  ---------------------------
    linear                    0.92 ± 0.02
    rbf                  0.96 ± 0.01 †4/5
    <BLANKLINE>
    Mean ± standard deviation over up to n = 5 runs. † Fewer results: results / runs.
    """
    layout = lay_out(summary, columns, stat, digits, best, best_per, scale)
    table = _tabulated(layout, "simple", as_text, lambda cell: _marked(cell, "*{}"))
    return f"{table}\n\n{layout.note}"


def to_html(
    summary: pd.DataFrame,
    columns: Names = None,
    stat: str | None = None,
    digits: Digits = 3,
    best: Best = None,
    best_per: str | None = None,
    scale: Scale = 1,
) -> str:
    """Render a summary as an unstyled HTML table; notebooks display it with ``IPython.display.HTML``.

    Parameters, result and errors are those of `to_latex`.

    Examples
    --------
    >>> summary = pd.DataFrame({"kernel": ["rbf"], "mean": [0.96], "std": [0.01], "n": [5], "missing": [0]})
    >>> print(to_html(summary, stat="mean"))
    <table>
    <thead>
    <tr><th>kernel</th><th>mean</th></tr>
    </thead>
    <tbody>
    <tr><th>rbf</th><td>0.960</td></tr>
    </tbody>
    <tfoot>
    <tr><td colspan="2">Mean over n = 5 runs.</td></tr>
    </tfoot>
    </table>
    """
    layout = lay_out(summary, columns, stat, digits, best, best_per, scale)
    lines = ["<table>", "<thead>"]
    for level in range(len(layout.header)):
        lowest = level == len(layout.header) - 1
        names = layout.names if lowest else [""] * len(layout.names)
        lines.append(_html_line([(name, 1) for name in names] + layout.spans(level)))
    lines += ["</thead>", "<tbody>"]
    for labels, cells in layout.rows:
        heads = "".join(f"<th>{html.escape(as_text(value))}</th>" for value in labels)
        lines.append(f"<tr>{heads}{''.join(f'<td>{_html_cell(cell)}</td>' for cell in cells)}</tr>")
    width = len(layout.names) + len(layout.header[0])
    note = f'<tr><td colspan="{width}">{html.escape(layout.note)}</td></tr>'
    return "\n".join([*lines, "</tbody>", "<tfoot>", note, "</tfoot>", "</table>"])


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",  # in OT1, LaTeX's default encoding, these three are other characters
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after \\, these two would be its arguments
    "*": "{*}",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "–": "--",
    "×": r"$\times$",
}

_PACKAGES = {"sidewaystable": ["rotating"], "sidewaystable*": ["rotating"]}  # of environments

# Bold numbers in bold; an uncertainty as ±, also if it is 0; a mark right behind its number.
_SIUNITX = (
    r"\sisetup{mode=text, reset-text-series=false, separate-uncertainty, retain-zero-uncertainty, "
    "table-align-text-after=false}"
)


def escape_latex(text: str) -> str:
    r"""Escape a string for LaTeX.

    >>> print(escape_latex("a_b: 50 % of {x}"))
    a\_b: 50 \% of \{x\}
    """
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_label(value: Any) -> str:
    r"""Format a value for text mode, numbers with a proper minus sign.

    >>> print(_latex_label("a_b"), _latex_label(-1), _latex_label(1e-5))
    a\_b $-1$ $1 \times 10^{-5}$
    """
    text = as_text(value)
    if isinstance(value, str) or not re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", text):
        return escape_latex(text)
    number = re.sub(r"e\+?(-?)0*(\d+)", r" \\times 10^{\1\2}", text)
    return f"${number}$"


def _latex_spans(spans: Sequence[tuple[str, int]], offset: int) -> Iterator[str]:
    """Yield a line of the header whose cells span columns, and the rules below it."""
    cells = [rf"\multicolumn{{{width}}}{{c}}{{{escape_latex(text)}}}" for text, width in spans]
    yield " & ".join(["" for _ in range(offset)] + cells) + r" \\"
    rules, start = [], offset + 1
    for _, width in spans:
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    yield " ".join(rules)


def _latex_cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    return f"${_latex_math(_plain(cell), cell)}$"


def _latex_math(text: str, cell: Cell) -> str:
    """Return (a part of) what a cell shows, with its mark, for math mode."""
    text = text.replace("±", r"\pm").replace(NULL, r"\mbox{--}").replace("inf", r"\infty")
    bold = rf"\mathbf{{{text}}}" if cell.bold and text else text
    mark = rf"^{{\dagger {cell.mark}}}" if cell.mark else ""
    return f"{bold}{mark}"


def _siunitx_column(cells: Sequence[Cell | None]) -> str:
    """Return the type of a column: S with room for the largest number, its uncertainty and what follows it."""
    shown = [cell for cell in cells if cell and _siunitx_numbers(cell)]
    if not shown:
        return "r"
    centers, *uncertainties = zip(*map(_siunitx_numbers, shown), strict=True)
    whole, decimals = _room([center.lstrip("-") for center in centers])
    sign = "-" * any(center.startswith("-") for center in centers)
    uncertainty = "".join(f"({sum(_room(texts))})" for texts in uncertainties)
    return f"S[table-format={sign}{whole}.{decimals}{uncertainty}{max(map(_after_number, shown), key=len)}]"


def _siunitx_cell(cell: Cell | None) -> str:
    if cell is None or not _siunitx_numbers(cell):
        return f"{{{_latex_cell(cell)}}}"
    return r"\bfseries " * cell.bold + r" \pm ".join(_siunitx_numbers(cell)) + _after_number(cell)


def _siunitx_numbers(cell: Cell) -> list[str]:
    """Return the number of a cell and its uncertainty, or nothing if siunitx cannot read them."""
    numbers = [cell.center, *(cell.spread if len(cell.spread) == 1 else ())]
    return numbers if all(re.fullmatch(r"-?\d+(\.\d+)?", number) for number in numbers) else []


def _after_number(cell: Cell) -> str:
    """Return the interval and the mark of a cell."""
    interval = f"[{', '.join(cell.spread)}]" if len(cell.spread) == 2 else ""
    text = _latex_math(interval, cell)
    return f"{{{' ' * bool(interval)}${text}$}}" if text else ""


def _room(numbers: Sequence[str]) -> tuple[int, int]:
    """Return the most digits before and after the decimal point."""
    parts = [number.partition(".") for number in numbers]
    return max(len(whole) for whole, _, _ in parts), max(len(decimals) for _, _, decimals in parts)


def escape_markdown(text: str) -> str:
    r"""Escape a string for Markdown, except for underscores within words, which have no meaning there.

    >>> print(escape_markdown("breast_cancer | *a* _b_"))
    breast_cancer \| \*a\* \_b\_
    """
    return re.sub(r"[\\`*|<\[~&$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


def _tabulated(
    layout: Layout, table_format: str, write_label: Callable[[Any], str], write_cell: Callable[[Cell | None], str]
) -> str:
    from tabulate import tabulate

    # These formats have a single header line.
    headers = [", ".join(column) for column in zip(*layout.header, strict=True)]
    return tabulate(
        [[*map(write_label, names), *map(write_cell, cells)] for names, cells in layout.rows],
        headers=[write_label(name) for name in (*layout.names, *headers)],
        tablefmt=table_format,
        disable_numparse=True,
        colalign=["left"] * len(layout.names) + ["right"] * len(headers),
    )


def _marked(cell: Cell | None, bold: str) -> str:
    text = _plain(cell)
    if cell and cell.bold:
        text = bold.format(text)
    return f"{text} {_MARK}{cell.mark}" if cell and cell.mark else text


def _html_line(spans: Sequence[tuple[str, int]]) -> str:
    wide = (f' colspan="{width}"' if width > 1 else "" for _, width in spans)
    cells = (f"<th{span}>{html.escape(text)}</th>" for span, (text, _) in zip(wide, spans, strict=True))
    return f"<tr>{''.join(cells)}</tr>"


def _html_cell(cell: Cell | None) -> str:
    text = _plain(cell)
    bold = f"<strong>{text}</strong>" if cell and cell.bold else text
    return f"{bold} <sup>{_MARK}{cell.mark}</sup>" if cell and cell.mark else bold


def _plain(cell: Cell | None) -> str:
    if cell is None:
        return NULL
    if len(cell.spread) == 2:
        return f"{cell.center} [{', '.join(cell.spread)}]"
    return " ± ".join([cell.center, *cell.spread])
