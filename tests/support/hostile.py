"""A study with hostile texts in every field, for tests of what shows a study to people."""

from __future__ import annotations

from typing import Any

from pyexperimenter import ExperimentStatus, PyExperimenter
from tests.support.study import experimenter, study
from tests.support.target import Target

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"`&amp;{{7*7}}%00 OR 1=1"
KEYFIELDS = {
    "dataset": {"type": "VARCHAR(200)", "values": ["iris", HOSTILE, None]},
    "order by": {"type": "VARCHAR(200)", "values": ["rbf", "lin=ear; DROP TABLE study"]},
    "rate": {"type": "DOUBLE", "values": [0.1, 0.01]},
    "seed": {"type": "INT", "values": {"start": 0, "stop": 3}},
    "options": {"type": "JSON", "values": [{"depth": HOSTILE}]},
}
RESULTFIELDS = {"accuracy": "DOUBLE", "note": "LONGTEXT"}
LOGTABLES = {"epochs": {"epoch": "INT", "loss": "DOUBLE", "said": "LONGTEXT"}}


def hostile_study(target: Target, **options: Any) -> PyExperimenter:
    """Return a study of 36 experiments: 10 done, 5 in error, one paused, one of an unknown status, others open."""
    config = study(target, keyfields=KEYFIELDS, resultfields=RESULTFIELDS, logtables=LOGTABLES)
    study_ = experimenter(target, config, name=HOSTILE, **options)
    study_.fill_table_from_config()

    def function(keyfields: dict[str, Any], results: Any, custom: Any) -> Any:
        results.process_results({"accuracy": keyfields["rate"] + keyfields["seed"], "note": HOSTILE})
        results.process_logs(
            {"epochs": [{"epoch": epoch, "loss": 1 / (epoch + 1), "said": HOSTILE} for epoch in range(3)]}
        )
        if keyfields["seed"] == 1:
            raise ValueError(HOSTILE)
        return ExperimentStatus.PAUSED if results.experiment_id == 3 else None

    study_.execute(function, max_experiments=16)
    for column, value in (("machine", HOSTILE), ("worker", HOSTILE), ("job_id", HOSTILE), ("output", HOSTILE)):
        target.query(f"UPDATE study__attempts SET {column} = ?", value)
    target.query("UPDATE study SET machine = ?", HOSTILE)
    target.query("UPDATE study SET status = ? WHERE ID = 36", "<b>postponed</b>")
    return study_
