"""The JSON Schema of the YAML, for editors."""

import copy
import json

import jsonschema
import pytest
import yaml
from test_config_yaml import PREDECESSOR, SMALL, STUDY

from pyexperimenter.config import json_schema


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("text", [STUDY, PREDECESSOR, SMALL], ids=["documentation", "predecessor", "small"])
def test_valid_files(validator, text):
    assert [error.message for error in validator.iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize(
    "old, new",
    [
        ("values: [1]", "values: 1"),
        ("values: [1]", "values: {start: 0, stop: 5, inclusive: true}"),
        ("values: [1]", "values: [1], when: {other: [1, 2]}"),
        ("{type: INT, values: [1]}", "INT"),
        ("sqlite", "mariadb"),
        ("PY_EXPERIMENTER:", "PY_EXPERIMENTER:\n  n_jobs: ${N}"),
        ("PY_EXPERIMENTER:", "PY_EXPERIMENTER:\n  Analysis: {unit: a, resampling: {test: 0.3}}"),
        ("PY_EXPERIMENTER:", "PY_EXPERIMENTER:\n  Analysis: {unit: [a, b]}"),
    ],
)
def test_other_valid_forms(validator, old, new):
    assert [error.message for error in validator.iter_errors(yaml.safe_load(SMALL.replace(old, new)))] == []


@pytest.mark.parametrize(
    "old, new",
    [
        ("PY_EXPERIMENTER:", "PY_EXPERIMENTER:\n  n_job: 1"),
        ("PY_EXPERIMENTER:", "PY_EXPERIMENTER:\n  n_jobs: four"),
        ("    provider: sqlite\n", ""),
        ("sqlite", "sqlight"),
        ("name: t", "nam: t"),
        ("values: [1]", "vals: [1]"),
        ("values: [1]", "values: {start: 0, stp: 5}"),
        ("values: [1]", "values: {start: 0, stop: 5, num: 3, scale: lin}"),
        ("{type: INT, values: [1]}", "[1, 2]"),
    ],
)
def test_invalid_files(validator, old, new):
    assert old in SMALL
    assert not validator.is_valid(yaml.safe_load(SMALL.replace(old, new)))


def test_it_is_plain_data_and_every_key_is_described():
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema == copy.deepcopy(json_schema())
    for name, section in {"ConfigFile": schema, **schema["$defs"]}.items():
        assert section["description"], name
        assert section["additionalProperties"] is False, name


def test_deprecated_keys_are_marked():
    properties = [key for section in json_schema()["$defs"].values() for key in section.get("properties", {}).values()]
    deprecated = [key for key in properties if key.get("description", "").startswith("Deprecated")]
    assert deprecated
    assert all(key["deprecated"] for key in deprecated)
