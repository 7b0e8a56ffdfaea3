"""The real CodeCarbon measures emissions, in offline mode; when it fails, experiments go on."""

from __future__ import annotations

import inspect
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter.database.schema import CODECARBON_COLUMNS
from pyexperimenter.execution.emissions import EmissionsMeter

OFFLINE = {"offline_mode": True, "country_iso_code": "DEU"}


@pytest.fixture
def logger(request: pytest.FixtureRequest) -> logging.Logger:
    """A logger of the test's own, since each logger gets a warning only once."""
    return logging.getLogger(request.node.nodeid)


def run_apart(directory: Path, code: str, **environment: str) -> tuple[Any, str]:
    """Run code in a fresh Python, home empty, warnings as errors; return the JSON that it prints, and its stderr."""
    places = {"HOME": str(directory / "home"), "TMPDIR": str(directory / "tmp")}
    for place in places.values():
        os.makedirs(place, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(code)],
        cwd=directory,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            **places,
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


PRELUDE = """
import json, logging, os, sys, warnings
from pyexperimenter.execution.emissions import EmissionsMeter
logging.basicConfig(format="LOG %(message)s", level=logging.INFO)
logger = logging.getLogger("test")
offline = {"offline_mode": True, "country_iso_code": "DEU"}
def measured(**options):
    with EmissionsMeter(options, logger) as meter:
        pass
    return meter.measured
"""


def files_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_every_column_is_filled_with_what_fits_it(logger: logging.Logger) -> None:
    before = datetime.now(timezone.utc) - timedelta(seconds=1)  # CodeCarbon gives whole seconds
    with EmissionsMeter({**OFFLINE, "project_name": "a study", "pue": "1.5"}, logger) as meter:
        assert meter.measured is None
        sum(range(10**6))
    measured = meter.measured
    assert measured is not None
    assert set(measured) == set(CODECARBON_COLUMNS)
    for column, value in measured.items():
        CODECARBON_COLUMNS[column].coerce(value)
    assert before <= measured["codecarbon_timestamp"] <= datetime.now(timezone.utc)
    assert 0 < measured["duration_seconds"] < 60
    assert 0 < measured["emissions_kg"] < measured["energy_consumed_kw"]
    assert measured["energy_consumed_kw"] == pytest.approx(
        measured["cpu_energy_kw"] + measured["gpu_energy_kw"] + measured["ram_energy_kw"]
    )
    assert (measured["country_name"], measured["project_name"]) == ("Germany", "a study")
    assert (measured["power_usage_efficiency"], measured["offline_mode"]) == (1.5, True)


def test_time_is_utc_wherever_one_is(tmp_path: Path) -> None:
    shown, _ = run_apart(
        tmp_path,
        """
        from datetime import datetime, timezone
        told = measured(**offline)["codecarbon_timestamp"]
        print(json.dumps([str(told.tzinfo), abs((datetime.now(timezone.utc) - told).total_seconds())]))
        """,
        TZ="Asia/Tokyo",
    )
    assert shown[0] == "UTC"
    assert shown[1] < 60


def test_no_file_is_left_and_nothing_is_said(tmp_path: Path) -> None:
    shown, said = run_apart(
        tmp_path,
        """
        filters = list(warnings.filters)
        options = [{}, {"output_dir": "out"}, {"save_to_logger": False}, {"save_to_file": "false"}]
        found = [measured(**offline, **more)["country_name"] for more in options]
        print(json.dumps([*found, filters == warnings.filters]))
        """,
    )
    assert shown == [*["Germany"] * 4, True]
    assert (files_in(tmp_path), said) == (set(), "")
    assert not (tmp_path / "out").exists()


def test_stray_settings_are_not_read(tmp_path: Path) -> None:
    """The predecessor left such a file behind; its settings would override the defaults."""
    stray = (
        "[codecarbon]\nproject_name = stray\nsave_to_file = true\noutput_methods = csv\nallow_multiple_runs = false\n"
    )
    (tmp_path / "home").mkdir()
    for place in (tmp_path, tmp_path / "home"):
        (place / ".codecarbon.config").write_text(stray)
    shown, said = run_apart(
        tmp_path, "print(json.dumps(measured(**offline)['project_name']))", CODECARBON_PROJECT_NAME="stray"
    )
    assert (shown, said) == ("codecarbon", "")
    assert files_in(tmp_path) == {".codecarbon.config", "home/.codecarbon.config"}


@pytest.mark.parametrize("asked", [{"save_to_file": "True"}, {"output_methods": ["csv"]}, {"output_methods": "csv"}])
def test_file_is_written_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: logging.Logger, asked: dict[str, Any]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with EmissionsMeter({**OFFLINE, **asked, "output_dir": "deep/out"}, logger) as meter:
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert meter.measured is not None
    assert files_in(tmp_path) == {"deep/out/emissions.csv"}


def test_options_may_be_text_and_unknown_ones_cause_one_warning(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    text = {"offline_mode": "true", "country_iso_code": "FRA", "measure_power_secs": "15", "log_level": "error"}
    for _ in range(3):
        with EmissionsMeter({**text, "region": None, "color": "green", "self": 1}, logger) as meter:
            pass
        assert meter.measured is not None
        assert meter.measured["country_name"] == "France"
    [message] = caplog.messages
    assert "color, self are ignored" in message


def test_lock_and_signal_handlers_are_never_taken(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    before = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    with EmissionsMeter({**OFFLINE, "allow_multiple_runs": False}, logger) as meter:
        pass
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == before
    assert meter.measured is not None
    assert "allow_multiple_runs" in caplog.text


def test_a_missing_country_is_reported(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    with EmissionsMeter({"offline_mode": True}, logger) as meter:
        pass
    assert meter.measured is not None
    assert "set country_iso_code" in caplog.text


def test_a_country_that_the_internet_does_not_tell_is_reported(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    def fail(*args: Any, **kwargs: Any) -> None:
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "get", fail)
    with EmissionsMeter({}, logger) as meter:
        pass
    assert meter.measured is not None
    assert (meter.measured["country_iso_code"], meter.measured["offline_mode"]) == ("CAN", False)
    assert "set offline_mode: true and country_iso_code" in caplog.text


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"measure_power_secs": "often"}, "measure_power_secs must be a number, not 'often'"),
        ({"tracking_mode": "nonsense"}, "AssertionError"),
        ({"log_level": "loud"}, "Unknown level"),
        ({"save_to_file": True, "output_dir": "/dev/null/out"}, "Not a directory"),
    ],
)
def test_bad_option_costs_the_measurement_only(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture, broken: dict[str, Any], reason: str
) -> None:
    ran = []
    for _ in range(2):
        with EmissionsMeter({**OFFLINE, **broken}, logger) as meter:
            ran.append(True)
        assert meter.measured is None
    [message] = caplog.messages
    assert reason in message
    assert len(ran) == 2


@pytest.mark.parametrize("method", ["__init__", "start", "stop"])
@pytest.mark.parametrize("raised", [RuntimeError("broken"), SystemExit("broken")])
def test_failing_tracker_costs_the_measurement_only(
    logger: logging.Logger,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    raised: BaseException,
) -> None:
    from codecarbon import OfflineEmissionsTracker

    def fail(*args: Any, **kwargs: Any) -> None:
        raise raised

    # That of the constructor says which options there are.
    fail.__signature__ = inspect.signature(getattr(OfflineEmissionsTracker, method))  # type: ignore[attr-defined]
    monkeypatch.setattr(OfflineEmissionsTracker, method, fail)
    ran = False
    with EmissionsMeter(OFFLINE, logger) as meter:
        ran = True
    assert ran
    assert meter.measured is None
    [message] = caplog.messages
    assert f"{type(raised).__name__}: broken" in message


def test_what_the_tracker_hides_is_not_a_measurement(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It swallows its own exceptions and would then return zeros."""
    from codecarbon import OfflineEmissionsTracker

    def fail(tracker: Any) -> None:
        raise RuntimeError("no sensor")

    before = set(threading.enumerate())
    monkeypatch.setattr(OfflineEmissionsTracker, "_measure_power_and_energy", fail)
    with EmissionsMeter(OFFLINE, logger) as meter:
        for thread in set(threading.enumerate()) - before:
            thread.join(10)  # its own threads end before the experiment begins
            assert not thread.is_alive()
    assert meter.measured is None
    assert "no sensor" in caplog.text


def test_a_missing_package_is_reported_once(tmp_path: Path) -> None:
    shown, said = run_apart(
        tmp_path,
        """
        sys.modules["codecarbon"] = None
        print(json.dumps([measured(**offline), measured()]))
        """,
    )
    assert shown == [None, None]
    assert said.count("LOG") == 1
    assert "pip install 'pyexperimenter[codecarbon]'" in said


def test_import_is_lazy(tmp_path: Path) -> None:
    shown, _ = run_apart(tmp_path, "EmissionsMeter(offline, logger); print(json.dumps('codecarbon' in sys.modules))")
    assert shown is False


@pytest.mark.parametrize("raised", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_exceptions_of_the_experiment_pass(logger: logging.Logger, raised: BaseException) -> None:
    meter = EmissionsMeter(OFFLINE, logger)
    with pytest.raises(type(raised)) as caught, meter:
        raise raised
    assert caught.value is raised
    assert raised.__context__ is None
    assert meter.measured is not None  # failures use energy, too


@pytest.mark.parametrize("method", ["start", "stop"])
def test_interrupt_meant_for_the_user_passes(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from codecarbon import OfflineEmissionsTracker

    def interrupted(tracker: Any) -> None:
        raise KeyboardInterrupt

    meter = EmissionsMeter(OFFLINE, logger)
    with monkeypatch.context() as patch:
        patch.setattr(OfflineEmissionsTracker, method, interrupted)
        with pytest.raises(KeyboardInterrupt), meter:
            pass
    assert meter.measured is None


def test_warnings_of_the_experiment_are_its_own(logger: logging.Logger) -> None:
    with pytest.warns(UserWarning, match="mine"), EmissionsMeter(OFFLINE, logger):
        warnings.warn("mine", stacklevel=1)
    with pytest.raises(UserWarning, match="mine"), EmissionsMeter(OFFLINE, logger):
        warnings.warn("mine", stacklevel=1)  # an error, as everywhere in these tests


def test_meters_follow_each_other_and_nest(logger: logging.Logger) -> None:
    meter = EmissionsMeter(OFFLINE, logger)
    with EmissionsMeter(OFFLINE, logger) as around:
        runs = []
        for _ in range(3):
            with meter:
                assert meter.measured is None
            assert meter.measured is not None
            runs.append(meter.measured["run_id"])
    assert around.measured is not None
    assert len({*runs, around.measured["run_id"]}) == 4


def test_processes_measure_side_by_side() -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3, timeout=100)
    answers = context.Queue()
    workers = [context.Process(target=_measure, args=(barrier, answers)) for _ in range(3)]
    for worker in workers:
        worker.start()
    measured = [answers.get(timeout=100) for _ in workers]
    for worker in workers:
        worker.join(100)
        assert worker.exitcode == 0
    assert [found and found["country_name"] for found in measured] == ["Germany"] * 3
    assert len({found["run_id"] for found in measured}) == 3


def _measure(barrier: Any, answers: Any) -> None:
    with EmissionsMeter(OFFLINE, logging.getLogger("test")) as meter:
        barrier.wait()  # all are measuring now
    answers.put(meter.measured)
