"""Give odd inputs to a function in another process, until the time is over."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

DEADLINE = 60
"""Seconds after which an input counts as a hang; the machine may be crowded."""

_BATCH = 50  # inputs between two looks at the clock
_MOST_MEMORY = 4 * 2**30

_CONTEXT = multiprocessing.get_context("forkserver")


class Subject:
    """A process that calls a function again and again. It is replaced if it dies or hangs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._start()

    def _start(self) -> None:
        self._pipe, end = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(end, self._function), daemon=True)
        self._process.start()
        end.close()

    def __call__(self, *arguments: Any) -> Any:
        """Return what the function returns; fail the test if there is no answer."""
        self._pipe.send(arguments)
        try:
            if self._pipe.poll(DEADLINE):
                return self._pipe.recv()
            problem = f"no answer within {DEADLINE} s"
        except EOFError:
            self._process.join()
            problem = f"the process ended with {self._process.exitcode}"
        self.close()
        self._start()
        pytest.fail(problem)

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, function: Callable[..., Any]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(EOFError):
        os.chdir(directory)
        while True:
            pipe.send(function(*pipe.recv()))


def fuzz(inputs: st.SearchStrategy[Any], check: Callable[[Any], None], config: pytest.Config) -> int:
    """Check inputs for as long as the stress test runs, and return how many there were.

    The same seed gives the same inputs. Without one, `make test` has the same inputs each time.
    """
    seed = config.getoption("--stress-seed") or 1
    end = time.monotonic() + config.getoption("--stress-seconds")
    tried = 0
    while time.monotonic() < end:

        @hypothesis.seed(f"{seed} {tried}")
        @hypothesis.settings(
            max_examples=_BATCH,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(inputs)
        def batch(one: Any) -> None:
            check(one)

        with _long_integers():
            batch()
        tried += _BATCH
    print(f"\nseed {seed}: {tried} inputs")
    return tried


@contextlib.contextmanager
def _long_integers() -> Iterator[None]:
    """Let hypothesis show its inputs; the process of the subject keeps Python's limit."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


# Odd values

WORDS = """
- -- 0 -1 1e3 nan inf null None true seed ID study status done all a/b .. . ~ ~nobody_such/x %s %(x)s {} ${x} a,b a=b =
a:b : ' " ; ` \\ $ * 1_0 é \N{SNOWMAN} \N{GRINNING FACE}
"""
ODD_TEXTS = st.one_of(
    st.sampled_from(
        ["", " ", "\t", "\n", "x" * 300, "9" * 400, "9" * 5000, "\x1b[31m", "\x7f", "\u202e", *WORDS.split()]
    ),
    st.text(max_size=12),
)
"""Texts, without surrogates."""

ODD_NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2, 3, 2**31, 2**63 - 1, 2**63, -(2**63), 2**64, 10**400, -(10**5000)]),
    st.floats(),
    st.integers(),
)
