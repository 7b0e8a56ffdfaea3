"""Programs written for py-experimenter 1.4 run when `py_experimenter` in their imports is changed."""

from __future__ import annotations

import inspect
import logging
import pickle
import random
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter.exceptions import (
    ConfigError,
    CreatingTableError,
    DatabaseConnectionError,
    DatabaseCreationError,
    DatabaseError,
    DatabaseQueryError,
    EmptyFillDatabaseCallError,
    InvalidColumnError,
    InvalidConfigError,
    InvalidLogFieldError,
    InvalidLogtableError,
    InvalidResultFieldError,
    InvalidRowError,
    InvalidValueError,
    InvalidValuesInConfiguration,
    MissingLogTableError,
    NoConfigFileError,
    NoExperimentsLeftException,
    NoPausedExperimentsException,
    ParameterCombinationError,
    PyExperimenterError,
    SshTunnelError,
    TableHasWrongStructureError,
)
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.experimenter import ExperimentStatus as StatusFromExperimenter
from pyexperimenter.experimenter import PyExperimenter
from pyexperimenter.result_processor import ResultProcessor
from tests.support.study import experimenter as made
from tests.support.study import study
from tests.support.target import Target

YAML = """
PY_EXPERIMENTER:
  n_jobs: 1
  Database:
    use_ssh_tunnel: false
    provider: {provider}
    database: {database}
    table:
      name: example_logtables
      keyfields:
        dataset:
          type: VARCHAR(255)
          values: ['iris']
        cross_validation_splits:
          type: INT
          values: [5]
        seed:
          type: INT
          values:
            start: 0
            stop: 5
            step: 1
        kernel:
          type: VARCHAR(255)
          values: ['linear', 'poly', 'rbf', 'sigmoid']
      result_timestamps: False
      resultfields:
        best_kernel_accuracy: VARCHAR(50)
        best_kernel_f1: VARCHAR(50)
    logtables:
      train_scores:
        f1: DOUBLE
        accuracy: DOUBLE
        kernel: VARCHAR(50)
      test_f1:
        test_f1: DOUBLE
  Custom:
    path: sample_data
"""

INI = """
[PY_EXPERIMENTER]
provider = {provider}
database = {database}
table = example_logtables

keyfields = dataset, cross_validation_splits:int, seed:int, kernel
dataset = iris
cross_validation_splits = 5
seed = 0:4:1
kernel = linear, poly, rbf, sigmoid

resultfields = best_kernel_accuracy:VARCHAR(50), best_kernel_f1:VARCHAR(50)
resultfields.timestamps = false

logtables = train_scores:log_train_scores, test_f1:DOUBLE
log_train_scores = f1:DOUBLE, accuracy:DOUBLE, kernel:str

[CUSTOM]
path = sample_data
"""


def pickled(experimenter: PyExperimenter) -> PyExperimenter:
    copy: PyExperimenter = pickle.loads(pickle.dumps(experimenter))
    return copy


@pytest.mark.parametrize(("text", "suffix"), [(YAML, "yml"), (INI, "cfg")], ids=["yaml", "ini"])
def test_a_program_of_the_predecessor(target: Target, tmp_path: Path, text: str, suffix: str) -> None:
    config = tmp_path / f"experiment_configuration.{suffix}"
    config.write_text(text.format(provider=target.provider, database=target.database))
    credentials = str(target.credentials_file or tmp_path / "there_is_none.yml")

    def run_ml(parameters: dict, result_processor: ResultProcessor, custom_config: dict) -> ExperimentStatus:
        assert custom_config == {"path": "sample_data"}
        generator = random.Random(parameters["seed"])
        if parameters["kernel"] == "sigmoid":
            raise ValueError("Error with weird kernel: sigmoid")
        result_processor.process_logs(
            {
                "train_scores": {"f1": generator.random(), "accuracy": 0.5, "kernel": parameters["kernel"]},
                "test_f1": {"test_f1": 0.25},
            }
        )
        result_processor.process_results({"best_kernel_accuracy": "linear", "best_kernel_f1": "linear"})
        return ExperimentStatus.PAUSED if parameters["kernel"] == "poly" else ExperimentStatus.DONE

    experimenter = PyExperimenter(
        experiment_configuration_file_path=str(config),
        database_credential_file_path=credentials,
        name="example_notebook",
        logger_name="drop-in",
        log_level=logging.ERROR,
    )
    experimenter.fill_table_from_config()
    experimenter.fill_table_with_rows(
        rows=[{"dataset": "error_dataset", "cross_validation_splits": 3, "seed": 42, "kernel": "linear"}]
    )
    experimenter.fill_table_from_combination(
        fixed_parameter_combinations=[{"dataset": "wine", "kernel": "rbf"}],
        parameters={"seed": [1, 2], "cross_validation_splits": [3]},
    )
    assert len(experimenter.get_table()) == 23
    experimenter.execute(run_ml, max_experiments=-1, random_order=True)
    table = experimenter.get_table()
    assert table["status"].value_counts().to_dict() == {"done": 13, "error": 5, "paused": 5}
    assert table[table["status"] == "error"]["kernel"].unique().tolist() == ["sigmoid"]
    assert "Error with weird kernel: sigmoid" in table[table["status"] == "error"]["error"].iloc[0]
    assert len(experimenter.get_logtable("train_scores")) == 18
    assert experimenter.get_logtable("test_f1")["test_f1"].unique().tolist() == [0.25]

    paused = int(table[table["status"] == "paused"]["ID"].iloc[0])
    experimenter.unpause_experiment(experiment_id=paused, experiment_function=lambda *_: ExperimentStatus.DONE)
    experimenter.attach(
        lambda result_processor: result_processor.process_results({"best_kernel_f1": "attached"}), paused
    )
    row = experimenter.get_table().set_index("ID").loc[paused]
    assert (row["status"], row["best_kernel_f1"]) == ("done", "attached")
    experimenter.reset_experiments("error", "paused")
    experimenter.reset_experiments(ExperimentStatus.ALL)
    assert set(experimenter.get_table()["status"]) == {"created"}
    experimenter.add_experiment_and_execute(
        {"dataset": "new", "cross_validation_splits": 3, "seed": 7, "kernel": "rbf"}, run_ml
    )
    assert experimenter.execute_custom_query("SELECT COUNT(*) FROM example_logtables WHERE dataset = 'new'") == [(1,)]
    experimenter.close_ssh()
    with pytest.warns(DeprecationWarning, match=r"call close_ssh\(\)") as warned:
        experimenter.close_ssh_tunnel()
    assert [warning.filename for warning in warned] == [__file__]
    experimenter.delete_table()


def test_the_constructor_takes_what_it_took() -> None:
    expected = {
        "experiment_configuration_file_path": "config/experiment_configuration.yml",
        "database_credential_file_path": "config/database_credentials.yml",
        "use_ssh_tunnel": None,
        "table_name": None,
        "database_name": None,
        "use_codecarbon": None,
        "name": "PyExperimenter",
        "logger_name": "py-experimenter",
        "log_level": logging.INFO,
        "log_file": None,
    }
    parameters = list(inspect.signature(PyExperimenter).parameters.values())
    assert {parameter.name: parameter.default for parameter in parameters} == expected
    assert [parameter.name for parameter in parameters] == list(expected)


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("execute", ["experiment_function", "random_order", "n_jobs", "max_experiments"]),
        ("fill_table_from_combination", ["fixed_parameter_combinations", "parameters"]),
        ("fill_table_with_rows", ["rows"]),
        ("create_table", ["create_database"]),
        ("add_experiment_and_execute", ["keyfield_values", "experiment_function"]),
        ("attach", ["experiment_function", "experiment_id"]),
        ("unpause_experiment", ["experiment_id", "experiment_function"]),
        ("get_logtable", ["logtable_name", "condition"]),
    ],
)
def test_methods_take_what_they_took(method: str, names: list[str]) -> None:
    assert list(inspect.signature(getattr(PyExperimenter, method)).parameters)[1 : len(names) + 1] == names


def test_errors_are_where_they_were() -> None:
    assert StatusFromExperimenter is ExperimentStatus
    assert {status.name: status.value for status in ExperimentStatus} == {
        "CREATED": "created",
        "RUNNING": "running",
        "DONE": "done",
        "ERROR": "error",
        "PAUSED": "paused",
        "ALL": "all",
    }
    parents: dict[type[Exception], Any] = {
        ParameterCombinationError: PyExperimenterError,
        DatabaseCreationError: DatabaseError,
        DatabaseConnectionError: DatabaseError,
        SshTunnelError: DatabaseError,
        DatabaseQueryError: DatabaseError,
        EmptyFillDatabaseCallError: DatabaseError,
        CreatingTableError: DatabaseError,
        InvalidResultFieldError: DatabaseError,
        InvalidLogFieldError: DatabaseError,
        TableHasWrongStructureError: CreatingTableError,
        NoExperimentsLeftException: PyExperimenterError,
        NoPausedExperimentsException: PyExperimenterError,
        NoConfigFileError: (ConfigError, FileNotFoundError),
        InvalidConfigError: ConfigError,
        InvalidValuesInConfiguration: ConfigError,
        MissingLogTableError: ConfigError,
        InvalidColumnError: PyExperimenterError,
        InvalidLogtableError: PyExperimenterError,
    }
    for error, parent in parents.items():
        assert all(issubclass(error, p) for p in (parent if isinstance(parent, tuple) else (parent,)))


def test_the_log_file_is_opt_in(sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    text = YAML.format(provider="sqlite", database=sqlite_target.database)
    (tmp_path / "config" / "experiment_configuration.yml").write_text(text)
    before = set(tmp_path.rglob("*"))
    PyExperimenter(log_level="ERROR").fill_table_from_config()
    made = {path.name for path in set(tmp_path.rglob("*")) - before}
    assert {name.partition("-")[0] for name in made} == {"study.db"}
    logging_ = PyExperimenter(logger_name="filed", log_file="logs/study.log")
    logging_.fill_table_from_config()
    assert "added 0 rows, skipped 20" in (tmp_path / "logs" / "study.log").read_text()
    for handler in logging.getLogger("filed").handlers:
        handler.close()


def test_a_missing_config_names_the_paths_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    both = [tmp_path / "config" / f"experiment_configuration.{suffix}" for suffix in ("yml", "cfg")]
    with pytest.raises(NoConfigFileError, match=f"{both[0]} or {both[1]}: there is no such configuration file"):
        PyExperimenter()


@pytest.mark.parametrize("made", [lambda experimenter: experimenter, pickled], ids=["new", "pickled"])
def test_the_default_paths_of_ini_files(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[[PyExperimenter], PyExperimenter]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    text = INI.format(provider=target.provider, database=target.database)
    (tmp_path / "config" / "experiment_configuration.cfg").write_text(text)
    if target.server is not None:
        credentials = tmp_path / "config" / "database_credentials.cfg"
        with pytest.raises(InvalidConfigError, match=f"database_credentials.yml or {credentials} does not exist"):
            PyExperimenter()
        server = target.server
        access = f"host = {server.host}\nport = {server.port}\nuser = {server.user}\npassword = {server.password}\n"
        credentials.touch(mode=0o600)
        credentials.write_text(f"[CREDENTIALS]\n{access}")
    assert made(PyExperimenter(log_level="ERROR")).fill_table_from_config() == (20, 0)
    (tmp_path / "config" / "experiment_configuration.yml").write_text("PY_EXPERIMENTER: {}")
    with pytest.raises(InvalidConfigError, match=r"experiment_configuration\.yml"):
        PyExperimenter()


def test_no_credential_file_is_needed_for_sqlite_nor_given_an_environment(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.yml").write_text(YAML.format(provider=target.provider, database=target.database))
    if target.server is not None:
        with pytest.raises(InvalidConfigError, match="no credential file was given"):
            PyExperimenter(tmp_path / "study.yml", None)
        for name in ("user", "password", "host", "port"):
            monkeypatch.setenv(f"PYEXPERIMENTER_DB_{name.upper()}", str(getattr(target.server, name)))
    experimenter = PyExperimenter(tmp_path / "study.yml", database_credential_file_path=None, log_level="ERROR")
    assert pickled(experimenter).fill_table_from_config() == (20, 0)


def test_a_number_with_a_fraction_is_rounded_in_results_and_logs_only(target: Target) -> None:
    config = study(target, resultfields={"epochs": "INT"}, logtables={"log": {"step": "INT"}})
    experimenter = made(target, config)
    experimenter.fill_table_from_config()

    def train(keyfields: dict, result_processor: ResultProcessor, custom: dict) -> dict:
        result_processor.process_logs({"log": {"step": 1.5}})
        result_processor.process_logs({"log": {"step": 3.5}})
        return {"epochs": -2.5}

    with pytest.warns(UserWarning, match="is stored as") as warned:
        assert experimenter.execute(train, max_experiments=1) == 1
    assert [str(warning.message) for warning in warned] == [
        f"{what}, since its type is INT; DOUBLE keeps fractions"
        for what in ("step: 1.5 is stored as 2", "epochs: -2.5 is stored as -3")
    ]
    assert target.query("SELECT epochs FROM study WHERE status = 'done'") == [(-3,)]
    assert target.query("SELECT step FROM study__log ORDER BY ID") == [(2,), (4,)]
    with pytest.raises(InvalidRowError, match=r"seed: 0\.5 is not an integer"):
        experimenter.fill_table_with_rows([{"dataset": "iris", "seed": 0.5}])


def small(target: Target) -> PyExperimenter:
    experimenter = made(target, study(target, resultfields={"accuracy": "DOUBLE"}))
    experimenter.fill_table_from_config()
    return experimenter


def test_sql_by_the_connector_goes_on(target: Target) -> None:
    experimenter = small(target)
    with pytest.warns(DeprecationWarning, match=r"call execute_custom_query\(\)") as warned:
        connector = experimenter.db_connector  # type: ignore[attr-defined] # for old programs only
    assert [warning.filename for warning in warned] == [__file__]
    connection = connector.connect()
    cursor = connector.cursor(connection)
    mark = "?" if target.server is None else "%s"
    connector.execute(cursor, target.native("UPDATE study SET accuracy = 0.5 WHERE ID = 2"))
    connector.commit(connection)
    connector.execute(cursor, target.native(f"SELECT ID FROM study WHERE accuracy = {mark}"), [0.5])
    assert list(map(tuple, connector.fetchall(cursor))) == [(2,)]
    with pytest.raises(DatabaseError, match="running: SELECT nothing"):
        connector.execute(cursor, "SELECT nothing")
    connector.close_connection(connection)
    assert target.query("SELECT accuracy FROM study WHERE ID = 2") == [(0.5,)]


def test_the_configuration_of_the_database_is_where_it_was(sqlite_target: Target) -> None:
    config = small(sqlite_target).config
    with pytest.warns(DeprecationWarning, match=r"read config\.table") as warned:
        old = config.database_configuration  # type: ignore[attr-defined] # for old programs only
    assert [warning.filename for warning in warned] == [__file__]
    assert (old.table_name, list(old.keyfields), list(old.resultfields)) == ("study", ["dataset", "seed"], ["accuracy"])
    assert (old.provider, old.result_timestamps, list(old.logtables)) == ("sqlite", False, ["epochs"])


@pytest.mark.parametrize(
    ("use", "error", "advice"),
    [
        (lambda old: old.dbconnector, AttributeError, "call|run SQL with execute_custom_query"),
        (lambda old: old.get_config_value("a", "b"), AttributeError, r"read experimenter\.config"),
        (lambda old: old.config.custom_configuration, AttributeError, r"read config\.custom"),
        (lambda old: old.config.get("a", "b"), AttributeError, r"read experimenter\.config"),
        (lambda old: old.db_connector.fill_table(), AttributeError, r"call fill_table_with_rows\(rows\)"),
        (lambda old: old.executes, AttributeError, "^'PyExperimenter' object has no attribute 'executes'$"),
        (lambda old: old.config.tables, AttributeError, "^'ExperimentConfig' object has no attribute 'tables'$"),
        (
            lambda old: old.get_table(condition="a = 1"),
            TypeError,
            "'condition'; condition is now where",
        ),
        (lambda old: old.execute(print, 5), InvalidValueError, "5 is not true or false.* is now max_experiments="),
        (
            lambda old: PyExperimenter(config_file="a.cfg", credential_path="b.cfg"),  # type: ignore[call-arg]
            TypeError,
            r"config_file is now experiment_configuration_file_path; credential_path is now database_cred",
        ),
        (
            lambda old: ResultProcessor({}, "a.cfg", table_name="t", result_fields=["r"], experiment_id=1),  # type: ignore
            TypeError,
            r"ResultProcessor.__init__\(\) .*the library makes them; .* call attach\(function, experiment_id\)",
        ),
        (
            lambda old: import_module("pyexperimenter.utils"),
            ModuleNotFoundError,
            r"pyexperimenter\.config\.load_config",
        ),
        (
            lambda old: import_module("pyexperimenter.database_connector_mysql"),
            ModuleNotFoundError,
            r"execute_custom_query",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:db_connector is deprecated")
def test_what_is_gone_is_named_with_its_replacement(
    sqlite_target: Target, use: Callable[[Any], object], error: type[Exception], advice: str
) -> None:
    with pytest.raises(error, match=advice) as caught:
        use(small(sqlite_target))
    assert caught.value.__cause__ is None


def test_errors_of_python_in_methods_with_advice_are_as_they_were(sqlite_target: Target) -> None:
    with pytest.raises(TypeError, match=r"got an unexpected keyword argument 'nope'$"):
        small(sqlite_target).get_table(nope={})  # type: ignore[call-arg]
    copy = pickle.loads(pickle.dumps(small(sqlite_target).config))
    assert copy.table.name == "study"
    with pytest.raises(ImportError, match=r"which py-experimenter had; load a configuration"):
        from pyexperimenter import utils  # type: ignore[attr-defined]  # noqa: F401
