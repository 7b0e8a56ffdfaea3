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
