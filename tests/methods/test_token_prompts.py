"""MPLMM and ProMMA on the host of tokens: what stages train, and what is left without parts."""

import jax
import numpy as np
import promma_cases as cases
import pytest

import example_batches
from promise_jax import methods
from promise_jax.method import TrainState
from promise_jax.optim import optimizer, param_paths, update_rules

KEY = jax.random.key(0)
PAIR = example_batches.VECTORS[:2]
SMALL = {"width": 8, "heads": 2, "prompts": 2}


def built(name, task="multilabel", **values):
  spec = example_batches.spec(task, PAIR)
  return spec, methods.build_method(name, SMALL | values, spec)


def test_with_all_parts_off_promma_is_mplmm():
  spec, host = built("mplmm")
  _, this = built("promma", **cases.ALL_OFF)
  assert jax.eval_shape(this.init, KEY)[0] == jax.eval_shape(host.init, KEY)[0]
  params, batch = example_batches.random_params(this), example_batches.mixed_batch(spec)
  batch = example_batches.to_inputs(batch)
  run = jax.jit(lambda p: [x.predict(p, {}, batch)["logits"] for x in (this, host)])
  np.testing.assert_allclose(*run(params), rtol=1e-5, atol=1e-6)


def test_the_host_alone_does_not_run_the_layers_of_the_prompts():
  spec, host = built("mplmm", tune=0.0)
  assert [stage.name for stage in host.stages] == ["pretrain"]
  batch = example_batches.mixed_batch(spec)
  params = example_batches.random_params(host)
  grads = jax.jit(jax.grad(host.stages[0].loss, has_aux=True))(params, {}, batch, KEY, None)[0]
  moved = {path for path, x in param_paths.leaves_by_path(grads).items() if np.any(x)}
  parts = ("projection_a", "projection_b", "embedding_absent", "inner", "output")
  assert {path.split("/")[2] for path in moved} == set(parts)


def test_what_masks_hide_for_good_is_hidden_from_the_host():
  spec, method = built("mplmm")
  batch = example_batches.mixed_batch(spec)
  assert all(stage.hide for stage in method.stages)
  loss = jax.jit(method.stages[0].loss)
  params = example_batches.random_params(method)
  hidden = example_batches.poison(batch, spec, batch.present)
  first, again = (loss(params, {}, x, KEY, None)[0] for x in (batch, hidden))
  assert np.isfinite(first) and first == again


@pytest.mark.parametrize("name", ["mplmm", "promma"])
def test_prompts_come_to_life(name):
  """All that `tune` trains has a gradient by the fourth step; attention to one step has none."""
  more = {"gate_every": 1, "warmup": 0.0} if name == "promma" else {}
  spec, method = built(name, "regression", **more)
  stage, batch = method.stages[-1], example_batches.mixed_batch(spec)
  tx = optimizer.make_optimizer(optimizer.OptimConfig(schedule="constant"), 9, stage.trainable)
  update = jax.jit(update_rules.gradient_update(stage, tx))
  params, model_state = stage.on_start(KEY, *jax.jit(method.init)(KEY))
  state = TrainState(params, model_state, tx.init(params))
  for i in range(3):
    state, _ = update(state, batch, jax.random.key(i), example_batches.step_info(0.5))
  grad = jax.jit(jax.grad(stage.loss, has_aux=True))
  grads, _ = grad(state.params, state.model_state, batch, KEY, example_batches.step_info(0.5))
  grads = param_paths.leaves_by_path(grads)
  still = {path.removeprefix("params/") for path, x in grads.items() if not np.any(x)}
  assert still <= {"private/query_kernel", "private/key_kernel"}
  after, before = map(param_paths.leaves_by_path, (state.params, params))
  same = {path for path in before if np.array_equal(after[path], before[path])}
  assert same == {"params/backbone/inner/bias", "params/backbone/inner/kernel"}
