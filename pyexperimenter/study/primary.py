"""The primary test of a study: fixed before the first run, so that no result can have influenced the choice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pyexperimenter.config.model import PrimaryConfig
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.jsonable import to_json

_EVENT = "primary"
_DEFAULTS = {"correction": "holm", "failures": "error", "pairing": "common"}
EXPLORATORY = "Exploratory: this is not the primary test of the study"


def hash_of(primary: PrimaryConfig) -> str:
    """Return a hash of what is tested, and how.

    >>> hash_of(PrimaryConfig(("accuracy",), "method", ("dataset",), ("max",)))
    'f103078e169f'
    """
    return hashlib.sha256(to_json(asdict(primary)).encode()).hexdigest()[:12]


def keep_primary(store: ExperimentStore, primary: PrimaryConfig | None, library: str) -> None:
    """Record the primary test, unless one was recorded; with a mark if there were executions before."""
    if primary is not None and not store.events(_EVENT):
        details = {"hash": hash_of(primary), "settings": asdict(primary), "late": store.latest_attempt() > 0}
        store.keep_event(library, _EVENT, details)


def standing_of(store: ExperimentStore, primary: PrimaryConfig) -> str:
    """Say whether the primary test was fixed before the first run, in a sentence without a period."""
    events, found = store.events(_EVENT), f"hash {hash_of(primary)}"
    if not events:
        return f"Primary test, which is fixed by the first run ({found})"
    first = events[0]
    if first["hash"] != hash_of(primary):
        return f"Exploratory: the primary test was changed after the first run (from hash {first['hash']} to {found})"
    if first["late"]:
        return f"Exploratory: the primary test was declared after the first run ({found})"
    return f"Primary test, fixed before the first run ({found}, {first['created']:%Y-%m-%d %H:%M} UTC)"


def label_of(store: ExperimentStore, primary: PrimaryConfig | None, asked: Mapping[str, Any]) -> list[str]:
    """Return the remark for a comparison with these arguments; none if the study declares no primary test."""
    if primary is None:
        return []
    chosen = _DEFAULTS | {name: setting for name, setting in asked.items() if setting not in (None, False)}
    is_primary = any(chosen == _DEFAULTS | settings for settings in settings_of(primary))
    return [standing_of(store, primary) if is_primary else EXPLORATORY]


def settings_of(primary: PrimaryConfig) -> Sequence[dict[str, Any]]:
    """Return the arguments of `compare` for each value."""
    shared = {
        "by": primary.by,
        "blocks": list(primary.blocks),
        "over": list(primary.over),
        "test": primary.test,
        "correction": primary.correction,
        "failures": primary.failures,
    }
    return [
        {"value": value, "better": better, **shared}
        for value, better in zip(primary.value, primary.better, strict=True)
    ]
