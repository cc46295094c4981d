"""A tiny ProMMA on three sequences of 6 steps, and programs that its tests share."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import example_batches
from promise_jax import missing
from promise_jax.method import StepInfo, TrainState
from promise_jax.methods import promma, promma_gates, prompt_stages
from promise_jax.optim import optimizer, param_paths, update_rules
from promise_jax.types import Batch, Modality, Spec

# No modality is called text: the raw features of text have dropout.
NAMES, STEPS, ROWS, EVERY = ("speech", "audio", "vision"), 6, 32, 2
TINY = {"host": "mult", "width": 12, "heads": 2, "layers": 1, "memory_layers": 1, "prompts": 4}
TINY |= {"fit": 0.0, "gate_every": EVERY}
ALL_OFF = {"gate": "on", "private_prompts": False, "source_weights": False}
ALL_OFF |= {"connections": False, "identity_skip": False}
PATTERNS = missing.all_patterns(3)
GATES = np.array(list(itertools.product((0.0, 1.0), repeat=3)), np.float32)
WARMUP, LABELS, NO_LABELS = StepInfo(0, 0.1), StepInfo(2, 0.5), StepInfo(3, 0.5)
KEY = jax.random.key(3)


def spec_of(steps: int = STEPS, features: int = 3, rows: int = ROWS) -> Spec:
  modalities = tuple(Modality(name, "sequence", (steps, features)) for name in NAMES)
  return Spec(modalities, example_batches.TASKS["regression"], {}, num_labelled=rows)


SPEC = spec_of()


def network(**values) -> promma.PrommaNet:
  config = promma.PrommaConfig(**TINY | values)
  return promma.PrommaNet(SPEC.modalities, SPEC.task.outputs, config)


def method_of(**values):
  return promma.promma(promma.PrommaConfig(**TINY | values), SPEC)


def batch_of(seed: int = 0, complete: bool = False) -> Batch:
  """Rows whose label is in the speech; every pattern is there, one row has nothing, one
  lacks a recording, some have no label."""
  rng = np.random.default_rng(seed)
  batch = example_batches.complete_batch(SPEC, ROWS, seed)
  speech = batch.inputs["speech"]
  vision = speech + 0.3 * rng.normal(size=speech.shape).astype(np.float32)
  present, recorded = np.ones((2, ROWS, 3), bool)
  if not complete:
    present = np.array(PATTERNS)[rng.integers(0, 6, ROWS)]
    present |= rng.random((ROWS, 1)) > 0.7
    present[:7], present[7], present[8] = PATTERNS, False, [True, False, True]
    recorded[8, 1] = False
  return batch.replace(
    inputs=batch.inputs | {"vision": vision},
    length={name: np.full(ROWS, STEPS, np.int32) for name in NAMES},
    recorded=recorded,
    present=present,
    label=(3 * np.tanh(speech.mean(1) @ np.float32([1.5, -1.5, 0.75]))).astype(np.float32),
    labelled=np.arange(ROWS) % 8 != 3,
  )


@functools.cache
def params_and_state():
  """(params, model_state) without zeros; f0 has other data layers than the backbone."""
  method = method_of()
  shapes = jax.eval_shape(method.init, KEY)[1]
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  f0 = prompt_stages.data_layers(example_batches.random_params(method, seed=1))
  state |= {"f0": f0, "evaluator_trained": np.array(True)}
  return example_batches.random_params(method), state


@functools.cache
def update_of(stage: int):
  """A step of a stage, whose optimizer state keeps the gradient: opt_state[0]."""
  stage = method_of().stages[stage]
  last = optax.GradientTransformation(lambda x: x, lambda x, *_: (x, x))
  config = optimizer.OptimConfig(weight_decay=0.0, schedule="constant")
  tx = optax.chain(last, optimizer.make_optimizer(config, 100, stage.trainable))
  return jax.jit(tx.init), jax.jit(update_rules.gradient_update(stage, tx))


def step_of(params, model_state, batch, step_info):
  """({path: gradient}, model_state, terms) of one step of stage tune."""
  start, update = update_of(1)
  state, terms = update(TrainState(params, model_state, start(params)), batch, KEY, step_info)
  return param_paths.leaves_by_path(state.opt_state[0]), state.model_state, terms


@functools.cache
def run_gates():
  """What the network does under each of the gates f[G, B, M], without dropout."""
  net = network()

  def run(params, model_state, batch, gates):
    present = batch.present
    encode = net.encode_and_generate
    encoded, generated = net.apply(params, batch, present, present, method=encode)
    masks = jnp.stack([present, batch.recorded])
    args = net, params, model_state["f0"], batch, masks, jnp.ones(2, bool)
    f0 = promma_gates.frozen_backbone_logits(*args)
    args = params, encoded, generated, present
    gate_logits = net.apply(*args, f0[0], method=net.gate_logits)
    out = jax.lax.map(lambda g: net.apply(*args, g, method=net.forward), gates)
    return {"encoded": encoded, "generated": generated, "f0": f0, "out": out} | {
      "gate_logits": gate_logits
    }

  return jax.jit(run)


def all_gates():
  return np.broadcast_to(GATES[:, None], (len(GATES), ROWS, 3))


def gate_index(gates):
  return [int(np.flatnonzero((GATES == row).all(1))[0]) for row in gates]


@functools.cache
def backbone():
  net = network()
  return jax.jit(lambda p, batch, mask: net.apply(p, batch, mask, method=net.backbone_output)[0])


def teacher_logits(params, model_state, batch, mask):
  """f0, put together by hand."""
  layers = params["params"]["backbone"] | model_state["f0"]
  return backbone()({"params": params["params"] | {"backbone": layers}}, batch, mask)


def errors_of(params, model_state, batch, target) -> np.ndarray:
  """Errors f[8, B] under each of GATES."""
  out = run_gates()(params, model_state, batch, all_gates())["out"]
  return np.abs(np.asarray(out.logits)[..., 0] - target[None])


def slow_benefit(errors, present) -> np.ndarray:
  """By how much ON is better than OFF, row by row."""
  found = np.zeros(present.shape)
  for r, row in enumerate(present):
    for m in np.flatnonzero(~row) if row.any() else []:
      gain = []
      for others in itertools.product((0, 1), repeat=3):
        gates = [1 if row[i] else others[i] for i in range(3)]
        pair = np.float32([[*gates[:m], x, *gates[m + 1 :]] for x in (0, 1)])
        off, on = gate_index(pair)
        gain.append(errors[off, r] - errors[on, r])
      found[r, m] = np.mean(gain)
  return found


def sigmoid(x):
  return 1 / (1 + np.exp(-np.asarray(x)))


def close(found, expected, atol=1e-5):
  np.testing.assert_allclose(found, expected, 1e-4, atol)
