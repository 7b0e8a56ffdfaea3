"""Checks the JSON Schema with each configuration that a unit test loads."""

from __future__ import annotations

from typing import Any

import pytest

from pyexperimenter.config import build
from tests.support.editor_schema import refusals


@pytest.fixture(autouse=True)
def editors_accept_what_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where the JSON Schema refuses a YAML file that the library accepts."""
    made = build.ExperimentConfig

    def checked(**fields: Any) -> Any:
        if fields["source"].endswith((".yml", ".yaml")):
            assert refusals(fields["text"]) == []
        return made(**fields)

    monkeypatch.setattr(build, "ExperimentConfig", checked)
