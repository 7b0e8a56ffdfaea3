"""What editors say about configurations: a real language server, with the JSON Schema that `init` writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from pyexperimenter.cli import main
from tests.support.yaml_language_server import YamlLanguageServer


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of a new study."""
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(main, ["init"])
    assert made.exit_code == 0, made.output
    (path,) = tmp_path.rglob("*.yml")
    return path


def test_the_configuration_that_init_writes_has_no_problems(
    config: Path, yaml_language_server: YamlLanguageServer
) -> None:
    assert "yaml-language-server: $schema=" in config.read_text().split("\n")[0]
    assert yaml_language_server.problems(config) == []


SMALL = """\
PY_EXPERIMENTER:
  Database:
    provider: sqlite
    database: study
    table:
      name: t
      keyfields: {seed: {type: INT, values: [1]}}
  Execution: {lease: 10m}
"""


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("type: INT", "type: INTT", "This is not a SQL type; choose from TINYINT, "),
        ("10m", "10 minutes", "This is not a duration; write 60s, 5m, 2h, 1d or 1h30m."),
        ("{seed:", "{status: INT, seed:", "This name is reserved for the library."),
        ("database:", "databse:", "databse"),
        ("provider: sqlite\n", "provider: sqlight\n", "sqlite"),
    ],
)
def test_mistakes_are_underlined(
    old: str, new: str, problem: str, config: Path, yaml_language_server: YamlLanguageServer
) -> None:
    first_line = config.read_text().split("\n")[0]
    path = config.with_name("changed.yml")
    path.write_text(f"{first_line}\n{SMALL}")
    assert yaml_language_server.problems(path) == []
    other = config.with_name("wrong.yml")
    other.write_text(f"{first_line}\n{SMALL.replace(old, new)}")
    assert problem in " ".join(yaml_language_server.problems(other))


def test_providers_are_offered(config: Path, yaml_language_server: YamlLanguageServer) -> None:
    path = config.with_name("incomplete.yml")
    first_line = config.read_text().split("\n")[0]
    path.write_text(f"{first_line}\nPY_EXPERIMENTER:\n  Database:\n    provider: \n")
    assert {"sqlite", "mysql", "postgresql"} <= set(yaml_language_server.completions(path, line=3, character=14))
