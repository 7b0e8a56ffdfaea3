"""Experiments that need more than a worker has are left to others."""

from __future__ import annotations

from typing import Any

import pytest

from pyexperimenter.config import load_config
from pyexperimenter.exceptions import UnknownKeyError
from tests.support.study import experimenter, study
from tests.support.target import Target

KEYFIELDS = {
    "kind": {"type": "VARCHAR(20)", "values": ["cnn", "tree"]},
    "depth": {"type": "INT", "values": [2, 9], "when": {"kind": "tree"}},
}
REQUIRES = [
    {"when": {"kind": "cnn"}, "resources": {"gpus": 1}},
    {"when": {"depth": [9, 10]}, "resources": {"mem": 32, "gpus": 0}},
]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (None, ["cnn None", "tree 2", "tree 9"]),
        ({}, ["tree 2"]),
        ({"gpus": 2, "cpus": 8}, ["cnn None", "tree 2"]),
        ({"mem": 32}, ["tree 2", "tree 9"]),
        ({"mem": 31.9}, ["tree 2"]),
        ({"gpus": 1, "mem": 64}, ["cnn None", "tree 2", "tree 9"]),
    ],
)
def test_a_worker_takes_what_it_has_the_resources_for(
    target: Target, resources: dict[str, float] | None, expected: list[str]
) -> None:
    fleet = experimenter(target, study(target, keyfields=KEYFIELDS, requires=REQUIRES))
    fleet.fill_table_from_config()
    seen: list[str] = []

    def function(keyfields: dict[str, Any], *_: Any) -> None:
        seen.append(f"{keyfields['kind']} {keyfields['depth']}")

    assert fleet.execute(function, resources=resources) == len(expected)
    assert sorted(seen) == expected
    assert fleet.execute(function, resources={"gpus": 9, "mem": 99}, where={"kind": "tree"}) == 2 - sum(
        name.startswith("tree") for name in expected
    )


def test_a_condition_on_anything_but_a_keyfield_is_refused(sqlite_target: Target) -> None:
    wrong = [{"when": {"modl": "cnn"}, "resources": {"gpus": 1}}]
    with pytest.raises(UnknownKeyError, match=r"requires.*modl"):
        load_config(study(sqlite_target, keyfields=KEYFIELDS, requires=wrong))
