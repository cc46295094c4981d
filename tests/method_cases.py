"""The methods that every test of the contract runs on: one case a method, and variants."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import pytest

import example_batches
from promise_jax import methods
from promise_jax.method import Method
from promise_jax.methods.presets import PRESETS
from promise_jax.nn.dropout import Dropout
from promise_jax.types import PyTree, Spec

SMALL = {"hidden": 8, "head_hidden": 8}
ROBULT = SMALL | {"shared": 4}
OWN_ENCODERS = {"own_encoders": True}
GAUSSIAN = {"regression": "gaussian", "detach_shared": False}
STILL = {"dropout": False}
REDCORE = SMALL | {"imputer_hidden": 8, "num_autoencoders": 2, "num_subsets": 1}
TINY = {"encoder": "transformer", "num_blocks": 1}
MPLMM_AUTHORS = PRESETS["authors"]["mplmm"]
AUTHORS = REDCORE | PRESETS["authors"]["redcore"] | {"num_autoencoders": 2} | TINY
# Contrasts do not go to 0, however good the codes are: small weights.
PROMISE = {"hidden": 8, "num_prompts": 2, "num_heads": 2, "code_size": 4, "num_views": 2}
PROMISE |= {"fncl_weight": 0.1, "cccl_weight": 0.1}
BARE = {"generate": "none", "fncl_weight": 0.0, "hide_views": False}
STEPS = {"encoder": "steps", "num_cross_layers": 1, "augment_strength": 0.5}
STEPS |= {"generate": "mix", "fncl_weight": 0.02, "hide_views": False}
TUNE = {"pretrain": 0.0, "fit": 0.0}
MPLMM = {"width": 8, "heads": 2, "layers": 1, "memory_layers": 1, "prompts": 2} | TUNE
OTHER = {"gate": "off", "private_prompts": False, "generation_target": "streams"}
OTHER |= {"generation_weight": 0.01}  # the targets grow while everything is trained
PAIR = example_batches.VECTORS[:2]


class Case(NamedTuple):
  """A method with settings, a task and modalities."""

  method: str
  values: dict
  task: str = "classes"
  modalities: tuple = example_batches.VECTORS
  empty_rows_count: bool = False  # the loss reads rows with nothing present, on purpose
  steps: int = 60  # to learn 16 rows: dropout on a backbone of width 8 makes it slow

  @property
  def has_test_noise(self) -> bool:
    """Whether predictions have noise, which follows the ids of the rows."""
    return self.values.get("as_released", False)


# The case that is called like its method also runs the tests that compile more
# programs. "-kinds" have other kinds than vectors, most of them all four.
CASES = {
  "robult": Case("robult", ROBULT),
  "robult-sign": Case("robult", ROBULT, "regression", PAIR),
  "robult-gaussian": Case("robult", ROBULT | GAUSSIAN, "regression", PAIR),
  "robult-kinds": Case("robult", ROBULT | OWN_ENCODERS, "multilabel", example_batches.KINDS),
  "redcore": Case("redcore", REDCORE),
  "redcore-regression": Case(
    "redcore", REDCORE | {"vib": False, "num_subsets": 1}, "regression", PAIR
  ),
  "redcore-kinds": Case(
    "redcore",
    REDCORE | TINY,
    "multilabel",
    example_batches.KINDS,
  ),
  "redcore-lstm-kinds": Case(
    "redcore", REDCORE | {"encoder": "lstm"}, "multilabel", example_batches.KINDS
  ),
  "redcore-authors": Case("redcore", AUTHORS, modalities=PAIR, empty_rows_count=True),
  "promise": Case("promise", PROMISE),
  "promise-bare": Case("promise", PROMISE | BARE, "regression", PAIR),
  "promise-kinds": Case("promise", PROMISE | STEPS, "multilabel", example_batches.KINDS),
  "promma": Case("promma", MPLMM),
  "promma-kinds": Case("promma", MPLMM | OTHER, "multilabel", example_batches.KINDS[:2]),
  "mplmm": Case("mplmm", MPLMM),
  "mplmm-authors": Case(
    "mplmm", PRESETS["authors"]["mplmm"] | MPLMM, "regression", PAIR, steps=300
  ),
  "mplmm-kinds": Case("mplmm", MPLMM, "multilabel", example_batches.KINDS),
  "fusion": Case("fusion", SMALL),
  "fusion-mean": Case("fusion", SMALL | STILL, modalities=PAIR),
  "fusion-zeros": Case("fusion", SMALL | STILL | {"fill": "zeros"}, modalities=PAIR),
  "fusion-token": Case("fusion", SMALL | STILL | {"fill": "token"}, modalities=PAIR),
  "fusion-zeros-dropout": Case("fusion", SMALL | {"fill": "zeros"}, "regression", PAIR),
  "fusion-kinds": Case("fusion", SMALL | {"fill": "token"}, "multilabel", example_batches.KINDS),
  "distil": Case("distil", SMALL),
  "distil-regression": Case("distil", SMALL, "regression", PAIR),
  "distil-kinds": Case("distil", SMALL, "multilabel", example_batches.KINDS),
  "prototypes": Case("prototypes", SMALL),
  "share": Case("share", SMALL),
  "share-regression": Case("share", SMALL, "regression", PAIR),
  "share-kinds": Case("share", SMALL, "multilabel", example_batches.KINDS),
}
FIRST = [name for name in CASES if name == CASES[name].method]
every_case = pytest.mark.parametrize("name", CASES)
every_method = pytest.mark.parametrize("name", FIRST)


class Program(NamedTuple):
  """A case, built and compiled once: `grad` -> (loss, (model_state, terms)), gradient."""

  case: Case
  spec: Spec
  method: Method
  params: PyTree
  model_state: PyTree
  grad: object
  predict: object


@functools.cache
def built(name: str, dropout: bool = False) -> Program:
  """A case, compiled. Without dropout by default: its draws follow the place in the batch,
  and many tests move rows."""
  case = CASES[name]
  spec = example_batches.spec(case.task, case.modalities)
  method = methods.build_method(case.method, case.values, spec)
  params = example_batches.random_params(method)
  model_state = jax.jit(lambda key: method.init(key)[1])(jax.random.key(0))
  loss = method.stages[0].loss if dropout else without_dropout(method.stages[0].loss)
  grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
  predict = jax.jit(method.predict)
  program = Program(case, spec, method, params, model_state, grad, predict)
  # Banks and running means with something in them.
  (_, (model_state, _)), _ = differentiate(program, example_batches.complete_batch(spec, seed=9))
  return program._replace(model_state=model_state)


def without_dropout(loss):
  """A loss whose networks have no dropout."""

  def call(*args):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(Dropout, "__call__", lambda self, x: x)
      return loss(*args)

  return call


def differentiate(program: Program, batch, key: int = 1, progress: float = 0.9):
  step_info = example_batches.step_info(progress)
  return program.grad(program.params, program.model_state, batch, jax.random.key(key), step_info)


def predict(program: Program, batch):
  """Logits and embeddings."""
  readable = example_batches.to_inputs(batch, program.case.has_test_noise)
  return jax.device_get(program.predict(program.params, program.model_state, readable))


def predict_logits(program: Program, batch):
  return predict(program, batch)["logits"]


def assert_same(a, b):
  """Bit by bit."""
  jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-5), a, b)


def assert_finite(tree):
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    assert np.isfinite(np.asarray(x, np.float64)).all(), jax.tree_util.keystr(path)
