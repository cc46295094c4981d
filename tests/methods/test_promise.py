"""PROMISE-style: the network and its loss against slow loops, and what moves what."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import example_batches
from promise_jax import methods, types
from promise_jax.devices import mesh
from promise_jax.experiments import config as experiment_config
from promise_jax.methods import promise
from promise_jax.methods.presets import PRESETS
from promise_jax.nn import tokens as nn_tokens
from promise_jax.optim import optimizer

SIZES = {"hidden": 4, "prompts": 2, "heads": 2, "code": 3, "views": 2}
SIZES |= {"cross_layers": 1, "self_layers": 1}
STILL = {"dropout": 0.0, "strength": 0.0, "hide": False}
# Vectors as they are: nothing random in the encoder.
CASES = {
  "full": SIZES | {"encoder": "steps", "norm": True, "strength": 1.0},
  "plain": SIZES | STILL | {"encoder": "steps", "fncl": 0.0, "cccl": 0.0},
  "masked": SIZES | STILL | {"encoder": "frozen", "generate": "none"},
  "summed": SIZES | STILL | {"encoder": "frozen", "generate": "memory"},
}
CASES["masked"] |= {"positives": "cross_modal", "project": "shared"}
CASES["summed"] |= {"fuse": "sum", "project": "identity"}
SPEC = example_batches.spec()
# Features: a vector, up to six steps, a vector.
FROZEN = example_batches.spec(
  modalities=(
    example_batches.VECTORS[0],
    example_batches.KINDS[2],
    example_batches.VECTORS[2],
  )
)
SPECS = {"masked": FROZEN, "summed": FROZEN}


@functools.cache
def start(name: str):
  """(config, net, method, parameters) on three modalities."""
  config, spec = promise.PromiseConfig(**CASES[name]), SPECS.get(name, SPEC)
  net = promise.PromiseNet(spec.modalities, spec.task.outputs, config)
  method = promise.promise(config, spec)
  return config, net, method, example_batches.parameters(method)


@functools.cache
def applied(name: str):
  """R, what of it is real, codes and logits of a batch, in one program."""
  net = start(name)[1]

  def every(params, batch):
    tokens, real = net.apply(params, batch, batch.present, method="filled")
    codes = net.apply(params, tokens, real, method="codes")
    return tokens, real, codes, net.apply(params, tokens, real, method="classify")

  return jax.jit(every)


@functools.cache
def gradient(name: str):
  return jax.jit(jax.value_and_grad(start(name)[2].stages[0].loss, has_aux=True))


def differentiate(name: str, batch, key=1, params=None):
  params = start(name)[3] if params is None else params
  clock = example_batches.clock(0.5)
  (loss, (_, terms)), grads = gradient(name)(params, {}, batch, jax.random.key(key), clock)
  return loss, {k: (float(v.total), float(v.count)) for k, v in terms.items()}, grads


def showing(*rows):
  """The complete batch, its rows showing these patterns in turn."""
  batch = example_batches.complete(SPEC)
  present = np.array([rows[i % len(rows)] for i in range(example_batches.ROWS)], bool)
  return batch.replace(present=present)


# Slow loops, of one row: lists of the real steps of each modality.


def dense(p, x):
  return x @ np.asarray(p["kernel"], float) + np.asarray(p["bias"], float)


def norm(p, name, x):
  x = np.asarray(x, float)
  if name not in p:  # no LN in this network
    return x
  p = p[name]["LayerNorm_0"]
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  return (x - mean) / np.sqrt(var + 1e-6) * p["scale"] + p["bias"]


def gelu(x):
  return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def ask(p, query, sources):
  """Attention of two heads, step by step; zeros if there is nobody to ask."""
  if not len(sources):
    return np.zeros_like(query)
  kernel = [np.asarray(p[f"DenseGeneral_{i}"]["kernel"], float) for i in range(3)]
  out = []
  for step in query:
    found = []
    for head in range(2):
      q, keys = step @ kernel[0][:, head], sources @ kernel[1][:, head]
      weight = np.exp([q @ k / math.sqrt(len(q)) for k in keys])
      found.append(weight / weight.sum() @ (sources @ kernel[2][:, head]))
    out.append(np.concatenate(found))
  return dense(p["Dense_0"], np.array(out))


def layer(p, x, sources=None):
  asked = to_ask = norm(p, "Norm_0", x)
  last = "Norm_1" if sources is None else "Norm_2"
  if sources is not None:
    to_ask = norm(p, "Norm_1", sources) if len(sources) else sources
  x = x + ask(p["Attention_0"], asked, to_ask)
  return x + dense(p["Dense_1"], gelu(dense(p["Dense_0"], norm(p, last, x))))


def only(p):
  """The weights of the only layer of a scan."""
  (name,) = p
  return jax.tree.map(lambda x: np.asarray(x[0], float), p[name])


def slow_logits(p, rows, fuse):
  means = []
  for i, own in enumerate(rows):
    if not len(own):
      means.append(np.zeros(4))
      continue
    others = np.concatenate([r for j, r in enumerate(rows) if j != i])
    y = layer(only(p[f"cross_{i}"]), own, others)
    z = norm(p, f"last_{i}", layer(only(p[f"own_{i}"]), y))
    means.append(z.mean(0))
  fused = sum(means) if fuse == "sum" else np.concatenate(means)
  return dense(p["head"], np.tanh(dense(p["pool"], fused)))


def slow_tokens(config, p, batch, row, m):
  """z of a modality that is there, of weights `p`: the step of a vector, or the real
  steps of a sequence, with their positions."""
  x, place, last = batch.inputs[m.name][row][None], 0, "Dense_0"
  if m.kind == "sequence":
    x = x[0, : batch.length[m.name][row]]
    place = nn_tokens.positions(*m.shape[:1], config.hidden)[: len(x)]
  if config.encoder == "steps":
    x, last = gelu(dense(p["Dense_0"], x)), "Dense_1"
  z = dense(p[last], norm(p, "Norm_0", x)) + np.asarray(p["modality"], float)
  return z + place


@pytest.mark.parametrize("name", ["full", "masked", "summed"])
def test_the_network_is_its_equations(name):
  (config, _, _, params), spec = start(name), SPECS.get(name, SPEC)
  p, batch = params["params"], example_batches.mixed(spec)
  tokens, real, (instance, label), logits = applied(name)(params, batch)
  for n in range(example_batches.ROWS):
    rows = []
    for i, m in enumerate(spec.modalities):
      mine = np.asarray(tokens[i][n])[np.asarray(real[i][n])]
      if batch.present[n, i]:  # what is there passes unchanged
        z = slow_tokens(config, p[f"encode_{i}"], batch, n, m)
        np.testing.assert_allclose(mine, z, 1e-4, 1e-5)
      else:  # of `nn.prompts`: two prompts, what the sources have, or nothing
        there = batch.present[n]
        step = [batch.length.get(m.name, [1] * 16)[n] for m in spec.modalities]
        count = {"query": 2, "memory": there @ step, "none": 0}
        assert len(mine) == count[config.generate]
      rows.append(mine.astype(float))
    expected = slow_logits(p, rows, config.fuse)
    np.testing.assert_allclose(logits[n], expected, 1e-4, 1e-5)
    mean = np.stack([r.mean(0) if len(r) else np.zeros(4) for r in rows])
    for found, which in ((instance, "instance"), (label, "label")):
      which, phi = "instance" if config.project == "shared" else which, mean
      if config.project != "identity":
        phi = dense(p[which]["Dense_1"], gelu(dense(p[which]["Dense_0"], mean)))
      np.testing.assert_allclose(found[n], phi, 1e-4, 1e-5)


def supcon(code, pairs, temperature):
  """(sum, count) over the anchors with a positive, of unit vectors, two loops deep."""
  u = code / np.linalg.norm(code, axis=1, keepdims=True)
  s, total, count = u @ u.T / temperature, 0.0, 0
  for a in range(len(u)):
    others = [q for q in range(len(u)) if q != a]
    positive = [q for q in others if pairs(a, q)]
    if positive:
      away = math.log(sum(math.exp(s[a, q]) for q in others))
      total += np.mean([away - s[a, q] for q in positive])
      count += 1
  return total, count


@pytest.mark.parametrize("name", ["masked", "summed"])
def test_the_loss_is_its_equations(name):
  """Two equal views: elements of one row pull in FNCL, all or across modalities, of one
  class and modality in CCCL; of rows with nothing, and with `none` of what is absent,
  there are no elements; unlabelled rows are in FNCL alone; what is absent is NaN."""
  config, _, _, params = start(name)
  batch = example_batches.mixed(SPECS[name])
  _, _, codes, logits = applied(name)(params, batch)
  unread = example_batches.poisoned(batch, SPECS[name], batch.present)
  loss, terms, grads = differentiate(name, unread)
  assert 0 < size(grads) < math.inf
  counts = batch.present & batch.valid[:, None]
  if config.generate != "none":
    counts = np.repeat(counts.any(1, keepdims=True), 3, axis=1)
  twice = [(n, m) for n, m in np.argwhere(counts) for _ in range(2)]
  code = np.array([codes[0][n, m] for n, m in twice], float)
  across = config.positives == "cross_modal"

  def pull(a, b):
    (i, m), (j, n) = twice[a], twice[b]
    return i == j and (m != n or not across)

  fncl = supcon(code, pull, config.temperature)
  np.testing.assert_allclose(terms["fncl"], fncl, 1e-4)
  each = []
  for m in range(3):
    mine = [n for n, k in twice if k == m and batch.labelled[n]]
    y = batch.label[mine]
    code = np.array([codes[1][n, m] for n in mine], float)
    total, count = supcon(code, lambda a, b, y=y: y[a] == y[b], config.temperature)
    each.append(total / count)
  np.testing.assert_allclose(terms["cccl"], (sum(each), 3), 1e-4)
  known = batch.labelled & batch.present.any(1)
  logits = np.asarray(logits, float)[known]
  away = np.log(np.exp(logits).sum(1)) - logits[np.arange(known.sum()), batch.label[known]]
  np.testing.assert_allclose(terms["sup"], (2 * away.sum(), 2 * known.sum()), 1e-4)
  expected = away.mean() + config.fncl * fncl[0] / fncl[1] + config.cccl * np.mean(each)
  np.testing.assert_allclose(loss, expected, 1e-4)


def size(tree) -> float:
  return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))


def test_prompts_learn_from_rows_that_lack_their_modality():
  """Acceptance tests 4 and 5: complete rows leave prompts and generators alone, and
  those of one modality move by rows that lack it."""
  _, terms, grads = differentiate("plain", showing((1, 1, 1)))
  assert set(terms) == {"sup"}
  assert size(grads["params"]["fill"]) == 0 < size(grads["params"]["cross_0"])
  _, _, grads = differentiate("plain", showing((1, 1, 1), (1, 0, 1)))
  fill = grads["params"]["fill"]
  moves = [size(fill[f"absent_{i}"]["prompts"]) > 0 for i in range(3)]
  assert moves == [False, True, False]
  assert size(fill["absent_1"]) > 0 == size(fill["absent_0"]) == size(fill["absent_2"])


def test_what_is_hidden_cannot_matter_in_training():
  """Acceptance test 1: what is recorded and hidden may be anything."""
  batch = example_batches.mixed(SPEC)
  there = batch.present
  assert (batch.recorded & ~there).sum() > 3
  found = differentiate("full", example_batches.poisoned(batch, SPEC, there))
  assert set(found[1]) == {"sup", "fncl", "cccl"} and np.isfinite(found[0])
  assert 0 < size(found[2]) < math.inf
  expected = differentiate("full", example_batches.zeroed(batch, SPEC, there))
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("generate", ["constant", "zeros"])
def test_the_controls_have_as_many_steps_as_prompts(generate):
  """Where the modality itself has no more, in shapes alone; and they have a loss."""
  values = CASES["summed"] | {"generate": generate}
  config, batch = promise.PromiseConfig(**values), example_batches.mixed(FROZEN)
  net = promise.PromiseNet(FROZEN.modalities, FROZEN.task.outputs, config)
  method = promise.promise(config, FROZEN)
  params = example_batches.parameters(method)
  filled = functools.partial(net.apply, method="filled")
  tokens, real = jax.eval_shape(filled, params, batch, batch.present)
  assert [x.shape for x in tokens] == [(example_batches.ROWS, t, 4) for t in (2, 6, 2)]
  assert [x.shape for x in real] == [(example_batches.ROWS, t) for t in (2, 6, 2)]
  args = params, {}, batch, jax.random.key(0), example_batches.clock(0)
  loss, (_, terms) = jax.eval_shape(method.stages[0].loss, *args)
  assert loss.shape == () and set(terms) == {"sup", "fncl", "cccl"}


def test_hidden_parts_of_complete_rows_are_generated_too():
  _, _, grads = differentiate("full", showing((1, 1, 1)))
  fill = grads["params"]["fill"]
  assert all(size(fill[f"absent_{i}"]["prompts"]) > 0 for i in range(3))


def test_a_row_does_not_see_the_others():
  """Acceptance test 3: rows of one pattern among others, and alone."""
  params, batch = start("full")[3], example_batches.mixed(SPEC)
  logits = applied("full")(params, batch)[-1]
  for pattern in ((1, 1, 1), (1, 0, 1), (0, 0, 1)):
    rows = np.flatnonzero((batch.present == pattern).all(1))
    alone = np.resize(rows, example_batches.ROWS)
    found = applied("full")(params, example_batches.take(batch, alone))[-1]
    np.testing.assert_allclose(found, logits[alone], 1e-5, 1e-6)


def test_views_are_the_row_and_changed_ones():
  config = promise.PromiseConfig(views=3, strength=1.0)
  make = jax.jit(functools.partial(promise.views, config, SPEC))
  batch, key = example_batches.mixed(SPEC), jax.random.key(0)
  seen = make(batch, key)
  present = np.asarray(seen["present"]).reshape(example_batches.ROWS, 3, 3)
  np.testing.assert_array_equal(present[:, 0], batch.present)
  assert not (present & ~present[:, :1]).any()
  np.testing.assert_array_equal(present.any(2), present[:, :1].any(2).repeat(3, 1))
  assert (present[:, 1] != present[:, 2]).any() and (present[:, 1] != present[:, 0]).any()
  for name, x in batch.inputs.items():
    found = np.asarray(seen["inputs"][name]).reshape(example_batches.ROWS, 3, -1)
    np.testing.assert_array_equal(found[:, 0], x)
    changed = (found[:, 1:] != found[:, :1]).any((0, 2))
    assert changed.all() and ((found == 0) | (found == found[:, :1])).all()
  assert len(np.unique(seen["id"])) == 3 * example_batches.ROWS
  order = np.random.default_rng(1).permutation(example_batches.ROWS)
  other = make(example_batches.take(batch, order), key)
  by_row = lambda x: np.asarray(x).reshape(example_batches.ROWS, 3, *x.shape[1:])
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(by_row(a), by_row(b)[order]), other, seen)


def test_the_contrast_is_over_the_rows_of_all_devices(eight_devices):
  batch, params = example_batches.mixed(SPEC), start("full")[3]
  by_row = jax.sharding.NamedSharding(eight_devices, jax.sharding.PartitionSpec("data"))
  everywhere = mesh.place(params, mesh.replicated(eight_devices))
  loss, terms, grads = differentiate("full", batch)
  spread = differentiate("full", mesh.place(batch, by_row), params=everywhere)
  np.testing.assert_allclose(spread[0], loss, 1e-5)
  for name, term in terms.items():
    np.testing.assert_allclose(spread[1][name], term, 1e-5)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-5), spread[2], grads)


def test_positions_are_sines_and_cosines():
  table = nn_tokens.positions(3, 4)
  expected = [[math.sin(t), math.cos(t), math.sin(t / 100), math.cos(t / 100)] for t in range(3)]
  np.testing.assert_allclose(table, expected, atol=1e-6)


def test_prompts_have_a_rate_of_their_own_and_no_decay():
  """Ten times the rate with the preset, in the update of its method: the gradient of
  this loss is 1."""
  tree = {"a": {"prompts": jnp.ones((2, 2)), "kernel": jnp.ones((2, 2))}}
  method = methods.build_method("promise", experiment_config.PRESETS["clip"]["promise"], SPEC)
  loss = lambda params, *_: (sum(map(jnp.sum, jax.tree.leaves(params))), ({}, {}))
  stage, tx = method.stages[0]._replace(loss=loss), optax.sgd(0.5)
  now, _ = stage.update(stage, tx)(method.TrainState(tree, {}, tx.init(tree)), *[None] * 3)
  assert float(now.params["a"]["prompts"][0, 0]) == 1 - 5
  assert float(now.params["a"]["kernel"][0, 0]) == 1 - 0.5
  assert optimizer.weight_decay_mask(tree) == {"a": {"prompts": False, "kernel": True}}


def test_the_preset_clip_has_its_sizes():
  """Two modalities, features of 512 and 768: its values as they were chosen, and how
  many parameters that makes, worked out by hand."""
  assert PRESETS["clip"]["promise"] == {
    **{"encoder": "frozen", "hidden": 512, "heads": 8, "dropout": 0.1, "norm": True},
    **{"prompts": 16, "generator_layers": 1, "cross_layers": 2, "self_layers": 2},
    **{"code": 128, "temperature": 0.07, "fncl": 0.1, "cccl": 0.1},
    **{"views": 2, "strength": 1.0, "hide": False, "prompt_rate": 10.0},
  }
  assert experiment_config.PRESET_TRAINING["clip", "promise"] == {
    "optim": {"lr": 1e-4, "weight_decay": 0.02, "warmup": 0.1}
  }
  text = types.Modality("text", "sequence", (77, 512))
  image = types.Modality("image", "sequence", (197, 768))
  spec = types.Spec((text, image), types.Task("classes", 101), {})
  method = methods.build_method("promise", experiment_config.PRESETS["clip"]["promise"], spec)
  params, _ = jax.eval_shape(method.init, jax.random.key(0))
  count = lambda tree: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
  d, p = 512, params["params"]
  linear, ffn = d * d + d, 2 * 4 * d * d + 5 * d
  heads = 3 * d * d + linear
  assert count(p["encode_0"]) == 2 * 512 + 512 * d + d + d
  assert count(p["encode_1"]) == 2 * 768 + 768 * d + d + d
  assert count(p["fill"]["absent_0"]) == 16 * d + heads + ffn + 6 * d
  assert count(p["cross_0"]) == 2 * (heads + ffn + 6 * d)
  assert count(p["own_0"]) == 2 * (heads + ffn + 4 * d)
  assert count(p["instance"]) == linear + 128 * d + 128
  assert count(p["pool"]) == 2 * d * d + d and count(p["head"]) == 101 * d + 101


@pytest.mark.parametrize(
  ("values", "says"),
  [
    ({"encoder": "clip"}, "promise.encoder is 'clip', known are pooled, steps, frozen"),
    ({"generate": "mean"}, "known are query, memory, mix, constant, zeros, none"),
    ({"hidden": 6}, "promise.hidden is 6, it must be a multiple of promise.heads, 4"),
    ({"temperature": 0.0}, "promise.temperature is 0.0, it must be above 0"),
    ({"strength": 1.5}, r"promise.strength is 1.5, it must lie in \[0, 1\]"),
    ({"dropout": 1.0}, r"promise.dropout is 1.0, it must lie in \[0, 1\)"),
    ({"views": 0}, "promise.views is 0, it must be at least 1"),
    ({"positives": "fig_edges"}, "needs a modality of tokens or one called text"),
  ],
)
def test_settings_without_meaning(values, says):
  with pytest.raises(ValueError, match=says):
    methods.build_method("promise", values, SPEC)


def test_text_is_the_first_of_tokens_or_what_is_called_so():
  config, index = promise.PromiseConfig(positives="fig_edges"), promise.text_index
  named = example_batches.VECTORS[0]._replace(name="text")
  assert index(config, example_batches.spec(modalities=example_batches.KINDS)) == 1
  assert index(config, example_batches.spec(modalities=(*example_batches.VECTORS[1:], named))) == 2


def test_a_codebook_needs_somebody_to_ask_it():
  one = example_batches.spec(modalities=example_batches.VECTORS[:1])
  with pytest.raises(ValueError, match="modalities is 1, it must be at least 2"):
    methods.build_method("promise", {"generate": "memory"}, one)
  method = methods.build_method("promise", SIZES, one)
  assert "cross_0" not in jax.eval_shape(method.init, jax.random.key(0))[0]["params"]
