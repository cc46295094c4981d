"""Exported programs against the methods that they are made of, and the folder around them."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

import example_batches
import method_cases
import promise_jax
from inference import saved_runs
from promise_jax import methods, missing
from promise_jax.cli import main
from promise_jax.inference import export, exported, saved_model
from promise_jax.optim import param_paths

SEEDS = 2


def make_variables(method):
  """Random {"params": ..., "state": ...} of two seeds, after the last stage of `method`."""

  def start_last_stage(key):
    params, state = method.init(key)
    for stage in method.stages:
      params, state = stage.on_start(key, params, state)
    return {"params": params, "state": state}

  shapes, rng = jax.eval_shape(start_last_stage, jax.random.key(0)), np.random.default_rng(0)

  def draw(leaf):
    scale = 1 / np.sqrt(leaf.shape[-2]) if len(leaf.shape) > 1 else 0.3
    return (scale * np.abs(rng.normal(size=(SEEDS, *leaf.shape)))).astype(leaf.dtype)

  drawn = jax.tree.map(draw, shapes)
  signs = lambda x: x * rng.choice([-1, 1], x.shape).astype(x.dtype)
  return drawn | {"params": jax.tree.map(signs, drawn["params"])}


def make_rows(spec):
  """A row for every set of modalities, the empty one too, with garbage where one is absent."""
  masks = np.array([(False,) * len(spec.modalities), *missing.all_patterns(len(spec.modalities))])
  rows = example_batches.complete_batch(spec, len(masks))
  rows = example_batches.poison(rows.replace(present=masks), spec, masks)
  to_uint8 = lambda x: np.nan_to_num(255 * x, nan=77).astype(np.uint8)
  inputs = {name: to_uint8(x) if x.ndim == 4 else x for name, x in rows.inputs.items()}
  return example_batches.to_inputs(rows.replace(inputs=inputs))


# Those two have no case of kinds that reads all of their code.
EXPORTED = [name for name in method_cases.CASES if name.endswith("-kinds")] + [
  "promma",
  "prototypes",
]


@pytest.mark.parametrize("name", EXPORTED)
def test_a_program_predicts_as_its_method_under_every_pattern(name):
  case = method_cases.CASES[name]
  spec = example_batches.spec(case.task, case.modalities)
  method = methods.build_method(case.method, case.values, spec)
  variables, rows = make_variables(method), make_rows(spec)
  made = exported.read_program(bytes(export.export_program(method, variables, spec).serialize()))
  arrays = param_paths.leaves_by_path(variables)
  found = exported.make_forward({None: made}, arrays)(rows)

  def predict(variables):
    inputs = rows.replace(inputs=method.preprocess(rows.inputs))
    return method.predict(variables["params"], variables["state"], inputs)

  expected = jax.jit(lambda variables: jax.lax.map(predict, variables))(variables)
  assert found.keys() == expected.keys() and np.isfinite(found["logits"]).all()
  assert np.ptp(found["logits"], axis=1).min() > 1e-2  # patterns differ
  for key, x in expected.items():
    np.testing.assert_allclose(found[key], x, rtol=1e-5, atol=1e-5, err_msg=key)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(folder of a run, rows to predict, its predictor)."""
  folder = tmp_path_factory.mktemp("run")
  arrays, *_ = saved_runs.save_run(folder)
  return folder, saved_runs.of_split(arrays, "valid"), promise_jax.load(folder)


def assert_same_answers(found, expected, rows):
  assert (found.variant, found.seeds, found.classes) == (
    *(expected.variant, expected.seeds, expected.classes),
  )
  for ask in ("predict_proba", "contribution"):
    np.testing.assert_allclose(
      *(getattr(x, ask)(rows) for x in (found, expected)), rtol=1e-5, atol=1e-5
    )
  embeddings = found.embed(rows), expected.embed(rows)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), *embeddings)


@pytest.mark.parametrize("patterns", export.PATTERNS)
def test_an_exported_folder_answers_as_its_run(run, patterns, tmp_path):
  folder, rows, predictor = run
  sizes = export.export_run(folder, tmp_path / "model", patterns=patterns)
  assert sizes == {p.name: p.stat().st_size for p in (tmp_path / "model").iterdir()}
  assert len(sizes) == (4 if patterns == "any" else 3 + 7)
  parameters = (folder / "model" / "fusion.safetensors").stat().st_size
  assert sum(sizes.values()) < parameters + 2e6
  assert_same_answers(promise_jax.load(tmp_path / "model"), predictor, rows)


def test_one_seed_is_served_with_its_own_calibration(run, tmp_path):
  folder, rows, _ = run
  alone = promise_jax.load(folder, seeds=1)
  sizes = [
    export.export_run(folder, tmp_path / str(s), seeds=s)["params.safetensors"] for s in (1, "all")
  ]
  assert sizes[1] > 2 * sizes[0]
  assert_same_answers(promise_jax.load(tmp_path / "1"), alone, rows)
  assert_same_answers(promise_jax.load(tmp_path / "1", seeds=1), alone, rows)
  assert_same_answers(promise_jax.load(tmp_path / "all", seeds=1), alone, rows)
  with pytest.raises(ValueError, match="seeds is '0', known are all, 1"):
    promise_jax.load(tmp_path / "1", seeds=0)
  with pytest.raises(ValueError, match="variant is 'majority', known are fusion"):
    promise_jax.load(tmp_path / "1", "majority")


def test_a_folder_is_replaced_as_a_whole_and_only_if_it_is_an_export(run, tmp_path, monkeypatch):
  folder, out = run[0], tmp_path / "model"
  out.mkdir()
  export.export_run(folder, out)  # into an empty folder
  before = {path.name: path.read_bytes() for path in out.iterdir()}
  write, written = export.files.write_bytes, []

  def fail_at_the_third(path, content):
    written.append(path)
    if len(written) == 3:
      raise OSError("disk full")
    write(path, content)

  with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
    patch.setattr(export.files, "write_bytes", fail_at_the_third)
    export.export_run(folder, out, seeds=0)
  assert {path.name: path.read_bytes() for path in out.iterdir()} == before
  export.export_run(folder, out, seeds=0)
  assert promise_jax.load(out).seeds == (0,)
  assert [path.name for path in tmp_path.iterdir()] == ["model"]
  (out / "notes.txt").write_text("mine")
  with pytest.raises(ValueError, match="has notes.txt, which no export writes"):
    export.export_run(folder, out)
  with pytest.raises(ValueError, match="has files and is no exported model"):
    export.export_run(folder, folder)
  (tmp_path / "file").write_text("mine")
  with pytest.raises(ValueError, match="has files and is no exported model"):
    export.export_run(folder, tmp_path / "file")


def test_the_command_says_what_it_wrote_and_the_card_what_it_is(run, tmp_path, capsys):
  folder, out = run[0], str(tmp_path / "model")
  assert main.main(["export", str(folder), "--out", out, "--seeds", "2"]) == 0
  text = capsys.readouterr().out
  assert "params.safetensors" in text and f'promise_jax.load("{out}")' in text
  card = (tmp_path / "model" / "README.md").read_text()
  for words in (
    "# own: fusion",
    "one of 3 classes (hat, shoe, dress)",
    "Train rows with a label: 45, 44, 45 (of each seed).",
    "| photo | image | 8 x 8 x 3 |",
  ):
    assert words in card
  for words, sentence in {
    "--variant majority": "variant is 'majority', which has no program: it reads nothing",
    "--variant robult": "variant is 'robult', known are fusion, majority",
    "--seeds 7": "seeds is '7', known are all, 0, 1, 2",
    "--patterns some": "patterns is 'some', known are any, static",
  }.items():
    assert main.main(["export", str(folder), "--out", out, *words.split()]) == 2
    assert sentence in capsys.readouterr().err


def test_a_frozen_encoder_stays_behind_and_its_features_are_read(run, tmp_path, caplog):
  folder, rows, predictor = run
  shutil.copytree(folder / "model", tmp_path / "run" / "model")
  path = tmp_path / "run" / "model" / "model.json"
  value = json.loads(path.read_text())
  raw = {"name": "v", "kind": "image", "shape": [4, 4, 3]}
  value["preprocessing"]["encoded"] = {
    "v": {"raw": raw, "encoder": "somebody:encode", "is_text": False, "sha256": ""}
  }
  value.pop("sha256")
  path.write_text(json.dumps(saved_model.seal(value)))
  export.export_run(tmp_path / "run", tmp_path / "model")
  sentence = "v is read as the features that somebody:encode makes of it"
  assert sentence in caplog.text
  assert sentence in (tmp_path / "model" / "README.md").read_text()
  assert_same_answers(promise_jax.load(tmp_path / "model"), predictor, rows)


def test_too_many_modalities_have_no_program_a_pattern():
  with pytest.raises(ValueError, match="'static'.* for 6 modalities at most and not for 7; 'any'"):
    exported.list_patterns(7, is_static=True)


def test_arrays_that_no_prediction_reads_are_left_out(run, tmp_path):
  """The learned token of `fusion` is not read where the mean of the codes fills."""
  export.export_run(run[0], tmp_path / "model")
  names = safetensors.numpy.load_file(tmp_path / "model" / "params.safetensors").keys()
  all_names = safetensors.numpy.load_file(run[0] / "model" / "fusion.safetensors").keys()
  assert all_names - names == {"params/params/token"}
