"""Matplotlib axes that notebooks display. The only module that imports matplotlib at the top."""

from __future__ import annotations

from io import BytesIO
from typing import cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure


class DisplayedAxes(Axes):
    """Axes whose figure a notebook displays when they are the result of a cell, as with pyplot."""

    def _repr_png_(self) -> bytes:
        image = BytesIO()
        cast(Figure, self.figure).savefig(image, format="png", bbox_inches="tight")
        return image.getvalue()


def new_axes() -> Axes:
    """Return axes on a new figure. Pyplot does not manage it, so no window opens and nothing has to be closed."""
    return Figure(layout="constrained").add_subplot(axes_class=DisplayedAxes)
