"""MPLMM: its stages, what each trains, its loss, and what is left without prompts."""

import functools

import jax
import numpy as np
import optax
import pytest

import example_batches
from promise_jax import methods, types
from promise_jax.method import TrainState
from promise_jax.methods import mplmm, presets
from promise_jax.nn import mult
from promise_jax.optim import optimizer, param_paths, update_rules
from promise_jax.types import Modality

PAIR = (Modality("text", "sequence", (3, 2)), Modality("vision", "sequence", (3, 4)))
VECTORS = example_batches.VECTORS[:2]  # one step each: small programs
SMALL = {"width": 4, "heads": 2, "layers": 1, "memory_layers": 1, "prompts": 2}
PRESETS = {
  "clean": presets.PRESETS["clean"]["mplmm"] | SMALL,
  "authors": presets.PRESETS["authors"]["mplmm"] | SMALL,
}
OFF = {"generate": False, "signal_prompts": False, "type_prompts": False}
KEY = jax.random.key(0)
each_preset = pytest.mark.parametrize("preset", PRESETS)


def built(preset, modalities=VECTORS, task="multilabel", **more):
  spec = example_batches.spec(task, modalities)
  return spec, methods.build_method("mplmm", PRESETS[preset] | more, spec)


@functools.cache
def trained(preset):
  """Of ten steps of "tune": parameters before, the gradients of each step, parameters
  after, each by path, and the paths that are trained."""
  spec, method = built(preset, PAIR, "regression")
  stage, batch = method.stages[-1], example_batches.mixed_batch(spec)
  # Keeps the gradient of every leaf as its state.
  keep = optax.GradientTransformation(lambda params: params, lambda g, s, p: (g, g))
  config = optimizer.OptimConfig(lr=1e-2, schedule="constant", weight_decay=0.1)
  tx = optax.chain(keep, optimizer.make_optimizer(config, 10, stage.trainable))
  update = jax.jit(update_rules.gradient_update(stage, tx))
  params = before = started(method)
  state, grads = TrainState(params, {}, tx.init(params)), []
  for i in range(10):
    state, _ = update(state, batch, jax.random.key(i), example_batches.step_info(i / 10))
    grads.append(param_paths.leaves_by_path(state.opt_state[0]))
  return (
    param_paths.leaves_by_path(before),
    grads,
    param_paths.leaves_by_path(state.params),
    tuned(before, stage),
  )


def started(method):
  """Prompts and maps as `init` draws them; to compile the rest of it takes long."""

  @jax.jit
  def start(key):
    drawn = param_paths.leaves_by_path(method.init(key)[0])
    return {path: x for path, x in drawn.items() if is_prompt(path)}

  own = start(jax.random.key(0))
  pick = lambda path, x: own.get(param_paths.path_to_string(path), x)
  return jax.tree_util.tree_map_with_path(pick, example_batches.random_params(method))


def tuned(params, stage):
  part = param_paths.leaves_by_path(param_paths.label_trainable(params, stage.trainable))
  return {path for path, value in part.items() if value == "train"}


def is_prompt(path):
  return path.endswith(("prompts", "_map"))


def dead(path):
  return path.endswith(("type_prompts", "_map"))


@each_preset
def test_frozen_parameters_stay_bit_by_bit_and_the_others_move(preset):
  before, _, after, paths = trained(preset)
  parts = ("cross_encoders", "self_encoders", "inner", "outer")
  frozen = tuple(f"params/backbone/{part}/" for part in parts)
  frozen = {path for path in before if path.startswith(frozen)}
  assert paths == set(before) - frozen and frozen and paths
  for path, x in before.items():
    moves = path in paths and not (preset == "authors" and dead(path))
    assert np.any(after[path] != x) == moves, path


def test_the_missing_type_prompts_of_the_released_code_are_dead():
  before, grads, after, _ = trained("authors")
  still = [path for path in before if dead(path)]
  assert len(still) == 3
  for path in still:
    assert not any(np.any(x[path]) for x in (before, *grads, after)), path
  alive = [path for path in before if path.endswith("prompts") and not dead(path)]
  assert len(alive) == 6
  for path in alive:
    assert not np.any(before[path]) and np.any(grads[0][path]) and np.any(after[path])


def test_clean_prompts_start_at_random_and_live():
  before, grads, _, _ = trained("clean")
  prompts = [path for path in before if is_prompt(path)]
  assert len(prompts) == 9
  for path in prompts:
    wanted = 3**-0.5 if path.endswith("_map") else 0.02
    assert 0.5 * wanted < np.std(before[path]) < 1.6 * wanted, path
    assert all(np.any(g[path], axis=-1).all() for g in grads), path


@each_preset
def test_only_the_released_code_starts_data_layers_afresh(preset):
  words = Modality("words", "tokens", (3,), vocabulary=5)
  _, method = built(preset, (words, example_batches.VECTORS[0]))
  released_code = preset == "authors"
  before, model_state = example_batches.random_params(method), {"kept": 1}
  start = method.stages[-1].on_start
  start = jax.jit(start) if released_code else start
  after, same = start(jax.random.key(1), before, model_state)
  assert same == model_state
  before, after = param_paths.leaves_by_path(before), param_paths.leaves_by_path(after)
  assert before.keys() == after.keys()
  layers = ("output/bias", "output/kernel", "projection_a/kernel")
  layers = (*layers, "projection_words/kernel", "embedding_words/embedding")
  expected = {f"params/backbone/{layer}" for layer in layers} if released_code else set()
  assert {path for path in before if np.any(before[path] != after[path])} == expected
  assert all(np.all(before[path] != after[path]) for path in expected)


def test_the_loss_of_labels_without_a_last_axis_is_the_mean_over_rows():
  """Labels [B] against logits [B, 1] must not be broadcast to [B, B]."""
  spec, method = built("clean", VECTORS, "regression")
  batch, params = example_batches.mixed_batch(spec), example_batches.random_params(method)
  loss, (_, terms) = jax.jit(method.stages[-1].loss)(params, {}, batch, KEY, None)
  net = mplmm.MplmmNet(VECTORS, 1, mplmm.MplmmConfig(**PRESETS["clean"]))
  run = lambda p: net.apply(
    p, batch, batch.present, rngs={"dropout": KEY}, method="prompted_output"
  )
  logits, _ = jax.jit(run)(params)
  rows = np.flatnonzero(batch.labelled & batch.present.any(1))
  gaps = [abs(float(logits[i, 0]) - batch.label[i] / 3.0) for i in rows]
  assert 5 < len(rows) < example_batches.ROWS and terms["supervised"].count == len(rows)
  np.testing.assert_allclose(loss, sum(gaps) / len(gaps), rtol=1e-5)
  square = np.abs(logits[rows] - batch.label[rows][None] / 3.0).mean()
  assert abs(square - loss) > 1e-2


def test_the_stages_and_their_shares():
  stages = lambda **shares: built("clean", **shares)[1].stages
  found = lambda stages: [(s.name, s.fraction, s.hide) for s in stages]
  assert found(stages()) == [("pretrain", 0.5, False), ("tune", 0.5, True)]
  assert found(stages(pretrain=0.0, fit=0.2, tune=0.7)) == [
    ("fit", 0.2, False),
    ("tune", 0.7, True),
  ]
  assert found(stages(tune=0.0)) == [("pretrain", 0.5, False)]
  every = stages(fit=0.1)
  assert [s.name for s in every] == ["pretrain", "fit", "tune"]
  shapes, _ = jax.eval_shape(built("clean")[1].init, jax.random.key(0))
  parts = [tuned(shapes, stage) for stage in every]
  inside = {x for x in param_paths.leaves_by_path(shapes) if "/backbone/" in x}
  names = ("/projection_", "/output/")
  assert parts[0] == inside
  assert parts[1] == {x for x in inside if any(name in x for name in names)}
  assert parts[2] == parts[1] | (param_paths.leaves_by_path(shapes).keys() - inside)
  (free,) = stages(frozen=False, pretrain=0.0)
  assert tuned(shapes, free) == param_paths.leaves_by_path(shapes).keys()


def test_without_prompts_it_is_the_plain_backbone():
  """Both of a method without prompts and of one whose last stage is the backbone's."""
  spec, method = built("clean", VECTORS, **OFF)
  _, unfinished = built("clean", VECTORS, tune=0.0)
  assert unfinished.predict is unfinished.stages[-1].predict
  params, batch = example_batches.random_params(unfinished), example_batches.mixed_batch(spec)
  batch = example_batches.poison(batch, spec, batch.present)
  own = {"params": params["params"]["backbone"]}
  sizes = {k: SMALL[k] for k in ("width", "heads", "layers", "memory_layers")}
  net = mult.MulT(VECTORS, spec.task.outputs, **sizes)

  @jax.jit
  def run(own, params, batch):
    plain = net.apply(own, batch, batch.present)
    inside = {"params": {"backbone": own["params"]}}
    bare = method.predict(inside, {}, batch)["logits"]
    return plain, bare, unfinished.predict(params, {}, batch)["logits"]

  batch = example_batches.to_inputs(batch)
  plain, bare, last = run(own, params, batch)
  assert np.isfinite(plain).all() and not batch.present[-2:].any()
  np.testing.assert_allclose(bare, plain, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(last, plain, rtol=1e-5, atol=1e-6)
  # Not even the projection of what is absent has a say.
  kernel = own["params"]["projection_b"]["kernel"]
  moved = {"params": own["params"] | {"projection_b": {"kernel": -kernel}}}
  _, again, _ = run(moved, params, batch)
  there = batch.present[:, 1]
  np.testing.assert_array_equal(again[~there], bare[~there])
  assert np.all(np.any(again[there] != bare[there], axis=1)) and 3 < there.sum() < 13


@pytest.mark.parametrize(
  "values, words",
  [
    ({"layers": 0}, "mplmm.layers is 0, it must be at least 1"),
    ({"prompts": 0}, "mplmm.prompts is 0, it must be at least 1"),
    ({"max_steps": -1}, "mplmm.max_steps is -1, it must be at least 0"),
    ({"width": 30}, "mplmm.width is 30, .* multiple of the 4 heads"),
    ({"width": 5}, "mplmm.width is 5, it must be even"),
    ({"fit": -0.5}, "mplmm.fit is -0.5, it must be at least 0"),
    ({"pretrain": 0.0, "tune": 0.0}, "pretrain, fit and tune are all 0"),
    ({"frozen": 1}, "mplmm.frozen is 1, expected a bool"),
    ({"released_code": True}, "released_code is True, it needs host=mult, found host=tokens"),
    ({"released_code": True, "host": "mult", "fit": 0.1}, "with released_code it must be 0"),
  ],
)
def test_settings_without_meaning_are_refused(values, words):
  with pytest.raises(ValueError, match=words):
    methods.make_config("mplmm", values)


@pytest.mark.slow
def test_long_sequences_of_unequal_lengths_take_less_than_6_gb():
  """A step of 16 rows of the unaligned file, five layers, as the compiler plans it."""
  form = {"text": (50, 768), "audio": (375, 5), "vision": (500, 20)}
  modalities = tuple(Modality(n, "sequence", shape) for n, shape in form.items())
  spec = types.Spec(modalities, example_batches.TASKS["regression"], {})
  method, key = methods.build_method("mplmm", presets.PRESETS["clean"]["mplmm"], spec), KEY
  stage = method.stages[-1]
  tx = optimizer.make_optimizer(optimizer.OptimConfig(), 100, stage.trainable)
  params, model_state = jax.eval_shape(method.init, key)
  state = TrainState(params, model_state, jax.eval_shape(tx.init, params))
  update = jax.jit(update_rules.gradient_update(stage, tx), donate_argnums=0)
  args = state, types.example_batch(spec, 16), key, example_batches.step_info(0.5)
  jax.config.update("jax_disable_most_optimizations", False)
  try:
    # Memory is planned before machine code is made, and that may be slow code.
    quick = {"xla_backend_optimization_level": 0}
    memory = update.lower(*args).compile(compiler_options=quick).memory_analysis()
  finally:
    jax.config.update("jax_disable_most_optimizations", True)
  assert 0.5e9 < memory.temp_size_in_bytes < 6e9
