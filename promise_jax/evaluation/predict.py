"""Logits under every pattern of present modalities, for all seeds, in one jitted call.

A row's prediction depends only on that row and on which of its modalities are present. The
predictions under the 2^M - 1 patterns therefore contain those under every other missing
protocol: `conditions.select_logits` selects them row by row. Where these are too many, the masks
of protocols are predicted by themselves.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from promise_jax import frames
from promise_jax.data import device_data
from promise_jax.devices import mesh as devices_mesh
from promise_jax.devices import placement
from promise_jax.method import Encode, Method, Predict
from promise_jax.types import Inputs, Pattern, PyTree, Split

CHUNK = 16  # patterns in one call, where they are more: what progress is shown by


def predict_patterns(
  predict: Predict,
  params: PyTree,
  model_state: PyTree,
  rows: dict,
  patterns: Bool[Array, "P M"],
  mesh: Mesh,
  encode: Encode | None = None,
  max_block: int | None = None,
) -> Float[Array, "P N C"]:
  """Logits of one seed under each pattern; part of a jitted function.

  `rows`, as `device_data.pad_to_blocks` returns them, are computed in blocks of at most
  `max_block` (default: `device_data.block_size`), which bounds the memory, and each block is
  spread over the devices of `mesh`. With the `encode` of a method a row is encoded once.
  """
  num_rows, size = len(rows["id"]), device_data.block_size(mesh, patterns.shape[1], max_block)
  num_blocks = -(-num_rows // size)
  blocks = jax.tree.map(lambda x: x.reshape(num_blocks, -1, *x.shape[1:]), rows)

  def predict_block(block: dict) -> Float[Array, "P B C"]:
    block = placement.shard_rows(block, mesh)
    inputs = Inputs(block["inputs"], block["length"], block["recorded"], block["id"])
    known = {"codes": encode(params, inputs)} if encode else {}

    def predict_pattern(pattern):
      shown = inputs.replace(present=inputs.present & pattern[None])
      return predict(params, model_state, shown, **known)["logits"]

    return jax.lax.map(predict_pattern, patterns)

  logits = jax.lax.map(predict_block, blocks).swapaxes(0, 1)
  return logits.reshape(patterns.shape[0], num_rows, -1)


def predict_split(
  method: Method | None,
  params: PyTree,
  model_state: PyTree,
  split: Split,
  patterns: Sequence[Pattern],
  mesh: Mesh | None = None,
  *,
  alone: Sequence[frames.Kept] = (),
  move: Callable[[int], object] = lambda count: None,
) -> Float[np.ndarray, "S P N C"]:
  """Logits of every seed under every pattern, for all rows of a split; labels are not read.

  `params` and `model_state` are stacked over seeds. Without `mesh`, all devices share the rows.
  No method is the constant predictor, whose params are {"logits": f32[S, C]}. Behind the patterns
  stand those on what is left of all rows by `alone`. `move` is called with how many of both were
  done since.
  """
  if method is None:
    logits, count = params["logits"], len(patterns) + len(alone)
    move(count)
    shape = (len(logits), count, len(split.id), logits.shape[1])
    return np.broadcast_to(logits[:, None, None], shape)
  mesh = mesh or devices_mesh.make_mesh()

  def predict_seeds(stacked, rows, patterns):
    inputs = rows, patterns, mesh, method.encode
    return jax.lax.map(lambda seed: predict_patterns(method.predict, *seed, *inputs), stacked)

  call = jax.jit(predict_seeds, out_shardings=devices_mesh.replicated(mesh))
  rows = device_data.to_devices(method, device_data.pad_to_blocks(split, mesh), mesh)
  num_rows, parts = len(split.id), []

  def predict(rows: dict, table: Bool[np.ndarray, "P M"], count: int) -> None:
    logits = call((params, model_state), rows, jnp.asarray(table))
    parts.append(np.asarray(logits)[:, :count, :num_rows])
    move(count)

  table, size = np.array(patterns), min(CHUNK, len(patterns))
  for start in range(0, len(patterns), max(size, 1)):
    chunk = table[start : start + size]
    # One shape is one compilation.
    predict(rows, np.pad(chunk, [(0, size - len(chunk)), (0, 0)], "edge"), len(chunk))
  padding = [(0, rows["id"].shape[0] - num_rows), (0, 0)]
  for mask, steps in alone:
    kept = {"recorded": split.recorded & mask, "steps": dict(steps)}
    kept = jax.tree.map(lambda x: np.pad(x, padding), kept)
    kept = placement.place(kept, devices_mesh.replicated(mesh))
    kept["inputs"] = frames.hide_steps(rows["inputs"], kept.pop("steps"))
    predict(rows | kept, np.ones((1, mask.shape[1]), bool), 1)
  return np.concatenate(parts, axis=1)
