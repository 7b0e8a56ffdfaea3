"""The critical difference diagram of Demšar (2006): average ranks on an axis, and bars that join similar ones.

Demšar's bars are those of the Nemenyi test, which only looks at average ranks. With tests of pairs, two levels can
differ although a level between them differs from neither, and the other way round; so each bar shows its members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from pyexperimenter.analysis.plots import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Distances below the axis, in lines of text.
_ABOVE = -1.5  # where the critical difference is drawn
_CLIQUE = 0.4
_NAME = 0.9
_LINE = 0.22  # inches of a new figure
_TITLE = 0.9  # inches for title and ticks
_TICKS = 10  # whose numbers fit between long names


def draw_critical_differences(
    names: Sequence[str],
    ranks: Sequence[float],
    cliques: Sequence[Sequence[int]],
    note: str,
    critical_difference: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw average ranks as in Demšar (2006), figure 1, with the best on the right.

    Parameters
    ----------
    names : sequence of str
        What is compared, best first.
    ranks : sequence of float
        Average ranks, ascending.
    cliques : sequence of sequences of int
        The positions in `names`, ascending, of each group without significant differences. Its bar is thick between
        neighbors, and dotted where it passes a level that does not belong to the group.
    note : str
        What the bars mean; the title.
    critical_difference : float, optional
        The smallest significant difference of average ranks, drawn above the axis.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on. Names are to their left and right, for which a figure with ``layout="constrained"`` has room.
        The default is a new figure, as high as is needed.

    Returns
    -------
    matplotlib.axes.Axes
        The gid of a line is ``"clique"`` or ``"passes by"`` for the parts of a bar, ``"member"`` for its dots, and
        ``"critical difference"``.

    Raises
    ------
    PyExperimenterError
        If matplotlib is missing.

    Examples
    --------
    >>> ax = draw_critical_differences(["a", "b", "c"], [1.2, 1.9, 2.9], [(0, 1)], "Bars join similar levels")
    >>> [line.get_xdata().tolist() for line in ax.lines if line.get_gid() == "clique"]
    [[1.2, 1.9]]
    """
    axes, k = axes_or_new(ax), len(names)
    first_name = _CLIQUE * (len(cliques) + 1) + 0.6
    bottom = first_name + _NAME * math.ceil(k / 2)
    top = -1 if critical_difference is None else _ABOVE - 1
    _draw_axis(axes, k, bottom, top)
    if ax is None:
        cast("Figure", axes.figure).set_figheight(_TITLE + _LINE * (bottom - top))

    half = math.ceil(k / 2)
    for number, (name, rank) in enumerate(zip(names, ranks, strict=True)):
        on_the_right = number < half
        # On either side, the outermost name is the highest, so that lines do not cross.
        height = first_name + _NAME * (number if on_the_right else k - 1 - number)
        edge = 0.9 if on_the_right else k + 0.1
        axes.plot([rank, rank, edge], [0, height, height], color="black", linewidth=0.8)
        side = "left" if on_the_right else "right"
        axes.text(edge, height, f" {name} ({rank:.2f}) ", ha=side, va="center")
    for number, clique in enumerate(cliques):
        _draw_clique(axes, clique, ranks, _CLIQUE * (number + 1))

    axes.set_title(note, fontsize="medium")
    if critical_difference is not None:
        start, end = k, k - critical_difference
        axes.plot([start, end], [_ABOVE, _ABOVE], color="black", marker="|", gid="critical difference")
        axes.text((start + end) / 2, _ABOVE, f"CD = {critical_difference:.2f}", ha="center", va="bottom")
    return axes


def _draw_clique(axes: Axes, clique: Sequence[int], ranks: Sequence[float], height: float) -> None:
    for one, other in pairwise(clique):
        neighbors = other == one + 1
        style: dict[str, Any] = {"linewidth": 4} if neighbors else {"linewidth": 1.5, "linestyle": ":"}
        gid = "clique" if neighbors else "passes by"
        axes.plot([ranks[one], ranks[other]], [height, height], color="black", gid=gid, **style)
    members = [ranks[level] for level in clique]
    axes.plot(members, [height] * len(clique), color="black", marker="o", linestyle="", gid="member")


def _draw_axis(axes: Axes, k: int, bottom: float, top: float) -> None:
    """Reduce the axes to a horizontal axis from k to 1 at height 0."""
    axes.set_xlim(k + 0.1, 0.9)
    axes.set_ylim(bottom, top)
    axes.set_yticks([])
    axes.set_xticks(range(1, k + 1, math.ceil(k / _TICKS)))
    axes.xaxis.tick_top()
    for side in ("left", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["top"].set_position(("data", 0))
    axes.spines["top"].set_bounds(1, k)
