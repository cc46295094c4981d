"""Hypergradients against cases worked out by hand and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from promise_jax.optim import bilevel, optimizer

# A regression on three groups of rows; the upper variable u f[3] weighs the groups.


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def group_losses(params, rows):
  """Mean squared error f[3] of a small network on each group."""
  x, y = rows
  error = jnp.sum(jnp.tanh(x @ params["w"]), axis=-1) - y
  return jnp.mean(jnp.square(error), axis=1)


def groups(seed: int, outputs: float):
  """Rows (f[3, 5, 2], f[3, 5]) of the groups, whose labels differ by `outputs`."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(3, 5, 2))
  y = x.sum(axis=2) + outputs * np.arange(3)[:, None]
  return x, y


def inner_loss(params, upper):
  return jnp.sum(upper["u"] * group_losses(params, groups(0, 1.0)))


def outer_loss(params, upper):
  """Held-out rows and a direct term."""
  held = jnp.sum(group_losses(params, groups(1, 0.0)))
  return 100 * held + jnp.sum(jnp.square(upper["u"]))


def draw_params():
  """A matrix, because only matrices decay."""
  return {"w": jnp.asarray(np.random.default_rng(2).normal(size=(2, 2)))}


CONFIG = optimizer.OptimConfig(lr=0.02, warmup=0.2, weight_decay=0.3, clip=1.0)
OPTIMIZERS = {
  "sgd": optax.sgd(0.01),
  "momentum": optax.sgd(0.01, momentum=0.9),
  "adam": optax.adam(0.02, eps_root=optimizer.EPS_ROOT),
  "adamw": optimizer.make_optimizer(CONFIG, 40),
  "clip": optax.chain(optimizer.clip_by_global_norm(0.5), optax.sgd(0.1)),
}
UPPER = {"u": np.array([1.0, 0.5, 2.0])}


@functools.cache
def train_10_steps(name: str):
  """(params, opt_state), in double precision."""
  tx, params = OPTIMIZERS[name], draw_params()

  def run(params, state):
    def step(carry, _):
      return bilevel.inner_step(tx, inner_loss, *carry, UPPER), None

    return jax.lax.scan(step, (params, state), length=10)[0]

  return jax.jit(run)(params, tx.init(params))


def finite_differences(f, upper, h=1e-6):
  """Central finite differences of f(upper), entry by entry of {"u": f[3]}."""
  out = []
  for i in range(3):
    step = h * np.eye(3)[i]
    out.append((f({"u": upper["u"] + step}) - f({"u": upper["u"] - step})) / (2 * h))
  return np.array(out)


def value_and_hypergradient(tx, steps, inner=inner_loss, outer=outer_loss):
  """(upper, params, opt_state) -> the outer loss ahead and its hypergradient."""

  def both(upper, params, state):
    value = bilevel.unrolled_loss(tx, inner, outer, num_steps=steps)(upper, params, state)
    return value, bilevel.hypergradient(tx, inner, outer, upper, params, state, num_steps=steps)

  return jax.jit(both)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_hypergradient_agrees_with_numerical_slopes(x64, name, steps):
  params, state = train_10_steps(name)
  run = value_and_hypergradient(OPTIMIZERS[name], steps)
  _, found = run(UPPER, params, state)
  direct = 2 * UPPER["u"]
  slopes = finite_differences(lambda u: float(run(u, params, state)[0]), UPPER)
  assert np.abs(slopes - direct).min() > 1e-2  # more than the direct term
  if name == "clip":  # it clips, so that the scale of all weights does not matter
    assert abs(UPPER["u"] @ (slopes - direct)) < 1e-6 * np.linalg.norm(slopes)
  np.testing.assert_allclose(found["u"], slopes, rtol=1e-5)


def test_a_scalar_problem_by_hand(x64):
  """inner a w^2 / 2, outer w': w' = w - lr a w, so d w' / da = -lr w = -1.5."""
  inner, outer = lambda w, a: a * jnp.square(w) / 2, lambda w, a: w
  tx = optax.sgd(0.5)

  def found(a, w):
    one, two = (
      bilevel.hypergradient(tx, inner, outer, a, w, tx.init(w), num_steps=steps) for steps in (1, 2)
    )
    return one, two, bilevel.sgd_hypergradient(inner, outer, 0.5, a, w)

  one, two, closed = jax.jit(found)(0.7, 3.0)
  assert one == closed == -1.5
  # w'' = w (1 - a lr)^2, so -2 lr w (1 - a lr) = -3 * .65.
  np.testing.assert_allclose(two, -1.95, rtol=1e-12)


def test_the_closed_form_of_sgd_agrees_with_the_unrolled_one(x64):
  params, tx = draw_params(), optax.sgd(0.01)
  _, unrolled = value_and_hypergradient(tx, 1)(UPPER, params, tx.init(params))
  closed = jax.jit(functools.partial(bilevel.sgd_hypergradient, inner_loss, outer_loss, 0.01))(
    UPPER, params
  )
  np.testing.assert_allclose(closed["u"], unrolled["u"], rtol=1e-10)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_an_entry_that_no_loss_reads_has_no_hypergradient(x64, name):
  """Only the first group is weighed by u, and the outer loss has no direct term."""
  params, state = train_10_steps(name)
  run = value_and_hypergradient(
    OPTIMIZERS[name],
    1,
    lambda p, upper: inner_loss(p, {"u": upper["u"] * jnp.array([1.0, 0, 0]) + 1}),
    lambda p, upper: jnp.sum(group_losses(p, groups(1, 0.0))),
  )
  found = run(UPPER, params, state)[1]["u"]
  assert found[0] != 0
  np.testing.assert_array_equal(found[1:], [0, 0])


@pytest.mark.parametrize("eps_root", [0.0, optimizer.EPS_ROOT])
def test_adam_needs_eps_root_where_a_gradient_is_zero(eps_root):
  """A batch without a modality: the gradient of its weights is exactly 0. The step is
  finite either way, so that only its derivative tells."""
  tx, present = optax.adam(0.1, eps_root=eps_root), np.array([1.0, 1.0, 0.0])
  inner = lambda w, upper: jnp.sum(upper * present * jnp.square(w))
  outer = lambda w, upper: jnp.sum(w)

  def found(w, upper):
    w, state = bilevel.inner_step(tx, inner, w, tx.init(w), upper)
    ahead, _ = bilevel.inner_step(tx, inner, w, state, 2 * upper)
    return ahead, bilevel.hypergradient(tx, inner, outer, 2 * upper, w, state)

  w, upper = jnp.array([1.0, -2.0, 3.0]), jnp.array([0.5, 1.0, 1.0])
  ahead, slopes = jax.jit(found)(w, upper)
  assert np.all(np.isfinite(ahead))
  if eps_root:
    assert np.all(slopes[:2] != 0) and slopes[2] == 0
  else:
    assert np.isnan(slopes[2])


def test_one_step_of_a_fresh_adam_is_an_error():
  tx, params = OPTIMIZERS["adamw"], draw_params()
  args = (tx, inner_loss, outer_loss, UPPER, params, tx.init(params))
  with pytest.raises(ValueError, match="fresh .*sign.*derivative is 0.*2 steps"):
    bilevel.hypergradient(*args)


def test_one_step_of_a_fresh_adam_under_jit_is_nan():
  """The hypergradient is NaN, the value is not."""
  tx, params = OPTIMIZERS["adam"], draw_params()
  value, found = value_and_hypergradient(tx, 1)(UPPER, params, tx.init(params))
  assert np.isfinite(value) and np.all(np.isnan(found["u"]))


def test_two_steps_of_a_fresh_adam_have_a_hypergradient(x64):
  tx, params = OPTIMIZERS["adam"], draw_params()
  run = value_and_hypergradient(tx, 2)
  _, found = run(UPPER, params, tx.init(params))
  slopes = finite_differences(lambda u: float(run(u, params, tx.init(params))[0]), UPPER)
  assert np.abs(slopes - 2 * UPPER["u"]).min() > 1e-2
  np.testing.assert_allclose(found["u"], slopes, rtol=1e-5)


def test_adam_step_counts_finds_every_adam():
  params = {"a": jnp.ones(2), "b": jnp.ones(2)}
  parts = {"x": optax.adam(0.1), "y": optax.chain(optax.adamw(0.1), optax.sgd(0.1))}
  tx = optax.partition(parts, {"a": "x", "b": "y"})
  assert [int(c) for c in bilevel.adam_step_counts(tx.init(params))] == [0, 0]
  assert bilevel.adam_step_counts(optax.sgd(0.1, momentum=0.9).init(params)) == []
