"""PROMISE's network and contrast as slow loops in numpy over one row, for its tests.

A row is a list of the real tokens [T, H] of each modality.
"""

import math

import jax
import numpy as np

from promise_jax.nn import tokens as nn_tokens


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


def attend(p, query, sources):
  """Attention of two heads, step by step; zeros without sources."""
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
  query = key = norm(p, "Norm_0", x)
  last = "Norm_1" if sources is None else "Norm_2"
  if sources is not None:
    key = norm(p, "Norm_1", sources) if len(sources) else sources
  x = x + attend(p["Attention_0"], query, key)
  return x + dense(p["Dense_1"], gelu(dense(p["Dense_0"], norm(p, last, x))))


def only(p):
  """The weights of the only layer of a scan."""
  (name,) = p
  return jax.tree.map(lambda x: np.asarray(x[0], float), p[name])


def logits(p, rows):
  means = []
  for i, own in enumerate(rows):
    if not len(own):
      means.append(np.zeros(4))
      continue
    others = np.concatenate([r for j, r in enumerate(rows) if j != i])
    y = layer(only(p[f"cross_layers_{i}"]), own, others)
    means.append(norm(p, f"norms_{i}", layer(only(p[f"self_layers_{i}"]), y)).mean(0))
  return dense(p["head"], np.tanh(dense(p["pool"], np.concatenate(means))))


def tokens(config, p, batch, row, m):
  """z of a present modality: the step of a vector, or the real steps of a sequence, with
  their positions."""
  x, position = batch.inputs[m.name][row][None], 0
  if m.kind == "sequence":
    x = x[0, : batch.length[m.name][row]]
    position = nn_tokens.sinusoidal_positions(*m.shape[:1], config.hidden)[: len(x)]
  return dense(p["Dense_0"], norm(p, "Norm_0", x)) + np.asarray(p["modality"], float) + position


def contrast(code, pairs, temperature):
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
