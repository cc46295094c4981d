"""A whole experiment in one process: its files, its lines, and what it may read."""

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
from promise_jax.experiments import config as experiment_config
from promise_jax.experiments import results as experiment_results
from promise_jax.experiments import run as experiment_run
from promise_jax.experiments import run_dir, train_variant
from promise_jax.training import checkpoint, loop

ARMS = ["robult", "majority", "distil"]
CHOSEN = "method=robult,baselines=majority+distil"
FIELDS = {
  *("method", "dataset", "split", "protocol", "mask_hash", "pattern", "metric"),
  *("value", "n", "seed", "label_rate"),
}


pytestmark = pytest.mark.usefixtures("compile_once")


def config(arguments: str = "") -> dict:
  return tiny_runs.get_config(f"{CHOSEN},{arguments}").to_dict()


def quietly(folder, given=None) -> str:
  return experiment_run.run_experiment(given or config(), folder, show=lambda text: None)


def watched(spoil=lambda name, split: split):
  """A patch under which reads of splits and ends of training are noted in order, with
  the parameters that were found; `spoil` changes a split as it is read."""
  events, fits = [], []
  patch = pytest.MonkeyPatch()
  load, fit = data.load, loop.fit

  def load_and_watch(*args, **options):
    source = load(*args, **options)

    def read(name):
      events.append(name)
      return spoil(name, source.read(name))

    return dataclasses.replace(source, read=read)

  def fit_and_watch(*args, **options):
    found = fit(*args, **options)
    events.append("fit")
    fits.append(jax.tree.map(np.asarray, (found.params, found.model_state)))
    return found

  patch.setattr(data, "load", load_and_watch)
  patch.setattr(loop, "fit", fit_and_watch)
  return patch, events, fits


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A finished run: folder, the table, order of events, trained parameters."""
  folder = tmp_path_factory.mktemp("runs") / "deep" / "finished"
  patch, events, fits = watched()
  try:
    table = quietly(folder)
  finally:
    patch.undo()
  return SimpleNamespace(folder=folder, table=table, events=events, fits=fits)


def lines_of(folder) -> list[dict]:
  return files.read_jsonl(folder / "results.jsonl")


def test_the_test_split_is_read_once_after_the_last_arm(finished):
  assert finished.events[-2:] == ["fit", "test"]
  assert finished.events.count("test") == 1 and finished.events.count("fit") == 2


def test_garbage_in_the_test_rows_leaves_training_as_it_is(finished, tmp_path):
  """NaN, huge values and wrong labels there: the same bits, and a page all the same."""

  def spoil(name, split):
    if name != "test":
      return split
    inputs = {"m0": np.full_like(split.inputs["m0"], np.nan)}
    inputs["m1"] = np.full_like(split.inputs["m1"], 1e38)
    return split._replace(inputs=inputs, label=1 - split.label)

  patch, _, fits = watched(spoil)
  try:
    quietly(tmp_path / "run")
  finally:
    patch.undo()
  assert tiny_runs.same(fits, finished.fits)
  of_valid = [
    [x for x in lines_of(folder) if x["split"] == "valid"]
    for folder in (finished.folder, tmp_path / "run")
  ]
  assert of_valid[0] == of_valid[1] and len(of_valid[0]) == 6
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
  with np.load(finished.folder / "predictions.npz") as file:
    stored = dict(file)
  test = tiny_runs.dataset().split("test")
  np.testing.assert_array_equal(stored["label"], test.label)
  np.testing.assert_array_equal(stored["id"], test.id)
  names, checked = np.array(["m0", "m1"]), 0
  for line in lines_of(finished.folder):
    if line["split"] != "test" or line["metric"] != "accuracy":
      continue
    if line["protocol"].startswith("pooled"):
      continue  # tests/test_evaluate.py has these
    logits = stored[f"logits/{line['method']}"][line["seed"]]
    if line["pattern"] is None:
      protocol = missing.parse_protocol(line["protocol"])
      draw = {"seed": 0, "split": "test", "ids": test.id, "modalities": 2}
      shown = missing.draw_mask(protocol, **draw)
    else:
      shown = np.broadcast_to(np.isin(names, line["pattern"]), (20, 2))
    which = [np.flatnonzero((stored["pattern"] == x).all(1))[0] for x in shown]
    guess = logits[which, np.arange(20)].argmax(axis=-1)
    assert line["value"] == pytest.approx(np.mean(guess == test.label), abs=1e-6)
    checked += 1
  assert checked == 3 * 2 * 14


def test_every_arm_is_measured_under_the_test_protocols(finished):
  """At map(0.5,both=1) 10 of 20 rows have only m0, the others both."""
  name, test = "map(0.5,both=1.0)", tiny_runs.dataset().split("test")
  draw = {"seed": 0, "split": "test", "ids": test.id, "modalities": 2}
  mask = missing.draw_mask(name, **draw)
  assert mask.sum(axis=0).tolist() == [20, 10]
  lines = [x for x in lines_of(finished.folder) if x["protocol"] == name]
  assert {x["mask_hash"] for x in lines} == {mask_files.mask_hash(mask, test.id)}
  with np.load(finished.folder / "predictions.npz") as file:
    patterns = file["pattern"].tolist()
    guess = {variant: file[f"logits/{variant}"].argmax(axis=-1) for variant in ARMS}
  alone, both = patterns.index([True, False]), patterns.index([True, True])
  shown = []
  for variant, x in guess.items():
    x = np.where(mask[None, :, 1], x[:, both], x[:, alone])
    want = (x == test.label).mean(axis=1)
    own = [r for r in lines if (r["method"], r["metric"]) == (variant, "accuracy")]
    assert [r["value"] for r in own] == pytest.approx(want.tolist(), abs=1e-6)
    shown.append(f"{100 * want.mean():.1f} ± {100 * want.std(ddof=1):.1f}")
  (row,) = [x for x in finished.table.splitlines() if x.startswith(name)]
  assert row.split() == [name, "20", *" ".join(shown).split()]
  page = (finished.folder / "report.html").read_text("utf-8")
  page = page[page.index("By test protocol") :]
  assert all(f">{cell}<" in page for cell in shown)


def test_metrics_have_every_step_of_every_seed_once(finished):
  lines = files.read_jsonl(finished.folder / "metrics.jsonl")
  found = [(x["method"], x["step"], x["seed"]) for x in lines]
  trained = [ARMS[0], ARMS[2]]
  assert found == [
    (variant, step, seed) for variant in trained for step in (5, 10, 15, 20) for seed in (0, 1)
  ]


def test_the_report_and_the_table_name_every_arm(finished):
  page = (finished.folder / "report.html").read_text("utf-8")
  for variant in ARMS:
    assert variant in page and variant in finished.table
  assert "mean, incomplete" in finished.table
  assert (finished.folder / "spec.json").exists()
  leftovers = [p.name for p in finished.folder.iterdir() if p.name.endswith(".tmp")]
  assert not leftovers


def test_a_finished_run_is_only_shown(finished, monkeypatch):
  monkeypatch.setattr(loop, "fit", None)
  monkeypatch.setattr(data, "load", None)
  before = {p: p.stat().st_mtime_ns for p in finished.folder.rglob("*")}
  said = []
  assert (
    experiment_run.run_experiment(config(), finished.folder, show=said.append) == finished.table
  )
  assert "finished" in said[0]
  assert {p: p.stat().st_mtime_ns for p in finished.folder.rglob("*")} == before


def test_another_config_is_refused_and_the_fields_named(finished):
  other = config("label_rate=0.25,seeds=3")
  with pytest.raises(ValueError, match="label_rate was 0.5, is 0.25") as error:
    quietly(finished.folder, other)
  assert "seeds was 2, is 3" in str(error.value) and "method" not in str(error.value)


def test_a_run_may_go_on_with_other_readers_and_groups(finished):
  given = config()
  given["data"] |= {"threads": 3, "workers": 1}
  given["train"]["seed_devices"] = 2
  with run_dir.open_run(finished.folder, given):
    pass
  usual = given | {"data": given["data"] | run_dir.PREFETCH_OPTIONS}
  usual["train"] = {k: v for k, v in usual["train"].items() if k != "seed_devices"}
  assert run_dir.config_hash(given) == run_dir.config_hash(usual)
  several = [{"runs": {"headline": one}} for one in (given, usual)]
  assert run_dir.config_hash(several[0]) == run_dir.config_hash(several[1])
  given["seeds"] = 3
  assert run_dir.config_hash(given) != run_dir.config_hash(usual)
  with pytest.raises(ValueError, match="another config: seeds was 2, is 3$"):
    run_dir.open_run(finished.folder, given).__enter__()


def test_groups_that_do_not_fit_the_devices_are_one_for_an_evaluation():
  """There are eight devices; the run of an older version names no groups."""
  given = config()
  for groups, found in ((1, 1), (4, 4), (3, 1), (16, 1)):
    given["train"]["seed_devices"] = groups
    assert experiment_run.fit_to_devices(given)["train"]["seed_devices"] == found
  del given["train"]["seed_devices"]
  assert experiment_run.fit_to_devices(given) == given


def test_seeds_that_do_not_divide_are_refused_before_anything_is_read():
  given = config("seeds=5,dataset=nowhere.npz")
  given["train"]["seed_devices"] = 2
  with pytest.raises(ValueError, match="seeds is 5, .* multiple of train.seed_devices"):
    experiment_config.parse_experiment(given)


def test_a_folder_in_use_is_refused(finished):
  with run_dir.open_run(finished.folder, config()):
    with pytest.raises(ValueError, match="in use"):
      run_dir.open_run(finished.folder, config()).__enter__()
  with run_dir.open_run(finished.folder, config()):
    pass


@pytest.mark.parametrize(
  ("name", "text"),
  [("config.json", '{"model_type": "bert"}'), ("config.json", "[1]"), ("a.txt", "")],
)
def test_a_folder_of_something_else_is_refused(tmp_path, name, text):
  (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match="not a run|is not empty"):
    quietly(tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
  ("section", "changed", "sentence"),
  [
    ("train", {"steps": 23}, "steps is 23"),
    ("train", {"batch_size": 12}, "multiple of the 8 devices"),
    ("train", {"labelled_per_batch": 99}, "99 labelled"),
    ("data", {"modalities": 0}, "modalities is 0"),
    ("data", {"modalities": 3}, "both is for exactly 2 modalities, found 3"),
    ("robult", {"contrast": "nothing"}, "robult.contrast is 'nothing'"),
  ],
)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(tmp_path, section, changed, sentence):
  given = config()
  given[section] |= changed
  with pytest.raises(ValueError, match=sentence):
    quietly(tmp_path / "run", given)
  assert not (tmp_path / "run").exists()


def test_data_without_a_test_split_are_refused_at_once(tmp_path, monkeypatch):
  source = dataclasses.replace(tiny_runs.dataset(), splits=("train", "valid"))
  monkeypatch.setattr(data, "load", lambda *args, **options: source)
  with pytest.raises(ValueError, match="no test split"):
    quietly(tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_stopped_run_ends_as_if_it_had_not_been(finished, tmp_path, monkeypatch):
  """SIGTERM at the third save, a line cut short, one of a step that was not saved."""
  saved, save = [], checkpoint.save

  def save_and_stop(manager, step, tree):
    save(manager, step, tree)
    saved.append(step)
    if len(saved) == 3:
      os.kill(os.getpid(), signal.SIGTERM)

  before = signal.getsignal(signal.SIGTERM)
  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, "save", save_and_stop)
    with pytest.raises(loop.TrainingInterrupted) as stopped:
      quietly(tmp_path / "run")
  assert (stopped.value.step, stopped.value.signal) == (15, signal.SIGTERM)
  assert signal.getsignal(signal.SIGTERM) is before
  assert not (tmp_path / "run" / "results.jsonl").exists()
  path = tmp_path / "run" / "metrics.jsonl"
  late = json.dumps(files.read_jsonl(path)[-1] | {"step": 20})
  path.write_text(path.read_text() + late + "\n" + late[:30])
  assert quietly(tmp_path / "run") == finished.table
  for name in ("results.jsonl", "metrics.jsonl", "comparison.json"):
    ours, theirs = ((f / name).read_text() for f in (tmp_path / "run", finished.folder))
    assert ours == theirs
  assert_same_predictions(tmp_path / "run", finished.folder)


def assert_same_predictions(a, b) -> None:
  with np.load(a / "predictions.npz") as ours, np.load(b / "predictions.npz") as theirs:
    assert tiny_runs.same(dict(ours), dict(theirs))


def test_a_signal_between_two_arms_stops_there(tmp_path, monkeypatch):
  """And one that comes when all are trained is nobody's: it ends the process."""
  setup = SimpleNamespace(experiment=experiment_config.parse_experiment(config()))
  seen, default = [], signal.getsignal(signal.SIGTERM)

  def train_once(setup, variant, folder, stop, show):
    seen.append(variant.text)
    os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(train_variant, "train_variant", train_once)
  with pytest.raises(loop.TrainingInterrupted) as stopped:
    experiment_run.train_variants(setup, tmp_path, None)
  assert stopped.value.signal == signal.SIGTERM and len(seen) == 1
  assert signal.getsignal(signal.SIGTERM) is default


def test_the_control_is_the_best_on_validation():
  """Not the one that is best on test; the difference is of plain means."""
  source = tiny_runs.dataset()
  test, rng = source.split("test"), np.random.default_rng(0)
  scores = {"ours": [0.5, 0.6], "good on test": [0.4, 0.4], "chosen": [0.3, 0.7]}
  trained = [
    train_variant.TrainedVariant(
      experiment_config.Variant(name, name, {}), np.array(s), np.zeros(2), None
    )
    for name, s in scores.items()
  ]
  logits = {n: rng.normal(size=(2, 3, 20, 2)).astype(np.float32) for n in scores}
  sure = 10 * np.eye(2, dtype=np.float32)[test.label]
  logits["good on test"] = np.broadcast_to(sure, (2, 3, 20, 2))
  patterns = missing.all_patterns(2)
  experiment = experiment_config.parse_experiment(config())
  setup = train_variant.Setup({}, experiment, source, source.spec, None, None, patterns)
  compared = experiment_results.compare_with_baseline(setup, trained, logits, test)
  assert {(x["method"], x["control"]) for x in compared} == {("ours", "chosen")}
  right = {n: (x.argmax(-1) == test.label).mean(axis=(0, 2)) for n, x in logits.items()}
  gap = right["ours"] - right["chosen"]
  expected = [gap[:2].mean(), gap.mean(), *gap]
  assert [x["rows"] for x in compared] == ["incomplete", "all", "m0", "m1", "m0+m1"]
  np.testing.assert_allclose([x["difference"] for x in compared], expected, atol=1e-6)
  assert all(x["low"] <= x["difference"] <= x["high"] for x in compared)


def test_groups_of_test_rows_are_kept_and_compared_whole(tmp_path):
  """Own data with groups: they are beside the predictions, counted, and drawn whole."""
  rng, group = np.random.default_rng(0), np.arange(60) // 3
  x = {f"x_m{i}": rng.normal(size=(60, 4)) for i in range(2)}
  np.savez(tmp_path / "own.npz", y=group % 2, group=group, **x)
  given = tiny_runs.get_config("method=majority,baselines=none").to_dict()
  given |= {"dataset": str(tmp_path / "own.npz"), "train_protocol": "exact(0.5,0.25)"}
  given["data"] = {"data_dir": "", **experiment_config.DATA_OPTIONS}
  quietly(tmp_path / "run", given)
  source = train_variant.load_data(given)
  with np.load(tmp_path / "run" / "predictions.npz") as file:
    assert file["group"].tolist() == (file["id"] // 3).tolist()
    assert file["id"].tolist() == source.split("test").id.tolist()
  draw = {"split": "train", "ids": source.split("train").id, "modalities": 2}
  kept = [missing.draw_mask("exact(0.5,0.25)", seed=s, **draw) for s in (0, 1)]
  assert json.loads((tmp_path / "run" / "rows.json").read_text()) == {
    "rows": {"train": 36, "valid": 12, "test": 12},
    "groups": {"train": 12, "valid": 4, "test": 4},
    "labelled": [18, 18],
    "missing": {"m0": 0.5, "m1": 0.25},
    "empty": pytest.approx(np.mean([not row.any() for x in kept for row in x])),
  }


def test_a_step_chosen_on_the_full_pattern_is_said_to_be(tmp_path):
  """The constant predictor is scored on what chooses; its lines say what that is."""
  given = tiny_runs.get_config("method=majority,baselines=none").to_dict()
  given["train"]["select_on"] = "full"
  quietly(tmp_path / "run", given)
  (valid, *_) = [x for x in lines_of(tmp_path / "run") if x["split"] == "valid"]
  assert valid["protocol"] == "full pattern"
  source = tiny_runs.dataset()
  split, rows = source.split("valid"), tiny_runs.rows(source)
  known = rows.split.label[rows.labelled[0]]
  right = split.label == np.bincount(known).argmax()
  assert valid["value"] == pytest.approx(right.mean())


@pytest.mark.parametrize(
  ("scores", "chosen"),
  [
    ({"a": 1, "a(x=1)": 0.9, "b": 0.5, "c": 0.6, "majority": 0.8}, "c"),
    ({"a": 1, "a(x=1)": 0.2, "a(x=2)": 0.3, "majority": 0.8}, "a(x=2)"),
    ({"a": 1, "majority": 0.8}, "majority"),
  ],
)
def test_a_variant_of_the_method_is_no_control_beside_another_method(scores, chosen):
  assert experiment_results.best_baseline("a", scores) == chosen


def test_a_finished_run_under_another_protocol(finished, tmp_path):
  """Its lines join results.jsonl once, whatever was there stays as it was."""
  before = (finished.folder / "results.jsonl").read_text().splitlines()
  masks = tmp_path / "masks.npz"
  table = experiment_run.evaluate_run(finished.folder, "exact(0.5)", masks=masks)
  assert all(variant in table for variant in ARMS) and "accuracy" in table
  after = (finished.folder / "results.jsonl").read_text().splitlines()
  assert after[: len(before)] == before
  added = [json.loads(line) for line in after[len(before) :]]
  assert {x["protocol"] for x in added} == {"exact(0.5)"}
  drawn = mask_files.load_masks(masks)
  np.testing.assert_array_equal((~drawn.mask).sum(axis=0), [10, 10])
  hashed = mask_files.mask_hash(drawn.mask, drawn.ids)
  assert {x["mask_hash"] for x in added} == {hashed}
  with np.load(finished.folder / "predictions.npz") as file:
    stored = dict(file)
  index, some = drawn.mask @ [1, 2] - 1, drawn.mask.any(axis=1)
  for x in added:
    if x["metric"] == "accuracy":
      logits = stored[f"logits/{x['method']}"][x["seed"], index, np.arange(20)]
      hits = (logits.argmax(-1) == stored["label"])[some]
      assert (x["value"], x["n"]) == (pytest.approx(hits.mean()), some.sum())
  experiment_run.evaluate_run(finished.folder, "exact(0.5)")
  assert (finished.folder / "results.jsonl").read_text().splitlines() == after
  assert quietly(finished.folder) == finished.table


@pytest.mark.parametrize(
  ("protocol", "split", "sentence"),
  [("often(0.5)", "test", "unknown protocol"), ("none", "dev", "split is 'dev'")],
)
def test_an_evaluation_that_does_not_fit(finished, protocol, split, sentence):
  before = (finished.folder / "results.jsonl").read_text()
  with pytest.raises(ValueError, match=sentence):
    experiment_run.evaluate_run(finished.folder, protocol, split)
  assert (finished.folder / "results.jsonl").read_text() == before


def test_an_evaluation_needs_a_finished_run_with_its_parameters(tmp_path):
  with pytest.raises(ValueError, match="not a run"):
    experiment_run.evaluate_run(tmp_path / "nowhere", "exact(0.5)")
  files.write_json(tmp_path / "config.json", {"config": config()})
  with pytest.raises(ValueError, match="not finished"):
    experiment_run.evaluate_run(tmp_path, "exact(0.5)")
  (tmp_path / "results.jsonl").write_text("")
  with pytest.raises(ValueError, match="parameters of .* are gone"):
    experiment_run.evaluate_run(tmp_path, "exact(0.5)")
