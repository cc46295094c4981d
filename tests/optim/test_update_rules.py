"""The bi-level update of a toy stage by hand; whole runs are in test_redcore_upper."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny_runs
from promise_jax.method import Stage, StepInfo, TrainState
from promise_jax.optim import optimizer, update_rules


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


# Linear regression on rows of three groups; the upper variable weighs the groups.

LR, FIRST_STEP = 0.05, 5


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
  x: np.ndarray
  y: np.ndarray
  row_mask: np.ndarray


def make_rows():
  """12 rows, four of each group, one of them masked."""
  rng = np.random.default_rng(3)
  x = rng.normal(size=(12, 2))
  return Rows(x, x.sum(axis=1) + rng.normal(size=12), np.arange(12) != 7)


def hold_out_every_other_row(rows, key):
  """The key says where that starts."""
  held_out = (jnp.arange(12) + jax.random.randint(key, (), 0, 2)) % 2 == 0
  fit_mask, outer_mask = rows.row_mask & ~held_out, rows.row_mask & held_out
  return dataclasses.replace(rows, row_mask=fit_mask), dataclasses.replace(
    rows, row_mask=outer_mask
  )


def weighted_loss(params, model_state, rows, key, step_info):
  """Weighted mean squared errors of the groups under noise; model_state counts the steps."""
  x = rows.x + 0.1 * jax.random.normal(key, rows.x.shape)
  mask = rows.row_mask.reshape(3, 4)
  error = jnp.square(x @ params - rows.y).reshape(3, 4)
  each = jnp.sum(jnp.where(mask, error, 0), axis=1) / jnp.sum(mask, axis=1)
  model_state = model_state | {"count": model_state["count"] + 1}
  return jnp.sum(model_state["upper"] * each), (model_state, {})


def held_out_loss(params, rows, key):
  """100 mean squared errors without noise."""
  error = jnp.square(rows.x @ params - rows.y)
  return 100 * jnp.sum(jnp.where(rows.row_mask, error, 0)) / jnp.sum(rows.row_mask)


INNER = {"sgd": optax.sgd(LR), "adam": optax.adam(LR, eps_root=optimizer.EPS_ROOT)}
TOY, OUTER = Stage("toy", weighted_loss), optax.sgd(0.5, momentum=0.9)


def bilevel(tx):
  """`bilevel_update` of the toy stage."""
  return update_rules.bilevel_update(
    TOY,
    tx,
    outer_loss=held_out_loss,
    outer_tx=OUTER,
    split=hold_out_every_other_row,
    first_step=FIRST_STEP,
  )


@functools.cache
def plain(name: str):
  """`gradient_update` of the toy stage."""
  return jax.jit(update_rules.gradient_update(TOY, INNER[name]))


def toy_state(name: str, num_steps: int):
  """The state after some steps of `gradient_update`, in double precision."""
  upper, params = jnp.asarray([1.0, 0.5, 2.0]), jnp.asarray([0.3, -0.4])
  model_state = {"upper": upper, "upper_opt": OUTER.init(upper), "count": jnp.asarray(0)}
  state = TrainState(params, model_state, INNER[name].init(params))
  for step in range(num_steps):
    step_info = StepInfo(jnp.asarray(step), jnp.asarray(step / 10))
    state, _ = plain(name)(state, make_rows(), jax.random.key(step), step_info)
  return state


def look_ahead_by_hand(name, state, upper, key):
  """The held-out loss after one step on the fit rows, in numpy from the equations."""
  rows, w = make_rows(), np.asarray(state.params)
  first = int(jax.random.randint(key, (), 0, 2))
  held_out = (np.arange(12) + first) % 2 == 0
  x = rows.x + 0.1 * np.asarray(jax.random.normal(key, (12, 2)))
  slope = np.zeros(2)
  for k in range(3):
    group = [i for i in range(4 * k, 4 * k + 4) if rows.row_mask[i] and not held_out[i]]
    for i in group:
      slope += upper[k] * 2 * (x[i] @ w - rows.y[i]) * x[i] / len(group)
  if name == "adam":
    adam = state.opt_state[0]
    t = int(adam.count) + 1
    first = (0.9 * np.asarray(adam.mu) + 0.1 * slope) / (1 - 0.9**t)
    second = (0.999 * np.asarray(adam.nu) + 0.001 * slope**2) / (1 - 0.999**t)
    slope = first / (np.sqrt(second + optimizer.EPS_ROOT) + 1e-8)
  w = w - LR * slope
  outer = held_out & rows.row_mask
  return 100 * np.mean((rows.x[outer] @ w - rows.y[outer]) ** 2)


def finite_differences(f, x, h=1e-6):
  """Central differences of f at x f[3]."""
  return np.array([(f(x + d) - f(x - d)) / (2 * h) for d in h * np.eye(3)])


@pytest.mark.parametrize("name", INNER)
def test_the_upper_variable_moves_then_the_parameters(x64, name):
  """The look-ahead goes through the live optimizer and is thrown away: what stays is a step
  of `outer_tx` and a `gradient_update` with the new weights."""
  state, key, rows = toy_state(name, 3), jax.random.key(9), make_rows()
  step_info = StepInfo(jnp.asarray(FIRST_STEP), jnp.asarray(0.5))
  new, metrics = jax.jit(bilevel(INNER[name]))(state, rows, key, step_info)
  upper = np.asarray(state.model_state["upper"])
  slopes = finite_differences(lambda u: look_ahead_by_hand(name, state, u, key), upper)
  assert np.abs(slopes).min() > 1e-3
  np.testing.assert_allclose(metrics["hypergradient"], np.linalg.norm(slopes), rtol=1e-5)
  moved = np.asarray(new.model_state["upper"]) - upper
  np.testing.assert_allclose(moved, -0.5 * slopes, rtol=1e-5)
  trace = tiny_runs.to_numpy(new.model_state["upper_opt"])[0]
  np.testing.assert_allclose(trace, slopes, rtol=1e-5)
  moved_state = state._replace(model_state=state.model_state | {"upper": new.model_state["upper"]})
  expected, expected_metrics = plain(name)(moved_state, rows, key, step_info)
  tiny_runs.assert_close(new.params, expected.params, rtol=1e-12)
  tiny_runs.assert_close(new.opt_state, expected.opt_state, rtol=1e-12)
  np.testing.assert_allclose(metrics["loss"], expected_metrics["loss"], rtol=1e-12)
  assert new.model_state["count"] == state.model_state["count"] + 1


def test_the_upper_variable_rests_where_the_optimizer_is_fresh(x64):
  """Before `first_step` and in the first step of a stage: the NaN of a fresh Adam does not
  leak."""
  state, key, rows = toy_state("adam", 0), jax.random.key(9), make_rows()
  update = jax.jit(bilevel(INNER["adam"]))
  for step, progress in ((0, 0.0), (FIRST_STEP - 1, 0.4), (3 * FIRST_STEP, 0.0)):
    step_info = StepInfo(jnp.asarray(step), jnp.asarray(progress))
    new, metrics = update(state, rows, key, step_info)
    expected, _ = plain("adam")(state, rows, key, step_info)
    assert metrics["hypergradient"] == 0
    assert tiny_runs.is_same(new.model_state, expected.model_state)
    assert tiny_runs.is_same(new.model_state["upper"], state.model_state["upper"])
    tiny_runs.assert_close(new.params, expected.params, rtol=1e-12)
  fresh, _ = update(state, rows, key, StepInfo(jnp.asarray(FIRST_STEP), jnp.asarray(0.5)))
  assert np.all(np.isnan(fresh.model_state["upper"]))


def test_vmap_over_seeds_keeps_the_branch(x64):
  """The step is the same for all seeds, so a step that rests costs no look-ahead."""
  states = jax.tree.map(lambda x: jnp.stack([x, x]), toy_state("sgd", 0))
  update = jax.vmap(bilevel(INNER["sgd"]), in_axes=(0, None, 0, None))
  keys = jax.vmap(jax.random.key)(jnp.arange(2))
  step_info = StepInfo(jnp.asarray(0), jnp.asarray(0.0))
  equations = jax.make_jaxpr(update)(states, make_rows(), keys, step_info).eqns
  assert "cond" in {equation.primitive.name for equation in equations}
