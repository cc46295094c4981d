"""RedCore: its loss against a slow loop, its gradients, presets and upper level."""

import contextlib
import functools
import itertools
import math
import signal
import zlib

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import example_batches
import tiny_runs
from promise_jax import methods, missing
from promise_jax.data import batches as data_batches
from promise_jax.losses import bottleneck, supervised
from promise_jax.method import StepInfo, TrainState
from promise_jax.methods import presets, redcore
from promise_jax.nn import encoders, imputers
from promise_jax.optim import optimizer, relative_advantage, update_rules
from promise_jax.reports import comparison, plots
from promise_jax.training import loop
from promise_jax.training.checkpoint import Checkpoints
from promise_jax.types import Average

SIZES = {"hidden": 4, "imputer": 8, "links": 2, "head_hidden": 5}
STILL = {"subsets": 0}
SPEC = example_batches.spec()
PRESETS = {
  "clean": STILL,
  "detached": STILL | {"detach_target": True},
  "subsets": {"subsets": 2, "vib": False, "upper": "none", "unimodal": 0.5},
  "authors": presets.PRESETS["authors"]["redcore"] | {"encoder": "pooled"},
}


pytestmark = pytest.mark.usefixtures("compile_once")


def dense(p, x):
  return x @ np.asarray(p["kernel"], float) + np.asarray(p["bias"], float)


@functools.cache
def start(preset: str):
  """(net, method, parameters, model_state) on three vectors."""
  config = redcore.RedcoreConfig(**PRESETS[preset] | SIZES)
  net = redcore.RedcoreNet(SPEC.modalities, SPEC.task.outputs, config)
  method, beta = redcore.redcore(config, SPEC), redcore.start(config, 3)
  model_state = {"upper": beta, "control": redcore.controller(config).init(beta)}
  return net, method, example_batches.parameters(method), model_state


def showing(*present: int):
  """The complete batch, of which every row shows only these modalities."""
  batch, shown = example_batches.complete(SPEC), np.isin(np.arange(3), present)
  return batch.replace(present=np.tile(shown, (example_batches.ROWS, 1)))


# The pieces of the loss.


def integral(f) -> float:
  """Of a function of a number, over what holds all of the Gaussians below."""
  x = np.linspace(-30, 30, 200_001)
  return float(f(x).sum() * (x[1] - x[0]))


def test_the_bottleneck_is_twice_the_divergence(rng):
  """T3: kl 8e-4 is a weight of 1.6e-3 on KL(q || N(0, I)), here an integral."""
  mean, logvar = rng.normal(size=(2, 4, 3, 2))
  present, valid = rng.random((4, 3)) < 0.6, np.array([True, True, True, False])
  total = 0.0
  for n, m, j in np.argwhere(np.broadcast_to(present[:, :, None], mean.shape)):
    mu, log = mean[n, m, j], logvar[n, m, j]

    def gap(x, mu=mu, log=log):
      q = -((x - mu) ** 2) / (2 * math.exp(log)) - 0.5 * (log + math.log(2 * math.pi))
      return np.exp(q) * (q - (-(x**2) / 2 - 0.5 * math.log(2 * math.pi)))

    total += valid[n] * integral(gap)
  mean[~present], logvar[~present] = np.nan, np.inf
  found = bottleneck.bottleneck_loss(
    *(jnp.float32(x) for x in (mean, logvar)), *map(jnp.asarray, (present, valid))
  )
  assert 8e-4 * found.value == pytest.approx(1.6e-3 * total / 3, rel=1e-4)


@pytest.mark.parametrize("average", [False, True])
def test_the_target_of_the_imputers_is_not_detached(rng, average):
  """T5: d L_R^m / d z = 2 a (z - zhat) / n_m. T6: and 0 where n_m = 0."""
  z, imputed = rng.normal(size=(2, 5, 3, 2)).astype(np.float32)
  present = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1], [1, 0, 0], [1, 0, 1]], bool)
  imputed[0, 1] = np.nan

  def total(imputed, z):
    mean = bottleneck.imputation_loss(imputed, z, jnp.asarray(present), average=average)
    return jnp.sum(mean.value), mean

  (of_imputed, of_z), mean = jax.grad(total, argnums=(0, 1), has_aux=True)(imputed, z)
  np.testing.assert_array_equal(mean.count, [4, 0, 3])
  scale = 2 if average else 1
  for n, m in np.ndindex(present.shape):
    expected = np.zeros(2)
    if present[n, m]:
      expected = 2 * (z[n, m] - imputed[n, m]) / [4, 1, 3][m] / scale
    np.testing.assert_allclose(of_z[n, m], expected, 1e-5, 1e-6)
    np.testing.assert_allclose(of_imputed[n, m], -expected, 1e-5, 1e-6)


def test_composite_by_hand():
  z, imputed = jnp.array([[[1.0], [2.0]]]), jnp.array([[[3.0], [jnp.nan]]])
  found = bottleneck.compose_latents(z, imputed, jnp.array([[False, True]]))
  np.testing.assert_array_equal(found, [[[3.0], [2.0]]])


# The imputers.


def slow_imputer(p, x, links):
  """u_k = u_{k-1} + o_{k-1}, o_k = Dec_k(Enc_k(u_k)), W_2 relu(W_1 (u + o))."""
  u, o = x, np.zeros_like(x)
  for k in range(links):
    layers = jax.tree.map(lambda leaf, k=k: leaf[k], p["ScanAutoEncoder_0"])
    e1, e2, e3, d2, d1, back = (layers[f"Dense_{i}"] for i in range(6))
    leaky = lambda y: np.where(y > 0, y, 0.01 * y)
    u = u + o
    code = dense(e3, leaky(dense(e2, leaky(dense(e1, u)))))
    o = dense(back, np.maximum(dense(d1, np.maximum(dense(d2, code), 0)), 0))
  return dense(p["Dense_1"], np.maximum(dense(p["Dense_0"], u + o), 0))


def test_the_imputer_equals_a_slow_loop(rng):
  net = imputers.Imputer(3, (5, 4, 2), links=2)
  x = rng.normal(size=(3, 6)).astype(np.float32)
  shapes = jax.eval_shape(net.init, jax.random.key(0), x)
  draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 2
  params = jax.tree.map(draw, shapes)
  expected = [slow_imputer(params["params"], row, 2) for row in x]
  np.testing.assert_allclose(net.apply(params, x), expected, 1e-4, 1e-5)


def test_every_residual_part_starts_at_zero(rng):
  net = imputers.Imputer(3, (8, 4, 2), links=3)
  x = rng.normal(size=(3, 6)).astype(np.float32)
  params = jax.jit(net.init)(jax.random.key(0), x)["params"]
  first, second = (jax.tree.map(np.asarray, params[f"Dense_{i}"]) for i in (0, 1))
  expected = dense(second, np.maximum(dense(first, x), 0))
  np.testing.assert_allclose(net.apply({"params": params}, x), expected, 1e-5, 1e-6)
  cascade = params["ScanAutoEncoder_0"]
  assert all((cascade[f"Dense_{i}"]["kernel"] != 0).any() for i in range(5))


# The whole loss against a slow loop.


@functools.cache
def latents(preset: str):
  net = start(preset)[0]
  return jax.jit(functools.partial(net.apply, method="latents"))


@functools.cache
def losses(preset: str):
  return jax.jit(start(preset)[1].stages[0].loss)


def noise(key, ids):
  """One Gaussian draw f[M, d] a row, from the key, a name, and the row's own id."""
  key = jax.random.fold_in(key, zlib.crc32(b"noise"))
  return np.stack([jax.random.normal(jax.random.fold_in(key, i), (3, 4)) for i in ids])


def slow_head(p, x, kept, chance):
  for layer in range(2):
    x = np.maximum(dense(p[f"Dense_{layer}"], x), 0)
    x = x if kept is None else x * kept[layer] / chance
  return dense(p["Dense_2"], x)


def cross_entropy(logits, label):
  return math.log(sum(map(math.exp, logits))) - logits[label]


def slow_imputed(p, config, z, shown):
  """zhat [M, d] of one row z [M, d]."""
  if config.absent == "learned":
    z = [z[m] if shown[m] else p["absent"][m] for m in range(3)]
  rest = [np.concatenate([z[j] for j in range(3) if j != m]) for m in range(3)]
  return [slow_imputer(p[f"impute_{m}"], rest[m], config.links) for m in range(3)]


def slow_terms(config, params, batch, z, masks, kept, kept_each):
  """L_J, the sum of L_U^m and the L_R^m, row by row under each of `masks` [P, B, M],
  and how many rows are supervised."""
  p, chance = params["params"], 1 - config.head_dropout
  sup, single = [], []
  impute, count = np.zeros(3), np.zeros(3)
  for mask, n in itertools.product(masks, range(example_batches.ROWS)):
    shown, label = mask[n], batch.label[n]
    imputed = slow_imputed(p, config, z[n], shown)
    r = [z[n, m] if shown[m] else imputed[m] for m in range(3)]
    for m in np.flatnonzero(batch.present[n]):
      impute[m] += sum((imputed[m] - z[n, m]) ** 2) / (4 if config.average else 1)
      count[m] += 1
    if not batch.labelled[n] or not (shown.any() or config.count_empty):
      continue
    keep = [None] * 4 if kept is None else [kept[n], *kept_each[n]]
    joint = slow_head(p["joint"], np.concatenate(r), keep[0], chance)
    sup.append(cross_entropy(joint, label))
    each = [slow_head(p[f"single_{m}"], r[m], keep[m + 1], chance) for m in range(3)]
    single.append(sum(cross_entropy(logits, label) for logits in each))
  return np.mean(sup), np.mean(single), impute / count, len(sup)


def slow_bottleneck(batch, mean, logvar):
  kl = 0.0
  for n, m in np.argwhere(batch.present):
    kl += sum(mean[n, m] ** 2 + np.exp(logvar[n, m]) - 1 - logvar[n, m])
  return kl / example_batches.ROWS


def slow_beta(config, step, beta, ema, found):
  """The state of the upper level after the losses `found` of batch `step`."""
  ema = 0.3 * ema + 0.7 * found
  eta = 0.1 * config.growth ** (1 + step // 500)
  if step % 3 == 0:
    beta = np.maximum(beta - eta * (ema.mean() - ema) / ema.mean(), 0.1)
    beta = beta / math.sqrt(sum(beta**2))
  return beta, ema


@pytest.mark.parametrize("preset", ["clean", "subsets", "authors"])
def test_the_loss_equals_a_slow_loop(preset):
  """Over five batches: the losses of a batch move beta before it weighs them."""
  net, _, params, model_state = start(preset)
  config, moves = net.config, net.config.upper == "relative_advantage"
  beta, ema = np.ones(3) if moves else np.full(3, 3**-0.5), np.zeros(3)
  for step in range(5):
    batch, key = example_batches.mixed(SPEC, seed=step), jax.random.key(step)
    subset_key, encode_key, noise_key, head_key = jax.random.split(key, 4)
    z, mean, logvar = latents(preset)(params, batch, batch.present, key=encode_key, noise=noise_key)
    z, mean, logvar = (np.asarray(x, float) for x in (z, mean, logvar))
    draws = noise(noise_key, batch.id) if config.vib else 0.0
    np.testing.assert_allclose(z, mean + np.exp(logvar / 2) * draws, 1e-4, 1e-5)
    kept = redcore.dropout_masks(config, SPEC, head_key, batch.id)
    masks = redcore.shows(config, subset_key, batch.id, jnp.array(batch.present))
    sup, single, each, rows = slow_terms(config, params, batch, z, masks, *kept)
    some = batch.labelled & (batch.present.any(axis=1) | config.count_empty)
    assert rows == some.sum() * (1 + config.subsets)
    moved, ema = slow_beta(config, step, beta, ema, each)
    beta = moved if moves else beta
    expected = sup + config.unimodal * single + config.impute * sum(beta * each)
    expected += 8e-4 * slow_bottleneck(batch, mean, logvar) * config.vib
    total, (model_state, terms) = losses(preset)(
      params, model_state, batch, key, example_batches.clock(0.5)
    )
    assert float(total) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(model_state["upper"], beta, 1e-4)
    assert float(terms["sup"].value) == pytest.approx(sup, rel=1e-4)
    found = [terms[f"imputation/{name}"].value for name in "abc"]
    np.testing.assert_allclose(found, each, 1e-4)
    # What is told of the upper level.
    found = [[terms[f"{k}/{name}"] for name in "abc"] for k in ("beta", "advantage")]
    np.testing.assert_allclose(found[0], beta, 1e-4)
    np.testing.assert_allclose(found[1], (ema.mean() - ema) / ema.mean(), 1e-3, 1e-4)
    assert ("moved" in terms) == moves
    if moves:
      far = math.sqrt(sum((beta - 3**-0.5) ** 2))
      assert float(terms["moved"]) == pytest.approx(far, rel=1e-3, abs=1e-5)


def test_a_modality_that_never_occurs_does_not_move_its_average():
  """T6: n_m = 0; the loss is finite and the others go on."""
  _, _, params, model_state = start("authors")
  run = functools.partial(losses("authors"), params)
  key, clock = jax.random.key(0), example_batches.clock(0.5)
  _, (model_state, _) = run(model_state, example_batches.mixed(SPEC), key, clock)
  before = model_state["control"][0]
  total, (model_state, terms) = run(model_state, showing(0, 2), key, clock)
  after = model_state["control"][0]
  assert np.isfinite(total) and terms["imputation/b"] == (0, 0)
  assert (before > 0).all() and after[1] == before[1]
  assert (after[[0, 2],] != before[[0, 2],]).all()


def test_dropout_keeps_half_of_a_head_by_id():
  config, ids = start("authors")[0].config, np.arange(400, dtype=np.int32)
  joint, each = redcore.dropout_masks(config, SPEC, jax.random.key(0), ids)
  assert joint.shape == (400, 2, 5) and each.shape == (400, 3, 2, 5)
  for kept in (joint, each):
    assert np.mean(kept) == pytest.approx(0.5, abs=0.04)
  again, _ = redcore.dropout_masks(config, SPEC, jax.random.key(0), ids[::-1])
  np.testing.assert_array_equal(again[::-1], joint)


# What every term teaches.

ENCODERS, IMPUTERS, SINGLE = (
  {f"{kind}_{i}" for i in range(3)} for kind in ("encode", "impute", "single")
)
WITHOUT_0 = {"impute_0", "encode_1", "encode_2"}
# (preset, term, modalities that every row shows) -> the modules that it reaches.
FLOW = {
  ("authors", "sup", (0, 1, 2)): {"joint"} | ENCODERS,
  ("authors", "sup", (1, 2)): {"joint"} | WITHOUT_0,
  # G_0 reads E_1(0), G_1 reads E_0(0): a hidden source learns too.
  ("authors", "sup", (2,)): {"joint", "impute_0", "impute_1"} | ENCODERS,
  ("authors", "sup", ()): {"joint"} | IMPUTERS | ENCODERS,
  ("authors", "single", (0, 1, 2)): SINGLE | ENCODERS,
  ("authors", "single", (1, 2)): SINGLE | WITHOUT_0,
  ("authors", "kl", (1, 2)): {"encode_1", "encode_2"},
  ("authors", "kl", ()): set(),
  ("authors", "impute_0", (0, 1, 2)): {"impute_0"} | ENCODERS,
  ("authors", "impute_0", (0,)): {"impute_0"} | ENCODERS,
  ("authors", "impute_0", (1, 2)): set(),
  ("clean", "sup", (0, 1, 2)): {"joint"} | ENCODERS,
  ("clean", "sup", (1, 2)): {"joint"} | WITHOUT_0,
  ("clean", "sup", (2,)): {"joint", "impute_0", "impute_1", "encode_2", "absent"},
  ("clean", "sup", ()): set(),
  ("clean", "single", (0, 1, 2)): SINGLE | ENCODERS,
  ("clean", "single", ()): set(),
  ("clean", "kl", (1, 2)): {"encode_1", "encode_2"},
  ("clean", "impute_0", (0, 1, 2)): {"impute_0"} | ENCODERS,
  ("clean", "impute_0", (0,)): {"impute_0", "encode_0", "absent"},
  ("clean", "impute_0", (1, 2)): set(),
  ("detached", "impute_0", (0, 1, 2)): WITHOUT_0,
}


@functools.cache
def gradients(preset: str):
  """(parameters, weight of each term, batch) -> gradient of the weighted sum."""
  net = start(preset)[0]

  def total(params, weight, batch):
    terms = redcore.redcore_terms(net, SPEC, params, batch, jax.random.key(0))
    found = {k: v.value for k, v in terms.items()}
    return sum(jnp.sum(weight[k] * found[k]) for k in found)

  return jax.jit(jax.value_and_grad(total))


def weights(*names: str):
  """1 for the terms named, "impute_0" is L_R of the first modality."""
  some = {k: np.float32(k in names) for k in ("sup", "single", "kl")}
  each = [f"impute_{i}" in names for i in range(3)]
  return some | {"impute": np.array(each, np.float32)}


def reached(grads) -> set[str]:
  """The modules whose gradient is not 0."""
  parts = grads["params"].items()
  return {name for name, part in parts if any(x.any() for x in tiny_runs.numbers(part))}


@pytest.mark.parametrize(("preset", "term", "shown"), FLOW, ids=str)
def test_what_a_term_teaches(preset, term, shown):
  params = start(preset)[2]
  _, grads = gradients(preset)(params, weights(term), showing(*shown))
  assert reached(grads) == FLOW[preset, term, shown]


@functools.cache
def gradient_of_a_head(preset: str):
  """(parameters, head i32[], batch) -> gradient of the loss of that single head."""
  net = start(preset)[0]

  def one(params, head, batch):
    shown = batch.present
    apply = functools.partial(net.apply, params)
    z, _, _ = apply(batch, shown, noise=jax.random.key(0), method="latents")
    r = bottleneck.compose_latents(z, apply(z, shown, method="imputed"), shown)
    logits = apply(r, method="classify_each")[head]
    return jnp.mean(supervised.task_loss(logits, batch.label, SPEC.task))

  return jax.jit(jax.grad(one))


@pytest.mark.parametrize("head", range(3))
def test_what_a_single_head_teaches(head):
  """Itself and the encoder of what is there, or the imputer of what is not and the
  encoders of its sources; no other head."""
  others = {f"encode_{i}" for i in range(3) if i != head}
  expected = {
    (0, 1, 2): {f"encode_{head}"},
    tuple(i for i in range(3) if i != head): {f"impute_{head}"} | others,
  }
  for shown, modules in expected.items():
    grads = gradient_of_a_head("clean")(start("clean")[2], head, showing(*shown))
    assert reached(grads) == {f"single_{head}"} | modules


def test_the_weights_of_the_terms_are_constants():
  """No gradient goes through beta, its averages or the relative advantage."""
  _, method, params, model_state = start("clean")
  batch, clock = example_batches.mixed(SPEC), example_batches.clock(0.5)
  loss = jax.jit(jax.grad(method.stages[0].loss, has_aux=True))
  found, (model_state, _) = loss(params, model_state, batch, jax.random.key(0), clock)
  one = np.float32(1)
  weight = {
    "sup": one,
    "single": one,
    "kl": np.float32(8e-4),
    "impute": model_state["upper"],
  }
  _, expected = gradients("clean")(params, weight, batch)
  tiny_runs.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", ["clean", "authors"])
@pytest.mark.parametrize("shown", [(), (1,), (0, 1, 2)], ids=str)
def test_losses_and_gradients_are_finite(preset, shown):
  params, batch = start(preset)[2], showing(*shown)
  batch = example_batches.poisoned(batch, SPEC, batch.present)
  every = weights("sup", "single", "kl", "impute_0", "impute_1", "impute_2")
  total, grads = gradients(preset)(params, every, batch)
  assert all(np.isfinite(x).all() for x in (total, *jax.tree.leaves(grads)))
  if shown == () and preset == "clean":
    assert total == 0


def test_one_modality_is_enough():
  """There is nothing to impute from: its embedding is taught, its encoder is not."""
  spec = example_batches.spec(modalities=example_batches.VECTORS[:1])
  config = redcore.RedcoreConfig(**SIZES)
  method, beta = redcore.redcore(config, spec), redcore.start(config, 1)
  params = example_batches.parameters(method)
  model_state = {"upper": beta, "control": redcore.controller(config).init(beta)}
  batch = example_batches.mixed(spec)

  def pull(params, model_state, cotangent):
    def f(params):
      at = batch, jax.random.key(0), example_batches.clock(0.5)
      total, (now, terms) = method.stages[0].loss(params, model_state, *at)
      return (total, terms["imputation/a"].value), now

    found, back, now = jax.vjp(f, params, has_aux=True)
    return found, back(cotangent)[0], now

  run, one, no = jax.jit(pull), jnp.ones(()), jnp.zeros(())
  found, grads, now = run(params, model_state, (one, no))
  assert all(np.isfinite(x).all() for x in tiny_runs.numbers((found, grads, now)))
  assert reached(grads) == {"encode_0", "joint", "single_0", "absent"}
  assert now["upper"] == 1 and run(params, now, (one, no))[2]["upper"] == 1
  _, grads, _ = run(params, model_state, (no, one))
  assert reached(grads) == {"absent"}


# The presets.


def test_the_authors_have_the_values_of_their_code():
  """Whatever the defaults are; of their three values for `impute` that of the run."""
  config = redcore.RedcoreConfig(**presets.PRESETS["authors"]["redcore"])
  expected = {
    **{"head_dropout": 0.5, "vib": True, "kl": 8e-4, "impute": 0.15, "unimodal": 1.0},
    **{"detach_target": False, "upper": "relative_advantage", "rho": 0.7, "step": 0.1},
    **{"growth": 1.5, "period": 500, "every": 3, "floor": 0.1, "absent": "zero"},
    **{"eval_sample": True, "mask_padding": False, "average": False, "he_init": True},
    **{"logvar_bound": 0.0, "count_empty": True, "clip": 1.0, "subsets": 0},
    **{"logvar_start": 0.0, "links": 5, "encoder": "transformer"},
    **{"heads": 8, "blocks": 3},
  }
  assert {k: getattr(config, k) for k in expected} == expected
  widths = {"hidden", "imputer", "head_hidden"}
  of_ours = {"upper_lr", "upper_from"}
  assert set(vars(config)) == set(expected) | widths | of_ours


@functools.cache
def predict(preset: str):
  return jax.jit(start(preset)[1].predict)


@pytest.mark.parametrize("preset", ["clean", "authors"])
def test_prediction_equals_a_slow_loop(preset):
  """Clean: from mu. Authors: from a sample that follows the id of the row."""
  net, _, params, model_state = start(preset)
  batch = example_batches.mixed(SPEC)
  found = np.asarray(predict(preset)(params, model_state, batch)["logits"])
  _, mean, logvar = latents(preset)(params, batch, batch.present)
  z = mean = np.asarray(mean)
  if preset == "authors":
    z = mean + np.exp(np.asarray(logvar) / 2) * noise(jax.random.key(0), batch.id)
  for n, shown in enumerate(batch.present):
    imputed = slow_imputed(params["params"], net.config, z[n], shown)
    r = np.concatenate([z[n, m] if shown[m] else imputed[m] for m in range(3)])
    expected = slow_head(params["params"]["joint"], r, None, 1)
    np.testing.assert_allclose(found[n], expected, 1e-4, 1e-4)


def test_noise_at_test_follows_the_id():
  _, _, params, model_state = start("authors")
  batch = example_batches.complete(SPEC)
  run = lambda batch: np.asarray(predict("authors")(params, model_state, batch)["logits"])
  first = run(batch)
  np.testing.assert_array_equal(run(batch), first)
  other = run(batch.replace(id=batch.id + 1000))
  assert (np.abs(other - first).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("preset", ["clean", "authors"])
def test_an_absent_modality_has_one_code(preset):
  """T7: E(0) depends on nothing; the clean version puts a learned embedding there."""
  _, _, params, _ = start(preset)
  batch = example_batches.complete(SPEC)
  nothing = np.zeros((example_batches.ROWS, 3), bool)
  _, mean, logvar = latents(preset)(params, batch, nothing)
  for x in (np.asarray(mean), np.asarray(logvar)):
    assert (x == x[:1]).all()
  poisoned = example_batches.poisoned(batch, SPEC, nothing)
  np.testing.assert_array_equal(latents(preset)(params, poisoned, nothing)[1], mean)


def test_logvar_is_bounded_in_the_clean_version_only():
  for preset, bounded in (("clean", True), ("authors", False)):
    params = jax.tree.map(lambda x: 30 * x, start(preset)[2])
    batch = example_batches.complete(SPEC)
    logvar = np.asarray(latents(preset)(params, batch, batch.present)[2])
    assert (np.abs(logvar).max() == 10.0) if bounded else (np.abs(logvar).max() > 100)


def test_the_authors_clip_every_module_by_itself(monkeypatch):
  """One that explodes does not freeze the others."""
  monkeypatch.setattr(update_rules, "gradient_update", lambda stage, tx: tx)
  grads = {"params": {"encode_0": {"w": jnp.array([3e9, 4e9])}, "joint": jnp.ones(4)}}
  grads["params"]["absent"] = jnp.full((4,), 0.1)
  for preset, clips in (("authors", True), ("clean", False)):
    stage = start(preset)[1].stages[0]
    tx = stage.update(stage, optax.identity())
    found, _ = tx.update(grads, tx.init(grads), grads)
    found = found["params"]
    np.testing.assert_allclose(found["absent"], 0.1)
    scale = (0.2, 0.5) if clips else (1e9, 1.0)
    np.testing.assert_allclose(found["encode_0"]["w"], scale[0] * np.array([3, 4]), 1e-5)
    np.testing.assert_allclose(found["joint"], scale[1], 1e-5)


# The upper level.


@contextlib.contextmanager
def light():
  """While it lasts RedCore reads its inputs without encoders, which are float32 and
  slow to compile, and the optimiser sees all parameters as one vector."""
  build = optimizer.make_optimizer

  def read(encoder, name, batch, present, key):
    del encoder, key
    return missing.zero_absent(batch.inputs[name], present)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(encoders, "encode", read)
    patch.setattr(optimizer, "build", lambda *args: optax.flatten(build(*args)))
    yield


def test_a_quarter_of_the_rows_is_held_out_by_id():
  ids = np.arange(4000, dtype=np.int32)
  batch = {"id": ids, "valid": ids % 10 > 0}
  fit, held = redcore.hold_out(batch, jax.random.key(0))
  assert np.mean(held["valid"]) == pytest.approx(0.225, abs=0.02)
  np.testing.assert_array_equal(fit["valid"] ^ held["valid"], batch.valid)
  assert not (fit["valid"] & held["valid"]).any()
  turned = jax.tree.map(lambda x: x[::-1], batch)
  again = redcore.hold_out(turned, jax.random.key(0))[1]["valid"]
  np.testing.assert_array_equal(again[::-1], held["valid"])
  other = redcore.hold_out(batch, jax.random.key(1))[1]["valid"]
  assert (other != held["valid"]).any()


def upper_level():
  """A tiny RedCore in x64 with a live Adam: (update, state, batch, one_ahead), where
  `one_ahead(beta)` is the loss on the held-out rows after a step on the others."""
  spec = example_batches.spec(modalities=example_batches.VECTORS[:2])
  sizes = {"hidden": 2, "imputer": 4, "links": 1, "head_hidden": 2}
  config = redcore.RedcoreConfig(**STILL | sizes, upper="hypergradient", upper_from=5)
  method, net = (
    redcore.redcore(config, spec),
    redcore.RedcoreNet(spec.modalities, 3, config),
  )
  (stage,) = method.stages
  tx = optimizer.make_optimizer(optimizer.OptimConfig(lr=0.1), 100)
  double = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)
  params, beta = (
    double(example_batches.parameters(method)),
    double(np.array([0.6, 0.8])),
  )
  flat = jax.flatten_util.ravel_pytree(params)[0]
  opt = optax.tree_utils.tree_set(
    tx.init(params),
    count=jnp.int32(9),
    mu=0.05 * flat,
    nu=0.1 * flat**2 + 0.01,
  )
  adam = relative_advantage.projected_adam(config.upper_lr, config.floor)
  control = redcore.controller(config).init(beta)
  model_state = {"upper": beta, "control": control, "upper_opt": adam.init(beta)}
  batch, key = example_batches.complete(spec), jax.random.key(3)
  fit, held = redcore.hold_out(batch, key)
  assert fit["valid"].any() and held["valid"].any()

  def inner(params, beta):
    now = model_state | {"upper": beta}
    return stage.loss(params, now, fit, key, StepInfo(jnp.int32(9), 0.5))[0]

  def one_ahead(beta):
    step, _ = tx.update(jax.grad(inner)(params, beta), opt, params)
    ahead = optax.apply_updates(params, step)
    terms = redcore.redcore_terms(net, spec, ahead, held, key)
    return terms["sup"].value + terms["single"].value

  update = jax.jit(stage.update(stage, tx))
  return update, TrainState(params, model_state, opt), (batch, key), jax.jit(one_ahead)


@pytest.mark.slow
def test_the_hypergradient_is_that_of_finite_differences():
  """And Adam's first step on it is lr * sign, then the floor and the sphere."""
  with light(), jax.enable_x64(True):
    update, state, at, one_ahead = upper_level()
    found, told = update(state, *at, StepInfo(jnp.int32(5), 0.5))
    beta = np.asarray(state.model_state["upper"])
    h, slope = 1e-5, np.zeros(2)
    for i in range(2):
      step = h * np.eye(2)[i]
      slope[i] = (one_ahead(beta + step) - one_ahead(beta - step)) / (2 * h)
    assert np.linalg.norm(slope) > 1e-4
    assert float(told["hypergradient"]) == pytest.approx(np.linalg.norm(slope), 1e-4)
    expected = np.maximum(beta - 0.02 * np.sign(slope), 0.1)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(found.model_state["upper"], expected, 1e-5)
    assert (found.model_state["upper"] != beta).all()
    # Before its step the upper level stays, the lower one goes on.
    found, told = update(state, *at, StepInfo(jnp.int32(4), 0.5))
    assert told["hypergradient"] == 0
    for name in ("upper", "upper_opt"):
      assert tiny_runs.same(found.model_state[name], state.model_state[name])
    assert not tiny_runs.same(found.params, state.params)


# Training.

LEVELS = ("relative_advantage", "hypergradient")


def fitted(mesh, upper=LEVELS[0], protocol="exact(0.5)", rows=None, **more):
  """fit() of two seeds on the toy data: 10 steps in calls of 5."""
  source = tiny_runs.dataset()
  values = tiny_runs.VALUES["redcore"] | STILL | {"upper": upper, "upper_from": 2}
  method = methods.build_method("redcore", values, source.spec)
  rows = rows or tiny_runs.rows(source, protocol=protocol)
  config, valid = tiny_runs.settings(steps=10), source.split("valid")
  with light():
    return loop.fit(method, source.spec, rows, valid, config, mesh=mesh, **more)


@pytest.fixture(scope="module", params=LEVELS)
def whole(request, one_device):
  """The upper level, a run that nothing interrupts, and the lines of its log."""
  lines = []
  fit = fitted(one_device, request.param, log=lines.extend)
  return request.param, fit, [{"method": "redcore"} | line for line in lines]


def test_beta_moves_on_the_sphere(whole):
  _, fit, _ = whole
  beta = np.asarray(fit.model_state["upper"])
  np.testing.assert_allclose(np.linalg.norm(beta, axis=1), 1, 1e-5)
  assert (beta > 0.05).all() and (np.abs(beta - 2**-0.5) > 1e-3).all()


def test_the_log_tells_of_the_upper_level(whole):
  _, _, lines = whole
  names = ["m0", "m1"]
  groups = dict.fromkeys(("beta", "advantage", "imputation"), names)
  assert plots.modality_terms(pd.DataFrame(lines)) == groups
  (sentence,) = comparison.upper_levels(pd.DataFrame(lines))
  assert sentence.startswith("redcore: the upper level moved, |beta - beta0| = 0.")


def test_an_upper_level_without_steps_does_not_move():
  config = redcore.RedcoreConfig(step=0.0)
  control, beta = redcore.controller(config), redcore.start(config, 3)
  state, lines = control.init(beta), []
  losses = Average(jnp.array([1.0, 2.0, 3.0]), jnp.ones(3))
  for step in (1, 2):
    move, state = control.update(losses.total, state, beta)
    beta = optax.apply_updates(beta, move)
    terms = redcore.told(config, SPEC, beta, state[0], losses)
    numbers = {"step": step, "moved": float(terms["moved"])}
    lines.append({"method": "redcore(step=0.0)"} | numbers)
  (sentence,) = comparison.upper_levels(pd.DataFrame(lines))
  assert "did not move, |beta - beta0| = 0.000" in sentence
  assert "moved" not in redcore.told(
    redcore.RedcoreConfig(upper="none"), SPEC, beta, state[0], losses
  )


def test_the_upper_level_survives_a_stop(whole, one_device, tmp_path):
  upper, fit, _ = whole
  with (
    Checkpoints(tmp_path) as checkpoints,
    pytest.raises(loop.TrainingInterrupted) as stopped,
  ):
    fitted(one_device, upper, checkpoints=checkpoints, stop=lambda: signal.SIGTERM)
  assert stopped.value.step == 5
  with Checkpoints(tmp_path) as checkpoints:
    again = fitted(one_device, upper, checkpoints=checkpoints)
  assert tiny_runs.same(again[:4], fit[:4])


@pytest.mark.slow
def test_eight_devices_compute_what_one_does(whole, eight_devices):
  """Two rows a device: how many have a modality differs from one to the next."""
  upper, fit, _ = whole
  found = fitted(eight_devices, upper)
  np.testing.assert_array_equal(found.best_step, fit.best_step)
  tiny_runs.assert_close(found.params, fit.params, rtol=1e-4, atol=1e-5)
  tiny_runs.assert_close(found.model_state, fit.model_state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_training_ends_finite(one_device, rate):
  fit = fitted(one_device, protocol=f"exact({rate})")
  assert all(np.isfinite(x).all() for x in tiny_runs.numbers((fit.params, fit.model_state)))


@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_steps_with_the_settings_of_the_authors_are_finite(rng, rate):
  """At .9 most rows are empty, and some batches lack a modality."""
  net, _, params, model_state = start("authors")
  config, lacks = net.config, 0
  tx = optimizer.clip_by_module(optax.sgd(0.1), config.clip)
  step_of = jax.jit(tx.update)
  state, weight = tx.init(params), weights("sup", "single")
  for step in range(10):
    batch, key = example_batches.complete(SPEC, seed=step), jax.random.key(step)
    batch = batch.replace(present=rng.random((example_batches.ROWS, 3)) >= rate)
    lacks += not batch.present.any(axis=0).all()
    total, (model_state, _) = losses("authors")(
      params, model_state, batch, key, example_batches.clock(0.5)
    )
    weight |= {
      "kl": np.float32(config.kl),
      "impute": config.impute * model_state["upper"],
    }
    _, grads = gradients("authors")(params, weight, batch)
    moves, state = step_of(grads, state, params)
    params = jax.tree.map(np.add, params, moves)
    assert all(np.isfinite(x).all() for x in tiny_runs.numbers((total, params, model_state)))
  assert (lacks > 0) == (rate > 0)


@pytest.mark.parametrize("whole", ["relative_advantage"], indirect=True)
def test_what_the_protocol_hides_is_never_seen(whole, one_device):
  """NaN where it hides a row from both seeds changes no bit. Not so of the mean and
  deviation of the data set, fitted before on all recorded train values."""
  upper, fit, _ = whole
  rows = tiny_runs.rows(tiny_runs.dataset(), protocol="exact(0.5)")
  kept = data_batches.train_mask(rows, 0) | data_batches.train_mask(rows, 1)
  inputs = {
    name: np.where(kept[:, i, None], rows.split.inputs[name], np.float32(np.nan))
    for i, name in enumerate(("m0", "m1"))
  }
  assert all(np.isnan(x).any() for x in inputs.values())
  poisoned = rows._replace(split=rows.split._replace(inputs=inputs))
  assert tiny_runs.same(fitted(one_device, upper, rows=poisoned)[:4], fit[:4])
