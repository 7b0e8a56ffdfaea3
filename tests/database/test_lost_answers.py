"""A commit that went in, though its answer was lost: nothing is claimed twice, doubled or forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from proxies import AnswerSwallower
from servers import Target
from study import store, study, worker

from pyexperimenter import ExperimentStatus
from pyexperimenter.config import load_config
from pyexperimenter.database.records import NOT_MEASURED
from pyexperimenter.database.store import ExperimentStore


@pytest.fixture
def proxy(mariadb_target: Target) -> Iterator[AnswerSwallower]:
    assert mariadb_target.server is not None
    swallower = AnswerSwallower(mariadb_target.server.host, mariadb_target.server.port)
    yield swallower
    swallower.close()


@pytest.fixture
def through_proxy(mariadb_target: Target, proxy: AnswerSwallower, tmp_path: Path) -> ExperimentStore:
    store(mariadb_target)
    assert mariadb_target.credentials_file is not None
    credentials = yaml.safe_load(mariadb_target.credentials_file.read_text())
    credentials["CREDENTIALS"]["Connection"]["Standard"]["port"] = proxy.port
    (tmp_path / "proxied.yml").write_text(yaml.safe_dump(credentials))
    return ExperimentStore(load_config(study(mariadb_target), credentials_path=tmp_path / "proxied.yml"))


def test_a_claim_is_made_once(mariadb_target: Target, proxy: AnswerSwallower, through_proxy: ExperimentStore) -> None:
    through_proxy.counts()
    proxy.swallow_next(b"COMMIT")
    experiment = through_proxy.claim(worker())
    assert proxy.swallowed.is_set()
    assert experiment is not None
    assert mariadb_target.query("SELECT ID FROM study WHERE status = 'running'") == [(experiment.id,)]
    assert mariadb_target.query("SELECT outcome FROM study__attempts ORDER BY ID") == [("released",), (None,)]


def test_an_end_is_written_once(mariadb_target: Target, proxy: AnswerSwallower, through_proxy: ExperimentStore) -> None:
    experiment = through_proxy.claim(worker())
    assert experiment is not None
    proxy.swallow_next(b"COMMIT")
    through_proxy.finish(experiment.attempt, ExperimentStatus.DONE, None, NOT_MEASURED, {"accuracy": 0.5})
    assert proxy.swallowed.is_set()
    assert mariadb_target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("done", 0.5)]
    attempts = mariadb_target.query("SELECT outcome, late_results FROM study__attempts")
    assert attempts == [("done", None)]


def test_a_fill_doubles_nothing(mariadb_target: Target, proxy: AnswerSwallower, through_proxy: ExperimentStore) -> None:
    through_proxy.counts()
    proxy.swallow_next(b"COMMIT")
    through_proxy.fill([("new", seed) for seed in range(10)])
    assert proxy.swallowed.is_set()
    assert mariadb_target.query("SELECT COUNT(*) FROM study") == [(16,)]
