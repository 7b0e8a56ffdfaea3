"""How long what is left will take: which keyfields matter, and between which times it will be."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter.durations import interval_text
from pyexperimenter.study.forecast import by_kind, explaining, time_left

took = st.floats(0.01, 1e5)
several = st.lists(took, min_size=1, max_size=20)


def executions(number: int, rng: random.Random) -> tuple[list[tuple[int, str, str]], list[float]]:
    """Return executions of which method and data set matter, and the seed does not."""
    rows = [(rng.randrange(40), rng.choice(["svm", "net"]), rng.choice(["iris", "mnist"])) for _ in range(number)]
    factors = {"svm": 1.0, "net": 60.0, "iris": 1.0, "mnist": 5.0}
    return rows, [factors[method] * factors[dataset] * rng.uniform(0.8, 1.2) for _, method, dataset in rows]


@pytest.mark.parametrize("seed", range(5))
def test_the_keyfields_that_matter_are_found(seed: int) -> None:
    rows, seconds = executions(200, random.Random(seed))
    assert explaining(rows, seconds) == [1, 2]
    assert explaining([row[::-1] for row in rows], seconds) == [1, 0]


@pytest.mark.parametrize("seed", range(20))
def test_chance_explains_nothing(seed: int) -> None:
    rng = random.Random(seed)
    rows = [[rng.randrange(levels) for levels in (2, 3, 5, 10, 40)] for _ in range(200)]
    assert explaining(rows, [rng.lognormvariate(0, 1) for _ in rows]) == []


def test_too_few_executions_explain_nothing() -> None:
    assert explaining([], []) == []
    assert explaining([("svm",)], [1.0]) == []
    assert explaining([("svm",), ("svm",), ("net",)], [1.0, 1.0, 60.0]) == []
    assert explaining([(seed,) for seed in range(100)], [float(seed) for seed in range(100)]) == []
    assert explaining([()] * 3, [1.0, 2.0, 3.0]) == []


@pytest.mark.parametrize("seed", range(5))
def test_slow_kinds_that_are_still_to_come_count(seed: int) -> None:
    """Two workers have executed nearly all quick experiments, and few slow ones."""
    rng = random.Random(seed)
    rows, seconds = executions(400, rng)
    ran = [row[1] == "svm" or rng.random() < 0.2 for row in rows]
    done, rest = ([index for index in range(400) if ran[index] is ended] for ended in (True, False))
    recent = [seconds[index] for index in done]
    rate = len(done) / (sum(recent) / 2)
    truth = sum(seconds[index] for index in rest) / 2
    columns = explaining([rows[index] for index in done], recent)
    kinds = [tuple(row[at] for at in columns) for row in rows]
    finished = by_kind([kinds[index] for index in done], recent)
    left = {kind: len(values) for kind, values in by_kind([kinds[index] for index in rest], rest).items()}
    found = time_left(left, finished, recent, rate, running=2)
    assert found.low < truth < found.high
    assert found.seconds == pytest.approx(truth, rel=0.15)
    assert len(rest) / rate < truth / 2  # what it would be if all took as long


def test_what_takes_always_as_long_leaves_no_doubt() -> None:
    found = time_left({(): 10}, {(): [60.0] * 100}, [60.0] * 100, rate=1 / 60, running=0)
    assert found == pytest.approx((600, 600, 600))


def test_a_kind_that_was_hardly_executed_may_be_as_quick_or_slow_as_any() -> None:
    finished = {"a": [1.0] * 9, "b": [100.0] * 9, "c": [5.0]}
    found = time_left({"c": 10}, finished, [1.0] * 1000, rate=1, running=0)
    assert (found.low, found.high) == pytest.approx((10, 1000))


def test_the_last_experiment_takes_as_long_as_one_however_many_workers_there_are() -> None:
    assert time_left({(): 1}, {(): [60.0] * 100}, [60.0] * 100, rate=1, running=60).high == pytest.approx(60)


@given(st.dictionaries(st.integers(0, 5).map(lambda kind: (kind,)), st.integers(1, 10**6), min_size=1), several)
def test_the_best_estimate_is_within_the_interval(left: dict[tuple[int], int], recent: list[float]) -> None:
    finished = {(0,): recent, (1,): [value * 7 for value in recent]}
    found = time_left(left, finished, recent, rate=0.5, running=3)
    assert 0 < found.low <= found.seconds * (1 + 1e-9)
    assert found.seconds <= found.high * (1 + 1e-9)
    more = time_left({kind: count + 1 for kind, count in left.items()}, finished, recent, rate=0.5, running=3)
    assert more.seconds > found.seconds


@given(st.floats(0, 1e8), st.floats(1, 100))
def test_an_interval_is_never_shown_narrower_than_it_is(low: float, factor: float) -> None:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    *first, last = interval_text(low, low * factor).replace("up to ", "0s to ").split(" to ")
    shown = [int(text[:-1]) * units[text[-1]] for text in (*first, last)]
    assert shown[0] <= low * (1 + 1e-9)
    assert low * factor <= shown[1] * (1 + 1e-9)
