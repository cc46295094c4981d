"""MPLMM (ACL 2024): prompts teach a frozen MulT to do without modalities.

Equations 1 to 5 of the paper, in the shapes of the released code, for any number of
modalities and any kind of task. A MulT backbone (`nn/mult.py`) is trained on complete
rows; then its encoders and the inner part of its head are frozen, and learned are

  generative prompts      steps of an absent modality from a prompt and the raw others
                          (`nn/generators.py`),
  missing-signal prompts  added to the steps of a modality: one set where it is there,
                          one where it was generated,
  missing-type prompts    a modality's prompt times sum_m (signal prompts of m)^T M_m,
                          appended to its steps: the readout is the last of them,

and the projections and the output layer. The loss is that of the task alone: nothing
that a mask hides is looked at.

The preset "authors" is the released code: all prompts and M_m start at zero, so that missing-type
prompts, a product of three zeros, never move (`dead`); the mask of attention looks
causal; padding is attended to; projections and output start afresh with the prompts
(`fresh`). Where both would read otherwise the paper's shapes do not fit, and the code's
are taken. Clean, the default (ours): prompts and M_m start at random and live, only
real steps are attended to, projections and output go on from the backbone. Both: rows
are shuffled, a mask is drawn again in each epoch only if the protocol says `redraw`,
validation is under every pattern, the final numbers are of the test. A row with nothing
present has zeros in place of generated steps (ours).
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from promise_jax import missing, types
from promise_jax.checks import check_at_least, check_choice
from promise_jax.method import Method, Stage, StepInfo
from promise_jax.methods import common
from promise_jax.nn import mplmm_prompts, mult, precision, tokens
from promise_jax.types import Array, Batch, Modality, Pattern, PyTree, Spec

NOISY = "text"
START = nn.initializers.normal(0.02)
ZEROS = nn.initializers.zeros
# What a data set has of its own, and what learns with the prompts: all but the encoders
# and the inner part of the head.
FITTED = "params/backbone/(projection|embedding|output).*"
TUNED = "params/(backbone/(projection|embedding|output)|(?!backbone/)).*"


@dataclasses.dataclass(frozen=True)
class MplmmConfig:
  """Settings of `mplmm`.

  The backbone: `width` H, `heads`, `layers` between modalities and `memory_layers`
  within them, `steps` the most that a modality keeps (0: all; where it has more, mean
  and deviation of windows), `causal` and `masked` as in `mult.PRESETS`; `noisy` names
  the modalities with dropout on their raw features, joined by "+" (by default the text,
  where there is one); `tied` draws dropout once for all steps of a row. `prompts` is
  the length of every prompt. `generate`, `signal` and `types` switch the three kinds;
  without the first two an absent modality is zeros, which clean attention does not see.

  Stages, as parts of the steps, left out at 0: `pretrain` trains the backbone on
  complete rows, `fit` its projections and output on complete rows, `tune` the prompts
  with both, under the masks; `frozen` False: with everything.
  """

  width: int = 30
  heads: int = 5
  layers: int = 2
  memory_layers: int = 2
  steps: int = 0
  causal: bool = False
  masked: bool = True
  noisy: str = NOISY
  tied: bool = True
  prompts: int = 16
  generate: bool = True
  signal: bool = True
  types: bool = True
  dead: bool = False
  fresh: bool = False
  frozen: bool = True
  pretrain: float = 0.5
  fit: float = 0.0
  tune: float = 0.5

  def __post_init__(self):
    """ValueError for a setting without meaning, with what is allowed."""
    check(self, "mplmm")


def check(config, name: str) -> None:
  """ValueError for a setting of the backbone or the stages without meaning."""
  for field in ("width", "heads", "layers", "memory_layers", "prompts"):
    check_at_least(f"{name}.{field}", getattr(config, field), 1)
  if config.width % config.heads or config.width % 2 or config.width < 4:
    raise ValueError(
      f"{name}.width is {config.width}, it must be even, at least 4 and a multiple of "
      f"the {config.heads} heads"
    )
  check_at_least(f"{name}.steps", config.steps, 0)
  shares = {field: getattr(config, field) for field in ("pretrain", "fit", "tune")}
  for field, share in shares.items():
    check_at_least(f"{name}.{field}", share, 0)
  if not any(shares.values()):
    raise ValueError(f"{name}.pretrain, fit and tune are all 0, at least one stage is needed")
  if config.fresh and config.fit:
    raise ValueError(
      f"{name}.fresh is True and fit {config.fit}: what fit learns would be thrown "
      "away, one of them must be off"
    )


def noisy(config, names: tuple[str, ...]) -> tuple[str, ...]:
  """The modalities with dropout on their raw features, of those that there are;
  ValueError for another, but for the text that is meant by default."""
  found = tuple(name for name in config.noisy.split("+") if name)
  if config.noisy == NOISY:
    return tuple(name for name in found if name in names)
  for name in found:
    check_choice("noisy", name, names)
  return found


class Seen(NamedTuple):
  """What is read of a batch: {modality: raw steps f[B, T, D]}, those of them that are
  real bool[B, T], and projected f[B, T, H]; only of the modalities of a pattern."""

  raw: dict[str, Array]
  real: dict[str, Array]
  steps: dict[str, Array]


class MplmmNet(precision.Network):
  """The backbone and its prompts; letters: E prompts, W = (M - 1) H the width of the
  memory encoders, H where M = 1."""

  modalities: tuple[Modality, ...]
  outputs: int
  config: MplmmConfig

  def setup(self):
    c, self.names = self.config, tuple(m.name for m in self.modalities)
    self.backbone = mult.MulT(
      self.modalities,
      self.outputs,
      width=c.width,
      heads=c.heads,
      layers=c.layers,
      memory_layers=c.memory_layers,
      causal=c.causal,
      masked=c.masked,
      noisy=noisy(c, self.names),
      rates=mult.Rates(tied=c.tied),
      steps=c.steps,
    )
    count = lambda m: tokens.num_tokens(m, "steps")
    self.counts = {m.name: min(count(m), c.steps or count(m)) for m in self.modalities}
    self.wide = max(len(self.names) - 1, 1) * c.width
    start = ZEROS if c.dead else START
    if c.generate:
      counts = tuple(self.counts.values())
      self.generators = mplmm_prompts.Generators(self.names, counts, c.width, c.prompts, start)
    prompt = lambda kind, name, shape: self.param(f"{name}_{kind}_prompts", start, shape)
    shapes = {n: (count, c.width) for n, count in self.counts.items()}
    # The maps of what is appended read the signal prompts, added or not.
    if c.signal or c.types:
      self.there = {n: prompt("present", n, shapes[n]) for n in self.names}
      self.made = {n: prompt("missing", n, shapes[n]) for n in self.names}
    if self.typed:
      shape = (c.prompts, c.width)
      self.own = {n: prompt("type", n, shape) for n in self.names}
    if c.types:
      self.maps = {n: self.param(f"{n}_map", *self.map_of(n)) for n in self.names}

  @property
  def typed(self):
    """Whether there are missing-type prompts."""
    return self.config.types

  def map_of(self, name):
    count = self.counts[name]
    start = nn.initializers.normal(count**-0.5)
    return ZEROS if self.config.dead else start, (count, self.wide)

  def __call__(self, batch: Batch) -> Array:
    """f[B, outputs], through the prompts; every parameter is used."""
    return self.prompted(batch, batch.present)

  def plain(self, batch: Batch, present: Array, pattern=None, key=None) -> Array:
    """f[B, outputs] of the backbone alone, nothing in place of what is absent; its
    encoders run whatever the `pattern`."""
    del pattern
    noise = {"key": key, "ids": batch.id}
    return self.backbone(batch.inputs, present, batch.length, **noise)

  def prompted(self, batch: Batch, present: Array, pattern=None, key=None) -> Array:
    """f[B, outputs] of the backbone and its prompts."""
    noise = {"key": key, "ids": batch.id}
    seen = self.read(batch, present, pattern, noise)
    made = self.generated(seen, present, pattern)
    steps, real = self.streams(seen, made, present)
    found = self.backbone.cross(steps, real, **noise)
    if self.config.types:
      own = {n: self.own[n][None] for n in self.names}
      found, real = self.append(found, real, own, self.mapping(present))
    return self.backbone.head(self.backbone.remember(found, real, **noise), **noise)

  def read(self, batch: Batch, present: Array, pattern: Pattern | None, noise) -> Seen:
    """What is `present` bool[B, M], and of the static `pattern`."""
    raw, real = self.backbone.read(batch.inputs, present, batch.length, **noise)
    if pattern is not None:
      kept = [n for n, there in zip(self.names, pattern, strict=True) if there]
      raw = {n: raw[n] for n in kept}
    return Seen(raw, real, self.backbone.project(raw))

  def generated(self, seen: Seen, present: Array, pattern=None) -> dict[str, Array]:
    """{modality: f[B, T_m, H]} from what is present; zeros if nothing generates."""
    if self.config.generate:
      return self.generators(seen.raw, present, pattern)
    shape = lambda n: (len(present), self.counts[n], self.config.width)
    return {n: jnp.zeros(shape(n), precision.param_dtype(self)) for n in self.names}

  def streams(self, seen: Seen, made: dict, present: Array):
    """The steps that enter the encoders: projected + present prompts, or generated +
    missing prompts, and which of them are real."""
    c, steps, real = self.config, {}, {}
    for i, n in enumerate(self.names):
      own, other = seen.steps.get(n, 0.0), made[n]
      if c.signal:
        own, other = own + self.there[n][None], other + self.made[n][None]
      there = present[:, i, None]
      steps[n] = jnp.where(there[..., None], own, other)
      real[n] = jnp.where(there, seen.real[n], c.generate or c.signal)
    return steps, real

  def mapping(self, present: Array) -> Array:
    """sum_m (prompts of m)^T M_m f[B, H, W]: of its present prompts where m is there,
    else of its missing ones (equation 4 in the shapes of the code)."""
    total = 0.0
    for i, n in enumerate(self.names):
      there, made = (x.T @ self.maps[n] for x in (self.there[n], self.made[n]))
      total += jnp.where(present[:, i, None, None], there[None], made[None])
    return total

  def append(self, found, real, prompts, mapping):
    """`found` {modality: f[B, T, W]} with prompts f[B or 1, E, H] times the mapping
    f[B, H, W] behind the steps; all of these are real."""
    out, there = {}, {}
    for n in self.names:
      new = prompts[n] @ mapping.astype(found[n].dtype)
      out[n] = jnp.concatenate([found[n], new], axis=1)
      there[n] = jnp.concatenate([real[n], jnp.ones(new.shape[:2], bool)], axis=1)
    return out, there


def mplmm(config: MplmmConfig, spec: Spec) -> Method:
  """MPLMM as a `Method`."""
  net = MplmmNet(spec.modalities, spec.task.outputs, config)
  init = lambda key: (net.init(key, types.example_batch(spec)), {})

  def enter(key, params, model_state):
    return renewed(config, init, key, params), model_state

  loss, predict = of_network(net, "prompted", spec.task)
  trains = (TUNED,) if config.frozen else (".*",)
  tune = Stage("tune", loss, trains, on_start=enter, predict=predict)
  return assembled(config, init, net, spec.task, tune)


def of_network(net: MplmmNet, method: str, task: types.Task):
  """The loss of the task and `predict`, by "plain" or "prompted" of the network."""

  def loss(params, model_state, batch, key, clock: StepInfo):
    del clock
    present = batch.present
    logits = net.apply(params, batch, present, key=key, method=method)
    supervised = common.supervised_loss(logits, batch, task)
    return supervised.value, (model_state, {"sup": supervised})

  def predict(params, model_state, batch, pattern=None):
    del model_state
    present = missing.restrict_to_pattern(batch.present, pattern)
    return {"logits": net.apply(params, batch, present, pattern, method=method)}

  return loss, predict


def assembled(config, init, net: MplmmNet, task: types.Task, tune: Stage) -> Method:
  """The method of the stages that have a share of the steps: two that train the
  backbone on complete rows, `tune` last. It predicts as its last stage does."""
  noisy(config, tuple(m.name for m in net.modalities))  # a wrong name is refused here
  loss, predict = of_network(net, "plain", task)
  form = {"hide": False, "predict": predict}
  every = (
    Stage("pretrain", loss, ("params/backbone/.*",), **form),
    Stage("fit", loss, (FITTED,), **form),
    tune,
  )
  shares = zip(every, (config.pretrain, config.fit, config.tune), strict=True)
  stages = tuple(stage._replace(fraction=share) for stage, share in shares if share)
  return Method(init, stages[-1].predict, stages)


def renewed(config: MplmmConfig, init, key: Array, params: PyTree) -> PyTree:
  """`params` as the prompts are trained on: with new `ends` if `config.fresh`."""
  if not config.fresh:
    return params
  backbone = params["params"]["backbone"] | ends(init(key)[0])
  return {"params": params["params"] | {"backbone": backbone}}


def ends(params: PyTree) -> dict[str, PyTree]:
  """The projections, embeddings and output layer of the backbone, by name."""
  backbone = params["params"]["backbone"]
  names = ("projection", "embedding", "output")
  return {name: x for name, x in backbone.items() if name.split("_")[0] in names}
