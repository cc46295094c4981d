"""Every notebook is committed with its outputs, and its code still runs from top to bottom.

`python docs/execute_notebooks.py` makes the outputs anew.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tiny_runs

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
CHECKS = {
  # What the text of the notebook claims, on the variables it leaves.
  "bilevel": """
assert np.all(constant[-300:].argmax(axis=1) == 1)  # the corner of step 300
assert len(set(growing[-300:].argmax(axis=1).tolist())) == 3
assert np.abs(advantage[-300:]).mean() < 0.1 and upper[2:].max() < 0.11, upper
assert error < 0.25 * error_equal
assert relative_advantage.controller.__kwdefaults__["growth"] == 1
""",
  "quickstart": """
assert len(table) == 7 and table["m0+m1+m2"] > 0.75, table
assert min(table.values()) > 0.6, table
""",
}


def code_cells(path: Path) -> list[dict]:
  cells = json.loads(path.read_text("utf-8"))["cells"]
  return [cell for cell in cells if cell["cell_type"] == "code"]


def test_there_are_notebooks_and_each_has_a_check():
  assert {p.stem for p in NOTEBOOKS} == set(CHECKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_was_executed_in_order_without_an_error(path):
  cells = code_cells(path)
  assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
  outputs = [output for cell in cells for output in cell["outputs"]]
  kinds = {output["output_type"] for output in outputs}
  assert "error" not in kinds and all(o.get("name") != "stderr" for o in outputs)
  assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path):
  script = tmp_path / f"{path.stem}.py"
  code = ["".join(cell["source"]) for cell in code_cells(path)]
  script.write_text("\n\n".join([*code, CHECKS[path.stem]]), "utf-8")
  done = subprocess.run(
    [sys.executable, "-W", "error", str(script)],
    capture_output=True,
    text=True,
    timeout=300,
    env=tiny_runs.fast_environment() | {"MPLBACKEND": "agg"},
  )
  assert done.returncode == 0, done.stderr[-3000:]
