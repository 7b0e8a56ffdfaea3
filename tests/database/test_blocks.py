"""Studies in blocks: the order of execution, what half-done ones say, seeds that a block shares."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus, PyExperimenter
from pyexperimenter.exceptions import InvalidValueError
from pyexperimenter.study.status import BlockCounts
from tests.support.study import credentials, experimenter, study
from tests.support.target import Target

DATASETS = ["iris", "wine", "zoo"]


def blocks(target: Target, methods: list[str], seeds: int = 4, **design: Any) -> PyExperimenter:
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
    config = study(target, keyfields=keyfields, resultfields=resultfields, design=design)
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
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

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
