"""RedCore: its loss against a slow loop, what each term teaches, presets, prediction."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import example_batches
import redcore_oracle
import tiny_runs
from promise_jax.losses import supervised
from promise_jax.methods import redcore
from redcore_oracle import (
  SPEC,
  batch_with,
  build,
  latents,
  loss,
  reached,
  select,
  weighted_gradient,
)

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.mark.parametrize("variant", ["clean", "subsets", "authors"])
def test_the_loss_equals_a_slow_loop(variant):
  """Over five batches: the losses of a batch move beta before it weighs them."""
  net, _, params, model_state = build(variant)
  config, moves = net.config, net.config.upper == "relative_advantage"
  beta, mean_loss = np.ones(3) if moves else np.full(3, 3**-0.5), np.zeros(3)
  for step in range(5):
    batch, key = example_batches.mixed_batch(SPEC, seed=step), jax.random.key(step)
    subset_key, noise_key, encoder_key, _ = jax.random.split(key, 4)
    rngs = {"dropout": encoder_key}
    z, mean, logvar = latents(variant)(params, batch, noise_key=noise_key, rngs=rngs)
    z, mean, logvar = (np.asarray(x, float) for x in (z, mean, logvar))
    draws = redcore_oracle.noise(noise_key, batch.id) if config.vib else 0.0
    np.testing.assert_allclose(z, mean + np.exp(logvar / 2) * draws, 1e-4, 1e-5)
    args = subset_key, batch.id, jnp.array(batch.present), config.num_subsets
    masks = redcore.common.random_subsets(*args)
    terms = redcore_oracle.terms(config, params, batch, z, masks)
    joint, unimodal, imputation, num_rows = terms
    is_supervised = batch.labelled & (batch.present.any(axis=1) | config.as_released)
    assert num_rows == is_supervised.sum() * (1 + config.num_subsets)
    moved, mean_loss = redcore_oracle.move_beta(config, step, beta, mean_loss, imputation)
    beta = moved if moves else beta
    expected = joint + config.unimodal_weight * unimodal
    expected += config.imputation_weight * sum(beta * imputation)
    expected += 8e-4 * redcore_oracle.bottleneck(batch, mean, logvar) * config.vib
    total, (model_state, metrics) = loss(variant)(
      params, model_state, batch, key, example_batches.step_info(0.5)
    )
    assert float(total) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(model_state["upper"], beta, 1e-4)
    assert float(metrics["supervised"].value) == pytest.approx(joint, rel=1e-4)
    logged = [metrics[f"imputation/{name}"].value for name in "abc"]
    np.testing.assert_allclose(logged, imputation, 1e-4)
    np.testing.assert_allclose([metrics[f"beta/{name}"] for name in "abc"], beta, 1e-4)
    advantage = (mean_loss.mean() - mean_loss) / mean_loss.mean()
    logged = [metrics[f"advantage/{name}"] for name in "abc"]
    np.testing.assert_allclose(logged, advantage, 1e-3, 1e-4)
    assert ("moved" in metrics) == moves
    if moves:
      distance = math.sqrt(sum((beta - 3**-0.5) ** 2))
      assert float(metrics["moved"]) == pytest.approx(distance, rel=1e-3, abs=1e-5)


def test_a_modality_that_a_batch_lacks_keeps_its_average():
  """The loss is finite and the averages of the others go on."""
  _, _, params, model_state = build("authors")
  key, step_info = jax.random.key(0), example_batches.step_info(0.5)
  run = lambda state, batch: loss("authors")(params, state, batch, key, step_info)
  _, (model_state, _) = run(model_state, example_batches.mixed_batch(SPEC))
  before = model_state["controller"].mean_loss
  total, (model_state, metrics) = run(model_state, batch_with(0, 2))
  after = model_state["controller"].mean_loss
  assert np.isfinite(total) and metrics["imputation/b"] == (0, 0)
  assert (before > 0).all() and after[1] == before[1]
  assert (after[[0, 2],] != before[[0, 2],]).all()


def test_the_heads_have_dropout_in_training_alone(rng):
  config = redcore.RedcoreConfig(hidden=4, head_hidden=5, head_dropout=0.5)
  net = redcore.RedcoreNet(SPEC.modalities, SPEC.task.outputs, config)
  r = rng.normal(size=(16, 3, 4)).astype(np.float32)
  _, _, params, _ = build("clean")
  classify = functools.partial(net.apply, params, r, method=redcore.RedcoreNet.classify)
  noisy_heads = classify(rngs={"dropout": jax.random.key(0)})
  for quiet, noisy, again in zip(classify(), noisy_heads, classify(), strict=True):
    assert (quiet != noisy).any()
    np.testing.assert_array_equal(again, quiet)


ENCODERS, IMPUTERS, SINGLE = (
  {f"{kind}_{i}" for i in range(3)} for kind in ("encoders", "imputers", "unimodal_heads")
)
WITHOUT_0 = {"imputers_0", "encoders_1", "encoders_2"}
# (variant, term, modalities that every row has) -> the modules that have a gradient.
FLOW = {
  ("authors", "supervised", (0, 1, 2)): {"joint_head"} | ENCODERS,
  ("authors", "supervised", (1, 2)): {"joint_head"} | WITHOUT_0,
  # G_0 reads E_1(0), G_1 reads E_0(0): the encoder of an absent source learns too.
  ("authors", "supervised", (2,)): {"joint_head", "imputers_0", "imputers_1"} | ENCODERS,
  ("authors", "supervised", ()): {"joint_head"} | IMPUTERS | ENCODERS,
  ("authors", "unimodal", (0, 1, 2)): SINGLE | ENCODERS,
  ("authors", "unimodal", (1, 2)): SINGLE | WITHOUT_0,
  ("authors", "kl", (1, 2)): {"encoders_1", "encoders_2"},
  ("authors", "kl", ()): set(),
  ("authors", "imputation_0", (0, 1, 2)): {"imputers_0"} | ENCODERS,
  ("authors", "imputation_0", (0,)): {"imputers_0"} | ENCODERS,
  ("authors", "imputation_0", (1, 2)): set(),
  ("clean", "supervised", (0, 1, 2)): {"joint_head"} | ENCODERS,
  ("clean", "supervised", (1, 2)): {"joint_head"} | WITHOUT_0,
  ("clean", "supervised", (2,)): {"joint_head", "imputers_0", "imputers_1", "encoders_2", "absent"},
  ("clean", "supervised", ()): set(),
  ("clean", "unimodal", (0, 1, 2)): SINGLE | ENCODERS,
  ("clean", "unimodal", ()): set(),
  ("clean", "kl", (1, 2)): {"encoders_1", "encoders_2"},
  ("clean", "imputation_0", (0, 1, 2)): {"imputers_0"},
  ("clean", "imputation_0", (0,)): {"imputers_0", "absent"},
  ("clean", "imputation_0", (1, 2)): set(),
  ("attached", "imputation_0", (0, 1, 2)): {"imputers_0"} | ENCODERS,
  ("attached", "imputation_0", (0,)): {"imputers_0", "encoders_0", "absent"},
}


@pytest.mark.parametrize(("variant", "term", "present"), FLOW, ids=str)
def test_which_modules_a_term_teaches(variant, term, present):
  _, grads = weighted_gradient(variant)(build(variant)[2], select(term), batch_with(*present))
  assert reached(grads) == FLOW[variant, term, present]


@pytest.mark.parametrize("head", range(3))
@pytest.mark.parametrize("variant", ["clean", "attached"])
def test_a_unimodal_head_teaches_the_encoder_or_the_imputer_of_its_modality(variant, head):
  """Through the imputer it teaches the encoders of the others only if latents are attached."""
  net, _, params, _ = build(variant)

  def head_loss(params, batch):
    logits = net.apply(params, batch, noise_key=jax.random.key(0))[1][head]
    return jnp.mean(supervised.task_loss(logits, batch.label, SPEC.task))

  gradient = jax.jit(jax.grad(head_loss))
  others = {i for i in range(3) if i != head}
  complete = reached(gradient(params, batch_with(0, 1, 2)))
  assert complete == {f"unimodal_heads_{head}", f"encoders_{head}"}
  imputed = reached(gradient(params, batch_with(*others)))
  sources = {f"encoders_{i}" for i in others} if variant == "attached" else set()
  assert imputed == {f"unimodal_heads_{head}", f"imputers_{head}"} | sources


def test_no_gradient_goes_through_beta():
  _, method, params, model_state = build("clean")
  batch, step_info = example_batches.mixed_batch(SPEC), example_batches.step_info(0.5)
  gradient = jax.jit(jax.grad(method.stages[0].loss, has_aux=True))
  grads, (model_state, _) = gradient(params, model_state, batch, jax.random.key(0), step_info)
  weights = select("supervised", "unimodal") | {"kl": np.float32(8e-4)}
  weights |= {"imputation": model_state["upper"]}
  _, expected = weighted_gradient("clean")(params, weights, batch)
  tiny_runs.assert_close(grads, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["clean", "authors"])
@pytest.mark.parametrize("present", [(), (1,), (0, 1, 2)], ids=str)
def test_losses_and_gradients_are_finite(variant, present):
  batch = batch_with(*present)
  batch = example_batches.poison(batch, SPEC, batch.present)
  weights = jax.tree.map(np.ones_like, select())
  total, grads = weighted_gradient(variant)(build(variant)[2], weights, batch)
  assert all(np.isfinite(x).all() for x in (total, *jax.tree.leaves(grads)))
  if present == () and variant == "clean":
    assert total == 0
