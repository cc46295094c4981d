"""RedCore: prediction, presets, one modality, and what `as_released` brings back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import example_batches
import redcore_oracle
import tiny_runs
from promise_jax.methods import redcore, redcore_upper
from promise_jax.methods.presets import PRESETS
from promise_jax.methods.redcore import RedcoreConfig
from promise_jax.optim import optimizer, update_rules
from redcore_oracle import SIZES, SPEC, build, latents, loss, reached, select, weighted_gradient

pytestmark = pytest.mark.usefixtures("compile_once")


def test_one_modality_is_enough():
  """There is nothing to impute from: its embedding is taught, its encoder is not."""
  spec = example_batches.spec(modalities=example_batches.VECTORS[:1])
  config = RedcoreConfig(**SIZES)
  method, model_state = redcore.redcore(config, spec), redcore_upper.init_state(config, 1)
  params, batch = example_batches.random_params(method), example_batches.mixed_batch(spec)

  def gradient_of(params, model_state, cotangent):
    def f(params):
      args = batch, jax.random.key(0), example_batches.step_info(0.5)
      total, (state, metrics) = method.stages[0].loss(params, model_state, *args)
      return (total, metrics["imputation/a"].value), state

    values, pull_back, state = jax.vjp(f, params, has_aux=True)
    return values, pull_back(cotangent)[0], state

  run, one, zero = jax.jit(gradient_of), jnp.ones(()), jnp.zeros(())
  values, grads, state = run(params, model_state, (one, zero))
  assert all(np.isfinite(x).all() for x in tiny_runs.to_numpy((values, grads, state)))
  assert reached(grads) == {"encoders_0", "joint_head", "unimodal_heads_0", "absent"}
  assert state["upper"] == 1 and run(params, state, (one, zero))[2]["upper"] == 1
  _, grads, _ = run(params, model_state, (zero, one))
  assert reached(grads) == {"absent"}


def test_the_preset_authors_has_the_values_of_the_released_code():
  """Whatever the defaults are. Of their three values for the imputation weight, that of the
  run."""
  config = RedcoreConfig(**PRESETS["authors"]["redcore"])
  expected = {
    **{"head_dropout": 0.5, "vib": True, "kl_weight": 8e-4, "imputation_weight": 0.15},
    **{"unimodal_weight": 1.0, "detach_latents": False, "upper": "relative_advantage"},
    **{"beta_step": 0.1, "beta_growth": 1.5, "beta_every": 3, "num_subsets": 0},
    **{"as_released": True, "num_autoencoders": 5, "encoder": "transformer", "num_blocks": 3},
  }
  assert {k: getattr(config, k) for k in expected} == expected
  widths = {"hidden", "imputer_hidden", "head_hidden"}
  ours = {"hypergradient_lr", "hypergradient_from"}
  assert set(vars(config)) == set(expected) | widths | ours


@functools.cache
def predict(variant: str):
  return jax.jit(build(variant)[1].predict)


@pytest.mark.parametrize("variant", ["clean", "authors"])
def test_prediction_equals_a_slow_loop(variant):
  """Clean: from mu. As released: from a sample that follows the id of the row."""
  net, _, params, model_state = build(variant)
  batch = example_batches.mixed_batch(SPEC)
  logits = np.asarray(predict(variant)(params, model_state, batch)["logits"])
  _, mean, logvar = latents(variant)(params, batch)
  z = mean = np.asarray(mean)
  if variant == "authors":
    noise = redcore_oracle.noise(jax.random.key(0), batch.id)
    z = mean + np.exp(np.asarray(logvar) / 2) * noise
  for n, visible in enumerate(batch.present):
    imputed = redcore_oracle.impute(params["params"], net.config, z[n], visible)
    r = np.concatenate([z[n, m] if visible[m] else imputed[m] for m in range(3)])
    expected = redcore_oracle.head(params["params"]["joint_head"], r)
    np.testing.assert_allclose(logits[n], expected, 1e-4, 1e-4)


def test_the_noise_at_test_follows_the_id():
  _, _, params, model_state = build("authors")
  batch = example_batches.complete_batch(SPEC)
  run = lambda batch: np.asarray(predict("authors")(params, model_state, batch)["logits"])
  first = run(batch)
  np.testing.assert_array_equal(run(batch), first)
  other = run(batch.replace(id=batch.id + 1000))
  assert (np.abs(other - first).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("variant", ["clean", "authors"])
def test_the_code_of_an_absent_modality_is_the_same_for_all_rows(variant):
  params, batch = build(variant)[2], example_batches.complete_batch(SPEC)
  nothing = np.zeros((example_batches.ROWS, 3), bool)
  batch = batch.replace(present=nothing)
  _, mean, logvar = latents(variant)(params, batch)
  for x in (np.asarray(mean), np.asarray(logvar)):
    assert (x == x[:1]).all()
  poisoned = example_batches.poison(batch, SPEC, nothing)
  np.testing.assert_array_equal(latents(variant)(params, poisoned)[1], mean)


def test_logvar_is_bounded_unless_as_released():
  batch = example_batches.complete_batch(SPEC)
  for variant, is_bounded in (("clean", True), ("authors", False)):
    params = jax.tree.map(lambda x: 30 * x, build(variant)[2])
    largest = np.abs(latents(variant)(params, batch)[2]).max()
    assert largest == 10.0 if is_bounded else largest > 100


def test_random_subsets_and_as_released_exclude_each_other():
  with pytest.raises(ValueError, match="num_subsets is 2, it must be 0 with redcore.as_released"):
    RedcoreConfig(as_released=True)


def test_as_released_clips_every_module_alone(monkeypatch):
  """One that explodes does not freeze the others."""
  monkeypatch.setattr(update_rules, "gradient_update", lambda stage, tx: tx)
  grads = {"params": {"encoders_0": {"w": jnp.array([3e9, 4e9])}, "joint_head": jnp.ones(4)}}
  grads["params"]["absent"] = jnp.full((4,), 0.1)
  for variant, clips in (("authors", True), ("clean", False)):
    stage = build(variant)[1].stages[0]
    tx = stage.update(stage, optax.identity())
    updates = tx.update(grads, tx.init(grads), grads)[0]["params"]
    np.testing.assert_allclose(updates["absent"], 0.1)
    scale = (0.2, 0.5) if clips else (1e9, 1.0)
    np.testing.assert_allclose(updates["encoders_0"]["w"], scale[0] * np.array([3, 4]), 1e-5)
    np.testing.assert_allclose(updates["joint_head"], scale[1], 1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_steps_with_the_settings_of_the_authors_are_finite(rng, rate):
  """At .9 most rows are empty, and some batches lack a modality."""
  net, _, params, model_state = build("authors")
  config, num_lacking = net.config, 0
  tx = optimizer.clip_by_module(optax.sgd(0.1), redcore_upper.MODULE_CLIP)
  update = jax.jit(tx.update)
  state, weights = tx.init(params), select("supervised", "unimodal")
  for step in range(10):
    batch, key = example_batches.complete_batch(SPEC, seed=step), jax.random.key(step)
    batch = batch.replace(present=rng.random((example_batches.ROWS, 3)) >= rate)
    num_lacking += not batch.present.any(axis=0).all()
    total, (model_state, _) = loss("authors")(
      params, model_state, batch, key, example_batches.step_info(0.5)
    )
    weights |= {"kl": np.float32(config.kl_weight)}
    weights |= {"imputation": config.imputation_weight * model_state["upper"]}
    _, grads = weighted_gradient("authors")(params, weights, batch)
    updates, state = update(grads, state, params)
    params = jax.tree.map(np.add, params, updates)
    assert all(np.isfinite(x).all() for x in tiny_runs.to_numpy((total, params, model_state)))
  assert (num_lacking > 0) == (rate > 0)
