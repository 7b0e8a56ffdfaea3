"""A new study to start from: a config and an experiment function, both commented."""

from __future__ import annotations

from pathlib import Path

from pyexperimenter.exceptions import PyExperimenterError

CONFIG = """\
# A study: the inputs of its experiments, their outputs, and where both are kept. Change this file to your needs.
# Check it by: pyexperimenter validate
PY_EXPERIMENTER:
  n_jobs: 2                        # workers of one run, a process each; -1: one on each core

  Database:
    provider: sqlite               # one machine; for many machines: mysql (MariaDB too), with credentials
    database: my_study             # the file my_study.db in the working directory

    table:
      name: estimates              # one row an experiment

      keyfields:                   # the inputs; all combinations of their values are the grid
        method:
          type: VARCHAR(50)
          values: [plain, antithetic, stratified]
        samples:
          type: INT
          values: {start: 100, stop: 10000, num: 3, scale: log}    # 100, 1000, 10000
        strata:
          type: INT
          values: [10, 50]
          when: {method: stratified}                               # NULL elsewhere, and no double rows
        seed:
          type: INT
          values: {start: 0, stop: 10}                             # 0, 1, ..., 9

      # exclude: [{method: plain, samples: 100}]                   # combinations that are not run
      # include: [{method: plain, samples: 1000000, seed: 0}]      # single rows beyond the grid

      resultfields:                # the outputs, NULL until an experiment reports them
        estimate: DOUBLE
        deviation: DOUBLE

    # logtables:                   # what an experiment reports on its way, in as many rows as it wants
    #   progress: {step: INT, estimate: DOUBLE}

  Execution:
    function: experiment:estimate_pi    # for the command line: function estimate_pi of experiment.py
    time_limit: 10m                     # an experiment that takes longer is stopped and counts as failed

  # Custom:                        # fixed values, handed to every experiment, not stored with the rows
  #   datapath: data/
"""

EXPERIMENT = '''\
"""The experiments of this study. Each call of the function is one row of the table."""

import math
import random

from pyexperimenter import PyExperimenter


def estimate_pi(keyfields, result_processor, custom_fields):
    """Estimate pi by the mean of 4 * sqrt(1 - x^2) over points x of [0, 1]. Put your experiment in its place.

    keyfields         the inputs of this row: {"method": "plain", "samples": 100, "strata": None, "seed": 0}
    result_processor  writes results before the end, and logs: result_processor.process_logs({"progress": {"step": 1}})
    custom_fields     the section Custom of the config
    """
    generator, samples = random.Random(keyfields["seed"]), keyfields["samples"]
    if keyfields["method"] == "plain":
        points = [generator.random() for _ in range(samples)]
    elif keyfields["method"] == "antithetic":
        half = [generator.random() for _ in range(samples // 2)]
        points = half + [1 - x for x in half]
    else:
        strata = keyfields["strata"]
        points = [(i % strata + generator.random()) / strata for i in range(samples)]
    estimate = sum(4 * math.sqrt(1 - x * x) for x in points) / len(points)
    return {"estimate": estimate, "deviation": abs(estimate - math.pi)}


if __name__ == "__main__":  # what `pyexperimenter fill` and `pyexperimenter run` do, in Python
    experimenter = PyExperimenter()
    experimenter.fill_table_from_config()
    experimenter.execute(estimate_pi)
    print(experimenter.summarize("deviation", rows=["method", "strata"], columns="samples"))
'''

FILES = {"config/experiment_configuration.yml": CONFIG, "experiment.py": EXPERIMENT}
"""Path in the study's directory -> text."""


def write_starter(directory: str | Path = ".") -> list[Path]:
    """Write a study to start from: a config and an experiment function that can be executed as they are.

    Parameters
    ----------
    directory : str or Path
        Where; it is made if it is missing.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    PyExperimenterError
        If one of them exists. Nothing is written then.
    """
    files = {Path(directory, name): text for name, text in FILES.items()}
    for path in files:
        if path.exists():
            raise PyExperimenterError(f"{path} exists and is not overwritten; choose another directory")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(files)
