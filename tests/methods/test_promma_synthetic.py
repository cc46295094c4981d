"""ProMMA on data with a known answer: vision is a noisy copy of speech, audio is noise.

The label is in the speech, which is always there. The backbone learns to read speech and
vision alike, so that vision is worth generating and audio is not. Three runs, each with
its own start and rows, train at once in one program; every batch has new rows.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import example_batches
from promise_jax import missing
from promise_jax.losses import mutual_information
from promise_jax.method import StepInfo, TrainState
from promise_jax.methods import promma
from promise_jax.optim import optimizer, update_rules
from promise_jax.types import Batch, Modality, Spec

# No modality is called text: the raw features of text have dropout.
NAMES, STEPS, FEATURES = ("speech", "audio", "vision"), 6, 2
AUDIO, VISION = 1, 2
SEEDS, ROWS, UPDATES = 3, 32, 200
SETTINGS = {"host": "mult", "width": 8, "heads": 2, "layers": 1, "memory_layers": 1, "prompts": 4}
SETTINGS |= {"fit": 0.0, "gate_weight": 1.0, "warmup": 0.4, "margin": 1.0}
SETTINGS |= {"generation_target": "streams"}
# The other parts are not tested here, and take long to compile.
SETTINGS |= {"private_prompts": False, "connections": False}
SPEC = Spec(
  tuple(Modality(name, "sequence", (STEPS, FEATURES)) for name in NAMES),
  example_batches.TASKS["regression"],
  {},
  num_labelled=ROWS,
)
COMPLETE = np.ones(3, bool)
PATTERNS = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 0, 0]], bool)
CHANCES = np.array([0.3, 0.7 / 3, 0.7 / 3, 0.7 / 3])


CONFIG = promma.PrommaConfig(**SETTINGS)
METHOD = promma.promma(CONFIG, SPEC)


def draw_params() -> dict:
  """Parameters of all runs, drawn on the host: `init` takes long to compile."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name, shape = str(path[-1].key), (SEEDS, *leaf.shape)
    if name.endswith(("scale", "bias")):
      return np.full(shape, float(name == "scale"), np.float32)
    if name == "log_temperature":
      return np.full(shape, np.log(0.1), np.float32)
    scale = 0.02 if name.endswith("prompts") else leaf.shape[-2] ** -0.5
    return (scale * rng.normal(size=shape)).astype(np.float32)

  shapes, _ = jax.eval_shape(METHOD.init, jax.random.key(0))
  return jax.tree_util.tree_map_with_path(draw, shapes)


def draw_batch(key, present, step=0) -> Batch:
  """New rows, of which `present` bool[B, 3] is there."""
  count = len(present)
  draw = lambda k: jax.random.normal(k, (count, STEPS, FEATURES))
  speech, audio, noise = map(draw, jax.random.split(key, 3))
  wave = STEPS**0.5 * (speech[..., 0] - speech[..., 1]).mean(1)
  every, ids = jnp.ones(count, bool), count * step + jnp.arange(count)
  return Batch(
    inputs={"speech": speech, "audio": audio, "vision": speech + 0.1 * noise},
    length={},
    present=present,
    id=ids,
    recorded=jnp.ones((count, 3), bool),
    label=3 * jnp.tanh(0.6 * wave),
    labelled=every,
    bank_index=ids,
    row_mask=every,
  )


def train(params, key):
  """(params, model_state) of one run after both stages."""
  shapes = jax.eval_shape(METHOD.init, key)[1]
  model_state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  config = optimizer.OptimConfig(lr=1e-2, weight_decay=0.0)
  for stage in METHOD.stages:
    tx = optimizer.make_optimizer(config, UPDATES, stage.trainable)
    update = update_rules.gradient_update(stage, tx)

    def one(state, i, key=key, stage=stage, update=update):
      hide, noise, rows = jax.random.split(jax.random.fold_in(key, i), 3)
      place = jax.random.choice(hide, 4, (ROWS,), p=CHANCES)
      place = jnp.where(not stage.hide, 0, place)
      batch = draw_batch(rows, jnp.asarray(PATTERNS)[place], i)
      state, _ = update(state, batch, noise, StepInfo(i, i / UPDATES))
      return state, None

    params, model_state = stage.on_start(key, params, model_state)
    state = TrainState(params, model_state, tx.init(params))
    (params, model_state, _), _ = jax.lax.scan(one, state, jnp.arange(UPDATES))
    key = jax.random.fold_in(key, 1)
  return params, model_state


def measure(params, key) -> tuple:
  """After training: how often the evaluator generates each modality in new rows that lack it,
  and the mean score of each modality as a source in complete rows."""
  net = promma.PrommaNet(SPEC.modalities, SPEC.task.outputs, CONFIG)
  params, model_state = train(params, key)
  complete = jnp.ones((8 * ROWS, 3), bool)
  batch = draw_batch(jax.random.fold_in(key, UPDATES), complete)
  present = jnp.asarray(PATTERNS)[jnp.arange(8 * ROWS) % len(PATTERNS)]
  gate = METHOD.predict(params, model_state, batch.replace(present=present).to_inputs())["gate"]
  rates = missing.masked_mean(gate, ~present, 0)
  encode = net.encode_and_generate
  steps = net.apply(params, batch, complete, complete, method=encode)
  out = net.apply(params, *steps, complete, jnp.ones(complete.shape), method=net.forward)
  return rates, mutual_information.source_scores(out.information).mean(0)


@functools.cache
def measure_starts() -> tuple:
  """`measure` of all starts, averaged."""
  keys = jax.random.split(jax.random.key(0), SEEDS)
  found = jax.device_get(jax.jit(jax.vmap(measure))(draw_params(), keys))
  return tuple(x.mean(0) for x in found)


@pytest.mark.slow
@pytest.mark.xfail(raises=AssertionError, reason="gates do not tell a copy from noise")
def test_a_copy_is_generated_more_often_than_noise():
  rates, _ = measure_starts()
  assert rates[VISION] > rates[AUDIO] + 0.05, rates


@pytest.mark.slow
def test_noise_weighs_less_than_the_speech():
  _, score = measure_starts()
  # The ratio was .43 to .68 in three runs.
  assert score[AUDIO] < 0.8 * score[0], score
