"""Studies of py-experimenter 1.2 to 1.4 go on: the same grid, no experiment twice, and the open ones are executed.

The files are in the forms of these versions, and the statements are those that they ran, as seen in their databases.
`make test-predecessor` compares with the versions themselves.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import PyExperimenter
from tests.support.study import credentials
from tests.support.target import Target

DATABASES = ["sqlite", "mariadb"]  # those that it knew

INI_1_2 = """\
; a study
[PY_EXPERIMENTER]
provider: {provider}
database: {database}
table: study

keyfields: dataset, Seed:int , lr:float, shuffle:bool, Depth:BIGINT, note:str
dataset: iris,openml:61
Seed: 0:4:2
lr: 1e-3, .5
shuffle: {booleans}
Depth: 3
note: None

resultfields: accuracy:FLOAT, model
resultfields.timestamps: yes

logtables: epochs:log_epochs, best:DOUBLE
log_epochs: epoch:int, loss:DOUBLE
[CUSTOM]
"""

INI_1_3 = """\
[PY_EXPERIMENTER]
provider = {provider}
database = {database}
table = study
cpu.max = 2

keyfields = dataset, Seed:int, lr:DOUBLE, shuffle:boolean, Depth:SMALLINT, note:VARCHAR(50)
dataset = iris, openml:61
Seed = 0:2:2, 4
lr = 1e-3, 0.5
shuffle = {booleans}
Depth = 3
note = None
kernel = linear

resultfields = accuracy:DOUBLE, model:str
resultfields.timestamps = true

logtables = epochs:log_epochs, best:double
log_epochs = epoch:INT, loss:float

[CUSTOM]
path = data/

[codecarbon]
offline_mode = False
"""

YAML_1_4 = """\
PY_EXPERIMENTER:
  n_jobs: 1
  Database:
    use_ssh_tunnel: false
    provider: {provider}
    database: {database}
    table:
      name: study
      database: elsewhere
      keyfields:
        dataset:
          type: VARCHAR(255)
          values: ['iris', "openml:61"]
        Seed:
          type: int
          values:
            start: 0
            stop: 5
            step: 2
        lr: {{type: DOUBLE, values: [1e-3, .5]}}
        shuffle: {{type: BOOL, values: [True, off]}}
        Depth: {{type: BIGINT, values: [3]}}
        note: {{type: LONGTEXT, values: ["None"]}}
      result_timestamps: True
      resultfields:
        accuracy: DOUBLE
        model: VARCHAR(255)
    logtables:
      epochs:
        epoch: INT
        loss: DOUBLE
      best: {{best: DOUBLE}}
  CUSTOM:
    path: data/
  CodeCarbon:
    offline_mode: False
"""


@dataclass(frozen=True)
class Version:
    """A version: its form of a configuration, and how it wrote keyfields into a table."""

    name: str
    suffix: str
    config: str
    keyfields: str  # with types
    results: str
    texts: bool  # whether each value was a text in single quotes

    def create(self, target: Target) -> None:
        """Create the tables and fill them as this version did; one experiment is done."""
        with target.session() as run:
            for statement in self._statements(target.server is not None):
                run(statement)

    def _statements(self, on_server: bool) -> Iterator[str]:
        number = f"INTEGER PRIMARY KEY {'AUTO_INCREMENT' if on_server else 'AUTOINCREMENT'}"
        columns = [
            f"ID {number}",
            *(f"{column} DEFAULT NULL" for column in self.keyfields.split(", ")),
            "creation_date DATETIME DEFAULT NULL",
            "status VARCHAR(255) DEFAULT NULL",
            "start_date DATETIME DEFAULT NULL",
            "name LONGTEXT DEFAULT NULL",
            "machine VARCHAR(255) DEFAULT NULL",
            *(f"{column} DEFAULT NULL" for column in self.results.split(", ")),
            "end_date DATETIME DEFAULT NULL",
            "error LONGTEXT DEFAULT NULL",
        ]
        yield f"CREATE TABLE study ({','.join(columns)})"
        for table, logs in {"epochs": "epoch INT DEFAULT NULL,loss DOUBLE DEFAULT NULL", "best": "best DOUBLE"}.items():
            yield (
                f"CREATE TABLE study__{table} (ID {number}, experiment_id INTEGER, timestamp DATETIME, {logs}, "
                "FOREIGN KEY (experiment_id) REFERENCES study(ID) ON DELETE CASCADE)"
            )
        moment = "2026-01-31 13:30:00"
        for row in GRID:
            written = ", ".join(self._literal(value, on_server) for value in row)
            yield (
                "INSERT INTO study (dataset,Seed,lr,shuffle,Depth,note,creation_date,status) "
                f"VALUES ({written}, '{moment}', 'created')"
            )
        yield (
            "UPDATE study SET status='done', start_date='2026-01-31 13:30:00', name='PyExperimenter', machine='old', "
            f"accuracy=0.25, accuracy_timestamp='{moment}', model='svm', model_timestamp='{moment}', "
            f"end_date='{moment}' WHERE ID=1"
        )
        yield f"INSERT INTO study__epochs (experiment_id, timestamp, epoch, loss) VALUES (1, '{moment}', '1', '0.5')"

    def _literal(self, value: Any, on_server: bool) -> str:
        if isinstance(value, bool):  # the server refused words
            return str(int(value)) if on_server or not self.texts else f"'{'True' if value else 'no'}'"
        return f"'{value}'" if self.texts or isinstance(value, str) else str(value)


# The last keyfield varies fastest here, and varied otherwise there, which makes no difference.
GRID = list(itertools.product(["iris", "openml:61"], [0, 2, 4], [0.001, 0.5], [True, False], [3], ["None"]))
VERSIONS = [
    Version(
        "1.2.0",
        "cfg",
        INI_1_2,
        "dataset VARCHAR(255), Seed INT, lr float, shuffle bool, Depth BIGINT, note VARCHAR(255)",
        "accuracy FLOAT, accuracy_timestamp VARCHAR(255), model VARCHAR(255), model_timestamp VARCHAR(255)",
        texts=True,
    ),
    Version(
        "1.3.2",
        "cfg",
        INI_1_3,
        "dataset VARCHAR(255), Seed INT, lr DOUBLE, shuffle boolean, Depth SMALLINT, note VARCHAR(50)",
        "accuracy DOUBLE, accuracy_timestamp VARCHAR(255), model VARCHAR(255), model_timestamp VARCHAR(255)",
        texts=True,
    ),
    Version(
        "1.4.2",
        "yml",
        YAML_1_4,
        "dataset VARCHAR(255), Seed int, lr DOUBLE, shuffle BOOL, Depth BIGINT, note LONGTEXT",
        "accuracy DOUBLE, accuracy_timestamp VARCHAR(255), model VARCHAR(255), model_timestamp VARCHAR(255)",
        texts=False,
    ),
]


def opened(version: Version, target: Target, directory: Path) -> PyExperimenter:
    """Open the study of a version; what is ignored is tested elsewhere."""
    path = directory / f"study.{version.suffix}"
    booleans = "1, 0" if target.server else "True, no"
    path.write_text(
        version.config.format(provider=target.provider, database=target.database.removesuffix(".db"), booleans=booleans)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*: ignored: ")
        return PyExperimenter(path, **credentials(target), use_codecarbon=False, log_level="ERROR")


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_study_goes_on(version: Version, target: Target, tmp_path: Path) -> None:
    version.create(target)
    before = target.query("SELECT * FROM study WHERE ID = 1")
    study = opened(version, target, tmp_path)
    assert study.config.table.grid is not None
    assert [tuple(row.values()) for row in study.config.table.grid] == GRID
    rows = study.get_table()[["dataset", "Seed", "lr", "shuffle", "Depth", "note"]]
    assert sorted(rows.itertuples(index=False, name=None)) == sorted(GRID)

    assert study.fill_table_from_config() == (0, len(GRID))

    def run(keyfields: dict[str, Any], result_processor: Any, custom_fields: dict[str, Any]) -> dict[str, Any]:
        result_processor.process_logs({"epochs": {"epoch": 1, "loss": 0.5}, "best": {"best": 0.5}})
        return {"accuracy": 0.25, "model": repr(tuple(keyfields.values()))}

    assert study.execute(run) == len(GRID) - 1
    table = study.get_table()
    assert sorted(table["model"]) == sorted(["svm", *map(repr, GRID[1:])])
    assert (len(table), set(table["status"]), set(table["accuracy"])) == (len(GRID), {"done"}, {0.25})
    assert len(study.get_logtable("epochs")) == len(GRID)
    assert study.fill_table_from_config() == (0, len(GRID))
    after = target.query("SELECT * FROM study WHERE ID = 1")
    assert after[0][:4] == before[0][:4]
    assert after[0][5:] == before[0][5:]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_new_study_has_the_columns_of_the_old_one(version: Version, target: Target, tmp_path: Path) -> None:
    study = opened(version, target, tmp_path)
    assert study.fill_table_from_config() == (len(GRID), 0)
    new = list(study.get_table().columns)
    target.query("DROP TABLE study__attempts")
    study.delete_table()
    version.create(target)
    assert list(study.get_table().columns) == new


def test_a_database_whose_name_has_a_dot_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    version = VERSIONS[-1]
    version.create(Target("sqlite", "sqlite", str(tmp_path / "study_v1.2.db")))
    study = opened(version, Target("sqlite", "sqlite", "study_v1.2"), tmp_path)
    assert len(study.get_table()) == len(GRID)
    (tmp_path / "study_v1.2").touch()  # a database of the very name comes first
    assert opened(version, Target("sqlite", "sqlite", "study_v1.2"), tmp_path).config.database.database.endswith("1.2")
