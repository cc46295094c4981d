"""Tiny data, configs and toy methods that the tests of training share."""

import contextlib
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np

from promise_jax import data, missing
from promise_jax.data import batches, sampling
from promise_jax.experiments import config as experiment_config
from promise_jax.method import Method, Stage
from promise_jax.optim import optimizer
from promise_jax.training.config import TrainConfig
from promise_jax.types import Average, Inputs, Spec

SMALL = {"hidden": 4, "head_hidden": 4}
TINY = {"width": 4, "heads": 1, "layers": 1, "memory_layers": 1, "prompts": 1}
VALUES = {
  "fusion": SMALL,
  "distil": SMALL,
  "prototypes": SMALL,
  "share": SMALL,
  "robult": SMALL | {"shared": 2},
  "redcore": SMALL | {"imputer_hidden": 4, "num_autoencoders": 2},
  "promma": TINY,
  "mplmm": TINY,
  "promise": {"hidden": 4, "num_prompts": 1, "num_heads": 1, "code_size": 2},
}
PATTERNS = np.array([[True, False], [False, True], [True, True]])


@contextlib.contextmanager
def compile_once(folder):
  """Inside, every program is compiled once and kept in `folder`."""
  from jax.experimental.compilation_cache import compilation_cache

  changed = {
    "jax_compilation_cache_dir": str(folder),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
  }
  before = {name: getattr(jax.config, name) for name in changed}

  def apply(values):
    for name, value in values.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()

  apply(changed)
  try:
    yield
  finally:
    apply(before)


def fast_environment(devices: int = 1) -> dict[str, str]:
  """The environment of a process that runs for seconds: few devices, no optimisation."""
  own = {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
  return os.environ | own


def get_config(arguments: str = ""):
  """An experiment of two variants to train and the majority class, for `--config`."""
  config = experiment_config.default_config(method="fusion", dataset="synthetic", label_rate=0.5)
  config.data = {"data_dir": "", "rows": (48, 20, 20), "dim": 4, "modalities": 2}
  config.data.classes = 2
  config.seeds = 2
  config.baselines = ("majority", "fusion(fill=zeros)")
  config.test_protocols = ("map(.5,both=1)", "bernoulli(0.30)")
  config.train.update({"steps": 20, "eval_every": 5, "batch_size": 16, "labelled_per_batch": 8})
  config.train.save_every = 0.0
  for name, values in VALUES.items():
    config[name].update(values)
  return experiment_config.apply_arguments(config, arguments)


def dataset(task: str = "classes", **options) -> data.Dataset:
  """48, 20 and 20 rows of two vectors m0, m1 of 4 numbers."""
  sizes = {"rows": (48, 20, 20), "dim": 4, "modalities": 2, "classes": 2}
  return data.load("synthetic", **(sizes | {"task": task} | options))


def train_data(
  source: data.Dataset, seeds=(0, 1), rate: float = 0.5, protocol: str = "none"
) -> batches.TrainData:
  """The train rows, `rate` of them labelled."""
  split, kind = source.split("train"), source.spec.task.kind
  known = [sampling.label_subset(split.label, kind, rate, s, split.id) for s in seeds]
  return batches.TrainData(split, np.stack(known), tuple(seeds), missing.parse_protocol(protocol))


def train_config(**changed) -> TrainConfig:
  """20 steps in blocks of 5, batches of 16."""
  fast = optimizer.OptimConfig(lr=3e-2)
  values = {"steps": 20, "eval_every": 5, "batch_size": 16, "labelled_per_batch": 8}
  return TrainConfig(**(values | {"optim": fast} | changed))


def stop_after(after: int):
  """A `stop` that says SIGTERM from its call number `after` on."""
  calls = []

  def stop():
    calls.append(None)
    return signal.SIGTERM if len(calls) >= after else 0

  return stop


def concat_inputs(batch) -> jax.Array:
  """Both inputs side by side f[B, 8], zeros where one is absent."""
  present = jnp.asarray(batch.present)
  parts = [
    missing.zero_absent(batch.inputs[name], present[:, i]) for i, name in enumerate(("m0", "m1"))
  ]
  return jnp.concatenate(parts, axis=-1)


def cross_entropy(logits, batch) -> jax.Array:
  """Mean over labelled rows."""
  label = jnp.where(batch.labelled, batch.label, 0)
  chosen = jnp.take_along_axis(logits, label[:, None], axis=1)[:, 0]
  each = jax.nn.logsumexp(logits, axis=-1) - chosen
  return missing.masked_mean(each, batch.labelled, 0)


def linear_method(spec: Spec) -> Method:
  """Two linear layers. The key makes noise on the input, model_state counts steps."""
  del spec

  def init(key):
    first, second = jax.random.split(key)
    body, head = jax.random.normal(first, (8, 3)), jax.random.normal(second, (3, 2))
    return {"body": body / 3, "head": {"w": head / 2, "b": jnp.zeros(2)}}, {
      "count": jnp.zeros((), jnp.int32)
    }

  def logits(params, x):
    return x @ params["body"] @ params["head"]["w"] + params["head"]["b"][None]

  def loss(params, model_state, batch, key, step_info):
    del step_info
    x = concat_inputs(batch)
    x = x + 0.1 * jax.random.normal(key, x.shape)
    value = cross_entropy(logits(params, x), batch)
    hidden = jnp.sum(~batch.present).astype(jnp.float32)
    terms = {"hidden": Average(hidden, jnp.float32(batch.present.size))}
    return value, ({**model_state, "count": model_state["count"] + 1}, terms)

  def predict(params, model_state, batch, pattern=None):
    del model_state, pattern
    return {"logits": logits(params, concat_inputs(batch))}

  return Method(init, predict, (Stage("train", loss),))


def two_stage_method(spec: Spec) -> Method:
  """First everything, on complete rows and validated by a constant guess of class 0; then
  the head alone, with a copy of the body in model_state."""
  one = linear_method(spec)
  (stage,) = one.stages

  def guess(params, model_state, batch, pattern=None):
    del params, model_state, pattern
    return {"logits": jnp.zeros((batch.id.shape[0], 2)).at[:, 0].set(1.0)}

  def start_head(key, params, model_state):
    noise = jax.random.normal(key, params["head"]["w"].shape)
    head = params["head"] | {"w": params["head"]["w"] + 0.01 * noise}
    kept = {"count": model_state["count"], "teacher": params["body"]}
    return params | {"head": head}, kept

  backbone = stage._replace(name="backbone", hide=False, predict=guess, fraction=0.5)
  prompt = stage._replace(name="prompt", trainable=("head/.*",), on_start=start_head, fraction=0.5)
  return one._replace(stages=(backbone, prompt))


def with_stage(stage: Stage, method: Method) -> Method:
  """The method with `stage` alone."""
  return method._replace(stages=(stage,))


def to_numpy(tree) -> list[np.ndarray]:
  """The leaves on the host."""
  return [np.asarray(x) for x in jax.tree.leaves(tree)]


def is_same(a, b) -> bool:
  """Whether two trees are equal, bit by bit."""
  pairs = zip(to_numpy(a), to_numpy(b), strict=True)
  return all(x.tobytes() == y.tobytes() and x.dtype == y.dtype for x, y in pairs)


def assert_close(a, b, **tolerance) -> None:
  """The leaves of two trees agree."""
  for x, y in zip(to_numpy(a), to_numpy(b), strict=True):
    np.testing.assert_allclose(x, y, **tolerance)


def all_seeds_differ(arrays: np.ndarray) -> bool:
  """Whether no two seeds of `arrays` [S, ...] are equal."""
  flat = arrays.reshape(len(arrays), -1)
  return len(np.unique(flat, axis=0)) == len(flat)


def as_inputs(split, pattern) -> Inputs:
  """The rows of a split of which `pattern` shows some modalities."""
  return Inputs(split.inputs, split.length, split.recorded & np.array(pattern)[None], split.id)
