"""``${...}`` in the strings of a configuration."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter.config import load_config
from pyexperimenter.config.interpolation import ENVIRONMENT as REAL_ENVIRONMENT
from pyexperimenter.config.interpolation import interpolate
from pyexperimenter.exceptions import InvalidConfigError

ENVIRONMENT = {"HOME": "/home/me", "N": "4", "ODD": "${HOME}"}


def resolved(text, **keys):
    return interpolate({"text": text, **keys}, ENVIRONMENT)["text"]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("plain", "plain"),
        ("${HOME}", "/home/me"),
        ("${ HOME }/data", "/home/me/data"),
        ("${oc.env:HOME}/a/${N}", "/home/me/a/4"),
        ("${oc.env:NOPE,default}", "default"),
        ("${oc.env:NOPE, a b }", "a b"),
        ("${oc.env:NOPE,'a, b'}", "a, b"),
        ("${oc.env:NOPE,'}", "'"),
        ("${oc.env:NOPE,}", ""),
        ("${oc.env:NOPE,''}", ""),
        ("${oc.env:NOPE,null}", None),
        ("${oc.env:NOPE,${HOME}/data}", "/home/me/data"),
        ("${oc.env:HOME,default}", "/home/me"),
        ("${ODD}", "${HOME}"),  # inserted values are not resolved again
        ("$${HOME}", "${HOME}"),
        ("\\${HOME}", "${HOME}"),
        ("a$${HOME}b${N}", "a${HOME}b4"),
        ("$HOME $ {N}", "$HOME $ {N}"),
        ("${.number}", 5),
        ("${number}", 5),
        ("n = ${.number}", "n = 5"),
        ("${section.list}", [1, 2]),
        ("${section.list[1]}", 2),
        ("${section.list.0}", 1),
        ("${Section.Inner.path}", "/home/me/x"),
        ("${section.inner}", {"path": "/home/me/x", "up": 5, "near": 2}),
    ],
)
def test_interpolated_strings(text, expected):
    section = {"list": [1, 2], "inner": {"path": "${HOME}/x", "up": "${...number}", "near": "${..list[1]}"}}
    assert resolved(text, number=5, section=section) == expected


@pytest.mark.parametrize(
    "text, fragment",
    [
        ("${NOPE}", "environment variable NOPE is not set; set it, or give a default: ${oc.env:NOPE,default}"),
        ("${oc.env:NOPE}", "NOPE is not set"),
        ("${secton.key}", "there is no 'secton' in the file; did you mean 'section'?"),
        ("${section.kye}", "there is no 'kye' in section; did you mean 'key'?"),
        ("${section.key.more}", "there is no 'more' in section.key"),
        ("${section.key.0}", "there is no '0' in section.key"),
        ("${section.list[2]}", "there is no '2' in section.list"),
        ("${open", "no closing"),
        ("${}", "cannot be resolved"),
        ("${oc.select:a}", "cannot be resolved"),
        ("a ${section} b", "${section} is a section or a list and cannot be part of a string"),
        ("${text}", "refers to itself"),
        ("${.text}", "refers to itself"),
        ("${.a}", "circle: text -> a -> b -> text"),
    ],
)
def test_what_cannot_be_resolved(text, fragment):
    with pytest.raises(InvalidConfigError) as caught:
        resolved(text, section={"key": 1, "list": [1, 2]}, a="${b}", b="${text}")
    assert fragment in str(caught.value)


def test_references_that_double_at_each_level_are_refused():
    with pytest.raises(InvalidConfigError, match="takes more than 20000 steps"):
        resolved("x", k0="x", **{f"k{level}": f"${{k{level - 1}}}${{k{level - 1}}}" for level in range(1, 20)})


def test_sections_nested_too_deeply_are_refused():
    section = {}
    for _ in range(200):
        section = {"a": section}
    with pytest.raises(InvalidConfigError, match="nested more than 100 levels") as caught:
        interpolate(section, ENVIRONMENT)
    assert caught.value.path == ("a",) * 4


def test_lists_and_other_values_are_unchanged():
    thing = object()
    data = {"a": [1, None, "${N}"], "b": (1, 2), "c": thing, 5: {"d": 1.5}}
    assert interpolate(data, ENVIRONMENT) == {"a": [1, None, "4"], "b": (1, 2), "c": thing, 5: {"d": 1.5}}


@given(st.text().filter(lambda text: "${" not in text))
def test_strings_without_braces_are_unchanged(text):
    assert resolved(text) == text


@given(st.text(alphabet="ab${}\\ "))
def test_escaped_strings_are_restored(text):
    escaped = text.replace("${", "$${")
    # "$" before "${" reads as the escape itself, so such strings have no escaped form.
    if "$${" not in text and "\\${" not in text:
        assert resolved(escaped) == text


def test_the_environment_of_the_process_is_a_mapping_that_does_not_show_its_values(monkeypatch):
    monkeypatch.setenv("PYEXPERIMENTER_TEST_SECRET", "geheim")
    assert dict(REAL_ENVIRONMENT) == dict(os.environ)
    assert len(REAL_ENVIRONMENT) == len(os.environ)
    assert "geheim" not in repr(REAL_ENVIRONMENT)


def test_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PYEXPERIMENTER_TEST_SECRET", "geheim")
    monkeypatch.setenv("PYEXPERIMENTER_TEST_JOBS", "3")
    path = tmp_path / "config.yml"
    path.write_text(
        """\
PY_EXPERIMENTER:
  n_jobs: ${PYEXPERIMENTER_TEST_JOBS}
  Database:
    provider: sqlite
    database: ${PY_EXPERIMENTER.Custom.folder}/study
    table:
      name: t
      keyfields:
        seed: {type: INT, values: ["${oc.env:PYEXPERIMENTER_TEST_JOBS}", 5]}
      result_timestamps: ${oc.env:PYEXPERIMENTER_TEST_UNSET,true}
  Custom:
    folder: data
    token: ${PYEXPERIMENTER_TEST_SECRET}
    jobs: ${PY_EXPERIMENTER.Database.table.keyfields.seed.values}
""",
        encoding="utf-8",
    )
    config = load_config(path)
    assert config.n_jobs == 3
    assert config.database.database == str(Path("data/study.db").absolute())
    assert list(config.table.grid) == [{"seed": 3}, {"seed": 5}]
    assert config.table.result_timestamps is True
    assert config.custom == {"folder": "data", "token": "geheim", "jobs": ["3", 5]}
    assert "geheim" not in config.text  # the text is stored in the database
