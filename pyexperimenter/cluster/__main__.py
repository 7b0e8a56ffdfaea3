"""What a job runs: ``python -m pyexperimenter.cluster``, with the packed job on stdin."""

import sys

from pyexperimenter.cluster.engine import run_packed

if __name__ == "__main__":
    run_packed(sys.stdin.buffer.read())
