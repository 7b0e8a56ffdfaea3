"""Run py-experimenter on configurations: the interpreter is that of an environment with one of its versions.

The first argument is a JSON file with a list of studies, each a dict with the path of a configuration and, for a
server, that of credentials; the second is the server's port. The answers are lines of JSON.
"""

import functools
import importlib
import json
import logging
import sys

PORT = int(sys.argv[2])
for name in ("pymysql", "mysql.connector"):  # py-experimenter knows the default port only
    try:
        driver = importlib.import_module(name)
    except ImportError:
        continue
    driver.connect = functools.partial(driver.connect, port=PORT)

from py_experimenter.experimenter import PyExperimenter  # noqa: E402 - after what it imports was changed

logging.disable(logging.WARNING)


def run(keyfields, result_processor, custom_fields):
    """Execute an experiment."""
    result_processor.process_results({"score": 0.5, "model": "svm"})
    result_processor.process_logs({"epochs": {"epoch": 1, "loss": 0.25}, "best": {"best": 0.5}})


def answer(study):
    """Return how many experiments a study has and how many were executed, or why it was refused."""
    options = {"experiment_configuration_file_path": study["config"]}
    if study["credentials"]:
        options["database_credential_file_path"] = study["credentials"]
    if study["codecarbon"]:
        options["use_codecarbon"] = False
    try:
        experimenter = PyExperimenter(**options)
        experimenter.fill_table_from_config()
    except BaseException as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    try:
        experimenter.execute(run, max_experiments=1)
        executed = 1
    except BaseException:
        executed = 0  # 1.2 does not claim on MariaDB
    return {"rows": len(experimenter.get_table()), "executed": executed}


with open(sys.argv[1]) as file:
    studies = json.load(file)
for study in studies:
    print("ANSWER", json.dumps(answer(study)), flush=True)
