"""RedCore's upper level: the hypergradient, and whole runs."""

import collections
import contextlib
import signal

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import example_batches
import shortcuts
import tiny_runs
from promise_jax import methods, missing
from promise_jax.data import batches as data_batches
from promise_jax.method import StepInfo, TrainState
from promise_jax.methods import redcore, redcore_upper
from promise_jax.methods.redcore import RedcoreConfig
from promise_jax.nn import encoders
from promise_jax.optim import optimizer
from promise_jax.reports import comparison, points
from promise_jax.training import loop
from promise_jax.training.checkpoint import Checkpoints
from promise_jax.types import Average

SPEC = example_batches.spec()


@contextlib.contextmanager
def without_encoders():
  """While it lasts the code of a vector is its numbers, repeated: encoders are float32 and slow to
  compile."""

  def read(encoder, x, present, length=None):
    del length
    return jnp.tile(missing.zero_absent(x, present), encoder.hidden)[:, : encoder.hidden]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(encoders.Encoder, "__call__", read)
    yield


def test_a_quarter_of_the_rows_is_held_out_by_id():
  ids = np.arange(4000, dtype=np.int32)
  batch = example_batches.complete_batch(SPEC, rows=4000)
  batch = batch.replace(id=ids, row_mask=ids % 10 > 0)
  fit, outer = redcore_upper.hold_out(batch, jax.random.key(0))
  assert np.mean(outer.row_mask) == pytest.approx(0.225, abs=0.02)
  np.testing.assert_array_equal(fit.row_mask ^ outer.row_mask, batch.row_mask)
  assert not (fit.row_mask & outer.row_mask).any()
  turned = redcore_upper.hold_out(example_batches.take_rows(batch, ids[::-1]), jax.random.key(0))[1]
  np.testing.assert_array_equal(turned.row_mask[::-1], outer.row_mask)
  other = redcore_upper.hold_out(batch, jax.random.key(1))[1]
  assert (other.row_mask != outer.row_mask).any()


def make_upper_level():
  """A tiny RedCore in double precision with a live Adam: (update, state, (batch, key), f), where
  f(beta) is the loss of the held-out rows after a step on the others."""
  spec = example_batches.spec(modalities=example_batches.VECTORS[:2])
  sizes = {"hidden": 2, "imputer_hidden": 4, "head_hidden": 2, "num_subsets": 0}
  config = RedcoreConfig(**sizes, upper="hypergradient", hypergradient_from=5)
  method = redcore.redcore(config, spec)
  net = redcore.RedcoreNet(spec.modalities, 3, config)
  (stage,) = method.stages
  tx = optax.flatten(optimizer.make_optimizer(optimizer.OptimConfig(lr=0.1), 100))
  to_double = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)
  params = to_double(example_batches.random_params(method))
  beta = jnp.asarray([0.6, 0.8], jnp.float64)
  flat = jax.flatten_util.ravel_pytree(params)[0]
  opt_state = optax.tree_utils.tree_set(
    tx.init(params), count=jnp.int32(9), mu=0.05 * flat, nu=0.1 * flat**2 + 0.01
  )
  model_state = {
    "upper": beta,
    "controller": redcore_upper.make_controller(config).init(beta),
    "upper_opt": redcore_upper.make_adam(config).init(beta),
  }
  # Beta matters to the heads where they read what imputers say: in rows that lack a modality.
  batch, key = example_batches.mixed_batch(spec), jax.random.key(3)
  fit, outer = redcore_upper.hold_out(batch, key)
  assert fit.row_mask.any() and outer.row_mask.any()

  def inner(params, beta):
    state = model_state | {"upper": beta}
    return stage.loss(params, state, fit, key, StepInfo(jnp.int32(9), 0.5))[0]

  def loss_ahead(beta):
    updates, _ = tx.update(jax.grad(inner)(params, beta), opt_state, params)
    ahead = optax.apply_updates(params, updates)
    terms = redcore.redcore_terms(net, spec.task, ahead, outer, key)
    return terms["supervised"].value + terms["unimodal"].value

  update = jax.jit(stage.update(stage, tx))
  state = TrainState(params, model_state, opt_state)
  return update, state, (batch, key), jax.jit(loss_ahead)


@pytest.mark.slow
def test_the_hypergradient_agrees_with_finite_differences():
  """Adam's first step on it is lr * sign; then the floor and the sphere."""
  with without_encoders(), jax.enable_x64(True):
    update, state, args, loss_ahead = make_upper_level()
    new, metrics = update(state, *args, StepInfo(jnp.int32(5), 0.5))
    beta, h = np.asarray(state.model_state["upper"]), 1e-5
    slope = [(loss_ahead(beta + d) - loss_ahead(beta - d)) / (2 * h) for d in h * np.eye(2)]
    slope = np.array(slope)
    assert np.linalg.norm(slope) > 1e-4
    assert float(metrics["hypergradient"]) == pytest.approx(np.linalg.norm(slope), 1e-4)
    expected = np.maximum(beta - 0.02 * np.sign(slope), 0.1)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(new.model_state["upper"], expected, 1e-5)
    assert (new.model_state["upper"] != beta).all()
    # Before its first step the upper level rests and the lower one goes on.
    new, metrics = update(state, *args, StepInfo(jnp.int32(4), 0.5))
    assert metrics["hypergradient"] == 0
    for name in ("upper", "upper_opt"):
      assert tiny_runs.is_same(new.model_state[name], state.model_state[name])
    assert not tiny_runs.is_same(new.params, state.params)


PROGRAMS = collections.defaultdict(dict)  # of runs with the same settings on the same devices


def run_fit(mesh, upper="relative_advantage", protocol="exact(0.5)", rows=None, **more):
  """Two seeds on the toy data, 10 steps, validated every 5."""
  source = tiny_runs.dataset()
  values = {"num_subsets": 0, "upper": upper, "hypergradient_from": 2}
  method = methods.build_method("redcore", tiny_runs.VALUES["redcore"] | values, source.spec)
  rows = rows or tiny_runs.train_data(source, protocol=protocol)
  parallelism = more.pop("seed_parallelism", "map")
  config = tiny_runs.train_config(steps=10, seed_parallelism=parallelism)
  valid = source.split("valid")
  with without_encoders(), shortcuts.trace_once(PROGRAMS[upper, parallelism, mesh]):
    return loop.fit(method, source.spec, rows, valid, config, mesh=mesh, **more)


@pytest.fixture(scope="module", params=["relative_advantage", "hypergradient"])
def whole_run(request, one_device):
  """The upper level, a run that nothing interrupts, and the lines of its log."""
  lines = []
  trained = run_fit(one_device, request.param, log=lines.extend)
  return request.param, trained, [{"method": "redcore"} | line for line in lines]


def test_beta_moves_on_the_sphere_and_the_log_says_so(whole_run):
  _, trained, lines = whole_run
  beta = np.asarray(trained.model_state["upper"])
  np.testing.assert_allclose(np.linalg.norm(beta, axis=1), 1, 1e-5)
  assert (beta > 0.05).all() and (np.abs(beta - 2**-0.5) > 1e-3).all()
  groups = dict.fromkeys(("beta", "advantage", "imputation"), ["m0", "m1"])
  assert points.modality_terms(pd.DataFrame(lines)) == groups
  (sentence,) = comparison.describe_upper_levels(pd.DataFrame(lines))
  assert sentence.startswith("redcore: the upper level moved, |beta - beta0| = 0.")


def test_an_upper_level_with_steps_of_0_does_not_move():
  config, lines = RedcoreConfig(beta_step=0.0), []
  state = redcore_upper.init_state(config, 3)
  losses = Average(jnp.array([1.0, 2.0, 3.0]), jnp.ones(3))
  for step in (1, 2):
    state, metrics = redcore_upper.move_beta(config, SPEC.names, state, losses)
    lines.append({"method": "redcore", "step": step, "moved": float(metrics["moved"])})
  (sentence,) = comparison.describe_upper_levels(pd.DataFrame(lines))
  assert "did not move, |beta - beta0| = 0.000" in sentence
  none = RedcoreConfig(upper="none")
  assert "moved" not in redcore_upper.move_beta(none, SPEC.names, state, losses)[1]


def test_the_upper_level_survives_a_stop(whole_run, one_device, tmp_path):
  upper, trained, _ = whole_run
  with (
    Checkpoints(tmp_path) as checkpoints,
    pytest.raises(loop.TrainingInterrupted) as stopped,
  ):
    run_fit(one_device, upper, checkpoints=checkpoints, stop=lambda: signal.SIGTERM)
  assert stopped.value.step == 5
  with Checkpoints(tmp_path) as checkpoints:
    resumed = run_fit(one_device, upper, checkpoints=checkpoints)
  assert tiny_runs.is_same(resumed[:4], trained[:4])


@pytest.mark.slow
@pytest.mark.parametrize("whole_run", ["hypergradient"], indirect=True)
def test_vmap_over_seeds_on_eight_devices_computes_what_map_on_one_does(whole_run, eight_devices):
  """Two rows a device: how many have a modality differs from one to the next. The default upper
  level is in test_methods_devices."""
  upper, trained, _ = whole_run
  other = run_fit(eight_devices, upper, seed_parallelism="vmap")
  np.testing.assert_array_equal(other.best_step, trained.best_step)
  # Sums in another order; Adam makes a last bit of a small gradient a larger one.
  tiny_runs.assert_close(other.params, trained.params, rtol=1e-4, atol=5e-5)
  tiny_runs.assert_close(other.model_state, trained.model_state, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_training_ends_finite(one_device, rate):
  trained = run_fit(one_device, protocol=f"exact({rate})")
  arrays = tiny_runs.to_numpy((trained.params, trained.model_state))
  assert all(np.isfinite(x).all() for x in arrays)


@pytest.mark.parametrize("whole_run", ["relative_advantage"], indirect=True)
def test_what_the_protocol_hides_is_never_seen(whole_run, one_device):
  """NaN where it hides a row from both seeds changes no bit. Not so of the mean and deviation of
  the data set, which are fitted before on all recorded train values."""
  upper, trained, _ = whole_run
  rows = tiny_runs.train_data(tiny_runs.dataset(), protocol="exact(0.5)")
  kept = data_batches.train_mask(rows, 0) | data_batches.train_mask(rows, 1)
  inputs = {
    name: np.where(kept[:, i, None], rows.split.inputs[name], np.float32(np.nan))
    for i, name in enumerate(("m0", "m1"))
  }
  assert all(np.isnan(x).any() for x in inputs.values())
  poisoned = rows._replace(split=rows.split._replace(inputs=inputs))
  assert tiny_runs.is_same(run_fit(one_device, upper, rows=poisoned)[:4], trained[:4])
