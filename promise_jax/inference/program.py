"""The forward pass of a trained model as StableHLO, for any number of rows and all seeds.

The arrays of the model are arguments of the program, so that the program itself stays small.
"""

import jax
import jax.numpy as jnp
from jax import export

from promise_jax import types
from promise_jax.method import Method
from promise_jax.optim import param_paths
from promise_jax.types import Inputs, Pattern, PyTree, Spec

PLATFORMS = ("cpu", "cuda", "tpu")


def export_program(
  method: Method, variables: PyTree, spec: Spec, pattern: Pattern | None = None
) -> export.Exported:
  """The program f(arrays, inputs, length, present) -> {"logits": f[S, B, C], ...}; B is free.

  Args:
    method: its `preprocess` and `predict` become the program.
    variables: {"params": ..., "state": ...}, leaves [S, ...], of which only the shapes are read.
    spec: of the inputs.
    pattern: the modalities that a row may have at most; the encoders of the others are left out.

  The `arrays` {path: [S, ...]} are those leaves of `variables` that a prediction reads.
  """
  structure = jax.tree.structure(variables)
  leaves = {
    path: jax.ShapeDtypeStruct(x.shape, x.dtype)
    for path, x in param_paths.leaves_by_path(variables).items()
  }

  def predict(arrays, inputs, length, present):
    ids = jnp.zeros(present.shape[0], jnp.int32)  # new rows have no noise of their own
    # Each row alone: `preprocess` may work in blocks, and a free number of rows has no blocks.
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)
    one = lambda row: first(method.preprocess(jax.tree.map(lambda x: x[None], row)))
    rows = Inputs(jax.vmap(one)(inputs), length, present, ids)
    unread = {path: jnp.zeros(x.shape[1:], x.dtype) for path, x in leaves.items()}

    def predict_seed(arrays):
      given = jax.tree.unflatten(structure, (unread | arrays).values())
      return method.predict(given["params"], given["state"], rows, pattern=pattern)

    # In turn: together, seeds take twice as long on a CPU (512 rows, 5 seeds of fusion).
    return jax.lax.map(predict_seed, arrays)

  # JAX finds what is not read only where all shapes are numbers.
  trial = export.export(jax.jit(predict))(leaves, *shape_rows(spec, 2))
  read = set(trial.module_kept_var_idx)
  arrays = {path: leaves[path] for i, path in enumerate(sorted(leaves)) if i in read}
  free = shape_rows(spec, *export.symbolic_shape("b"))
  return export.export(jax.jit(predict), platforms=PLATFORMS)(arrays, *free)


def shape_rows(spec: Spec, count) -> tuple:
  """The arguments (inputs, length, present) of `count` rows, as shapes and types."""
  batch = types.example_batch(spec, 1)
  like = lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype)
  return jax.tree.map(like, (batch.inputs, batch.length, batch.present))
