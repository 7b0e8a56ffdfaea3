"""INI files of py-experimenter give the same configuration as YAML."""

# ruff: noqa: E501 - a table reads better with a case on one line

from dataclasses import replace

import pytest

from pyexperimenter import exceptions
from pyexperimenter.config import load_config

INI = """\
# a study
[PY_EXPERIMENTER]
provider = sqlite
database = study
table = svm

n_jobs = 2
keyfields = dataset, cross_validation_seed:int, kernel:VARCHAR(50), gamma:DECIMAL(10,2), lr:float, shuffle:bool, note:str

dataset = iris, wine
cross_validation_seed = 0:6:2
kernel = linear,
         rbf
gamma = 0.25
lr: 1e-3, 0:1:0.5
shuffle = True, false

; results
resultfields = pipeline:LONGTEXT, train_f1:DECIMAL(10,4), test_f1
resultfields.timestamps = true
logtables = train_scores:log_train_scores, best:DOUBLE, Count:int
log_train_scores = f1:DOUBLE, kernel:str

[CUSTOM]
path = sample_data
Rate = 5%%

[analysis]
unit = dataset, kernel
Resampling.test = 0.3

[codecarbon]
offline_mode = False
log_level = true
measure_power_secs = 2.5
tracking_mode = process
api_key = None
"""
YAML = """\
py_experimenter:
  n_jobs: 2
  Database:
    provider: sqlite
    database: study
    table:
      name: svm
      keyfields:
        dataset: {type: VARCHAR(255), values: [iris, wine]}
        cross_validation_seed: {type: INT, values: [0, 2, 4, 6]}
        kernel: {type: VARCHAR(50), values: [linear, rbf]}
        gamma: {type: "DECIMAL(10,2)", values: [0.25]}
        lr: {type: FLOAT, values: [0.001, 0, 0.5, 1]}
        shuffle: {type: BOOL, values: [true, false]}
        note: VARCHAR(255)
      resultfields: {pipeline: LONGTEXT, train_f1: "DECIMAL(10,4)", test_f1: VARCHAR(255)}
      result_timestamps: true
    logtables:
      train_scores: {f1: DOUBLE, kernel: VARCHAR(255)}
      best: {best: DOUBLE}
      Count: {Count: INT}
  Custom: {path: sample_data, Rate: 5%}
  Analysis: {unit: [dataset, kernel], resampling: {test: 0.3}}
  CodeCarbon: {offline_mode: false, log_level: true, measure_power_secs: 2.5, tracking_mode: process, api_key: null}
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(text, name="config.cfg"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return load_config(name)

    return load


@pytest.mark.parametrize("name", ["config.cfg", "config.ini", "config.CONF", "config", "config.txt"])
def test_ini_and_yaml_are_equal(load, name):
    from_ini, from_yaml = load(INI, name), load(YAML, "config.yml")
    assert list(from_ini.table.grid) == list(from_yaml.table.grid)
    assert len(from_ini.table.grid) == 2 * 4 * 2 * 4 * 2

    def without_grid(config):
        return replace(config, source="", text="", table=replace(config.table, grid=None))

    assert without_grid(from_ini) == without_grid(from_yaml)
    assert (from_ini.source, from_ini.text) == (name, INI)


def test_a_keyfield_may_have_the_name_of_a_section(load):
    assert list(load(f"{HEAD}keyfields = Database:int, a:int\na = 1\n").table.keyfields) == ["Database", "a"]


def test_emissions_are_measured_if_there_is_a_section_though_it_is_empty(load):
    assert load(f"{HEAD}keyfields = a:int\na = 1\n[codecarbon]\n").codecarbon == {}


DOUBLING = "\n".join(f"b{n} = %(b{n - 1})s%(b{n - 1})s" for n in range(1, 60))
HEAD = "[PY_EXPERIMENTER]\nprovider = sqlite\ndatabase = d\ntable = t\n"


@pytest.mark.parametrize(
    "lines, expected",
    [
        ("a:int\na = 0:3", [0, 1, 2, 3]),
        ("a:int\na = 0:6:4", [0, 4]),
        ("a:int\na = -3 : 3 : 3", [-3, 0, 3]),
        ("a:INT\na = 3:1:-1", [3, 2, 1]),
        ("a:int\na = 0:2, 7, 9:10", [0, 1, 2, 7, 9, 10]),
        ("a:float\na = 0:1:0.25", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("a:DOUBLE\na = 0.1:0.3:0.1, 5", [0.1, 0.2, 0.3, 5.0]),
        ("a\na = 0:3, c:d", ["0:3", "c:d"]),  # strings have no ranges
        ("a\na = x,,y,", ["x", "", "y"]),
        ("a\na = no, 1", ["no", "1"]),
        ("a\na = 5%, %(table)s", ["5%", "t"]),
        ("a:bool\na = TRUE", [True]),
        ("A:int\na = 1", [1]),
        ("a:DECIMAL(10,2),\na = 0.5", [0.5]),
    ],
)
def test_values(load, lines, expected):
    grid = load(f"{HEAD}keyfields = {lines}\n").table.grid
    found = [value for row in grid for value in row.values()]
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


def test_a_long_range_costs_nothing(load):
    assert len(load(f"{HEAD}keyfields = a:int\na = 1:10000000\n").table.grid) == 10**7


def test_old_name_of_n_jobs(load):
    assert load(f"{HEAD}cpu.max = 3\nkeyfields = a\n").n_jobs == 3


@pytest.mark.parametrize(
    "lines, kind, line, fragments",
    [
        ("keyfields = a:int\na = 0:3:0", "InvalidRangeError", 6, ["keyfields.a.values", "step is 0"]),
        ("keyfields = a:int\na = 7, 0:3:0", "InvalidRangeError", 6, ["keyfields.a.values", "step is 0"]),
        ("keyfields = a:int\na = 3:0", "InvalidRangeError", 6, ["never reaches 0"]),
        ("keyfields = a:int\na = 0:1:0.25", "InvalidRangeError", 6, ["0.25", "INT"]),
        (
            "keyfields = a:int\na = 1, x",
            "InvalidValuesInConfiguration",
            6,
            ["keyfields.a.values[1]", "'x' is not an integer"],
        ),
        ("keyfields = a:int\na = 1,,2", "InvalidValuesInConfiguration", 6, ["values[1]", "'' is not an integer"]),
        ("keyfields =", "MissingKeyError", 5, ["keyfields", "at least one"]),
        ("keyfields = a:innt", "InvalidTypeError", 5, ["'innt'", "'INT'"]),
        ("keyfields = a, a", "DuplicateKeyError", 5, ["twice"]),
        ("keyfields = a, A", "DuplicateNameError", 5, ["keyfields.a"]),
        ("keyfields = status", "ReservedNameError", 5, ["'status'"]),
        ("keyfields = a\nresultfields = b:DUBLE", "InvalidTypeError", 6, ["'DOUBLE'"]),
        ("keyfields = a\na = 1\na = 2", "DuplicateKeyError", 7, ["line 6"]),
        ("keyfields = a\nn_jobs = 1\ncpu.max = 2", "DuplicateKeyError", 7, ["n_jobs"]),
        ("keyfields = a\nn_jobs = x", "InvalidTypeError", 6, ["n_jobs", "'x' is not an integer"]),
        ("keyfields = a\nresultfields.timestamps = maybe", "InvalidTypeError", 6, ["'maybe'", "true or false"]),
        ("keyfields = a\nlogtables = ts:log_ts", "MissingLogTableError", 6, ["logtables.ts", "'log_ts = ...'"]),
        ("keyfields = a\nlogtables = ts", "MissingLogTableError", 6, ["logtables.ts", "its columns are missing"]),
        ("keyfields = a\nlogtables = ts:x\nx =", "MissingLogTableError", 7, ["no columns"]),
        ("keyfields = a\nlogtables = meta:INT", "ReservedNameError", 6, ["'meta'"]),
        ("keyfields = a\na = %(nope)s", "InvalidConfigError", 6, ["%(nope)s", "no such option"]),
        ("keyfields = a\na = ${PYEXPERIMENTER_UNSET}", "InvalidConfigError", 6, ["PYEXPERIMENTER_UNSET"]),
        (f"keyfields = a\n[CUSTOM]\nb0 = 0123456789\n{DOUBLING}", "InvalidConfigError", 23, ["b16", "1000000"]),
        ("keyfields = a:int\na = 5, 1:9999999999", "InvalidRangeError", 6, ["more than 1000000 values"]),
        (f"keyfields = a:int\na = 5, 1:{'9' * 5000}", "InvalidRangeError", 6, ["digits"]),
        ("keyfields = a\nnonsense", "InvalidConfigError", 6, ["option = value"]),
        ("keyfields = a\n[analysis]\nunits = a", "UnknownKeyError", 7, ["did you mean 'unit'"]),
        ("keyfields = a\n[analysis]\nresampling.test = 0.3", "MissingKeyError", 6, ["unit: dataset"]),
        ("keyfields = a\n[CUSTOM]\n[custom]", "DuplicateKeyError", 7, ["[custom]", "merge"]),
    ],
)
def test_errors_name_file_and_line(load, lines, kind, line, fragments):
    with pytest.raises(exceptions.InvalidConfigError) as caught:
        load(f"{HEAD}{lines}\n")
    assert type(caught.value) is getattr(exceptions, kind)
    assert str(caught.value).startswith(f"config.cfg:{line}: ")
    assert [fragment for fragment in fragments if fragment not in str(caught.value)] == []


@pytest.mark.parametrize(
    "text, kind, start",
    [
        ("", "MissingKeyError", "config.cfg:1: the section [PY_EXPERIMENTER] is missing"),
        ("a = 1\n", "InvalidConfigError", "config.cfg:1: this is outside of any section"),
        ("[X]\na = 1\n", "MissingKeyError", "config.cfg:1: the section [PY_EXPERIMENTER] is missing"),
        ("[CUSTOM]\na = 1\n", "MissingKeyError", "config.cfg:1: the section [PY_EXPERIMENTER] is missing"),
        ("[PY_EXPERIMENTER]\n", "MissingKeyError", "config.cfg:1: PY_EXPERIMENTER: the key 'Database' is missing"),
        ("PY_EXPERIMENTER:\n  n_jobs: 1\n", "InvalidConfigError", "config.cfg:1: this is outside of any section"),
    ],
)
def test_no_configuration_at_all(load, text, kind, start):
    with pytest.raises(exceptions.InvalidConfigError) as caught:
        load(text)
    assert type(caught.value) is getattr(exceptions, kind)
    assert str(caught.value).startswith(start)


@pytest.mark.parametrize("declared", ["bool", "BOOLEAN"])
@pytest.mark.parametrize("values", ["1, 0", "Yes, no", "on, OFF", "True,false"])
def test_booleans_are_what_the_words_of_ini_files_say(load, declared, values):
    config = load(f"{HEAD}keyfields = a:{declared}, b\na = {values}\nb = no\n")
    assert list(config.table.grid) == [{"a": True, "b": "no"}, {"a": False, "b": "no"}]


@pytest.mark.parametrize("declared", ["bool", "int", "float", "DATE", "JSON"])
@pytest.mark.parametrize("placeholder", ["None", ""])
def test_a_placeholder_is_null_where_it_is_no_text(load, declared, placeholder):
    config = load(f"{HEAD}keyfields = a:{declared}, b\na = {placeholder}\nb = {placeholder}\n")
    assert list(config.table.grid) == [{"a": None, "b": placeholder}]


@pytest.mark.parametrize(
    ("declared", "values", "grid"),
    [("bool", "None, True", [None, True]), ("int", "1:2, None", [1, 2, None]), ("DATE", "None,", [None])],
)
def test_a_placeholder_may_be_one_of_several_values(load, declared, values, grid):
    config = load(f"{HEAD}keyfields = a:{declared}\na = {values}\n")
    assert [row["a"] for row in config.table.grid] == grid


@pytest.mark.parametrize(
    ("lines", "warning"),
    [
        ("keyfields = a\nb = 1", "config.cfg:6: PY_EXPERIMENTER.b: ignored: it is neither an option nor a keyfield"),
        ("keyfields = a\nresultfeilds = b", "PY_EXPERIMENTER.resultfeilds: ignored: .*; did you mean 'resultfields'"),
    ],
)
def test_what_nothing_uses_is_ignored_with_a_warning(load, lines, warning):
    with pytest.warns(UserWarning, match=warning) as warned:
        config = load(f"{HEAD}{lines}\n")
    assert len(warned) == 1
    assert list(config.table.keyfields) == ["a"]


COMMENTS = """\
[PY_EXPERIMENTER]
provider = sqlite ; a file
database = a;b # c
table = svm # the table
n_jobs = 2 ; workers
keyfields = seed:int, flag:bool, note ; inputs
seed = 1, 2 ; numbers
       , 5:6 # a range
flag = ; none
note = a;b, c #d
resultfields = acc:DOUBLE ; higher is better
       , loss:DOUBLE # lower is
resultfields.timestamps = no # not yet
logtables = l:columns ; by epoch
columns = a:int # one
[CUSTOM]
path = a # b
"""


def test_comments_behind_values(load):
    with pytest.warns(UserWarning) as warned:
        config = load(COMMENTS)
    assert [str(warning.message) for warning in warned] == [
        "config.cfg:10: PY_EXPERIMENTER.Database.table.keyfields.note.values: '#d' is part of the value; put comments on "
        "lines of their own"
    ]
    assert (config.table.name, config.n_jobs, config.table.result_timestamps) == ("svm", 2, False)
    assert config.database.database.endswith("/a;b # c.db")
    notes = ["a;b", "c #d"]
    assert list(config.table.grid) == [{"seed": s, "flag": None, "note": n} for s in (1, 2, 5, 6) for n in notes]
    assert list(config.table.resultfields) == ["acc", "loss"]
    assert list(config.logtables["l"]) == ["a"]
    assert config.custom == {"path": "a # b"}


def test_a_password_may_contain_what_looks_like_a_comment(tmp_path):
    (tmp_path / "c.cfg").write_text("[CREDENTIALS]\nuser = me\npassword = a #b ;c\n")
    (tmp_path / "config.cfg").write_text(INI.replace("sqlite", "mysql"))
    config = load_config(tmp_path / "config.cfg", credentials_path=tmp_path / "c.cfg")
    assert config.database.credentials.password.reveal() == "a #b ;c"


def test_a_misspelled_option_that_is_needed_is_named_by_the_warning_before_the_error(load):
    with (
        pytest.warns(UserWarning, match="config.cfg:5: .*did you mean 'keyfields'"),
        pytest.raises(exceptions.MissingKeyError, match="'keyfields' is missing"),
    ):
        load(f"{HEAD}keyfeilds = a\n")
