"""Generated tokens against slow loops, what they read, and what is trained."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import promise_oracle as oracle
from promise_jax.nn import promise_prompts
from promise_oracle import dense, gelu

KINDS = tuple(promise_prompts.KINDS)
LEARNED = tuple(kind for kind in KINDS if kind != "zeros")
B, H, K = 6, 4, 3
STEPS = (5, 2, 1)  # of the modalities; the prompts are more than some have
PRESENT = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]], bool)


def case(rng, count=3):
  tokens = [rng.normal(size=(B, t, H)).astype(np.float32) for t in STEPS[:count]]
  real = [np.arange(t)[None] < rng.integers(1, t + 1, (B, 1)) for t in STEPS[:count]]
  return tokens, real, PRESENT[:, :count]


@functools.cache
def net(kind):
  module = promise_prompts.Generate(kind, K, num_heads=2)
  return module, jax.jit(module.apply)


def draw_params(module, args, seed=0):
  """Parameters without zeros, of order 1: every term of an equation can be seen."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
  return jax.tree.map(lambda x: (0.7 * rng.normal(size=x.shape)).astype(np.float32), shapes)


# Slow loops over one row and one modality; `sources` are the real tokens of the others.


def attend(query, key, value, scale):
  found = []
  for q in query:
    weight = [math.exp(q @ k / scale) for k in key]
    total = sum(w * v for w, v in zip(weight, value, strict=True))
    found.append(total / sum(weight))
  return np.array(found)


def slow_query(p, sources, steps):
  g = p["prompts"]
  x = np.concatenate([*(s for s, _ in sources), g])
  ln = lambda i, x: oracle.norm(p, f"Norm_{i}", x)
  u = g + oracle.attend(p["Attention_0"], ln(0, g), ln(1, x))
  return u + dense(p["Dense_1"], gelu(dense(p["Dense_0"], ln(2, u))))


def slow_memory(p, sources, steps):
  s = np.concatenate([s for s, _ in sources])
  q, k, v = (x @ p[f"Dense_{i}"]["kernel"] for i, x in enumerate((s, p["prompts"], p["prompts"])))
  return attend(q, k, v, math.sqrt(H))


def slow_mix(p, sources, steps):
  """Here the tokens that are not there keep their place in time, as zeros."""
  parts = []
  for i, (s, size) in enumerate(sources):
    mapped = np.zeros((size, H))
    mapped[: len(s)] = gelu(dense(p[f"Dense_{i}"], s))
    parts.append(mapped)
  x = np.concatenate([*parts, p["prompts"]])
  last = p[f"Dense_{len(sources)}"]
  return gelu(last["kernel"].T @ x + last["bias"][:, None]) + p["absent"]


def slow_tokens(kind, p, sources, steps):
  if kind == "zeros":
    return np.zeros((K, H))
  if kind == "constant":
    return p["prompts"]
  return {"query": slow_query, "memory": slow_memory, "mix": slow_mix}[kind](p, sources, steps)


@pytest.mark.parametrize("kind", KINDS)
def test_generated_tokens_equal_a_slow_loop(rng, kind):
  args = tokens, real, present = case(rng)
  module, apply = net(kind)
  params = draw_params(module, args)
  found, there = jax.tree.map(np.asarray, apply(params, *args))
  own = jax.tree.map(lambda x: np.asarray(x, float), params.get("params", {}))
  for n, m in np.ndindex(B, 3):
    if present[n, m]:
      expected = tokens[m][n][real[m][n]]
    else:
      sources = [
        (tokens[a][n][real[a][n] & present[n, a]].astype(float), STEPS[a])
        for a in range(3)
        if a != m
      ]
      if kind == "memory" and not present[n].any():
        expected = np.zeros((0, H))
      else:
        p = own.get(f"absent_{m}")
        expected = slow_tokens(kind, p, sources, STEPS[m])
    np.testing.assert_allclose(found[m][n][there[m][n]], expected, 1e-4, 1e-5)
    assert (found[m][n][~there[m][n]] == 0).all()


def test_present_tokens_pass_unchanged(rng):
  args = tokens, real, present = case(rng)
  for kind in KINDS:
    module, apply = net(kind)
    found, there = apply(draw_params(module, args), *args)
    for m, t in enumerate(STEPS):
      rows = present[:, m]
      np.testing.assert_array_equal(there[m][rows, :t], real[m][rows])
      assert not np.asarray(there[m][rows, t:]).any()
      kept = np.where(real[m][..., None], tokens[m], 0)
      np.testing.assert_array_equal(found[m][rows, :t], kept[rows])


@functools.cache
def slope(kind):
  """Value, and gradient of the parameters and the tokens, of one number of the output;
  each token counts by another factor, so that none is like another."""
  module, _ = net(kind)

  def loss(params, tokens, real, present):
    found, there = module.apply(params, tokens, real, present)
    total = 0.0
    for x, r in zip(found, there, strict=True):
      weight = jnp.cos(1.0 + jnp.arange(x[0].size)).reshape(x.shape[1:])
      total += jnp.sum(jnp.where(r[..., None], jnp.sin(x) * weight[None], 0))
    return total

  return jax.jit(jax.value_and_grad(loss, (0, 1)))


def finite(tree):
  return all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("kind", KINDS)
def test_absent_tokens_and_padding_are_never_read(rng, kind):
  """Output, value and gradients are the same to the bit, NaN or a million there."""
  args = tokens, real, present = case(rng)
  module, apply = net(kind)
  params = draw_params(module, args)
  clean = apply(params, *args), slope(kind)(params, *args)
  assert finite(clean)
  for filler in (np.nan, 1e6):
    bad = []
    for m, x in enumerate(tokens):
      unread = ~(real[m] & present[:, m, None])[..., None]
      bad.append(np.where(unread, np.float32(filler), x))
    dirty = apply(params, bad, real, present), slope(kind)(params, bad, real, present)
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
      np.testing.assert_array_equal(a, b)
  for m, g in enumerate(dirty[1][1][1]):
    assert (np.asarray(g)[~(real[m] & present[:, m, None])] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_see_each_other(rng, kind):
  """Mixed patterns in one batch equal each pattern in a batch of its own, and one
  program serves all patterns."""
  args = case(rng)
  module = promise_prompts.Generate(kind, K, num_heads=2)
  apply = jax.jit(module.apply)
  params = draw_params(module, args)
  whole = apply(params, *args)
  for n in range(B):
    alone = jax.tree.map(lambda x, n=n: np.repeat(x[n : n + 1], B, axis=0), args)
    for a, b in zip(jax.tree.leaves(apply(params, *alone)), jax.tree.leaves(whole), strict=True):
      np.testing.assert_allclose(a[0], b[n], 1e-5, 1e-6)
  assert apply._cache_size() == 1


@pytest.mark.parametrize("kind", LEARNED)
def test_every_prompt_gets_a_gradient_and_moves(rng, kind):
  """From the real start: no parameter is without a gradient (those before a last layer
  that starts at 0 from the second step on), every prompt differs from every other and
  from what it was after three steps."""
  args = case(rng)
  module, _ = net(kind)
  before = params = jax.jit(module.init)(jax.random.key(0), *args)
  optimiser = optax.sgd(0.1)
  state = optimiser.init(params)
  for step in range(3):
    _, (grad, _) = slope(kind)(params, *args)
    for path, g in jax.tree_util.tree_leaves_with_path(grad):
      assert np.abs(g).max() > 1e-7 or step == 0, jax.tree_util.keystr(path)
    updates, state = optimiser.update(grad, state)
    params = optax.apply_updates(params, updates)
  for m in range(3):
    old, new = (p["params"][f"absent_{m}"]["prompts"] for p in (before, params))
    assert old.shape == (K, H) and (np.abs(new - old).max(axis=1) > 1e-4).all()
    apart = np.abs(new[:, None] - new[None]).max(-1) + np.eye(K)
    assert (np.abs(old).max(axis=1) > 0).all() and (apart > 1e-4).all()


def test_zeros_have_no_parameters(rng):
  assert not jax.tree.leaves(draw_params(net("zeros")[0], case(rng)))


@pytest.mark.parametrize("kind", LEARNED)
def test_weights_learn_only_from_rows_that_lack_their_modality(rng, kind):
  tokens, real, _ = case(rng)
  module, _ = net(kind)
  for lacking in (None, 1):
    present = np.ones((B, 3), bool)
    if lacking is not None:
      present[2, lacking] = False
    params = draw_params(module, (tokens, real, present))
    _, (grad, _) = slope(kind)(params, tokens, real, present)
    for m in range(3):
      size = [np.abs(g).max() for g in jax.tree.leaves(grad["params"][f"absent_{m}"])]
      assert (min(size) > 0) if m == lacking else (max(size) == 0)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_modalities(rng, kind, count):
  args = case(rng, count)
  module, apply = net(kind)
  if kind == "memory" and count == 1:
    with pytest.raises(ValueError, match="number of sources is 0, it must be at least"):
      jax.eval_shape(module.init, jax.random.key(0), *args)
    return
  tokens, masks = apply(draw_params(module, args), *args)
  assert len(tokens) == count and finite(tokens)
  assert all(x.shape[:2] == mask.shape for x, mask in zip(tokens, masks, strict=True))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"kind": "pool"}, "kind is 'pool', known are query, memory, mix"),
    ({"num_prompts": 0}, "prompts is 0, it must be at least 1"),
    ({"num_heads": 3}, "width is 4, not a multiple of the 3 heads"),
  ],
)
def test_an_impossible_option_is_an_error(rng, options, message):
  module = promise_prompts.Generate(**({"num_heads": 2} | options))
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(module.init, jax.random.key(0), *case(rng))
