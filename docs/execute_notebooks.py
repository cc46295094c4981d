"""Executes the notebooks in place: `python docs/execute_notebooks.py`. Commit the result.

Outputs and plots are kept. What differs from run to run without meaning (times, versions of the
kernel) is removed, so that a new run changes only what changed.
"""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"


def execute(path: Path) -> None:
  """Runs one notebook from top to bottom and writes it back with its outputs."""
  notebook = nbformat.read(path, as_version=4)
  NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
  for cell in notebook.cells:
    cell.metadata.pop("execution", None)
    if cell.cell_type == "code":
      cell.outputs = merge_streams(cell.outputs)
  notebook.metadata.pop("language_info", None)
  nbformat.write(notebook, path)


def merge_streams(outputs: list) -> list:
  """Joins pieces of printed text, which arrive as time allows."""
  merged = []
  for output in outputs:
    if merged and output.output_type == merged[-1].output_type == "stream":
      merged[-1].text += output.text
    else:
      merged.append(output)
  return merged


if __name__ == "__main__":
  for path in sorted(FOLDER.glob("*.ipynb")):
    execute(path)
    print(path)
