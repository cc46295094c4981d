"""Predictions under every missing pattern in one jitted call, and numbers from them.

A row's prediction depends on that row alone and on which of its modalities are shown.
So the predictions under the 2^M - 1 patterns hold those under every other protocol: a
mask only picks, row by row, among them (`pick`).
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from promise_jax import missing
from promise_jax.data import device_data
from promise_jax.devices import mesh as devices_mesh
from promise_jax.evaluation import mask_files, metrics
from promise_jax.method import Method, Predict
from promise_jax.types import Array, Inputs, Pattern, PyTree, Split, Task

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def predict_patterns(
  predict: Predict,
  params: PyTree,
  model_state: PyTree,
  rows: dict,
  patterns: Array,
  mesh: Mesh,
  most: int = device_data.BLOCK,
) -> Array:
  """Logits f[P, N, C] of `placing.padded` rows under each of `patterns` bool[P, M];
  traced."""
  count = rows["id"].shape[0]
  blocks = -(-count // device_data.block_size(mesh, most))
  cut = jax.tree.map(lambda x: x.reshape(blocks, -1, *x.shape[1:]), rows)

  def one_block(pattern, part: dict) -> Array:
    part = devices_mesh.shard_rows(part, mesh)
    present = part["recorded"] & pattern[None]
    inputs = Inputs(part["inputs"], part["length"], present, part["id"])
    return predict(params, model_state, inputs)["logits"]

  def one_pattern(pattern):
    return jax.lax.map(functools.partial(one_block, pattern), cut)

  logits = jax.lax.map(one_pattern, patterns)
  return logits.reshape(patterns.shape[0], count, -1)


def selection_patterns(patterns: Sequence[Pattern], select: str) -> np.ndarray:
  """The patterns bool[P, M] whose mean score chooses the step: "all", or the "full" one
  alone, which stands last."""
  return np.array(patterns[-1:] if select == "full" else patterns)


def row_weights(recorded: Array, valid: Array, patterns: Array) -> Array:
  """f[P, N]: 1 where a row has something left under the pattern, else 0."""
  left = jnp.any(recorded[None] & patterns[:, None], axis=-1) & valid[None]
  return left.astype(jnp.float32)


def selection_score(logits: Array, label: Array, weight: Array, task: Task) -> Array:
  """Mean f[] over the patterns of the task's first metric, larger is better.

  `logits` f[P, N, C], `weight` f[P, N]; a pattern without rows does not count.
  """
  name, sign = metrics.primary_metric(task)
  metric = metrics.metrics_for(task)[name]
  each = jax.vmap(lambda x, w: metric(x, label, w))(logits, weight)
  some = jnp.sum(weight, axis=1) > 0
  return sign * jnp.sum(jnp.where(some, each, 0)) / jnp.maximum(jnp.sum(some), 1)


def predict_split(
  method: Method,
  params: PyTree,
  model_state: PyTree,
  split: Split,
  patterns: Sequence[Pattern],
  mesh: Mesh | None = None,
) -> np.ndarray:
  """Logits f32[S, P, N, C] of stacked `params`, `model_state` on a split: one jitted call."""
  mesh = mesh or devices_mesh.make_mesh()

  def every_seed(stacked, rows, table):
    def one(seed):
      return predict_patterns(method.predict, *seed, rows, table, mesh)

    return jax.lax.map(one, stacked)

  everywhere = devices_mesh.replicated(mesh)
  call = jax.jit(every_seed, out_shardings=everywhere)
  rows = device_data.to_devices(method, device_data.pad_to_blocks(split, mesh), mesh)
  logits = call((params, model_state), rows, jnp.asarray(np.array(patterns)))
  return np.asarray(logits)[:, :, : len(split.id)]


def logits_under_mask(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Predictions f[S, N, C] when row n shows `mask` bool[N, M], from `logits`
  f[S, P, N, C] of all patterns; rows with nothing left get zeros."""
  index = missing.pattern_index(mask)
  chosen = logits[:, np.maximum(index, 0), np.arange(logits.shape[2])]
  return np.where((index >= 0)[None, :, None], chosen, 0)


@functools.cache
def _measure(task: Task, more: tuple[str, ...]):
  """The jitted measures of a task; cached, so that every arm shares one program."""

  def every(logits, label, weight):
    def one(metric):
      seeds = jax.vmap(metric, (0, None, None))
      return jax.vmap(seeds, (0, None, 0))(logits, label, weight)

    chosen = metrics.metrics_for(task, more)
    return {name: one(metric) for name, metric in chosen.items()}

  return jax.jit(every)


def measure(
  task: Task,
  logits: np.ndarray,
  label: np.ndarray,
  weight: np.ndarray,
  more: Sequence[str] = (),
) -> dict[str, np.ndarray]:
  """Every metric of the task and those named in `more`, f64[Q, S] each, of `logits`
  f[Q, S, N, C] with the rows counted by `weight` f[Q, N]; Q is any list of
  conditions."""
  values = jax.device_get(_measure(task, tuple(more))(logits, label, weight))
  # jit sorts names; the first metric of a task is the one that tables show.
  names = metrics.metrics_for(task, more)
  return {name: np.asarray(values[name], np.float64) for name in names}


class Condition(NamedTuple):
  """What a row of results is about: its fields and the mask bool[N, M] it shows."""

  key: dict
  mask: np.ndarray


def pattern_conditions(
  split: Split, patterns: Sequence[Pattern], names: Sequence[str]
) -> list[Condition]:
  """One condition a pattern, for every row: "pattern" lists what is present."""
  conditions = []
  for pattern in patterns:
    present = [n for n, kept in zip(names, pattern, strict=True) if kept]
    mask = split.recorded & np.array(pattern)[None]
    conditions.append(Condition({"pattern": present, "protocol": "none"}, mask))
  return conditions


def protocol_conditions(
  split: Split, protocols: Sequence[missing.Protocol], split_name: str
) -> list[Condition]:
  """One condition a protocol, a fixed mask table each; "pattern" is null."""
  conditions = []
  for protocol in protocols:
    kept = missing.draw_mask(
      protocol,
      seed=0,
      split=split_name,
      ids=split.id,
      modalities=split.recorded.shape[1],
    )
    key = {"pattern": None, "protocol": str(protocol)}
    if protocol.kind == "bernoulli" and len(set(protocol.rates)) == 1:
      key["rate"] = protocol.rates[0]
    conditions.append(Condition(key, split.recorded & kept))
  return conditions


def rate_protocols() -> list[missing.Protocol]:
  """Bernoulli missingness that keeps one modality a row, over rates 0 to .9."""
  return [missing.parse_protocol(f"bernoulli({rate})") for rate in RATES]


def map_protocols(modalities: int) -> tuple[str, ...]:
  """The grid of tests of the MAP family of papers, over rates .1 to .9: incomplete rows
  of all patterns and, of two modalities, of the first alone and of the second alone."""
  kinds = ("", ",both=1", ",both=0") if modalities == 2 else ("",)
  return tuple(f"map({rate}{kind})" for kind in kinds for rate in RATES[1::2])


def result_lines(
  task: Task,
  logits: np.ndarray,
  split: Split,
  conditions: Sequence[Condition],
  seeds: Sequence[int],
  more: Sequence[str] = (),
) -> list[dict]:
  """One line for every (condition, metric, seed) from `logits` f[S, P, N, C] of all
  patterns; rows with nothing left do not count, `n` says how many did."""
  weight = np.stack([c.mask.any(axis=1) for c in conditions]).astype(np.float32)
  picked = np.stack([logits_under_mask(logits, c.mask) for c in conditions])
  values = measure(task, picked, split.label, weight, more)
  hashes = [mask_files.mask_hash(c.mask, split.id) for c in conditions]
  return [
    condition.key
    | {
      "mask_hash": hashes[q],
      "metric": name,
      "value": float(value[q, s]),
      "n": int(weight[q].sum()),
      "seed": int(seed),
    }
    for q, condition in enumerate(conditions)
    for name, value in values.items()
    for s, seed in enumerate(seeds)
  ]


def pooled(
  task: Task,
  logits: np.ndarray,
  split: Split,
  patterns: np.ndarray,
  seeds: Sequence[int],
  more: Sequence[str] = (),
) -> list[dict]:
  """One line for every (metric, seed) of `logits` f[S, P, N, C] under `patterns`
  bool[P, M], taken as P N rows; those with nothing left do not count."""
  masks = split.recorded[None] & patterns[:, None]  # [P, N, M]
  weight = masks.any(axis=-1).reshape(1, -1).astype(np.float32)
  rows = logits.reshape(1, len(seeds), -1, logits.shape[-1])
  label = np.concatenate([split.label] * len(patterns))
  values = measure(task, rows, label, weight, more)
  ids = np.tile(split.id, len(patterns))
  key = {"mask_hash": mask_files.mask_hash(masks.reshape(len(ids), -1), ids)}
  return [
    key
    | {
      "metric": name,
      "value": float(value[0, s]),
      "n": int(weight.sum()),
      "seed": int(seed),
    }
    for name, value in values.items()
    for s, seed in enumerate(seeds)
  ]
