"""RedCore has the parameters and the initial weights of the released code."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import example_batches
from promise_jax.methods import redcore
from promise_jax.methods.presets import PRESETS
from promise_jax.nn import imputers
from promise_jax.types import Modality

# Widths D of audio, video, text; d; widths of an imputer and a head; classes. Then the
# parameters of the released code, and those of its encoders that it never uses: an
# attention pooling, d + d^2 + d.
SIZES = {
  "IEMOCAP": ((130, 342, 1024), 128, (256, 128, 64), 128, 4),
  "MOSEI": ((74, 35, 768), 96, (160, 80, 32), 96, 3),
}
COUNTS = {
  "IEMOCAP": ((662_784, 689_920, 777_216), 16_640, 1_169_088, 66_308, 33_540),
  "MOSEI": ((371_904, 368_160, 438_528), 9_408, 519_904, 37_347, 18_915),
}


def size(tree) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", SIZES)
def test_the_network_has_as_many_parameters_as_the_released_code(name):
  """The imputers alone, because those of MOSEI do not end in a quarter."""
  widths, d, imputer, head, classes = SIZES[name]
  kinds = tuple(Modality(f"m{i}", "sequence", (50, w)) for i, w in enumerate(widths))
  task = example_batches.TASKS["classes"]._replace(outputs=classes)
  sizes = {"hidden": d, "head_hidden": head}
  config = redcore.RedcoreConfig(**PRESETS["authors"]["redcore"] | sizes)
  method = redcore.redcore(config, example_batches.spec(modalities=kinds)._replace(task=task))
  shapes = jax.eval_shape(method.init, jax.random.key(0))[0]["params"]
  count = {module: size(part) for module, part in shapes.items()}
  encoders, unused, imputing, joint, single = COUNTS[name]
  for i in range(3):
    assert count[f"encoders_{i}"] == encoders[i] - unused
    assert count[f"unimodal_heads_{i}"] == single
  assert count["joint_head"] == joint
  net = imputers.Imputer(d, imputer, num_autoencoders=5, he_init=True)
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 2 * d)))
  assert size(shapes) == imputing
  # What stands in for an absent source is ours; the authors' version does not use it.
  assert set(count) == {"absent", "joint_head"} | {
    f"{kind}_{i}" for kind in ("encoders", "imputers", "unimodal_heads") for i in range(3)
  }


def test_as_released_starts_from_he_weights():
  """Normal with variance 2 / fan_in, not truncated; the packed QKV has 1 / d."""
  spec = example_batches.spec(modalities=tuple(Modality(n, "vector", (40,)) for n in "ab"))
  sizes = {"hidden": 48, "imputer_hidden": 48, "head_hidden": 40}
  sizes |= {"num_autoencoders": 2, "num_blocks": 2}
  config = redcore.RedcoreConfig(**PRESETS["authors"]["redcore"] | sizes)
  params, _ = jax.jit(redcore.redcore(config, spec).init)(jax.random.key(0))
  del params["params"]["absent"]
  unit = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    leaf = np.asarray(leaf)
    if not name.endswith("kernel"):
      assert (leaf == name.endswith("scale")).all(), name
      continue
    packed = "ScanBlock_0/Dense_0" in name
    std = math.sqrt(1 / 48 if packed else 2 / leaf.shape[-2])
    assert abs(leaf.std() / std - 1) < 5 / math.sqrt(2 * leaf.size), name
    assert abs(leaf.mean()) < 5 * std / math.sqrt(leaf.size), name
    unit.append(leaf.ravel() / std)
  unit = np.concatenate(unit)
  # Beyond 2.3 deviations there is nothing of a truncated normal, here 2.1 %.
  assert np.mean(np.abs(unit) > 2.3) == pytest.approx(0.0214, rel=0.1)
