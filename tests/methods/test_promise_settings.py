"""PROMISE-style: the preset, parameters by hand, and settings that are refused."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import example_batches
from promise_jax import methods, types
from promise_jax.method import TrainState
from promise_jax.methods import promise
from promise_jax.methods.presets import PRESET_TRAINING, PRESETS
from promise_jax.nn import tokens
from promise_jax.optim import optimizer

SPEC = example_batches.spec()
CLIP = PRESETS["clip"]["promise"]


@pytest.mark.parametrize("generate", ["constant", "zeros"])
def test_the_baselines_generate_as_many_tokens_as_prompts(generate):
  """Unless the modality itself has more tokens."""
  modalities = example_batches.VECTORS[0], example_batches.KINDS[2], example_batches.VECTORS[2]
  spec = example_batches.spec(modalities=modalities)
  sizes = {"hidden": 4, "num_prompts": 2, "num_heads": 2, "encoder": "steps"}
  config = promise.PromiseConfig(**sizes, generate=generate)
  net = promise.PromiseNet(spec.modalities, spec.task.outputs, config)
  method, batch = promise.promise(config, spec), example_batches.mixed_batch(spec)
  params = example_batches.random_params(method)

  def fill_tokens(net, batch):
    return net.generate(*net.tokenize(batch, None), batch.present)

  fill = functools.partial(net.apply, method=fill_tokens)
  filled, masks = jax.eval_shape(fill, params, batch)
  assert [x.shape for x in filled] == [(example_batches.ROWS, t, 4) for t in (2, 6, 2)]
  assert [x.shape for x in masks] == [(example_batches.ROWS, t) for t in (2, 6, 2)]
  args = params, {}, batch, jax.random.key(0), example_batches.step_info(0)
  loss, (_, terms) = jax.eval_shape(method.stages[0].loss, *args)
  assert loss.shape == () and set(terms) == {"supervised", "fncl", "cccl"}


def test_positions_are_sines_and_cosines():
  table = tokens.sinusoidal_positions(3, 4)
  expected = [[math.sin(t), math.cos(t), math.sin(t / 100), math.cos(t / 100)] for t in range(3)]
  np.testing.assert_allclose(table, expected, atol=1e-6)


def test_prompts_have_their_own_learning_rate_and_no_decay():
  """Ten times the rate with the preset, under a loss whose gradient is 1."""
  tree = {"a": {"prompts": jnp.ones((2, 2)), "kernel": jnp.ones((2, 2))}}
  method = methods.build_method("promise", CLIP, SPEC)
  loss = lambda params, *_: (sum(map(jnp.sum, jax.tree.leaves(params))), ({}, {}))
  stage, tx = method.stages[0]._replace(loss=loss), optax.sgd(0.5)
  new, _ = stage.update(stage, tx)(TrainState(tree, {}, tx.init(tree)), *[None] * 3)
  assert float(new.params["a"]["prompts"][0, 0]) == 1 - 5
  assert float(new.params["a"]["kernel"][0, 0]) == 1 - 0.5
  assert optimizer.weight_decay_mask(tree) == {"a": {"prompts": False, "kernel": True}}


def test_the_preset_clip_has_its_values_and_sizes():
  """Two modalities of features of widths 512 and 768: numbers of parameters by hand."""
  assert CLIP == {
    **{"encoder": "steps", "hidden": 512, "num_heads": 8, "dropout": 0.1, "norm": True},
    **{"num_prompts": 16, "num_cross_layers": 2, "num_self_layers": 2, "code_size": 128},
    **{"temperature": 0.07, "fncl_weight": 0.1, "cccl_weight": 0.1, "num_views": 2},
    **{"augment_strength": 1.0, "hide_views": False, "prompt_lr_factor": 10.0},
  }
  training = {"optim": {"lr": 1e-4, "weight_decay": 0.02, "warmup": 0.1}}
  assert PRESET_TRAINING["clip", "promise"] == training
  text = types.Modality("text", "sequence", (77, 512))
  image = types.Modality("image", "sequence", (197, 768))
  spec = types.Spec((text, image), types.Task("classes", 101), {})
  method = methods.build_method("promise", CLIP, spec)
  params, _ = jax.eval_shape(method.init, jax.random.key(0))
  count = lambda tree: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
  d, p = 512, params["params"]
  linear, ffn = d * d + d, 2 * 4 * d * d + 5 * d
  heads = 3 * d * d + linear
  assert count(p["tokenizers_0"]) == 2 * 512 + 512 * d + d + d
  assert count(p["tokenizers_1"]) == 2 * 768 + 768 * d + d + d
  assert count(p["generate"]["absent_0"]) == 16 * d + heads + ffn + 6 * d
  assert count(p["cross_layers_0"]) == 2 * (heads + ffn + 6 * d)
  assert count(p["self_layers_0"]) == 2 * (heads + ffn + 4 * d)
  assert count(p["instance_projection"]) == linear + 128 * d + 128
  assert count(p["pool"]) == 2 * d * d + d and count(p["head"]) == 101 * d + 101


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"encoder": "clip"}, "promise.encoder is 'clip', known are pooled, steps"),
    ({"generate": "mean"}, "known are query, memory, mix, constant, zeros, none"),
    ({"hidden": 6}, "promise.hidden is 6, it must be a multiple of num_heads"),
    ({"temperature": 0.0}, "promise.temperature is 0.0, it must be above 0"),
    ({"augment_strength": 1.5}, r"augment_strength is 1.5, it must lie in \[0, 1\]"),
    ({"dropout": 1.0}, r"promise.dropout is 1.0, it must lie in \[0, 1\)"),
    ({"num_views": 0}, "promise.num_views is 0, it must be at least 1"),
  ],
)
def test_an_impossible_setting_is_an_error(values, message):
  with pytest.raises(ValueError, match=message):
    methods.build_method("promise", values, SPEC)


def test_memory_needs_a_second_modality():
  spec = example_batches.spec(modalities=example_batches.VECTORS[:1])
  with pytest.raises(ValueError, match="modalities is 1, it must be at least 2"):
    methods.build_method("promise", {"generate": "memory"}, spec)
  method = methods.build_method("promise", {"num_cross_layers": 1, "hidden": 4}, spec)
  assert "cross_layers_0" not in jax.eval_shape(method.init, jax.random.key(0))[0]["params"]
