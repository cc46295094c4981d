"""Relative advantage against the authors' numbers and a slow loop; hypergradients
against hand-worked cases and finite differences; the update built of them."""

import functools
import math
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny_runs
from promise_jax.method import Method, Stage, StepInfo, TrainState
from promise_jax.optim import bilevel, optimizer, relative_advantage, update_rules
from promise_jax.training import checkpoint, loop

# The raw imputation losses (A, V, L) that the authors' code prints, steps 0 to 6.
PRINTED = np.array(
  [
    [1751536.375, 1129683.0, 1994986.5],
    [442593.9062, 398030.9375, 622778.1875],
    [182405.9062, 179871.3906, 246359.1562],
    [83890.7891, 91431.4219, 112719.7344],
    [52484.8281, 56742.3984, 67150.75],
    [27199.1094, 39246.5117, 40054.8008],
    [20182.7383, 25235.875, 27356.6504],
  ]
)
AUTHORS = {"rho": 0.7, "step_size": 0.1, "growth": 1.5, "growth_every": 500, "every": 3}


def controlled(losses, seen=True, **settings):
  """(beta, average) f[T, M] of the controller after each of the losses f[T, M]."""
  tx = relative_advantage.controller(**settings)
  losses = jnp.asarray(losses, float)

  def run(losses, seen):
    def step(carry, now):
      beta, state = carry
      loss, seen = now
      moves, state = tx.update(loss, state, beta, seen=seen)
      beta = optax.apply_updates(beta, moves)
      return (beta, state), (beta, state.mean_loss)

    beta = jnp.ones(losses.shape[1], losses.dtype)
    return jax.lax.scan(step, (beta, tx.init(beta)), (losses, seen))[1]

  return jax.jit(run)(losses, jnp.broadcast_to(seen, losses.shape))


def slow(losses, seen, *, rho, step_size, growth, growth_every, every, floor):
  """The same from the equations, in plain Python."""
  beta, ema, eta = [1.0] * len(losses[0]), [0.0] * len(losses[0]), step_size
  betas, emas = [], []
  for t, loss in enumerate(losses):
    for m, value in enumerate(loss):
      if seen[t][m]:
        ema[m] = (1 - rho) * ema[m] + rho * value
    mean = sum(ema) / len(ema)
    advantage = [(mean - x) / mean if mean else 0.0 for x in ema]
    if t % growth_every == 0:
      eta *= growth
    if t % every == 0:
      b = [max(x - eta * a, floor) for x, a in zip(beta, advantage, strict=True)]
      norm = math.sqrt(sum(x * x for x in b))
      beta = [x / norm for x in b]
    betas.append(list(beta))
    emas.append(list(ema))
  return np.array(betas), np.array(emas)


def test_the_betas_that_the_authors_print():
  """T1: five digits, and the averages to a hundredth of 158,016."""
  with jax.enable_x64(True):
    beta, ema = controlled(PRINTED, **AUTHORS)
  first, fourth = [0.58374, 0.55063, 0.59670], [0.57108, 0.52944, 0.62734]
  expected = [first] * 3 + [fourth] * 3 + [[0.54571, 0.53189, 0.64753]]
  np.testing.assert_allclose(beta, expected, atol=5.1e-6)
  np.testing.assert_allclose(ema[3], [158016.25, 148201.95, 207579.51], atol=5.1e-3)


def test_single_precision_has_the_same_digits():
  beta, _ = controlled(PRINTED, **AUTHORS)
  assert beta.dtype == jnp.float32
  np.testing.assert_allclose(beta[6], [0.54571, 0.53189, 0.64753], atol=5.2e-6)


def test_constant_losses_drive_beta_into_the_corner_and_back_out():
  """T2: losses 1, 2, 3, a growing step; six digits."""
  with jax.enable_x64(True):
    beta, ema = controlled(np.tile([1.0, 2.0, 3.0], (502, 1)), **AUTHORS)
    advantage = [relative_advantage.relative_advantage(ema[step]) for step in (0, 300)]
  expected = {
    0: [0.533050, 0.576271, 0.619491],
    3: [0.452603, 0.569417, 0.686232],
    6: [0.369155, 0.556678, 0.744201],
    9: [0.284702, 0.538789, 0.792875],
    30: [0.093455, 0.354184, 0.930494],
    300: [0.092966, 0.092966, 0.991320],
    501: [0.089860, 0.089860, 0.991892],
  }
  for step, digits in expected.items():
    np.testing.assert_allclose(beta[step], digits, atol=5.1e-7, err_msg=str(step))
  np.testing.assert_allclose(advantage, [[0.5, 0, -0.5]] * 2, atol=1e-12)


def test_the_step_grows_and_ends():
  eta = relative_advantage.growing_step(0.1, 1.5, 500)
  steps = jnp.array([0, 499, 500, 1000, 1500, 2000, 10**6])
  expected = [0.15, 0.15, 0.225, 0.3375, 0.50625, 0.759375, 1e6]
  np.testing.assert_allclose(eta(steps), expected, rtol=1e-6)
  np.testing.assert_allclose(eta(500), 0.225, rtol=1e-6)
  assert relative_advantage.growing_step(0.1, 1.0, 500)(10**6) == pytest.approx(0.1)


def test_a_step_that_has_grown_for_long_leaves_beta_on_the_sphere():
  """Growing by 1.5 a step reaches infinity in single precision after 220 of them."""
  losses = np.random.default_rng(0).uniform(1, 2, (300, 3))
  beta, _ = controlled(losses, growth=1.5, growth_every=1, every=1)
  np.testing.assert_allclose(np.linalg.norm(beta, axis=1), 1, rtol=1e-6)


def random_case(count: int):
  """30 random losses of very different sizes, a fifth of them without a row."""
  rng = np.random.default_rng(count)
  losses = np.exp(rng.normal(size=(30, count)) * 2)
  seen = rng.random((30, count)) < 0.8
  settings = {"rho": 0.6, "step_size": 0.2, "growth": 1.3, "growth_every": 7, "every": 4}
  return losses, seen, settings | {"floor": 0.15}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_controller_is_the_slow_loop(count):
  losses, seen, settings = random_case(count)
  poisoned = np.where(seen, losses, np.nan)
  beta, ema = controlled(poisoned, seen, **settings)
  slow_beta, slow_ema = slow(losses.tolist(), seen.tolist(), **settings)
  np.testing.assert_allclose(ema, slow_ema, rtol=1e-5)
  np.testing.assert_allclose(beta, slow_beta, rtol=1e-4)
  assert np.ptp(slow_beta, axis=0).min() > 0.1
  np.testing.assert_array_equal(ema[1:][~seen[1:]], ema[:-1][~seen[1:]])


def test_the_controller_under_jit_and_vmap():
  """Step by step under jit, and three seeds at once, as in the scan above."""
  losses, seen, settings = random_case(3)
  rolled = np.stack([np.roll(losses, i, axis=0) for i in range(3)], axis=1)
  tx = relative_advantage.controller(**settings)

  def step(beta, state, loss, seen):
    moves, state = tx.update(loss, state, beta, seen=seen)
    return optax.apply_updates(beta, moves), state

  one = jax.jit(step)
  all_seeds = jax.jit(jax.vmap(step, in_axes=(0, 0, 0, None)))
  single, many = jnp.ones(3), jnp.ones((3, 3))
  single, many = (single, tx.init(single)), (many, jax.vmap(tx.init)(many))
  for t in range(12):
    single = one(*single, jnp.asarray(losses[t], jnp.float32), seen[t])
    many = all_seeds(*many, jnp.asarray(rolled[t], jnp.float32), seen[t])
  for i in range(3):
    expected, _ = slow(rolled[:12, i].tolist(), seen[:12].tolist(), **settings)
    np.testing.assert_allclose(many[0][i], expected[-1], rtol=1e-4)
  np.testing.assert_allclose(single[0], many[0][0], rtol=1e-5)


def test_advantage_sums_to_zero_is_at_most_one_and_has_no_unit(rng):
  ema = np.exp(3 * rng.normal(size=(50, 4))).astype(np.float32)
  advantages = jax.jit(jax.vmap(relative_advantage.relative_advantage))
  found = np.asarray(advantages(ema))
  np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-5)
  assert np.all(found <= 1) and found.max() > 0.9
  np.testing.assert_allclose(advantages(1e3 * ema), found, atol=1e-5)
  easier = ema < ema.mean(axis=1, keepdims=True)
  np.testing.assert_array_equal(found > 0, easier)


def test_losses_of_zero_give_no_advantage_and_leave_equal_parts():
  np.testing.assert_array_equal(relative_advantage.relative_advantage(jnp.zeros(3)), np.zeros(3))
  beta, ema = controlled(np.zeros((2, 3)))
  np.testing.assert_array_equal(ema, np.zeros((2, 3)))
  np.testing.assert_allclose(beta, np.full((2, 3), 3**-0.5), rtol=1e-6)


@pytest.mark.parametrize(
  ("upper", "move", "raised"),
  [
    ([1.0, 1.0], [2.0, 3.0], [3.0, 4.0]),
    ([0.6, 0.8], [-9.0, 0.0], [0.1, 0.8]),  # an entry ends below the floor, .1
    ([0.5, 0.5, 0.5, 0.5], [-1.0, -1.0, -1.0, -1.0], [0.1, 0.1, 0.1, 0.1]),
    ([0.5, 0.5, 0.5, 0.5], [0.0, 0.5, -0.5, 1.5], [0.5, 1.0, 0.1, 2.0]),
  ],
)
def test_on_sphere_raises_to_the_floor_then_scales_to_norm_1(upper, move, raised):
  tx, upper = relative_advantage.project_to_sphere(0.1), jnp.array(upper)
  moves, _ = tx.update(jnp.array(move), tx.init(upper), upper)
  expected = np.array(raised) / np.linalg.norm(raised)
  np.testing.assert_allclose(optax.apply_updates(upper, moves), expected, rtol=1e-6)


def test_projected_adam_takes_a_step_as_long_as_its_rate_and_projects():
  """The first step of Adam is its rate against the sign of the gradient."""
  tx, beta = relative_advantage.projected_adam(0.2, floor=0.5), jnp.array([0.6, 0.8])
  step = jax.jit(lambda grads: tx.update(grads, tx.init(beta), beta)[0])
  found = beta + step(jnp.array([5.0, -1e-3]))
  expected = np.array([0.5, 1.0]) / math.hypot(0.5, 1.0)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


# Hypergradients. A regression on three groups of rows, u f[3] weighs the groups. Few
# and small arrays: the time of these tests goes into compiling.


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


def start():
  """A matrix, so that it decays."""
  return {"w": jnp.asarray(np.random.default_rng(2).normal(size=(2, 2)))}


CONFIG = optimizer.OptimConfig(lr=0.02, warmup=0.2, weight_decay=0.3, clip=1.0)
OPTIMISERS = {
  "sgd": optax.sgd(0.01),
  "momentum": optax.sgd(0.01, momentum=0.9),
  "adam": optax.adam(0.02, eps_root=optimizer.EPS_ROOT),
  "adamw": optimizer.make_optimizer(CONFIG, 40),
  "clip": optax.chain(optimizer.clip_by_global_norm(0.5), optax.sgd(0.1)),
}
UPPER = {"u": np.array([1.0, 0.5, 2.0])}


@functools.cache
def warm(name: str):
  """(params, opt_state) after 10 steps; only for tests in double precision."""
  tx, params = OPTIMISERS[name], start()

  def run(params, state):
    def step(carry, _):
      return bilevel.inner_step(tx, inner_loss, *carry, UPPER), None

    return jax.lax.scan(step, (params, state), length=10)[0]

  return jax.jit(run)(params, tx.init(params))


def differences(f, upper, h=1e-6):
  """Central finite differences of f(upper), entry by entry of {"u": f[3]}."""
  out = []
  for i in range(3):
    step = h * np.eye(3)[i]
    out.append((f({"u": upper["u"] + step}) - f({"u": upper["u"] - step})) / (2 * h))
  return np.array(out)


def program(tx, steps, inner=inner_loss, outer=outer_loss):
  """(upper, params, opt_state) -> the outer loss ahead and its hypergradient."""

  def both(upper, params, state):
    value = bilevel.unrolled_loss(tx, inner, outer, num_steps=steps)(upper, params, state)
    return value, bilevel.hypergradient(tx, inner, outer, upper, params, state, num_steps=steps)

  return jax.jit(both)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_hypergradient_is_that_of_finite_differences(x64, name, steps):
  params, state = warm(name)
  run = program(OPTIMISERS[name], steps)
  _, found = run(UPPER, params, state)
  direct = 2 * UPPER["u"]
  slopes = differences(lambda u: float(run(u, params, state)[0]), UPPER)
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


def test_closed_form_is_the_unrolled_one(x64):
  params, tx = start(), optax.sgd(0.01)
  _, unrolled = program(tx, 1)(UPPER, params, tx.init(params))
  closed = jax.jit(functools.partial(bilevel.sgd_hypergradient, inner_loss, outer_loss, 0.01))(
    UPPER, params
  )
  np.testing.assert_allclose(closed["u"], unrolled["u"], rtol=1e-10)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_what_the_inner_loss_ignores_has_no_hypergradient(x64, name):
  """Only the first group is weighed by u, and the outer loss has no direct term."""
  params, state = warm(name)
  run = program(
    OPTIMISERS[name],
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


@pytest.mark.parametrize(
  ("clip", "finite"),
  [(optimizer.clip_by_global_norm(1.0), True), (optax.clip_by_global_norm(1.0), False)],
)
def test_the_derivative_of_clipping_at_a_gradient_of_zero(clip, finite):
  """optax's is NaN where all of the gradient is 0, as in a batch without rows."""

  def total(scale):
    return jnp.sum(clip.update(scale * jnp.zeros(2), None)[0])

  slope = jax.jit(jax.grad(total))(1.0)
  assert slope == 0 if finite else np.isnan(slope)


def test_a_fresh_adam_is_refused_with_the_reason():
  tx, params = OPTIMISERS["adamw"], start()
  args = (tx, inner_loss, outer_loss, UPPER, params, tx.init(params))
  with pytest.raises(ValueError, match="fresh .*sign.*derivative is 0.*2 steps"):
    bilevel.hypergradient(*args)


def test_a_fresh_adam_in_a_program_is_nan():
  """Also where its count is not known: only the slope, not the value."""
  tx, params = OPTIMISERS["adam"], start()
  value, found = program(tx, 1)(UPPER, params, tx.init(params))
  assert np.isfinite(value) and np.all(np.isnan(found["u"]))


def test_two_steps_of_a_fresh_adam_are_fine(x64):
  tx, params = OPTIMISERS["adam"], start()
  run = program(tx, 2)
  _, found = run(UPPER, params, tx.init(params))
  slopes = differences(lambda u: float(run(u, params, tx.init(params))[0]), UPPER)
  assert np.abs(slopes - 2 * UPPER["u"]).min() > 1e-2
  np.testing.assert_allclose(found["u"], slopes, rtol=1e-5)


def test_the_states_of_all_adams_are_found():
  params = {"a": jnp.ones(2), "b": jnp.ones(2)}
  parts = {"x": optax.adam(0.1), "y": optax.chain(optax.adamw(0.1), optax.sgd(0.1))}
  tx = optax.partition(parts, {"a": "x", "b": "y"})
  assert [int(c) for c in bilevel.adam_step_counts(tx.init(params))] == [0, 0]
  assert bilevel.adam_step_counts(optax.sgd(0.1, momentum=0.9).init(params)) == []


def test_one_trace_over_five_steps():
  tx, traces = OPTIMISERS["sgd"], []

  def step(upper, params, state):
    traces.append(None)
    slopes = bilevel.hypergradient(tx, inner_loss, outer_loss, upper, params, state)
    upper = jax.tree.map(lambda u, s: u - 1e-5 * s, upper, slopes)
    return upper, *bilevel.inner_step(tx, inner_loss, params, state, upper)

  step, params = jax.jit(step), start()
  carry = (jax.tree.map(jnp.asarray, UPPER), params, tx.init(params))
  for _ in range(5):
    carry = step(*carry)
  assert len(traces) == 1 and not np.array_equal(carry[0]["u"], UPPER["u"])


# The update: linear regression on rows of three groups that the upper level weighs.

LR, AFTER = 0.05, 5


def table():
  """12 rows, four of each group, one of them padding."""
  rng = np.random.default_rng(3)
  x, valid = rng.normal(size=(12, 2)), np.arange(12) != 7
  return {"x": x, "y": x.sum(axis=1) + rng.normal(size=12), "valid": valid}


def halves(batch, key):
  """Every other row is held out; the key says where that starts."""
  held = (jnp.arange(12) + jax.random.randint(key, (), 0, 2)) % 2 == 0
  valid = batch.valid
  return batch.replace(row_mask=valid & ~held), batch.replace(row_mask=valid & held)


def weighted_loss(params, model_state, batch, key, clock):
  """Mean squared errors of the groups under noise; model_state counts the steps."""
  x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
  valid = batch.valid.reshape(3, 4)
  error = jnp.square(x @ params - batch["y"]).reshape(3, 4)
  each = jnp.sum(jnp.where(valid, error, 0), axis=1) / jnp.sum(valid, axis=1)
  return jnp.sum(model_state["upper"] * each), (
    model_state | {"count": model_state["count"] + 1},
    {},
  )


def held_loss(params, batch, key):
  """100 mean squared errors without noise, of the rows held out."""
  error = jnp.square(batch["x"] @ params - batch["y"])
  return 100 * jnp.sum(jnp.where(batch.valid, error, 0)) / jnp.sum(batch.valid)


INNER = {"sgd": optax.sgd(LR), "adam": optax.adam(LR, eps_root=optimizer.EPS_ROOT)}
TOY, OUTER = Stage("toy", weighted_loss), optax.sgd(0.5, momentum=0.9)


def nested(tx):
  """`bilevel_update` of the toy stage."""
  return update_rules.bilevel_update(
    TOY, tx, outer_loss=held_loss, outer_tx=OUTER, split=halves, first_step=AFTER
  )


@functools.cache
def plain(name: str):
  """`gradient_update` of the toy stage."""
  return jax.jit(update_rules.gradient_update(TOY, INNER[name]))


def toy_state(name: str, steps: int):
  """The state after steps of `gradient_update`; for tests in double precision."""
  upper, params = jnp.asarray([1.0, 0.5, 2.0]), jnp.asarray([0.3, -0.4])
  model_state = {
    "upper": upper,
    "upper_opt": OUTER.init(upper),
    "count": jnp.asarray(0),
  }
  state = TrainState(params, model_state, INNER[name].init(params))
  for step in range(steps):
    clock = StepInfo(jnp.asarray(step), jnp.asarray(step / 10))
    state, _ = plain(name)(state, table(), jax.random.key(step), clock)
  return state


def ahead_by_hand(name, state, upper, key):
  """The held-out loss after one step on the fit rows, in numpy from the equations."""
  batch, w = table(), np.asarray(state.params)
  first = int(jax.random.randint(key, (), 0, 2))
  held = (np.arange(12) + first) % 2 == 0
  x = batch["x"] + 0.1 * np.asarray(jax.random.normal(key, (12, 2)))
  slope = np.zeros(2)
  for k in range(3):
    rows = [i for i in range(4 * k, 4 * k + 4) if batch.valid[i] and not held[i]]
    for i in rows:
      slope += upper[k] * 2 * (x[i] @ w - batch["y"][i]) * x[i] / len(rows)
  if name == "adam":
    adam = state.opt_state[0]
    t = int(adam.count) + 1
    first = (0.9 * np.asarray(adam.mu) + 0.1 * slope) / (1 - 0.9**t)
    second = (0.999 * np.asarray(adam.nu) + 0.001 * slope**2) / (1 - 0.999**t)
    slope = first / (np.sqrt(second + optimizer.EPS_ROOT) + 1e-8)
  w = w - LR * slope
  rows = held & batch.valid
  return 100 * np.mean((batch["x"][rows] @ w - batch["y"][rows]) ** 2)


@pytest.mark.parametrize("name", INNER)
def test_the_update_moves_the_upper_level_then_the_parameters(x64, name):
  """The look-ahead goes through the live optimiser and is thrown away: what is left is
  a step of `outer_tx` and one of `gradient_update` with the new weights."""
  state, key = toy_state(name, 3), jax.random.key(9)
  clock = StepInfo(jnp.asarray(AFTER), jnp.asarray(0.5))
  found, told = jax.jit(nested(INNER[name]))(state, table(), key, clock)
  upper = np.asarray(state.model_state["upper"])
  f = lambda u: ahead_by_hand(name, state, u["u"], key)
  slopes = differences(f, {"u": upper})
  assert np.abs(slopes).min() > 1e-3
  np.testing.assert_allclose(told["hypergradient"], np.linalg.norm(slopes), rtol=1e-5)
  moved = np.asarray(found.model_state["upper"]) - upper
  np.testing.assert_allclose(moved, -0.5 * slopes, rtol=1e-5)
  trace = tiny_runs.numbers(found.model_state["upper_opt"])[0]
  np.testing.assert_allclose(trace, slopes, rtol=1e-5)
  with_new = state._replace(model_state=state.model_state | {"upper": found.model_state["upper"]})
  expected, told_plain = plain(name)(with_new, table(), key, clock)
  tiny_runs.assert_close(found.params, expected.params, rtol=1e-12)
  tiny_runs.assert_close(found.opt_state, expected.opt_state, rtol=1e-12)
  np.testing.assert_allclose(told["loss"], told_plain["loss"], rtol=1e-12)
  assert found.model_state["count"] == state.model_state["count"] + 1


def test_the_upper_level_rests_before_it_may_move(x64):
  """Before step `after`, and in the first step of a stage, where the state is fresh:
  nothing of the NaN that a fresh Adam has gets out."""
  state, key = toy_state("adam", 0), jax.random.key(9)
  run = jax.jit(nested(INNER["adam"]))
  for step, progress in ((0, 0.0), (AFTER - 1, 0.4), (3 * AFTER, 0.0)):
    clock = StepInfo(jnp.asarray(step), jnp.asarray(progress))
    found, told = run(state, table(), key, clock)
    expected, _ = plain("adam")(state, table(), key, clock)
    assert told["hypergradient"] == 0
    assert tiny_runs.same(found.model_state, expected.model_state)
    assert tiny_runs.same(found.model_state["upper"], state.model_state["upper"])
    tiny_runs.assert_close(found.params, expected.params, rtol=1e-12)
  fresh, _ = run(state, table(), key, StepInfo(jnp.asarray(AFTER), jnp.asarray(0.5)))
  assert np.all(np.isnan(fresh.model_state["upper"]))


def test_seeds_at_once_keep_the_branch(x64):
  """The clock is one for all seeds, so that a step that rests costs no look-ahead."""
  states = jax.tree.map(lambda x: jnp.stack([x, x]), toy_state("sgd", 0))
  seeds = jax.vmap(nested(INNER["sgd"]), in_axes=(0, None, 0, None))
  keys = jax.vmap(jax.random.key)(jnp.arange(2))
  clock = StepInfo(jnp.asarray(0), jnp.asarray(0.0))
  equations = jax.make_jaxpr(seeds)(states, table(), keys, clock).eqns
  assert "cond" in {equation.primitive.name for equation in equations}


def weighted(spec) -> Method:
  """A linear layer a modality, whose losses the upper level weighs."""
  del spec
  tx = relative_advantage.projected_adam(0.1)

  def init(key):
    upper = jnp.full(2, 2**-0.5)
    draws = 0.3 * jax.random.normal(key, (2, 4, 2))
    return {"w": draws}, {"upper": upper, "upper_opt": tx.init(upper)}

  def logits(params, batch):
    return jnp.einsum("bmd,mdc->mbc", tiny_runs.shown(batch).reshape(-1, 2, 4), params["w"])

  def loss(params, model_state, batch, key, clock):
    each = [tiny_runs.cross_entropy(x, batch) for x in logits(params, batch)]
    return jnp.sum(model_state["upper"] * jnp.stack(each)), (model_state, {})

  def outer_loss(params, batch, key):
    return tiny_runs.cross_entropy(jnp.sum(logits(params, batch), axis=0), batch)

  def hold_out(batch, key):
    held = jax.random.bernoulli(key, 0.5, batch.labelled.shape)
    labelled = batch.labelled
    return batch.replace(labelled=labelled & ~held), batch.replace(labelled=labelled & held)

  def update(stage, inner):
    return update_rules.bilevel_update(
      stage, inner, outer_loss=outer_loss, outer_tx=tx, split=hold_out, first_step=2
    )

  def predict(params, model_state, batch, pattern=None):
    del model_state, pattern
    return {"logits": jnp.sum(logits(params, batch), axis=0)}

  return Method(init, predict, (Stage("train", loss, update=update),))


def fitted(source, mesh, lines, **more):
  """`fit` of that method, two seeds, 10 steps in calls of 5."""
  seed_parallelism = more.pop("seed_parallelism", "map")
  config = tiny_runs.settings(steps=10, select_on="full", seed_parallelism=seed_parallelism)
  rows = tiny_runs.rows(source, protocol="bernoulli(0.3)")
  method, valid = weighted(source.spec), source.split("valid")
  return loop.fit(method, source.spec, rows, valid, config, mesh=mesh, log=lines.extend, **more)


def test_the_update_in_a_whole_run(one_device, tmp_path):
  """Two seeds, by map, by vmap, and by map stopped halfway and resumed."""
  source, whole, other, parts = tiny_runs.dataset(), [], [], []
  with tiny_runs.compile_once(tmp_path / "compiled"):
    fit = fitted(source, one_device, whole)
    by_vmap = fitted(source, one_device, other, seed_parallelism="vmap")
    stop = lambda: signal.SIGTERM if len(parts) == 2 else 0
    with checkpoint.open_manager(tmp_path / "run") as manager:
      with pytest.raises(loop.TrainingInterrupted):
        fitted(source, one_device, parts, manager=manager, stop=stop)
    with checkpoint.open_manager(tmp_path / "run") as manager:
      resumed = fitted(source, one_device, parts, manager=manager)
  told = [line["hypergradient"] for line in whole]
  assert len(told) == 4 and min(told) > 0 and np.all(np.isfinite(told))
  upper = np.asarray(fit.model_state["upper"])
  assert tiny_runs.moved(upper) and np.abs(upper - 2**-0.5).min() > 1e-2
  np.testing.assert_allclose(np.linalg.norm(upper, axis=1), 1, rtol=1e-5)
  tiny_runs.assert_close(by_vmap.params, fit.params, rtol=1e-4, atol=1e-5)
  tiny_runs.assert_close(by_vmap.model_state, fit.model_state, rtol=1e-3, atol=1e-5)
  assert tiny_runs.same((resumed.params, resumed.model_state), (fit.params, fit.model_state))
  assert tiny_runs.same((resumed.score, resumed.at), (fit.score, fit.at))
  assert parts == whole
