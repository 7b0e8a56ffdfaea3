"""Settings of Sphinx, which `make docs` runs. No network is needed to build."""

import sys
from pathlib import Path

from pyexperimenter import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "PyExperimenter"
release = version = __version__

extensions = [
    "generated",  # of docs/_ext: references made from the code, the notebooks of examples/
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinxcontrib.mermaid",
]
exclude_patterns = ["_build", "jupyter_execute"]  # myst_nb makes the latter next to the output
html_theme = "furo"
html_title = f"PyExperimenter {release}"
html_show_sphinx = False
html_show_copyright = False

myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]  # GitHub draws the same blocks
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks are committed with their outputs

# The docstrings describe types for people; those of the signatures are for mypy.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
# `name` in a docstring is code, and a link if an object of that name is documented.
default_role = "py:obj"
# Our full names must be documented. Others belong to other packages, are words such as "mapping", or parameters.
nitpick_ignore_regex = [("py:.*", r"(?!pyexperimenter\.).*")]
