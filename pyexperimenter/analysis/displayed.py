"""Axes that a notebook shows. The only module that imports matplotlib when it is imported itself."""

from __future__ import annotations

from io import BytesIO
from typing import cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure


class DisplayedAxes(Axes):
    """Axes whose figure a notebook shows where they are the result of a cell, as pyplot's figures are."""

    def _repr_png_(self) -> bytes:
        image = BytesIO()
        cast(Figure, self.figure).savefig(image, format="png", bbox_inches="tight")
        return image.getvalue()


def new_axes() -> Axes:
    """Make axes on a figure of their own, which pyplot does not know of: no window opens, nothing has to be closed."""
    return Figure(layout="constrained").add_subplot(axes_class=DisplayedAxes)
