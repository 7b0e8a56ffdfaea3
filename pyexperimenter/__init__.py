"""Run large grids of experiments from one config file, with a database as the meeting place of the workers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "2.0.0.dev0"

if TYPE_CHECKING:
    from pyexperimenter.exceptions import PyExperimenterError
    from pyexperimenter.experiment_status import ExperimentStatus
    from pyexperimenter.experimenter import PyExperimenter
    from pyexperimenter.result_processor import ResultProcessor

__all__ = ["ExperimentStatus", "PyExperimenter", "PyExperimenterError", "ResultProcessor", "__version__"]

_MODULES = {
    "ExperimentStatus": "experiment_status",
    "PyExperimenter": "experimenter",
    "PyExperimenterError": "exceptions",
    "ResultProcessor": "result_processor",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: the command line starts without what its help does not need."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
