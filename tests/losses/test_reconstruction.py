"""Latent reconstruction against a slow loop, and its gradients."""

import functools

import jax
import numpy as np

from promise_jax.losses import reconstruction


def call(function, *args, **options):
  """Jitted, as in training."""
  return jax.jit(functools.partial(function, **options))(*args)


def test_equals_a_slow_loop(rng):
  decoded, latent = rng.normal(size=(2, 6, 3)).astype(np.float32)
  latent += np.float32([5, 0, -2])
  where = np.array([1, 0, 1, 1, 0, 1], bool)
  rows = np.flatnonzero(where)
  error, spread = 0.0, 0.0
  for d in range(3):
    mean = sum(float(latent[n, d]) for n in rows) / len(rows)
    for n in rows:
      error += (float(decoded[n, d]) - float(latent[n, d])) ** 2
      spread += (float(latent[n, d]) - mean) ** 2
  size = 3 * len(rows)
  expected = (error / size) / (spread / size + 1e-3)
  latent[1] = decoded[4] = np.nan
  found = call(reconstruction.latent_reconstruction, decoded, latent, where)
  np.testing.assert_allclose(found, expected, 1e-5)


def test_the_mean_as_a_guess_costs_one(rng):
  latent = 100 * rng.normal(size=(50, 4)).astype(np.float32)
  guess = np.broadcast_to(latent.mean(axis=0, keepdims=True), latent.shape)
  every = np.ones(50, bool)
  found = call(reconstruction.latent_reconstruction, guess, latent, every)
  np.testing.assert_allclose(found, 1, 1e-4)


def test_the_target_gets_no_gradient_and_the_rest_is_finite(rng):
  decoded, latent = rng.normal(size=(2, 5, 3)).astype(np.float32)
  decoded[0] = latent[0] = np.nan
  grad = jax.grad(reconstruction.latent_reconstruction, (0, 1))
  where = np.arange(5) > 0
  to_decoded, to_latent = call(grad, decoded, latent, where)
  assert (to_latent == 0).all() and (to_decoded[0] == 0).all()
  assert np.isfinite(to_decoded).all() and (to_decoded[1:] != 0).all()
  none = call(grad, decoded, latent, np.zeros(5, bool))
  assert (none[0] == 0).all()
