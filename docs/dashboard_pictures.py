"""Make the pictures of the dashboard in docs/pictures, with Chromium, on the study of `make demo`.

Run it from the root of the repository, where `make test` has made the environment:
.venv/bin/python docs/dashboard_pictures.py [DIRECTORY [STUDY.db]]

Another study, for example that of benchmarks/dashboard.py, is shown as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

from pyexperimenter import PyExperimenter

ROOT = Path(__file__).resolve().parents[1]
SCREENS = {
    "overview": "",
    "grid": "grid?rows=dataset&columns=kernel&value=accuracy",
    "experiments": "experiments?order=-accuracy",
    "experiment": "experiments/3",
    "failures": "failures",
    "results": "results?value=accuracy&best=max&failures=drop",
    "parameters": "parameters",
    "curves": "curves",
    "workers": "workers",
    "sql": "sql?sql=SELECT+status,+COUNT(*)+FROM+svm+GROUP+BY+status",
}


def main(directory: Path, study: str | None) -> None:
    directory.mkdir(exist_ok=True)
    shown = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/howto/dashboard.md"))
    with demo() if study is None else opened(study) as experimenter:
        board = experimenter.dashboard()
        home, table = board.url.partition("/?")[0], experimenter.config.table.name
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1080, "height": 620})
            page.goto(board.url)
            for name, screen in SCREENS.items():
                if directory == ROOT / "docs" / "pictures" and f"dashboard-{name}.png" not in shown:
                    continue
                page.goto(f"{home}/s/{table}/{screen}")
                page.screenshot(path=directory / f"dashboard-{name}.png")
            browser.close()
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
        error = "'Traceback (most recent call last):\n  File \"/home/me/svm.py\", line 51, in train_svm\nMemoryError'"
        run(f"UPDATE svm SET status = 'error', error = {error} WHERE kernel = 'poly' AND C = 100 AND dataset = 'wine'")
        yield experimenter


@contextmanager
def opened(study: str) -> Iterator[PyExperimenter]:
    yield PyExperimenter.open(study, log_level="ERROR")


if __name__ == "__main__":
    given = [*sys.argv[1:], None, None]
    main(Path(given[0] or ROOT / "docs" / "pictures").absolute(), given[1])
