"""Run large grids of experiments from one config file, with a database as the meeting place of the workers."""

__version__ = "2.0.0.dev0"

from pyexperimenter.exceptions import PyExperimenterError
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.experimenter import PyExperimenter
from pyexperimenter.result_processor import ResultProcessor

__all__ = ["ExperimentStatus", "PyExperimenter", "PyExperimenterError", "ResultProcessor", "__version__"]
