"""Robult's contrast inside training: its kinds, the ramp, the bank, labels, the weights."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_robult import TERMS, partly_labelled, start, values
from test_robult_predict import CLASSES, REGRESSION, SIZES

import example_batches
from promise_jax import methods
from promise_jax.losses import soft_pu
from promise_jax.methods import robult


@pytest.fixture(scope="module")
def default():
  return start()


def values_with(default, **settings):
  _, params, bank = default
  return values(robult.RobultConfig(**SIZES | settings), params, bank, partly_labelled())


def test_every_kind_of_contrast_gives_another_loss(default):
  found = {kind: values_with(default, contrast=kind) for kind in ("softpu", "pucl", "infonce")}
  for name in ("supervised", "reconstruction"):
    assert len({x[name] for x in found.values()}) == 1
  assert len({round(x["labelled"], 5) for x in found.values()}) == 3
  assert values_with(default, detach_shared=False) == pytest.approx(found["softpu"])


def test_before_the_ramp_soft_pu_is_pucl(default):
  early = values(*default, partly_labelled(), progress=0.05)
  late = values(*default, partly_labelled())
  assert early == pytest.approx(values_with(default, contrast="pucl"), rel=1e-6)
  assert late["labelled"] != pytest.approx(early["labelled"], rel=1e-6)


def test_the_order_of_the_classes_cannot_matter(default):
  config, params, bank = default
  batch, order = partly_labelled(), np.array([2, 0, 1])
  before = values(config, params, bank, batch)
  assert before["labelled"] > 0 and before["unlabelled"] > 0
  head = params["params"]["head"]
  last = {k: v[..., order] for k, v in head["Dense_1"].items()}
  params = {"params": params["params"] | {"head": head | {"Dense_1": last}}}
  # Column j now stands for what was class order[j].
  label = np.argsort(order)[batch.label].astype(np.int32)
  bank = bank._replace(member=bank.member[:, order])
  after = values(config, params, bank, batch.replace(label=label))
  assert before == pytest.approx(after, rel=1e-5)


def test_the_loss_is_the_weighted_sum_of_the_terms(default):
  _, params, bank = default
  weights = {"labelled": 0.5, "unlabelled": 0.0, "reconstruction": 2.0, "teach": 0.3}
  settings = {f"{name}_weight": w for name, w in weights.items()}
  method = robult.robult(robult.RobultConfig(**SIZES, **settings), CLASSES)
  args = params, {"bank": bank}, partly_labelled(), jax.random.key(0)
  total, (_, terms) = jax.jit(method.stages[0].loss)(*args, example_batches.step_info(1.0))
  expected = sum(w * terms[k].value for k, w in (weights | {"supervised": 1.0}).items())
  assert set(terms) == set(TERMS)
  assert float(total) == pytest.approx(float(expected), rel=1e-5)


def test_anchors_are_averaged_over_modalities_and_complete_rows(rng):
  codes = rng.normal(size=(3, 6, 2)).astype(np.float32)
  s, z = codes[0], codes[1:]
  complete = np.array([1, 1, 0, 1, 1, 1], bool)
  labelled = np.array([1, 0, 1, 0, 1, 0], bool)
  eye = np.eye(6, dtype=np.float32)
  shared = z.transpose(1, 0, 2)
  found = robult.contrast_terms(s, shared, (eye, eye), labelled, complete, temperature=1.0)
  rows = np.flatnonzero(complete)

  def infonce(a, b, n):
    return math.log(sum(math.exp(float(a[n] @ b[k] - a[n] @ b[n])) for k in rows))

  for name, anchors in (("labelled", (0, 4)), ("unlabelled", (1, 3, 5))):
    each = [np.mean([(infonce(s, x, n) + infonce(x, s, n)) / 2 for n in anchors]) for x in z]
    assert float(found[name].value) == pytest.approx(np.mean(each), rel=1e-5)


def test_both_ways_to_contrast_numbers_are_finite_and_differ():
  found = []
  for kind in ("sign", "gaussian"):
    terms = values(*start(REGRESSION, regression=kind), partly_labelled(REGRESSION), REGRESSION)
    assert all(math.isfinite(v) for v in terms.values())
    found.append(round(terms["labelled"], 5))
  assert found[0] != found[1]


def update_bank(config, params, bank, batch):
  args = config, CLASSES, params, bank, batch, None, jnp.float32(1)
  return jax.tree.map(np.asarray, robult.robult_terms(*args)[1])


def test_the_bank_gets_exactly_the_labelled_complete_rows(default):
  config, params, _ = default
  net, batch = robult.make_network(config, CLASSES), example_batches.mixed_batch(CLASSES)
  bank = update_bank(config, params, soft_pu.init_bank(16, 3, CLASSES.task), batch)
  *_, teacher, _ = net.apply(params, batch, batch.present[None])
  unit = teacher / np.linalg.norm(teacher, axis=1, keepdims=True)
  kept = np.flatnonzero(batch.labelled & batch.present.all(axis=1))
  assert len(kept) >= 4
  assert np.flatnonzero(bank.valid).tolist() == sorted(batch.bank_index[kept])
  for n in kept:
    k = batch.bank_index[n]
    np.testing.assert_allclose(bank.code[k], unit[n], 1e-5, 1e-6)
    assert bank.member[k].tolist() == np.eye(3)[batch.label[n]].tolist()
  # A later batch keeps what it does not overwrite.
  unlabelled = batch.replace(labelled=np.zeros(example_batches.ROWS, bool))
  later = update_bank(config, params, bank, unlabelled)
  jax.tree.map(np.testing.assert_array_equal, later, bank)


def test_a_small_bank_wraps_round(default):
  config, params, _ = default
  batch = example_batches.complete_batch(CLASSES)
  bank = update_bank(config, params, soft_pu.init_bank(4, 3, CLASSES.task), batch)
  assert bank.valid.tolist() == [True] * 4
  np.testing.assert_array_equal(bank.member, np.eye(3)[batch.label[12:]])


@pytest.mark.parametrize(
  ("field", "value", "known"),
  [
    ("contrast", "nce", "infonce"),
    ("regression", "bins", "gaussian"),
  ],
)
def test_an_unknown_choice_is_named_with_what_is_known(field, value, known):
  with pytest.raises(ValueError, match=f"robult.{field} is '{value}'.*{known}"):
    methods.build_method("robult", {field: value}, CLASSES)


def test_settings_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="shared is 64.*below hidden 64"):
    methods.build_method("robult", {"shared": 64}, CLASSES)
  with pytest.raises(ValueError, match="'robot', known are robult"):
    methods.build_method("robot", {}, CLASSES)
  with pytest.raises(ValueError, match="robult.depth is not a setting.*hidden"):
    methods.build_method("robult", {"depth": 3}, CLASSES)
  for value in (True, 8.0, "8"):
    with pytest.raises(ValueError, match="robult.hidden is .*expected a int"):
      methods.build_method("robult", {"hidden": value}, CLASSES)
  assert methods.make_config("robult", {"temperature": 1}).temperature == 1
