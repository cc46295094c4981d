"""A finished run is scored again: other protocols, splits and files; also when it has moved."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import tiny_runs
from promise_jax import files
from promise_jax.evaluation import mask_files
from promise_jax.experiments import evaluate
from promise_jax.experiments import run as experiment_run
from promise_jax.experiments.config import DATA_OPTIONS
from promise_jax.experiments.evaluate import evaluate_run

VARIANTS = ["fusion", "majority"]

pytestmark = pytest.mark.usefixtures("compile_once")


def make_rows(num_rows: int) -> dict[str, np.ndarray]:
  """Rows of two vectors, one of which a third of the rows lack, with names as labels."""
  rng = np.random.default_rng(0)
  number = rng.integers(0, 2, num_rows)
  return {
    "x_sound": rng.normal(size=(num_rows, 3)) + number[:, None],
    "x_light": rng.normal(size=(num_rows, 2)),
    "present_light": rng.random(num_rows) < 0.7,
    "y": np.array(["no", "yes"])[number],
    "id": 7 * np.arange(num_rows),
    "split": np.repeat(["train", "valid", "test"], (num_rows // 2, num_rows // 4, num_rows // 4)),
  }


def config(path) -> dict:
  given = tiny_runs.get_config("method=fusion,baselines=majority,test_protocols=exact(0.3)")
  given = given.to_dict() | {"dataset": str(path)}
  given["data"] = {"data_dir": "", **DATA_OPTIONS}
  return given


def run(path, folder) -> str:
  return experiment_run.run_experiment(config(path), folder, show=lambda text: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A finished run: its folder, its data and its table."""
  root = tmp_path_factory.mktemp("evaluate")
  np.savez(root / "mine.npz", **make_rows(80))
  table = run(root / "mine.npz", root / "run")
  return SimpleNamespace(folder=root / "run", data=root / "mine.npz", table=table)


@pytest.fixture
def moved(finished, tmp_path):
  """A copy of the run elsewhere, for a config whose data are gone."""
  shutil.copytree(finished.folder, tmp_path / "copy")
  path = tmp_path / "copy" / "config.json"
  value = json.loads(path.read_text())
  value["config"]["dataset"] = str(tmp_path / "gone.npz")
  path.write_text(json.dumps(value))
  return tmp_path / "copy"


def lines_of(folder) -> list[dict]:
  return files.read_jsonl(folder / "results.jsonl")


def test_another_protocol_joins_the_results_once(finished, tmp_path):
  """Whatever was there stays as it was; the values follow from the stored predictions."""
  folder = tmp_path / "run"
  shutil.copytree(finished.folder, folder)
  before, masks = lines_of(folder), tmp_path / "masks.npz"
  table = evaluate_run(folder, "exact(0.5)", masks=masks)
  assert all(variant in table for variant in VARIANTS) and "accuracy" in table
  after = lines_of(folder)
  assert after[: len(before)] == before
  added = after[len(before) :]
  assert {x["protocol"] for x in added} == {"exact(0.5)"}
  assert "<td>exact(0.5)</td>" in (folder / "report.html").read_text()
  drawn = dict(np.load(masks))
  stored, mask = dict(np.load(folder / "predictions.npz")), drawn["mask"]
  # Every row has the first modality, some lack the second in the data.
  assert (~mask[:, 0]).sum() == 10 and not (mask & ~stored["recorded"]).any()
  assert {x["mask_hash"] for x in added} == {mask_files.mask_hash(mask, drawn["ids"])}
  index, some = mask @ [1, 2] - 1, mask.any(axis=1)
  for x in added:
    if x["metric"] == "accuracy":
      logits = stored[f"logits/{x['method']}"][x["seed"], index, np.arange(20)]
      hits = (logits.argmax(-1) == stored["label"])[some]
      assert (x["value"], x["n"]) == (pytest.approx(hits.mean()), some.sum())
  evaluate_run(folder, "exact(0.5)")
  assert lines_of(folder) == after
  assert run(finished.data, folder) == finished.table


@pytest.mark.parametrize("names", [False, True])
def test_the_test_rows_in_another_file_score_as_they_did(finished, moved, tmp_path, names):
  """The stored scale and class names serve, though the file has other means and one order more:
  `classes` may number them in another way."""
  rows = make_rows(80)
  test = {name: x[rows["split"] == "test"] for name, x in rows.items() if name != "split"}
  if names:
    test |= {"y": (test["y"] == "no").astype(int), "classes": np.array(["yes", "no"])}
  np.savez(tmp_path / "other.npz", **test)
  text = evaluate_run(moved, data=tmp_path / "other.npz")
  assert "Evaluated on other.npz" in (moved / "report.html").read_text()
  assert finished.table.splitlines()[:9] == text.splitlines()[:9]
  found = [x for x in lines_of(moved) if x["split"] == "other.npz"]
  want = [x | {"split": "other.npz"} for x in lines_of(finished.folder) if x["split"] == "test"]
  assert found == want
  assert lines_of(moved)[: len(lines_of(finished.folder))] == lines_of(finished.folder)


def test_rows_without_a_label_are_left_out_and_counted(moved, tmp_path, caplog):
  sound = make_rows(20)["x_sound"]
  columns = {f"sound_{i}": sound[:, i] for i in range(3)} | {"y": [None, "no", *["yes"] * 18]}
  pd.DataFrame(columns).to_parquet(tmp_path / "other.parquet")
  evaluate_run(moved, data=tmp_path / "other.parquet")
  assert "1 of 20 rows have no label and are left out" in caplog.text
  added = [x for x in lines_of(moved) if x["split"] == "other.parquet"]
  by_pattern = {(x["protocol"], x["n"]) for x in added if x["pattern"] == ["sound"]}
  assert by_pattern == {("none", 19)}  # no row has light: those with sound are complete


def test_train_rows_without_a_label_are_left_out(finished, tmp_path, monkeypatch, caplog):
  shutil.copytree(finished.folder, tmp_path / "run")
  known, rows = np.arange(40) % 4 > 0, make_rows(80)
  other = {name: x[:40][known] for name, x in rows.items() if name != "split"}
  np.savez(tmp_path / "other.npz", **other)
  load = evaluate.load_dataset
  hide = lambda options: dataclasses.replace(load(options), labelled=known)
  monkeypatch.setattr(evaluate, "load_dataset", hide)
  monkeypatch.setattr(evaluate.run_dir, "check_data", lambda *args: None)
  evaluate_run(tmp_path / "run", split="train")
  evaluate_run(tmp_path / "run", data=tmp_path / "other.npz")
  assert "10 of 40 rows have no label and are left out" in caplog.text
  columns = ["method", "seed", "pattern", "metric", "n", "value"]
  by_split = {split: [] for split in ("train", "other.npz")}
  for line in lines_of(tmp_path / "run"):
    if line["split"] in by_split and line["pattern"]:
      by_split[line["split"]].append([line[c] for c in columns])
  assert by_split["train"] == by_split["other.npz"] != []


def test_a_run_that_moved_without_its_data_says_what_helps(moved):
  with pytest.raises(ValueError, match=r"gone.npz.*--data FILE evaluates rows of another file"):
    evaluate_run(moved, "exact(0.5)")


@pytest.mark.parametrize(
  ("changed", "sentence"),
  [
    ({"y": np.array(["no", "maybe"] * 10)}, "other.npz: row 1 has the label 'maybe'"),
    ({"y": None}, "other.npz: it has no label, a column y or label is needed"),
    ({"x_sound": np.zeros((20, 9))}, "other.npz"),
  ],
)
def test_other_data_that_do_not_fit_are_refused(changed, sentence, moved, tmp_path):
  rows = make_rows(20) | changed
  np.savez(tmp_path / "other.npz", **{k: v for k, v in rows.items() if v is not None})
  before = lines_of(moved)
  with pytest.raises(ValueError, match=sentence):
    evaluate_run(moved, data=tmp_path / "other.npz")
  assert lines_of(moved) == before


@pytest.mark.parametrize(
  ("protocol", "split", "sentence"),
  [("often(0.5)", "test", "unknown protocol"), ("none", "dev", "split is 'dev'")],
)
def test_a_protocol_or_split_that_is_unknown_is_refused(finished, protocol, split, sentence):
  before = lines_of(finished.folder)
  with pytest.raises(ValueError, match=sentence):
    evaluate_run(finished.folder, protocol, split)
  assert lines_of(finished.folder) == before


def test_a_finished_run_with_its_model_is_needed(tmp_path):
  with pytest.raises(ValueError, match="not a run"):
    evaluate_run(tmp_path / "nowhere", "exact(0.5)")
  files.write_json(tmp_path / "config.json", {"config": config("mine.npz")})
  with pytest.raises(ValueError, match="not finished"):
    evaluate_run(tmp_path, "exact(0.5)")
  (tmp_path / "results.jsonl").write_text("")
  with pytest.raises(ValueError, match="has no model.json"):
    evaluate_run(tmp_path, "exact(0.5)")


@pytest.mark.parametrize(
  ("changed", "sentence"),
  [
    ({"x_light": np.zeros((80, 2))}, "values of light of the 40 train rows differ"),
    ({"x_sound": np.zeros((80, 9))}, r"sound was vector \[3\], is vector \[9\]"),
    ({"y": np.array(["no", "yes"] * 40)}, "labels of the 40 train rows differ"),
  ],
)
def test_rows_that_changed_behind_a_run_are_noticed(changed, sentence, finished, tmp_path):
  """By evaluate, and by the same command on a finished and on a stopped run."""
  folder, path = tmp_path / "run", tmp_path / "mine.npz"
  shutil.copytree(finished.folder, folder)
  value = json.loads((folder / "config.json").read_text())
  value["config"]["dataset"] = str(path)
  (folder / "config.json").write_text(json.dumps(value))
  np.savez(path, **make_rows(80))
  evaluate_run(folder, "exact(0.5)")
  before = lines_of(folder)
  np.savez(path, **(make_rows(80) | changed))
  with pytest.raises(ValueError, match=f"{sentence}.*--data FILE"):
    evaluate_run(folder, "exact(0.5)")
  with pytest.raises(ValueError, match=f"{sentence}.*another --workdir"):
    run(path, folder)
  assert lines_of(folder) == before
  (folder / "results.jsonl").unlink()
  with pytest.raises(ValueError, match=sentence):
    run(path, folder)


def test_a_run_keeps_what_its_data_were(finished):
  found = files.read_json(finished.folder / "data.json")
  card = files.read_json(finished.folder / "model" / "model.json")["card"]
  assert card["data"] == found["fingerprint"]
  counts = {name: split["rows"] for name, split in card["data"]["splits"].items()}
  assert counts == {"train": 40, "valid": 20, "test": 20}


def test_other_versions_are_told(finished, tmp_path, caplog):
  folder = tmp_path / "run"
  shutil.copytree(finished.folder, folder)
  value = json.loads((folder / "config.json").read_text())
  value["versions"]["jax"] = "0.1.2"
  (folder / "config.json").write_text(json.dumps(value))
  evaluate_run(folder, "exact(0.5)")
  assert "was begun with jax 0.1.2, this is jax" in caplog.text
