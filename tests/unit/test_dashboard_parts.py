"""Parts of the dashboard without a database: figures, addresses, pages that are kept, tracebacks."""

from __future__ import annotations

import math
import re
import threading
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from starlette.datastructures import QueryParams
from starlette.responses import HTMLResponse, PlainTextResponse

from pyexperimenter.dashboard import app, charts
from pyexperimenter.dashboard.charts import Line
from pyexperimenter.dashboard.pages.effects import shares
from pyexperimenter.dashboard.pages.errors import evidence
from pyexperimenter.dashboard.pages.listing import _own_frames
from pyexperimenter.dashboard.pages.queries import _QUERY
from pyexperimenter.dashboard.view import View
from pyexperimenter.study.groups import ExperimentGroup

CONTAINERS = ["figure", "figcaption", "ul", "li", "svg", "g"]
TAGS = [*CONTAINERS, "path", "rect", "text", "title", "circle", "polyline", "polygon"]
HOSTILE = "</svg><script>alert(1)</script>\"'&"


def points(*pairs: tuple[float, float]) -> list[tuple[float, float, float | None, float | None]]:
    return [(x, y, y - 1, y + 1) for x, y in pairs]


def figures() -> list[Any]:
    place = "2026-01-01"
    return [
        charts.lines([Line(HOSTILE, points((1, 2), (2, 3))), Line("b", points((1, 1)))], HOSTILE, HOSTILE),
        charts.lines([Line("", points((0, 2), (1, 3)))], "x", "y", labels=[HOSTILE, "b"]),
        charts.lines([Line("", points((0, 0), (10, -3), (100, 1000)))], "x", "y", log_x=True, log_y=True),
        charts.lines([Line("", points((7, 7)))], "x", "y", log_x=True, log_y=True),
        charts.lines([Line("", [(1, math.nan, None, None), (2, 5, None, None), (3, math.inf, None, None)])], "x", "y"),
        charts.bars([(HOSTILE, 3.0), (place, 0.0)], HOSTILE, place, HOSTILE, "runs"),
        charts.state_bar({"done": 3, "error": 1, HOSTILE: 2}),
        charts.gantt([(HOSTILE, [(0.0, 0.5, "done", HOSTILE), (0.5, 0.5, "error", "")])], place, place, HOSTILE),
        charts.parallel([(HOSTILE, None, [1.0, 2.0]), ("b", [HOSTILE, "NULL"], [0.0, 1.0])], [0.1, 0.1]),
        charts.parallel([("a", None, [1.0, 1.0])], [0.0, 1.0]),
        charts.ranks([(HOSTILE, 1.0), ("b", 2.0)], [[0, 1]]),
    ]


@pytest.mark.parametrize("number", range(len(figures())))
def test_figures_are_harmless_and_within_their_borders(number: int) -> None:
    text = str(figures()[number])
    root = ElementTree.fromstring(text)
    names = {element.tag for element in root.iter()}
    assert names <= {
        "figure",
        "figcaption",
        "ul",
        "li",
        *["svg", "g", "path", "rect", "text", "title", "circle", "polyline", "polygon"],
    }
    allowed = {"style", "onclick", "href", "src"}
    assert not any(allowed & set(element.attrib) for element in root.iter())
    for element in root.iter("polyline"):
        for x, y in re.findall(r"([-\d.e]+),([-\d.e]+)", element.attrib["points"]):
            assert 0 <= float(x) <= 641 and 0 <= float(y) <= 361
    assert "nan" not in text and "inf" not in text.replace("information", "")


def test_nothing_to_draw_is_said() -> None:
    for figure in (
        charts.lines([], "x", "y"),
        charts.lines([Line("a", [])], "x", "y"),
        charts.bars([], "a", "b", "t", "u"),
    ):
        assert figure == "<p>There is nothing to draw.</p>"


def test_logarithmic_ticks_are_powers() -> None:
    text = charts.lines([Line("", [(1, 1, None, None), (1000, 2, None, None)])], "x", "y", log_x=True)
    assert {"1", "10", "100", "1,000"} <= set(re.findall(r">([\d,]+)</text>", text))


def view(query: str) -> View:
    study = SimpleNamespace(config=SimpleNamespace(table=SimpleNamespace(name="my study/1")))
    return View(study, "/root", QueryParams(query))  # type: ignore[arg-type]


def test_addresses_keep_what_is_selected() -> None:
    place = "order=-ID&after=7&before=9"
    one = view(f"where=a%3D1&state=error&k.x=1&k.x=null&k.name=%22it%27s%22&k.raw=text&k.list=[1]&{place}")
    assert one.where == ["a=1", {"list": ["[1]"], "name": ["it's"], "raw": ["text"], "x": [1, None]}]
    assert one.url("grid") == "/root/s/my%20study%2F1/grid"
    again = view(one.selecting("experiments", {"y": 0.1}).partition("?")[2])
    assert again.where == ["a=1", {**one.values, "y": [0.1]}] and again.states == ["error"]
    assert "order" not in again.params
    changed = view(one.changing("experiments", state=None, order="ID").partition("?")[2])
    assert changed.states == [] and changed.params["order"] == "ID" and {"after", "before"}.isdisjoint(changed.params)
    assert view("").where is None and not view("").selects


def test_what_several_browsers_ask_for_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "time", SimpleNamespace(monotonic=lambda: 0.0))
    cache, made, all_ask = app._Cache(), list[int](), threading.Event()

    def make() -> HTMLResponse:
        made.append(1)
        assert all_ask.wait(60)
        return HTMLResponse("page")

    threads = [threading.Thread(target=cache.get, args=["page", make]) for _ in range(5)]
    for thread in threads:
        thread.start()
    all_ask.set()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    cache.clear()
    cache.get("page", make)
    assert len(made) == 2


def test_pages_are_kept_for_as_long_as_they_took_times_twenty(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(app, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    cache, made = app._Cache(), list[int]()

    def make() -> HTMLResponse:
        clock[0] += 0.5
        made.append(1)
        return HTMLResponse("page")

    for moment, number in ((0, 1), (10.4, 1), (10.6, 2)):
        clock[0] = max(clock[0], moment)
        cache.get("page", make)
        assert len(made) == number, moment
    for _ in range(2):
        cache.get("file", lambda: made.append(1) or PlainTextResponse("file"))  # type: ignore[func-returns-value]
    assert len(made) == 4
    for number in range(1000):
        cache.get(f"page?{number}", lambda: HTMLResponse("page"))
    assert len(cache._pages) <= 100 and len(cache._locks) <= 100


def test_the_users_own_frames_come_first() -> None:
    error = (
        "Traceback (most recent call last):\n"
        '  File "/home/me/svm.py", line 5, in fit\n    model.fit(x)\n'
        '  File "/home/me/.venv/lib/python3.11/site-packages/sklearn/base.py", line 9, in fit\n'
        "    check(x)\n    ^^^^^\n"
        "ValueError: no\n  see the docs"
    )
    own = _own_frames(error)
    assert "svm.py" in own and "model.fit" in own and "sklearn" not in own and "check" not in own
    assert own.endswith("ValueError: no\n  see the docs")
    assert _own_frames("killed by SIGKILL") == ""


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("SELECT 1", True),
        (" -- a comment\n /* another */ with x as (select 1) select * from x", True),
        ("(SELECT 1)", True),
        ("EXPLAIN SELECT 1", True),
        ("SELECTED", False),
        ("/*! DELETE FROM t */ SELECT 1", False),
        ("-- SELECT 1", False),
        ("", False),
        ("SET x = 1", False),
    ],
)
def test_only_queries_are_accepted(text: str, accepted: bool) -> None:
    assert (_QUERY.match(text) is not None) is accepted


def test_shares_of_the_variance() -> None:
    def cell(a: int, b: str, mean: float, number: int = 2, std: float = 0.0) -> ExperimentGroup:
        return ExperimentGroup({"a": a, "b": b, "same": 1}, {}, number, mean, std)

    crossed = [cell(0, "x", 0.0), cell(0, "y", 1.0), cell(1, "x", 1.0), cell(1, "y", 0.0)]
    assert shares(crossed, ["a", "b", "same"]) == ([("a × b", 1.0), ("a", 0.0), ("b", 0.0)], True)
    noisy = [cell(0, "x", 0.0, std=1.0), cell(1, "x", 2.0, std=1.0)]
    ((name, share),), complete = shares(noisy, ["a"])
    assert (name, complete) == ("a", True) and share == pytest.approx(4 / 6)
    assert not shares([*crossed[:3], cell(1, "y", 0.0, number=1)], ["a", "b"])[1]
    assert not shares(crossed[:3], ["a", "b"])[1]
    assert shares([], ["a"]) == ([], True)


def test_keyfields_that_tell_where_failures_are_come_first() -> None:
    kernels, seeds = ["poly"] * 6, [0, 1, 2, 3, 4, 5]
    assert evidence(kernels, 3) == pytest.approx(2 * 6 * math.log(3) - 2)
    assert evidence(seeds, 6) == -5
    # Three failures cannot have more than three of twenty seeds, which says little.
    assert evidence(kernels[:3], 3) > evidence(seeds[:3], 20)
