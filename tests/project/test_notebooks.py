"""Every notebook is committed with its outputs, and its code still runs from top to bottom.

`python docs/execute_notebooks.py` makes the outputs anew.
"""

import json
from pathlib import Path

import jax
import matplotlib
import matplotlib.pyplot as plt
import pytest

import shortcuts

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
  "missing_patterns": """
assert np.array_equal(masks["exact(0.1,0.5,0.9)"].sum(axis=0), [54, 30, 6])
assert np.array_equal(shuffled, full[order]) and np.array_equal(part, full[40:])
gain = table["fusion"] - table["fusion(dropout=false)"]
assert gain[:6].mean() > 0 and table["fusion"].min() > table["majority"].max(), table
assert np.array_equal(found[0], without_m1[0]) and np.array_equal(found[1:], complete[1:])
""",
  "predict": """
assert set(predictor.predict(new_rows).index) == {"both", "picture", "name", "nothing"}
groups = [codes["picture and name"][label == g].mean(axis=0) for g in predictor.classes]
for name in ("picture", "name"):  # rows lie where complete rows of their group lie
  nearest = np.linalg.norm(codes[name][:, None] - np.stack(groups), axis=2).argmin(axis=1)
  assert np.mean(np.array(predictor.classes)[nearest] == label) > 0.4
assert np.abs(total - (log_p - np.log(nothing[predicted]))).max() < 1e-6
held = sets[sets["metric"] == "coverage"]["after"]
assert held.between(0.84, 0.99).all(), held
accuracy = scores[scores["metric"] == "accuracy"].set_index("present")["value"]
assert accuracy["1 of 2"] < accuracy["2 of 2"] and accuracy["all rows"] > 0.5, accuracy
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
def test_notebook_runs(path, one_device):
  """In this process, where most of JAX is compiled already, with the settings of a reader."""
  cells = ["".join(cell["source"]) for cell in code_cells(path)]
  namespace, is_double = {"__name__": path.stem}, jax.config.jax_enable_x64
  matplotlib.use("agg")
  try:
    with shortcuts.short_runs(one_device), jax.numpy_rank_promotion("allow"):
      for i, cell in enumerate([*cells, CHECKS[path.stem]]):
        exec(compile(cell, f"{path.name}, cell {i}", "exec"), namespace)
  finally:
    jax.config.update("jax_enable_x64", is_double)
    plt.close("all")
