"""A new study to start from: copies of the templates of a config and an experiment function, both commented."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pyexperimenter.exceptions import PyExperimenterError

_TEMPLATES = ("config/experiment_configuration.yml", "experiment.py")


def write_starter(directory: str | Path = ".") -> list[Path]:
    """Write a config and an experiment function, which can be executed without changes.

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
    paths = [Path(directory, name) for name in _TEMPLATES]
    for path in paths:
        if path.exists():
            raise PyExperimenterError(f"{path} exists and is not overwritten; choose another directory")
    for name, path in zip(_TEMPLATES, paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((files("pyexperimenter.study") / "templates" / name).read_bytes())
    return paths
