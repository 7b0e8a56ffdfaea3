"""Values as plain Python objects and as JSON."""

import enum
import json
import math
import types
from datetime import date, datetime

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter.jsonable import is_missing, jsonable, records, shown, to_json, unwrap


class Color(enum.Enum):
    RED = "red"
    BROKEN = 7


class Level(enum.IntEnum):
    HIGH = 3


class Pipeline:
    def __str__(self):
        return "Pipeline(scaler, svm)"


def test_other_objects_are_not_unwrapped():
    pipeline = Pipeline()
    shaped = types.SimpleNamespace(shape=(), numel=5)
    frame = pd.DataFrame({"a": [1]})
    for value in (pipeline, shaped, 5, "a", None, [1], {"a": np.float64(1)}):
        assert unwrap(value) is value
    assert unwrap(frame) is frame
    assert unwrap(np.array([1.5, 2])) == [1.5, 2.0]
    assert unwrap(np.clongdouble(1)) == "(1+0j)"


def test_json_has_one_text_for_one_value():
    assert to_json({"b": 1, "a": {"d": None, "c": True}}) == '{"a":{"c":true,"d":null},"b":1}'
    assert to_json(types.MappingProxyType({"a": 1})) == '{"a":1}'
    assert to_json({"ü": "🎉"}) == '{"ü":"🎉"}'
    assert to_json([math.nan, -math.inf, np.float32("nan"), 1e300]) == "[null,null,null,1e+300]"
    assert to_json({"a": np.array([[1.0, math.nan]])}) == '{"a":[[1.0,null]]}'
    assert to_json({np.int64(3): 1, 2: 2, True: 3, None: 4, 0.5: 5}) == '{"0.5":5,"2":2,"3":1,"null":4,"true":3}'
    assert to_json({Color.RED: Level.HIGH, "n": Color.BROKEN}) == '{"n":7,"red":3}'
    assert to_json(pd.Timestamp("2026-01-31")) == '"2026-01-31T00:00:00"'
    assert to_json([pd.NA, pd.NaT, date(2026, 1, 31)]) == '[null,null,"2026-01-31"]'
    assert to_json({3, 1, 2}) == "[1,2,3]"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(JSON_VALUES)
def test_json_is_what_the_standard_library_reads_back(value):
    assert repr(json.loads(to_json(value))) == repr(json.loads(json.dumps(value, sort_keys=True)))
    assert to_json(json.loads(to_json(value))) == to_json(value)


def test_values_without_a_json_form_become_text():
    assert jsonable({"a": Pipeline(), (1, 2): b"\xff"}) == {"a": "Pipeline(scaler, svm)", "(1, 2)": "ff"}
    assert jsonable([np.int64(3), math.inf, pd.NA, pd.NaT]) == [3, None, None, None]
    assert jsonable((datetime(2026, 1, 31, 13), np.array([1.5, math.nan]))) == ["2026-01-31T13:00:00", [1.5, None]]


def test_rows_of_a_frame_are_plain_json():
    frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [0.5, math.nan], "c": [{"x": 1}, None]})
    assert records(frame) == [{"a": 1, "b": 0.5, "c": {"x": 1}}, {"a": None, "b": None, "c": None}]
    assert json.loads(json.dumps(records(frame), allow_nan=False)) == records(frame)


def test_missing_values():
    assert all(map(is_missing, [None, math.nan, pd.NA, pd.NaT]))
    assert not any(map(is_missing, [0, "", False, math.inf, "nan"]))


def test_a_long_value_is_shortened_for_messages():
    assert shown("x" * 58) == repr("x" * 58)
    assert shown("x" * 59) == "'" + "x" * 56 + "..."
