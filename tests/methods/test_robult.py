"""Robult: what trains what, and the terms of its loss against slow loops."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_robult_predict import (
  CLASSES,
  MULTILABEL,
  REGRESSION,
  SIZES,
  encode,
  slow_branch,
  slow_fused,
  slow_mlp,
)

import example_batches
from promise_jax import missing
from promise_jax.losses import soft_pu
from promise_jax.methods import robult

TERMS = ("supervised", "labelled", "unlabelled", "reconstruction", "teach")
CONTRAST = ("labelled", "unlabelled")


def start(spec=CLASSES, **values):
  """The settings, random parameters, and a bank with the labels of other rows."""
  config = robult.RobultConfig(**SIZES | values)
  params = example_batches.random_params(robult.robult(config, spec))
  code = np.random.default_rng(3).normal(size=(example_batches.ROWS, SIZES["shared"]))
  code = np.float32(code / np.linalg.norm(code, axis=1, keepdims=True))
  label = example_batches.complete_batch(spec, seed=9).label
  member = soft_pu.label_membership(jnp.asarray(label), spec.task)
  return config, params, soft_pu.Bank(code, member, np.ones(example_batches.ROWS, bool))


def values(config, params, bank, batch, spec=CLASSES, progress=1.0):
  """The terms of the loss without dropout. Not jitted: settings compile nothing."""
  args = params, bank, batch, None, jnp.float32(progress)
  terms, _ = robult.robult_terms(config, spec, *args)
  return {k: float(v.value) for k, v in terms.items()}


@functools.cache
def gradient_program(config):
  def total(params, weights, bank, batch):
    args = config, CLASSES, params, bank, batch, None, jnp.float32(1)
    found = {k: v.value for k, v in robult.robult_terms(*args)[0].items()}
    return sum(w * found[k] for k, w in weights.items()), found

  return jax.jit(jax.grad(total, has_aux=True))


def gradient(config, params, bank, batch, names):
  """The gradient of the sum of the terms `names`, and the values of all terms."""
  weights = {k: np.float32(k in names) for k in TERMS}
  grads, found = gradient_program(config)(params, weights, bank, batch)
  return grads["params"], found


def is_trained(grads, prefix):
  """Whether a gradient other than 0 reaches the modules of that name."""
  chosen = [v for k, v in grads.items() if k == prefix or k.startswith(prefix + "_")]
  assert chosen, f"{prefix} is not among {sorted(grads)}"
  return any((np.asarray(x) != 0).any() for x in jax.tree.leaves(chosen))


def partly_labelled(spec=CLASSES):
  batch = example_batches.complete_batch(spec)
  labelled = np.arange(example_batches.ROWS) % 8 < 5
  return batch.replace(labelled=labelled, bank_index=np.where(labelled, batch.bank_index, -1))


@pytest.mark.parametrize("own_encoders", [True, False])
def test_the_contrast_does_not_train_the_fused_branch(own_encoders):
  config, params, bank = start(own_encoders=own_encoders)
  grads, _ = gradient(config, params, bank, partly_labelled(), CONTRAST)
  assert not is_trained(grads, "fuse")
  assert not own_encoders or not is_trained(grads, "fused_encoders")
  assert is_trained(grads, "project_shared") and is_trained(grads, "encoders")


def test_without_detach_shared_the_contrast_trains_the_fused_branch():
  config, params, bank = start(detach_shared=False, own_encoders=True)
  grads, _ = gradient(config, params, bank, partly_labelled(), CONTRAST)
  assert all(is_trained(grads, name) for name in ("fuse", "fused_encoders", "project_shared"))


def test_reconstruction_trains_neither_the_shared_code_nor_its_target():
  config, params, bank = start()
  batch = example_batches.complete_batch(CLASSES)
  grads, _ = gradient(config, params, bank, batch, ("reconstruction",))
  assert not is_trained(grads, "project_shared") and not is_trained(grads, "fuse")
  assert all(is_trained(grads, name) for name in ("encoders", "project_private", "decoders"))
  # Decoders that ignore the private code leave a way through the target alone.
  deaf = dict(params["params"])
  for name in ("decoders_0", "decoders_1", "decoders_2"):
    first = deaf[name]["Dense_0"]
    deaf[name] = deaf[name] | {"Dense_0": first | {"kernel": np.zeros_like(first["kernel"])}}
  grads, _ = gradient(config, {"params": deaf}, bank, batch, ("reconstruction",))
  assert (
    is_trained(grads, "decoders")
    and not is_trained(grads, "encoders")
    and not is_trained(grads, "project_private")
  )


def test_a_batch_without_labels_trains_without_them():
  config, params, bank = start()
  batch = example_batches.complete_batch(CLASSES).replace(
    labelled=np.zeros(example_batches.ROWS, bool)
  )
  grads, found = gradient(config, params, bank, batch, TERMS)
  assert found["supervised"] == found["labelled"] == 0
  assert found["unlabelled"] > 0 and found["reconstruction"] > 0
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_a_batch_with_every_label_has_no_unlabelled_term():
  found = values(*start(), example_batches.complete_batch(CLASSES))
  assert found["unlabelled"] == 0
  assert found["supervised"] > 0 and found["labelled"] > 0


@pytest.mark.parametrize("classes", [[], [1], [1, 1, 1, 1], [0, 1, 2], [0]])
def test_any_bank_gives_finite_losses(classes, rng):
  config, params, _ = start()
  code = rng.normal(size=(16, 3)).astype(np.float32)
  code /= np.linalg.norm(code, axis=1, keepdims=True)
  member = np.eye(3, dtype=np.float32)[np.resize(classes or [0], 16)]
  bank = soft_pu.Bank(code, member, np.arange(16) < len(classes))
  grads, found = gradient(config, params, bank, partly_labelled(), CONTRAST)
  assert all(math.isfinite(v) for v in found.values()) and found["unlabelled"] > 0
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("spec", [CLASSES, MULTILABEL, REGRESSION])
def test_the_order_of_the_rows_changes_no_term(spec, rng):
  config, params, bank = start(spec)
  batch, order = example_batches.mixed_batch(spec), rng.permutation(example_batches.ROWS)
  before = values(config, params, bank, batch, spec)
  after = values(config, params, bank, example_batches.take_rows(batch, order), spec)
  assert before == pytest.approx(after, rel=1e-5)
  assert before["labelled"] > 0


def test_one_modality_is_enough():
  spec = example_batches.spec(modalities=example_batches.VECTORS[:1])
  found = values(*start(spec), partly_labelled(spec), spec)
  assert all(math.isfinite(v) for v in found.values())


def classify_all(config, params, batch):
  """{row: (logits of all it has, [(subset, logits)] of its subsets and single modalities)}."""
  codes, head = encode(config, params, batch), params["params"]["head"]
  found = {}
  for n in np.flatnonzero(batch.present.any(axis=1)):
    classify = lambda visible, n=n: slow_mlp(head, slow_fused(params, codes, n, visible))
    shown = [tuple(batch.present[n] & pattern) for pattern in missing.all_patterns(3)]
    students = [(visible, classify(visible)) for visible in shown if any(visible)]
    for i in np.flatnonzero(batch.present[n]):
      students.append((tuple(np.arange(3) == i), slow_mlp(head, slow_branch(codes, n, i))))
    found[n] = classify(batch.present[n]), students
  return found


def softmax(x):
  return np.exp(x) / np.exp(x).sum()


def test_the_teacher_teaches_every_subset_and_learns_nothing():
  config, params, bank = start()
  batch = example_batches.mixed_batch(CLASSES)
  _, found = gradient(config, params, bank, batch, ("teach",))
  gaps = []
  for n, (teacher, students) in classify_all(config, params, batch).items():
    teacher = softmax(teacher)
    hides_some = [x for visible, x in students if visible != tuple(batch.present[n])]
    gaps += [np.sum(teacher * np.log(teacher / softmax(x))) for x in hides_some]
  assert float(found["teach"]) == pytest.approx(np.mean(gaps), rel=1e-4)
  # Rows of one modality have no teacher but themselves.
  alone = batch.replace(present=np.tile(np.eye(3, dtype=bool)[1], (example_batches.ROWS, 1)))
  grads, found = gradient(config, params, bank, alone, ("teach",))
  assert float(found["teach"]) == 0 and not is_trained(grads, "head")


def test_the_supervised_term_equals_a_slow_loop():
  """Every subset of a labelled row counts, and every modality that it has."""
  config, params, bank = start()
  batch = example_batches.mixed_batch(CLASSES)
  errors = [
    -math.log(softmax(x)[batch.label[n]])
    for n, (_, students) in classify_all(config, params, batch).items()
    if batch.labelled[n]
    for _, x in students
  ]
  found = values(config, params, bank, batch)["supervised"]
  assert found == pytest.approx(np.mean(errors), rel=1e-5)
