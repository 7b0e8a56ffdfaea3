"""Execute notebooks and store their outputs: python execute.py general_usage.ipynb ...

Leave out everything that differs from run to run: times, versions and progress bars.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

# The kernel itself emits warnings: ipykernel 7 when it is shut down, tornado on Python 3.12 and 3.13 when it starts.
WARNINGS = "error,ignore::PendingDeprecationWarning:ipykernel.kernelbase,ignore:There is no current event loop"


def execute(path: Path) -> nbformat.NotebookNode:
    """Execute a notebook in a temporary directory, with every warning an error, and return it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as directory:
        client = NotebookClient(notebook, timeout=300, record_timing=False, resources={"metadata": {"path": directory}})
        client.execute(env={**os.environ, "PYTHONWARNINGS": WARNINGS, "TMPDIR": directory})
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    for name in sys.argv[1:]:
        nbformat.write(execute(Path(name)), name)
