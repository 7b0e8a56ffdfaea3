"""Figures as SVG, drawn on the server: they need no script, and a report can contain them.

They have no styles of their own, which the policy of the pages forbids: classes name what the style sheet colors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

_WIDTH, _HEIGHT = 640, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 40
_TICK = Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>')
SERIES = 8
"""Number of different lines; others are drawn like the first ones again."""


@dataclass(frozen=True)
class Line:
    """A line with an interval around it.

    Attributes
    ----------
    label : str
        Its name.
    points : sequence of tuple
        x, y, and the lower and upper end of the interval, or None.
    """

    label: str
    points: Sequence[tuple[float, float, float | None, float | None]] = field(default_factory=list)


class _Scale:
    """Numbers to coordinates."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool = False) -> None:
        self.log = log and min(values) > 0
        low, high = min(values), max(values)
        if low == high:
            low, high = (low / 2, high * 2) if self.log else (low - 0.5, high + 0.5)
        self._low, self._high = self._of(low), self._of(high)
        self._start, self._end = start, end

    def _of(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def __call__(self, value: float) -> float:
        share = (self._of(value) - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 1)

    def ticks(self) -> list[float]:
        if self.log:
            powers = [10.0**power for power in range(math.ceil(self._low), math.floor(self._high) + 1)]
            if len(powers) > 1:
                return powers[:: max(1, len(powers) // 6)]
            return [10**self._low, 10**self._high]
        step = 10 ** math.floor(math.log10((self._high - self._low) / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if (self._high - self._low) / (step * factor) <= 6)
        first = math.ceil(self._low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self._high / step + 1e-9) + 1)]


def lines(
    series: Sequence[Line],
    x: str,
    y: str,
    labels: Sequence[str] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    title: str = "",
) -> Markup:
    """Draw lines over numbers, or over places with these labels."""
    points = [point for line in series for point in line.points if all(map(math.isfinite, point[:2]))]
    if not points:
        return Markup("<p>There is nothing to draw.</p>")
    ends = [end for point in points for end in point[1:] if end is not None and math.isfinite(end)]
    across = _Scale([point[0] for point in points], _LEFT, _WIDTH - _RIGHT, log_x)
    up = _Scale([end for end in ends if end > 0] or ends if log_y else ends, _HEIGHT - _BOTTOM, _TOP, log_y)
    parts = [_axes(across, up, x, y, labels)]
    for number, line in enumerate(series):
        style, drawn = number % SERIES, [point for point in line.points if not (up.log and point[1] <= 0)]
        drawn = [point for point in drawn if all(map(math.isfinite, point[:2]))]
        floor = _HEIGHT - _BOTTOM
        band = [
            (across(px), floor if up.log and low <= 0 else up(low), up(high))
            for px, _, low, high in drawn
            if low is not None and high is not None
        ]
        if len(band) > 1:
            outline = [f"{px},{low}" for px, low, _ in band] + [f"{px},{high}" for px, _, high in reversed(band)]
            parts.append(Markup('<polygon class="band s{}" points="{}"/>').format(style, " ".join(outline)))
        path = " ".join(f"{across(px)},{up(py)}" for px, py, *_ in drawn)
        parts.append(Markup('<polyline class="line s{}" points="{}"/>').format(style, path))
        if len(drawn) <= 60:
            for px, py, *interval in drawn:
                name = labels[round(px)] if labels else number_text(px)
                text = f"{line.label}, {x} {name}: {number_text(py)}" + (
                    f" ({number_text(interval[0])} to {number_text(interval[1])})" if interval[0] is not None else ""
                )
                parts.append(_mark(style, across(px), up(py), text))
    return _figure(parts, title or f"{y} over {x}", _legend(series) if len(series) > 1 or series[0].label else None)


def _mark(style: int, px: float, py: float, text: str) -> Markup:
    """Draw a point, whose shape distinguishes lines without colors."""
    shapes = ("M-4,-4h8v8h-8z", "M0,-5l5,9h-10z", "M0,5l5,-9h-10z", "M0,-5l5,5l-5,5l-5,-5z")
    shape = (
        Markup('<circle class="mark" r="3.5"/>') if style % 5 == 0 else Markup(f'<path d="{shapes[style % 5 - 1]}"/>')
    )
    group = Markup('<g class="mark s{}" transform="translate({} {})">{}<title>{}</title></g>')
    return group.format(style, px, py, shape, text)


def _axes(across: _Scale, up: _Scale, x: str, y: str, labels: Sequence[str] | None) -> Markup:
    parts = [Markup('<path class="axis" d="M{},{}V{}H{}"/>').format(_LEFT, _TOP, _HEIGHT - _BOTTOM, _WIDTH - _RIGHT)]
    tick = _TICK
    for value in up.ticks():
        place = up(value)
        parts.append(Markup('<path class="grid" d="M{},{}H{}"/>').format(_LEFT, place, _WIDTH - _RIGHT))
        parts.append(tick.format(_LEFT - 6, place + 4, "end", number_text(value)))
    if labels is None:
        ticks = [(value, number_text(value)) for value in across.ticks()]
    else:
        step = -(-len(labels) // 10)
        ticks = [(float(number), label) for number, label in enumerate(labels) if number % step == 0]
    for value, label in ticks:
        parts.append(tick.format(across(value), _HEIGHT - _BOTTOM + 16, "middle", short(label, 12)))
    parts.append(tick.format((_LEFT + _WIDTH) / 2, _HEIGHT - 6, "middle", short(x)))
    name = Markup('<text class="tick" transform="translate(12 {}) rotate(-90)" text-anchor="middle">{}</text>')
    parts.append(name.format((_HEIGHT - _BOTTOM) / 2, short(y)))
    return Markup("").join(parts)


def _figure(parts: Sequence[Markup], title: str, legend: Markup | None, height: int = _HEIGHT) -> Markup:
    return Markup(
        '<figure class="scroll" tabindex="0">'
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>{}</figure>'
    ).format(_WIDTH, height, title, Markup("").join(parts), legend or "")


def _legend(series: Sequence[Line]) -> Markup:
    key = Markup('<li><svg class="key" viewBox="0 0 24 12" aria-hidden="true">{}</svg> {}</li>')
    entries = [
        key.format(
            Markup(f'<path class="line s{number % SERIES}" d="M0,6H24"/>') + _mark(number % SERIES, 12, 6, ""),
            line.label,
        )
        for number, line in enumerate(series)
    ]
    return Markup('<figcaption><ul class="legend">{}</ul></figcaption>').format(Markup("").join(entries))


def state_bar(counts: dict[str, int]) -> Markup:
    """Draw the shares of states as one bar, which the numbers beside it explain."""
    total = sum(counts.values())
    order = ("done", "error", "paused", "running", "created")
    parts, start = [], 0.0
    for state in [*order, *(name for name in counts if name not in order)]:
        width = 100 * counts.get(state, 0) / total if total else 0
        if width:
            rect = Markup('<rect class="state-{}" x="{:.3f}" width="{:.3f}" height="6"><title>{} {:,}</title></rect>')
            parts.append(rect.format(state if state in order else "other", start, width, state, counts[state]))
            start += width
    words = ", ".join(f"{state} {number:,}" for state, number in counts.items() if number) or "no experiments"
    return Markup(
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(words, Markup("").join(parts))


def bars(values: Sequence[tuple[str, float]], start: str, end: str, title: str, unit: str) -> Markup:
    """Draw a number for each of several times, from a start to an end."""
    most = max((value for _, value in values), default=0)
    if not most:
        return Markup("<p>There is nothing to draw.</p>")
    up = _Scale([0, most], _HEIGHT - _BOTTOM, _TOP)
    width = (_WIDTH - _LEFT - _RIGHT) / len(values)
    parts, tick = list[Markup](), _TICK
    for value in up.ticks():
        parts.append(Markup('<path class="grid" d="M{},{}H{}"/>').format(_LEFT, up(value), _WIDTH - _RIGHT))
        parts.append(tick.format(_LEFT - 6, up(value) + 4, "end", number_text(value)))
    for number, (label, value) in enumerate(values):
        rect = Markup('<rect class="column" x="{:.1f}" y="{}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>')
        text = f"until {label}: {value:,} {unit}"
        parts.append(
            rect.format(_LEFT + number * width, up(value), max(width - 1, 0.5), _HEIGHT - _BOTTOM - up(value), text)
        )
    for place, anchor, label in ((_LEFT, "start", start), (_WIDTH - _RIGHT, "end", end)):
        parts.append(tick.format(place, _HEIGHT - _BOTTOM + 16, anchor, label))
    return _figure(parts, title, None)


def gantt(
    rows: Sequence[tuple[str, Sequence[tuple[float, float, str, str]]]], start: str, end: str, title: str
) -> Markup:
    """Draw who did what when: for each name, pieces from one share of the time to another, with a class and a text."""
    row, left = 18, 180
    height = len(rows) * row + 30
    heights = {"error": 7, "lost": 7, "other": 3}  # of pieces, which distinguish outcomes without colors
    parts = []
    for number, (name, pieces) in enumerate(rows):
        top = number * row + 4
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}<title>{}</title></text>').format(
                left - 6, top + 11, short(name, 26), name
            )
        )
        parts.append(Markup('<path class="grid" d="M{},{}H{}"/>').format(left, top + 15, _WIDTH - _RIGHT))
        for begin, until, outcome, text in pieces:
            place = left + begin * (_WIDTH - _RIGHT - left)
            width = max((until - begin) * (_WIDTH - _RIGHT - left), 1)
            rect = Markup(
                '<rect class="outcome-{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>'
            )
            high = heights.get(outcome, 14)
            parts.append(rect.format(outcome, place, top + 14 - high, width, high, text))
    for place, anchor, label in ((left, "start", start), (_WIDTH - _RIGHT, "end", end)):
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>').format(
                place, height - 6, anchor, label
            )
        )
    return _figure(parts, title, None, height)


def parallel(axes: Sequence[tuple[str, Sequence[str] | None, Sequence[Any]]], values: Sequence[float]) -> Markup:
    """Draw parallel coordinates: for each axis a name, its labels if it has places, and a position for each line.

    The lines are colored by where their value is among `values`, in five steps.
    """
    height, top, bottom = 360, 40, 330
    gap = (_WIDTH - 2 * _LEFT) / max(len(axes) - 1, 1)
    most = max(int(gap / 8), 10)  # characters between two axes
    scales = [
        _Scale([0, max(len(labels) - 1, 0)] if labels is not None else numbers, bottom, top)
        for _, labels, numbers in axes
    ]
    low, high = min(values), max(values)
    order = sorted(range(len(values)), key=lambda line: values[line])
    parts = []
    for line in order:
        step = min(int(5 * (values[line] - low) / (high - low)), 4) if high > low else 2
        path = " ".join(
            f"{_LEFT + number * gap:.1f},{scale(numbers[line])}"
            for number, (scale, (_, _, numbers)) in enumerate(zip(scales, axes, strict=True))
        )
        parts.append(Markup('<polyline class="strand v{}" points="{}"/>').format(step, path))
    for number, (scale, (name, labels, _)) in enumerate(zip(scales, axes, strict=True)):
        place = _LEFT + number * gap
        parts.append(Markup('<path class="axis" d="M{:.1f},{}V{}"/>').format(place, top, bottom))
        parts.append(
            Markup('<text class="tick strong" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                place, 20 if number % 2 else 32, short(name, 14)
            )
        )
        ticks = (
            [(value, number_text(value)) for value in scale.ticks()]
            if labels is None
            else [(float(position), label) for position, label in enumerate(labels)][:: max(1, -(-len(labels) // 12))]
        )
        for value, label in ticks:
            parts.append(
                Markup('<text class="tick" x="{:.1f}" y="{}">{}</text>').format(
                    place + 4, scale(value) + 4, short(label, most)
                )
            )
    return _figure(parts, f"Parallel coordinates of {len(values)} experiments", None, height)


def ranks(levels: Sequence[tuple[str, float]], cliques: Sequence[Sequence[int]]) -> Markup:
    """Draw average ranks, best first and on the left, and below them a bar for each group without a difference."""
    row, left = 18, 200
    height = (len(levels) + len(cliques)) * row + 40
    across = _Scale([1.0, float(max(len(levels), 2))], left, _WIDTH - 2 * _RIGHT)
    parts, dot = list[Markup](), Markup('<g class="mark s0" transform="translate({} {})"><circle r="4"/></g>')
    for number, (name, rank) in enumerate(levels):
        top = number * row + 16
        parts.append(_TICK.format(left - 8, top + 4, "end", f"{short(name, 24)} {rank:.2f}"))
        parts.append(Markup('<path class="grid" d="M{},{}H{}"/>').format(left, top, _WIDTH - 2 * _RIGHT))
        parts.append(dot.format(across(rank), top))
    for number, clique in enumerate(cliques, start=len(levels)):
        top, places = number * row + 16, [across(levels[member][1]) for member in clique]
        if not number - len(levels):
            parts.append(_TICK.format(left - 8, top + 4, "end", "no significant difference"))
        parts.append(Markup('<path class="line s0" d="M{},{}H{}"/>').format(min(places), top, max(places)))
        parts += [dot.format(place, top) for place in places]
    for value in range(1, max(len(levels), 2) + 1):
        parts.append(_TICK.format(across(value), height - 8, "middle", str(value)))
    return _figure(parts, "Average ranks", None, height)


def number_text(value: Any) -> str:
    """Format a number shortly.

    >>> number_text(0.1 + 0.2), number_text(1234567.0), number_text(None)
    ('0.3', '1,234,567', '')
    """
    if value is None:
        return ""
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        if abs(value) < 1e9 and (value.is_integer() or abs(value) >= 1000):
            return f"{value:,.0f}"
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def short(text: Any, most: int = 40) -> str:
    """Return a text of at most so many characters.

    >>> short("a long name", 6)
    'a lon…'
    """
    text = str(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"
