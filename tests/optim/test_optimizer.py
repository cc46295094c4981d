"""The optimizer against values worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from promise_jax.optim import optimizer
from promise_jax.optim.optimizer import OptimConfig

PLAIN = {"weight_decay": 0.0, "clip": 1e9}
PARAMS = {"body": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, "head": jnp.ones((2, 1))}


def measure_rates(config, num_steps: int) -> list[float]:
  """How far each update moves a vector. Under a constant gradient every step of Adam is as
  long as its learning rate (up to eps, 1e-8)."""
  tx = optimizer.make_optimizer(config, num_steps)
  x = jnp.zeros(1)
  state, rates = tx.init(x), []
  for _ in range(num_steps):
    update, state = tx.update(jnp.ones(1), state, x)
    rates.append(-float(update[0]))
  return rates


def test_cosine_warms_up_linearly_then_falls_to_zero():
  # 10 steps, 2 of warm-up: 0, 1/2, then the 8 steps of the cosine.
  rates = measure_rates(OptimConfig(lr=0.1, warmup=0.2, **PLAIN), 10)
  fall = [1, 0.9619398, 0.8535534, 0.6913417, 0.5, 0.3086583, 0.1464466, 0.0380602]
  np.testing.assert_allclose(rates, 0.1 * np.array([0, 0.5, *fall]), atol=1e-6)


def test_the_linear_schedule_has_the_factors_of_the_released_code():
  """30 constant epochs, 30 of decay: 1 up to epoch 30, 30/31 in epoch 31, 1/31 in 60."""
  schedule = optimizer.learning_rate_schedule(OptimConfig(lr=1.0, schedule="linear"), 60)
  factors = schedule(np.array([1, 30, 31, 45, 60]) - 1)
  np.testing.assert_allclose(factors, [1, 1, 30 / 31, 16 / 31, 1 / 31], rtol=1e-6)


def test_the_linear_schedule_spreads_60_epochs_over_the_stage():
  """12 steps of 5 epochs each, which begin in epochs 1, 6, ..., 26, then 31, ..., 56."""
  config = OptimConfig(lr=0.1, warmup=0.5, schedule="linear", **PLAIN)
  expected = 0.1 * np.array([1] * 6 + [x / 31 for x in (30, 25, 20, 15, 10, 5)])
  np.testing.assert_allclose(measure_rates(config, 12), expected, atol=2e-6)
  schedule = optimizer.learning_rate_schedule(config, 6000)
  expected = 0.1 * np.array([1, 1, 30, 30, 29, 1]) / [1, 1, 31, 31, 31, 31]
  steps = np.array([0, 2999, 3000, 3099, 3100, 5999])
  np.testing.assert_allclose(schedule(steps), expected, rtol=1e-5)


def test_the_constant_schedule_neither_warms_up_nor_decays():
  config = OptimConfig(lr=0.1, warmup=0.5, schedule="constant", **PLAIN)
  np.testing.assert_allclose(measure_rates(config, 5), [0.1] * 5, atol=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 0.99])
def test_short_stages_reach_the_learning_rate(num_steps, warmup):
  rates = measure_rates(OptimConfig(lr=0.1, warmup=warmup, **PLAIN), num_steps)
  assert all(0 <= rate <= 0.1 + 1e-6 for rate in rates)
  assert num_steps == 1 or math.isclose(max(rates), 0.1, rel_tol=1e-4)


def test_the_clip_is_on_the_norm_of_all_leaves():
  tx = optimizer.make_optimizer(OptimConfig(warmup=0.5, weight_decay=0.0, clip=1.0), 4)
  params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}

  def moments(a, b):
    grads = {"a": jnp.full(1, a), "b": jnp.full(1, b)}
    _, state = tx.update(grads, tx.init(params), params)
    return sorted(float(x[0]) for x in jax.tree.leaves(state) if x.shape == (1,))

  # (3, 4) has norm 5, clipped to (.6, .8): first moments .1 g, second moments .001 g^2.
  np.testing.assert_allclose(moments(3.0, 4.0), [0.00036, 0.00064, 0.06, 0.08], rtol=1e-5)
  # (.3, .4) is shorter than 1 and stays.
  np.testing.assert_allclose(moments(0.3, 0.4), [0.00009, 0.00016, 0.03, 0.04], rtol=1e-5)


def test_only_matrices_decay():
  tx = optimizer.make_optimizer(OptimConfig(lr=0.1, warmup=0.5, weight_decay=0.5), 2)
  state, params = tx.init(PARAMS), PARAMS
  for _ in range(2):
    update, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
    params = optax.apply_updates(params, update)
  # No gradient: the rate is 0, then .1, and a matrix loses .1 * .5 of itself.
  np.testing.assert_allclose(params["body"]["w"], np.full((2, 2), 0.95), rtol=1e-6)
  np.testing.assert_allclose(params["head"], np.full((2, 1), 0.95), rtol=1e-6)
  np.testing.assert_array_equal(params["body"]["b"], np.ones(2))


def test_stacked_biases_and_scales_and_prompts_do_not_decay():
  layer = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3), "scale": jnp.ones(3)}
  stacked = jax.tree.map(lambda x: jnp.stack([x] * 4), layer)
  mask = {"kernel": True, "bias": False, "scale": False}
  tree = {"one": layer, "scan": stacked, "embedding": jnp.ones((5, 2)), "prompts": jnp.ones((2, 2))}
  expected = {"one": mask, "scan": mask, "embedding": True, "prompts": False}
  assert optimizer.weight_decay_mask(tree) == expected


def random_gradient(scale: float):
  rng = np.random.default_rng(0)
  shapes = {"a": (3, 2), "b": (4,), "c": ()}
  return {k: jnp.asarray(scale * rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e9])
@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e-3, 1.0, 1e6, 1e15])
def test_clip_by_global_norm_agrees_with_optax(scale, max_norm):
  grads = random_gradient(scale)
  clipped, _ = optimizer.clip_by_global_norm(max_norm).update(grads, None)
  expected, _ = optax.clip_by_global_norm(max_norm).update(grads, None)
  for name in grads:
    np.testing.assert_allclose(clipped[name], expected[name], rtol=1e-6)


def test_clip_by_global_norm_with_overflow_infinity_and_nan():
  """A norm that overflows gives 0, as in optax; an infinite bound changes nothing; a NaN
  spreads to all leaves, so that no part of such a gradient is used."""
  huge = random_gradient(1e30)
  nothing, _ = optimizer.clip_by_global_norm(1.0).update(huge, None)
  assert all(np.all(x == 0) for x in jax.tree.leaves(nothing))
  same, _ = optimizer.clip_by_global_norm(math.inf).update(huge, None)
  assert all(np.array_equal(same[k], huge[k]) for k in huge)
  broken, _ = optimizer.clip_by_global_norm(1.0).update(huge | {"c": jnp.array(jnp.nan)}, None)
  assert all(np.all(np.isnan(x)) for x in jax.tree.leaves(broken))


@pytest.mark.parametrize(
  ("clip", "is_finite"),
  [(optimizer.clip_by_global_norm(1.0), True), (optax.clip_by_global_norm(1.0), False)],
)
def test_the_derivative_of_the_clip_is_finite_at_a_gradient_of_zero(clip, is_finite):
  """That of optax is not: the reason for a clip of our own."""

  def total(scale):
    return jnp.sum(clip.update(scale * jnp.zeros(2), None)[0])

  slope = jax.jit(jax.grad(total))(1.0)
  assert slope == 0 if is_finite else np.isnan(slope)


def test_clip_by_module_clips_each_module_alone():
  """(3, 4) has norm 5 and is clipped to norm 1 over two leaves of a module; (.3, .4) stays; a
  leaf at the top is a module; a norm that overflows stops its own module alone."""
  grads = {
    "long": {"kernel": jnp.full((1, 1), 3.0), "bias": jnp.full(1, 4.0)},
    "short": {"kernel": jnp.array([[0.3, 0.4]])},
    "absent": jnp.array([0.0, -2.0]),
    "exploding": {"kernel": jnp.full((1, 1), 1e30)},
  }
  inside = optax.sgd(1.0, momentum=0.5)
  tx = optimizer.clip_by_module(inside, 1.0)
  params = {"params": jax.tree.map(jnp.zeros_like, grads)}
  state = tx.init(params)
  updates, after = tx.update({"params": grads}, state, params)
  clipped = jax.tree.map(lambda x: -x, updates["params"])
  np.testing.assert_allclose(clipped["long"]["kernel"], [[0.6]], rtol=1e-6)
  np.testing.assert_allclose(clipped["long"]["bias"], [0.8], rtol=1e-6)
  np.testing.assert_array_equal(clipped["short"]["kernel"], grads["short"]["kernel"])
  np.testing.assert_allclose(clipped["absent"], [0, -1], rtol=1e-6)
  np.testing.assert_array_equal(clipped["exploding"]["kernel"], [[0]])
  # The state is that of the optimizer inside, which sees the clipped gradient.
  assert jax.tree.structure(state) == jax.tree.structure(inside.init(params))
  for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(clipped), strict=True):
    np.testing.assert_array_equal(x, y)


def test_frozen_leaves_do_not_move_have_no_moments_and_do_not_count_in_the_clip():
  tx = optimizer.make_optimizer(OptimConfig(lr=0.1, warmup=0.5), 4, ("head",))
  state, params = tx.init(PARAMS), PARAMS
  shapes = [x.shape for x in jax.tree.leaves(state)]
  assert (2, 2) not in shapes and (2,) not in shapes and shapes.count((2, 1)) == 2
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


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"lr": 0.0}, "optim.lr is 0.0"),
    ({"weight_decay": -1.0}, "optim.weight_decay is -1.0"),
    ({"warmup": 1.0}, "optim.warmup is 1.0"),
    ({"clip": 0.0}, "optim.clip is 0.0"),
    ({"schedule": "step"}, "schedule is 'step', known are cosine, linear, constant"),
  ],
)
def test_an_impossible_setting_is_an_error(changed, message):
  with pytest.raises(ValueError, match=message):
    OptimConfig(**changed)
