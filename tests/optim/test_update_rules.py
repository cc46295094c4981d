"""The bi-level update of a toy stage by hand, and in a whole run."""

import functools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny_runs
from promise_jax.method import Method, Stage, StepInfo, TrainState
from promise_jax.optim import optimizer, relative_advantage, update_rules
from promise_jax.training import checkpoint, loop


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


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
