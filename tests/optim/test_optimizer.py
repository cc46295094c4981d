"""The optimiser against values worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from promise_jax.optim import optimizer, param_paths

PLAIN = {"weight_decay": 0.0, "clip": 1e9}
PARAMS = {"body": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, "head": jnp.ones((2, 1))}


def rates(config, steps: int, grads=1.0) -> list[float]:
  """How far each of `steps` updates moves a vector. Under a constant gradient every
  step of Adam is as long as its rate (up to its eps, 1e-8)."""
  tx = optimizer.make_optimizer(config, steps)
  x = jnp.zeros(1)
  state, out = tx.init(x), []
  for _ in range(steps):
    update, state = tx.update(jnp.full(1, grads), state, x)
    out.append(-float(update[0]))
  return out


def test_warm_up_is_linear_then_a_half_cosine_falls_to_zero():
  # 10 steps, 2 of warm-up: 0, 1/2, then the 8 steps of the cosine.
  found = rates(optimizer.OptimConfig(lr=0.1, warmup=0.2, **PLAIN), 10)
  fall = [1, 0.9619398, 0.8535534, 0.6913417, 0.5, 0.3086583, 0.1464466, 0.0380602]
  np.testing.assert_allclose(found, 0.1 * np.array([0, 0.5, *fall]), atol=1e-6)


def test_constant_then_linear_has_the_multipliers_of_the_released_code():
  """30 constant epochs, 30 of decay: 1 up to epoch 30, 30/31 in 31, 1/31 in 60."""
  found = optimizer.constant_then_linear(np.array([1, 30, 31, 45, 60]), 30, 30)
  np.testing.assert_allclose(found, [1, 1, 30 / 31, 16 / 31, 1 / 31], rtol=1e-6)
  assert optimizer.constant_then_linear(61, 30, 30) == pytest.approx(0)


def test_the_linear_schedule_shares_its_60_epochs_out_over_the_stage():
  """12 steps of 5 epochs each, which begin in epoch 1, 6, ..., 26; 31, 36, ..., 56."""
  config = optimizer.OptimConfig(lr=0.1, warmup=0.5, schedule="linear", **PLAIN)
  fall = [30, 25, 20, 15, 10, 5]
  expected = 0.1 * np.array([1] * 6 + [x / 31 for x in fall])
  np.testing.assert_allclose(rates(config, 12), expected, atol=2e-6)
  schedule = optimizer.learning_rate_schedule(config, 6000)
  steps = np.array([0, 2999, 3000, 3099, 3100, 5999])
  expected = 0.1 * np.array([1, 1, 30, 30, 29, 1]) / [1, 1, 31, 31, 31, 31]
  np.testing.assert_allclose(schedule(steps), expected, rtol=1e-5)


def test_the_constant_schedule_neither_warms_up_nor_decays():
  config = optimizer.OptimConfig(lr=0.1, warmup=0.5, schedule="constant", **PLAIN)
  np.testing.assert_allclose(rates(config, 5), [0.1] * 5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 0.99])
def test_short_stages_work_and_reach_the_rate(steps, warmup):
  found = rates(optimizer.OptimConfig(lr=0.1, warmup=warmup, **PLAIN), steps)
  assert all(0 <= rate <= 0.1 + 1e-6 for rate in found)
  assert steps == 1 or math.isclose(max(found), 0.1, rel_tol=1e-4)


def test_clip_scales_the_whole_gradient():
  """Adam forgets the scale of a constant gradient; of one that shrinks it does not, and
  clipping makes a large first gradient count as one of norm 1."""
  config = optimizer.OptimConfig(lr=0.1, warmup=0.5, weight_decay=0.0, clip=1.0)
  tx = optimizer.make_optimizer(config, 4)
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
  config = optimizer.OptimConfig(lr=0.1, warmup=0.5, weight_decay=0.5)
  tx = optimizer.make_optimizer(config, 2)
  state, params = tx.init(PARAMS), PARAMS
  for _ in range(2):
    still = jax.tree.map(jnp.zeros_like, params)
    update, state = tx.update(still, state, params)
    params = optax.apply_updates(params, update)
  # No gradient: the rate is 0, then .1, and a matrix loses .1 * .5 of itself.
  np.testing.assert_allclose(params["body"]["w"], np.full((2, 2), 0.95), rtol=1e-6)
  np.testing.assert_allclose(params["head"], np.full((2, 1), 0.95), rtol=1e-6)
  np.testing.assert_array_equal(params["body"]["b"], np.ones(2))


def test_biases_and_scales_that_are_stacked_for_a_scan_do_not_decay():
  layer = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3), "scale": jnp.ones(3)}
  stacked = jax.tree.map(lambda x: jnp.stack([x] * 4), layer)
  kept = {"kernel": True, "bias": False, "scale": False}
  assert optimizer.weight_decay_mask({"one": layer, "scan": stacked}) == {
    "one": kept,
    "scan": kept,
  }
  assert optimizer.weight_decay_mask({"embedding": jnp.ones((5, 2)), "scale": jnp.ones(())}) == {
    "embedding": True,
    "scale": False,
  }


def random_gradient(scale: float):
  rng = np.random.default_rng(0)
  shapes = {"a": (3, 2), "b": (4,), "c": ()}
  return {k: jnp.asarray(scale * rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


@pytest.mark.parametrize("limit", [1e-3, 1.0, 1e9])
@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e-3, 1.0, 1e6, 1e15])
def test_clip_by_norm_is_that_of_optax(scale, limit):
  grads = random_gradient(scale)
  found, _ = optimizer.clip_by_global_norm(limit).update(grads, None)
  expected, _ = optax.clip_by_global_norm(limit).update(grads, None)
  for name in grads:
    np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)


def test_clip_by_norm_at_the_ends_of_the_numbers():
  """A norm that overflows gives 0, as in optax; a limit of infinity is none; a NaN is
  everywhere, so that no part of such a gradient is used."""
  huge = random_gradient(1e30)
  nothing, _ = optimizer.clip_by_global_norm(1.0).update(huge, None)
  assert all(np.all(x == 0) for x in jax.tree.leaves(nothing))
  same, _ = optimizer.clip_by_global_norm(math.inf).update(huge, None)
  assert all(np.array_equal(same[k], huge[k]) for k in huge)
  broken, _ = optimizer.clip_by_global_norm(1.0).update(huge | {"c": jnp.array(jnp.nan)}, None)
  assert all(np.all(np.isnan(x)) for x in jax.tree.leaves(broken))


def test_clipping_by_module():
  """(3, 4) of norm 5 is clipped to norm 1, in two leaves of a module; (.3, .4) stays; a
  leaf of its own is a module; a norm that overflows stops its own module alone."""
  grads = {
    "long": {"kernel": jnp.full((1, 1), 3.0), "bias": jnp.full(1, 4.0)},
    "short": {"kernel": jnp.array([[0.3, 0.4]])},
    "absent": jnp.array([0.0, -2.0]),
    "exploding": {"kernel": jnp.full((1, 1), 1e30)},
  }
  tx = optimizer.clip_by_module(optax.sgd(1.0, momentum=0.5), 1.0)
  params = {"params": jax.tree.map(jnp.zeros_like, grads)}
  state = tx.init(params)
  steps, after = tx.update({"params": grads}, state, params)
  found = jax.tree.map(lambda x: -x, steps["params"])
  np.testing.assert_allclose(found["long"]["kernel"], [[0.6]], rtol=1e-6)
  np.testing.assert_allclose(found["long"]["bias"], [0.8], rtol=1e-6)
  np.testing.assert_array_equal(found["short"]["kernel"], grads["short"]["kernel"])
  np.testing.assert_allclose(found["absent"], [0, -1], rtol=1e-6)
  np.testing.assert_array_equal(found["exploding"]["kernel"], [[0]])
  # Its state is that of the optimiser inside: the same tree, and momentum of the same.
  inside = optax.sgd(1.0, momentum=0.5)
  assert jax.tree.structure(state) == jax.tree.structure(inside.init(params))
  for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(found), strict=True):
    np.testing.assert_array_equal(x, y)


def test_frozen_leaves_stay_have_no_moments_and_are_not_clipped_for():
  config = optimizer.OptimConfig(lr=0.1, warmup=0.5)
  tx = optimizer.make_optimizer(config, 4, ("head",))
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


@pytest.mark.parametrize(
  ("trains", "count"),
  [(("head",), 2), (("body/w", "head"), 6), (("body/.*",), 6), ((".*",), 8)],
)
def test_what_is_counted_as_trained_is_what_moves(trains, count):
  assert param_paths.count_parameters(PARAMS, trains) == (count, 8)
  tx = optimizer.make_optimizer(optimizer.OptimConfig(schedule="constant"), 4, trains)
  update, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
  assert sum(np.count_nonzero(x) for x in jax.tree.leaves(update)) == count


def test_first_rule_that_matches_the_whole_path_wins():
  rules = (("body/w", "slow"), ("body/.*", "fast"), ("head", "off"))
  found = param_paths.label_leaves(PARAMS, rules)
  assert found == {"body": {"w": "slow", "b": "fast"}, "head": "off"}


@pytest.mark.parametrize("pattern", ["tail/.*", "ead", "body"])
def test_a_regex_without_parameter_names_the_parameters(pattern):
  """A match is of the whole path: "body" is no leaf, "ead" is part of one."""
  with pytest.raises(ValueError, match="body/b, body/w, head") as error:
    optimizer.make_optimizer(optimizer.OptimConfig(), 4, (pattern,)).init(PARAMS)
  assert repr(pattern) in str(error.value)


def test_a_parameter_without_rule_is_named():
  with pytest.raises(ValueError, match="head"):
    param_paths.label_leaves(PARAMS, (("body/.*", "train"),))


@pytest.mark.parametrize(
  "changed", [{"lr": 0.0}, {"weight_decay": -1.0}, {"warmup": 1.0}, {"clip": 0.0}]
)
def test_settings_without_meaning_are_named(changed):
  ((field, value),) = changed.items()
  with pytest.raises(ValueError, match=f"optim.{field} is {value}"):
    optimizer.check_optimizer(optimizer.OptimConfig(**changed))


def test_an_unknown_schedule_is_named():
  with pytest.raises(ValueError, match="schedule is 'step', known are cosine, linear, constant"):
    optimizer.check_optimizer(optimizer.OptimConfig(schedule="step"))
