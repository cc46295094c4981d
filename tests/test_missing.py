"""Patterns, masked reductions, and the texts of protocols."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promise_jax import missing


def test_patterns_of_three():
  names = [missing.pattern_name(p, "abc") for p in missing.all_patterns(3)]
  assert names == ["a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"]
  assert missing.all_patterns(1) == ((True,),)
  assert missing.pattern_name((False, False), "ab") == "nothing"
  with pytest.raises(ValueError, match="found 0"):
    missing.all_patterns(0)
  with pytest.raises(ValueError, match=r"2 modalities \(a, b\)"):
    missing.pattern_name((True,), "ab")


@pytest.mark.parametrize("modalities", [1, 2, 3, 5])
def test_pattern_index_inverts_all_patterns(modalities):
  patterns = missing.all_patterns(modalities)
  assert len(set(patterns)) == 2**modalities - 1
  assert missing.pattern_index(np.array(patterns)).tolist() == [*range(len(patterns))]
  nested = np.zeros((2, 4, modalities), bool)
  nested[1, 2] = patterns[-1]
  expected = np.full((2, 4), -1)
  expected[1, 2] = len(patterns) - 1
  np.testing.assert_array_equal(missing.pattern_index(nested), expected)


def test_zero_absent_keeps_nan_out_of_values_and_gradients():
  x = jnp.array([[[1.0, 2.0]], [[jnp.nan, jnp.inf]]])
  present = jnp.array([True, False])
  loss = lambda x, w: jnp.sum(missing.zero_absent(x, present) * w)  # noqa: E731
  with jax.numpy_rank_promotion("raise"):
    assert missing.zero_absent(x, present).tolist() == [[[1.0, 2.0]], [[0.0, 0.0]]]
    at_x, at_w = jax.jit(jax.grad(loss, (0, 1)))(x, jnp.full(x.shape, 3.0))
  assert at_x.tolist() == [[[3.0, 3.0]], [[0.0, 0.0]]]
  assert at_w.tolist() == [[[1.0, 2.0]], [[0.0, 0.0]]]
  assert missing.zero_absent(jnp.array([[4, 5], [6, 7]]), present).tolist() == [
    [4, 5],
    [0, 0],
  ]


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2)])
def test_masked_mean_against_a_loop(shape):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(4, 3, 2)).astype(np.float32)
  where = rng.random(shape) < 0.5
  where[2] = False
  every = where if where.ndim == 3 else np.repeat(where[:, :, None], 2, axis=2)
  expected = np.zeros((4, 2))
  for b, d in itertools.product(range(4), range(2)):
    kept = [x[b, m, d] for m in range(3) if every[b, m, d]]
    expected[b, d] = sum(kept) / len(kept) if kept else 0.0
  x[~every] = np.nan
  with jax.numpy_rank_promotion("raise"):
    found = jax.jit(missing.masked_mean, static_argnums=2)(x, where, 1)
    slope = jax.grad(lambda x: jnp.sum(missing.masked_mean(x, where, 1)))(x)
    whole = missing.masked_mean(x, where, None)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  assert np.isfinite(slope).all() and not slope[~every].any()
  np.testing.assert_allclose(slope.sum(axis=1), every.any(axis=1), atol=1e-6)
  np.testing.assert_allclose(whole, x[every].mean(), atol=1e-6)


def test_masked_mean_does_not_hide_what_is_selected():
  x = jnp.array([[1.0, jnp.nan], [1.0, jnp.nan]])
  found = missing.masked_mean(x, jnp.array([[True, True], [True, False]]), 1)
  assert jnp.isnan(found[0]) and found[1] == 1


@pytest.mark.parametrize(
  ("text", "canonical"),
  [
    ("none", "none"),
    (" patterns ( redraw = true ) ", "patterns(redraw=true)"),
    ("bernoulli(.30)", "bernoulli(0.3)"),
    ("bernoulli(0.2, 0.5,1,keep_one=true)", "bernoulli(0.2,0.5,1.0)"),
    ("bernoulli(keep_one=false,0.3)", "bernoulli(0.3,keep_one=false)"),
    ("exact(1e-5,-0.0)", "exact(1e-05,0.0)"),
    ("map(0.7,both=0.5)", "map(0.7)"),
    ("map(0.7,redraw=true,both=1)", "map(0.7,both=1.0,redraw=true)"),
    ("mplmm(0.7,redraw=false)", "mplmm(0.7)"),
  ],
)
def test_parse_and_str_are_inverse(text, canonical):
  protocol = missing.parse_protocol(text)
  assert f"{protocol}" == canonical
  assert missing.parse_protocol(canonical) == protocol
  assert hash(missing.parse_protocol(canonical)) == hash(protocol)


def test_parse_reads_every_field():
  expected = missing.Protocol("bernoulli", (0.25, 0.5), keep_one=False, redraw=True)
  assert missing.parse_protocol("bernoulli(0.25,0.5,keep_one=false,redraw=true)") == expected
  assert missing.parse_protocol("map(0.5,both=0.25)") == missing.Protocol("map", (0.5,), both=0.25)


@pytest.mark.parametrize(
  ("text", "found", "known"),
  [
    ("dropout(0.3)", "dropout", "none, patterns, bernoulli, exact, map, mplmm"),
    ("map(0.3", "map", "known"),
    ("", "''", "known"),
    ("none(0.3)", "1 rates", "no rate"),
    ("bernoulli", "0 rates", "one rate or one a modality"),
    ("map(0.2,0.3)", "2 rates", "one rate"),
    ("exact(1.2)", "1.2", r"\[0, 1\]"),
    ("exact(-0.1)", "-0.1", r"\[0, 1\]"),
    ("mplmm(nan)", "nan", r"\[0, 1\]"),
    ("mplmm(often)", "often", r"\[0, 1\]"),
    ("map(0.3,both=2)", "2", r"\[0, 1\]"),
    ("mplmm(0.3,keep_one=true)", "keep_one", "keywords frames, redraw"),
    ("bernoulli(0.3,keep_one=1)", "'1'", "true or false"),
    ("mplmm(0.3,redraw=true,redraw=true)", "repeated 'redraw'", "redraw"),
  ],
)
def test_parse_says_what_is_wrong_and_what_is_known(text, found, known):
  with pytest.raises(ValueError, match=found) as error:
    missing.parse_protocol(text)
  error.match(known)
  assert "\n" not in str(error.value)
