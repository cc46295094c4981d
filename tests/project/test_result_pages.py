"""launch/results.py writes tables of finished comparisons into marked places of pages."""

import json
import runpy
from pathlib import Path

import pytest

import tiny_runs
from promise_jax.experiments import compare

pytestmark = pytest.mark.usefixtures("compile_once")
SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "launch" / "results.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A tiny comparison of the majority class with distil and fusion."""
  folder = tmp_path_factory.mktemp("results")
  run = tiny_runs.get_config("method=distil,baselines=fusion+majority,seeds=2").to_dict()
  config = {"title": "Tiny", "trials": {}, "trial_seeds": 1, "runs": {"all": run}}
  config |= {"against": ("distil", "fusion"), "command": "promise-jax compare"}
  compare.run_comparison(config, folder / "one", show=lambda line: None)
  return folder


def test_tables_stand_between_the_marks(folder, tmp_path):
  begin, end = SCRIPT["BEGIN"], SCRIPT["END"]
  (tmp_path / "RESULTS.md").write_text(
    f"# R\n\nBefore.\n\n{begin}\nstale\n{end}\n\nAfter.\n", "utf-8"
  )
  for _ in range(2):  # the second time over the first
    SCRIPT["main"]([str(folder), "--root", str(tmp_path)])
  text = (tmp_path / "RESULTS.md").read_text("utf-8")
  assert text.startswith(f"# R\n\nBefore.\n\n{begin}\n\n### Lowest label rate")
  assert text.endswith(f"\n\n{end}\n\nAfter.\n") and "stale" not in text
  lines = json.loads((folder / "one" / "comparison.json").read_text())
  difference = {
    x["baseline"]: 100 * x["difference"]
    for x in lines
    if (x["method"], x["rows"]) == ("majority", "incomplete")
  }
  for name in ("distil", "fusion"):
    _, table = text.split(f"| minus `{name}` (seeds) |")
    row = next(x for x in table.splitlines() if x.startswith("| `majority` (2) |"))
    assert f" {difference[name]:+.1f} [" in row
  (page,) = (tmp_path / "docs" / "results").iterdir()
  section = page.read_text("utf-8")
  assert "## Tiny\n\n```bash\npromise-jax compare\n```\n" in section
  assert section.index("<details>") < section.index("| present | n |") < section.index("</details>")


def test_a_page_without_marks_is_refused(folder, tmp_path):
  (tmp_path / "RESULTS.md").write_text("# R\n", "utf-8")
  with pytest.raises(ValueError, match="RESULTS.md needs one line"):
    SCRIPT["main"]([str(folder), "--root", str(tmp_path)])
