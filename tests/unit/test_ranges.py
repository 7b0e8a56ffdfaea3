"""Ranges and samples: exact, lazy, the same everywhere, and refused if they make no sense."""

import decimal
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter.exceptions import InvalidRangeError
from pyexperimenter.grid.ranges import Lazy, Progression, sampled, spaced, stepped


def shown(values):
    return [repr(value) for value in values]


# Steps


def test_stepped_floats_are_exact():
    values = list(stepped(1, 5, 0.1))
    assert values == [tenth / 10 for tenth in range(10, 50)]  # 1.3, not 1.3000000000000003
    assert {type(value) for value in values} == {float}


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((0, 3), [0, 1, 2]),
        ((0, 0), []),
        ((0, 0, -1), []),
        ((5, 0, -2), [5, 3, 1]),
        ((0, 5, 10), [0]),
        ((0.0, 3), [0.0, 1.0, 2.0]),
        ((0, 3.0), [0.0, 1.0, 2.0]),
        ((0, 0.3, 0.1), [0.0, 0.1, 0.2]),
        ((0, 0.35, 0.1), [0.0, 0.1, 0.2, 0.3]),
        ((0.3, 0, -0.1), [0.3, 0.2, 0.1]),
        ((0.5, -0.6, -0.5), [0.5, 0.0, -0.5]),
        ((1e-5, 3.5e-5, 1e-5), [1e-5, 2e-5, 3e-5]),
        ((-0.0, 1.0, 0.5), [0.0, 0.5]),
        ((2**60, 2**60 + 3, 2), [2**60, 2**60 + 2]),
        ((2.0**53 - 2, 2**53 + 1), [2.0**53 - 2, 2.0**53 - 1, 2.0**53]),
        ((np.float64(0), np.float64(1), np.float64(0.25)), [0.0, 0.25, 0.5, 0.75]),
    ],
)
def test_the_stop_is_excluded(arguments, expected):
    assert shown(stepped(*arguments)) == shown(expected)
    assert len(stepped(*arguments)) == len(expected)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((0, 4, 2), [0, 2, 4]),
        ((0, 5, 2), [0, 2, 4]),
        ((5, 0, -5), [5, 0]),
        ((3, 3), [3]),
        ((0, 0.3, 0.1), [0.0, 0.1, 0.2, 0.3]),
        ((0, 0.35, 0.1), [0.0, 0.1, 0.2, 0.3]),
    ],
)
def test_the_stop_is_included_if_inclusive(arguments, expected):
    assert shown(stepped(*arguments, inclusive=True)) == shown(expected)


@given(st.integers(-(10**9), 10**9), st.integers(-(10**6), 10**6).filter(bool), st.integers(1, 50), st.booleans())
def test_every_item_is_the_float_nearest_to_its_decimal(start, step, count, inclusive):
    stop = start + step * count
    values = stepped(start / 1000, stop / 1000, step / 1000, inclusive)
    assert list(values) == [(start + step * index) / 1000 for index in range(count + inclusive)]
    assert len(values) == count + inclusive


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 1, 0), "step is 0, so the range never ends; give a step other than 0"),
        ((0, 1, 0.0), "step is 0, so the range never ends; give a step other than 0"),
        ((0, 5, -1), "a step of -1 from 0 never reaches 5; change its sign"),
        ((1.5, 0, 0.5), "a step of 0.5 from 1.5 never reaches 0; change its sign"),
        ((0, float("inf")), "stop is inf; give a finite number"),
        ((float("nan"), 1), "start is nan; give a finite number"),
        ((0, 1, "1"), "step is '1'; give a finite number"),
        ((True, 3), "start is True; give a finite number"),
        ((0, 10**400), f"stop is {10**400}; give a finite number"),
        ((0, 1, 1e-300), "the range has more values than Python can count; take fewer"),
        ((0, 10**30), "the range has more values than Python can count; take fewer"),
        (
            (1e16, 1e16 + 10, 1.0),
            "around 1e+16, floats are further apart than the values of the range; take fewer values",
        ),
        (
            (-1e16, 0, 0.5),
            "around 1e+16, floats are further apart than the values of the range; take fewer values",
        ),
        (
            (0, 1e16 + 2, 0.5),
            "around 1.0000000000000002e+16, floats are further apart than the values of the range; take fewer values",
        ),
    ],
)
def test_an_invalid_range_is_refused(arguments, message):
    with pytest.raises(InvalidRangeError) as caught:
        stepped(*arguments)
    assert str(caught.value) == message


# Spaces


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((1e-3, 1e3, 7, "log"), [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]),
        ((1e3, 1e-3, 3, "log"), [1000.0, 1.0, 0.001]),
        ((-1, -100, 3, "log"), [-1.0, -10.0, -100.0]),
        ((1, 1024, 11, "log"), [float(2**n) for n in range(11)]),
        ((1e-200, 1e-180, 3, "log"), [1e-200, 1e-190, 1e-180]),
        ((1e-300, 1e300, 5, "log"), [1e-300, 1e-150, 1.0, 1e150, 1e300]),
        ((0, 1, 5), [0.0, 0.25, 0.5, 0.75, 1.0]),
        ((0, 1, 11), [tenth / 10 for tenth in range(11)]),
        ((0.1, 0.7, 3), [0.1, 0.4, 0.7]),
        ((1, -1, 3), [1.0, 0.0, -1.0]),
        ((0, 1, 4), [0.0, 1 / 3, 2 / 3, 1.0]),
        ((0, 7, 2), [0.0, 7.0]),
        ((7, 7, 1), [7.0]),
        ((-1.7e308, 1.7e308, 3), [-1.7e308, 0.0, 1.7e308]),
    ],
)
def test_spaced_values_are_exact_and_hold_both_ends(arguments, expected):
    assert shown(spaced(*arguments)) == shown(expected)
    assert len(spaced(*arguments)) == len(expected)


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6).filter(bool), st.integers(1, 40))
def test_linear_spaces_are_exact(start, step, gaps):
    stop = start + step * gaps
    expected = [(start + step * index) / 100 for index in range(gaps + 1)]
    assert list(spaced(start / 100, stop / 100, gaps + 1)) == expected


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 1, 0), "num is 0, but both ends 0 and 1 are included; give at least 2"),
        ((0, 1, 1), "num is 1, but both ends 0 and 1 are included; give at least 2"),
        ((2, 2, 5), "num is 5, but start and stop are both 2; give two different ends"),
        ((0, 1, 3, "log"), "a log scale cannot go from 0 to 1; both must be positive (or both negative)"),
        ((1, 0.0, 3, "log"), "a log scale cannot go from 1 to 0.0; both must be positive (or both negative)"),
        ((-1, 1, 3, "log"), "a log scale cannot go from -1 to 1; both must be positive (or both negative)"),
        ((1, 2, 3, "cubic"), "scale is 'cubic'; choose linear or log"),
        ((float("-inf"), 2, 3), "start is -inf; give a finite number"),
        ((1, 2, 10**30), "the range has more values than Python can count; take fewer"),
        (
            (1, 1 + 4e-16, 5),
            "around 1.0, floats are further apart than the values of the range; take fewer values",
        ),
        (
            (1, 1 + 4e-16, 9, "log"),
            "around 1.0, floats are further apart than the values of the range; take fewer values",
        ),
    ],
)
def test_invalid_spacing_is_refused(arguments, message):
    with pytest.raises(InvalidRangeError) as caught:
        spaced(*arguments)
    assert str(caught.value) == message


def test_ranges_do_not_depend_on_the_decimal_context():
    expected = [list(spaced(1e-3, 2e3, 5, "log")), list(spaced(0.1, 1.7, 7)), list(stepped(0.12345, 1, 0.1))]
    lazy = [spaced(1e-3, 2e3, 5, "log"), spaced(0.1, 1.7, 7), stepped(0.12345, 1, 0.1)]
    with decimal.localcontext() as context:
        context.prec = 3
        context.rounding = decimal.ROUND_UP
        context.traps[decimal.Inexact] = True
        assert [list(values) for values in lazy] == expected
        assert list(stepped(0.12345, 1, 0.1)) == expected[2]
        assert sampled("normal", 2, mean=0, std=1) == NORMAL[:2]
        assert sampled("loguniform", 2, low=1e-4, high=0.1) == LOGUNIFORM[:2]


# Samples. The literals are guaranteed: equal arguments give the same ones in every version, on every machine.

NORMAL = [0.6202001216069017, -0.5152970855979494, 0.3028459185822786]
LOGUNIFORM = [0.034140160192072944, 0.018787249753397024, 0.0018268998599127641]


@pytest.mark.parametrize(
    "distribution, num, seed, parameters, expected",
    [
        ("uniform", 3, 0, {"low": 0, "high": 1}, [0.8444218515250481, 0.7579544029403025, 0.420571580830845]),
        ("uniform", 2, 7, {"low": -10, "high": 10.0}, [-3.523344703336752, -6.9830165215099615]),
        ("loguniform", 3, 0, {"low": 1e-4, "high": 0.1}, LOGUNIFORM),
        ("normal", 3, 0, {"mean": 0, "std": 1}, NORMAL),
        ("integers", 5, 0, {"low": 1, "high": 100}, [50, 98, 54, 6, 34]),
        ("integers", 3, 7, {"low": 1, "high": 9}, [6, 3, 4]),
    ],
)
def test_a_sample_is_the_same_on_every_machine(distribution, num, seed, parameters, expected):
    assert shown(sampled(distribution, num, seed, **parameters)) == shown(expected)


def test_a_sample_is_the_same_in_another_process():
    code = "from pyexperimenter.grid.ranges import sampled; print(sampled('normal', 4, seed=3, mean=2, std=5))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(sampled("normal", 4, seed=3, mean=2, std=5))


def test_a_longer_sample_begins_with_the_shorter():
    for distribution, parameters in [("uniform", {"low": 0, "high": 1}), ("normal", {"mean": 0, "std": 1})]:
        assert sampled(distribution, 9, **parameters)[:4] == sampled(distribution, 4, **parameters)


def test_samples_follow_their_distribution():
    normal = sorted(sampled("normal", 20_000, seed=1, mean=2, std=3))
    quantiles = [normal[round(20_000 * share)] for share in (0.1587, 0.5, 0.8413)]
    assert quantiles == pytest.approx([-1, 2, 5], abs=0.15)  # mean - std, mean, mean + std
    loguniform = sorted(sampled("loguniform", 20_000, seed=1, low=1e-4, high=1))
    assert loguniform[0] >= 1e-4
    assert loguniform[-1] <= 1
    assert [loguniform[5000 * n] for n in (1, 2, 3)] == pytest.approx([1e-3, 1e-2, 1e-1], rel=0.15)
    uniform = sorted(sampled("uniform", 20_000, seed=1, low=-4, high=4))
    assert (uniform[0] >= -4, uniform[-1] <= 4) == (True, True)
    assert [uniform[5000 * n] for n in (1, 2, 3)] == pytest.approx([-2, 0, 2], abs=0.15)


def test_integers_are_drawn_without_replacement():
    assert sorted(sampled("integers", 9, seed=5, low=-4, high=4)) == list(range(-4, 5))


@pytest.mark.parametrize(
    "distribution, num, parameters, message",
    [
        (
            "cauchy",
            3,
            {"low": 0, "high": 1},
            "sample is 'cauchy'; choose uniform, loguniform, normal or integers",
        ),
        ("uniform", 3, {"mean": 0, "std": 1}, "a uniform sample takes high and low, not mean, std"),
        ("normal", 3, {}, "a normal sample takes mean and std, not none"),
        ("uniform", 0, {"low": 0, "high": 1}, "num is 0; draw at least 1 value"),
        ("uniform", 3, {"low": 1, "high": 1}, "low is 1 and high is 1; low must be below high"),
        ("uniform", 3, {"low": 0, "high": float("inf")}, "high is inf; give a finite number"),
        (
            "uniform",
            3,
            {"low": -1.7e308, "high": 1.7e308},
            "low is -1.7e+308 and high is 1.7e+308; they are too far apart",
        ),
        ("normal", 3, {"mean": 0, "std": 0}, "std is 0; it must be positive"),
        ("loguniform", 3, {"low": 0, "high": 1}, "low is 0; it must be positive for a loguniform sample"),
        (
            "integers",
            3,
            {"low": 0.5, "high": 9},
            "an integers sample needs integers as low and high, not 0.5 and 9",
        ),
        ("integers", 4, {"low": 1, "high": 3}, "there are only 3 integers from 1 to 3, but num is 4"),
        (
            "integers",
            4,
            {"low": -(2**63), "high": 2**63 - 1},
            "low is -9223372036854775808 and high is 9223372036854775807; they must be less than 2**63 - 1 apart",
        ),
    ],
)
def test_an_invalid_sample_is_refused(distribution, num, parameters, message):
    with pytest.raises(InvalidRangeError) as caught:
        sampled(distribution, num, **parameters)
    assert str(caught.value) == message


# Lazy sequences


def test_a_lazy_sequence_is_a_sequence():
    asked = []
    values = Lazy(5, lambda index: asked.append(index) or index * index)
    assert isinstance(values, Sequence)
    assert len(values) == 5
    assert asked == []  # nothing is computed before it is accessed
    assert (values[0], values[-1], values[1:4], values[::-2]) == (0, 16, [1, 4, 9], [16, 4, 0])
    assert list(values) == [0, 1, 4, 9, 16]
    assert list(reversed(values)) == [16, 9, 4, 1, 0]
    assert 9 in values
    assert values.index(9) == 3
    for outside in (5, -6):
        with pytest.raises(IndexError):
            values[outside]


@given(st.integers(-1000, 1000), st.integers(-100, 100).filter(bool), st.integers(1, 60))
def test_a_number_is_found_at_its_position(start, step, count):
    values = stepped(start / 10, (start + step * count) / 10, step / 10)
    assert isinstance(values, Progression)
    assert [values.index(value) for value in values] == list(range(count))
    between = (values[0] + values[-1] + step / 20) / 2
    for missing in (between, values[0] - step / 10, values[-1] + step / 10, float("nan"), None, "0.0", True):
        if missing not in list(values) or missing is True:
            with pytest.raises(ValueError, match="not in the range"):
                values.index(missing)


def test_a_number_is_found_by_bisection():
    asked = []
    values = Progression(10**12, lambda index: asked.append(index) or float(index))
    assert values.index(123_456_789_012) == 123_456_789_012
    assert len(asked) < 60
    assert values.index(7, 5, 8) == 7
    with pytest.raises(ValueError, match=r"7 is not in the range"):
        values.index(7, 8)
