"""The optimiser against values worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from promise_jax import optim

PLAIN = {"weight_decay": 0.0, "clip": 1e9}
PARAMS = {"body": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, "head": jnp.ones((2, 1))}


def rates(config, steps: int, grads=1.0) -> list[float]:
  """How far each of `steps` updates moves a vector. Under a constant gradient every
  step of Adam is as long as its rate (up to its eps, 1e-8)."""
  tx = optim.build(config, steps)
  x = jnp.zeros(1)
  state, out = tx.init(x), []
  for _ in range(steps):
    update, state = tx.update(jnp.full(1, grads), state, x)
    out.append(-float(update[0]))
  return out


def test_warm_up_is_linear_then_a_half_cosine_falls_to_zero():
  # 10 steps, 2 of warm-up: 0, 1/2, then the 8 steps of the cosine.
  found = rates(optim.OptimConfig(lr=0.1, warmup=0.2, **PLAIN), 10)
  fall = [1, 0.9619398, 0.8535534, 0.6913417, 0.5, 0.3086583, 0.1464466, 0.0380602]
  np.testing.assert_allclose(found, 0.1 * np.array([0, 0.5, *fall]), atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 0.99])
def test_short_stages_work_and_reach_the_rate(steps, warmup):
  found = rates(optim.OptimConfig(lr=0.1, warmup=warmup, **PLAIN), steps)
  assert all(0 <= rate <= 0.1 + 1e-6 for rate in found)
  assert steps == 1 or math.isclose(max(found), 0.1, rel_tol=1e-4)


def test_clip_scales_the_whole_gradient():
  """Adam forgets the scale of a constant gradient; of one that shrinks it does not, and
  clipping makes a large first gradient count as one of norm 1."""
  config = optim.OptimConfig(lr=0.1, warmup=0.5, weight_decay=0.0, clip=1.0)
  tx = optim.build(config, 4)
  params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}

  def moments(grads):
    _, state = tx.update(grads, tx.init(params), params)
    found = [x for x in jax.tree.leaves(state) if x.shape == (1,)]
    return sorted(float(x[0]) for x in found)

  # (3, 4) has norm 5, clipped to (.6, .8): first moments .1 g, second moments .001 g^2.
  large = moments({"a": jnp.full(1, 3.0), "b": jnp.full(1, 4.0)})
  np.testing.assert_allclose(large, [0.00036, 0.00064, 0.06, 0.08], rtol=1e-5)
  # (.3, .4) is shorter than 1 and stays.
  small = moments({"a": jnp.full(1, 0.3), "b": jnp.full(1, 0.4)})
  np.testing.assert_allclose(small, [0.00009, 0.00016, 0.03, 0.04], rtol=1e-5)


def test_decay_is_for_matrices_only():
  config = optim.OptimConfig(lr=0.1, warmup=0.5, weight_decay=0.5)
  tx = optim.build(config, 2)
  state, params = tx.init(PARAMS), PARAMS
  for _ in range(2):
    still = jax.tree.map(jnp.zeros_like, params)
    update, state = tx.update(still, state, params)
    params = optax.apply_updates(params, update)
  # No gradient: the rate is 0, then .1, and a matrix loses .1 * .5 of itself.
  np.testing.assert_allclose(params["body"]["w"], np.full((2, 2), 0.95), rtol=1e-6)
  np.testing.assert_allclose(params["head"], np.full((2, 1), 0.95), rtol=1e-6)
  np.testing.assert_array_equal(params["body"]["b"], np.ones(2))


def test_frozen_leaves_stay_have_no_moments_and_are_not_clipped_for():
  config = optim.OptimConfig(lr=0.1, warmup=0.5)
  tx = optim.build(config, 4, ("head",))
  state, params = tx.init(PARAMS), PARAMS
  shapes = [x.shape for x in jax.tree.leaves(state)]
  assert (2, 2) not in shapes and (2,) not in shapes
  assert shapes.count((2, 1)) == 2
  # A huge gradient on what is frozen must not shrink that of the rest.
  huge = jax.tree.map(lambda x: jnp.full_like(x, 1e6), PARAMS)
  grads = huge | {"head": jnp.full((2, 1), 0.25)}
  for _ in range(2):
    update, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, update)
  moments = [x for x in jax.tree.leaves(state) if x.shape == (2, 1)]
  first = max(float(x[0, 0]) for x in moments)
  assert math.isclose(first, 0.25 * (0.1 + 0.9 * 0.1), rel_tol=1e-4)
  for name in ("w", "b"):
    np.testing.assert_array_equal(params["body"][name], PARAMS["body"][name])
  assert not np.array_equal(params["head"], PARAMS["head"])


def test_first_rule_that_matches_the_whole_path_wins():
  rules = (("body/w", "slow"), ("body/.*", "fast"), ("head", "off"))
  found = optim.labels(PARAMS, rules)
  assert found == {"body": {"w": "slow", "b": "fast"}, "head": "off"}


@pytest.mark.parametrize("pattern", ["tail/.*", "ead", "body"])
def test_a_regex_without_parameter_names_the_parameters(pattern):
  """A match is of the whole path: "body" is no leaf, "ead" is part of one."""
  with pytest.raises(ValueError, match="body/b, body/w, head") as error:
    optim.build(optim.OptimConfig(), 4, (pattern,)).init(PARAMS)
  assert repr(pattern) in str(error.value)


def test_a_parameter_without_rule_is_named():
  with pytest.raises(ValueError, match="head"):
    optim.labels(PARAMS, (("body/.*", "train"),))


@pytest.mark.parametrize(
  "changed", [{"lr": 0.0}, {"weight_decay": -1.0}, {"warmup": 1.0}, {"clip": 0.0}]
)
def test_settings_without_meaning_are_named(changed):
  ((field, value),) = changed.items()
  with pytest.raises(ValueError, match=f"optim.{field} is {value}"):
    optim.check(optim.OptimConfig(**changed))
