"""The primary test: declared, recorded by the first run, and told from exploratory ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import PyExperimenter
from pyexperimenter.exceptions import InvalidConfigError, InvalidValueError, MissingKeyError, UnknownKeyError
from pyexperimenter.study.primary import EXPLORATORY

PRIMARY = {"value": "accuracy", "by": "method", "blocks": "dataset"}
METHODS, DATASETS = ["a", "b"], [f"d{number}" for number in range(6)]


def opened(folder: Path, primary: dict[str, Any] | None) -> PyExperimenter:
    keyfields = {
        "method": {"type": "VARCHAR(9)", "values": METHODS},
        "dataset": {"type": "VARCHAR(9)", "values": DATASETS},
        "seed": {"type": "INT", "values": [0, 1]},
    }
    table = {"name": "study", "keyfields": keyfields, "resultfields": {"accuracy": "DOUBLE", "seconds": "DOUBLE"}}
    config = {
        "Database": {"provider": "sqlite", "database": str(folder / "study"), "table": table},
        "Execution": {"isolation": "none"},
        "Analysis": {"unit": "dataset"} | ({} if primary is None else {"primary": primary}),
    }
    return PyExperimenter({"PY_EXPERIMENTER": config}, log_level="ERROR")


def execute(experimenter: PyExperimenter, number: int = -1) -> None:
    def run(keyfields: Any, result_processor: Any, custom_fields: Any) -> dict[str, float]:
        better = keyfields["method"] == "b"
        return {"accuracy": 0.5 + 0.1 * better, "seconds": 2.0 + better * DATASETS.index(keyfields["dataset"])}

    experimenter.execute(run, max_experiments=number)


def test_the_first_run_fixes_the_primary_test(tmp_path: Path) -> None:
    experimenter = opened(tmp_path, PRIMARY)
    experimenter.fill_table_from_config()
    execute(experimenter, 3)
    execute(experimenter)
    (comparison,) = experimenter.primary_test()
    assert comparison.p_value == pytest.approx(2 / 64)
    assert comparison.notes[0].startswith("Primary test, fixed before the first run (hash f103078e169f, 20")
    assert comparison.notes[0] in comparison.describe()
    events = experimenter._store.events("primary")
    assert [(event["hash"], event["late"]) for event in events] == [("f103078e169f", False)], "recorded once"


def test_other_tests_are_exploratory(tmp_path: Path) -> None:
    experimenter = opened(tmp_path, PRIMARY)
    experimenter.fill_table_from_config()
    execute(experimenter)
    same = {**PRIMARY, "over": ["seed"], "unit": None, "pairing": "common"}
    assert experimenter.compare(**same).notes[0].startswith("Primary test, ")
    for change in ({"value": "seconds"}, {"better": "min"}, {"where": "seed = 0"}, {"rope": 0.1}, {"failures": "drop"}):
        assert EXPLORATORY in experimenter.compare(**{**PRIMARY, **change}).notes
    assert EXPLORATORY not in opened(tmp_path, None).compare(**PRIMARY).notes


def test_a_test_that_was_declared_later_is_exploratory(tmp_path: Path) -> None:
    without = opened(tmp_path, None)
    without.fill_table_from_config()
    execute(without, 5)
    late = opened(tmp_path, PRIMARY)
    execute(late)
    late.reset_experiments("done")
    execute(late)
    note = late.primary_test()[0].notes[0]
    assert note == "Exploratory: the primary test was declared after the first run (hash f103078e169f)"


def test_a_test_that_was_changed_is_exploratory(tmp_path: Path) -> None:
    experimenter = opened(tmp_path, PRIMARY)
    experimenter.fill_table_from_config()
    execute(experimenter)
    note = opened(tmp_path, {**PRIMARY, "value": "seconds"}).primary_test()[0].notes[0]
    assert note.startswith("Exploratory: the primary test was changed after the first run (from hash f103078e169f to ")


def test_several_values_are_one_family(tmp_path: Path) -> None:
    several = {**PRIMARY, "value": ["accuracy", "seconds"], "better": {"accuracy": "max", "seconds": "min"}}
    experimenter = opened(tmp_path, several)
    experimenter.fill_table_from_config()
    execute(experimenter)
    accuracy, seconds = experimenter.primary_test()
    assert (accuracy.better, seconds.better) == ("max", "min")
    assert (accuracy.p_value, seconds.p_value) == pytest.approx((2 / 64, 4 / 64))
    family = "Adjusted by Holm's method for 2 values (accuracy, seconds): p = 0.0625"
    assert (accuracy.notes[-1], seconds.notes[-1]) == (family, family)


def test_without_a_declaration_there_is_none(tmp_path: Path) -> None:
    experimenter = opened(tmp_path, None)
    experimenter.fill_table_from_config()
    execute(experimenter)
    assert experimenter._store.events("primary") == []
    with pytest.raises(InvalidValueError, match="the configuration declares no primary test; add one"):
        experimenter.primary_test()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"value": "acuracy"}, UnknownKeyError, "'acuracy' is not a resultfield.*accuracy"),
        ({"by": "methods"}, UnknownKeyError, "'methods' is not a keyfield"),
        ({"blocks": ["dataset", "fold"]}, UnknownKeyError, "'fold' is not a keyfield"),
        ({"over": "run"}, UnknownKeyError, "'run' is not a keyfield"),
        ({"better": {"seconds": "min"}}, UnknownKeyError, "'seconds' is not a value of this test"),
        ({"better": {}}, MissingKeyError, "add accuracy: max or accuracy: min"),
        ({"test": "anova"}, InvalidConfigError, "wilcoxon"),
    ],
)
def test_declarations_are_checked(tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        opened(tmp_path, {**PRIMARY, **change})
