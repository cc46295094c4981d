"""`share`: its partners, mixed rows and members against slow loops, and what it is without."""

import jax
import numpy as np
import pytest

import example_batches
from promise_jax.methods import common, distil, share
from promise_jax.methods.fusion import FusionNet

SIZES = {"hidden": 8, "head_hidden": 5, "members": 2}
KEY = jax.random.key(2)


def test_partners_are_a_circle_that_the_order_of_rows_does_not_change(rng):
  ids, where = np.arange(20, dtype=np.int32) * 7, np.arange(20) % 3 > 0
  draw = jax.jit(share.draw_partners)
  partner = np.asarray(draw(KEY, ids, where))
  visited, row = [], 1
  while row not in visited:
    visited.append(row)
    row = partner[row]
  assert sorted(visited) == np.flatnonzero(where).tolist()
  order = rng.permutation(20)
  moved = np.asarray(draw(KEY, ids[order], where[order]))
  same = ids[order][moved] == ids[partner][order]
  assert same[where[order]].all()
  assert (np.asarray(draw(jax.random.key(3), ids, where)) != partner)[where].any()


@pytest.mark.parametrize("kind", example_batches.TASKS)
def test_logits_and_probabilities_of_a_label(kind):
  task = example_batches.TASKS[kind]
  label = {"classes": np.int32([2, 0]), "multilabel": np.float32([[1, 0, 1, 1], [0, 0, 1, 0]])}
  label = label.get(kind, np.float32([1.5, -3]))
  found = share.supervised.label_probability(label, task)
  expected = {"classes": [[0, 0, 1], [1, 0, 0]], "regression": [[0.5], [-1.0]]}
  np.testing.assert_array_equal(found, expected.get(kind, label))
  logits = share.as_logits(found, task)
  again = share.supervised.predict_probability(logits, task)
  np.testing.assert_allclose(again, found, atol=1e-5)


def mix_slowly(net, params, codes, teacher, batch, key):
  """L_mix of classes and one member, one row at a time."""
  partner_key, ratio_key, subset_key = jax.random.split(key, 3)
  there = batch.present.any(1)
  partner = np.asarray(share.draw_partners(partner_key, batch.id, there))
  ratio = [jax.random.uniform(k, minval=0.5) for k in common.row_keys(ratio_key, batch.id)]
  both = batch.present & batch.present[partner]
  visible = np.asarray(common.random_subset(subset_key, batch.id, both))
  token, errors = params["params"]["token"], []
  for n in np.flatnonzero(there & both.any(1)):
    r, pair = float(ratio[n]), (n, partner[n])
    guess = [
      np.eye(3)[batch.label[k]] if batch.labelled[k] else np.asarray(jax.nn.softmax(teacher[k]))
      for k in pair
    ]
    target = r * guess[0] + (1 - r) * guess[1]
    code = (r * codes[n] + (1 - r) * codes[partner[n]])[None]
    out = net.apply(params, code, visible[None, n], token, method=FusionNet.classify)
    log_p = np.asarray(jax.nn.log_softmax(out.logits[0]))
    known = target > 0
    errors.append((target[known] * (np.log(target[known]) - log_p[known])).sum())
  return np.mean(errors)


def test_the_mixed_term_is_that_of_a_slow_loop():
  spec = example_batches.spec("classes")
  method = share.share(share.ShareConfig(**SIZES), spec)
  net = FusionNet(spec.modalities, 3, 8, 5)
  params, batch = example_batches.random_params(method), example_batches.mixed_batch(spec)
  # The loss has dropout only inside the encoders: hide it, and take its codes from the network.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("promise_jax.nn.dropout.Dropout.__call__", lambda self, x: x)
    step_info = example_batches.step_info(0.9)
    _, (_, terms) = jax.jit(method.stages[0].loss)(params, {}, batch, KEY, step_info)
    members = [jax.tree.map(lambda x, k=k: x[k], params) for k in range(2)]
    outs = [net.apply(p, batch) for p in members]
  teacher = np.log(np.mean([jax.nn.softmax(out.logits) for out in outs], axis=0))
  mix_key = jax.random.split(KEY, 3)[2]
  expected = np.mean(
    [
      mix_slowly(net, p, np.asarray(out.codes), teacher, batch, mix_key)
      for p, out in zip(members, outs, strict=True)
    ]
  )
  assert terms["mix"].value == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kind", example_batches.TASKS)
def test_the_mean_prediction_is_that_of_probabilities_or_numbers(kind, rng):
  task = example_batches.TASKS[kind]
  logits = rng.normal(size=(3, 5, task.outputs)).astype(np.float32)
  found = share.mean_prediction(logits, task)
  probability = [share.supervised.predict_probability(x, task) for x in logits]
  again = share.supervised.predict_probability(found, task)
  np.testing.assert_allclose(again, np.mean(probability, axis=0), 1e-5)


def test_one_member_without_mixed_rows_is_distil():
  spec = example_batches.spec("classes")
  method = share.share(share.ShareConfig(**SIZES | {"members": 1, "mix": 0.0}), spec)
  baseline = distil.distil(distil.DistilConfig(hidden=8, head_hidden=5), spec)
  params, batch = example_batches.random_params(baseline), example_batches.mixed_batch(spec)
  stacked = jax.tree.map(lambda x: x[None], params)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("promise_jax.nn.dropout.Dropout.__call__", lambda self, x: x)
    args = ({}, batch, KEY, example_batches.step_info(0.9))
    found, expected = (
      jax.jit(jax.value_and_grad(m.stages[0].loss, has_aux=True))(p, *args)
      for m, p in ((method, stacked), (baseline, params))
    )
  assert found[0][1][1].pop("mix").value > 0
  assert_near(found[0], expected[0])
  assert_near(jax.tree.map(lambda x: x[0], found[1]), expected[1])
  inputs = example_batches.to_inputs(batch)
  found, expected = method.predict(stacked, {}, inputs), baseline.predict(params, {}, inputs)
  np.testing.assert_array_equal(found["fused"], expected["fused"])
  np.testing.assert_allclose(found["logits"], jax.nn.log_softmax(expected["logits"]), 1e-5, 1e-6)


def assert_near(found, expected):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-6), found, expected)


@pytest.mark.parametrize(
  "values", [{"mix": -1.0}, {"members": 0}, {"weight": -0.1}, {"ramp_end": 0.0}]
)
def test_settings_without_meaning_are_refused(values):
  with pytest.raises(ValueError, match=f"share.{next(iter(values))} is"):
    share.ShareConfig(**values)
