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
exclude_patterns = ["_build", "jupyter_execute"]  # the latter is made by myst_nb beside the folder built
html_theme = "furo"
html_title = f"PyExperimenter {release}"
html_show_sphinx = False
html_show_copyright = False

myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]  # GitHub draws the same blocks
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks are committed with their outputs

# Types stand in the docstrings, for people; those of the signatures are for mypy.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
# `name` in a docstring is code, and a link if there is something of that name to link to.
default_role = "py:obj"
# Full names of ours must lead somewhere. Others are of other packages, words such as "mapping", or parameters.
nitpick_ignore_regex = [("py:.*", r"(?!pyexperimenter\.).*")]
