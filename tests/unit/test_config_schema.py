"""The JSON Schema of the YAML, for editors."""

import copy
import json
import re
from contextlib import suppress
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_config_yaml import PREDECESSOR, SMALL, STUDY

from pyexperimenter.config import json_schema
from pyexperimenter.durations import DURATION_PATTERN, seconds
from pyexperimenter.fieldtypes import _ALIASES, TYPE_NAMES, FieldType, type_pattern
from tests.support.editor_schema import refusals


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


ROOT = Path(__file__).resolve().parents[2]
FILES = [*ROOT.glob("examples/*/config.yml"), *ROOT.glob("pyexperimenter/study/templates/config/*.yml")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_files_of_examples(path):
    assert refusals(path.read_text(encoding="utf-8")) == []


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
        ("PY_EXPERIMENTER:", "PY_EXPERIMENTER:\n  Execution:\n  logtables:\n  n_jobs: '4'"),
        ("PY_EXPERIMENTER:", "PY_EXPERIMENTER:\n  Execution: {echo: 'Yes', signals: SIGHUP, isolation: '${I}'}"),
        ("PY_EXPERIMENTER:", "PY_EXPERIMENTER:\n  Execution: {lease: 1d 2H, grace: '90', max_outage: 1.5e3}"),
        ("PY_EXPERIMENTER:", "PY_EXPERIMENTER:\n  Execution: ${.Custom.execution}"),
        ("{type: INT, values: [1]}", "'${TYPE}'"),
        ("type: INT", "type: Character Varying ( 20 )"),
        ("type: INT", "type: unsigned bigint(20)"),
        ("type: INT", "type: 'DECIMAL(10, 2)'"),
        ("type: INT", "type: timestamp with time zone"),
        ("sqlite", "${PROVIDER}"),
        ("sqlite", "SQLite"),
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
        ("{type: INT, values: [1]}", "INTT"),
        ("type: INT", "type: VARHCAR(50)"),
        ("type: INT", "type: VARCHAR(x)"),
        ("PY_EXPERIMENTER:", "PY_EXPERIMENTER:\n  Execution: {lease: 5 minutes}"),
        ("PY_EXPERIMENTER:", "PY_EXPERIMENTER:\n  Execution: {lease: -5}"),
        ("PY_EXPERIMENTER:", "PY_EXPERIMENTER:\n  Execution: {echo: perhaps}"),
        ("keyfields: {", "keyfields: {Status: INT, "),
        ("name: t", "name: t\n      resultfields: {ID: INT}"),
        ("PY_EXPERIMENTER:", "PY_EXPERIMENTER:\n  logtables: {epochs: {timestamp: DOUBLE}}"),
        ("PY_EXPERIMENTER:", "PY_EXPERIMENTER:\n  logtables: {Attempts: {loss: DOUBLE}}"),
    ],
)
def test_invalid_files(validator, old, new):
    assert old in SMALL
    assert not validator.is_valid(yaml.safe_load(SMALL.replace(old, new)))


PARTS = ["(1)", "(10,2)", "('a', 'b')", " ", "unsigned", "SIGNED", "zerofill", "varying", "with time zone", "x"]
WORDS = ["national", "char", "character", "double", "precision", "enum", "set", "bit", *TYPE_NAMES, *_ALIASES]


@given(st.lists(st.sampled_from(PARTS + WORDS), min_size=1, max_size=5).map("".join))
def test_the_pattern_of_types_matches_all_that_are_read(declaration):
    with suppress(ValueError):
        FieldType.parse(declaration)
        assert re.search(type_pattern(), declaration)


@given(st.text("0123456789.dhmsDHMS eE+-_", max_size=8))
def test_the_pattern_of_durations_matches_all_that_are_read(text):
    with suppress(ValueError):
        seconds(text)
        assert re.search(DURATION_PATTERN, text)


def test_it_is_plain_data_and_every_key_is_described():
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema == copy.deepcopy(json_schema())
    for name, section in {"ConfigFile": schema, **schema["$defs"]}.items():
        assert section["description"], name
        assert name == "ColumnType" or section["additionalProperties"] is False, name


def test_deprecated_keys_are_marked():
    properties = [key for section in json_schema()["$defs"].values() for key in section.get("properties", {}).values()]
    deprecated = [key for key in properties if key.get("description", "").startswith("Deprecated")]
    assert deprecated
    assert all(key["deprecated"] for key in deprecated)
