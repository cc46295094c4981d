"""MulT against a slow loop over what is real, its sizes, places, masks and noise."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import example_batches
from promise_jax import types
from promise_jax.nn import mult, mult_layers
from promise_jax.types import Modality

# Six pairs in four groups: two of the modalities have as many steps.
TINY = (
  Modality("text", "sequence", (3, 2)),
  Modality("audio", "sequence", (5, 4)),
  Modality("vision", "sequence", (3, 3)),
)
EVEN = (TINY[0], TINY[2])  # one group: a program of a third of the size
SIZES = {"width": 4, "heads": 2, "layers": 2, "memory_layers": 3, "noisy": ("text",)}


def net_of(modalities=TINY, preset="clean", **sizes):
  options = SIZES | {"noisy": tuple(m.name for m in modalities[:1])}
  return mult.MulT(modalities, 2, **(options | mult.PRESETS[preset] | sizes))


def drawn(init, *args):
  """Parameters with the shapes of `init`, no zeros, drawn on the host."""
  rng = np.random.default_rng(0)

  def draw(leaf):
    return rng.normal(size=leaf.shape).astype(np.float32) / 2

  return jax.tree.map(draw, jax.eval_shape(init, jax.random.key(0), *args))


def parts(batch):
  return batch.inputs, batch.present, batch.length


def batch_of(modalities=TINY, rows=4):
  """Rows of real lengths from 1 on; the last has nothing, others lack something."""
  spec = types.Spec(modalities, example_batches.TASKS["multilabel"], {})
  batch = example_batches.complete(spec, rows)
  present = np.ones((rows, len(modalities)), bool)
  present[1, 0], present[2, 1:], present[-1] = len(modalities) == 1, False, False
  inputs = {}
  for name, x in batch.inputs.items():
    past = np.arange(x.shape[1])[None] >= batch.length[name][:, None]
    inputs[name] = np.where(past[..., None], np.nan, x)
  batch = batch.replace(inputs=inputs, present=present)
  return example_batches.poisoned(batch, spec, present)


# The slow loop, of one row, in double precision.


def dense(p, x):
  return x @ p["kernel"] + p.get("bias", 0)


def layer_norm(p, x):
  mean = x.mean(-1, keepdims=True)
  return (x - mean) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def slow_attention(p, x, s, gap, heads):
  width = x.shape[1] // heads
  packed = {"kernel": p["packed_kernel"], "bias": p["packed_bias"]}
  q, k, v = dense(packed, x), dense(packed, s), dense(packed, s)
  q, k, v = q[:, : x.shape[1]], k[:, x.shape[1] : -x.shape[1]], v[:, -x.shape[1] :]
  out, weights = np.zeros(x.shape), np.zeros((heads, len(x), len(s)))
  for i in range(len(x)):
    for head in range(heads):
      part = slice(head * width, (head + 1) * width)
      seen = [j for j in range(len(s)) if gap is None or j <= i + gap]
      weight = [math.exp(width**-0.5 * (q[i, part] @ k[j, part])) for j in seen]
      for j, w in zip(seen, weight, strict=True):
        weights[head, i, j] = w / sum(weight)
        out[i, part] += weights[head, i, j] * v[j, part]
  return dense(p["Dense_0"], out), weights


def slow_embed(x, masked):
  out, half = np.sqrt(x.shape[1]) * x, x.shape[1] // 2
  for t in range(len(x)):
    for i in range(half if masked or x[t, 0] != 0 else 0):
      angle = (t + 1) * math.exp(-i * math.log(1e4) / (half - 1))
      out[t, i] += math.sin(angle)
      out[t, half + i] += math.cos(angle)
  return out


def slow_encoder(net, p, x, s, gap, scale=1.0, connection=None, told=None):
  """`told`: a list that gets (what was found, the weights) of each layer."""
  x = slow_embed(x, net.masked)
  sources = None if s is None else slow_embed(s, net.masked)
  for i in range(len(p["layers"]["packed_bias"])):
    layer = jax.tree.map(lambda w: w[i], p["layers"])  # noqa: B023
    asked = layer_norm(layer["LayerNorm_0"], x)
    known = asked if s is None else layer_norm(layer["LayerNorm_0"], sources)
    if len(known):
      found, weights = slow_attention(layer, asked, known, gap, net.heads)
      x = x + scale * found
      if told is not None:
        told.append((scale * found, weights))
    wide = np.maximum(dense(layer["Dense_1"], layer_norm(layer["LayerNorm_1"], x)), 0)
    x = x + dense(layer["Dense_2"], wide)
    if connection:
      prior, weight, bias = (np.asarray(part[i], float) for part in connection)
      plain = layer_norm({"scale": 1, "bias": 0}, x)
      gate = math.tanh(weight @ plain.mean(0) + bias)
      for e in range(len(prior)):
        x[len(x) - len(prior) + e] += gate * prior[e]
  return layer_norm(p["LayerNorm_0"], x)


def slow(net, params, batch, row):
  """Masked, padding and absent modalities are cut off; else they are zeros."""
  p = jax.tree.map(lambda w: np.asarray(w, float), params["params"])
  pick = lambda tree, i: jax.tree.map(lambda w: w[i], tree["stack"])
  z, names = {}, [m.name for m in net.modalities]
  for i, m in enumerate(net.modalities):
    real = batch.length[m.name][row] if batch.present[row, i] else 0
    x = np.zeros((real if net.masked else m.shape[0], m.shape[1]))
    x[:real] = batch.inputs[m.name][row, :real]
    z[m.name] = dense(p[f"projection_{m.name}"], x)
  steps = {m.name: m.shape[0] for m in net.modalities}
  gap = lambda m, n: abs(steps[m] - steps[n]) if net.causal else None
  pair, readout = 0, []
  for i, m in enumerate(names):
    h = [z[m]] if len(names) == 1 else []
    for n in (n for n in names if n != m):
      own = pick(p["crossing"], pair)
      h.append(slow_encoder(net, own, z[m], z[n], gap(m, n)))
      pair += 1
    h = np.concatenate(h, 1)
    out = slow_encoder(net, pick(p["memory"], i), h, None, gap(m, m))
    readout.append(out[-1] if len(out) else np.zeros(h.shape[1]))
  r = np.concatenate(readout)
  return dense(p["output"], r + dense(p["outer"], np.maximum(dense(p["inner"], r), 0)))


@pytest.mark.parametrize(
  "causal, masked, modalities",
  [(True, False, 3), (False, True, 3), (True, True, 1)],
)
def test_the_forward_pass_is_that_of_a_slow_loop(causal, masked, modalities):
  net = net_of(TINY[:modalities], causal=causal, masked=masked)
  batch = batch_of(TINY[:modalities])
  params = drawn(net.init, *parts(batch))
  found = jax.jit(net.apply)(params, *parts(batch))
  wanted = [slow(net, params, batch, row) for row in range(len(found))]
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("preset", mult.PRESETS)
def test_the_forward_pass_at_full_size(preset):
  """Five layers, 50 steps of 300, 5 and 20 numbers; weights as they start."""
  net, example = backbone((50, 50, 50), (300, 5, 20), **mult.PRESETS[preset])
  batch = batch_of(net.modalities)
  params = jax.jit(net.init)(jax.random.key(0), *parts(example))
  found = jax.jit(net.apply)(params, *parts(batch))
  for row in (0, 2):  # complete, and text alone
    np.testing.assert_allclose(found[row], slow(net, params, batch, row), 1e-4, 1e-5)
  assert np.ptp(found) > 1e-2


# Sizes: full backbones as in the table of the specification.


def count(tree):
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def backbone(steps, features, **sizes):
  named = zip(("text", "audio", "vision"), steps, features, strict=False)
  net = mult.MulT(tuple(Modality(n, "sequence", (t, d)) for n, t, d in named), 1, **sizes)
  example = types.example_batch(types.Spec(net.modalities, example_batches.TASKS["regression"], {}))
  return net, example


@pytest.mark.parametrize(
  "steps, features, wanted",
  [
    ((50, 50, 50), (300, 5, 20), 1_071_211),
    ((50, 50, 50), (768, 5, 20), 1_085_251),
    ((50, 50, 50), (300, 74, 35), 1_073_731),
    ((50, 50, 50), (768, 74, 35), 1_087_771),
    ((39, 400, 55), (768, 33, 709), 1_106_761),
  ],
)
def test_parameter_counts_are_those_of_the_released_code(steps, features, wanted):
  net, example = backbone(steps, features)
  shapes = jax.eval_shape(net.init, jax.random.key(0), *parts(example))["params"]
  assert count(shapes) == wanted
  assert count(shapes["crossing"]) == 6 * 56_010
  assert count(shapes["memory"]) == 3 * 220_020
  assert count(shapes["inner"]) == count(shapes["outer"]) == 32_580


def equations(jaxpr):
  total = len(jaxpr.eqns)
  for eqn in jaxpr.eqns:
    for value in eqn.params.values():
      for inner in value if isinstance(value, tuple | list) else [value]:
        inner = getattr(inner, "jaxpr", inner)
        total += equations(inner) if hasattr(inner, "eqns") else 0
  return total


def test_the_program_does_not_grow_with_the_layers():
  def size(layers):
    net, example = backbone((4, 4), (2, 2), layers=layers, memory_layers=layers)
    params = jax.eval_shape(net.init, jax.random.key(0), *parts(example))
    loss = lambda p: net.apply(p, *parts(example)).sum()
    return equations(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)

  assert size(2) == size(6) > 100


def test_weights_start_as_in_the_released_code():
  net, batch = net_of(EVEN, width=20, heads=5), batch_of(EVEN)
  params = jax.jit(net.init)(jax.random.key(0), *parts(batch))["params"]
  layers = params["crossing"]["stack"]["layers"]
  reach = {  # of the largest weight
    "packed_kernel": (layers["packed_kernel"], math.sqrt(6 / (20 + 60))),
    "out": (layers["Dense_0"]["kernel"], math.sqrt(6 / (20 + 20))),
    "wide": (layers["Dense_1"]["kernel"], math.sqrt(6 / (20 + 80))),
    "projection": (params["projection_vision"]["kernel"], 1 / math.sqrt(3)),
    "head": (params["inner"]["kernel"], 1 / math.sqrt(40)),
    "bias": (params["inner"]["bias"], 1 / math.sqrt(40)),
  }
  for name, (weight, wanted) in reach.items():
    assert 0.9 * wanted < np.abs(weight).max() <= wanted, name
  for bias in ("packed_bias", "Dense_0", "Dense_1", "Dense_2"):
    assert not any(np.any(x) for x in jax.tree.leaves(layers[bias]) if x.ndim == 3)
  # Each encoder and each layer has weights of its own.
  kernel = layers["packed_kernel"].reshape(4, -1)
  assert len(np.unique(kernel[:, 0])) == 4


# Places and masks.


def test_places_by_hand():
  x = jnp.array([[[1.0, 0, 0, 0], [0, 5, 5, 5], [2, 0, 0, 0]]])
  at = lambda p: [math.sin(p), math.sin(p / 1e4), math.cos(p), math.cos(p / 1e4)]
  found = mult_layers.positions(x)
  np.testing.assert_allclose(found[0], [at(1), [0] * 4, at(3)], atol=1e-6)
  real = jnp.array([[True, True, True], [False, True, True]])
  found = mult_layers.positions(jnp.concatenate([x, x]), real)
  np.testing.assert_allclose(found[0], [at(1), at(2), at(3)], atol=1e-6)
  np.testing.assert_allclose(found[1], [[0] * 4, at(1), at(2)], atol=1e-6)
  np.testing.assert_allclose(mult_layers.embed(x)[0, 1], [0, 10, 10, 10])


def test_the_mask_by_hand():
  mask = mult_layers.shifted
  text = lambda *size: ["".join(map(str, row)) for row in 1 * mask(*size)]
  assert text(3, 3) == ["100", "110", "111"]
  assert text(2, 4) == ["1110", "1111"]
  assert text(4, 2) == ["11", "11", "11", "11"]


def test_what_is_absent_or_padding_is_not_read():
  net, batch = net_of(EVEN), batch_of(EVEN)
  params = drawn(net.init, *parts(batch))
  clean = {name: np.nan_to_num(x) for name, x in batch.inputs.items()}

  @jax.jit
  def step(params, inputs):
    loss = lambda p: (net.apply(p, inputs, *parts(batch)[1:]) ** 2).sum()
    return jax.value_and_grad(loss)(params)

  found, wanted = step(params, batch.inputs), step(params, clean)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  assert all(np.any(x != 0) for x in jax.tree.leaves(found))


def test_more_padding_changes_nothing_also_before_other_steps():
  batch, prompt = batch_of(TINY[:1]), np.ones((4, 2, 4), np.float32)
  longer = tuple(m._replace(shape=(m.shape[0] + 2, m.shape[1])) for m in TINY[:1])
  pad = lambda x: np.pad(x, ((0, 0), (0, 2), (0, 0)), constant_values=np.nan)
  more = batch.replace(inputs={name: pad(x) for name, x in batch.inputs.items()})
  params = drawn(net_of(TINY[:1]).init, *parts(batch))

  def readout(net, *args):
    raw, real = net.read(*args)
    steps = net.cross(net.project(raw), real)
    steps = {m: jnp.concatenate([x, prompt], 1) for m, x in steps.items()}
    there = lambda x: jnp.pad(x, ((0, 0), (0, 2)), constant_values=True)
    return net.remember(steps, {m: there(x) for m, x in real.items()})

  def run(modalities, batch):
    apply = functools.partial(net_of(modalities).apply, method=readout)
    return jax.jit(apply)(params, *parts(batch))

  found = run(TINY[:1], batch)
  np.testing.assert_allclose(run(longer, more), found, rtol=1e-4, atol=1e-4)
  assert np.all(found[-1])  # a row that has nothing but prompts


# Stacks and noise.


def test_a_stack_is_its_encoders_one_by_one(rng):
  stack = mult.Encoders(2, 4, 2, 1, True, mult.Rates())
  draw = lambda steps: jnp.asarray(rng.normal(size=(2, 2, steps, 4)), jnp.float32)
  x, sources, nothing = list(draw(3)), list(draw(5)), [None] * 2
  keys = list(jax.random.split(jax.random.key(0), (2, 2)))
  params = drawn(stack.init, x, sources, nothing, nothing, nothing)

  @jax.jit
  def run(params):
    found = stack.apply(params, x, sources, nothing, nothing, keys)
    own = jax.tree.map(lambda w: w[1], params["params"]["stack"])
    one = mult.Encoder(2, 1, True).apply({"params": own}, x[1], sources[1], keys=keys[1])
    return found[1], one

  np.testing.assert_allclose(*run(params), rtol=1e-4, atol=1e-5)


def test_what_occurs_several_times_is_stacked_by_way_of_one(rng):
  a, b = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
  arrays = lambda a, b: (a, b, a, a, b)  # the same objects, as in `cross`
  np.testing.assert_array_equal(mult.stack(*arrays(a, b)), np.stack(arrays(a, b)))
  weigh = jnp.asarray(rng.normal(size=(5, 3, 4)), jnp.float32)
  back = jax.grad(lambda *x: jnp.sum(mult.stack(*arrays(*x)) * weigh), (0, 1))(a, b)
  wanted = weigh[0] + weigh[2] + weigh[3], weigh[1] + weigh[4]
  for one, other in zip(back, wanted, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5)
  made = jax.make_jaxpr(lambda a, b: mult.stack(*arrays(a * 2, b)))(a, b)
  assert "f32[2,3,4]" in str(made)  # a stack of the two that differ


def test_noise_belongs_to_the_row():
  net, batch = net_of(EVEN, layers=1), batch_of(EVEN)
  params = drawn(net.init, *parts(batch))
  run = jax.jit(lambda key, batch: net.apply(params, *parts(batch), key=key, ids=batch.id))
  key, order = jax.random.key(0), np.array([2, 0, 3, 1])
  found = run(key, batch)
  again = run(key, example_batches.take(batch, order))
  np.testing.assert_allclose(again, found[order], rtol=1e-4, atol=1e-5)
  other = run(jax.random.key(1), batch)
  assert np.all(np.abs(other - found)[:-1] > 1e-3)


def test_tied_noise_is_one_draw_a_row_at_the_rates():
  rows, width, steps, layers, heads = 400, 12, 7, 3, 2
  rates = mult.Rates(embedding=0.4, attention=0.1, inner=0.2, residual=0.3, tied=True)
  encoder = mult.Encoder(heads, layers, False, rates)
  x, sources = (jnp.zeros((rows, size, width)) for size in (5, steps))
  keys = jax.random.split(jax.random.key(0), rows)
  run = lambda keys: encoder.apply({}, keys, x, sources, method="noise")
  first, second, later = jax.jit(run)(keys)
  shapes = [(heads, 1, steps), (1, width), (1, 4 * width), (1, width)]
  assert [n.shape for n in later] == [(layers, rows, *shape) for shape in shapes]
  assert first.shape == second.shape == (rows, 1, width)
  parts = [first, second, *later]
  for part, rate in zip(parts, (0.4, 0.4, 0.1, 0.3, 0.2, 0.3), strict=True):
    assert set(np.unique(part)) == {np.float32(0), np.float32(1 / (1 - rate))}
    assert abs(np.mean(np.asarray(part) == 0) - rate) < 0.02
  # No part repeats another, no layer another, and a row takes its noise along.
  assert not np.array_equal(first > 0, second > 0)
  assert not np.array_equal(later[1][0] > 0, later[3][0] > 0)
  assert not np.array_equal(later[1][0], later[1][1])
  turned = run(keys[::-1])
  np.testing.assert_array_equal(turned[0], first[::-1])
  np.testing.assert_array_equal(turned[2][0], later[0][:, ::-1])


def test_every_part_of_a_row_draws_for_itself(monkeypatch):
  net, batch, names = net_of(EVEN), batch_of(EVEN), []
  real = mult.encoders.row_keys
  record = lambda key, name, ids: (names.append(name), real(key, name, ids))[1]
  monkeypatch.setattr(mult.encoders, "row_keys", record)
  run = lambda key: net.init(key, *parts(batch), key=key, ids=batch.id)
  jax.eval_shape(run, jax.random.key(0))
  # Two inputs, two pairs, two memories, the head.
  assert len(names) == len(set(names)) == 7


# What ProMMA asks of the layers. Two modalities of different lengths, two groups.

PAIR = {"modalities": TINY[:2], "preset": "clean", "memory_layers": 2}
LENGTHS = {"text": [3, 2, 1, 0], "audio": [5, 2, 0, 4]}


@functools.cache
def pair():
  """(net, its parameters, where steps are real {modality: bool[B, T]})"""
  net = net_of(**PAIR, causal=True)
  params = drawn(net.init, *parts(batch_of(TINY[:2])))
  sizes = {m.name: m.shape[0] for m in net.modalities}
  real = {m: np.arange(t)[None] < np.c_[LENGTHS[m]] for m, t in sizes.items()}
  return net, params, real


def normal(shapes, seed=0):
  rng = np.random.default_rng(seed)
  return {m: rng.normal(size=x).astype(np.float32) for m, x in shapes.items()}


@functools.cache
def crossed():
  """A program of steps and scale -> (steps, told), at random steps also in padding."""
  net, params, real = pair()
  cross = functools.partial(net.apply, params, method="cross", tells="attention")
  run = jax.jit(lambda steps, scale: cross(steps, real, scale=scale))
  return run, normal({m: (*there.shape, 4) for m, there in real.items()})


def spread(weights):
  """mean_i KL(A_i || mean A), mean over heads, of A [N, Q, T]."""
  total = 0
  for a in weights:
    for row in a:
      total += sum(w * math.log(w / a[:, j].mean()) for j, w in enumerate(row) if w)
  return total / (weights.shape[0] * weights.shape[1])


def test_what_is_told_is_that_of_a_slow_loop():
  net, params, real = pair()
  run, steps = crossed()
  scale = {"text": np.float32([0.5, 2, 1, 1]), "audio": np.float32([1, 0.3, 1, 1])}
  outs, told = run(steps, scale)
  stack = jax.tree.map(lambda w: np.asarray(w, float), params["params"]["crossing"])
  informed = 0
  for k, (m, n) in enumerate([("text", "audio"), ("audio", "text")]):
    own = jax.tree.map(lambda w: w[k], stack["stack"])  # noqa: B023
    for row in range(4):
      x, s = steps[m][row][real[m][row]], steps[n][row][real[n][row]]
      layers = []
      out = slow_encoder(net, own, x, s, 2, scale[n][row], told=layers)
      close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
      close(outs[m][row][: len(x)], out)
      assert not len(x) or len(layers) == (2 if len(s) else 0)
      found = np.mean([f for f, _ in layers], 0) if layers else np.zeros(x.shape)
      close(told[m, n].found[row][: len(x)], found)
      kinds = [(w, (w > 0) / (w > 0).sum(2, keepdims=True)) for _, w in layers]
      wanted = [max(spread(w) - spread(even), 0) for w, even in kinds if len(x)]
      close(told[m, n].information[row], np.mean(wanted) if wanted else 0)
      informed += told[m, n].information[row] > 1e-3
  assert informed >= 3


def test_a_scale_of_one_is_none_and_of_zero_leaves_nothing():
  net, params, real = pair()
  run, steps = crossed()
  ones, zero = np.ones(4, np.float32), np.float32([0, 0, 1, 1])
  plain = jax.jit(lambda s: net.apply(params, s, real, method="cross"))(steps)
  outs, _ = run(steps, {"text": ones, "audio": ones})
  for m, out in outs.items():
    np.testing.assert_allclose(out, plain[m], rtol=1e-5, atol=1e-5)
  other = steps | {"audio": -steps["audio"]}
  scale = {"text": ones, "audio": zero}
  (found, told), (again, _) = run(steps, scale), run(other, scale)
  assert np.all(told["text", "audio"].found[:2] == 0)
  assert np.all(told["audio", "text"].found[0] != 0)
  np.testing.assert_array_equal(again["text"][:2], found["text"][:2])
  change = np.abs(again["text"] - found["text"]).max((1, 2))
  assert change[2] == 0 and change[3] > 1e-2  # row 2 has no step of audio
  assert np.all(np.abs(again["audio"] - found["audio"]).max((1, 2)) > 1e-2)


def test_a_connection_is_that_of_a_slow_loop():
  net, params, real = pair()
  real = {m: np.pad(r, ((0, 0), (0, 2)), constant_values=True) for m, r in real.items()}
  steps = normal({m: (*there.shape, 4) for m, there in real.items()}, 1)
  remember = functools.partial(net.apply, params, method="remember")
  run = jax.jit(lambda connect: remember(steps, real, connect=connect))
  sizes = [(2, 2, 4), (2, 4), (2,)]
  draws = [normal(dict.fromkeys(real, size), 2 + i) for i, size in enumerate(sizes)]
  connect = {m: mult_layers.Connection(*(x[m] for x in draws)) for m in real}
  nothing = {m: c._replace(weight=0 * c[1], bias=0 * c[2]) for m, c in connect.items()}
  more = {m: c._replace(prior=c.prior + 1) for m, c in nothing.items()}
  stack = jax.tree.map(lambda w: np.asarray(w, float), params["params"]["memory"])

  def slow_row(row, connect):
    outs = []
    for i, m in enumerate(real):
      own = jax.tree.map(lambda w: w[i], stack["stack"])  # noqa: B023
      x = steps[m][row][real[m][row]]
      outs.append(slow_encoder(net, own, x, None, 0, connection=connect.get(m))[-1])
    return np.concatenate(outs)

  for given, same in ((connect, connect), (nothing, {})):
    wanted = [slow_row(row, same) for row in range(4)]
    np.testing.assert_allclose(run(given), wanted, rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(run(nothing), run(more))
  assert np.all(np.abs(run(connect) - run(nothing)).max(1) > 0.1)


def test_only_what_is_asked_for_is_told():
  net, params, real = pair()
  _, steps = crossed()
  cross = functools.partial(net.apply, params, steps, real, method="cross")
  _, told = jax.eval_shape(lambda: cross(tells="found"))
  assert told["audio", "text"].found.shape == (4, 5, 4)
  assert told["audio", "text"].information is None
  with pytest.raises(ValueError, match="tells is 'all', known are found, attention"):
    cross(tells="all")
  alone = net_of(TINY[:1])
  found = alone.apply({}, steps, real, tells="found", method="cross")
  assert found == (steps, {})


# Kinds and errors.


def test_every_kind_of_modality():
  kinds = (example_batches.KINDS[0], example_batches.KINDS[1], example_batches.KINDS[3])
  example = types.example_batch(example_batches.spec(modalities=kinds))
  init = net_of(kinds).init_with_output
  found = jax.eval_shape(init, jax.random.key(0), *parts(example))
  assert found[0].shape == (2, 2)


@pytest.mark.parametrize(
  "sizes, words",
  [
    ({"width": 6, "heads": 4}, "width is 6, not a multiple of the 4 heads"),
    ({"width": 5, "heads": 1}, "width is 5, it must be even and at least 4"),
    ({"noisy": ("words",)}, "noisy is 'words', known are text, audio, vision"),
    ({"memory_layers": 0}, "layers is 0, it must be at least 1"),
  ],
)
def test_sizes_that_cannot_be_are_refused(sizes, words):
  net = net_of(**sizes)
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(net.init, jax.random.key(0), *parts(batch_of()))


def test_noise_needs_ids():
  net, key = net_of(TINY[:1]), jax.random.key(0)
  with pytest.raises(ValueError, match="ids is None"):
    net.init(key, *parts(batch_of(TINY[:1])), key=key)
