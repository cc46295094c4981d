"""MulT (ACL 2019) over M modalities: each asks every other one, then itself.

Built to what the released code of MulT and of MPLMM (ACL 2024) does, for any M.
The released code sees padding and absent modalities as steps like others, under a mask that
looks causal (`released_code`). By default (ours) attention sees real steps only, and all of
them. Two things differ in both: keys and values share one draw of dropout, and a modality is
projected even if it has the width already.

Encoders of one form keep their weights stacked, whatever the lengths: weights move from
one data set to another. Those whose steps have the same lengths run as one.

`cross_attend` and `self_attend` take and give what ProMMA needs, see `Connection`.
"""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from promise_jax import missing, types
from promise_jax.checks import check_at_least
from promise_jax.nn import mult_layers, precision, tokens
from promise_jax.nn.mult_layers import Connection, Encoder, Rates
from promise_jax.types import Array

NOISY = ("text",)  # modalities with dropout on their raw features, as in the released code
# PyTorch's default for layers: uniform up to 1 / sqrt(inputs).
TORCH = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Encoders(nn.Module):
  """`count` encoders, weights stacked on the first axis; equal lengths run as one."""

  count: int
  width: int
  heads: int
  layers: int
  causal: bool
  rates: Rates

  @nn.compact
  def __call__(self, *lists: list) -> list:
    """What encoder i makes of the i-th of each list, as in a call of `Encoder`; lists
    of x, sources, real, sources_real, keys, scale, connection, the last may be left
    out, with None in all places or in none."""
    # Without a parent: its weights are not its own, but slices of `stack`.
    form = (self.heads, self.layers, self.causal, self.rates)
    form = Encoder(*form, parent=None)

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
      args = jax.tree.map(stack, *(rows[i] for i in group))
      run = jax.vmap(lambda own, args: form.apply({"params": own}, *args))
      leaves, tree = jax.tree.flatten(run(own, args))
      for i, *out in zip(group, *leaves, strict=True):
        outs[i] = jax.tree.unflatten(tree, out)
    return outs


def stack(*arrays: Array) -> Array:
  """`jnp.stack`, by way of those which are different: what makes an array that occurs
  several times is compiled once, and run once."""
  different = list({id(x): x for x in arrays}.values())
  place = {id(x): i for i, x in enumerate(different)}
  return jnp.stack(different)[np.array([place[id(x)] for x in arrays])]


def _take(params, group):
  return jax.tree.map(lambda p: jnp.stack([p[i] for i in group]), params)


class MulT(nn.Module):
  """Steps of M modalities -> f[B, outputs]: `read`, `project`, `cross_attend`, `self_attend` and
  `head`, which may be called one by one, with other steps in between.

  `layers` of each of the M (M - 1) encoders of width H = `width` between modalities,
  `memory_layers` of the M of width (M - 1) H within them. M = 1 has only the latter, of
  width H. Of more than `max_steps` steps, unless 0, `windows` are made. Raises ValueError for
  a `width` that is odd, below 4,
  or not a multiple of the `heads`.
  """

  modalities: tuple[types.Modality, ...]
  outputs: int
  width: int = 30
  heads: int = 5
  layers: int = 5
  memory_layers: int = 5
  released_code: bool = False
  max_steps: int = 0

  def setup(self):
    names = [m.name for m in self.modalities]
    if self.width % self.heads:
      raise ValueError(f"width is {self.width}, not a multiple of the {self.heads} heads")
    self.rates = Rates(tied=not self.released_code)
    check_at_least("layers", min(self.layers, self.memory_layers), 1)
    self.pairs = tuple(itertools.permutations(names, 2))
    wide = max(len(names) - 1, 1) * self.width
    thin = lambda: nn.Dense(self.width, use_bias=False, kernel_init=TORCH)
    self.projection = {name: thin() for name in names}
    self.embedding = {
      m.name: nn.Embed(m.vocabulary, self.width) for m in self.modalities if m.kind == "tokens"
    }
    form = {"heads": self.heads, "causal": self.released_code, "rates": self.rates}
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
    steps, _ = self.cross_attend(self.project(raw), real, **noise)
    return self.head(self.self_attend(steps, real, **noise), **noise)

  def read(self, inputs, present, length, *, key=None, ids=None):
    """({modality: raw steps f[B, T, D]}, {modality: real bool[B, T]}): steps that are
    absent or past the length are zeros and not real. Tokens are embedded (ours)."""
    raw, real = {}, {}
    for i, m in enumerate(self.modalities):
      x, there = missing.zero_absent(inputs[m.name], present[:, i]), present[:, i]
      if m.kind == "tokens":
        x, real[m.name] = self.embedding[m.name](x), x > 0
      else:
        steps = length.get(m.name)
        steps = None if steps is None else missing.zero_absent(steps, there)
        x, real[m.name] = tokens.to_steps(m, x, steps)
      real[m.name] &= there[:, None]
      # Once more: an absent image has cells that are not 0, and tokens a padding.
      x = missing.zero_absent(x, real[m.name])
      if 0 < self.max_steps < x.shape[1]:
        x, real[m.name] = windows(x, real[m.name], self.max_steps)
      rate = self.rates.inputs if m.name in NOISY else 0.0
      keys = _keys(key, m.name, ids)
      x = x.astype(precision.param_dtype(self))  # the cells of an image are float32
      raw[m.name] = mult_layers.row_dropout(x, rate, keys, self.rates.tied)
    return raw, real

  def project(self, raw):
    """{modality: f[B, T, H]} of the raw steps."""
    return {name: self.projection[name](x) for name, x in raw.items()}

  def cross_attend(self, steps, real, *, scale=None, key=None, ids=None):
    """({modality: f[B, T, (M - 1) H]}, {(m, n): f[B, T, H]}): what each finds in every other,
    side by side in the order of the modalities, and what attention added to m from n, the
    mean over layers. `steps` {modality: f[B, T, H]}, any T; `real` marks those that are
    real, bool[B, T], and is not read by `released_code`.

    `scale` {modality: f[B]} or None: what is found in this one is multiplied by it in each
    layer; at 0 nothing of its steps, which must be finite, is in the outcome.
    """
    if not self.pairs:
      return steps, {}
    real = dict.fromkeys(steps) if self.released_code else real
    scale = dict.fromkeys(steps) if scale is None else scale
    outs = self.crossing(
      [steps[m] for m, _ in self.pairs],
      [steps[n] for _, n in self.pairs],
      [real[m] for m, _ in self.pairs],
      [real[n] for _, n in self.pairs],
      [_keys(key, f"{m}<-{n}", ids) for m, n in self.pairs],
      [scale[n] for _, n in self.pairs],
    )
    outs, attended = zip(*outs, strict=True)
    parts = {m.name: [] for m in self.modalities}
    for (m, _), out in zip(self.pairs, outs, strict=True):
      parts[m].append(out)
    steps = {name: jnp.concatenate(x, -1) for name, x in parts.items()}
    return steps, dict(zip(self.pairs, attended, strict=True))

  def self_attend(
    self,
    steps,
    real,
    *,
    connect: dict[str, Connection] | None = None,
    key=None,
    ids=None,
  ) -> Array:
    """The last step of each modality once its steps have asked each other, side by
    side: f[B, M max(M - 1, 1) H]. Masked, it is the last real one, or zeros.

    `connect` {modality: `Connection`} or None: what the last E steps, prompts that the
    caller put there, get after each layer.
    """
    names = [m.name for m in self.modalities]
    nothing = dict.fromkeys(names)
    real = nothing if self.released_code else real
    pick = lambda x: [x[name] for name in names]
    keys = [_keys(key, f"{name}<-{name}", ids) for name in names]
    none = pick(nothing)
    connect = none if connect is None else pick(connect)
    outs = self.memory(pick(steps), none, pick(real), none, keys, none, connect)
    outs = [x for x, _ in outs]
    return jnp.concatenate([last(x, r) for x, r in zip(outs, pick(real), strict=True)], -1)

  def head(self, r, *, key=None, ids=None) -> Array:
    """W_o (r + W_b relu(W_a r)) of the readout, f[B, outputs]."""
    inner = nn.relu(self.inner(r))
    inner = mult_layers.row_dropout(inner, self.rates.head, _keys(key, "head", ids))
    return self.output(r + self.outer(inner))


def linear(inputs: int, outputs: int) -> nn.Dense:
  """A dense layer that starts as PyTorch's do, its bias as its weights."""
  return nn.Dense(outputs, kernel_init=TORCH, bias_init=spread(inputs))


def spread(inputs: int) -> nn.initializers.Initializer:
  """PyTorch's start of the bias of a layer with so many inputs."""
  reach = inputs**-0.5

  def start(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -reach, reach)

  return start


def windows(x: Array, real: Array, count: int) -> tuple[Array, Array]:
  """Steps f[B, T, D] that are `real` bool[B, T] as `count` windows f[B, count, 2 D]:
  mean and standard deviation of the real steps of each, which differ in length by one
  at most. A window is real if one of its steps is. Ours: a mean alone would lose what
  is faster than a window.
  """
  place = np.arange(x.shape[1]) * count // x.shape[1]
  inside = (place[:, None] == np.arange(count)[None]).astype(np.float32)
  size = (real @ inside)[..., None]

  def mean(x):
    total = jnp.einsum("btd,tn->bnd", jnp.where(real[..., None], x, 0), inside)
    return total / jnp.maximum(size, 1)

  centre = mean(x)
  deviation = mean(jnp.square(x - centre[:, place]))
  # The root of 0 has no derivative.
  deviation = jnp.sqrt(deviation + 1e-6) - 1e-3
  out = jnp.concatenate([centre, deviation], axis=-1)
  return out.astype(x.dtype), size[..., 0] > 0


def last(x: Array, real: Array | None) -> Array:
  """The last of the steps f[B, T, H], or of those that are `real` bool[B, T] (zeros if
  none is), f[B, H]."""
  if real is None:
    return x[:, -1]
  place = x.shape[1] - 1 - jnp.argmax(real[:, ::-1], axis=1)
  x = jnp.take_along_axis(x, place[:, None, None], axis=1)[:, 0]
  return missing.zero_absent(x, jnp.any(real, axis=1))


def _keys(key, name, ids):
  if key is not None and ids is None:
    raise ValueError("key is given but ids is None, noise needs the id of each row")
  return None if key is None else mult_layers.row_dropout_keys(key, name, ids)
