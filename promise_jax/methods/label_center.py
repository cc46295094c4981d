"""The heads of a regression start at the centre of the labels.

Labels are not centred anywhere, so a head would have to travel there first: for years around 1990
of deviation 10 that is 199 units, which no usual training reaches. Ours.
"""

import re

import jax

from promise_jax.method import Method
from promise_jax.optim.param_paths import path_to_string
from promise_jax.types import Task

# The last bias of every head, also of a copy in model_state; not what is added to a prediction.
HEAD_BIAS = re.compile(
  r".*/(head|joint_head|unimodal_heads_\d+|classifier|output)(/Dense_\d+)?/bias"
)


def start_at_center(method: Method, task: Task) -> Method:
  """`method` whose first predictions lie around `task.center`; itself where that is 0."""
  if not task.center:
    return method

  def shift(path, x):
    is_last = x.shape[-1:] == (1,) and HEAD_BIAS.fullmatch(path_to_string(path))
    return x + task.center / task.scale if is_last else x

  return method._replace(init=lambda key: jax.tree_util.tree_map_with_path(shift, method.init(key)))
