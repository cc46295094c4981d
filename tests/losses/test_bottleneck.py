"""RedCore's bottleneck and imputation losses against integrals and hand-worked gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promise_jax.losses import bottleneck


def integrate(f) -> float:
  """Over a range that holds all of the Gaussians below."""
  x = np.linspace(-30, 30, 200_001)
  return float(f(x).sum() * (x[1] - x[0]))


def test_the_bottleneck_loss_is_twice_the_divergence(rng):
  """A kl_weight of 8e-4 is a weight of 1.6e-3 on KL(q || N(0, I)), here an integral."""
  mean, logvar = rng.normal(size=(2, 4, 3, 2))
  present, row_mask = rng.random((4, 3)) < 0.6, np.array([True, True, True, False])
  total = 0.0
  for n, m, j in np.argwhere(np.broadcast_to(present[:, :, None], mean.shape)):
    mu, log = mean[n, m, j], logvar[n, m, j]

    def integrand(x, mu=mu, log=log):
      log_q = -((x - mu) ** 2) / (2 * math.exp(log)) - 0.5 * (log + math.log(2 * math.pi))
      return np.exp(log_q) * (log_q - (-(x**2) / 2 - 0.5 * math.log(2 * math.pi)))

    total += row_mask[n] * integrate(integrand)
  mean[~present], logvar[~present] = np.nan, np.inf
  loss = bottleneck.bottleneck_loss(
    *(jnp.float32(x) for x in (mean, logvar)), *map(jnp.asarray, (present, row_mask))
  )
  assert 8e-4 * loss.value == pytest.approx(1.6e-3 * total / 3, rel=1e-4)


@pytest.mark.parametrize("average", [False, True])
def test_the_target_of_the_imputers_is_not_detached(rng, average):
  """d L_R^m / d z = 2 (z - zhat) / n_m where m is present, and 0 where n_m = 0."""
  z, imputed = rng.normal(size=(2, 5, 3, 2)).astype(np.float32)
  present = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1], [1, 0, 0], [1, 0, 1]], bool)
  imputed[0, 1] = np.nan

  def total(imputed, z):
    loss = bottleneck.imputation_loss(imputed, z, jnp.asarray(present), average=average)
    return jnp.sum(loss.value), loss

  (by_imputed, by_z), loss = jax.grad(total, argnums=(0, 1), has_aux=True)(imputed, z)
  np.testing.assert_array_equal(loss.count, [4, 0, 3])
  scale = 2 if average else 1
  for n, m in np.ndindex(present.shape):
    expected = np.zeros(2)
    if present[n, m]:
      expected = 2 * (z[n, m] - imputed[n, m]) / [4, 1, 3][m] / scale
    np.testing.assert_allclose(by_z[n, m], expected, 1e-5, 1e-6)
    np.testing.assert_allclose(by_imputed[n, m], -expected, 1e-5, 1e-6)


def test_compose_latents_takes_what_is_visible():
  z, imputed = jnp.array([[[1.0], [2.0]]]), jnp.array([[[3.0], [jnp.nan]]])
  r = bottleneck.compose_latents(z, imputed, jnp.array([[False, True]]))
  np.testing.assert_array_equal(r, [[[3.0], [2.0]]])
