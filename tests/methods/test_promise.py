"""PROMISE-style: the network and its loss against slow loops, and what is trained."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import example_batches
import promise_oracle as oracle
from promise_jax.devices import mesh, placement
from promise_jax.methods import promise

SIZES = {"hidden": 4, "num_prompts": 2, "num_heads": 2, "code_size": 3, "num_views": 2}
SIZES |= {"num_cross_layers": 1, "num_self_layers": 1, "encoder": "steps"}
STILL = {"dropout": 0.0, "augment_strength": 0.0, "hide_views": False}
# Vectors as they are: nothing random in the encoder.
VARIANTS = {
  "full": SIZES | {"norm": True, "augment_strength": 1.0},
  "plain": SIZES | STILL | {"fncl_weight": 0.0, "cccl_weight": 0.0},
  "masked": SIZES | STILL | {"generate": "none"},
  "memory": SIZES | STILL | {"generate": "memory"},
}
SPEC = example_batches.spec()
# A vector, up to six steps, a vector.
VECTOR_A, MOTION, VECTOR_C = (
  example_batches.VECTORS[0],
  example_batches.KINDS[2],
  example_batches.VECTORS[2],
)
STEPS = example_batches.spec(modalities=(VECTOR_A, MOTION, VECTOR_C))
SPECS = {"masked": STEPS, "memory": STEPS}


@functools.cache
def build(name: str):
  """(config, net, method, parameters) on three modalities."""
  config, spec = promise.PromiseConfig(**VARIANTS[name]), SPECS.get(name, SPEC)
  net = promise.PromiseNet(spec.modalities, spec.task.outputs, config)
  method = promise.promise(config, spec)
  return config, net, method, example_batches.random_params(method)


@functools.cache
def apply(name: str):
  """Tokens, which are real, and the output of a batch, in one program."""
  config, net, _, _ = build(name)

  def fill_tokens(net, batch):
    tokens, masks = net.tokenize(batch, None)
    return (
      (tokens, masks) if config.generate == "none" else net.generate(tokens, masks, batch.present)
    )

  def both(params, batch):
    return *net.apply(params, batch, method=fill_tokens), net.apply(params, batch)

  return jax.jit(both)


@functools.cache
def gradient(name: str):
  return jax.jit(jax.value_and_grad(build(name)[2].stages[0].loss, has_aux=True))


def differentiate(name: str, batch, key=1, params=None):
  params = build(name)[3] if params is None else params
  step_info = example_batches.step_info(0.5)
  (loss, (_, terms)), grads = gradient(name)(params, {}, batch, jax.random.key(key), step_info)
  return loss, {k: (float(v.total), float(v.count)) for k, v in terms.items()}, grads


def batch_with(*rows):
  """The complete batch, its rows having these patterns in turn."""
  batch = example_batches.complete_batch(SPEC)
  present = np.array([rows[i % len(rows)] for i in range(example_batches.ROWS)], bool)
  return batch.replace(present=present)


@pytest.mark.parametrize("name", ["full", "masked", "memory"])
def test_the_network_equals_its_equations(name):
  (config, _, _, params), spec = build(name), SPECS.get(name, SPEC)
  p, batch = params["params"], example_batches.mixed_batch(spec)
  tokens, masks, output = apply(name)(params, batch)
  for n in range(example_batches.ROWS):
    rows = []
    for i, m in enumerate(spec.modalities):
      own = np.asarray(tokens[i][n])[np.asarray(masks[i][n])]
      if batch.present[n, i]:  # passes unchanged
        z = oracle.tokens(config, p[f"tokenizers_{i}"], batch, n, m)
        np.testing.assert_allclose(own, z, 1e-4, 1e-5)
      else:  # two prompts, as many tokens as the sources have, or none
        lengths = [batch.length.get(m.name, [1] * 16)[n] for m in spec.modalities]
        count = {"query": 2, "memory": batch.present[n] @ lengths, "none": 0}
        assert len(own) == count[config.generate]
      rows.append(own.astype(float))
    np.testing.assert_allclose(output.logits[n], oracle.logits(p, rows), 1e-4, 1e-5)
    mean = np.stack([r.mean(0) if len(r) else np.zeros(4) for r in rows])
    codes = {"instance": output.instance_code, "class": output.class_code}
    for level, code in codes.items():
      phi = p[f"{level}_projection"]
      expected = oracle.dense(phi["Dense_1"], oracle.gelu(oracle.dense(phi["Dense_0"], mean)))
      np.testing.assert_allclose(code[n], expected, 1e-4, 1e-5)


@pytest.mark.parametrize("name", ["masked", "memory"])
def test_the_loss_equals_its_equations(name):
  """Two equal views. In FNCL elements of one row pull, in CCCL those of one class and modality.
  Rows with nothing have no elements, nor has what is absent if nothing is generated; unlabelled
  rows are in FNCL alone; what is absent is NaN."""
  config, _, _, params = build(name)
  batch = example_batches.mixed_batch(SPECS[name])
  output = apply(name)(params, batch)[-1]
  unread = example_batches.poison(batch, SPECS[name], batch.present)
  loss, terms, grads = differentiate(name, unread)
  assert 0 < size(grads) < math.inf
  counts = batch.present
  if config.generate != "none":
    counts = np.repeat(counts.any(1, keepdims=True), 3, axis=1)
  twice = [(n, m) for n, m in np.argwhere(counts) for _ in range(2)]
  code = np.array([output.instance_code[n, m] for n, m in twice], float)
  fncl = oracle.contrast(code, lambda a, b: twice[a][0] == twice[b][0], config.temperature)
  np.testing.assert_allclose(terms["fncl"], fncl, 1e-4)
  each = []
  for m in range(3):
    rows = [n for n, k in twice if k == m and batch.labelled[n]]
    y = batch.label[rows]
    code = np.array([output.class_code[n, m] for n in rows], float)
    total, count = oracle.contrast(code, lambda a, b, y=y: y[a] == y[b], config.temperature)
    each.append(total / count)
  np.testing.assert_allclose(terms["cccl"], (sum(each), 3), 1e-4)
  known = batch.labelled & batch.present.any(1)
  logits = np.asarray(output.logits, float)[known]
  entropy = np.log(np.exp(logits).sum(1)) - logits[np.arange(known.sum()), batch.label[known]]
  np.testing.assert_allclose(terms["supervised"], (2 * entropy.sum(), 2 * known.sum()), 1e-4)
  expected = entropy.mean() + fncl[0] / fncl[1] + np.mean(each)
  np.testing.assert_allclose(loss, expected, 1e-4)


def size(tree) -> float:
  return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))


def test_prompts_learn_from_rows_that_lack_their_modality():
  """Complete rows leave them alone."""
  _, terms, grads = differentiate("plain", batch_with((1, 1, 1)))
  assert set(terms) == {"supervised"}
  assert size(grads["params"]["generate"]) == 0 < size(grads["params"]["cross_layers_0"])
  _, _, grads = differentiate("plain", batch_with((1, 1, 1), (1, 0, 1)))
  fill = grads["params"]["generate"]
  moves = [size(fill[f"absent_{i}"]["prompts"]) > 0 for i in range(3)]
  assert moves == [False, True, False]
  assert size(fill["absent_1"]) > 0 == size(fill["absent_0"]) == size(fill["absent_2"])


def test_what_is_recorded_and_hidden_may_be_anything():
  batch = example_batches.mixed_batch(SPEC)
  there = batch.present
  assert (batch.recorded & ~there).sum() > 3
  found = differentiate("full", example_batches.poison(batch, SPEC, there))
  assert set(found[1]) == {"supervised", "fncl", "cccl"} and np.isfinite(found[0])
  assert 0 < size(found[2]) < math.inf
  expected = differentiate("full", example_batches.zero(batch, SPEC, there))
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_hidden_views_of_complete_rows_train_prompts_too():
  _, _, grads = differentiate("full", batch_with((1, 1, 1)))
  fill = grads["params"]["generate"]
  assert all(size(fill[f"absent_{i}"]["prompts"]) > 0 for i in range(3))


def test_a_row_does_not_see_the_others():
  """Rows of one pattern among others, and alone."""
  params, batch = build("full")[3], example_batches.mixed_batch(SPEC)
  logits = apply("full")(params, batch)[-1].logits
  for pattern in ((1, 1, 1), (1, 0, 1), (0, 0, 1)):
    rows = np.flatnonzero((batch.present == pattern).all(1))
    alone = np.resize(rows, example_batches.ROWS)
    other = apply("full")(params, example_batches.take_rows(batch, alone))[-1].logits
    np.testing.assert_allclose(other, logits[alone], 1e-5, 1e-6)


def test_views_are_the_row_and_changed_copies():
  config = promise.PromiseConfig(num_views=3, augment_strength=1.0)
  make_views = jax.jit(functools.partial(promise.make_views, config, SPEC))
  batch, key = example_batches.mixed_batch(SPEC), jax.random.key(0)
  views = make_views(batch, key)
  by_row = lambda x: np.asarray(x).reshape(example_batches.ROWS, 3, *x.shape[1:])
  present = by_row(views.present)
  np.testing.assert_array_equal(present[:, 0], batch.present)
  assert not (present & ~present[:, :1]).any()
  np.testing.assert_array_equal(present.any(2), present[:, :1].any(2).repeat(3, 1))
  assert (present[:, 1] != present[:, 2]).any() and (present[:, 1] != present[:, 0]).any()
  for name, x in batch.inputs.items():
    view = by_row(views.inputs[name])
    np.testing.assert_array_equal(view[:, 0], x)
    changed = (view[:, 1:] != view[:, :1]).any((0, 2))
    assert changed.all() and ((view == 0) | (view == view[:, :1])).all()
  assert len(np.unique(views.id)) == 3 * example_batches.ROWS
  order = np.random.default_rng(1).permutation(example_batches.ROWS)
  other = make_views(example_batches.take_rows(batch, order), key)
  same = lambda a, b: np.testing.assert_array_equal(by_row(a), by_row(b)[order])
  jax.tree.map(same, other, views)


def test_the_contrast_is_over_the_rows_of_all_devices(eight_devices):
  batch, params = example_batches.mixed_batch(SPEC), build("full")[3]
  by_row = jax.sharding.NamedSharding(eight_devices, jax.sharding.PartitionSpec("data"))
  everywhere = placement.place(params, mesh.replicated(eight_devices))
  loss, terms, grads = differentiate("full", batch)
  spread = differentiate("full", placement.place(batch, by_row), params=everywhere)
  np.testing.assert_allclose(spread[0], loss, 1e-5)
  for name, term in terms.items():
    np.testing.assert_allclose(spread[1][name], term, 1e-5)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-5), spread[2], grads)
