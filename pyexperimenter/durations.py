"""Durations in a readable form: ``60s``, ``5m``, ``2h``, ``1d``, ``1h30m``, or a number of seconds."""

from __future__ import annotations

import math
import re
from typing import Any

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?[dhms])+")
DURATION_PATTERN = r"^(?:(?:[\s\d.]*[dhmsDHMS])+\s*|[\s\d.eE+_-]*)$"
"""The texts that are durations, as a regular expression of JSON Schema; it also matches a few others, such as 0s."""
_PART = re.compile(r"(\d+(?:\.\d*)?)([dhms])")


def seconds(duration: Any) -> float:
    """Return a duration in seconds.

    Raises
    ------
    ValueError
        If it is not a positive duration.

    Examples
    --------
    >>> seconds("1h30m")
    5400.0
    >>> seconds(90)
    90.0
    """
    total = _number_of_seconds(duration)
    if not 0 < total < math.inf:
        raise ValueError(
            f"{duration!r} is not a positive duration; write 60s, 5m, 2h, 1d, 1h30m or a number of seconds"
        )
    return total


def duration_text(seconds: float) -> str:
    """Return a duration in the readable form.

    Examples
    --------
    >>> duration_text(5400), duration_text(2.5), duration_text(93784)
    ('1h30m', '2.5s', '1d2h3m4s')
    """
    if seconds < 60:
        return f"{seconds:.3g}s"
    left, text = round(seconds), ""
    for unit, length in _SECONDS.items():
        count, left = divmod(left, int(length))
        text += f"{count}{unit}" if count else ""
    return text


def interval_text(low: float, high: float) -> str:
    """Return between which durations one is, without digits that would look more exact than they are.

    Examples
    --------
    >>> interval_text(6900, 10000), interval_text(1300, 2000), interval_text(33, 41), interval_text(5, 170)
    ('1h to 3h', '20m to 35m', '30s to 45s', 'up to 3m')
    """
    unit, length = next(((unit, length) for unit, length in _SECONDS.items() if high >= 2 * length), ("s", 1.0))
    step = length * (1 if high <= 10 * length else 5)
    first, last = (int(count * step / length) for count in (low // step, math.ceil(high / step)))
    return f"{first}{unit} to {last}{unit}" if first else f"up to {last}{unit}"


def _number_of_seconds(duration: Any) -> float:
    if isinstance(duration, bool):
        return math.nan
    text = re.sub(r"\s", "", str(duration).lower())
    if _DURATION.fullmatch(text):
        return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    try:
        return float(text)
    except ValueError:
        return math.nan
