"""Which errors are of one kind."""

from __future__ import annotations

import json
import re
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter.tracebacks import kind_of, normalized, parts_of, summary_of


def trace(function: Callable[[], Any]) -> str:
    try:
        function()
    except BaseException:
        return traceback.format_exc()
    raise AssertionError


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("E: seed 1", "E: seed 234"),
        ("E: -1.5 is low", "E: 3e-07 is low"),
        ("E: <Model object at 0x7f3a>", "E: <Model object at 0xb4DD01>"),
        ("KeyError: 'iris'", "KeyError: 'wine 2'"),
        ('E: "it\'s" is no name', 'E: "a b" is no name'),
        ("E: can't open 'first file'", "E: can't open 'the second'"),
        ("KeyError: b'abc'", "KeyError: b'd'"),
        ("KeyError: np.str_('a')", "KeyError: np.str_('b')"),
        ("E: no file /tmp/tmpa8x/data.csv: gone", "E: no file /scratch/b/c.csv: gone"),
        ("E: data/iris.csv is empty", "E: ../x/wine.csv is empty"),
        ("E: path='/a/b'", "E: path='c'"),
        ('Traceback:\n  File "/home/a/x.py", line 3, in f\nE: 1', 'Traceback:\n  File "/tmp/x.py", line 3, in f\nE: 2'),
        (
            'Traceback:\n  File "x.py", line 3, in f\n    f(1)\n    ^^^^\nE: 1',
            'Traceback:\n  File "x.py", line 3, in f\n    f( 1 )\nE: 1',
        ),
        ("killed by SIGSEGV\nLast output:\nabc", "killed by SIGSEGV\nThe last that it printed:\nd\ne"),
        ("killed by SIGSEGV\nThe last that it printed:\nabc", "killed by SIGSEGV"),
        ("", None),
    ],
)
def test_errors_of_one_kind(one: str, other: str | None) -> None:
    assert normalized(one) == normalized(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ValueError: 1", "TypeError: 1"),
        ("E: too high", "E: too low"),
        ("E: can't do it, don't try", "E: can't run, don't try"),
        ("E: a and/or", "E: b and/or"),
        ('Traceback:\n  File "x.py", line 3, in f\nE: 1', 'Traceback:\n  File "x.py", line 4, in f\nE: 1'),
        ('Traceback:\n  File "x.py", line 3, in f\nE: 1', 'Traceback:\n  File "y.py", line 3, in f\nE: 1'),
        ("killed by SIGSEGV", "killed by SIGKILL (out of memory?)"),
    ],
)
def test_errors_of_two_kinds(one: str, other: str) -> None:
    assert normalized(one) != normalized(other)


@given(st.text())
def test_any_text_is_normalized_and_summed_up_in_one_line(text: str) -> None:
    normalized(text)
    assert len(summary_of(text).splitlines()) == 1
    assert len(kind_of(text).splitlines()) <= 1


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)), st.integers(0, 2**64))
def test_numbers_and_addresses_do_not_count(number: float, address: int) -> None:
    assert normalized(f"E: {number!r} at {address:#x}!") == "E: … at …!"


@given(st.text(st.characters(exclude_characters="'\\", categories=["L", "N", "P", "Zs"])))
def test_what_is_quoted_does_not_count(text: str) -> None:
    assert normalized(f"KeyError: '{text}'") == "KeyError: '…'"


@given(st.lists(st.text("abz.0-9_ü", min_size=1), min_size=1))
def test_paths_do_not_count(parts: list[str]) -> None:
    assert normalized(f"E: cannot open /{'/'.join(parts)}: it is gone") == "E: cannot open …: it is gone"


@pytest.mark.parametrize("part", ["a", "'", '"', "/", "'a", " '", "0x", "-1.", "1e", "\\'", "b'", "| ", "\n"])
def test_long_errors_take_no_longer_than_they_must(part: str) -> None:
    start = time.monotonic()
    normalized(part * 300_000)
    assert time.monotonic() - start < 20  # what is quadratic takes hours


def test_the_summary_is_the_exception() -> None:
    def two_lines() -> None:
        raise ValueError("expected: 3\nfound: 4")

    def with_note() -> None:
        error = KeyError("iris")
        error.__notes__ = ["while reading"]  # type: ignore[attr-defined]
        raise error

    def chained() -> None:
        try:
            two_lines()
        except ValueError as error:
            raise RuntimeError("no fit") from error

    assert summary_of(trace(two_lines)) == "ValueError: expected: 3"
    assert summary_of(trace(with_note)) == "KeyError: 'iris'"
    assert summary_of(trace(chained)) == "RuntimeError: no fit"
    assert summary_of("killed by SIGSEGV\nLast output:\nTraceback") == "killed by SIGSEGV"
    assert summary_of("  \n") == summary_of("") == "no error text"


GROUP = """\
  + Exception Group Traceback (most recent call last):
  |   File "/home/me/x.py", line 1, in <module>
  |     run()
  | ExceptionGroup: several (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | ValueError: seed 1
    +---------------- 2 ----------------
    | TypeError: 2
    +------------------------------------
"""


def test_groups_of_exceptions() -> None:
    assert summary_of(GROUP) == "ExceptionGroup: several (2 sub-exceptions)"
    assert normalized(GROUP) == normalized(GROUP.replace("seed 1", "seed 17").replace("/home/me", "/tmp"))
    assert normalized(GROUP) != normalized(GROUP.replace("seed", "rate"))


DUMP = """\
exceeded time_limit 2s and was killed
Last output:
epoch 1
Thread 0x00007fd3537fe6c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 982 in run
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Thread 0x00007fd353fff6c0 [loader] (most recent call first):
  File "/home/me/data.py", line 9 in load
  File "/usr/lib/python3.11/threading.py", line 982 in run

Thread 0x00007fd358ca06c0 (most recent call first):
  File "/usr/lib/python3.11/multiprocessing/connection.py", line 395 in _recv
  File "/venv/lib/python3.11/site-packages/pyexperimenter/execution/supervision/child.py", line 148 in _listen

Current thread 0x00007fd35f7d7b80 (most recent call first):
  File "/usr/lib/python3.11/json/encoder.py", line 258 in iterencode
  File "/usr/lib/python3.11/json/__init__.py", line 238 in dumps
  File "/home/me/model.py", line 8 in fit
  File "/venv/lib/python3.11/site-packages/sklearn/base.py", line 70 in wrapper
  File "/home/me/experiment.py", line 18 in train
  File "/venv/lib/python3.11/site-packages/pyexperimenter/execution/worker.py", line 181 in run
  File "/venv/lib/python3.11/site-packages/pyexperimenter/execution/supervision/child.py", line 70 in main
  File "<string>", line 1 in <module>
epoch 2
"""


def test_a_process_that_was_killed_is_explained_by_where_its_function_was() -> None:
    assert summary_of(DUMP) == "exceeded time_limit 2s in fit (model.py:8)"
    parts = parts_of(DUMP)
    assert parts.cause == "exceeded time_limit 2s and was killed"
    assert parts.output == "epoch 1\nepoch 2"
    assert (
        parts.folded_stacks
        == """\
Stack (most recent call first):
  ... 2 frames of libraries ...
  File "/home/me/model.py", line 8 in fit
  ... 1 frame of libraries ...
  File "/home/me/experiment.py", line 18 in train
Another thread:
  File "/home/me/data.py", line 9 in load
  ... 1 frame of libraries ..."""
    )


def test_where_a_process_was_killed_does_not_count_for_its_kind() -> None:
    assert normalized(DUMP) == normalized(DUMP.replace("model.py", "other.py").replace("2s", "3s"))
    assert kind_of(DUMP) == "exceeded time_limit …s and was killed"


def test_of_an_installed_function_the_first_frame_is_shown() -> None:
    installed = DUMP.replace("/home/me/", "/venv/lib/python3.11/site-packages/study/")
    assert summary_of(installed) == "exceeded time_limit 2s in train (experiment.py:18)"
    assert summary_of(DUMP.replace("/", "\\").replace("lib\\python3.11", "Lib")) == summary_of(DUMP)


def test_output_that_resembles_a_stack_is_output() -> None:
    output = "(most recent call first):\nTraceback (most recent call last):"
    assert (
        summary_of(f"killed by SIGKILL (out of memory?)\nLast output:\n{output}")
        == "killed by SIGKILL (out of memory?)"
    )
    assert parts_of(f"killed by SIGKILL (out of memory?)\nLast output:\n{output}").output == output


def test_a_kind_is_the_exception_and_the_users_function() -> None:
    def load() -> None:
        raise KeyError("iris")

    def call() -> None:
        re.sub("a", lambda match: load(), "a")  # type: ignore[arg-type,return-value]

    def within_a_library() -> None:
        json.loads("{")

    assert kind_of(trace(call)) == "KeyError in load"
    assert kind_of(trace(within_a_library)) == "json.decoder.JSONDecodeError in within_a_library"
    assert kind_of("ValueError: 3 is too low") == "ValueError: … is too low"
