"""All that users can call, catch, type or configure has a docstring or help text; test_docs_build checks the pages."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter.config import ini_file, json_schema
from tests.support.public import commands, options, public_objects

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "pyexperimenter"
OBJECTS = public_objects()
COMMANDS = commands()


@pytest.fixture(scope="module")
def generated() -> Any:
    """What makes the references of the configuration."""
    spec = importlib.util.spec_from_file_location("generated", DOCS / "_ext" / "generated.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_that_is_public_is_found() -> None:
    """Otherwise the tests below test nothing."""
    names = {"PyExperimenter.execute", "PyExperimenter.get_table", "ResultProcessor.log", "analysis.summarize"}
    names |= {"exceptions.ClaimLostError", "StudyStatus.total", "Submission.wait", "config.load_config"}
    assert {f"pyexperimenter.{name}" for name in names} <= set(OBJECTS)
    assert "pyexperimenter run" in COMMANDS


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_public_has_a_docstring(name: str) -> None:
    found = OBJECTS[name]
    docstring = (vars(found) if isinstance(found, type) else {"__doc__": found.__doc__})["__doc__"]
    assert docstring
    # A dataclass without one gets its signature.
    assert not (is_dataclass(found) and docstring.startswith(f"{name.rpartition('.')[2]}("))


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_and_their_options_have_help(name: str) -> None:
    assert COMMANDS[name].help
    assert [option.opts for option in options(COMMANDS[name]) if not option.help] == []


def test_keys_of_the_config_are_described_explained_and_listed(generated: Any) -> None:
    explained = (DOCS / "configuration.md").read_text(encoding="utf-8")
    reference = generated.yaml_reference().split("\n## ")
    schema = json_schema()
    for path, section in generated.sections_of(schema):
        for key, part in section["properties"].items():
            where = ".".join((*path, key))
            assert generated.resolved(part, schema).get("description"), f"{where} has no description"
            assert f"`{key}`" in explained, f"docs/configuration.md does not speak of {where}"
            headings = (f"`{'.'.join(path)}`", f"`{'.'.join(path)}:") if path else "The file"
            listed = "".join(part for part in reference if part.startswith(headings))
            assert f"\n| `{key}` |" in listed, f"{where} is not in the reference"


def test_options_of_ini_files_are_listed(generated: Any) -> None:
    reference = generated.ini_reference()
    for option in (*ini_file._OPTIONS, *ini_file._LISTS, *ini_file._ANALYSIS, *ini_file._CREDENTIALS):
        assert f"\n| `{option}` |" in reference, option


def test_the_stability_page_lists_public_and_deprecated_names() -> None:
    public, _, deprecated = (DOCS / "stability.md").read_text(encoding="utf-8").partition("## Deprecated names")
    modules = re.findall(r"^\| `(pyexperimenter[\w.]*)` \|", public, re.M)
    assert len(modules) == 7
    for module in modules:
        importlib.import_module(module)
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    warned = re.findall(r'warn\(\s*"([\w.]+(?:\(\))?) is deprecated; \w+ ([\w.]+(?:\(\))?)', source)
    listed = re.findall(r"^\| `(?:PyExperimenter\.)?([\w.()]+)`.*`([\w.()]+)` \|$", deprecated, re.M)
    assert source.count("DeprecationWarning,") == len(warned) > 0
    assert sorted(listed) == sorted(warned)
