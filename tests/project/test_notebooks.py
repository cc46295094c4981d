"""Every notebook runs from top to bottom and is committed without outputs."""

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


def code_of(path: Path) -> list[str]:
  cells = json.loads(path.read_text("utf-8"))["cells"]
  return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def test_there_are_notebooks_and_each_has_a_check():
  assert {p.stem for p in NOTEBOOKS} == set(CHECKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_stripped(path):
  for cell in json.loads(path.read_text("utf-8"))["cells"]:
    if cell["cell_type"] == "code":
      assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path):
  script = tmp_path / f"{path.stem}.py"
  script.write_text("\n\n".join([*code_of(path), CHECKS[path.stem]]), "utf-8")
  done = subprocess.run(
    [sys.executable, "-W", "error", str(script)],
    capture_output=True,
    text=True,
    timeout=300,
    env=tiny_runs.short(),
  )
  assert done.returncode == 0, done.stderr[-3000:]
