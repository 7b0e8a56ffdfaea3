"""Make the pictures of the dashboard in docs/pictures, with Chromium.

They show every screen of the study of `make demo`, and of that of a million experiments of benchmarks/dashboard.py,
which takes a minute to make. Run it in a clone without uncommitted changes, where `make test` has made the environment:
.venv/bin/python docs/dashboard_pictures.py [DIRECTORY [STUDY.db]]

Another study is shown as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from pyexperimenter import PyExperimenter

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from common import sqlite_config  # noqa: E402
from large_study import CURVES, large_config, large_study  # noqa: E402

_COLORS = 64  # of a picture, which make it half as large
_ROWS = 1_000_000
SCREENS = {
    "studies": None,
    "overview": "",
    "grid": "grid?rows=dataset&columns=kernel&value=accuracy",
    "experiments": "experiments?order=-accuracy",
    "experiment": "experiments/3",
    "failures": "failures",
    "results": "results?value=accuracy&best=max&failures=drop",
    "parameters": "parameters",
    "curves": "curves",
    "workers": "workers",
    "sql": "sql?sql=SELECT+dataset,+kernel,+AVG(accuracy)+AS+mean+FROM+svm+GROUP+BY+dataset,+kernel+ORDER+BY+mean+DESC",
}
LARGE_SCREENS = {
    "large-studies": None,
    "large-overview": "",
    "large-grid": "grid?rows=dataset&columns=method&value=accuracy",
    "large-experiments": "experiments?order=-accuracy",
    "large-experiment": "experiments/340003",
    "large-failures": "failures",
    "large-results": "results?value=accuracy&rows=method&columns=rate&failures=drop&best=max&k.dataset=%22d3%22",
    "large-parameters": "parameters",
    "large-curves": f"curves?hue=rate&{CURVES}",
    "large-workers": "workers",
    "large-sql": "sql?sql=SELECT+dataset,+AVG(accuracy)+AS+mean+FROM+study+GROUP+BY+dataset+ORDER+BY+mean+DESC",
}
"""The name of each picture, and its page of the study; None: the page of all studies."""


def main(directory: Path, study: str | None) -> None:
    directory.mkdir(exist_ok=True)
    window, large_window = (1080, 620), (1500, 860)
    studies = [(demo, SCREENS, window), (large, LARGE_SCREENS, large_window)]
    if study is not None:
        studies = [(partial(opened, study), SCREENS, window)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        for context, screens, size in studies:
            with context() as experimenter:
                take(browser, experimenter, screens, size, directory)
        browser.close()


def take(
    browser: Any, experimenter: PyExperimenter, screens: dict[str, str | None], size: tuple[int, int], directory: Path
) -> None:
    """Take a picture of each of these screens, in a window of this size, and half as much of what is below."""
    board = experimenter.dashboard()
    home, table = board.url.partition("/?")[0], experimenter.config.table.name
    page = browser.new_page(viewport=dict(zip(("width", "height"), size, strict=True)))
    page.goto(board.url)
    for name, screen in screens.items():
        page.goto(f"{home}/" if screen is None else f"{home}/s/{table}/{screen}")
        picture = Image.open(BytesIO(page.screenshot(full_page=True))).convert("RGB")
        picture = picture.crop((0, 0, size[0], min(picture.height, 3 * size[1] // 2))).quantize(_COLORS)
        picture.save(directory / f"dashboard-{name}.png", optimize=True)
    page.close()
    board.stop()


@contextmanager
def demo() -> Iterator[PyExperimenter]:
    """Yield the study of `make demo` after it was executed, in which some experiments are open, running and failed."""
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        subprocess.run([sys.executable, ROOT / "examples/svm_study/run.py"], check=True, stdout=subprocess.DEVNULL)
        experimenter = PyExperimenter.open("svm_study.db", log_level="ERROR")
        run = experimenter.execute_custom_query
        run("UPDATE svm SET status = 'created' WHERE dataset = 'digits' AND seed > 2")
        run("UPDATE svm SET status = 'running' WHERE ID IN (SELECT ID FROM svm WHERE status = 'created' LIMIT 2)")
        attempt = "experiment_id IN (SELECT ID FROM svm WHERE status = 'running')"
        run(f"UPDATE svm__attempts SET ended = NULL, outcome = NULL, lease_until = '2999-01-01' WHERE {attempt}")
        run("UPDATE svm__attempts SET machine = 'node1'")
        run("UPDATE svm SET machine = 'node1' WHERE machine IS NOT NULL")
        error = "'Traceback (most recent call last):\n  File \"/home/me/svm.py\", line 51, in train_svm\nMemoryError'"
        run(f"UPDATE svm SET status = 'error', error = {error} WHERE kernel = 'poly' AND C = 100 AND dataset = 'wine'")
        yield experimenter
        os.chdir(ROOT)


@contextmanager
def large() -> Iterator[PyExperimenter]:
    """Yield a study of a million experiments."""
    with tempfile.TemporaryDirectory() as directory:
        yield large_study(large_config(sqlite_config, directory, _ROWS), _ROWS)


@contextmanager
def opened(study: str) -> Iterator[PyExperimenter]:
    yield PyExperimenter.open(study, log_level="ERROR")


if __name__ == "__main__":
    given = [*sys.argv[1:], None, None]
    main(Path(given[0] or ROOT / "docs" / "pictures").absolute(), given[1])
