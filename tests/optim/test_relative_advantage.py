"""RedCore's controller against the authors' printed numbers and a slow loop."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from promise_jax.optim import relative_advantage

# The imputation losses (A, V, L) that the authors' code prints at steps 0 to 6.
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


def run_controller(losses, in_batch=True, **settings):
  """(beta, averaged losses) f[T, M] after each of the losses f[T, M]."""
  tx = relative_advantage.controller(**settings)
  losses = jnp.asarray(losses, float)

  def step(carry, now):
    beta, state = carry
    loss, in_batch = now
    change, state = tx.update(loss, state, beta, in_batch=in_batch)
    beta = optax.apply_updates(beta, change)
    return (beta, state), (beta, state.mean_loss)

  def run(losses, in_batch):
    beta = jnp.ones(losses.shape[1], losses.dtype)
    return jax.lax.scan(step, (beta, tx.init(beta)), (losses, in_batch))[1]

  return jax.jit(run)(losses, jnp.broadcast_to(in_batch, losses.shape))


def run_slow_loop(losses, in_batch, *, rho, step_size, growth, growth_every, every, floor):
  """The same from the equations, in plain Python."""
  beta, mean_loss = [1.0] * len(losses[0]), [0.0] * len(losses[0])
  betas, mean_losses = [], []
  for t, loss in enumerate(losses):
    for m, value in enumerate(loss):
      if in_batch[t][m]:
        mean_loss[m] = (1 - rho) * mean_loss[m] + rho * value
    mean = sum(mean_loss) / len(mean_loss)
    advantage = [(mean - x) / mean if mean else 0.0 for x in mean_loss]
    if t % growth_every == 0:
      step_size *= growth
    if t % every == 0:
      b = [max(x - step_size * a, floor) for x, a in zip(beta, advantage, strict=True)]
      norm = math.sqrt(sum(x * x for x in b))
      beta = [x / norm for x in b]
    betas.append(list(beta))
    mean_losses.append(list(mean_loss))
  return np.array(betas), np.array(mean_losses)


def test_the_betas_that_the_authors_print():
  """Five digits of beta, and the averages to a hundredth of 158,016."""
  with jax.enable_x64(True):
    beta, mean_loss = run_controller(PRINTED, **AUTHORS)
  first, fourth = [0.58374, 0.55063, 0.59670], [0.57108, 0.52944, 0.62734]
  expected = [first] * 3 + [fourth] * 3 + [[0.54571, 0.53189, 0.64753]]
  np.testing.assert_allclose(beta, expected, atol=5.1e-6)
  np.testing.assert_allclose(mean_loss[3], [158016.25, 148201.95, 207579.51], atol=5.1e-3)
  single, _ = run_controller(PRINTED, **AUTHORS)
  assert single.dtype == jnp.float32
  np.testing.assert_allclose(single[6], expected[6], atol=5.2e-6)


def test_a_growing_step_drives_beta_into_a_corner():
  """Constant losses 1, 2, 3; six digits."""
  with jax.enable_x64(True):
    beta, mean_loss = run_controller(np.tile([1.0, 2.0, 3.0], (502, 1)), **AUTHORS)
    advantage = [relative_advantage.relative_advantage(mean_loss[step]) for step in (0, 300)]
  expected = {
    0: [0.533050, 0.576271, 0.619491],
    3: [0.452603, 0.569417, 0.686232],
    6: [0.369155, 0.556678, 0.744201],
    30: [0.093455, 0.354184, 0.930494],
    300: [0.092966, 0.092966, 0.991320],
    501: [0.089860, 0.089860, 0.991892],
  }
  for step, digits in expected.items():
    np.testing.assert_allclose(beta[step], digits, atol=5.1e-7, err_msg=str(step))
  np.testing.assert_allclose(advantage, [[0.5, 0, -0.5]] * 2, atol=1e-12)


def test_the_step_grows_up_to_a_bound():
  step_size = relative_advantage.growing_step(0.1, 1.5, 500)
  steps = jnp.array([0, 499, 500, 1000, 1500, 2000, 10**6])
  expected = [0.15, 0.15, 0.225, 0.3375, 0.50625, 0.759375, 1e6]
  np.testing.assert_allclose(step_size(steps), expected, rtol=1e-6)
  assert relative_advantage.growing_step(0.1, 1.0, 500)(10**6) == pytest.approx(0.1)


def test_a_step_that_grew_for_long_leaves_beta_on_the_sphere():
  """1.5 to the power of the step overflows float32 after 220 steps."""
  losses = np.random.default_rng(0).uniform(1, 2, (300, 3))
  beta, _ = run_controller(losses, growth=1.5, growth_every=1, every=1)
  np.testing.assert_allclose(np.linalg.norm(beta, axis=1), 1, rtol=1e-6)


def random_case(num_losses: int):
  """30 random losses of very different sizes, a fifth of them of modalities not in the batch."""
  rng = np.random.default_rng(num_losses)
  losses = np.exp(rng.normal(size=(30, num_losses)) * 2)
  in_batch = rng.random((30, num_losses)) < 0.8
  settings = {"rho": 0.6, "step_size": 0.2, "growth": 1.3, "growth_every": 7, "every": 4}
  return losses, in_batch, settings | {"floor": 0.15}


@pytest.mark.parametrize("num_losses", [2, 3, 4])
def test_the_controller_agrees_with_the_slow_loop(num_losses):
  losses, in_batch, settings = random_case(num_losses)
  beta, mean_loss = run_controller(np.where(in_batch, losses, np.nan), in_batch, **settings)
  slow_beta, slow_mean_loss = run_slow_loop(losses.tolist(), in_batch.tolist(), **settings)
  np.testing.assert_allclose(mean_loss, slow_mean_loss, rtol=1e-5)
  np.testing.assert_allclose(beta, slow_beta, rtol=1e-4)
  assert np.ptp(slow_beta, axis=0).min() > 0.1
  np.testing.assert_array_equal(mean_loss[1:][~in_batch[1:]], mean_loss[:-1][~in_batch[1:]])


def test_the_controller_vectorises_over_seeds():
  losses, in_batch, settings = random_case(3)
  rolled = np.stack([np.roll(losses, i, axis=0) for i in range(3)], axis=1)
  tx = relative_advantage.controller(**settings)

  def step(beta, state, loss, in_batch):
    change, state = tx.update(loss, state, beta, in_batch=in_batch)
    return optax.apply_updates(beta, change), state

  step = jax.jit(jax.vmap(step, in_axes=(0, 0, 0, None)))
  carry = jnp.ones((3, 3)), jax.vmap(tx.init)(jnp.ones((3, 3)))
  for t in range(12):
    carry = step(*carry, jnp.asarray(rolled[t], jnp.float32), in_batch[t])
  for i in range(3):
    expected, _ = run_slow_loop(rolled[:12, i].tolist(), in_batch[:12].tolist(), **settings)
    np.testing.assert_allclose(carry[0][i], expected[-1], rtol=1e-4)


def test_advantage_sums_to_zero_is_at_most_one_and_has_no_unit(rng):
  mean_loss = np.exp(3 * rng.normal(size=(50, 4))).astype(np.float32)
  advantages = jax.jit(jax.vmap(relative_advantage.relative_advantage))
  advantage = np.asarray(advantages(mean_loss))
  np.testing.assert_allclose(advantage.sum(axis=1), 0, atol=1e-5)
  assert np.all(advantage <= 1) and advantage.max() > 0.9
  np.testing.assert_allclose(advantages(1e3 * mean_loss), advantage, atol=1e-5)
  np.testing.assert_array_equal(advantage > 0, mean_loss < mean_loss.mean(axis=1, keepdims=True))


def test_losses_of_zero_give_no_advantage_and_equal_weights():
  beta, mean_loss = run_controller(np.zeros((2, 3)))
  np.testing.assert_array_equal(relative_advantage.relative_advantage(mean_loss[0]), np.zeros(3))
  np.testing.assert_allclose(beta, np.full((2, 3), 3**-0.5), rtol=1e-6)


@pytest.mark.parametrize(
  ("beta", "raised"),
  [
    ([3.0, 4.0], [3.0, 4.0]),
    ([-8.4, 0.8], [0.1, 0.8]),  # an entry ends below the floor of .1
    ([-0.5, -0.5, -0.5, -0.5], [0.1, 0.1, 0.1, 0.1]),
    ([0.5, 1.0, 0.0, 2.0], [0.5, 1.0, 0.1, 2.0]),
  ],
)
def test_project_to_sphere_raises_to_the_floor_then_scales_to_norm_1(beta, raised):
  projected = relative_advantage.project_to_sphere(jnp.array(beta), 0.1)
  np.testing.assert_allclose(projected, np.array(raised) / np.linalg.norm(raised), rtol=1e-6)


def test_projected_adam_takes_a_step_as_long_as_its_rate_and_projects():
  """The first step of Adam is its rate against the sign of the gradient."""
  tx, beta = relative_advantage.projected_adam(0.2, floor=0.5), jnp.array([0.6, 0.8])
  step = jax.jit(lambda grads: tx.update(grads, tx.init(beta), beta)[0])
  moved = beta + step(jnp.array([5.0, -1e-3]))
  np.testing.assert_allclose(moved, np.array([0.5, 1.0]) / math.hypot(0.5, 1.0), rtol=1e-4)
