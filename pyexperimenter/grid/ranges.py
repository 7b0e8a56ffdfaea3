"""Ranges and samples, lazy and exact: the values of keyfields whose configuration does not list them."""

from __future__ import annotations

import math
import operator
import random
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, overload

from pyexperimenter.exceptions import InvalidRangeError

_EXACT = Context(prec=40)
"""More digits than a float has, and independent of the decimal context of the user's program."""


class Lazy(Sequence[Any]):
    """A sequence whose items are computed on access."""

    def __init__(self, length: int, item: Callable[[int], Any]) -> None:
        self._length = length
        self._item = item

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self._item(i) for i in range(*index.indices(self._length))]
        return self._item(range(self._length)[index])

    def __iter__(self) -> Iterator[Any]:
        return map(self._item, range(self._length))


class Progression(Lazy):
    """A monotonic sequence of numbers, in which a number is found without computing all of them."""

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the position of `value`; ValueError if it is not in the sequence."""
        if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
            if self._length > 1 and self[0] > self[-1]:
                found = bisect_left(self, -value, key=operator.neg)
            else:
                found = bisect_left(self, value)
            if found in range(self._length)[start:stop] and self[found] == value:
                return found
        raise ValueError(f"{value!r} is not in the range")


def stepped(start: float, stop: float, step: float = 1, inclusive: bool = False) -> Sequence[Any]:
    """Return start, start + step, ... up to `stop`, which is excluded unless `inclusive`.

    Decimals are exact: each item is the float nearest to its decimal value, and errors do not add up.

    Raises
    ------
    InvalidRangeError
        If `step` is 0, too small for floats, or has the wrong sign, or if an end is not finite.

    Examples
    --------
    >>> list(stepped(0, 3))
    [0, 1, 2]
    >>> list(stepped(1, 1.5, 0.1))
    [1.0, 1.1, 1.2, 1.3, 1.4]
    >>> list(stepped(0, 4, 2, inclusive=True))
    [0, 2, 4]
    """
    _check_finite(start=start, stop=stop, step=step)
    if step == 0:
        raise InvalidRangeError("step is 0, so the range never ends; give a step other than 0")
    # A half-open range ends at the last item before the stop, a closed one at the last up to and including it.
    first, last, width = (_decimal(number) for number in (start, stop, step))
    quotient = (Fraction(last) - Fraction(first)) / Fraction(width)
    if quotient < 0:
        raise InvalidRangeError(f"a step of {step!r} from {start!r} never reaches {stop!r}; change its sign")
    length = math.floor(quotient) + 1 if inclusive else math.ceil(quotient)
    _check_length(length)
    if all(isinstance(number, int) for number in (start, stop, step)):
        return range(int(start), int(start) + length * int(step), int(step))
    return _floats(length, lambda index: _EXACT.fma(index, width, first))


def spaced(start: float, stop: float, num: int, scale: str = "linear") -> Sequence[float]:
    """Return `num` floats from `start` to `stop`, both included, evenly spaced on a linear or log scale.

    Raises
    ------
    InvalidRangeError
        If `num` is less than 1 (or 1 with two different ends) or too large for floats, or if a log scale includes 0.

    Examples
    --------
    >>> list(spaced(1e-3, 1e3, 7, "log"))
    [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]
    >>> list(spaced(0, 1, 5))
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    _check_finite(start=start, stop=stop)
    if num < 1 or (num == 1 and start != stop):
        raise InvalidRangeError(f"num is {num}, but both ends {start!r} and {stop!r} are included; give at least 2")
    if num > 1 and start == stop:
        raise InvalidRangeError(f"num is {num}, but start and stop are both {start!r}; give two different ends")
    _check_length(num)
    low, high = _decimal(float(start)), _decimal(float(stop))
    if scale == "log":
        if start == 0 or stop == 0 or (start > 0) != (stop > 0):
            raise InvalidRangeError(
                f"a log scale cannot go from {start!r} to {stop!r}; both must be positive (or both negative)"
            )
        # In decimals, so that 1e-3 ... 1e3 contains the exact powers of ten.
        logarithm = _EXACT.log10(_EXACT.divide(high, low))

        def between(index: int) -> Decimal:
            return _EXACT.multiply(low, _EXACT.power(10, _part(logarithm, index)))
    elif scale == "linear":
        distance = _EXACT.subtract(high, low)

        def between(index: int) -> Decimal:
            return _EXACT.add(low, _part(distance, index))
    else:
        raise InvalidRangeError(f"scale is {scale!r}; choose linear or log")

    def _part(whole: Decimal, index: int) -> Decimal:
        return _EXACT.divide(_EXACT.multiply(whole, index), num - 1)

    ends = {0: low, num - 1: high}
    return _floats(num, lambda index: ends[index] if index in ends else between(index))


_LARGEST_SAMPLE = 1_000_000


def sampled(distribution: str, num: int, seed: int = 0, **parameters: float) -> Sequence[Any]:
    """Return `num` random values; the same arguments give the same values on every machine.

    Parameters
    ----------
    distribution : {"uniform", "loguniform", "normal", "integers"}
        ``uniform``, ``loguniform`` and ``integers`` take `low` and `high` (both included for integers, which are
        drawn without replacement); ``normal`` takes `mean` and `std`.
    num : int
        Number of values.
    seed : int
        Seed of Python's Mersenne Twister.

    Raises
    ------
    InvalidRangeError
        If the distribution is unknown or its parameters are not valid.

    Examples
    --------
    >>> sampled("integers", 3, seed=7, low=1, high=9)
    [6, 3, 4]
    >>> len(sampled("loguniform", 4, low=1e-4, high=1e-1))
    4
    """
    expected = {"normal": {"mean", "std"}}.get(distribution, {"low", "high"})
    if distribution not in ("uniform", "loguniform", "normal", "integers"):
        raise InvalidRangeError(f"sample is {distribution!r}; choose uniform, loguniform, normal or integers")
    if set(parameters) != expected:
        given = ", ".join(sorted(parameters)) or "none"
        raise InvalidRangeError(f"a {distribution} sample takes {' and '.join(sorted(expected))}, not {given}")
    if num < 1:
        raise InvalidRangeError(f"num is {num}; draw at least 1 value")
    if num > _LARGEST_SAMPLE:
        raise InvalidRangeError(f"num is {num}; draw at most {_LARGEST_SAMPLE} values, as all are in memory")
    _check_finite(**parameters)
    generator = random.Random(seed)
    if distribution == "normal":
        if parameters["std"] <= 0:
            raise InvalidRangeError(f"std is {parameters['std']!r}; it must be positive")
        return [_normal(generator, parameters["mean"], parameters["std"]) for _ in range(num)]
    low, high = parameters["low"], parameters["high"]
    if low >= high:
        raise InvalidRangeError(f"low is {low!r} and high is {high!r}; low must be below high")
    if not _is_finite(high - low):
        raise InvalidRangeError(f"low is {low!r} and high is {high!r}; they are too far apart")
    if distribution == "integers":
        if not (isinstance(low, int) and isinstance(high, int)):
            raise InvalidRangeError(f"an integers sample needs integers as low and high, not {low!r} and {high!r}")
        if num > high - low + 1:
            raise InvalidRangeError(f"there are only {high - low + 1} integers from {low} to {high}, but num is {num}")
        if high - low >= sys.maxsize:
            raise InvalidRangeError(f"low is {low} and high is {high}; they must be less than 2**63 - 1 apart")
        return generator.sample(range(low, high + 1), num)
    if distribution == "uniform":
        return [low + (high - low) * generator.random() for _ in range(num)]
    if low <= 0:
        raise InvalidRangeError(f"low is {low!r}; it must be positive for a loguniform sample")
    # In decimals: exp and log of floats, and so the rows, would depend on the C library in their last digit.
    ratio = _EXACT.divide(_decimal(high), _decimal(low))
    return [float(_EXACT.multiply(_decimal(low), _EXACT.power(ratio, Decimal(generator.random())))) for _ in range(num)]


def _normal(generator: random.Random, mean: float, std: float) -> float:
    """Draw by Marsaglia's polar method, in decimals for the same reason as above."""
    while True:
        x, y = 2 * generator.random() - 1, 2 * generator.random() - 1
        square = x * x + y * y
        if 0 < square < 1:
            break
    factor = _EXACT.sqrt(_EXACT.divide(_EXACT.multiply(-2, _EXACT.ln(Decimal(square))), Decimal(square)))
    return float(_EXACT.fma(_EXACT.multiply(Decimal(x), factor), _decimal(std), _decimal(mean)))


def _decimal(number: float) -> Decimal:
    return Decimal(number) if isinstance(number, int) else Decimal(float.__repr__(number))


def _check_finite(**numbers: Any) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not _is_finite(number):
            raise InvalidRangeError(f"{name} is {number!r}; give a finite number")


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond all floats
        return False


def _check_length(length: int) -> None:
    if length > sys.maxsize:
        raise InvalidRangeError("the range has more values than Python can count; take fewer")


def _floats(length: int, exact: Callable[[int], Decimal]) -> Progression:
    """Return the floats nearest to a progression of decimals; refuse one so dense that neighbors may be equal."""
    numbers = Progression(length, lambda index: float(exact(index)))
    for left, right in ((0, 1), (length - 2, length - 1)) if length > 1 else ():  # floats are sparsest at an end
        largest = max(abs(numbers[left]), abs(numbers[right]))
        if _EXACT.abs(_EXACT.subtract(exact(left), exact(right))) < Decimal(math.ulp(math.nextafter(largest, 0))):
            raise InvalidRangeError(
                f"around {largest!r}, floats are further apart than the values of the range; take fewer values"
            )
    return numbers
