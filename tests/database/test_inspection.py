"""The progress of a study, the details of an experiment, and groups of errors, on tables as found in practice."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus, PyExperimenter
from pyexperimenter.exceptions import InvalidExperimentError
from pyexperimenter.study.status import StudyStatus
from tests.support.study import experimenter, store, study, worker
from tests.support.target import Target

HOUR = 3600.0


def filled(target: Target, rows: int, **changes: Any) -> PyExperimenter:
    keyfields = {"seed": {"type": "INT", "values": {"start": 0, "stop": rows}}}
    study_ = experimenter(target, study(target, keyfields=keyfields, **changes))
    study_.fill_table_from_config()
    return study_


def executed(target: Target, rows: int, ended: list[tuple[float, float]], working: bool = True) -> PyExperimenter:
    """Return a study whose first experiments began and ended so many seconds ago; perhaps a worker executes another."""
    study_ = filled(target, rows)
    study_.execute(lambda keyfields, results, custom: None, max_experiments=len(ended))
    for attempt, (start, end) in enumerate(ended, start=1):
        target.query("UPDATE study__attempts SET started = ?, ended = ? WHERE ID = ?", _ago(start), _ago(end), attempt)
    if working:
        claim_one(target)
    return study_


def claim_one(target: Target) -> None:
    store(target, filled=False, keyfields={"seed": {"type": "INT"}}).claim(worker())


def _ago(seconds: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M:%S.%f")


# Status


def test_counts_have_every_status(target: Target) -> None:
    study_ = filled(target, 6)
    assert study_.status() == StudyStatus(
        {"created": 6, "running": 0, "done": 0, "error": 0, "paused": 0}, None, None, [], is_idle=True
    )
    ends = [ExperimentStatus.DONE, ExperimentStatus.ERROR, ExperimentStatus.PAUSED, None]
    study_.execute(lambda keyfields, results, custom: ends[keyfields["seed"]], max_experiments=4)
    now = study_.status()
    assert now.counts == {"created": 2, "running": 0, "done": 2, "error": 1, "paused": 1}
    assert now.total == 6
    target.query("UPDATE study SET status = 'postponed' WHERE ID = 6")  # by a person
    assert study_.status().counts["postponed"] == 1


def test_time_to_go_is_an_interval(sqlite_target: Target) -> None:
    now = executed(sqlite_target, 32, [(90 * left + 90, 90 * left) for left in reversed(range(16))]).status()
    assert now.eta_seconds == pytest.approx(16 * 90, rel=0.1)
    # All took as long, but the one that is running may be about to end: then there were 17 in that time.
    assert now.eta_range == pytest.approx((now.eta_seconds * 16 / 17, now.eta_seconds), rel=0.01)


def test_rate_of_one_worker_is_what_it_took(target: Target) -> None:
    study_ = executed(target, 10, [(600, 450), (450, 300), (300, 150), (150, 0)])
    now = study_.status()
    assert now.finished_per_hour == pytest.approx(24, rel=0.1)
    assert now.eta_seconds == pytest.approx(6 * 150, rel=0.1)


def test_one_finished_experiment_is_enough_for_a_rate(target: Target) -> None:
    assert executed(target, 2, [(360, 0)]).status().finished_per_hour == pytest.approx(10, rel=0.1)


def test_workers_that_end_at_the_same_time_do_not_look_fast(target: Target) -> None:
    assert executed(target, 10, [(600, 0.2), (600, 0.1), (600, 0)]).status().finished_per_hour == pytest.approx(
        18, rel=0.1
    )


def test_an_early_start_that_ended_last_does_not_shorten_the_time(target: Target) -> None:
    study_ = executed(target, 10, [(600, 0), (580, 400), (400, 200), (200, 100)])
    assert study_.status().finished_per_hour == pytest.approx(24, rel=0.1)


def test_only_the_last_hour_counts(target: Target) -> None:
    night = [(9 * HOUR + second, 9 * HOUR) for second in range(1, 20)]
    study_ = executed(target, 30, [*night, (1200, 600), (600, 0)])
    assert study_.status().finished_per_hour == pytest.approx(6, rel=0.1)


def test_experiments_longer_than_an_hour_have_a_rate_too(target: Target) -> None:
    study_ = executed(target, 10, [(7 * HOUR, 4.5 * HOUR), (4.5 * HOUR, 2 * HOUR)])
    assert study_.status().finished_per_hour == pytest.approx(2 / 5, rel=0.1)


def test_the_last_executions_are_read_newest_first(target: Target) -> None:
    opened = store(target)
    columns = "experiment_id, number, run, outcome, started, ended"
    old = f"INSERT INTO study__attempts ({columns}) VALUES (1, 1, 1, 'done', '2026-01-01', '2026-01-02')"
    target.query(old)
    for _ in range(15):  # more than are looked at
        target.query(f"INSERT INTO study__attempts ({columns}) SELECT {columns} FROM study__attempts")
    days = [f"2026-02-{day:02}" for day in range(1, 21)]
    for day in days:
        target.query(old.replace("2026-01-01", day))
    new = ", ".join("(2, 1, 1, 'lost', '2026-03-01', '2026-03-02')" for _ in range(10))
    target.query(f"INSERT INTO study__attempts ({columns}) VALUES {new}")
    _, executions, _ = opened.activity()
    assert len(executions) == 1000
    assert [str(start.date()) for start, _ in executions] == [*reversed(days), *["2026-01-01"] * 980]


def test_only_the_last_executions_are_looked_at(sqlite_target: Target) -> None:
    study_ = filled(sqlite_target, 3)
    sqlite_target.query(
        "INSERT INTO study__attempts (experiment_id, git_commit, outcome) "
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20001) "
        "SELECT 1, CASE i WHEN 1 THEN 'first' WHEN 2 THEN 'second' ELSE 'later' END, 'lost' FROM n"
    )
    assert study_.commits() == [("later", None, 19999), ("second", None, 1)]
    assert study_.get_attempts(last=2)["ID"].tolist() == [20000, 20001]
    assert study_._store.latest_attempt() == 20001
    sqlite_target.query(
        "INSERT INTO study__attempts (experiment_id, outcome, wall_seconds, max_rss_bytes) "
        "VALUES (1, 'done', 1, 7), (2, 'done', NULL, NULL), (2, 'error', 2, 8), (3, 'done', 3, 5)"
    )
    assert study_._store.last_durations() == [3, 1]
    done, error, lost = study_.usage()["outcomes"]
    assert (done["outcome"], done["executions"], done["wall_seconds"], done["max_rss_bytes"]) == ("done", 3, 4, 7)
    assert (error["outcome"], lost["outcome"]) == ("error", "lost")


def test_ends_are_counted_once_in_equal_parts_of_the_time(sqlite_target: Target) -> None:
    study_ = filled(sqlite_target, 5)
    assert study_.ended_over_time(3) == []
    for seed, minute in enumerate((0, 3, 1, 2, 2)):
        sqlite_target.query(
            "INSERT INTO study__attempts (experiment_id, outcome, ended) VALUES (?, 'done', ?)",
            seed + 1,
            f"2026-01-01 00:0{minute}:00.000000",
        )
    ends = [(end.minute, end.second, number) for end, number in study_.ended_over_time(3)]
    assert ends == [(1, 0, 2), (2, 0, 2), (3, 0, 1)]


def test_executions_are_drawn_from_those_that_ended_an_experiment(sqlite_target: Target) -> None:
    study_ = filled(sqlite_target, 5)
    for experiment_id, outcome in enumerate(("done", "lost", "error", "paused", None), start=1):
        sqlite_target.query(
            "INSERT INTO study__attempts (experiment_id, outcome, started, ended) "
            "VALUES (?, ?, '2026-01-01', '2026-01-02')",
            experiment_id,
            outcome,
        )
    assert sorted(seed for seed, *_ in study_._store.sampled_executions(["seed"])) == [0, 2, 3]


def test_without_workers_the_end_is_unknown(target: Target) -> None:
    study_ = executed(target, 10, [(1500, 1200), (1200, 900)], working=False)
    now = study_.status()
    assert (now.finished_per_hour, now.eta_seconds, now.eta_range, now.is_idle) == (None, None, None, True)
    claim_one(target)
    now = study_.status()
    assert now.finished_per_hour == pytest.approx(4.8, rel=0.1)
    assert now.eta_seconds == pytest.approx(8 / 4.8 * HOUR, rel=0.1)
    assert now.eta_range is not None
    assert now.eta_range[0] < now.eta_seconds <= now.eta_range[1]
    assert not now.is_idle


def test_a_worker_that_has_just_ended_an_experiment_may_go_on(target: Target) -> None:
    study_ = executed(target, 10, [(60, -60)], working=False)  # a minute ahead
    assert not study_.status().is_idle
    target.query("UPDATE study__attempts SET ended = ?", _ago(10))
    assert study_.status().is_idle


def test_the_end_depends_on_the_kinds_that_are_left(target: Target) -> None:
    keyfields = {
        "seed": {"type": "INT", "values": {"start": 0, "stop": 10}},
        "method": {"type": "VARCHAR(9)", "values": ["net", "svm"]},
        "options": {"type": "JSON", "values": [{"a": 1}]},
    }
    study_ = experimenter(target, study(target, keyfields=keyfields))
    study_.fill_table_from_config()
    study_.execute(lambda *_: None, where="method = 'svm' OR seed < 4")
    attempts = "(SELECT ID FROM study WHERE method = '{}')"
    for method, start, end in (("net", 900, 300), ("svm", 30, 20)):
        target.query(
            f"UPDATE study__attempts SET started = ?, ended = ? WHERE experiment_id IN {attempts.format(method)}",
            *map(_ago, (start, end)),
        )
    store(target, filled=False, keyfields=keyfields).claim(worker())
    now = study_.status()  # 14 ended in 900 s, after 4 x 600 + 10 x 10 s of work; 6 x 600 s are left
    assert now.finished_per_hour == pytest.approx(56, rel=0.1)
    assert now.eta_seconds == pytest.approx(6 * 600 * 900 / 2500, rel=0.1)
    assert now.eta_range is not None
    assert now.eta_range[0] < now.eta_seconds < now.eta_range[1]


def test_what_ended_long_ago_does_not_count(target: Target) -> None:
    study_ = executed(target, 10, [(3 * HOUR, 2.9 * HOUR), (2.9 * HOUR, 2.8 * HOUR)])
    assert study_.status().finished_per_hour is None
    assert study_.status().eta_seconds is None


def test_when_all_is_finished_there_is_no_time_to_go(target: Target) -> None:
    assert executed(target, 2, [(3 * HOUR, 2 * HOUR)] * 2).status().eta_seconds == 0


def test_executions_that_ended_no_experiment_are_not_progress(target: Target) -> None:
    study_ = executed(target, 10, [(60, 0)] * 2)
    for outcome, rate in (("released", 60), ("error", 120), ("paused", 120)):
        target.query("UPDATE study__attempts SET outcome = ? WHERE ID = 1", outcome)
        assert study_.status().finished_per_hour == pytest.approx(rate, rel=0.1)


def test_workers_are_alive_until_their_leases_run_out(target: Target) -> None:
    study_ = filled(target, 3)
    opened = store(target, filled=False, keyfields={"seed": {"type": "INT"}})
    for name in ("first", "second"):
        opened.claim(worker(name))
    target.query(
        "UPDATE study__attempts SET started = ?, heartbeat = ?, lease_until = ? WHERE ID = 1",
        *map(_ago, (500, 400, 340)),
    )
    silent, alive = study_.status().workers
    assert (silent.experiment_id, silent.worker, silent.alive) == (1, "first-identity", False)
    assert silent.running_seconds == pytest.approx(500, abs=30)
    assert silent.silent_seconds == pytest.approx(400, abs=30)
    assert (alive.experiment_id, alive.machine, alive.pid, alive.job_id, alive.alive) == (2, "here", 1, None, True)
    assert 0 <= alive.silent_seconds <= alive.running_seconds + 0.01 < 30
    assert alive.name == "here:1"
    target.query("UPDATE study SET status = 'created' WHERE ID = 2")  # taken away by a person
    assert [one.experiment_id for one in study_.status().workers] == [1]
    opened.claim(worker("third"))
    assert [(one.experiment_id, one.worker[:5]) for one in study_.status().workers] == [(1, "first"), (2, "third")]


def test_a_table_of_the_predecessor_has_a_status(target: Target) -> None:
    study_ = filled(target, 3)
    target.query("DROP TABLE study__epochs")
    target.query("DROP TABLE study__attempts")
    target.query("UPDATE study SET status = 'error', error = 'ValueError: 1' WHERE ID > 1")
    assert study_.status() == StudyStatus(
        {"created": 1, "running": 0, "done": 0, "error": 2, "paused": 0}, None, None, [], is_idle=True
    )
    assert study_.get_experiment(2).attempts == []
    assert [group.count for group in study_.error_groups()] == [2]


# One experiment


def test_details_are_python_values_and_all_attempts(target: Target) -> None:
    keyfields = {"flag": {"type": "BOOL", "values": [True]}, "options": {"type": "JSON", "values": [{"a": [1]}]}}
    study_ = experimenter(target, study(target, keyfields=keyfields))
    study_.fill_table_from_config()
    study_.execute(lambda keyfields, results, custom: {"accuracy": 1 / 0})
    study_.reset_experiments("error")
    study_.execute(lambda keyfields, results, custom: {"accuracy": 0.5})
    details = study_.get_experiment(1)
    assert list(details.row)[:3] == ["ID", "flag", "options"]
    assert (details.row["flag"], details.row["options"], details.row["accuracy"]) == (True, {"a": [1]}, 0.5)
    assert isinstance(details.row["end_date"], datetime)
    assert [attempt["outcome"] for attempt in details.attempts] == ["error", "done"]
    assert all(isinstance(attempt["ended"], datetime) for attempt in details.attempts)


def test_details_show_what_a_person_made_of_them(sqlite_target: Target) -> None:
    study_ = filled(sqlite_target, 1)
    sqlite_target.query("UPDATE study SET seed = 'three'")
    assert study_.get_experiment(1).row["seed"] == "three"


@pytest.mark.parametrize("unknown", [0, -1, 4, 2**62])
def test_an_unknown_experiment_is_named_in_one_line(target: Target, unknown: int) -> None:
    with pytest.raises(InvalidExperimentError) as caught:
        filled(target, 3).get_experiment(unknown)
    assert str(caught.value) == f"the table study has no experiment with ID {unknown}"


def test_ids_may_be_those_of_a_dataframe(target: Target) -> None:
    study_ = filled(target, 3)
    first = study_.get_table()["ID"].iloc[0]  # numpy's integer, which not every driver takes
    assert study_.get_experiment(first).row["ID"] == 1
    assert study_.attach(lambda processor: processor.experiment_id, first) == 1
    assert study_.debug(first, lambda keyfields, results, custom: results.experiment_id) == 1
    assert len(study_.get_attempts(first)) == 1  # that of attach
    with pytest.raises(TypeError):
        study_.get_experiment("1")  # type: ignore[arg-type]


# Errors


def raising(keyfields: dict[str, Any], results: Any, custom: Any) -> None:
    seed, dataset = keyfields["seed"], keyfields["dataset"]
    if dataset == "wine":
        raise FileNotFoundError(f"no file /data/{dataset}/{seed}.csv")
    if seed < 2:
        raise ValueError(f"seed {seed} of '{dataset}' is at 0x{seed:x}")


def test_errors_are_grouped_with_what_they_share(target: Target) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    study_.execute(raising)
    wine, iris = study_.error_groups()
    assert (wine.count, wine.example_ids, wine.shared) == (3, [4, 5, 6], {"dataset": "wine"})
    assert wine.summary == "FileNotFoundError: no file …"
    assert (iris.count, iris.example_ids, iris.shared) == (2, [1, 2], {"dataset": "iris"})
    assert (wine.ids, iris.ids) == ([4, 5, 6], [1, 2])
    assert iris.summary == "ValueError: seed … of '…' is at …"
    assert iris.variants == {
        "ValueError: seed 0 of 'iris' is at 0x0": 1,
        "ValueError: seed 1 of 'iris' is at 0x1": 1,
    }
    assert iris.error.endswith("ValueError: seed 0 of 'iris' is at 0x0\n")


def test_what_all_errors_of_a_group_say_is_not_hidden(target: Target) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    study_.execute(lambda keyfields, results, custom: {}["tree"])  # type: ignore[misc]
    (group,) = study_.error_groups()
    assert (group.summary, group.count) == ("KeyError: 'tree'", 6)


def test_the_commonest_texts_of_a_group_are_counted(sqlite_target: Target) -> None:
    study_ = filled(sqlite_target, 9)
    for key, ids in {"a": "1, 4", "b": "2, 3, 5", "c": "6", "d": "7", "e": "8"}.items():
        sqlite_target.query(f"UPDATE study SET status = 'error', error = ? WHERE ID IN ({ids})", f"KeyError: '{key}'")
    (group,) = study_.error_groups()
    assert list(group.variants.items()) == [("KeyError: 'b'", 3), ("KeyError: 'a'", 2), ("KeyError: 'c'", 1)]


def test_what_a_condition_implies_is_not_shared(target: Target) -> None:
    keyfields = {
        "method": {"type": "VARCHAR(9)", "values": ["tree", "svm", "net"]},
        "kernel": {"type": "VARCHAR(9)", "when": {"method": "svm"}, "values": ["rbf"]},
        "cost": {"type": "DOUBLE", "when": {"kernel": "rbf"}, "values": [0.1, 10]},
        "seed": {"type": "INT", "values": [0, 1]},
    }
    study_ = experimenter(target, study(target, keyfields=keyfields))
    study_.fill_table_from_config()
    target.query("UPDATE study SET status = 'error', error = 'E: 1' WHERE method = 'net'")
    target.query("UPDATE study SET status = 'error', error = 'F: 1' WHERE cost > 1")
    assert [group.shared for group in study_.error_groups()] == [{"method": "svm", "cost": 10.0}, {"method": "net"}]
    target.query("UPDATE study SET status = 'error', error = 'E: 1' WHERE method = 'tree'")
    assert study_.error_groups()[0].shared == {"kernel": None}


def test_without_errors_there_are_no_groups(target: Target) -> None:
    assert filled(target, 2).error_groups() == []


def test_shared_values_are_python_values_that_others_do_not_have(target: Target) -> None:
    keyfields = {
        "flag": {"type": "BOOL", "values": [True, False]},
        "options": {"type": "JSON", "values": [{"a": 1}, {"a": 2}]},
        "rate": {"type": "DOUBLE", "values": [0.1, None]},
        "constant": {"type": "VARCHAR(9)", "values": ["same"]},
        "nothing": {"type": "JSON", "values": [None]},
        "number": {"type": "JSON", "values": [[1]]},
    }
    study_ = experimenter(target, study(target, keyfields=keyfields))
    study_.fill_table_from_config()
    target.query("UPDATE study SET status = 'error', error = 'E: 1' WHERE flag IS TRUE AND rate IS NULL")
    (group,) = study_.error_groups()
    assert (group.count, group.shared) == (2, {"flag": True, "rate": None})
    target.query("UPDATE study SET status = 'created', error = NULL")
    target.query("UPDATE study SET status = 'error', error = 'E: 2' WHERE ID <= 2")
    (group,) = study_.error_groups()
    assert group.shared == {"flag": True, "options": {"a": 1}}


def test_one_error_alone_shares_nothing(target: Target) -> None:
    study_ = filled(target, 3)
    target.query("UPDATE study SET status = 'error', error = 'E: 1' WHERE ID = 2")
    (group,) = study_.error_groups()
    assert (group.count, group.example_ids, group.shared, group.error) == (1, [2], {}, "E: 1")


def test_errors_without_a_message_are_a_group(target: Target) -> None:
    study_ = filled(target, 2)
    target.query("UPDATE study SET status = 'error'")
    (group,) = study_.error_groups()
    assert (group.summary, group.count, group.error) == ("no error text", 2, "")


def test_more_errors_than_are_read_at_a_time(target: Target) -> None:
    study_ = filled(target, 1301)
    target.query("UPDATE study SET status = 'error', error = 'ValueError: odd' WHERE seed % 2 = 1")
    target.query("UPDATE study SET status = 'error', error = 'ValueError: even' WHERE seed % 2 = 0")
    target.query("DELETE FROM study WHERE ID BETWEEN 490 AND 600")
    even, odd = study_.error_groups()
    assert (even.summary, even.count, even.example_ids) == ("ValueError: even", 596, [1, 3, 5, 7, 9])
    assert (odd.summary, odd.count, odd.example_ids) == ("ValueError: odd", 594, [2, 4, 6, 8, 10])
    assert (len(even.ids), len(odd.ids)) == (596, 594)


# In a notebook


def test_a_study_shows_itself(target: Target) -> None:
    study_ = executed(target, 4, [(1200, 600), (600, 0)])
    html = study_._repr_html_()
    assert "&lt;PyExperimenter" in html and f"table study in {target.provider} " in html
    for name, fact in {
        "done experiments": "2",
        "all experiments": r"4 \(50% done\)",
        "finished an hour": r"(6|5\.\d\d)",  # this takes a moment, too
        "workers alive": "1",
        "workers with expired lease": "0",
    }.items():
        assert re.search(f'>{name}</th><td style="text-align: right">{fact}</td>', html)
    assert "time to go" in html
    assert 'title="done" style="width: 50.00%' in html


def test_what_people_write_is_escaped(target: Target) -> None:
    study_ = filled(target, 1, name="study")
    assert "time to go" not in study_._repr_html_()  # as nothing has been executed yet
    study_.name = "<script>"
    target.query("UPDATE study SET status = '<b>'")
    html = study_._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html
    assert "&lt;b&gt; experiments" in html


def test_a_study_without_a_table_says_so(target: Target) -> None:
    html = experimenter(target)._repr_html_()
    assert html.endswith("<p>The table does not exist yet; fill it first.</p>")
    if target.server is not None:
        assert target.server.password not in html


def test_a_study_whose_database_fails_shows_no_password(mariadb_target: Target) -> None:
    study_ = experimenter(mariadb_target)
    study_.fill_table_from_config()
    assert mariadb_target.server is not None
    other = experimenter(mariadb_target, database_name="no_such_database")
    mariadb_target.query("ALTER TABLE study RENAME COLUMN status TO state")
    for shown in (study_._repr_html_(), other._repr_html_()):
        assert shown.startswith("<p>&lt;PyExperimenter")
        assert mariadb_target.server.password not in shown
    assert "Unknown column" in study_._repr_html_()
