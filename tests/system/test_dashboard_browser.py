"""The dashboard in a real browser: each screen, filters by clicking, a reset, the keyboard, narrow and dark windows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import PyExperimenter
from pyexperimenter.dashboard.server import Dashboard
from tests.support.chromium import Chromium
from tests.support.hostile import hostile_study
from tests.support.study import wait_until
from tests.support.target import Target

SCREENS = {
    "overview": "",
    "grid": "grid?value=accuracy&facet=rate",
    "experiments": "experiments?where=seed<2&k.rate=0.1",
    "experiment": "experiments/14",
    "failures": "failures",
    "results": "results?failures=drop&pairing=all&best=max",
    "parameters": "parameters",
    "curves": "curves?hue=rate&logy=1",
    "workers": "workers",
    "sql": "sql?sql=SELECT+*+FROM+study",
    "error": "experiments?where=nonsense",
}


PATIENCE = 120_000  # milliseconds


@pytest.fixture(scope="module")
def browser(chromium: Chromium) -> Iterator[Any]:
    with chromium.browser() as started:
        yield started


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> PyExperimenter:
    return hostile_study(Target("sqlite", "sqlite", str(tmp_path_factory.mktemp("study") / "study.db")))


@pytest.fixture(scope="module")
def board(study: PyExperimenter) -> Iterator[Dashboard]:
    started = study.dashboard(allow_changes=True)
    yield started
    started.stop()


def rows(page: Any, number: int) -> None:
    """Wait until the page has this many rows of a table."""
    from playwright.sync_api import expect

    expect(page.locator("tbody tr")).to_have_count(number, timeout=PATIENCE)


def title(page: Any, text: str) -> None:
    """Wait until the page has this title."""
    from playwright.sync_api import expect

    expect(page).to_have_title(re.compile(text), timeout=PATIENCE)


class Window:
    """A window that has opened the dashboard, and what it must not see: errors, and requests to others."""

    def __init__(self, browser: Any, board: Dashboard, **options: Any) -> None:
        self.home = board.url.partition("/?")[0]
        self.page = browser.new_context(**options).new_page()
        self.page.set_default_timeout(PATIENCE)
        self.bad: list[str] = []
        self.page.on("console", lambda message: self.bad.append(message.text))
        self.page.on("pageerror", lambda error: self.bad.append(str(error)))
        self.page.on("dialog", lambda dialog: self.bad.append(dialog.message))
        self.page.on("request", lambda request: self._check(request.url))
        self.page.goto(board.url)
        self.page.wait_for_url(f"{self.home}/")  # the page with the token leads here

    def _check(self, url: str) -> None:
        if not url.startswith(self.home):
            self.bad.append(url)

    def open(self, screen: str) -> Any:
        self.page.goto(f"{self.home}/s/study/{screen}")
        return self.page


@pytest.fixture
def window(browser: Any, board: Dashboard) -> Iterator[Window]:
    opened = Window(browser, board, viewport={"width": 1280, "height": 900})
    yield opened
    opened.page.context.close()
    assert opened.bad == []


def test_the_token_opens_the_studies_and_is_not_kept_in_the_address(window: Window) -> None:
    assert "token" not in window.page.url
    assert window.page.title() == "Studies – PyExperimenter"
    (cookie,) = window.page.context.cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    window.page.click("tbody th a")
    title(window.page, "^Overview ")


@pytest.mark.parametrize(("width", "scheme"), [(380, "dark"), (1280, "light"), (2560, "dark")])
def test_screens_are_accessible_and_fit(
    browser: Any, board: Dashboard, chromium: Chromium, width: int, scheme: str
) -> None:
    opened = Window(browser, board, viewport={"width": width, "height": 800}, color_scheme=scheme)
    for name, screen in SCREENS.items():
        page = opened.open(screen)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        if width != 2560:
            assert chromium.violations(page) == [], name
    expected = "Failed to load resource: the server responded with a status of 400 (Bad Request)"
    opened.page.context.close()
    assert [bad for bad in opened.bad if bad != expected] == []


def test_experiments_are_selected_by_clicking(window: Window) -> None:
    page = window.open("experiments")
    page.click("aside >> text=error")
    rows(page, 5)
    page.click("aside >> text=0.01")
    rows(page, 2)
    assert "state=error" in page.url and "k.rate=0.01" in page.url
    page.click("a.chip:has-text('error')")
    rows(page, 18)
    page.fill("input[name=where]", "seed = 2")
    page.keyboard.press("Enter")
    page.wait_for_url("**where=seed**")
    rows(page, 6)
    page.click("thead >> text=seed")
    page.locator("th[aria-sort=ascending]:has-text('seed')").wait_for()
    page.click("tbody th a >> nth=0")
    title(page, r"^Experiment \d+ ")


def test_cells_of_the_grid_map_are_clicked_and_dragged_over(window: Window) -> None:
    page = window.open("grid?rows=seed&columns=rate&where=ID<13")
    page.click("table.map td >> nth=0")
    page.wait_for_url("**/experiments?**")
    rows(page, 2)
    page.go_back()
    first, last = (page.locator(f"table.map td >> nth={number}").bounding_box() for number in (0, 3))
    page.mouse.move(first["x"] + 10, first["y"] + 10)
    page.mouse.down()
    page.mouse.move(last["x"] + 10, last["y"] + 10, steps=5)
    page.locator("td.chosen >> nth=3").wait_for()
    page.mouse.up()
    page.wait_for_url("**/experiments?**")
    rows(page, 8)


def test_parallel_coordinates_are_brushed(window: Window) -> None:
    page = window.open("parameters")
    page.locator(".strand >> nth=1").wait_for(state="attached")
    left = float(page.locator(".strand >> nth=0").get_attribute("points").partition(",")[0])

    def at(height: float) -> tuple[float, float]:
        point = "new DOMPoint(...place).matrixTransform(svg.getScreenCTM())"
        where = f"(svg, place) => {{ const at = {point}; return [at.x, at.y] }}"
        x, y = page.locator("svg:has(.strand)").evaluate(where, [left, height])
        return x, y

    page.mouse.move(*at(30))  # above the first axis, and on to its middle
    page.mouse.down()
    page.mouse.move(*at(150), steps=3)
    page.mouse.up()
    faded, all_lines = page.locator(".strand.faded").count(), page.locator(".strand").count()
    heights = page.locator(".strand").evaluate_all(
        "lines => lines.map(line => Number(line.getAttribute('points').split(' ')[0].split(',')[1]))"
    )
    assert 0 < faded == sum(height > 150 for height in heights) < all_lines
    page.mouse.click(*at(200))
    page.wait_for_function("document.querySelectorAll('.faded').length === 0")


def test_a_reset_is_asked_for_and_done(window: Window, study: PyExperimenter) -> None:
    page = window.open("experiments?k.seed=1&state=error&where=ID%3D2")
    page.click("text=Reset …")
    title(page, r"^Reset 1 experiment\? ")
    page.click("text=Go back without changing anything")
    assert study.get_experiment(2).row["status"] == "error"
    page.click("text=Reset …")
    page.click("button.danger")
    page.wait_for_url("**/experiments")
    assert study.get_experiment(2).row["status"] == "created"


def test_the_keyboard_is_enough(window: Window) -> None:
    page = window.open("")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    wait_until(lambda: page.evaluate("document.activeElement.id") == "main")
    page = window.open("")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Experiments":
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/experiments")
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_overview_follows_the_study_without_being_loaded_again(window: Window, study: PyExperimenter) -> None:
    page = window.open("")
    page.evaluate("window.stays = true")
    before = study.counts()["created"]
    study.execute(lambda keyfields, results, custom: None, max_experiments=1)
    wait_until(lambda: f"created {before - 1}" in page.locator(".counts").inner_text())
    assert page.evaluate("window.stays")


def test_a_report_is_accessible(browser: Any, chromium: Chromium, study: PyExperimenter, tmp_path: Path) -> None:
    study.report(tmp_path / "report.html")
    page = browser.new_page(viewport={"width": 380, "height": 800})
    page.set_default_timeout(PATIENCE)
    bad: list[str] = []
    page.on("console", lambda message: bad.append(message.text))
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    assert chromium.violations(page) == []
    page.close()
    assert bad == []


def test_without_scripts_all_is_there(browser: Any, board: Dashboard) -> None:
    opened = Window(browser, board, java_script_enabled=False)
    opened.open("experiments").click("aside >> text=error")
    opened.page.wait_for_url("**state=error")
    assert opened.page.locator("tbody tr").count() >= 4
    opened.page.context.close()
    assert opened.bad == []
