"""Sphinx settings: MyST pages, executed notebooks, API pages from the docstrings."""

import importlib.metadata
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import generated  # noqa: E402  docs/generated.py writes the reference tables

project = "promise_jax"
author = "the promise_jax authors"
release = importlib.metadata.version("promise-jax")

extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.autosummary",
  "sphinx.ext.napoleon",
  "sphinx.ext.viewcode",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are committed with their outputs; a test runs them

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autosummary_generate = True

html_theme = "furo"
html_title = "promise_jax"
html_static_path = ["_static"]


def setup(app):
  """Writes the generated pages before Sphinx reads the sources."""
  app.connect("builder-inited", lambda app: generated.write_pages(pathlib.Path(app.srcdir)))
