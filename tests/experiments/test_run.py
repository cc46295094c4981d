"""A whole experiment in one process: what it reads, what it writes, how it is resumed."""

import dataclasses
import json
import os
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import tiny_runs
from promise_jax import data, files, missing
from promise_jax.evaluation import mask_files
from promise_jax.experiments import run as experiment_run
from promise_jax.training import checkpoint, loop

VARIANTS = ["robult", "majority", "distil"]
FIELDS = {*"method dataset split protocol mask_hash pattern metric value n seed label_rate".split()}

pytestmark = pytest.mark.usefixtures("compile_once")


def config(arguments: str = "") -> dict:
  return tiny_runs.get_config(f"method=robult,baselines=majority+distil,{arguments}").to_dict()


def run(folder, show=lambda text: None) -> str:
  return experiment_run.run_experiment(config(), folder, show=show)


def patched(change=lambda name, split: split):
  """A patch that notes reads of splits and ends of training in order, with the parameters
  that were found; `change` changes a split as it is read."""
  events, fits = [], []
  patch = pytest.MonkeyPatch()
  load, fit = data.load, loop.fit

  def load_and_note(*args, **options):
    source = load(*args, **options)

    def read(name):
      events.append(name)
      return change(name, source.read(name))

    return dataclasses.replace(source, read=read)

  def fit_and_note(*args, **options):
    found = fit(*args, **options)
    events.append("fit")
    fits.append(jax.tree.map(np.asarray, (found.params, found.model_state)))
    return found

  patch.setattr(data, "load", load_and_note)
  patch.setattr(loop, "fit", fit_and_note)
  return patch, events, fits


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A finished run: folder, the table, order of events, trained parameters."""
  folder = tmp_path_factory.mktemp("runs") / "deep" / "finished"
  patch, events, fits = patched()
  lines = []
  try:
    table = run(folder, lines.append)
  finally:
    patch.undo()
  return SimpleNamespace(folder=folder, table=table, lines=lines, events=events, fits=fits)


def lines_of(folder) -> list[dict]:
  return files.read_jsonl(folder / "results.jsonl")


def test_all_rows_are_read_and_described_before_training(finished):
  """That the test rows change nothing in training is the next test."""
  assert finished.events[-3:] == ["test", "fit", "fit"]
  assert finished.events.count("test") == 1
  found = files.read_json(finished.folder / "data.json")
  assert found["lines"][:3] == [
    "synthetic: one of 2 classes: 0, 1.",
    "  split  rows  rows of each class, in this order",
    f"  train  48    {', '.join(map(str, np.bincount(tiny_runs.dataset().split('train').label)))}",
  ]
  assert finished.lines[: len(found["lines"])] == found["lines"]
  assert found["lines"][0] in (finished.folder / "report.html").read_text()


def test_garbage_in_the_test_rows_leaves_training_as_it_is(finished, tmp_path):
  """NaN, huge values and wrong labels there: the same bits, and a page all the same."""

  def spoil(name, split):
    if name != "test":
      return split
    inputs = {"m0": np.full_like(split.inputs["m0"], np.nan)}
    inputs["m1"] = np.full_like(split.inputs["m1"], 1e38)
    return split._replace(inputs=inputs, label=1 - split.label)

  patch, _, fits = patched(spoil)
  try:
    run(tmp_path / "run")
  finally:
    patch.undo()
  assert tiny_runs.is_same(fits, finished.fits)
  folders = (finished.folder, tmp_path / "run")
  ours, theirs = ([x for x in lines_of(f) if x["split"] == "valid"] for f in folders)
  assert ours == theirs and len(ours) == 6
  assert (tmp_path / "run" / "report.html").exists()


def test_every_line_has_its_fields(finished):
  lines = lines_of(finished.folder)
  assert all(line.keys() >= FIELDS for line in lines)
  shared = {(x["dataset"], x["label_rate"], x["train_protocol"]) for x in lines}
  assert shared == {("synthetic", 0.5, "none")}
  # 3 variants, 2 seeds, 3 patterns, 10 rates, of which one is a test protocol as well, 1
  # other test protocol and 2 ways to pool: each accuracy once.
  keys = [
    (x["method"], x["seed"], str(x["pattern"]), x["protocol"])
    for x in lines
    if x["split"] == "test" and x["metric"] == "accuracy"
  ]
  assert len(keys) == len(set(keys)) == 3 * 2 * 16
  # The same rows and masks for every variant and seed.
  hashes = {}
  for x in lines:
    where = x["split"], str(x["pattern"]), x["protocol"]
    hashes.setdefault(where, set()).add((x["mask_hash"], x["n"]))
  assert all(len(found) == 1 for found in hashes.values())


def test_accuracy_follows_from_the_predictions(finished):
  stored = dict(np.load(finished.folder / "predictions.npz"))
  test = tiny_runs.dataset().split("test")
  np.testing.assert_array_equal(stored["label"], test.label)
  np.testing.assert_array_equal(stored["id"], test.id)
  names, checked = np.array(["m0", "m1"]), 0
  for line in lines_of(finished.folder):
    # tests/evaluation has what is pooled.
    pooled = line["protocol"].startswith("pooled")
    if pooled or (line["split"], line["metric"]) != ("test", "accuracy"):
      continue
    logits = stored[f"logits/{line['method']}"][line["seed"]]
    if line["pattern"] is None:
      protocol = missing.parse_protocol(line["protocol"])
      draw = {"seed": 0, "split": "test", "ids": test.id, "modalities": 2}
      mask = missing.draw_mask(protocol, **draw)
    else:
      mask = np.broadcast_to(np.isin(names, line["pattern"]), (20, 2))
    which = [np.flatnonzero((stored["pattern"] == x).all(1))[0] for x in mask]
    guess = logits[which, np.arange(20)].argmax(axis=-1)
    assert line["value"] == pytest.approx(np.mean(guess == test.label), abs=1e-6)
    checked += 1
  assert checked == 3 * 2 * 14


def test_the_classes_of_the_variant_best_on_validation_are_counted(finished):
  valid, lines = {}, lines_of(finished.folder)
  for x in lines:
    if x["split"] == "valid":
      valid.setdefault(x["method"], []).append(x["value"])
  best = max(valid, key=lambda name: np.mean(valid[name]))
  stored = dict(np.load(finished.folder / "predictions.npz"))
  guess = stored[f"logits/{best}"][:, -1].argmax(axis=-1)
  assert stored["pattern"][-1].all()
  found = files.read_json(finished.folder / "classes.json")
  assert len(found) == 4 and {x["variant"] for x in found} == {best}
  for x in found:
    own = guess[x["seed"]][stored["label"] == int(x["class"])]
    assert x["predicted"] == [(own == 0).sum(), (own == 1).sum()] and x["n"] == len(own)


def test_every_variant_is_measured_under_the_test_protocols(finished):
  """At map(0.5,both=1) 10 of 20 rows have only m0, the others both."""
  name, test = "map(0.5,both=1.0)", tiny_runs.dataset().split("test")
  draw = {"seed": 0, "split": "test", "ids": test.id, "modalities": 2}
  mask = missing.draw_mask(name, **draw)
  assert mask.sum(axis=0).tolist() == [20, 10]
  lines = [x for x in lines_of(finished.folder) if x["protocol"] == name]
  assert {x["mask_hash"] for x in lines} == {mask_files.mask_hash(mask, test.id)}
  stored = dict(np.load(finished.folder / "predictions.npz"))
  patterns = stored["pattern"].tolist()
  guess = {variant: stored[f"logits/{variant}"].argmax(axis=-1) for variant in VARIANTS}
  alone, both = patterns.index([True, False]), patterns.index([True, True])
  cells = []
  for variant, x in guess.items():
    x = np.where(mask[None, :, 1], x[:, both], x[:, alone])
    want = (x == test.label).mean(axis=1)
    own = [r for r in lines if (r["method"], r["metric"]) == (variant, "accuracy")]
    assert [r["value"] for r in own] == pytest.approx(want.tolist(), abs=1e-6)
    cells.append(f"{100 * want.mean():.1f} ± {100 * want.std(ddof=1):.1f}")
  (row,) = [x for x in finished.table.splitlines() if x.startswith(name)]
  assert row.split() == [name, "20", *" ".join(cells).split()]


def test_metrics_have_every_step_of_every_seed_once(finished):
  lines = files.read_jsonl(finished.folder / "metrics.jsonl")
  found = [(x["method"], x["step"], x["seed"]) for x in lines]
  steps = [(step, seed) for step in (5, 10, 15, 20) for seed in (0, 1)]
  assert found == [(name, *x) for name in (VARIANTS[0], VARIANTS[2]) for x in steps]


def test_the_report_and_the_table_name_every_variant(finished):
  page = (finished.folder / "report.html").read_text("utf-8")
  assert all(variant in page and variant in finished.table for variant in VARIANTS)
  assert "mean, incomplete" in finished.table
  assert not [p for p in finished.folder.iterdir() if p.name.startswith(".")]


def test_a_finished_run_is_only_shown(finished, monkeypatch):
  monkeypatch.setattr(loop, "fit", None)
  before = {p: p.stat().st_mtime_ns for p in finished.folder.rglob("*")}
  lines = []
  table = experiment_run.run_experiment(config(), finished.folder, show=lines.append)
  assert table == finished.table and "finished" in lines[0]
  assert {p: p.stat().st_mtime_ns for p in finished.folder.rglob("*")} == before


def test_a_stopped_run_ends_as_if_it_had_not_been(finished, tmp_path, monkeypatch, capsys):
  """SIGTERM at the second save, a line cut short, one of a step that was not saved."""
  saved, save = [], checkpoint.Checkpoints.save

  def save_and_stop(self, step, tree):
    save(self, step, tree)
    saved.append(step)
    if len(saved) == 2:
      os.kill(os.getpid(), signal.SIGTERM)

  before = signal.getsignal(signal.SIGTERM)
  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpoints, "save", save_and_stop)
    with pytest.raises(loop.TrainingInterrupted) as stopped:
      run(tmp_path / "run")
  assert (stopped.value.step, stopped.value.signal) == (15, signal.SIGTERM)
  assert signal.getsignal(signal.SIGTERM) is before
  assert not (tmp_path / "run" / "results.jsonl").exists()
  path = tmp_path / "run" / "metrics.jsonl"
  late = json.dumps(files.read_jsonl(path)[-1] | {"step": 20})
  path.write_text(path.read_text() + late + "\n" + late[:30])
  assert run(tmp_path / "run") == finished.table
  assert "robult: resuming from step 15 of 20" in capsys.readouterr().out
  for name in ("results.jsonl", "metrics.jsonl", "comparison.json"):
    ours, theirs = ((f / name).read_text() for f in (tmp_path / "run", finished.folder))
    assert ours == theirs
  paths = (f / "predictions.npz" for f in (tmp_path / "run", finished.folder))
  assert tiny_runs.is_same(*(dict(np.load(path)) for path in paths))
