"""A slow MulT, one row at a time and in double precision, and parameters for it."""

import math

import jax
import numpy as np


def draw_params(init, *args):
  """Random parameters with the shapes of `init`, without zeros."""
  rng = np.random.default_rng(0)
  draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 2
  return jax.tree.map(draw, jax.eval_shape(init, jax.random.key(0), *args))


def to_double(params):
  return jax.tree.map(lambda w: np.asarray(w, float), params["params"])


def pick(tree, i):
  return jax.tree.map(lambda w: w[i], tree)


def dense(p, x):
  return x @ p["kernel"] + p.get("bias", 0)


def layer_norm(p, x):
  mean = x.mean(-1, keepdims=True)
  return (x - mean) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def attend(p, x, s, gap, heads):
  """Query i sees key j if j <= i + gap; None: every key."""
  width = x.shape[1] // heads
  packed = {"kernel": p["packed_kernel"], "bias": p["packed_bias"]}
  q, k, v = dense(packed, x), dense(packed, s), dense(packed, s)
  q, k, v = q[:, : x.shape[1]], k[:, x.shape[1] : -x.shape[1]], v[:, -x.shape[1] :]
  out = np.zeros(x.shape)
  for i in range(len(x)):
    for head in range(heads):
      part = slice(head * width, (head + 1) * width)
      seen = [j for j in range(len(s)) if gap is None or j <= i + gap]
      weights = [math.exp(width**-0.5 * (q[i, part] @ k[j, part])) for j in seen]
      for j, weight in zip(seen, weights, strict=True):
        out[i, part] += weight / sum(weights) * v[j, part]
  return dense(p["Dense_0"], out)


def embed(x, released_code):
  out, half = np.sqrt(x.shape[1]) * x, x.shape[1] // 2
  for t in range(len(x)):
    if released_code and x[t, 0] == 0:
      continue
    for i in range(half):
      angle = (t + 1) * math.exp(-i * math.log(1e4) / (half - 1))
      out[t, i] += math.sin(angle)
      out[t, half + i] += math.cos(angle)
  return out


def encode(net, p, x, sources, gap, scale=1.0, connection=None, attended=None):
  """An encoder; the list `attended` gets what attention adds in each layer."""
  x = embed(x, net.released_code)
  sources = None if sources is None else embed(sources, net.released_code)
  for i in range(len(p["layers"]["LayerNorm_0"]["bias"])):
    layer = pick(p["layers"], i)
    query = layer_norm(layer["LayerNorm_0"], x)
    keys = query if sources is None else layer_norm(layer["LayerNorm_0"], sources)
    if len(keys):
      found = scale * attend(layer["Attention_0"], query, keys, gap, net.heads)
      x = x + found
      if attended is not None:
        attended.append(found)
    wide = np.maximum(dense(layer["Dense_0"], layer_norm(layer["LayerNorm_1"], x)), 0)
    x = x + dense(layer["Dense_1"], wide)
    if connection:
      prior, weight, bias = (np.asarray(part[i], float) for part in connection)
      gate = math.tanh(weight @ layer_norm({"scale": 1, "bias": 0}, x).mean(0) + bias)
      for e in range(len(prior)):
        x[len(x) - len(prior) + e] += gate * prior[e]
  return layer_norm(p["LayerNorm_0"], x)


def predict(net, params, batch, row):
  """Logits. By default padding and absent modalities are cut off; in the released code they
  are steps of zeros."""
  p, z = to_double(params), {}
  for i, m in enumerate(net.modalities):
    real = batch.length[m.name][row] if batch.present[row, i] else 0
    x = np.zeros((m.shape[0] if net.released_code else real, m.shape[1]))
    x[:real] = batch.inputs[m.name][row, :real]
    z[m.name] = dense(p[f"projection_{m.name}"], x)
  steps = {m.name: m.shape[0] for m in net.modalities}
  gap = lambda m, n: abs(steps[m] - steps[n]) if net.released_code else None
  pair, readout = 0, []
  for i, m in enumerate(z):
    h = [z[m]] if len(z) == 1 else []
    for n in (n for n in z if n != m):
      h.append(encode(net, pick(p["cross_encoders"], pair), z[m], z[n], gap(m, n)))
      pair += 1
    h = np.concatenate(h, 1)
    out = encode(net, pick(p["self_encoders"], i), h, None, gap(m, m))
    readout.append(out[-1] if len(out) else np.zeros(h.shape[1]))
  r = np.concatenate(readout)
  return dense(p["output"], r + dense(p["outer"], np.maximum(dense(p["inner"], r), 0)))
