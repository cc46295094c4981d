"""Augmented views: strength 0, rows alone, crops against a slow loop, rates of what is dropped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promise_jax import types
from promise_jax.methods import common
from promise_jax.nn import augment

ROWS = 48
MODALITIES = (
  types.Modality("photo", "image", (8, 10, 3)),
  types.Modality("drawing", "image", (7, 7, 1)),
  types.Modality("prepared", "image", (8, 8, 3)),
  types.Modality("words", "tokens", (60,), vocabulary=50),
  types.Modality("motion", "sequence", (40, 3)),
  types.Modality("whole", "sequence", (40, 3)),
  types.Modality("numbers", "vector", (80,)),
)
IDS = np.arange(100, 100 + ROWS, dtype=np.int32)


@functools.partial(jax.jit, static_argnames="strength")
def view(inputs, length, key, ids, strength=1.0):
  """The views of all MODALITIES in one program."""
  views = {}
  for m in MODALITIES:
    keys, steps = common.row_keys(key, ids), length.get(m.name)
    views[m.name] = augment.augment(m, inputs[m.name], steps, keys, strength)
  return views


@pytest.fixture
def inputs(rng):
  words = rng.integers(1, 50, (ROWS, 60), np.int32)
  words[:20, 1:] = 0  # one real token
  words[20:24] = 0  # none
  words[24:, 50:] = 0
  normal = lambda *shape: rng.normal(size=(ROWS, *shape)).astype(np.float32)
  return {
    "photo": rng.integers(0, 256, (ROWS, 8, 10, 3), np.uint8),
    "drawing": rng.random((ROWS, 7, 7, 1), np.float32),
    "prepared": normal(70),
    "words": words,
    "motion": normal(40, 3),
    "whole": normal(40, 3),
    "numbers": normal(80),
  }


@pytest.fixture
def length(rng):
  steps = rng.integers(1, 41, ROWS).astype(np.int32)
  steps[:4] = 0, 1, 40, 40
  return {"motion": steps}


def test_strength_0_changes_nothing(inputs, length):
  same = view(inputs, length, jax.random.key(0), IDS, strength=0)
  np.testing.assert_allclose(same["photo"], inputs["photo"] / 255.0, atol=1e-6)
  np.testing.assert_allclose(same["drawing"], inputs["drawing"], atol=1e-6)
  for name in ("prepared", "words", "motion", "whole", "numbers"):
    np.testing.assert_array_equal(same[name], inputs[name])


def test_types_and_shapes_stay_and_images_lie_in_0_to_1(inputs, length):
  views = view(inputs, length, jax.random.key(0), IDS)
  for name, x in inputs.items():
    assert views[name].shape == x.shape
    assert views[name].dtype == (np.float32 if name == "photo" else x.dtype)
    assert (np.asarray(views[name]) != x).any()
  for name in ("photo", "drawing"):
    assert views[name].min() >= 0 and views[name].max() <= 1


def test_a_draw_follows_the_id_of_the_row(inputs, length, rng):
  here = view(inputs, length, jax.random.key(0), IDS)
  order = rng.permutation(ROWS)
  moved = jax.tree.map(lambda x: x[order], (inputs, length, IDS))
  there = view(*moved[:2], jax.random.key(0), moved[2])
  other = view(inputs, length, jax.random.key(1), IDS)
  for name in inputs:
    np.testing.assert_array_equal(here[name][order], there[name])
    assert (here[name] != other[name]).any()


def test_garbage_in_a_row_stays_in_that_row(inputs, length):
  clean = view(inputs, length, jax.random.key(0), IDS)
  poison = {name: x.copy() for name, x in inputs.items()}
  for x in poison.values():
    x[5] = np.nan if x.dtype == np.float32 else 200
  steps = length["motion"].copy()
  steps[5] = 10**6
  dirty = view(poison, {"motion": steps}, jax.random.key(0), IDS)
  rest = np.arange(ROWS) != 5
  for name in inputs:
    assert np.isfinite(dirty[name][rest]).all()
    np.testing.assert_array_equal(clean[name][rest], dirty[name][rest])


cut = jax.jit(augment.crop)


def slow_crop(x, top, left, side, flip):
  """Each new pixel by hand from the four around its centre; the border goes on."""
  height, width, _ = x.shape
  out = np.zeros_like(x)
  for i in range(height):
    for j in range(width):
      a = min(max((top + side * (i + 0.5) / height) * height - 0.5, 0), height - 1)
      b = min(max((left + side * (j + 0.5) / width) * width - 0.5, 0), width - 1)
      r, c = int(a), int(b)
      down, right = min(r + 1, height - 1), min(c + 1, width - 1)
      above = (1 - (b - c)) * x[r, c] + (b - c) * x[r, right]
      below = (1 - (b - c)) * x[down, c] + (b - c) * x[down, right]
      out[i, width - 1 - j if flip else j] = (1 - (a - r)) * above + (a - r) * below
  return out


@pytest.mark.parametrize("flip", [False, True])
def test_crop_equals_a_slow_loop(rng, flip):
  x = rng.random((7, 9, 2))
  for window in ((0.1, 0.05, 0.8), (0.0, 0.25, 0.75), (0.0, 0.0, 1.0)):
    found = cut(x.astype(np.float32), *map(np.float32, window), flip)
    np.testing.assert_allclose(found, slow_crop(x, *window, flip), atol=2e-6)
  whole = x[:, ::-1] if flip else x  # of the last window
  np.testing.assert_allclose(found, whole, atol=1e-6)


def test_windows_lie_in_the_image_and_have_their_sizes(monkeypatch):
  for colour in ("BRIGHTNESS", "CONTRAST", "SATURATION"):
    monkeypatch.setattr(augment, colour, 0)
  place = (np.arange(20, dtype=np.float32) + 0.5) / 20  # of a pixel, in the image
  ramps = np.stack(np.broadcast_arrays(place[:, None], place[None]), axis=-1)
  x = np.broadcast_to(ramps, (400, *ramps.shape))
  keys = jax.random.split(jax.random.key(0), 400)
  modality = types.Modality("ramps", "image", ramps.shape)
  change = lambda x, keys: augment.augment(modality, x, None, keys)
  seen = np.asarray(jax.jit(change)(x, keys))
  # Away from the border, where bilinear is exact on a ramp.
  down, across = seen[:, 5:15, 9, 0], seen[:, 9, 5:15, 1]
  height = (down[:, -1] - down[:, 0]) / (place[14] - place[5])
  width = (across[:, -1] - across[:, 0]) / (place[14] - place[5])
  flipped, side = width < 0, np.abs(width)
  np.testing.assert_allclose(side, height, atol=1e-4)
  assert 0.75 - 1e-4 < side.min() < 0.77 and 0.98 < side.max() < 1 + 1e-4
  assert 0.4 < flipped.mean() < 0.6
  top = down[:, 0] - place[5] * side
  left = across[:, 0] - np.where(flipped, 1 - place[5], place[5]) * side
  for start in (top, left):
    assert (start > -1e-4).all() and (start + side < 1 + 1e-4).all()
    assert 0.4 < np.mean(start / (1 - side + 1e-6)) < 0.6


def test_colours_by_hand():
  x = jnp.array([[[0.2, 0.4, 0.6], [0.8, 0.8, 0.8]]])
  found = augment.recolour(x, 0.5, 2.0, 0.5)
  # Halved: .1 .2 .3 and .4 .4 .4, mean .3; twice as far: -.1 .1 .3 and .5 .5 .5; the
  # greys are .063 = -.0299 + .0587 + .0342 and .5.
  hand = [[[0, 0.0815, 0.1815], [0.5, 0.5, 0.5]]]
  np.testing.assert_allclose(found, hand, atol=1e-6)
  alone = augment.recolour(x[..., :1], 2.0, 1.0, 0.0)
  np.testing.assert_allclose(alone, [[[0.4], [1]]], atol=1e-6)


def test_tokens_go_at_their_rate_and_one_stays(inputs, length):
  x = inputs["words"]
  y = np.asarray(view(inputs, length, jax.random.key(0), IDS)["words"])
  np.testing.assert_array_equal(y[:24], x[:24])
  assert ((y == x) | (y == 0)).all()
  assert abs(np.mean(y[24:, :50] == 0) - augment.TOKEN_DROP) < 0.04


def test_one_token_stays_even_when_all_should_go(monkeypatch, rng):
  monkeypatch.setattr(augment, "TOKEN_DROP", 1.0)
  x = rng.integers(0, 3, (ROWS, 5), np.int32)
  keys = jax.random.split(jax.random.key(0), ROWS)
  modality = types.Modality("words", "tokens", (5,), vocabulary=3)
  change = lambda x, keys: augment.augment(modality, x, None, keys)
  y = jax.jit(change)(x, keys)
  np.testing.assert_array_equal((y > 0).sum(1), (x > 0).any(1))


def test_features_go_at_their_rate_and_nothing_is_scaled(inputs, length):
  views = view(inputs, length, jax.random.key(0), IDS)
  for name in ("prepared", "numbers"):
    x, y = inputs[name], np.asarray(views[name])
    assert ((y == x) | (y == 0)).all()
    assert abs(np.mean(y == 0) - augment.FEATURE_DROP) < 0.03


def test_a_sequence_is_scaled_and_jittered_and_loses_one_span(inputs, length):
  flat = np.full((ROWS, 40, 3), 100, np.float32)
  views = view(inputs | {"motion": flat, "whole": flat}, length, jax.random.key(0), IDS)
  steps = {"whole": np.full(ROWS, 40)} | length  # of "whole" no length was given
  for name in ("motion", "whole"):
    widths, factors, noise = [], [], []
    for row, n in zip(np.asarray(views[name]), steps[name], strict=True):
      assert (row[n:] == 100).all()
      gone = np.flatnonzero((row[:n] == 0).all(1))
      assert len(gone) <= 0.15 * n + 1e-6
      assert len(gone) == 0 or np.ptp(gone) == len(gone) - 1
      left = np.delete(row[:n], gone, axis=0)
      widths.append(len(gone))
      if n:
        assert (left != 100).all()
        factors.append(left.mean() / 100)
        noise.append(left - left.mean())
    assert max(widths) > 2
    assert 0.895 < min(factors) < 0.93 and 1.07 < max(factors) < 1.105
    assert abs(np.concatenate(noise).std() - augment.JITTER) < 0.01


def test_finite_gradients_under_scan_and_map(rng):
  kinds = (MODALITIES[1], MODALITIES[4], MODALITIES[6])
  x = {m.name: rng.random((3, *m.shape), np.float32) for m in kinds}
  x["numbers"][1] = np.nan

  def total(x, key):
    out = 0.0
    for m in kinds:
      keys = common.row_keys(key, IDS[:3])
      out += (augment.augment(m, x[m.name], None, keys)[::2] ** 2).sum()
    return out

  @jax.jit
  def train(x, keys):
    each = lambda key: jax.value_and_grad(total)(x, key)
    step = lambda carry, keys: (carry, jax.lax.map(each, keys))
    return jax.lax.scan(step, None, keys)[1]

  value, slope = train(x, jax.random.split(jax.random.key(0), (2, 2)))
  assert len(np.unique(value)) == 4
  for g in slope.values():
    assert np.isfinite(g).all()
    assert (g[:, :, 0] != 0).any() and (g[:, :, 1] == 0).all()


def test_an_unknown_kind_or_strength_is_an_error():
  x, keys = np.zeros((2, 3), np.float32), jax.random.split(jax.random.key(0), 2)
  known = "the kind of film is 'video', known are image, tokens, sequence, vector"
  with pytest.raises(ValueError, match=known):
    augment.augment(types.Modality("film", "video", (3,)), x, None, keys)
  for strength in (-0.1, 1.5, float("nan")):
    with pytest.raises(ValueError, match=f"strength is {strength}, .* from 0 to 1"):
      augment.augment(types.Modality("a", "vector", (3,)), x, None, keys, strength)
