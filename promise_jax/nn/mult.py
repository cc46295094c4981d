"""MulT (ACL 2019) over M modalities: each asks every other one, then itself.

Built to what the released code of MulT and of MPLMM (ACL 2024) does, for any M. Two
switches make up the presets: "authors" sees padding and absent modalities as steps like
others, under a mask that looks causal; "clean" (ours) attends to real steps only and to
all of them. Two things differ in both: keys and values share one draw of dropout, and
a modality is projected even if it has the width already.

Encoders of one form keep their weights stacked, whatever the lengths: weights move from
one data set to another. Those whose steps have the same lengths run as one.
"""

import itertools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from promise_jax import missing, types
from promise_jax.nn import attention, encoders, transformer
from promise_jax.types import Array

PRESETS = {
  "authors": {"causal": True, "masked": False},
  "clean": {"causal": False, "masked": True},
}
XAVIER = nn.initializers.xavier_uniform()
# PyTorch's default for layers: uniform up to 1 / sqrt(inputs).
TORCH = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Rates(NamedTuple):
  """Dropout, as in MPLMM's released code: of the raw features, of what enters an
  encoder, of attention weights, inside and after the parts of a layer, in the head."""

  inputs: float = 0.25
  embedding: float = 0.25
  attention: float = 0.1
  inner: float = 0.1
  residual: float = 0.1
  head: float = 0.1


def positions(x: Array, real: Array | None = None) -> Array:
  """What tells steps f[B, T, H] apart, f[B, T, H]: at place p = 1, 2, ... the sines,
  then the cosines, of p 10000^(-i / (H/2 - 1)), i = 0 ... H/2 - 1; zeros for padding.

  With `real` bool[B, T] real steps are counted and the others are padding (ours), so
  that no place depends on the amount of padding. Else p is 1 + t, and a step whose
  channel 0 is exactly 0 is padding, as in fairseq. Raises ValueError unless H is even
  and at least 4.
  """
  width = x.shape[-1]
  if width % 2 or width < 4:
    raise ValueError(f"width is {width}, it must be even and at least 4")
  half = width // 2
  rate = np.exp(-np.arange(half) * (math.log(1e4) / (half - 1)))
  angle = np.arange(1, x.shape[1] + 1)[:, None] * rate[None]
  table = np.concatenate([np.sin(angle), np.cos(angle)], 1).astype(np.float32)
  if real is None:
    return jnp.where(x[..., :1] != 0, table[None], 0)
  place = jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0)
  return jnp.where(real[..., None], jnp.asarray(table)[place], 0)


def embed(x: Array, real: Array | None = None) -> Array:
  """sqrt(H) x + `positions` of steps f[B, T, H]."""
  return math.sqrt(x.shape[-1]) * x + positions(x, real)


def shifted(queries: int, keys: int) -> np.ndarray:
  """bool[Q, T]: query i sees key j if j <= i + |T - Q|, the mask of the released code.

  It is causal only where both are as long.
  """
  ahead = np.arange(keys)[None] - np.arange(queries)[:, None]
  return ahead <= abs(keys - queries)


class Layer(nn.Module):
  """x <- x + MHA(LN_0 x, LN_0 s), x <- x + W_2 relu(W_1 LN_1 x); the sources s share
  the norm of x, or are x itself if None. A query that sees nothing is given zeros.

  `keys` [4, B] or None: dropout. The signature is that of a step of `nn.scan`.
  """

  heads: int
  rates: Rates

  @nn.compact
  def __call__(self, x, keys, sources, sees):
    keys = [None] * 4 if keys is None else keys
    norm = nn.LayerNorm(1e-5)
    asked = norm(x)
    sources = asked if sources is None else norm(sources)
    out = self.attention(asked, sources, sees, keys[0])
    x = x + encoders.drop(out, self.rates.residual, keys[1])
    wide = nn.Dense(4 * x.shape[-1], kernel_init=XAVIER)(nn.LayerNorm(1e-5)(x))
    wide = encoders.drop(nn.relu(wide), self.rates.inner, keys[2])
    out = nn.Dense(x.shape[-1], kernel_init=XAVIER)(wide)
    return x + encoders.drop(out, self.rates.residual, keys[3]), None

  def attention(self, x, sources, sees, keys):
    width = x.shape[-1]
    # One matrix for queries, keys and values: its initial scale is that of the whole.
    kernel = self.param("packed_kernel", XAVIER, (width, 3 * width))
    bias = self.param("packed_bias", nn.initializers.zeros, (3 * width,))
    query = x @ kernel[:, :width] + bias[None, None, :width]
    pair = sources @ kernel[:, width:] + bias[None, None, width:]
    by_head = lambda x: x.reshape(*x.shape[:2], self.heads, -1)
    key, value = map(by_head, jnp.split(pair, 2, axis=-1))
    drop = lambda weight: encoders.drop(weight, self.rates.attention, keys)
    out = attention.attend(by_head(query), key, value, sees, drop).reshape(x.shape)
    out = nn.Dense(width, kernel_init=XAVIER)(out)
    if sees is None:
      return out
    some = jnp.any(sees, axis=-1)
    return missing.select(out, jnp.broadcast_to(some, x.shape[:2]))


class Encoder(nn.Module):
  """Steps f[B, Q, H] ask steps f[B, T, H], or themselves, in `layers` of `Layer`."""

  heads: int
  layers: int
  causal: bool
  rates: Rates = Rates()

  @nn.compact
  def __call__(self, x, sources=None, real=None, sources_real=None, keys=None):
    """f[B, Q, H]. `real` bool[B, Q] and `sources_real` bool[B, T] tell the real steps,
    None leaves them to the rule of fairseq and attends to all; `keys` [B]: dropout."""
    sees = self.sees(x, sources, real if sources is None else sources_real)
    first, second, later = uses(keys, self.layers)
    x = encoders.drop(embed(x, real), self.rates.embedding, first)
    if sources is not None:
      sources = embed(sources, sources_real)
      sources = encoders.drop(sources, self.rates.embedding, second)
    stack = nn.scan(
      nn.remat(Layer, prevent_cse=False),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(0, nn.broadcast, nn.broadcast),
      length=self.layers,
    )(self.heads, self.rates, name="layers")
    return nn.LayerNorm(1e-5)(stack(x, later, sources, sees)[0])

  def sees(self, x, sources, there):
    size = x.shape[1], (x if sources is None else sources).shape[1]
    sees = shifted(*size)[None] if self.causal else None
    if there is None:
      return sees
    there = jnp.broadcast_to(there[:, None], (len(x), *size))
    return there if sees is None else there & sees


def uses(keys, layers):
  """Of keys [B] those for x, for its sources, and for the layers, [L, 4, B]."""
  if keys is None:
    return None, None, None
  # All at once, outside of the scan: draws take long to compile.
  keys = jax.vmap(encoders.fold, (None, 0))(keys, jnp.arange(2 + 4 * layers))
  return keys[0], keys[1], keys[2:].reshape(layers, 4, -1)


class Encoders(nn.Module):
  """`count` encoders, weights stacked on the first axis; equal lengths run as one."""

  count: int
  width: int
  heads: int
  layers: int
  causal: bool
  rates: Rates

  @nn.compact
  def __call__(self, *lists: list) -> list[Array]:
    """What encoder i makes of the i-th of each list, as in a call of `Encoder`; lists
    of x, sources, real, sources_real, keys, with None in all places or in none."""
    # Without a parent: its weights are not its own, but slices of `stack`.
    form = Encoder(self.heads, self.layers, self.causal, self.rates, parent=None)

    def start(key):
      init = lambda key: form.init(key, jnp.zeros((1, 1, self.width)))["params"]
      return jax.vmap(init)(jax.random.split(key, self.count))

    params = self.param("stack", start)
    rows = list(zip(*lists, strict=True))
    groups = {}
    for i, (x, sources, *_) in enumerate(rows):
      groups.setdefault((np.shape(x), np.shape(sources)), []).append(i)
    outs = [None] * self.count
    for group in groups.values():
      own = params if len(group) == self.count else _take(params, group)
      args = jax.tree.map(lambda *x: jnp.stack(x), *(rows[i] for i in group))
      run = jax.vmap(lambda own, args: form.apply({"params": own}, *args))
      for i, out in zip(group, run(own, args), strict=True):
        outs[i] = out
    return outs


def _take(params, group):
  return jax.tree.map(lambda p: jnp.stack([p[i] for i in group]), params)


class MulT(nn.Module):
  """Steps of M modalities -> f[B, outputs]: `read`, `project`, `cross`, `remember` and
  `head`, which may be called one by one, with other steps in between.

  `layers` of each of the M (M - 1) encoders of width H = `width` between modalities,
  `memory_layers` of the M of width (M - 1) H within them. M = 1 has only the latter, of
  width H. `noisy` modalities have dropout on their raw features (the text, in the
  released code). `causal` and `masked` as in `PRESETS`; masked, nothing attends to
  steps that are not real, whose places are not counted either. Raises ValueError for
  a `width` that is odd, below 4, or not a multiple of the `heads`.
  """

  modalities: tuple[types.Modality, ...]
  outputs: int
  width: int = 30
  heads: int = 5
  layers: int = 5
  memory_layers: int = 5
  causal: bool = False
  masked: bool = True
  noisy: tuple[str, ...] = ()
  rates: Rates = Rates()

  def setup(self):
    names = [m.name for m in self.modalities]
    if self.width % self.heads:
      raise ValueError(
        f"width is {self.width}, not a multiple of the {self.heads} heads"
      )
    for name in self.noisy:
      types.one_of("noisy", name, tuple(names))
    types.at_least("layers", min(self.layers, self.memory_layers), 1)
    self.pairs = tuple(itertools.permutations(names, 2))
    wide = max(len(names) - 1, 1) * self.width
    thin = lambda: nn.Dense(self.width, use_bias=False, kernel_init=TORCH)
    self.projection = {name: thin() for name in names}
    self.embedding = {
      m.name: nn.Embed(m.vocabulary, self.width)
      for m in self.modalities
      if m.kind == "tokens"
    }
    form = {"heads": self.heads, "causal": self.causal, "rates": self.rates}
    if self.pairs:
      count = len(self.pairs)
      self.crossing = Encoders(count, self.width, layers=self.layers, **form)
    self.memory = Encoders(len(names), wide, layers=self.memory_layers, **form)
    read = len(names) * wide
    self.inner, self.outer = linear(read, read), linear(read, read)
    self.output = linear(read, self.outputs)

  def __call__(self, inputs, present, length, *, key=None, ids=None) -> Array:
    """`inputs` {modality: [B, ...]}, `present` bool[B, M], `length` {sequence: i32[B]}
    -> f[B, outputs]; `key` and `ids` i32[B] switch dropout on, as in
    `encoders.Encoder`. What is not present is not read, NaN or not."""
    noise = {"key": key, "ids": ids}
    raw, real = self.read(inputs, present, length, **noise)
    steps = self.cross(self.project(raw), real, **noise)
    return self.head(self.remember(steps, real, **noise), **noise)

  def read(self, inputs, present, length, *, key=None, ids=None):
    """({modality: raw steps f[B, T, D]}, {modality: real bool[B, T]}): steps that are
    absent or past the length are zeros and not real. Tokens are embedded (ours)."""
    raw, real = {}, {}
    for i, m in enumerate(self.modalities):
      x, there = missing.select(inputs[m.name], present[:, i]), present[:, i]
      if m.kind == "tokens":
        x, real[m.name] = self.embedding[m.name](x), x > 0
      else:
        steps = length.get(m.name)
        steps = None if steps is None else missing.select(steps, there)
        x, real[m.name] = transformer.as_steps(m, x, steps)
      real[m.name] &= there[:, None]
      # Once more: an absent image has cells that are not 0, and tokens a padding.
      x = missing.select(x, real[m.name])
      rate = self.rates.inputs if m.name in self.noisy else 0.0
      raw[m.name] = encoders.drop(x, rate, _keys(key, m.name, ids))
    return raw, real

  def project(self, raw):
    """{modality: f[B, T, H]} of the raw steps."""
    return {name: self.projection[name](x) for name, x in raw.items()}

  def cross(self, steps, real, *, key=None, ids=None):
    """{modality: f[B, T, (M - 1) H]}: what each finds in every other, side by side in
    the order of the modalities. `steps` {modality: f[B, T, H]}, any T; `real` marks
    those that are real, bool[B, T], and is not read unless `masked`."""
    if not self.pairs:
      return steps
    real = real if self.masked else dict.fromkeys(steps)
    found = self.crossing(
      [steps[m] for m, _ in self.pairs],
      [steps[n] for _, n in self.pairs],
      [real[m] for m, _ in self.pairs],
      [real[n] for _, n in self.pairs],
      [_keys(key, f"{m}<-{n}", ids) for m, n in self.pairs],
    )
    parts = {m.name: [] for m in self.modalities}
    for (m, _), out in zip(self.pairs, found, strict=True):
      parts[m].append(out)
    return {name: jnp.concatenate(x, -1) for name, x in parts.items()}

  def remember(self, steps, real, *, key=None, ids=None) -> Array:
    """The last step of each modality once its steps have asked each other, side by
    side: f[B, M max(M - 1, 1) H]. Masked, it is the last real one, or zeros."""
    names = [m.name for m in self.modalities]
    nothing = dict.fromkeys(names)
    real = real if self.masked else nothing
    pick = lambda x: [x[name] for name in names]
    keys = [_keys(key, f"{name}<-{name}", ids) for name in names]
    outs = self.memory(pick(steps), pick(nothing), pick(real), pick(nothing), keys)
    return jnp.concatenate(
      [last(x, r) for x, r in zip(outs, pick(real), strict=True)], -1
    )

  def head(self, r, *, key=None, ids=None) -> Array:
    """W_o (r + W_b relu(W_a r)) of the readout, f[B, outputs]."""
    inner = nn.relu(self.inner(r))
    inner = encoders.drop(inner, self.rates.head, _keys(key, "head", ids))
    return self.output(r + self.outer(inner))


def linear(inputs: int, outputs: int) -> nn.Dense:
  """A dense layer that starts as PyTorch's do, its bias as its weights."""
  reach = inputs**-0.5
  bias = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -reach, reach)
  return nn.Dense(outputs, kernel_init=TORCH, bias_init=bias)


def last(x: Array, real: Array | None) -> Array:
  """The last of the steps f[B, T, H], or of those that are `real` bool[B, T] (zeros if
  none is), f[B, H]."""
  if real is None:
    return x[:, -1]
  place = x.shape[1] - 1 - jnp.argmax(real[:, ::-1], axis=1)
  x = jnp.take_along_axis(x, place[:, None, None], axis=1)[:, 0]
  return missing.select(x, jnp.any(real, axis=1))


def _keys(key, name, ids):
  if key is not None and ids is None:
    raise ValueError("key is given but ids is None, noise needs the id of each row")
  return None if key is None else encoders.row_keys(key, name, ids)
