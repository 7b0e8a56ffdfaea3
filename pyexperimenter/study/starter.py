"""A new study to start from: copies of the templates of a config and an experiment function, both commented."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from pyexperimenter.config import json_schema
from pyexperimenter.exceptions import PyExperimenterError

_TEMPLATES = ("config/experiment_configuration.yml", "experiment.py")
_SCHEMA = "config/experiment_configuration.schema.json"


def write_starter(directory: str | Path = ".") -> list[Path]:
    """Write a config and an experiment function, which can be executed without changes, and a schema for editors.

    Parameters
    ----------
    directory : str or Path
        Where to write them. It is created if it does not exist.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    PyExperimenterError
        If one of the files exists. Nothing is written then.
    """
    contents = {name: (files("pyexperimenter.study") / "templates" / name).read_bytes() for name in _TEMPLATES}
    contents[_SCHEMA] = f"{json.dumps(json_schema(), indent=2)}\n".encode()
    paths = [Path(directory, name) for name in contents]
    for path in paths:
        if path.exists():
            raise PyExperimenterError(f"{path} exists and is not overwritten; choose another directory")
    for path, content in zip(paths, contents.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return paths
