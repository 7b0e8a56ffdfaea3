"""A real browser: Chromium, driven by Playwright, and axe-core's rules of accessibility."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.private_server import ServerUnavailable, find_program

_PACKAGES = "chromium fonts-dejavu-core"  # Debian's
_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Chromium:
    """The program chromium."""

    def __init__(self) -> None:
        self._program = find_program("chromium", _PACKAGES)
        try:
            import axe_playwright_python
            import playwright  # noqa: F401
        except ImportError as error:
            raise ServerUnavailable(f"{error}; pip install playwright axe-playwright-python") from error
        self._axe = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")

    @contextmanager
    def browser(self) -> Iterator[Any]:
        """Start it, and yield Playwright's browser."""
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=str(self._program), args=_OPTIONS)
            yield browser
            browser.close()

    def violations(self, page: Any) -> list[str]:
        """Return which rules of accessibility a page breaks, and where."""
        page.evaluate(self._axe)
        found = page.evaluate("axe.run()")["violations"]
        return [f"{one['id']}: {node['html'][:150]}" for one in found for node in one["nodes"]]
