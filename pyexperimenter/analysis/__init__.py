"""Tables of results to what a paper shows: summaries, LaTeX, tests, figures. The only importer of pandas.

Whoever imports this package pays for pandas, so the facade does it where it is needed. SciPy and matplotlib are
imported by the functions that use them, and come with the extras ``stats`` and ``plots``.
"""

from pyexperimenter.analysis.comparison import Comparison, compare
from pyexperimenter.analysis.export import export_frame, join_keyfields
from pyexperimenter.analysis.frame import to_frame
from pyexperimenter.analysis.plots import plot_curves, plot_heatmap, plot_progress, plot_result
from pyexperimenter.analysis.rendering import to_html, to_latex, to_markdown, to_text
from pyexperimenter.analysis.summary import summarize

__all__ = [
    "Comparison",
    "compare",
    "export_frame",
    "join_keyfields",
    "plot_curves",
    "plot_heatmap",
    "plot_progress",
    "plot_result",
    "summarize",
    "to_frame",
    "to_html",
    "to_latex",
    "to_markdown",
    "to_text",
]
