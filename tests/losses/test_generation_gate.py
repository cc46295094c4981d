"""Gates, dependence and disentangling against slow loops and cases worked by hand."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import example_batches
from promise_jax.losses import (
  generation_gate,
  mutual_information,
  prompt_disentanglement,
)

KINDS = tuple(example_batches.TASKS)
T, C = 12, 4


def close(found, expected, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(found, expected, rtol, atol)


# Gates.


def test_the_table_has_all_settings():
  assert generation_gate.gate_settings(1).shape == (1, 0)
  assert generation_gate.gate_settings(3).tolist() == [
    [False, False],
    [False, True],
    [True, False],
    [1, 1],
  ]
  with pytest.raises(ValueError, match="modalities is 0"):
    generation_gate.gate_settings(0)


PRESENT = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], bool)


def test_the_kth_absent_modality_gets_the_kth_gate():
  found = jax.jit(generation_gate.gates)(np.array([True, False]), PRESENT)
  assert found.dtype == np.float32
  close(found, [[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0]])
  found = jax.jit(generation_gate.gates)(np.array([False, True]), PRESENT)
  close(found, [[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 1, 0]])
  close(generation_gate.gates(np.zeros(0, bool), np.array([[True], [False]])), [[1], [0]])


def test_benefit_by_hand():
  # Settings 00, 01, 10, 11; the columns are the rows of PRESENT. The second row has one
  # absent modality, its first gate: .5 -> .2 when ON. The third has two: the first gate
  # gains .8 - .6 and .7 - .1, the second .8 - .7 and .6 - .1.
  errors = np.array(
    [[0.3, 0.5, 0.8, 9], [0.3, 0.5, 0.7, 1], [0.3, 0.2, 0.6, 2], [0.3, 0.2, 0.1, 3]],
    np.float32,
  )
  expected = [[0, 0, 0], [0, 0.3, 0], [0.4, 0, 0.3], [0, 0, 0]]
  close(generation_gate.benefit(errors, PRESENT), expected)
  assert not np.any(generation_gate.benefit(errors[:1, :2], np.array([[True], [False]])))


def test_benefit_of_four_modalities_equals_a_slow_loop(rng):
  present = np.array(list(itertools.product((False, True), repeat=4)))
  settings = generation_gate.gate_settings(4)
  # An error that a row's own gates decide, as a model's would.
  own = rng.random((len(present), 2, 2, 2, 2))
  errors = np.zeros((len(settings), len(present)))
  expected = np.zeros(present.shape)
  for b, row in enumerate(present):
    absent = np.flatnonzero(~row)
    error = lambda on, b=b: own[b][tuple(int(m in on) for m in range(4))]
    for g, setting in enumerate(settings):
      errors[g, b] = error({m for m, on in zip(absent, setting, strict=False) if on})
    for m in absent if row.any() else ():
      others = [n for n in absent if n != m]
      gains = [
        error(set(itertools.compress(others, on))) - error({m, *itertools.compress(others, on)})
        for on in itertools.product((False, True), repeat=len(others))
      ]
      expected[b, m] = np.mean(gains)
  close(generation_gate.benefit(errors.astype(np.float32), present), expected)


def slow_probabilities(logits, kind):
  if kind == "classes":
    e = np.exp(logits)
    return e / e.sum(-1, keepdims=True)
  return 1 / (1 + np.exp(-logits)) if kind == "multilabel" else logits


@pytest.mark.parametrize("kind", KINDS)
def test_error_and_importance_equal_numpy(rng, kind):
  task = example_batches.TASKS[kind]
  rows, modalities = 5, 3
  logits = rng.normal(size=(1 + modalities, rows, task.outputs)).astype(np.float32)
  p = slow_probabilities(logits, kind)
  label = example_batches.labels(task, rows, rng)
  target = {
    "classes": lambda: np.eye(task.outputs)[label],
    "multilabel": lambda: label,
    "regression": lambda: label[:, None] / 3,
  }[kind]()
  close(generation_gate.as_target(label, task), target)
  found = generation_gate.prediction_error(logits[0], generation_gate.as_target(label, task), task)
  close(found, np.abs(p[0] - target).mean(1))
  moved = np.abs(p[0] - p[1:]).mean(2).T
  close(generation_gate.distances(logits[0], logits[1:], task), moved)
  tau = np.median(moved, axis=0)
  found = generation_gate.importance(logits[0], logits[1:], tau + 1e-5, task)
  np.testing.assert_array_equal(found.sum(0), 2)
  np.testing.assert_array_equal(found, moved > tau[None] + 1e-5)


def test_necessity_is_in_units_of_the_targets():
  b = np.array([[0.2, 0.0, -0.2]], np.float32)
  e2 = math.exp(2)
  close(generation_gate.necessity(b, np.float32(1)), [[e2 / (1 + e2), 0.5, 1 / (1 + e2)]])
  close(
    generation_gate.necessity(b * 3, np.array([1.0, 5.0])),
    generation_gate.necessity(b, np.float32(1)),
  )
  close(generation_gate.necessity(b, np.float32(0)), [[1, 0.5, 0]])
  # A margin of two moves all by the benefit whose necessity is sigmoid(2).
  close(
    generation_gate.necessity(b, np.float32(1), 2.0),
    generation_gate.necessity(b - 0.2, np.float32(1)),
  )


def test_cross_entropy_pulls_the_gate_to_the_label_and_not_back():
  q = np.array([[0.3, 1.0, 0.5]], np.float32)
  x = np.array([[0.7, 2.0, 900.0]], np.float32)

  def loss(q, x):
    each = generation_gate.gate_cross_entropy(q, x)
    return jnp.sum(each), each

  (of_q, of_x), each = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(q, x)
  s = 1 / (1 + np.exp(-np.float64(x)))
  expected = q * np.log1p(np.exp(-np.float64(x))) + (1 - q) * (
    np.float64(x) + np.log1p(np.exp(-np.float64(x)))
  )
  close(each, expected)
  close(of_x, s - q)
  assert not np.any(of_q)


# Dependence.


@functools.cache
def information(grad=False):
  def total(alpha, beta, real):
    each = mutual_information.mutual_information(alpha, beta, real)
    return jnp.sum(each), each

  if grad:
    return jax.jit(jax.grad(total, (0, 1), has_aux=True))
  return jax.jit(lambda *args: total(*args)[1])


def slow_information(alpha, beta, real):
  joint = np.zeros((alpha.shape[1], beta.shape[1]))
  for t in np.flatnonzero(real):
    joint += np.outer(np.float64(alpha[t]), np.float64(beta[t])) / real.sum()
  found = 0.0
  for i, j in np.ndindex(joint.shape):
    if joint[i, j] > 0:
      found += joint[i, j] * math.log(joint[i, j] / joint[i].sum() / joint[:, j].sum())
  return found


def distributions(rng, rows, steps=T, codes=C, sharp=3.0):
  x = np.exp(sharp * rng.normal(size=(rows, steps, codes)))
  return (x / x.sum(-1, keepdims=True)).astype(np.float32)


def test_information_equals_a_slow_loop(rng):
  alpha, beta = distributions(rng, 8), distributions(rng, 8)
  real = rng.random((8, T)) < 0.6
  real[:, 3] = True
  expected = [slow_information(*args) for args in zip(alpha, beta, real, strict=True)]
  beta[~real] = np.nan
  found = information()(alpha, beta, real)
  close(found, expected)
  assert np.all(found > 0) and np.all(found < math.log(C))


def test_information_of_codes_by_hand():
  step = np.arange(16)
  a, b = np.eye(C, dtype=np.float32)[step % C], np.eye(C, dtype=np.float32)[step // C]
  two = np.eye(C, dtype=np.float32)[step % 2]
  constant = np.broadcast_to(distributions(np.random.default_rng(1), 1, 1)[0], a.shape)
  alpha = np.stack([a, a, a, a, constant, a, np.roll(a, 1, 1)])
  beta = np.stack([a, b, two, constant, a, a, a])
  real = np.ones((7, 16), bool)
  real[5] = False
  (of_alpha, of_beta), found = information(grad=True)(alpha, beta, real)
  close(found, [math.log(4), 0, math.log(2), 0, 0, 0, math.log(4)])
  assert not np.any(found[3:6])
  # Joint probabilities, whole codes and all steps that are 0: finite, and none to steps
  # that do not count.
  assert np.all(np.isfinite(of_alpha)) and np.all(np.isfinite(of_beta))
  assert not np.any(of_alpha[5]) and np.any(of_alpha[2])


def test_the_gradient_of_information_is_that_of_the_joint(rng):
  """In alpha_ti, up to what a distribution cannot follow: a constant over i."""
  alpha, beta = distributions(rng, 7, 16, sharp=1), distributions(rng, 7, 16, sharp=1)
  (found, _), _ = information(grad=True)(alpha, beta, np.ones((7, 16), bool))
  joint = np.einsum("bti,btj->bij", alpha, beta) / 16
  product = joint.sum(2, keepdims=True) * joint.sum(1, keepdims=True)
  expected = np.einsum("btj,bij->bti", beta, np.log(joint / product)) / 16
  centre = lambda x: x - x.mean(2, keepdims=True)
  close(centre(found), centre(expected), 1e-4, 1e-6)


@pytest.mark.parametrize("sharp", [10, 30, 100])
def test_tiny_probabilities_have_finite_gradients(rng, sharp):
  alpha, beta = (distributions(rng, 7, 16, sharp=sharp) for _ in range(2))
  grads, found = information(grad=True)(alpha, beta, np.ones((7, 16), bool))
  expected = [slow_information(a, b, np.ones(16)) for a, b in zip(alpha, beta, strict=True)]
  close(found, expected, 1e-5, 2e-6)
  assert all(np.abs(grad).max() < 10 for grad in grads)


@pytest.mark.parametrize("codes", [8, 30])
def test_information_ranks_identical_related_and_unrelated_streams(rng, codes):
  """50 steps: unrelated ones have some, the more the more codes there are."""
  x, y = rng.normal(size=(2, 40, 50, 30)).astype(np.float32)
  kernel = (rng.normal(size=(30, codes)) / np.sqrt(30)).astype(np.float32)
  of = jax.jit(
    lambda a, b: mutual_information.mutual_information(
      mutual_information.soft_codes(a, kernel, 0.5),
      mutual_information.soft_codes(b, kernel, 0.5),
    )
  )
  others = [x, 0.8 * x + 0.6 * y, y, np.zeros_like(x)]
  same, related, unrelated, nothing = (of(other, x).mean() for other in others)
  assert same > 1.3 * related > 1.3 * 1.3 * unrelated > 0
  assert nothing == 0
  assert unrelated < 0.06 if codes == 8 else unrelated > 0.08


def test_soft_codes_equal_numpy(rng):
  x = rng.normal(3, 2, (2, T, 6)).astype(np.float32)
  x[1, 4] = 0
  kernel = rng.normal(size=(6, C)).astype(np.float32)
  norm = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

  def loss(x):
    codes = mutual_information.soft_codes(x, kernel, 0.5)
    return jnp.sum(jnp.square(codes)), codes

  grad, found = jax.jit(jax.grad(loss, has_aux=True))(x)
  close(found, slow_probabilities(norm @ kernel / 0.5, "classes"))
  close(found[1, 4], np.full(C, 1 / C))
  assert np.all(np.isfinite(grad))


def test_the_only_real_source_gets_the_largest_weight():
  """With audio and vision off: what text hears is 0, what the others hear of it not."""
  heard = {("a", "l"): 0.034, ("v", "l"): 0.046}
  pairs = itertools.permutations("lav", 2)
  scores = {pair: np.full(2, heard.get(pair, 0), np.float32) for pair in pairs}
  score = mutual_information.source_scores(scores, "lav")
  close(score, [[0.04, 0, 0]] * 2)
  omega = mutual_information.source_weights(score, 0.1)
  close(omega, [[1.28, 0.86, 0.86]] * 2, atol=5e-3)
  close(omega.sum(1), [3, 3])
  for names in ("l", "la"):
    with pytest.raises(ValueError, match="at least two modalities"):
      mutual_information.source_scores({} if names == "l" else scores, names)


def slow_attention(weight, real):
  found = []
  for head in np.float64(weight):
    rows = head[real]
    mean = rows.mean(0)
    gaps = [sum(p * math.log(p / q) for p, q in zip(a, mean, strict=True) if p > 0)
            for a in rows]  # fmt: skip
    found.append(np.mean(gaps))
  return np.mean(found)


def test_attention_information_equals_a_slow_loop_less_the_mask(rng):
  weight = distributions(rng, 6).reshape(2, 3, T, C)
  real = rng.random((2, T)) < 0.7
  plain = [slow_attention(*args) for args in zip(weight, real, strict=True)]
  found = jax.jit(mutual_information.attention_information)(weight, real)
  close(found, plain)
  causal = np.tril(np.ones((1, 50, 50), bool))
  even = np.float32(causal / causal.sum(-1, keepdims=True))[:, None]

  def total(weight, real, sees):
    less = mutual_information.attention_information(weight, real, sees)
    return jnp.sum(less), (less, mutual_information.attention_information(weight, real))

  unmasked = np.eye(50, dtype=np.float32)[None, None]
  weight = np.concatenate([even, np.full_like(even, 1 / 50), unmasked, unmasked])
  real = np.ones((4, 50), bool)
  real[3] = False
  of = jax.jit(jax.grad(total, has_aux=True))
  grad, (less, all_of_it) = of(weight, real, causal)
  bias = slow_attention(even[0], real[0])
  assert bias == pytest.approx(0.54, abs=0.01)
  close(all_of_it, [bias, 0, math.log(50), 0])
  close(less, [0, 0, math.log(50) - bias, 0])
  assert np.all(np.isfinite(grad))


# Disentangling.


@functools.cache
def orthogonality():
  def total(private, shared):
    each = prompt_disentanglement.orthogonality_loss(private, shared)
    return jnp.sum(each), each

  return jax.jit(jax.grad(total, (0, 1), has_aux=True))


def test_orthogonality_equals_the_equation_of_three(rng):
  private = rng.normal(size=(4, 3, 2, 8)).astype(np.float32)
  shared = rng.normal(size=(2, 8)).astype(np.float32)
  bar = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  expected = []
  for row in bar(private):
    total = sum(np.linalg.norm(p @ bar(shared).T) ** 2 for p in row)
    for m, n in [(0, 1), (0, 2), (1, 2)]:
      total += np.linalg.norm(row[m] @ row[n].T) ** 2
    expected.append(total / (3 * 2**2))
  close(orthogonality()(private, shared)[1], expected)


def test_orthogonality_between_its_bounds():
  """Prompts that are orthogonal, empty, all one vector, or each a copy of the shared
  one, of two vectors: six pairs with an overlap of 2."""
  axes = np.eye(8, dtype=np.float32).reshape(4, 2, 8)
  copies = np.broadcast_to(axes[3], (3, 2, 8))
  one = np.broadcast_to(axes[3, :1], (3, 2, 8))
  grads, found = orthogonality()(np.stack([axes[:3], 0 * one, one, copies]), axes[3])
  close(found, [0, 0, (3 * 2 + 3 * 4) / 12, 6 * 2 / 12])
  same = np.ones((4, 3, 2, 8), np.float32)
  close(orthogonality()(same, same[0, 0])[1], [2] * 4)
  assert all(np.all(np.isfinite(grad)) for grad in grads)


def test_recovery_equals_a_slow_loop_and_leaves_the_shared_prompt_alone(rng):
  private = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
  shared = rng.normal(size=(4, 5)).astype(np.float32)
  kernel = rng.normal(size=(15, 5)).astype(np.float32)
  expected = np.zeros(2)
  for b, i in np.ndindex(2, 4):
    s = shared[i]
    norm = (s - s.mean()) / math.sqrt(s.var() + 1e-5)
    side = np.concatenate([private[b, m, i] for m in range(3)])
    expected[b] += np.mean((norm - side @ kernel) ** 2) / 4

  def loss(*args):
    each = prompt_disentanglement.recovery_loss(*args)
    return jnp.sum(each), each

  grads, found = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(private, shared, kernel)
  close(found, expected)
  assert np.any(grads[0]) and not np.any(grads[1]) and np.any(grads[2])
