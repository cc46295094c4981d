"""ProMMA on data with a known answer: vision is a noisy copy of text, audio is noise.

The label is in the text, which is always there. The backbone learns to read text and
vision alike, so that vision is worth generating and audio is not. Three runs, each with
its own start and rows, train at once in one program; every batch has new rows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import example_batches
from promise_jax.losses import mutual_information
from promise_jax.method import StepInfo, TrainState
from promise_jax.methods import mplmm, promma
from promise_jax.optim import optimizer, update_rules
from promise_jax.types import Modality, Spec

NAMES, STEPS, FEATURES = ("text", "audio", "vision"), 6, 2
AUDIO, VISION = 1, 2
SEEDS, ROWS, UPDATES = 3, 32, 200
SETTINGS = {"width": 8, "heads": 2, "layers": 1, "memory_layers": 1, "prompts": 4}
SETTINGS |= {"noisy": "", "fit": 0.0, "evaluator": 1.0, "warmup": 0.4}
SETTINGS |= {"margin": 1.0, "aim": "streams"}
# The other parts are not asked about here, and take long to compile.
SETTINGS |= {"private": "none", "connect": "none", "weigh": "codes"}
SPEC = Spec(
  tuple(Modality(name, "sequence", (STEPS, FEATURES)) for name in NAMES),
  example_batches.TASKS["regression"],
  {},
  num_labelled=ROWS,
)
COMPLETE = np.ones(3, bool)
PATTERNS = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 0, 0]], bool)
CHANCES = np.array([0.3, 0.7 / 3, 0.7 / 3, 0.7 / 3])


def started() -> dict:
  """Parameters of all runs, drawn on the host: that of `init` takes long to compile."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name, shape = str(path[-1].key), (SEEDS, *leaf.shape)
    if name.endswith(("scale", "bias")):
      return np.full(shape, float(name == "scale"), np.float32)
    if name == "log_temperature":
      return np.full(shape, np.log(0.1), np.float32)
    scale = 0.02 if name.endswith("prompts") else leaf.shape[-2] ** -0.5
    return (scale * rng.normal(size=shape)).astype(np.float32)

  config = promma.PrommaConfig(**SETTINGS)
  shapes, _ = jax.eval_shape(promma.promma(config, SPEC).init, jax.random.key(0))
  return jax.tree_util.tree_map_with_path(draw, shapes)


def drawn(key, present, step=0) -> dict:
  """New rows, of which `present` bool[B, 3] is there."""
  count = len(present)
  draw = lambda k: jax.random.normal(k, (count, STEPS, FEATURES))
  text, audio, noise = map(draw, jax.random.split(key, 3))
  wave = STEPS**0.5 * (text[..., 0] - text[..., 1]).mean(1)
  every, ids = jnp.ones(count, bool), count * step + jnp.arange(count)
  return {
    "inputs": {"text": text, "audio": audio, "vision": text + 0.1 * noise},
    "length": {},
    "recorded": jnp.ones((count, 3), bool),
    "present": present,
    "label": 3 * jnp.tanh(0.6 * wave),
    "labelled": every,
    "valid": every,
    "id": ids,
    "slot": ids,
  }


def trained(params, key):
  """(params, model_state) of one run after both stages."""
  method = promma.promma(promma.PrommaConfig(**SETTINGS), SPEC)
  model_state = {"f0": mplmm.ends(params), **promma.empty(SPEC)}
  config = optimizer.OptimConfig(lr=1e-2, weight_decay=0.0)
  for stage in method.stages:
    tx = optimizer.make_optimizer(config, UPDATES, stage.trainable)
    update = update_rules.gradient_update(stage, tx)

    def one(state, i, key=key, stage=stage, update=update):
      hide, noise, rows = jax.random.split(jax.random.fold_in(key, i), 3)
      place = jax.random.choice(hide, 4, (ROWS,), p=CHANCES)
      place = jnp.where(not stage.hide, 0, place)
      batch = drawn(rows, jnp.asarray(PATTERNS)[place], i)
      state, _ = update(state, batch, noise, StepInfo(i, i / UPDATES))
      return state, None

    if stage.on_start:
      params, model_state = stage.on_start(key, params, model_state)
    state = TrainState(params, model_state, tx.init(params))
    (params, model_state, _), _ = jax.lax.scan(one, state, jnp.arange(UPDATES))
    key = jax.random.fold_in(key, 1)
  return params, model_state


def found(params, key) -> tuple:
  """Of one run: how often the evaluator said ON lately, of the rows that lack the
  modality, and the mean score of each modality as a source, of new complete rows."""
  config = promma.PrommaConfig(**SETTINGS)
  net = promma.PrommaNet(SPEC.modalities, SPEC.task.outputs, config)
  params, model_state = trained(params, key)
  batch = drawn(jax.random.fold_in(key, UPDATES), jnp.ones((8 * ROWS, 3), bool))
  present = batch.present
  taken = net.apply(params, batch, present, method="take")
  gates = jnp.ones(present.shape)
  _, told = net.apply(params, *taken, present, gates, batch.id, method="answer")
  return model_state["on"], mutual_information.source_scores(told["information"], NAMES).mean(0)


@pytest.mark.slow
def test_what_can_be_told_is_generated_more_often_and_noise_weighs_least():
  keys = jax.random.split(jax.random.key(0), SEEDS)
  (yes, asked), score = jax.device_get(jax.jit(jax.vmap(found))(started(), keys))
  on = yes / np.maximum(asked, 1)
  assert on[:, VISION].mean() > on[:, AUDIO].mean() + 0.1
  score = score.mean(0)
  assert score[AUDIO] < 0.8 * min(score[0], score[VISION])
