"""What the database refuses is no outage: the experiment is an error with its words, and the worker goes on."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import PyExperimenter, ResultProcessor
from pyexperimenter.config.model import DatabaseConfig
from pyexperimenter.database.backends.sqlite import SqliteFile
from pyexperimenter.exceptions import DatabaseQueryError, InvalidValueError, MissingTableError
from tests.support.proxies import Proxy, through_port
from tests.support.study import experimenter, statuses, store, study, wait_until
from tests.support.target import Target, write_credentials


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    return tmp_path / "journals"


def filled(target: Target, journals: Path, **changes: Any) -> PyExperimenter:
    changes["Execution"] = {"isolation": "none", "journal": str(journals), "max_outage": 600}
    study_ = experimenter(target, study(target, **changes))
    study_.fill_table_from_config()
    return study_


def assert_refused(target: Target, study_: PyExperimenter, journals: Path, words: str, kept: str = "accuracy") -> None:
    """Assert that row 1 alone is an error with these words, and that nothing waits in a journal."""
    assert study_.execute(one_is_refused) == 6
    assert statuses(target) == {"done": 5, "error": 1}
    ((error, value),) = target.query(f"SELECT error, {kept} FROM study WHERE status = 'error'")
    assert words in error, error
    assert value == 0.5
    assert not journals.exists()
    assert study_.execute(one_is_refused) == 0


def one_is_refused(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    bad = (keyfields["dataset"], keyfields["seed"]) == ("iris", 0)
    return {"accuracy": 0.5, "model": "bad" if bad else "good"}


def test_a_check_of_a_person_costs_one_result(target: Target, journals: Path) -> None:
    study_ = filled(target, journals)
    if target.name == "sqlite":
        target.query(
            "CREATE TRIGGER own BEFORE UPDATE ON study WHEN NEW.model = 'bad' "
            "BEGIN SELECT RAISE(ABORT, 'database is locked by me'); END"
        )
    else:
        target.query("ALTER TABLE study ADD CONSTRAINT own CHECK (model <> 'bad')")
    assert_refused(target, study_, journals, "locked by me" if target.name == "sqlite" else "own")


TRIGGERS = {
    "mysql": [
        "CREATE TRIGGER own BEFORE UPDATE ON study FOR EACH ROW IF NEW.model = 'bad' THEN "
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'Lost connection to good taste'; END IF"
    ],
    "postgresql": [
        "CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.model = 'bad' THEN "
        "RAISE EXCEPTION 'server closed the connection to good taste'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER own BEFORE UPDATE ON study FOR EACH ROW EXECUTE FUNCTION own()",
    ],
    "sqlite": [
        "CREATE TRIGGER own BEFORE UPDATE ON study WHEN NEW.model = 'bad' "
        "BEGIN SELECT RAISE(ABORT, 'unable to open database file of good taste'); END"
    ],
}


def test_a_trigger_of_a_person_may_say_what_it_likes(target: Target, journals: Path) -> None:
    study_ = filled(target, journals)
    for statement in TRIGGERS[target.provider]:
        target.query(statement)
    assert_refused(target, study_, journals, "good taste")


def test_an_unknown_refusal_of_a_trigger_is_an_error_of_its_experiment(
    postgresql_target: Target, journals: Path
) -> None:
    study_ = filled(postgresql_target, journals)
    target = postgresql_target
    target.query(TRIGGERS["postgresql"][0].replace("taste'", "taste' USING ERRCODE = 'ZZ999'"))
    target.query(TRIGGERS["postgresql"][1])
    assert study_.execute(one_is_refused) == 6
    assert statuses(target) == {"done": 5, "error": 1}
    ((error,),) = target.query("SELECT error FROM study WHERE status = 'error'")
    assert error.startswith("pyexperimenter.exceptions.DatabaseQueryError: server closed the connection to good taste")
    assert not journals.exists()


WIDE = {"mariadb": (250, "LONGTEXT", "x" * 40), "postgresql": (500, "LONGTEXT", "x" * 20)}


@pytest.mark.parametrize("way", ["returned", "reported"])
@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_row_too_big_is_an_error_of_its_experiment(target: Target, journals: Path, way: str, isolation: str) -> None:
    if target.name not in WIDE:
        pytest.skip("its rows have no limit that a study reaches")
    number, kind, value = WIDE[target.name]
    names = [f"r{number}" for number in range(number)]
    config = study(
        target,
        resultfields=dict.fromkeys(names, kind),
        Execution={"isolation": isolation, "journal": str(journals), "max_outage": 600},
    )
    study_ = experimenter(target, config)
    study_.fill_table_from_config()

    def wide(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any] | None:
        if keyfields["seed"] > 0:
            return {"r0": value}
        values = dict.fromkeys(names, value)
        if way == "reported":
            results.process_results(values)
            return None
        return values

    assert study_.execute(wide) == 6
    assert statuses(target) == {"done": 4, "error": 2}
    errors = target.query("SELECT error FROM study WHERE status = 'error'")
    assert all("ow size too large" in error or "row is too big" in error for (error,) in errors), errors
    assert not journals.exists()


@pytest.fixture
def limited(target: Target, tmp_path: Path) -> Iterator[tuple[Target, str]]:
    """The target as a user sees it who has only the privileges that a worker needs, and what names that user in SQL."""
    if target.server is None:
        pytest.skip("a file has no privileges")
    opened = store(target)
    opened.database.close()
    server, name, password = target.server, f"pe_{uuid.uuid4().hex[:8]}", "limited"
    user = f"{name}@'%'" if target.provider == "mysql" else name
    known_by = "IDENTIFIED BY" if target.provider == "mysql" else "PASSWORD"
    target.query(f"CREATE USER {user} {known_by} '{password}'")
    updated = ", ".join(name for name in opened.schema.columns if name != "ID")
    target.query(f"GRANT SELECT, UPDATE ({updated}) ON study TO {user}")
    for side in ("attempts", "meta", "epochs"):
        target.query(f"GRANT SELECT, INSERT, UPDATE ON study__{side} TO {user}")
    user_s = server.kind(server.name, server.host, server.port, name, password)
    yield replace(target, credentials_file=write_credentials(tmp_path / "limited.yml", user_s)), user
    if target.provider == "postgresql":
        target.query(f"DROP OWNED BY {user}")
    target.query(f"DROP USER {user}")


@pytest.mark.parametrize("revoked", ["UPDATE (model) ON study", "INSERT ON study__epochs"])
def test_a_privilege_that_is_revoked_meanwhile_costs_what_needs_it(
    limited: tuple[Target, str], journals: Path, revoked: str
) -> None:
    target, user = limited
    config = study(target, Execution={"isolation": "none", "journal": str(journals), "max_outage": 600})

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
        if keyfields == {"dataset": "iris", "seed": 0}:
            target.query(f"REVOKE {revoked} FROM {user}")
        if "epochs" in revoked and keyfields["seed"] == 0:
            results.process_logs({"epochs": {"epoch": 1}})
        return {"accuracy": 0.5} if "epochs" in revoked else {"model": "refused"}

    limit = 6 if "epochs" in revoked else 1  # to take a row is to empty all its results
    assert experimenter(target, config).execute(function, max_experiments=limit) == limit
    errors = [error for (error,) in target.query("SELECT error FROM study WHERE status = 'error'")]
    assert len(errors) == (2 if "epochs" in revoked else 1)
    assert all("denied" in error and "the user's grants" in error for error in errors), errors
    assert statuses(target) == ({"done": 4, "error": 2} if "epochs" in revoked else {"created": 5, "error": 1})
    assert not journals.exists()


def test_a_dropped_table_is_no_outage(target: Target, journals: Path) -> None:
    """The worker stops at once, and there is no journal that would make the next worker stop, too."""
    study_ = filled(target, journals)

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
        study_.delete_table()
        return {"accuracy": 0.5}

    with pytest.raises(MissingTableError, match="fill the table first"):
        study_.execute(function)
    assert not journals.exists()


# Lists of any length


@pytest.fixture(scope="module")
def many() -> list[int]:
    return list(range(1, 70_001))


def test_long_lists_of_ids_and_values(target: Target, many: list[int]) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    assert len(study_.get_table(where={"ID": many})) == 6
    assert len(study_.get_table(where={"seed": many})) == 4
    both = study_.get_table(where={"seed": many, "dataset": [f"set {n}" for n in many] + ["wine"], "ID": many})
    assert both[["dataset", "seed"]].values.tolist() == [["wine", 1], ["wine", 2]]
    target.query("UPDATE study SET status = 'done'")
    assert study_.reset_experiments(ids=many, dry_run=True) == 6
    assert study_.reset_experiments(ids=many, where={"seed": many}) == 4
    assert statuses(target) == {"created": 4, "done": 2}
    assert study_.execute(lambda keyfields, results, custom: None, where={"seed": [2, *many[10:]]}) == 2
    assert study_.release_experiments(ids=many, where={"seed": many}) == 0


def test_long_lists_of_every_kind(target: Target) -> None:
    """The values mean the same as in a short list, to the last digit."""
    kinds: dict[str, tuple[str, Callable[[int], Any]]] = {
        "a_double": ("DOUBLE", lambda n: n / 70_001 + 0.1),
        "a_text": ("VARCHAR(50)", lambda n: f"it's {n} % :x"),
        "a_bigint": ("BIGINT", lambda n: 2**62 + n),
        "a_time": ("DATETIME", lambda n: datetime(2026, 1, 1) + timedelta(microseconds=n)),
        "a_bool": ("BOOL", lambda n: n % 2 == 1),
    }
    rows = [1, 34_567, 69_999]
    opened = experimenter(
        target, study(target, keyfields={name: {"type": type_} for name, (type_, _) in kinds.items()})
    )
    opened.fill_table_with_rows([{name: of(n) for name, (_, of) in kinds.items()} for n in rows])
    for name, (_, of) in kinds.items():
        found = opened.get_table(where={name: [of(n) for n in range(70_000) if n != rows[1] or name == "a_bool"]})
        expected = rows if name == "a_bool" else [rows[0], rows[2]]
        assert found["ID"].tolist() == [rows.index(n) + 1 for n in expected], name


def test_a_long_list_takes_few_transactions_of_sqlite(many: list[int]) -> None:
    """Each costs a journal in a temporary file; one for each value wrote 7 KB for it."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        backend = SqliteFile(DatabaseConfig(provider="sqlite", database="study"))
        parameters = {"n": 70_000, "ids": many}
        sql, values = backend.with_many_parameters(connection.cursor(), "SELECT COUNT(*), :n IN (:ids)", parameters)
        assert len(statements) < len(many) / 500
        assert connection.execute(sql, values).fetchall() == [(1, 1)]


def test_a_list_longer_than_a_statement_may_be_is_refused(mariadb_target: Target) -> None:
    """The server would close the connection, as if it had failed."""
    study_ = experimenter(mariadb_target)
    study_.fill_table_from_config()
    texts = [f"{number:>200}" for number in range(100_000)]
    with pytest.raises(InvalidValueError, match="the values have 20000000 bytes, but the server takes statements of"):
        study_.get_table(where={"model": texts})


# SQL of one's own


@pytest.fixture(params=["mariadb_target", "postgresql_target"])
def each_server(request: pytest.FixtureRequest) -> Target:
    target: Target = request.getfixturevalue(request.param)
    return target


def test_sql_of_a_person_is_not_repeated(each_server: Target) -> None:
    target = each_server
    assert target.server is not None
    experimenter(target).fill_table_from_config()
    with closing(Proxy(target.server.host, target.server.port)) as proxy:
        study_ = experimenter(through_port(target, proxy.port))
        study_.counts()
        proxy.swallow_next(b"seed = seed + 10")
        with pytest.raises(DatabaseQueryError, match=r"may have been executed, so it is not repeated; look .* before"):
            study_.execute_custom_query("UPDATE study SET seed = seed + 10")
        assert proxy.swallowed.is_set()
        assert target.query("SELECT MIN(seed), MAX(seed) FROM study") == [(10, 12)]
        assert study_.execute_custom_query("SELECT COUNT(*) FROM study") == [(6,)]


def test_sql_of_a_person_is_repeated_after_a_deadlock(mariadb_target: Target) -> None:
    """The server has said that it did nothing."""
    study_ = experimenter(mariadb_target)
    study_.fill_table_from_config()
    with closing(mariadb_target.connect()) as person, ThreadPoolExecutor(1) as pool:
        cursor = person.cursor()
        cursor.execute("BEGIN")
        cursor.execute(
            "INSERT INTO study__meta (config) SELECT dataset FROM study"
        )  # makes this transaction the heavier
        cursor.execute("UPDATE study SET seed = 7 WHERE ID = 6")
        running = pool.submit(study_.execute_custom_query, "UPDATE study SET seed = seed + 10")
        wait_until(lambda: mariadb_target.sessions_waiting() == 1)
        cursor.execute("UPDATE study SET seed = 8 WHERE ID = 1")
        cursor.execute("ROLLBACK")
        assert running.result() == 6
    assert mariadb_target.query("SELECT MIN(seed), MAX(seed) FROM study") == [(10, 12)]
