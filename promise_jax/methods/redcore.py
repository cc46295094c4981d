"""RedCore: variational bottleneck, cross-modal imputers, bi-level weights.

"RedCore: Relative Advantage Aware Cross-modal Representation Learning for Missing
Modalities with Imbalanced Missing Rates", Sun, Zhang, Han, Ruan, Li, AAAI 2024, arXiv
2312.10386. The body of the paper was not available: the equations are those of the
released code, and what differs from it here is called ours.

  q(z|x^m) = N(mu_m, diag exp(logvar_m)), z^m = mu_m + exp(logvar_m / 2) noise
  zhat^m = G_m(the latents of the other modalities), r^m = z^m if present, else zhat^m
  logits = Cls([r^1 .. r^M]), unimodal logits = Cls_m(r^m)
  L = L_J + unimodal sum_m L_U^m + kl L_KL + impute sum_m beta_m L_R^m

L_J and L_U^m supervise the joint and the unimodal heads (L_U^m on zhat^m where m is
absent: the label teaches the imputer), L_KL is the bottleneck of what is present, L_R^m
the distance of zhat^m from z^m where m is present. Nothing is detached. The upper level
sets beta: "relative_advantage" (released code: the losses of this batch move beta
before it weighs them), "hypergradient" (ours: one step ahead on three quarters of the
batch, the supervised loss on the held-out rest, Adam on beta) or "none" (all equal).

The preset "clean" (default) mends what "authors" reproduces:
  released code                             clean (ours)
  an absent source is E(0), an exploding    a learned embedding; what an encoder makes
    layer norm at the start                   of nothing is not read
  latents are sampled at test               mu at test
  the step on beta grows without end        it stays
  transformers, which attend to padding     the encoders of every method; with
    and average it                            encoder=transformer padding is masked
  L_R sums coordinates: its size, and RA,   it averages them
    depend on that of the latent
  He's weights, first L_R about a million   residual parts start at 0
  logvar unbounded, from about 0            in [-10, 10], from about -3
  rows with nothing present are trained on  they count in L_KL's denominator alone
  gradient clipped per module, else one     the run's clip; nothing explodes
    encoder freezes all
  five auto-encoders, dropout .5 in the     one, none, 1 on the averaged L_R, and two
    heads, w_r .15, masks as they are         random subsets a row
As the preset of a run, "authors" also has their schedule, no weight decay, and no clip
but that per module; as that of an arm, `redcore(preset=authors)`, it has the optimiser
of the run. The widths stay: theirs are hidden=128, imputer=256, head_hidden=128, at a
rate of 2e-4 for 60 epochs. E(0) needs every encoder, so that a static pattern leaves
none out. They select on test, and deal masks anew each epoch (redraw=true of a
protocol). Both change the controller in two places: where no row of a batch has m,
L_R^m is 0 and its average stays (released code: NaN), and a step ends growing at 1e6.
Kept in both: L_KL is a mean over all rows, L_R over those that have m, so the pressure
of the first falls with the missing rate, and there is no switch for it; RA compares the
losses of what is present and knows neither the rates nor the task; a modality that no
row ever has keeps an average of 0, looks easy, and its beta falls to the floor. With
two sources absent an imputer sees one latent and a stand-in, with all absent it sees
stand-ins alone. All stacks are in the order of the data set's modalities (the released
joint head has one of its own).
Where training hides nothing (rate 0), only the random subsets teach heads and imputers
to do without; "authors" has none. At exact(.9) of three modalities about 73 % of the
rows have nothing: "clean" counts them in the denominator of L_KL alone, "authors"
trains its heads on stand-ins.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from promise_jax import missing, types
from promise_jax.checks import check_at_least, check_choice
from promise_jax.losses import bottleneck, supervised
from promise_jax.method import Method, Stage, StepInfo, no_preprocessing
from promise_jax.methods import common
from promise_jax.nn import encoders, image_features, imputers, lstm, precision, transformer
from promise_jax.optim import optimizer, relative_advantage, update_rules
from promise_jax.types import Array, Average, Batch, Modality, Spec

UPPER = ("relative_advantage", "hypergradient", "none")
HELD = 0.25  # the part of a batch that the hypergradient holds out
NOISE = 0  # the key of the noise at test


@dataclasses.dataclass(frozen=True)
class RedcoreConfig:
  """Settings; sizes, `subsets`, `logvar_start` and the weight of L_R were chosen on
  validation of mfeat and watch (ours).

  `hidden` d of every latent; `imputer` the widest layer of its auto-encoders, the next
  two are a half and a quarter (the authors' 160, 80, 32 for MOSEI cannot be set);
  `links` how many; `encoder` "pooled" (that of every method), "transformer" (`heads`,
  `blocks`) or "lstm" (ours); `vib` False: z = mu, no L_KL; `kl`, `impute`, `unimodal`
  the weights; `subsets` how often heads and imputers also see a random part of what a
  row has, and are asked for the rest (ours: it is modality dropout, without which the
  control `fusion` is ahead); `logvar_start` is added to logvar, which few steps cannot
  move far. Upper level: `rho`, `step`, `growth` every `period`, `every`, `floor` as in
  `relative_advantage.controller`; `upper_lr` of the hypergradient's Adam, which starts at
  step `upper_from`.
  """

  hidden: int = 64
  imputer: int = 64
  links: int = 1
  head_hidden: int = 64
  head_dropout: float = 0.0
  encoder: str = "pooled"
  heads: int = 8
  blocks: int = 3
  vib: bool = True
  kl: float = 8e-4
  impute: float = 1.0
  unimodal: float = 1.0
  detach_target: bool = False
  subsets: int = 2
  upper: str = "relative_advantage"
  rho: float = 0.7
  step: float = 0.1
  growth: float = 1.0
  period: int = 500
  every: int = 3
  floor: float = 0.1
  upper_lr: float = 0.02
  upper_from: int = 20
  absent: str = "learned"
  eval_sample: bool = False
  mask_padding: bool = True
  average: bool = True
  he_init: bool = False
  logvar_start: float = -3.0
  logvar_bound: float = 10.0
  count_empty: bool = False
  clip: float = 0.0

  def __post_init__(self):
    """ValueError for a setting without meaning, with what is allowed."""
    check_choice("redcore.encoder", self.encoder, ("pooled", "transformer", "lstm"))
    check_choice("redcore.upper", self.upper, UPPER)
    check_choice("redcore.absent", self.absent, ("learned", "zero"))
    least = {
      **dict.fromkeys(("hidden", "links", "head_hidden", "heads", "blocks"), 1),
      **dict.fromkeys(("period", "every", "upper_from"), 1),
      **dict.fromkeys(("kl", "impute", "unimodal", "step", "growth", "upper_lr"), 0),
      **dict.fromkeys(("logvar_bound", "clip", "subsets"), 0),
      "imputer": 4,
      "floor": 1e-6,
    }
    for field, low in least.items():
      check_at_least(f"redcore.{field}", getattr(self, field), low)
    if not 0 < self.rho <= 1:
      raise ValueError(f"redcore.rho is {self.rho}, it must lie in (0, 1]")
    if not 0 <= self.head_dropout < 1:
      raise ValueError(f"redcore.head_dropout is {self.head_dropout}, it must lie in [0, 1)")
    if self.encoder == "transformer" and self.hidden % self.heads:
      raise ValueError(
        f"redcore.hidden is {self.hidden}, it must be a multiple of redcore.heads, {self.heads}"
      )
    if self.subsets and self.absent == "zero":
      raise ValueError(
        f"redcore.subsets is {self.subsets}, it must be 0 where redcore.absent is zero"
      )


class GaussianEncoder(nn.Module):
  """(mu, logvar) f[B, d] each of one modality."""

  modality: Modality
  config: RedcoreConfig

  @nn.compact
  def __call__(self, batch: Batch, present: Array, key) -> tuple[Array, Array]:
    c = self.config
    if c.encoder == "pooled":
      body = encoders.Encoder(self.modality, c.hidden)
    elif c.encoder == "lstm":
      body = lstm.Lstm(self.modality, c.hidden)
    else:
      body = transformer.Transformer(self.modality, c.hidden, c.heads, c.blocks, c.mask_padding)
    h = encoders.encode_modality(body, self.modality.name, batch, present, key)
    init = imputers.start(c.he_init)
    mean, logvar = jnp.split(nn.Dense(2 * c.hidden, kernel_init=init)(h), 2, axis=-1)
    logvar = logvar + c.logvar_start
    if c.logvar_bound:
      logvar = jnp.clip(logvar, -c.logvar_bound, c.logvar_bound)
    return mean, logvar


class Head(nn.Module):
  """Two hidden layers, f[B, D] -> logits f[B, C]; `kept` bool[B, 2, H] or None is what
  dropout keeps of them."""

  outputs: int
  config: RedcoreConfig

  @nn.compact
  def __call__(self, x: Array, kept: Array | None = None) -> Array:
    c = self.config
    init = imputers.start(c.he_init)
    for layer in range(2):
      x = nn.relu(nn.Dense(c.head_hidden, kernel_init=init)(x))
      if kept is not None:
        x = jnp.where(kept[:, layer], x / (1 - c.head_dropout), 0)
    return nn.Dense(self.outputs, kernel_init=init)(x)


class RedcoreNet(precision.Network):
  """The encoders E_m, imputers G_m, and heads."""

  modalities: tuple[Modality, ...]
  outputs: int
  config: RedcoreConfig

  def setup(self):
    c, count = self.config, len(self.modalities)
    self.encode = [GaussianEncoder(m, c) for m in self.modalities]
    self.absent = self.param("absent", nn.initializers.normal(1.0), (count, c.hidden))
    widths = (c.imputer, c.imputer // 2, c.imputer // 4)
    some = range(count if count > 1 else 0)
    self.impute = [imputers.Imputer(c.hidden, widths, c.links, c.he_init) for _ in some]
    self.joint = Head(self.outputs, c)
    self.single = [Head(self.outputs, c) for _ in self.modalities]

  def __call__(self, batch: Batch) -> tuple:
    z, _, _ = self.latents(batch, batch.present)
    r = bottleneck.compose_latents(z, self.imputed(z, batch.present), batch.present)
    return self.classify(r), self.classify_each(r)

  def latents(self, batch: Batch, present: Array, pattern=None, key=None, noise=None):
    """z, mu, logvar f[B, M, d]; z is sampled with the key `noise`, else mu. With a
    learned embedding for what is absent, what `pattern` lacks is not computed."""
    c, codes = self.config, []
    blank = (jnp.zeros((present.shape[0], c.hidden)),) * 2
    for i, encode in enumerate(self.encode):
      runs = pattern is None or pattern[i] or c.absent == "zero"
      codes.append(encode(batch, present[:, i], key) if runs else blank)
    mean, logvar = (jnp.stack(x, axis=1) for x in zip(*codes, strict=True))
    if noise is None or not c.vib:
      return mean, mean, logvar
    keys = encoders.row_dropout_keys(noise, "noise", batch.id)
    draws = jax.vmap(lambda k: jax.random.normal(k, mean.shape[1:]))(keys)
    return bottleneck.reparameterise(mean, logvar, draws), mean, logvar

  def imputed(self, z: Array, shown: Array) -> Array:
    """zhat f[B, M, d] from the other modalities, in their order. An absent source is
    its embedding, or E(0) as it stands in z f[B, M, d]. A single modality has no
    source: its embedding."""
    embedding = jnp.broadcast_to(self.absent, z.shape)
    if self.config.absent == "learned":
      z = jnp.where(shown[..., None], z, embedding)
    if z.shape[1] == 1:
      return embedding
    out = []
    for i, impute in enumerate(self.impute):
      others = [z[:, j] for j in range(z.shape[1]) if j != i]
      out.append(impute(jnp.concatenate(others, axis=-1)))
    return jnp.stack(out, axis=1)

  def classify(self, r: Array, kept: Array | None = None) -> Array:
    """Joint logits f[B, C] of composites r f[B, M, d]; `kept` as in `Head`."""
    return self.joint(r.reshape(len(r), -1), kept)

  def classify_each(self, r: Array, kept: Array | None = None) -> Array:
    """Unimodal logits f[M, B, C]; `kept` bool[B, M, 2, H]."""
    masks = [None if kept is None else kept[:, i] for i in range(len(self.single))]
    heads = zip(self.single, masks, strict=True)
    return jnp.stack([head(r[:, i], kept) for i, (head, kept) in enumerate(heads)])


def dropout_masks(config: RedcoreConfig, spec: Spec, key: Array, ids: Array) -> tuple:
  """What dropout keeps in the joint head, bool[B, 2, H], and in the others,
  bool[B, M, 2, H]; (None, None) without dropout. One draw a row, by its id i32[B]."""
  if not config.head_dropout:
    return None, None
  shape = (1 + len(spec.modalities), 2, config.head_hidden)
  keys = encoders.row_dropout_keys(key, "heads", ids)
  chance = 1 - config.head_dropout
  kept = jax.vmap(lambda k: jax.random.bernoulli(k, chance, shape))(keys)
  return kept[:, 0], kept[:, 1:]


def shows(config: RedcoreConfig, key: Array, ids: Array, present: Array) -> Array:
  """Masks bool[P, B, M] of what heads and imputers see of `present` bool[B, M]: all of
  it, and `subsets` random parts."""
  keys = jax.random.split(key, config.subsets) if config.subsets else []
  return jnp.stack([present, *(common.random_subset(k, ids, present) for k in keys)])


def redcore_terms(net: RedcoreNet, spec: Spec, params, batch: Batch, key) -> dict[str, Average]:
  """The terms of the loss: "sup" L_J, "single" the L_U^m summed over modalities, "kl",
  "impute" with a total and a count f[M] for the L_R^m."""
  config = net.config
  hide_key, encode_key, noise_key, head_key = jax.random.split(key, 4)
  valid = batch.row_mask
  present = batch.present & valid[:, None]
  shown = shows(config, hide_key, batch.id, present)
  z, mean, logvar = net.apply(
    params, batch, present, key=encode_key, noise=noise_key, method="latents"
  )
  # One modality has nothing to be imputed from: its embedding must not draw it in.
  still = config.detach_target or len(spec.modalities) == 1
  target = jax.lax.stop_gradient(z) if still else z
  kept, kept_each = dropout_masks(config, spec, head_key, batch.id)
  known = batch.labelled & valid
  label = supervised.known_label(batch.label, known)

  def under(shown):
    imputed = net.apply(params, z, shown, method="imputed")
    r = bottleneck.compose_latents(z, imputed, shown)
    logits = net.apply(params, r, kept, method="classify")
    each = net.apply(params, r, kept_each, method="classify_each")
    single = jax.vmap(lambda x: supervised.task_loss(x, label, spec.task))(each)
    where = known if config.count_empty else known & jnp.any(shown, axis=1)
    return {
      "sup": Average.of(supervised.task_loss(logits, label, spec.task), where),
      "single": Average.of(jnp.sum(single, axis=0), where),
      "impute": bottleneck.imputation_loss(imputed, target, present, average=config.average),
    }

  terms = jax.tree.map(lambda x: jnp.sum(x, axis=0), jax.vmap(under)(shown))
  return terms | {"kl": bottleneck.bottleneck_loss(mean, logvar, present, valid)}


def controller(config: RedcoreConfig) -> optax.GradientTransformationExtraArgs:
  """Imputation losses -> a step of beta f[M]; every run keeps its state for the log."""
  return relative_advantage.controller(
    rho=config.rho,
    step_size=config.step,
    growth=config.growth,
    growth_every=config.period,
    every=config.every,
    floor=config.floor,
  )


def start(config: RedcoreConfig, count: int) -> Array:
  """beta before the first step: ones under relative advantage, which its first step
  scales to norm 1 as in the released code, else equal parts of the sphere."""
  scale = 1 if config.upper == "relative_advantage" else count**-0.5
  return jnp.full((count,), scale, jnp.float32)


def told(config: RedcoreConfig, spec: Spec, beta: Array, ema: Array, losses: Average):
  """For the log: beta, relative advantage and L_R by modality, and how far an upper
  level has moved beta from equal parts."""
  ratio = relative_advantage.relative_advantage(ema)
  terms = {}
  if config.upper != "none":
    equal = jnp.full_like(beta, len(beta) ** -0.5)
    terms["moved"] = jnp.linalg.norm(beta - equal)
  for i, name in enumerate(spec.names):
    terms |= {f"beta/{name}": beta[i], f"advantage/{name}": ratio[i]}
    terms[f"imputation/{name}"] = Average(losses.total[i], losses.count[i])
  return terms


def redcore(config: RedcoreConfig, spec: Spec) -> Method:
  """RedCore as a `Method`; model_state holds the upper level: beta f[M] ("upper"), the state of
  its controller, and that of the hypergradient's Adam."""
  net = RedcoreNet(spec.modalities, spec.task.outputs, config)
  control, count = controller(config), len(spec.modalities)
  adam = relative_advantage.projected_adam(config.upper_lr, config.floor)
  weight = {"sup": 1.0, "single": config.unimodal, "kl": config.kl * config.vib}

  def init(key):
    beta = start(config, count)
    model_state = {"upper": beta, "control": control.init(beta)}
    if config.upper == "hypergradient":
      model_state["upper_opt"] = adam.init(beta)
    return net.init(key, types.example_batch(spec)), model_state

  def loss(params, model_state, batch: Batch, key, clock: StepInfo):
    del clock
    terms = redcore_terms(net, spec, params, batch, key)
    each = terms.pop("impute")
    losses, seen = each.value, each.count > 0
    still = jax.lax.stop_gradient(losses)
    beta = model_state["upper"]
    step, state = control.update(still, model_state["control"], beta, seen=seen)
    if config.upper == "relative_advantage":
      beta = optax.apply_updates(beta, step)
    total = sum(weight[k] * v.value for k, v in terms.items())
    total += config.impute * jnp.sum(beta * losses)
    model_state = model_state | {"upper": beta, "control": state}
    return total, (model_state, terms | told(config, spec, beta, state.mean_loss, each))

  def outer_loss(params, batch: Batch, key):
    terms = redcore_terms(net, spec, params, batch, key)
    return terms["sup"].value + config.unimodal * terms["single"].value

  def update(stage, tx):
    if config.clip:
      tx = optimizer.clip_by_module(tx, config.clip)
    if config.upper != "hypergradient":
      return update_rules.gradient_update(stage, tx)
    return update_rules.bilevel_update(
      stage,
      tx,
      outer_loss=outer_loss,
      outer_tx=adam,
      split=hold_out,
      first_step=config.upper_from,
    )

  def predict(params, model_state, batch: Batch, pattern=None):
    del model_state
    present = missing.restrict_to_pattern(batch.present, pattern)
    noise = jax.random.key(NOISE) if config.eval_sample else None
    z, _, _ = net.apply(params, batch, present, pattern, noise=noise, method="latents")
    imputed = net.apply(params, z, present, method="imputed")
    r = bottleneck.compose_latents(z, imputed, present)
    return {"logits": net.apply(params, r, method="classify"), "composite": r}

  stages = (Stage("train", loss, update=update),)
  raw = config.encoder != "pooled"
  prepare = no_preprocessing if raw else image_features.precompute
  return Method(init, predict, stages, prepare)


def hold_out(batch: Batch, key: Array) -> tuple[Batch, Batch]:
  """The batch without a random quarter of its rows, and that quarter (ours): padding
  takes the place of the other rows, so that shapes and shards stay."""
  keys = encoders.row_dropout_keys(key, "hold out", batch.id)
  held = jax.vmap(lambda k: jax.random.uniform(k) < HELD)(keys)
  held = held & batch.row_mask
  return batch.replace(row_mask=batch.row_mask & ~held), batch.replace(row_mask=held)
