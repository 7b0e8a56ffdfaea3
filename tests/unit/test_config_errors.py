"""Errors in a configuration name file, line, key path, value and remedy."""

# ruff: noqa: E501 - a table reads better with a case on one line

import os
from re import Pattern

import pytest
from pydantic import TypeAdapter, ValidationError

from pyexperimenter import exceptions
from pyexperimenter.config import load_config
from pyexperimenter.config.messages import problems_of

CONFIG = """\
PY_EXPERIMENTER:
  n_jobs: 1
  Database:
    provider: sqlite
    database: study
    table:
      name: t
      keyfields:
        seed: {type: INT, values: [1, 2]}
        kernel: {type: VARCHAR(50), values: [linear, rbf]}
      exclude: []
      include: []
      zip: []
      resultfields: {acc: DOUBLE}
      result_timestamps: true
    logtables:
      epochs: {loss: DOUBLE}
  Execution: {}
"""
DATABASE = "PY_EXPERIMENTER.Database"
TABLE = f"{DATABASE}.table"
SEED = f"{TABLE}.keyfields.seed"
KERNEL = f"{TABLE}.keyfields.kernel"
EXECUTION = "PY_EXPERIMENTER.Execution"
ANALYSIS = "PY_EXPERIMENTER.Analysis"


@pytest.fixture
def error_of(tmp_path, monkeypatch):
    """Return the error that a text in config.yml raises."""
    monkeypatch.chdir(tmp_path)

    def error_of(content, **arguments):
        content = content.encode() if isinstance(content, str) else content
        (tmp_path / "config.yml").write_bytes(content)
        with pytest.raises(exceptions.ConfigError) as caught:
            load_config("config.yml", **arguments)
        return caught.value

    return error_of


def changed(old, new):
    assert old in CONFIG
    return CONFIG.replace(old, new, 1)


def nested(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value


# (old, new) of CONFIG, class, line, key path, and what else the message names.
CASES = {
    # keys
    "unknown key": ("n_jobs", "n_job", "UnknownKeyError", 2, "PY_EXPERIMENTER.n_job", ["did you mean 'n_jobs'", "Execution"]),
    "unknown key of a keyfield": ("values: [1", "vals: [1", "UnknownKeyError", 9, f"{SEED}.vals", ["'values'", "when"]),
    "unknown key of a range": ("[1, 2]", "{start: 0, stp: 4}", "UnknownKeyError", 9, f"{SEED}.values.stp", ["'stop'"]),
    "unknown section": ("Execution", "Exection", "UnknownKeyError", 18, "PY_EXPERIMENTER.Exection", ["'Execution'"]),
    "no-break space in a key": ("n_jobs:", "n_jobs\u00a0:", "UnknownKeyError", 2, "PY_EXPERIMENTER.n_jobs\u00a0", ["it contains a no-break space (U+00A0)"]),
    "no-break space in a keyfield": ("seed:", "se\u00a0ed:", "InvalidNameError", 9, f"{TABLE}.keyfields.se\u00a0ed", ["a no-break space (U+00A0)"]),
    "zero width space in a key": ("provider", "pro\u200bvider", "UnknownKeyError", 4, f"{DATABASE}.pro\u200bvider", ["a zero width space (U+200B)"]),
    "key twice": ("provider: sqlite", "provider: sqlite\n    provider: mysql", "DuplicateKeyError", 5, f"{DATABASE}.provider", ["line 4"]),
    "keyfield twice": ("kernel:", "seed:", "DuplicateKeyError", 10, SEED, ["line 9", "rename"]),
    "key twice in other letters": ("provider: sqlite", "provider: sqlite\n    Provider: mysql", "DuplicateKeyError", 5, f"{DATABASE}.Provider", ["delete one"]),
    "old and new name": ("provider: sqlite", "provider: sqlite\n    use_ssh: true\n    use_ssh_tunnel: true", "DuplicateKeyError", 5, f"{DATABASE}.use_ssh", ["use_ssh_tunnel"]),
    "logtables twice": ("n_jobs: 1", "logtables: {a: {b: INT}}", "DuplicateKeyError", 2, "PY_EXPERIMENTER.logtables", ["Database"]),
    "missing key": ("    provider: sqlite\n", "", "MissingKeyError", 3, DATABASE, ["'provider'", "add it"]),
    "missing type": ("type: INT, ", "", "MissingKeyError", 9, SEED, ["'type'"]),
    "missing stop": ("[1, 2]", "{start: 0}", "MissingKeyError", 9, f"{SEED}.values", ["'stop'"]),
    "key that YAML reads as a boolean": ("seed:", "no:", "InvalidTypeError", 9, f"{TABLE}.keyfields.False", ["quote it"]),
    # types
    "text for a number": ("n_jobs: 1", "n_jobs: four", "InvalidTypeError", 2, "PY_EXPERIMENTER.n_jobs", ["'four'", "an integer"]),
    "boolean for a number": ("n_jobs: 1", "n_jobs: yes", "InvalidTypeError", 2, "PY_EXPERIMENTER.n_jobs", ["True", "an integer"]),
    "fraction for an integer": ("n_jobs: 1", "n_jobs: 1.5", "InvalidTypeError", 2, "PY_EXPERIMENTER.n_jobs", ["1.5"]),
    "no worker": ("n_jobs: 1", "n_jobs: 0", "InvalidTypeError", 2, "PY_EXPERIMENTER.n_jobs", ["0 is", "-1"]),
    "fewer than all": ("n_jobs: 1", "n_jobs: -2", "InvalidTypeError", 2, "PY_EXPERIMENTER.n_jobs", ["-2 is", "-1"]),
    "unknown provider": ("sqlite", "sqlight", "InvalidTypeError", 4, f"{DATABASE}.provider", ["'sqlight'", "'sqlite', 'mysql' or 'postgresql'"]),
    "number for a string": ("study", "5", "InvalidTypeError", 5, f"{DATABASE}.database", ["5 is not a string", "quote it"]),
    "text for a boolean": ("timestamps: true", "timestamps: maybe", "InvalidTypeError", 15, f"{TABLE}.result_timestamps", ["'maybe'", "true or false"]),
    "function without colon": ("{}", "{function: train.f}", "InvalidTypeError", 18, f"{EXECUTION}.function", ["'train.f'", "write train:f"]),
    "value for a section": ("{}", "5", "InvalidTypeError", 18, EXECUTION, ["5 is not a section"]),
    "unknown type": ("VARCHAR(50)", "VARCAR(50)", "InvalidTypeError", 10, f"{KERNEL}.type", ["'VARCAR(50)'", "did you mean 'VARCHAR'"]),
    "type of a server without an equal": ("VARCHAR(50)", "POINT", "InvalidTypeError", 10, f"{KERNEL}.type", ["'POINT' is not a valid type; write JSON (choose"]),
    "type that is only somewhat similar": ("VARCHAR(50)", "BIT(8)", "InvalidTypeError", 10, f"{KERNEL}.type", ["'BIT(8)' is not a valid type (choose"]),
    "unknown type of a result": ("acc: DOUBLE", "acc: DUBLE", "InvalidTypeError", 14, f"{TABLE}.resultfields.acc", ["'DUBLE'", "'DOUBLE'"]),
    "number for a type": ("INT", "5", "InvalidTypeError", 9, f"{SEED}.type", ["5 is not a type", "VARCHAR(255)"]),
    "list for a keyfield": ("{type: INT, values: [1, 2]}", "[1, 2]", "InvalidTypeError", 9, SEED, ["[1, 2] is not a keyfield", "type"]),
    "exclude without list": ("exclude: []", "exclude: {seed: 1}", "InvalidTypeError", 11, f"{TABLE}.exclude", ["not a list", "[ ]"]),
    "zip without list": ("zip: []", "zip: [seed, kernel]", "InvalidTypeError", 13, f"{TABLE}.zip[0]", ["'seed' is not a list", "and 1 more"]),
    # values
    "no values": ("[1, 2]", "[]", "EmptyDomainError", 9, f"{SEED}.values", ["list is empty", "at least one"]),
    "null for values": ("[1, 2]", "", "EmptyDomainError", 9, f"{SEED}.values", ["[null]"]),
    "empty range": ("[1, 2]", "{start: 3, stop: 3}", "EmptyDomainError", 9, f"{SEED}.values", ["no values"]),
    "step 0": ("[1, 2]", "{start: 0, stop: 5, step: 0}", "InvalidRangeError", 9, f"{SEED}.values", ["step is 0", "other than 0"]),
    "step away from stop": ("[1, 2]", "{start: 0, stop: 5, step: -1}", "InvalidRangeError", 9, f"{SEED}.values", ["-1", "sign"]),
    "fractions of integers": ("[1, 2]", "{start: 0, stop: 5, step: 0.5}", "InvalidRangeError", 9, f"{SEED}.values.step", ["0.5", "INT", "DOUBLE"]),
    "spaces between integers": ("[1, 2]", "{start: 0, stop: 10, num: 4}", "InvalidRangeError", 9, f"{SEED}.values", ["4 evenly spaced values", "change num"]),
    "endless range": ("[1, 2]", "{start: 0, stop: .inf}", "InvalidRangeError", 9, f"{SEED}.values.stop", ["inf"]),
    "log scale through 0": ("[1, 2]", "{start: 0, stop: 10, num: 4, scale: log}", "InvalidRangeError", 9, f"{SEED}.values", ["log scale"]),
    "unknown scale": ("[1, 2]", "{start: 0, stop: 9, num: 4, scale: lin}", "InvalidTypeError", 9, f"{SEED}.values.scale", ["'lin'", "'linear' or 'log'"]),
    "range of texts": ("[1, 2]", "{start: a, stop: 9}", "InvalidTypeError", 9, f"{SEED}.values.start", ["'a' is not a number"]),
    "range of lists": ("[1, 2]", "{start: [0], stop: 9}", "InvalidTypeError", 9, f"{SEED}.values.start", ["[0] is not a number"]),
    "fractions sampled for integers": ("[1, 2]", "{sample: normal, mean: 0, std: 1, num: 3}", "InvalidValuesInConfiguration", 9, f"{SEED}.values.sample", ["fractions", "integers"]),
    "sample without its parameters": ("[1, 2]", "{sample: integers, low: 0, num: 3}", "InvalidRangeError", 9, f"{SEED}.values", ["high"]),
    "value of another type": ("[1, 2]", "[1, x]", "InvalidValuesInConfiguration", 9, f"{SEED}.values[1]", ["'x' is not an integer", "INT"]),
    "value on its own line": ("[1, 2]", "[1,\n          2,\n          x]", "InvalidValuesInConfiguration", 11, f"{SEED}.values[2]", ["'x'"]),
    "YAML's no for a string": ("[linear, rbf]", "[linear, no]", "InvalidValuesInConfiguration", 10, f"{KERNEL}.values[1]", ["False is not a string", "quote it"]),
    "text that is too long": ("50", "5", "InvalidValuesInConfiguration", 10, f"{KERNEL}.values[0]", ["'linear'", "VARCHAR(5)", "longer type"]),
    "integer that is too large": ("[1, 2]", "{start: 2147483640, stop: 2147483650}", "InvalidValuesInConfiguration", 9, f"{SEED}.values", ["2147483649", "INT"]),
    "not a number": ("[1, 2]", "[.nan]", "InvalidValuesInConfiguration", 9, f"{SEED}.values[0]", ["NaN", "null"]),
    "equal values": ("[1, 2]", "[1, 2, 1.0]", "InvalidValuesInConfiguration", 9, f"{SEED}.values[2]", ["value 1 twice", "once"]),
    # conditions
    "condition never met": ("[1, 2]", "[1, 2], when: {kernel: poly}", "ContradictoryConditionError", 9, f"{SEED}.when.kernel", ["'poly'", "'linear', 'rbf'"]),
    "condition on itself": ("[1, 2]", "[1, 2], when: {seed: 1}", "ContradictoryConditionError", 9, f"{SEED}.when", ["circle"]),
    "key of another tool": ("[1, 2]", "{start: 0, end: 4}", "UnknownKeyError", 9, f"{SEED}.values.end", ["did you mean 'stop'"]),
    "key of the table one level out": ("    logtables:", "    requires: []\n    logtables:", "UnknownKeyError", 16, f"{DATABASE}.requires", ["belongs into the section Database.table"]),
    "key of another section": ("n_jobs: 1", "time_limit: 5m", "UnknownKeyError", 2, "PY_EXPERIMENTER.time_limit", ["belongs into the section Execution"]),
    "condition on an unknown keyfield": ("[1, 2]", "[1, 2], when: {kernl: rbf}", "UnknownKeyError", 9, f"{SEED}.when.kernl", ["'kernl'", "'kernel'"]),
    "condition of another type": ("[1, 2]", "[1, 2], when: {kernel: [rbf, no]}", "InvalidValuesInConfiguration", 9, f"{SEED}.when.kernel[1]", ["False", "quote it"]),
    "condition without values": (", values: [1, 2]", ", when: {kernel: rbf}", "InvalidValuesInConfiguration", 9, f"{SEED}.when", ["'values'"]),
    "empty condition": ("[1, 2]", "[1, 2], when: {}", "ContradictoryConditionError", 9, f"{SEED}.when", ["empty"]),
    "exclusion of no row": ("exclude: []", "exclude: [{seed: 3}]", "ContradictoryConditionError", 11, f"{TABLE}.exclude[0].seed", ["3", "1, 2"]),
    "exclusion of an unknown keyfield": ("exclude: []", "exclude: [{sed: 3}]", "UnknownKeyError", 11, f"{TABLE}.exclude[0].sed", ["'seed'"]),
    "included value of another type": ("include: []", "include: [{seed: x}]", "InvalidValuesInConfiguration", 12, f"{TABLE}.include[0].seed", ["'x'", "INT"]),
    "included unknown keyfield": ("include: []", "include: [{sed: 1}]", "UnknownKeyError", 12, f"{TABLE}.include[0].sed", ["'seed'"]),
    "zip of an unknown keyfield": ("zip: []", "zip: [[seed, foo]]", "UnknownKeyError", 13, f"{TABLE}.zip[0]", ["'foo'", "kernel"]),
    # names
    "illegal keyfield": ("seed:", "'se;ed':", "InvalidNameError", 9, f"{TABLE}.keyfields.se;ed", ["'se;ed'", "letters"]),
    "keyfield that begins with a digit": ("seed:", "1seed:", "InvalidNameError", 9, f"{TABLE}.keyfields.1seed", ["start with a letter"]),
    "keyfield that ends with a space": ("seed:", "'seed ':", "InvalidNameError", 9, f"{TABLE}.keyfields.seed ", ["end with a space"]),
    "empty keyfield": ("seed:", "'':", "InvalidNameError", 9, f"{TABLE}.keyfields.", ["start with a letter"]),
    "illegal table": ("name: t", "name: a`b", "InvalidNameError", 7, f"{TABLE}.name", ["'a`b'"]),
    "reserved keyfield": ("seed:", "Status:", "ReservedNameError", 9, f"{TABLE}.keyfields.Status", ["'Status'", "choose another"]),
    "reserved resultfield": ("acc:", "pyexperimenter_identity:", "ReservedNameError", 14, f"{TABLE}.resultfields.pyexperimenter_identity", []),
    "keyfield twice in other letters": ("kernel:", "SEED:", "DuplicateNameError", 10, f"{TABLE}.keyfields.SEED", ["keyfields.seed", "rename"]),
    "keyfield and resultfield": ("acc:", "Seed:", "DuplicateNameError", 14, f"{TABLE}.resultfields.Seed", ["keyfields.seed"]),
    "timestamp of a result": ("{acc: DOUBLE}", "{acc: DOUBLE, ACC_timestamp: INT}", "DuplicateNameError", 14, f"{TABLE}.resultfields.ACC_timestamp", ["resultfields.acc"]),
    "reserved logtable": ("epochs:", "Attempts:", "ReservedNameError", 17, f"{DATABASE}.logtables.Attempts", ["'Attempts'"]),
    "illegal logtable": ("epochs:", "a$b:", "InvalidNameError", 17, f"{DATABASE}.logtables.a$b", ["'a$b'"]),
    "reserved column of a logtable": ("loss:", "timestamp:", "ReservedNameError", 17, f"{DATABASE}.logtables.epochs.timestamp", []),
    "column of a logtable twice": ("loss: DOUBLE", "loss: DOUBLE, LOSS: INT", "DuplicateNameError", 17, f"{DATABASE}.logtables.epochs.LOSS", ["epochs.loss"]),
    "logtable without columns": ("{loss: DOUBLE}", "", "MissingLogTableError", 17, f"{DATABASE}.logtables.epochs", ["loss: DOUBLE"]),
    # execution
    "no duration": ("{}", "{time_limit: 2x}", "InvalidTypeError", 18, f"{EXECUTION}.time_limit", ["'2x'", "1h30m"]),
    "duration 0": ("{}", "{grace: 0}", "InvalidTypeError", 18, f"{EXECUTION}.grace", ["not a positive duration"]),
    "unknown isolation": ("{}", "{isolation: thread}", "InvalidTypeError", 18, f"{EXECUTION}.isolation", ["'thread'", "'process' or 'none'"]),
    "negative count": ("{}", "{retries: -1}", "InvalidTypeError", 18, f"{EXECUTION}.retries", ["-1", "at least 0"]),
    "unknown signal": ("{}", "{signals: [SIGTERM, SIGKILL]}", "InvalidTypeError", 18, f"{EXECUTION}.signals", ["'SIGKILL'", "SIGTERM, SIGINT, SIGUSR1"]),
    "exceptions that are no list": ("{}", "{retry_on: 5}", "InvalidTypeError", 18, f"{EXECUTION}.retry_on", ["5", "list"]),
    "no loss at all": ("{}", "{max_lost: 0}", "InvalidTypeError", 18, f"{EXECUTION}.max_lost", ["0", "1"]),
    "lease shorter than heartbeat": ("{}", "{lease: 30s}", "InvalidTypeError", 18, f"{EXECUTION}.lease", ["30 s", "60 s"]),
    "lease as long as heartbeat": ("{}", "{lease: 60s}", "InvalidTypeError", 18, f"{EXECUTION}.lease", ["60 s", "60 s"]),
    # analysis
    "unknown unit": ("Execution: {}", "Analysis: {unit: sed}", "UnknownKeyError", 18, f"{ANALYSIS}.unit", ["'sed' is not a keyfield; did you mean 'seed'"]),
    "unit that is no keyfield": ("Execution: {}", "Analysis: {unit: [seed, acc]}", "UnknownKeyError", 18, f"{ANALYSIS}.unit", ["'acc'", "choose from seed, kernel"]),
    "splits of nothing": ("Execution: {}", "Analysis: {resampling: {test: 0.3}}", "MissingKeyError", 18, f"{ANALYSIS}.resampling", ["unit: dataset"]),
    "splits without a share": ("Execution: {}", "Analysis: {unit: kernel, resampling: {}}", "MissingKeyError", 18, f"{ANALYSIS}.resampling", ["'test'"]),
    "share in percent": ("Execution: {}", "Analysis: {unit: kernel, resampling: {test: 30}}", "InvalidTypeError", 18, f"{ANALYSIS}.resampling.test", ["30 is not a share", "write 0.3"]),
    "share of nothing": ("Execution: {}", "Analysis: {unit: kernel, resampling: {test: 0}}", "InvalidTypeError", 18, f"{ANALYSIS}.resampling.test", ["0 is not a share"]),
    "share that leaves nothing": ("Execution: {}", "Analysis: {unit: kernel, resampling: {test: 1}}", "InvalidTypeError", 18, f"{ANALYSIS}.resampling.test", ["1 is not a share"]),
    # interpolation
    "unset variable": ("study", "${PYEXPERIMENTER_UNSET}", "InvalidConfigError", 5, f"{DATABASE}.database", ["PYEXPERIMENTER_UNSET", "${oc.env:PYEXPERIMENTER_UNSET,default}"]),
    # not YAML
    "number that is none": ("[1, 2]", "[!!int x]", "InvalidConfigError", 9, f"{SEED}.values[0]", ["'x'"]),
    "key twice after a merge": ("{type: INT, values: [1, 2]}", "{<<: {type: INT}, values: 1, values: 2}", "DuplicateKeyError", 9, f"{SEED}.values", ["first on line 9"]),
    "alias of itself": ("[1, 2]", "&a [*a]", "InvalidConfigError", 9, f"{SEED}.values[0]", ["itself"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_place_value_and_remedy(error_of, case):
    old, new, kind, line, path, fragments = case
    error = error_of(changed(old, new))
    assert type(error) is getattr(exceptions, kind)
    assert str(error).startswith(f"config.yml:{line}: {path}: ")
    assert [fragment for fragment in fragments if fragment not in str(error)] == []
    assert "(and 0 more)" not in str(error)
    assert isinstance(error, exceptions.InvalidConfigError)
    assert error.path[0] == "PY_EXPERIMENTER"


def test_zip_of_different_lengths(error_of):
    text = changed("zip: []", "zip: [[seed, kernel]]").replace("[1, 2]", "[1, 2, 3]")
    error = error_of(text)
    assert type(error) is exceptions.InvalidValuesInConfiguration
    assert str(error).startswith(f"config.yml:13: {TABLE}.zip[0]: ")
    assert "seed has 3, kernel has 2" in str(error)


def test_the_first_of_several_errors_is_reported(error_of):
    error = error_of(changed("n_jobs: 1", "n_jobs: x").replace("sqlite", "foo").replace("DOUBLE}", "FOO}"))
    assert str(error).startswith("config.yml:2: PY_EXPERIMENTER.n_jobs: 'x'")
    assert "(and 3 more)" in str(error)


def test_an_overriding_table_name_is_checked(error_of):
    error = error_of(CONFIG, table_name="a;b")
    assert type(error) is exceptions.InvalidNameError
    assert str(error).startswith("config.yml: table_name: 'a;b'")


def test_errors_in_a_dict_name_the_key_path(tmp_path):
    with pytest.raises(exceptions.InvalidTypeError, match=r"^<dict>: PY_EXPERIMENTER\.n_jobs: 'x' is not an integer"):
        load_config({"PY_EXPERIMENTER": {"n_jobs": "x", "Database": {}}})


@pytest.mark.parametrize("value", [{(1, 2): 3}, 10**5000, nested(5000)], ids=["key", "huge", "nested"])
def test_a_dict_that_is_no_json_is_an_error(value):
    with pytest.raises(exceptions.InvalidConfigError, match=r"^<dict>: "):
        load_config({"PY_EXPERIMENTER": {"Custom": {"value": value}}})


def test_a_problem_that_only_pydantic_has_a_name_for():
    """A new version may find more than those that we describe."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Pattern).validate_python("(")
    (problem,) = problems_of(caught.value)
    assert isinstance(problem, exceptions.InvalidTypeError)
    assert str(problem) == "'(' is not valid"


def test_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(exceptions.NoConfigFileError) as caught:
        load_config("config/nothing.yml")
    assert str(caught.value).startswith(
        f"{tmp_path}{os.sep}config{os.sep}nothing.yml: there is no such configuration file"
    )
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(exceptions.NoConfigFileError):
        load_config(tmp_path)  # a folder


def test_unreadable_file():
    with pytest.raises(exceptions.ConfigError, match="xxx: the file cannot be read: File name too long"):
        load_config("x" * 300)


@pytest.mark.parametrize(
    "content, kind, start, fragment",
    [
        (
            CONFIG.replace("    provider", "\tprovider"),
            "InvalidConfigError",
            "config.yml:4:1: not valid YAML",
            "not with tabs",
        ),
        (
            CONFIG.replace("    database", "   database"),
            "InvalidConfigError",
            "config.yml:5:4: not valid YAML",
            "indentation",
        ),
        (
            CONFIG.replace("name: t", "name t"),
            "InvalidConfigError",
            "config.yml:8:",
            "a colon may be missing in line 7",
        ),
        (CONFIG.replace("[1, 2]", "[1, 2"), "InvalidConfigError", "config.yml:9:", "brackets"),
        (CONFIG.replace("{}", "{"), "InvalidConfigError", "config.yml:19:1: ", "brackets"),
        (CONFIG.replace("[1, 2]", "[" * 200 + "]" * 200), "InvalidConfigError", "config.yml:9: ", "than 100 levels"),
        (CONFIG.replace("[1, 2]", "!!seq x"), "InvalidConfigError", "config.yml:9:35: ", "expected a sequence"),
        (CONFIG.replace("[1, 2]", "!!map x"), "InvalidConfigError", "config.yml:9:35: ", "expected a mapping"),
        (
            CONFIG.replace("[1, 2]", "[${N}]"),
            "InvalidConfigError",
            "config.yml:9:",
            "quotes around a string with ${...}",
        ),
        (CONFIG.replace("[1, 2]", "!!python/object:os.system x"), "InvalidConfigError", "config.yml:9:", "tag"),
        (CONFIG.replace("[1, 2]", "{[1]: 2}"), "InvalidConfigError", "config.yml:9:", "cannot be a key"),
        ("", "MissingKeyError", "config.yml: ", "empty"),
        ("# nothing\n", "MissingKeyError", "config.yml: ", "PY_EXPERIMENTER"),
        ("hello", "InvalidTypeError", "config.yml: 'hello'", "section"),
        ("- a\n", "InvalidTypeError", "config.yml: ['a']", "section"),
        ("PY_EXPERIMENTER:\n", "MissingKeyError", "config.yml:1: PY_EXPERIMENTER", "'Database'"),
        (b"\na: b\n\xff\xfe\x00", "InvalidConfigError", "config.yml:3: ", "UTF-8"),
        (b"\na: b\nc: \x00", "InvalidConfigError", "config.yml:3: ", "#x0000; is this a text file"),
    ],
    ids=[
        "tab",
        "indentation",
        "colon",
        "bracket",
        "bracket at the end",
        "levels",
        "sequence that is none",
        "mapping that is none",
        "brace",
        "tag",
        "key",
        "empty",
        "comment",
        "text",
        "list",
        "no section",
        "binary",
        "NUL",
    ],
)
def test_not_a_configuration_at_all(error_of, content, kind, start, fragment):
    error = error_of(content)
    assert type(error) is getattr(exceptions, kind)
    assert str(error).startswith(start)
    assert fragment in str(error)


def test_no_traceback_of_pydantic_or_yaml_is_shown(error_of):
    for text in (changed("n_jobs: 1", "n_jobs: x"), changed("[1, 2]", "[1, 2")):
        error = error_of(text)
        assert error.__cause__ is None
        assert error.__suppress_context__
