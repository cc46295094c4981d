"""Sphinx settings: MyST pages, executed notebooks, API pages from the docstrings."""

import importlib.metadata
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent), str(DOCS.parent / "launch")]

import docstrings  # noqa: E402
import generated  # noqa: E402

project = "promise_jax"
author = "the promise_jax authors"
release = importlib.metadata.version("promise-jax")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "_generated", "**/.ipynb_checkpoints"]
default_role = "code"
smartquotes = False  # of "--flag" they make a dash
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are committed with their outputs; a test runs them

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # what flax says of its modules is in the docs of flax
napoleon_custom_sections = ["Source"]
napoleon_use_rtype = False

html_theme = "furo"
html_title = "promise_jax"
html_show_copyright = False
html_static_path = ["_static"]


def setup(app):
  """Writes the generated pages before Sphinx looks for sources."""
  generated.write_pages(DOCS)
  app.connect("autodoc-process-docstring", docstrings.process_docstring, priority=100)
  app.connect("autodoc-process-signature", docstrings.process_signature)
