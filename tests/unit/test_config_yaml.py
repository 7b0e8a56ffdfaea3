"""The configuration that a YAML file, or a dict, gives."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pyexperimenter import PyExperimenter
from pyexperimenter.config import ExecutionConfig, load_config, yaml_file
from pyexperimenter.exceptions import DuplicateKeyError, InvalidConfigError
from pyexperimenter.fieldtypes import FieldType

# The example of the documentation, `zip` filled in.
STUDY = """\
PY_EXPERIMENTER:
  n_jobs: 4
  Database:
    provider: sqlite
    database: my_study
    use_ssh_tunnel: false
    table:
      name: svm
      keyfields:
        dataset: {type: VARCHAR(255), values: [iris, wine]}
        target:  {type: VARCHAR(255), values: [species, cultivar]}
        seed:    {type: INT, values: {start: 0, stop: 5, step: 1}}
        kernel:  {type: VARCHAR(50), values: [linear, rbf, poly]}
        C:       {type: DOUBLE, values: {start: 1e-3, stop: 1e3, num: 7, scale: log}}
        gamma:   {type: DOUBLE, values: {sample: uniform, low: 0, high: 1, num: 4, seed: 7}, when: {kernel: [rbf, poly]}}
        degree:  {type: INT, values: [2, 3], when: {kernel: poly}}
      exclude: [{kernel: poly, dataset: wine}]
      include: [{dataset: iris, seed: 99, kernel: linear, C: 1}]
      zip: [[dataset, target]]
      resultfields: {accuracy: DOUBLE, pipeline: LONGTEXT}
      result_timestamps: false
    logtables:
      epochs: {loss: DOUBLE}
  Execution: {isolation: process, time_limit: 2h, retries: 0, max_lost: 3, heartbeat: 60s, lease: 5m, grace: 30s, stop_after_errors: 20}
  Custom: {datapath: data/}
  CodeCarbon: {offline_mode: true, country_iso_code: DEU}
"""  # noqa: E501 - as in the documentation

PREDECESSOR = """\
PY_EXPERIMENTER:
  n_jobs: 1
  Database:
    use_ssh: False
    provider: sqlite
    database: old
    table:
      name: t
      keyfields:
        dataset:
          type: VARCHAR(50)
          values: ['iris', 'wine']
        seed:
          type: int
          values:
            start: 0
            stop: 6
            step: 2
        flag:
          type: BOOL
          values: [true]
        free:
          type: VARCHAR(20)
      result_timestamps: True
      resultfields:
        acc: DOUBLE
        note: LONGTEXT
    logtables:
      epochs:
        loss: DOUBLE
        name: VARCHAR(20)
  Custom:
    datapath: data/
    lr: 1e-3
    day: 2024-01-31
    nested: {a: [1, 2]}
  CodeCarbon:
    offline_mode: False
    save_to_file: False
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Write a text to config.yml in an empty working directory and load it."""
    monkeypatch.chdir(tmp_path)

    def load(text, **arguments):
        (tmp_path / "config.yml").write_text(text, encoding="utf-8")
        return load_config("config.yml", **arguments)

    return load


def test_the_documented_example(load):
    config = load(STUDY)
    assert config.source == "config.yml"
    assert config.text == STUDY
    assert config.n_jobs == 4
    assert config.database.provider == "sqlite"
    assert config.database.database == str(Path("my_study.db").absolute())
    assert config.table.name == "svm"
    assert list(config.table.keyfields) == ["dataset", "target", "seed", "kernel", "C", "gamma", "degree"]
    assert config.table.keyfields["kernel"] == FieldType.parse("VARCHAR(50)")
    assert config.table.resultfields == {"accuracy": FieldType.parse("DOUBLE"), "pipeline": FieldType.parse("LONGTEXT")}
    assert config.logtables == {"epochs": {"loss": FieldType.parse("DOUBLE")}}
    assert config.custom == {"datapath": "data/"}
    assert config.codecarbon == {"offline_mode": True, "country_iso_code": "DEU"}
    rows = list(config.table.grid)
    # linear: 2 data sets, rbf: 2 with 4 gammas, poly: iris only with 4 gammas and 2 degrees; and the row included.
    assert len(rows) == len(config.table.grid) == 5 * 7 * (2 + 2 * 4 + 4 * 2) + 1
    assert {row["C"] for row in rows} == {0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0}
    assert {(row["dataset"], row["target"]) for row in rows[:-1]} == {("iris", "species"), ("wine", "cultivar")}
    assert all(row["degree"] is None for row in rows if row["kernel"] != "poly")
    assert rows[-1] == {
        "dataset": "iris", "target": None, "seed": 99, "kernel": "linear", "C": 1.0, "gamma": None, "degree": None,
    }  # fmt: skip
    assert type(rows[-1]["C"]) is float


def test_execution(load):
    execution = load(STUDY).execution
    assert execution == ExecutionConfig(time_limit=7200.0, grace=30.0)
    more = (
        "{retry_on: [OSError], no_retry_on: ConnectionError, signals: SIGHUP, echo: true, max_outage: 1m, journal: j, "
        "function: 'm:f'}"
    )
    execution = load(STUDY.replace(STUDY.partition("Execution: ")[2].partition("\n")[0], more)).execution
    assert (execution.retry_on, execution.no_retry_on) == (("OSError",), ("ConnectionError",))
    assert (execution.signals, execution.echo, execution.max_outage) == (("SIGHUP",), True, 60.0)
    assert execution.journal == "j"
    assert execution.function == "m:f"
    assert (execution.heartbeat, execution.lease, execution.grace) == (60.0, 300.0, 20.0)


def test_a_file_of_py_experimenter(load):
    with pytest.warns(DeprecationWarning, match="use_ssh_tunnel"):
        config = load(PREDECESSOR)
    assert config.table.result_timestamps is True
    assert list(config.table.grid)[:2] == [
        {"dataset": "iris", "seed": 0, "flag": True, "free": None},
        {"dataset": "iris", "seed": 2, "flag": True, "free": None},
    ]
    assert len(config.table.grid) == 2 * 3
    # As in py-experimenter: 1e-3 is a number, a date is a string.
    assert config.custom == {"datapath": "data/", "lr": 0.001, "day": "2024-01-31", "nested": {"a": [1, 2]}}
    assert config.codecarbon == {"offline_mode": False, "save_to_file": False}


SMALL = """\
PY_EXPERIMENTER:
  Database:
    provider: sqlite
    database: study
    table:
      name: t
      keyfields: {seed: {type: INT, values: [1]}}
"""


@pytest.mark.parametrize("value", ["true", "false"])
def test_the_name_of_result_timestamps_in_ini_files(load, value):
    with pytest.warns(DeprecationWarning, match="resultfields.timestamps is deprecated; write result_timestamps"):
        config = load(f"{SMALL}      resultfields.timestamps: {value}\n")
    assert config.table.result_timestamps is (value == "true")
    both = f"{SMALL}      result_timestamps: true\n      resultfields.timestamps: {value}\n"
    with pytest.raises(DuplicateKeyError, match=r"config.yml:9: .*timestamps.*delete one of the two"):
        load(both)


def test_a_database_named_in_the_table_is_ignored_with_a_warning(load):
    with pytest.warns(
        UserWarning, match=r"config.yml:8: PY_EXPERIMENTER.Database.table.database: ignored: .*"
    ) as warned:
        config = load(f"{SMALL}      database: elsewhere\n")
    assert len(warned) == 1
    assert config.database.database == str(Path("study.db").absolute())


def test_defaults(load):
    config = load(SMALL)
    assert config.n_jobs == 1
    assert config.execution == ExecutionConfig()
    assert config.table.resultfields == config.logtables == config.custom == {}
    assert config.codecarbon is None
    assert config.table.result_timestamps is config.database.use_ssh_tunnel is False


def test_sections_ignore_letter_case_and_fields_keep_theirs(load):
    shouting = SMALL.replace("Database", "DATABASE").replace("table", "Table").replace("seed", "Seed")
    config = load(shouting.replace("PY_EXPERIMENTER", "py_Experimenter").replace("type", "TYPE"))
    assert list(config.table.grid) == [{"Seed": 1}]


@pytest.mark.parametrize("before", ["    table:\n", "  Database:\n"], ids=["in Database", "next to Database"])
def test_logtables_may_be_in_either_section(load, before):
    indent = " " * (len(before) - len(before.lstrip()))
    config = load(SMALL.replace(before, f"{indent}LogTables: {{epochs: {{loss: DOUBLE}}}}\n{before}"))
    assert list(config.logtables) == ["epochs"]


def test_empty_sections_do_not_count_except_codecarbon(load):
    config = load(SMALL + "      resultfields:\n    logtables:\n  Custom:\n  Execution:\n  CodeCarbon:\n")
    assert config.table.resultfields == config.logtables == config.custom == config.codecarbon == {}


@pytest.mark.parametrize(
    "provider, meant", [("sqlite", "sqlite"), ("SQLite", "sqlite"), ("mysql", "mysql"), ("MariaDB", "mysql")]
)
def test_providers(load, monkeypatch, provider, meant):
    monkeypatch.setenv("PYEXPERIMENTER_DB_USER", "me")
    assert load(SMALL.replace("sqlite", provider)).database.provider == meant


def test_arguments_override_the_file(load, monkeypatch):
    monkeypatch.setenv("PYEXPERIMENTER_DB_USER", "me")
    config = load(SMALL, table_name="other", database_name="elsewhere", use_ssh_tunnel=True)
    assert config.table.name == "other"
    assert config.database.database == str(Path("elsewhere.db").absolute())
    assert config.database.use_ssh_tunnel is False  # SQLite has no server to tunnel to
    assert load(SMALL.replace("name: t", "name: 1t"), table_name="t").table.name == "t"
    assert load(SMALL.replace("sqlite", "mysql"), database_name="elsewhere").database.database == "elsewhere"


@pytest.mark.parametrize("override, used", [(None, True), (False, False)])
def test_tunnel_by_either_name(load, tmp_path, override, used):
    (tmp_path / "credentials.yml").write_text(
        "CREDENTIALS: {Database: {user: me}, Connection: {Ssh: {address: gate}}}", encoding="utf-8"
    )
    text = SMALL.replace("sqlite", "mysql\n    use_ssh_tunnel: true")
    given = {"credentials_path": "credentials.yml", "use_ssh_tunnel": override}
    assert load(text, **given).database.use_ssh_tunnel is used
    with pytest.warns(DeprecationWarning, match="write use_ssh_tunnel instead"):
        assert load(text.replace("use_ssh_tunnel", "use_ssh"), **given).database.use_ssh_tunnel is used


@pytest.mark.parametrize(
    "line",
    [
        "use_ssh: false",
        "table: {name: t, database: d, keyfields: {a: INT}}",
        "table: {name: t, resultfields.timestamps: true, keyfields: {a: INT}}",
    ],
)
def test_a_warning_is_of_the_line_where_the_file_is_read(tmp_path, line):
    start, table = SMALL.split("    table:")
    config = f"{start}    {line}\n" if line.startswith("table") else f"{start}    {line}\n    table:{table}"
    (tmp_path / "config.yml").write_text(config, encoding="utf-8")
    with pytest.warns(Warning) as caught:
        PyExperimenter(tmp_path / "config.yml")
    assert [warning.filename for warning in caught] == [__file__]


def test_anchors_and_merges(load):
    config = load(
        SMALL.replace("{seed: {type: INT, values: [1]}}", "{a: &a {type: INT, values: [1]}, b: {<<: *a, values: [2]}}")
    )
    assert list(config.table.grid) == [{"a": 1, "b": 2}]


ODD = ["3.9", "3.10", "007", "1:30", "0x1F", "1_000", "1e3", "0.00001", "+1", ".inf", "2026-01-31", "true", "False"]


@pytest.mark.parametrize("type_", ["VARCHAR(20)", "STRING", "TEXT"])
def test_a_text_is_kept_as_it_is_written(load, type_):
    config = load(
        SMALL.replace(
            "{seed: {type: INT, values: [1]}}", f"{{a: {{type: {type_}, values: [{', '.join(ODD)}, null, 'no']}}}}"
        )
    )
    assert [row["a"] for row in config.table.grid] == [*ODD, None, "no"]


def test_a_text_is_kept_in_all_forms_of_domains_and_conditions(load):
    config = load(
        """\
PY_EXPERIMENTER:
  database:
    provider: sqlite
    database: d
    Table:
      name: t
      keyfields:
        version: {type: VARCHAR(9), values: [3.9, 3.10]}
        single: {type: VARCHAR(9), values: 1.50, when: {version: 3.10}}
        alias: {type: VARCHAR(9), values: &list [007]}
        repeated: {type: TEXT, values: *list}
        referred: {type: TEXT, values: "${PY_EXPERIMENTER.Custom.versions}"}
        quoted: {type: TEXT, values: ['1_000']}
        range: {type: VARCHAR(9), values: {start: 1_0, stop: 0xB}}
        options: {type: TEXT, values: [{depth: 1.10}]}
        json: {type: JSON, values: [{depth: 1.10}]}
        octal: {type: INT, values: 010, when: {version: [3.10, 3.9]}}
        real: {type: DOUBLE, values: [1_000.0]}
        flag: {type: BOOL, values: [yes]}
      exclude: [{version: [3.9]}]
      include: [{version: 1:30, octal: 1e1, flag: off}]
      requires: [{when: {version: 3.10}, resources: {gpus: 0x1}}]
  Custom: {versions: [2.50], number: 2.50, flags: [on]}
"""
    )
    row = {
        "version": "3.10",
        "single": "1.50",
        "alias": "007",
        "repeated": "007",
        "referred": "2.50",
        "quoted": "1_000",
    }
    row |= {"range": "10", "options": '{"depth":1.1}', "json": {"depth": 1.1}, "octal": 8, "real": 1000.0, "flag": True}
    included = dict.fromkeys(row) | {"version": "1:30", "octal": 10, "flag": False}
    assert list(config.table.grid) == [row, included]
    assert config.table.requires[0].when == {"version": ["3.10"]}
    assert repr(config.table.requires[0].resources) == "{'gpus': 1}"
    assert repr(config.custom) == "{'versions': [2.5], 'number': 2.5, 'flags': [True]}"


@pytest.mark.parametrize("word", ["no", "off", "yes", "On"])
def test_a_boolean_that_looks_like_a_text_is_refused(load, word):
    with pytest.raises(InvalidConfigError, match=r"values\[0\]: (True|False) is not a string; quote it"):
        load(SMALL.replace("{seed: {type: INT, values: [1]}}", f"{{a: {{type: TEXT, values: [{word}]}}}}"))


@pytest.mark.parametrize("place", ["x-common", ".common"])
def test_top_level_keys_for_anchors_are_left_alone(load, place):
    anchors = f"{place}: &seed {{type: VARCHAR(9), values: [3.10]}}\nx-note: ['${{UNSET}}', !!int x, {{a: 1, a: 2}}]\n"
    config = load(anchors + SMALL.replace("{type: INT, values: [1]}", "*seed"))
    assert list(config.table.grid) == [{"seed": "3.10"}]
    assert load_config({place: 1} | yaml.safe_load(SMALL)).table.name == "t"
    with pytest.raises(InvalidConfigError, match=r"config\.yml:1: common: unknown key"):
        load(f"common: 1\n{SMALL}")


def test_a_long_list_may_be_an_anchor(load):
    numbers = ", ".join(map(str, range(100_000)))
    config = load(f"x-seeds: &seeds [{numbers}]\n" + SMALL.replace("[1]", "*seeds"))
    assert len(config.table.grid) == 100_000


def test_byte_order_mark_and_other_alphabets(tmp_path):
    path = tmp_path / "größe.yml"
    path.write_text(SMALL.replace("seed", "größe"), encoding="utf-8-sig")
    assert list(load_config(path).table.keyfields) == ["größe"]


def test_a_dict_is_accepted(load):
    table = {"name": "t", "keyfields": {"seed": {"type": "INT", "values": range(3)}}}
    custom = {"pair": (1, 2), "what": object()}
    source = {
        "PY_EXPERIMENTER": {"Database": {"provider": "sqlite", "database": "d", "table": table}, "Custom": custom}
    }
    config = load_config(source)
    assert config.source == "<dict>"
    assert json.loads(config.text)["PY_EXPERIMENTER"]["Database"]["provider"] == "sqlite"
    assert [row["seed"] for row in config.table.grid] == [0, 1, 2]
    assert config.custom == custom


def test_equal_files_give_equal_picklable_configurations(load):
    config = load(PREDECESSOR.replace("Custom", "custom").replace("use_ssh", "use_ssh_tunnel"))
    copy = pickle.loads(pickle.dumps(config))
    assert copy.table.keyfields == config.table.keyfields
    assert list(copy.table.grid) == list(config.table.grid)


def test_long_ranges_cost_nothing(load):
    long = "values: {start: 0, stop: 10000000}"
    text = SMALL.replace("{seed: {type: INT, values: [1]}}", f"{{a: {{type: INT, {long}}}, b: {{type: TEXT, {long}}}}}")
    grid = load(text).table.grid
    assert len(grid) == 10**14
    assert next(iter(grid)) == {"a": 0, "b": "0"}  # listing them all would take days


def test_a_set(load):
    assert load(f"{SMALL}  Custom: {{chosen: !!set {{a, b}}}}\n").custom == {"chosen": {"a", "b"}}


def test_aliases_within_aliases_do_not_take_all_memory(load):
    levels = "".join(f"    a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 18))
    with pytest.raises(InvalidConfigError, match=r":9: .*the aliases repeat more than 100000 values"):
        load(f"{SMALL}  Custom:\n    a0: &a0 [x]\n{levels}")


def test_importing_is_light():
    code = "import sys, pyexperimenter.config; print({'pydantic', 'yaml'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize(
    "text", ['"\\U1e300010000": 1', f"a: {'[' * 2000}"], ids=["a character that is none", "lists in lists"]
)
def test_without_libyaml_odd_texts_are_errors_of_ours(load, monkeypatch, text):
    monkeypatch.setattr(yaml_file, "_ConfigLoader", yaml.SafeLoader)
    with pytest.raises(InvalidConfigError, match=r"config.yml:1: not valid YAML"):
        load(text)
