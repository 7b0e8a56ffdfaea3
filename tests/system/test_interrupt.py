"""Ctrl-C: no row is left `running`, also with several workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from servers import Target
from study import credentials, experimenter, study, wait_until

SCRIPT = """
import json, signal, sys, time
from pathlib import Path
from pyexperimenter import PyExperimenter

def function(keyfields, results, custom):
    results.process_results({"accuracy": 0.1})
    Path(custom["started"], str(results.experiment_id)).touch()
    time.sleep(600)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without
    config, options = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    PyExperimenter(config, **options).execute(function)
"""


@pytest.mark.parametrize("whom", ["all, as a terminal does", "the first, as a notebook does"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_interrupt_releases_what_is_in_execution(target: Target, tmp_path: Path, n_jobs: int, whom: str) -> None:
    started = tmp_path / "started"
    started.mkdir()
    config = study(target, n_jobs=n_jobs, Custom={"started": str(started)})
    options = {name: str(value) for name, value in credentials(target).items()}
    study_ = experimenter(target, config)
    study_.fill_table_from_config()
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), json.dumps(config), json.dumps(options)]
    # A session of its own stands for the terminal, whose Ctrl-C goes to all its processes.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            wait_until(lambda: len(list(started.iterdir())) == n_jobs)
            assert study_.counts()["running"] == n_jobs
            if whom.startswith("all"):
                os.killpg(process.pid, signal.SIGINT)
            else:
                process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in stderr
    assert study_.counts() == {"created": 6, "running": 0, "done": 0, "error": 0, "paused": 0}
    assert target.query("SELECT outcome, COUNT(*) FROM study__attempts GROUP BY outcome") == [("released", n_jobs)]
    assert target.query("SELECT COUNT(accuracy), COUNT(start_date), COUNT(name) FROM study") == [(0, 0, 0)]
