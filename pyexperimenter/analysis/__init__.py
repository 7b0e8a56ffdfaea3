"""From tables of results to a paper: DataFrames, summaries, LaTeX, statistical tests and figures.

Only this package imports pandas, which is slow to import, so its callers import it where they need it. SciPy and
matplotlib are imported by the functions that use them; the extras ``stats`` and ``plots`` install them.
"""

from pyexperimenter.analysis.aggregates import (
    improvement_probabilities,
    interquartile_means,
    performance_profiles,
    plot_profiles,
)
from pyexperimenter.analysis.anytime import Anytime, anytime
from pyexperimenter.analysis.auditing import Audit
from pyexperimenter.analysis.blocks import complete_blocks
from pyexperimenter.analysis.comparing import compare
from pyexperimenter.analysis.comparison import Comparison
from pyexperimenter.analysis.export import export_frame
from pyexperimenter.analysis.frame import to_frame
from pyexperimenter.analysis.joining import concat_studies, join_keyfields
from pyexperimenter.analysis.pareto import pareto, plot_pareto
from pyexperimenter.analysis.plots import plot_curves, plot_heatmap, plot_progress, plot_result
from pyexperimenter.analysis.rendering import to_html, to_latex, to_markdown, to_text
from pyexperimenter.analysis.selection import select
from pyexperimenter.analysis.summary import summarize

__all__ = [
    "Anytime",
    "Audit",
    "Comparison",
    "anytime",
    "compare",
    "complete_blocks",
    "concat_studies",
    "export_frame",
    "improvement_probabilities",
    "interquartile_means",
    "join_keyfields",
    "pareto",
    "performance_profiles",
    "plot_curves",
    "plot_heatmap",
    "plot_pareto",
    "plot_profiles",
    "plot_progress",
    "plot_result",
    "select",
    "summarize",
    "to_frame",
    "to_html",
    "to_latex",
    "to_markdown",
    "to_text",
]
