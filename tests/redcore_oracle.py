"""Builds small RedCores, and computes their loss as a slow loop in numpy, for the tests."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

import example_batches
import tiny_runs
from promise_jax.methods import redcore, redcore_upper
from promise_jax.methods.presets import PRESETS
from promise_jax.methods.redcore import RedcoreConfig, RedcoreNet

SIZES = {"hidden": 4, "imputer_hidden": 8, "num_autoencoders": 2, "head_hidden": 5}
NO_SUBSETS = {"num_subsets": 0}
SPEC = example_batches.spec()
VARIANTS = {
  "clean": NO_SUBSETS,
  "attached": NO_SUBSETS | {"detach_latents": False},
  "subsets": {"num_subsets": 2, "vib": False, "upper": "none", "unimodal_weight": 0.5},
  # Without dropout in the heads: the slow loop has none.
  "authors": PRESETS["authors"]["redcore"] | {"encoder": "pooled", "head_dropout": 0.0},
}


@functools.cache
def build(variant: str):
  """(net, method, parameters, model_state) on three vectors."""
  config = RedcoreConfig(**VARIANTS[variant] | SIZES)
  net = RedcoreNet(SPEC.modalities, SPEC.task.outputs, config)
  method = redcore.redcore(config, SPEC)
  model_state = redcore_upper.init_state(config, 3)
  return net, method, example_batches.random_params(method), model_state


def batch_with(*present: int):
  """A batch in which every row has these modalities."""
  batch, row = example_batches.complete_batch(SPEC), np.isin(np.arange(3), present)
  return batch.replace(present=np.tile(row, (example_batches.ROWS, 1)))


@functools.cache
def latents(variant: str):
  return jax.jit(functools.partial(build(variant)[0].apply, method=RedcoreNet.latents))


@functools.cache
def loss(variant: str):
  return jax.jit(build(variant)[1].stages[0].loss)


@functools.cache
def weighted_gradient(variant: str):
  """(parameters, weight of each term, batch) -> the weighted sum and its gradient."""
  net = build(variant)[0]

  def total(params, weights, batch):
    terms = redcore.redcore_terms(net, SPEC.task, params, batch, jax.random.key(0))
    return sum(jnp.sum(weights[k] * term.value) for k, term in terms.items())

  return jax.jit(jax.value_and_grad(total))


def select(*names: str):
  """Weights that are 1 for the terms named; "imputation_0" is L_R of the first modality."""
  weights = {k: np.float32(k in names) for k in ("supervised", "unimodal", "kl")}
  each = [f"imputation_{i}" in names for i in range(3)]
  return weights | {"imputation": np.array(each, np.float32)}


def reached(grads) -> set[str]:
  """The modules whose gradient is not 0."""
  parts = grads["params"].items()
  return {name for name, part in parts if any(x.any() for x in tiny_runs.to_numpy(part))}


def dense(p, x):
  return x @ np.asarray(p["kernel"], float) + np.asarray(p["bias"], float)


def imputer(p, x, num_autoencoders):
  """u_k = u_{k-1} + o_{k-1}, o_k = Dec_k(Enc_k(u_k)); W_2 relu(W_1 (u + o))."""
  u, o = x, np.zeros_like(x)
  leaky = lambda y: np.where(y > 0, y, 0.01 * y)
  for k in range(num_autoencoders):
    layers = jax.tree.map(lambda leaf, k=k: leaf[k], p["ScanAutoEncoder_0"])
    e1, e2, e3, d2, d1, last = (layers[f"Dense_{i}"] for i in range(6))
    u = u + o
    code = dense(e3, leaky(dense(e2, leaky(dense(e1, u)))))
    o = dense(last, np.maximum(dense(d1, np.maximum(dense(d2, code), 0)), 0))
  return dense(p["Dense_1"], np.maximum(dense(p["Dense_0"], u + o), 0))


def impute(p, config, z, visible):
  """zhat [M, H] of one row z [M, H]."""
  if not config.as_released:
    z = [z[m] if visible[m] else p["absent"][m] for m in range(3)]
  others = [np.concatenate([z[j] for j in range(3) if j != m]) for m in range(3)]
  return [imputer(p[f"imputers_{m}"], others[m], config.num_autoencoders) for m in range(3)]


def head(p, x):
  *hidden, last = (p[f"Dense_{i}"] for i in range(len(p)))
  for layer in hidden:
    x = np.maximum(dense(layer, x), 0)
  return dense(last, x)


def cross_entropy(logits, label):
  return math.log(sum(map(math.exp, logits))) - logits[label]


def noise(key, ids, shape=(3, 4)):
  """A Gaussian draw f[M, H] for each row, from the key and the row's id."""
  return np.stack([jax.random.normal(jax.random.fold_in(key, i), shape) for i in ids])


def terms(config, params, batch, z, masks):
  """L_J, the sum of the L_U^m, the L_R^m, and the number of supervised rows, under all masks
  [P, B, M] of what is visible."""
  p = params["params"]
  joint, unimodal, total, count = [], [], np.zeros(3), np.zeros(3)
  for mask, n in itertools.product(masks, range(len(batch.id))):
    visible, label = mask[n], batch.label[n]
    imputed = impute(p, config, z[n], visible)
    r = [z[n, m] if visible[m] else imputed[m] for m in range(3)]
    for m in np.flatnonzero(batch.present[n]):
      total[m] += sum((imputed[m] - z[n, m]) ** 2) / (1 if config.as_released else z.shape[-1])
      count[m] += 1
    if not batch.labelled[n] or not (visible.any() or config.as_released):
      continue
    joint.append(cross_entropy(head(p["joint_head"], np.concatenate(r)), label))
    each = [head(p[f"unimodal_heads_{m}"], r[m]) for m in range(3)]
    unimodal.append(sum(cross_entropy(logits, label) for logits in each))
  return np.mean(joint), np.mean(unimodal), total / count, len(joint)


def bottleneck(batch, mean, logvar):
  total = 0.0
  for n, m in np.argwhere(batch.present):
    total += sum(mean[n, m] ** 2 + np.exp(logvar[n, m]) - 1 - logvar[n, m])
  return total / len(batch.id)


def move_beta(config, step, beta, mean_loss, losses):
  """beta and the averages after the imputation losses of batch `step`."""
  mean_loss = 0.3 * mean_loss + 0.7 * losses
  step_size = 0.1 * config.beta_growth ** (1 + step // 500)
  if step % 3 == 0:
    beta = beta - step_size * (mean_loss.mean() - mean_loss) / mean_loss.mean()
    beta = np.maximum(beta, 0.1)
    beta = beta / math.sqrt(sum(beta**2))
  return beta, mean_loss
