"""Features of images against loops over pixels."""

import numpy as np

from promise_jax.nn import image_features


def test_pool_grid_against_a_loop_over_thin_slices(rng):
  x = rng.random((2, 6, 5, 3), dtype=np.float32)
  found = image_features.pool_grid(x, grid=4)
  # 6 rows in 4 cells and 5 columns in 4: cut each pixel in 4 x 4 equal parts.
  fine = np.repeat(np.repeat(x, 4, 1), 4, 2)
  for i in range(4):
    for j in range(4):
      want = fine[:, 6 * i : 6 * i + 6, 5 * j : 5 * j + 5].mean((1, 2))
      np.testing.assert_allclose(found[:, i, j], want, atol=1e-6)


def test_edges_against_a_loop_with_angles(rng):
  x = rng.random((1, 8, 8, 3), dtype=np.float32)
  grey, want = x[0].mean(-1), np.zeros((2, 2, 8))
  for r in range(8):
    for c in range(8):
      dy = grey[min(r + 1, 7), c] - grey[max(r - 1, 0), c]
      dx = grey[r, min(c + 1, 7)] - grey[r, max(c - 1, 0)]
      for k in range(8):
        away = np.arctan2(dy, dx) - k * np.pi / 8
        want[r // 4, c // 4, k] += np.hypot(dy, dx) * np.cos(away) ** 4 / 16
  want /= np.linalg.norm(want)
  np.testing.assert_allclose(image_features.edge_histogram(x, grid=2)[0], want, atol=2e-3)


def test_a_vertical_edge_is_direction_zero_and_a_flat_image_has_none():
  x = np.zeros((2, 16, 16, 1), np.float32)
  x[0, :, 8:] = 1
  edges, flat = np.asarray(image_features.edge_histogram(x))
  assert edges.sum((0, 1)).argmax() == 0 and (edges[:, :3] == 0).all()
  assert (np.abs(flat) < 1e-6).all()


def test_the_colour_histogram_against_a_loop(rng):
  x = rng.random((2, 4, 5, 3), dtype=np.float32)
  x[0, 0, 0] = 1.0  # the highest value belongs to the highest level
  want = np.zeros((2, 8, 8, 8))
  for b in range(2):
    for pixel in x[b].reshape(-1, 3):
      want[(b, *(sum(v >= e for e in np.arange(1, 8) / 8) for v in pixel))] += 1
  found = image_features.colour_histogram(x)
  np.testing.assert_allclose(found, np.sqrt(want / 20).reshape(2, -1), atol=1e-6)
  np.testing.assert_allclose((found**2).sum(-1), 1, atol=1e-6)
