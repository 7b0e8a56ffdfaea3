"""Studies in blocks: the order of execution, what half-done ones say, seeds that a block shares."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus, PyExperimenter
from pyexperimenter.exceptions import InvalidConfigError, InvalidValueError, ParameterCombinationError
from pyexperimenter.study.status import BlockCounts
from tests.support.study import credentials, experimenter, study
from tests.support.target import Target

DATASETS = ["iris", "wine", "zoo"]


def blocks(
    target: Target, methods: list[str], seeds: int = 4, replicate: dict[str, Any] | None = None, **design: Any
) -> PyExperimenter:
    keyfields: dict[str, Any] = {
        "method": {"type": "VARCHAR(9)", "values": methods},
        "depth": {"type": "INT", "values": [1, 2]},
        "dataset": {"type": "VARCHAR(9)", "values": DATASETS},
        "seed": {"type": "INT", "values": {"start": 0, "stop": seeds}},
    }
    if "tree" in methods:
        keyfields["depth"]["when"] = {"method": "tree"}
    else:
        keyfields["depth"] = "INT"
    design = {"blocks": ["dataset", "seed"], "compare": "method", **design}
    resultfields = {"accuracy": "DOUBLE", "split": "BIGINT"}
    more = {} if replicate is None else {"replicate": replicate}
    config = study(target, keyfields=keyfields, resultfields=resultfields, design=design, **more)
    return experimenter(target, config, log_level="INFO")


def block(keyfields: Any) -> tuple[str, int]:
    return keyfields["dataset"], keyfields["seed"]


def constant(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
    return {"accuracy": 0.5, "split": results.block_seed("split")}


def test_a_study_that_is_stopped_is_a_paired_comparison(target: Target) -> None:
    begun = blocks(target, ["tree", "svm"])
    begun.fill_table_from_config()
    order: list[tuple[str, int]] = []

    def run(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
        order.append(block(keyfields))
        return constant(keyfields, results, custom)

    begun.execute(run, max_experiments=16)
    runs_of_each = [order.count(each) for each in dict.fromkeys(order)]
    assert runs_of_each == [3] * 5 + [1]  # one block after the other, with all methods of each
    assert begun.status().blocks == BlockCounts(complete=5, failed=0, partial=1, total=12)

    begun.execute(lambda *_: 1 / 0, max_experiments=1)
    assert begun.status().blocks == BlockCounts(complete=5, failed=1, partial=0, total=12)
    table = begun.summarize("accuracy", ["method", "depth"], over=["dataset", "seed"], complete_blocks=True)
    assert table["n"].tolist() == [5, 5, 5]
    (note,) = table.attrs["notes"]
    assert note.startswith("7 of 12 blocks are not complete and were left out: dataset=")
    # Each data set has its own complete seeds, and perhaps none in common with another one.
    cells = begun.summarize("accuracy", ["method", "depth"], "dataset", over="seed", complete_blocks=True)
    assert cells["n"].sum() == 15
    assert cells["unpaired"].sum() == 0


def test_the_order_of_blocks_is_random_and_the_same_for_a_seed(target: Target) -> None:
    orders = [
        [block(row) for row in blocks(target, ["svm"], **design).config.table.grid or ()]
        for design in ({}, {"shuffle": 0}, {"shuffle": 1}, {"shuffle": False})
    ]
    by_default, same, other, of_grid = orders
    assert by_default == same != other
    assert of_grid == sorted(of_grid) != by_default
    assert sorted(by_default) == sorted(other) == of_grid


def test_new_seeds_are_new_blocks_and_new_methods_continue_blocks(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records if "blocks got more" in record.getMessage()]

    blocks(target, ["svm"]).fill_table_from_config()
    blocks(target, ["svm"], seeds=5).fill_table_from_config()
    assert not said()

    larger = blocks(target, ["svm", "tree"], seeds=5)
    larger.fill_table_from_config()
    (message,) = said()
    assert "15 blocks got more experiments" in message
    assert "execute with order_by=['dataset', 'seed']" in message
    order: list[tuple[str, int]] = []
    larger.execute(lambda keyfields, *_: order.append(block(keyfields)), order_by=["dataset", "seed"])
    assert order == sorted(order)

    blocks(target, ["svm", "tree", "knn"], seeds=5).fill_table_from_config()
    assert len(said()) == 1  # nothing was open


def test_blocks_differ_as_their_keyfields_do(target: Target) -> None:
    keyfields = {
        "method": {"type": "VARCHAR(9)", "values": ["tree"]},
        "dataset": {"type": "VARCHAR(9)", "values": ["iris", "iris ", "Iris"]},
        "options": {"type": "JSON", "values": [{"depth": 1}, {"depth": 2}]},
    }

    def opened(methods: list[str]) -> PyExperimenter:
        keyfields["method"]["values"] = methods
        design = {"blocks": ["dataset", "options"], "compare": "method"}
        return experimenter(target, study(target, keyfields=keyfields, design=design))

    opened(["tree"]).fill_table_from_config()
    if target.provider == "mysql":
        target.query("ALTER TABLE study MODIFY dataset VARCHAR(9) COLLATE utf8mb4_general_ci DEFAULT NULL")
    begun = opened(["tree", "svm"])
    begun.execute(lambda *_: None, max_experiments=1)
    assert begun.status().blocks == BlockCounts(complete=1, failed=0, partial=0, total=6)
    assert begun.fill_table_from_config().added == 6
    assert begun._store.blocks_continued(begun.config.table.design, 6) == 6


def test_a_block_shares_its_seeds(target: Target) -> None:
    filled = blocks(target, ["tree", "svm"], seeds=2)
    filled.fill_table_from_config()
    filled.execute(constant)
    table = filled.get_table()
    assert table.groupby(["dataset", "seed"])["split"].nunique().tolist() == [1] * 6
    assert table["split"].nunique() == 6
    row = table[(table["dataset"] == "iris") & (table["seed"] == 1)].iloc[0]
    assert row["split"] == 1338414003  # the value in the documentation, for ever
    attached = filled.attach(lambda result_processor: result_processor.block_seed("split"), int(row["ID"]))
    assert attached == 1338414003
    assert filled.debug(int(row["ID"]), constant)["split"] == 1338414003


def test_without_a_design_there_are_no_blocks(target: Target) -> None:
    plain = PyExperimenter(study(target), **credentials(target), log_level="CRITICAL")
    plain.fill_table_from_config()
    assert plain.status().blocks is None
    with pytest.raises(InvalidValueError, match="add a design"):
        plain.summarize("accuracy", "dataset", complete_blocks=True)
    plain.execute(lambda keyfields, results, custom: results.block_seed(), max_experiments=1)
    (error,) = plain.get_table(states=ExperimentStatus.ERROR)["error"]
    assert "block_seed: the table has no design" in error


def noisy(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
    numbers = random.Random(results.block_seed(keyfields["method"]))
    return {"accuracy": numbers.gauss(0.5, {"iris": 0.01, "wine": 0.1, "zoo": 0.1}[keyfields["dataset"]])}


def test_seeds_are_added_until_the_intervals_are_narrow(target: Target) -> None:
    rule = {"over": "seed", "of": "accuracy", "until": {"ci95": 0.08}, "max": 20, "reference": "svm"}
    opened = blocks(target, ["svm", "tree"], seeds=25, replicate=rule)
    assert opened.fill_table_from_config() == (10 * 3 * 3, 0)  # the first 10 of 25 seeds
    assert set(opened.get_table()["seed"]) == {*range(10)}
    assert opened.replicate()["state"].eq("open").all()
    assert "notes" not in opened.get_table().attrs  # nothing was looked at

    opened.execute(noisy)
    first = opened.replicate(dry_run=True)
    assert first["of"].unique().tolist() == [f"method=tree, depth={depth} - method=svm, depth=–" for depth in (1, 2)]
    assert opened.counts()["created"] == 0
    while opened.replicate()["add"].any():
        assert opened.execute(noisy) % 15 == 0  # whole blocks: 3 experiments for each of 5 seeds
    seeds = opened.get_table().groupby("dataset")["seed"].nunique()
    assert seeds["iris"] == 10 < seeds["wine"] <= 20
    assert not opened.counts(outside_grid=True)
    (note,) = opened.summarize("accuracy", ["method", "depth"], "dataset", pairing="all").attrs["notes"]
    assert note.startswith("The number of values of seed depends on the results: 10 to 20, in steps of 5")
    assert opened.fill_table_from_config().added == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"over": "fold"}, "replicate.over: 'fold' is not a keyfield"),
        ({"of": "acuracy"}, "replicate.of: 'acuracy' is not a resultfield; did you mean 'accuracy'"),
        ({"min": 5}, "replicate.min"),
        ({"max": 30}, "seed has 25 values, but 10 to 30 of them are to be used"),
        ({"max": 9}, "seed has 25 values, but 10 to 9"),
        ({"reference": "forest"}, "replicate.reference: method is never 'forest'"),
        ({"until": {"ci95": 0}}, "replicate.until.ci95"),
        ({"over": "method"}, "add a design that says what is compared, and whose blocks have method"),
    ],
)
def test_rules_that_are_refused(sqlite_target: Target, changes: dict[str, Any], message: str) -> None:
    rule = {"over": "seed", "of": "accuracy", "until": {"ci95": 0.08}, **changes}
    with pytest.raises(InvalidConfigError, match=message):
        blocks(sqlite_target, ["svm", "tree"], seeds=25, replicate=rule)


def test_a_study_without_a_rule_cannot_be_replicated(sqlite_target: Target) -> None:
    with pytest.raises(ParameterCombinationError, match="does not say when there are enough seeds"):
        blocks(sqlite_target, ["svm"]).replicate()


def test_a_comparison_says_what_blocks_have_in_common(sqlite_target: Target) -> None:
    opened = blocks(sqlite_target, ["svm", "knn"], seeds=10)
    opened.fill_table_from_config()

    def run(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
        common = random.Random(results.block_seed("data")).gauss(0, 0.1)
        own = random.Random(results.block_seed(keyfields["method"])).gauss(0, 0.05)
        return {"accuracy": 0.8 + common + own}

    opened.execute(run)
    comparison = opened.compare("accuracy", "method", ["dataset", "seed"], over=None, unit="seed")
    correlation = comparison.scores.corr().iloc[0, 1]
    assert 0.6 < correlation < 0.95
    assert f"in the same block have a correlation of {correlation:.2f}" in comparison.notes[-1]
