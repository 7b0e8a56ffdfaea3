"""Where `cluster.job.Job` was defined before: jobs that were submitted by then are pickled with this name."""

from pyexperimenter.cluster.job import Job

__all__ = ["Job"]
