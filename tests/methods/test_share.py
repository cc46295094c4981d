"""`share`: its partners, mixed rows and members against slow loops; the subsets that it learns."""

import jax
import numpy as np
import pytest
from test_robult_predict import slow_branch, slow_fused, slow_mlp

import example_batches
from promise_jax import missing
from promise_jax.methods import common, distil, share
from promise_jax.nn.branches import BranchNet

SIZES = {"hidden": 8, "head_hidden": 5, "members": 2}
KEY = jax.random.key(2)
FIVE = example_batches.VECTORS + tuple(
  m._replace(name=m.name * 2) for m in example_batches.VECTORS[:2]
)


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


def test_copies_of_a_row_have_another_row_as_partner():
  """As a batch has where fewer rows have a label than it has places for them."""
  ids = np.repeat(np.arange(4, dtype=np.int32), 3)
  partner = np.asarray(jax.jit(share.draw_partners)(KEY, ids, np.ones(12, bool)))
  pairs = set(zip(ids.tolist(), ids[partner].tolist(), strict=True))
  assert len(pairs) == 4 and all(own != other for own, other in pairs)
  assert {other for _, other in pairs} == set(range(4))


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


def mix_slowly(params, codes, teacher, batch, key):
  """L_mix of classes and one member, one row at a time."""
  partner_key, ratio_key, subset_key = jax.random.split(key, 3)
  there = batch.present.any(1)
  partner = np.asarray(share.draw_partners(partner_key, batch.id, there))
  ratio = [jax.random.uniform(k, minval=0.5) for k in common.row_keys(ratio_key, batch.id)]
  both = batch.present & batch.present[partner]
  visible = np.asarray(common.random_subset(subset_key, batch.id, both))
  head, errors, sizes = params["params"]["head"], [], set()
  for n in np.flatnonzero(there & both.any(1)):
    r, pair = float(ratio[n]), (n, partner[n])
    guess = [
      np.eye(3)[batch.label[k]] if batch.labelled[k] else np.asarray(jax.nn.softmax(teacher[k]))
      for k in pair
    ]
    target = r * guess[0] + (1 - r) * guess[1]
    shown = np.flatnonzero(visible[n])
    own, other = (
      slow_fused(params, codes, k, visible[n])
      if len(shown) > 1
      else slow_branch(codes, k, shown[0])
      for k in pair
    )
    log_p = np.asarray(jax.nn.log_softmax(slow_mlp(head, r * own + (1 - r) * other)))
    known = target > 0
    errors.append((target[known] * (np.log(target[known]) - log_p[known])).sum())
    sizes.add(len(shown))
  assert 1 in sizes and max(sizes) > 1  # one modality and several of them
  return np.mean(errors)


@pytest.fixture
def no_dropout(monkeypatch):
  """Dropout is only inside the encoders, and here it is off: predictions have its codes."""
  monkeypatch.setattr("promise_jax.nn.dropout.Dropout.__call__", lambda self, x: x)


def train_terms(method, params, batch):
  step_info = example_batches.step_info(0.9)
  return jax.jit(method.stages[0].loss)(params, {}, batch, KEY, step_info)[1][1]


def test_the_mixed_term_is_that_of_a_slow_loop(no_dropout):
  spec = example_batches.spec("classes")
  config = share.ShareConfig(**SIZES)
  method = share.share(config, spec)
  net = BranchNet(spec.modalities, 3, config.hidden, 4, config.head_hidden)
  params, batch = example_batches.random_params(method), example_batches.mixed_batch(spec)
  terms = train_terms(method, params, batch)
  members = [jax.tree.map(lambda x, k=k: np.asarray(x[k]), params) for k in range(2)]
  outs = [net.apply(p, batch, method=BranchNet.predict) for p in members]
  teacher = np.log(np.mean([jax.nn.softmax(logits) for _, logits, _ in outs], axis=0))
  mix_key = jax.random.split(KEY, 3)[2]
  errors = [
    mix_slowly(p, jax.device_get(codes), teacher, batch, mix_key)
    for p, (codes, _, _) in zip(members, outs, strict=True)
  ]
  assert terms["mix"].value == pytest.approx(np.mean(errors), rel=1e-3)


@pytest.mark.parametrize("modalities", [example_batches.VECTORS, FIVE], ids=["three", "five"])
def test_members_learn_from_what_they_predict_of_every_subset(modalities, no_dropout):
  """The terms of `distil`, of predictions of rows that lack the rest. Of five modalities
  these are random subsets."""
  spec = example_batches.spec("classes", modalities)
  method = share.share(share.ShareConfig(**SIZES | {"members": 1}), spec)
  params, batch = example_batches.random_params(method), example_batches.mixed_batch(spec)
  if len(modalities) == 3:
    visible = np.array(missing.all_patterns(3)[::-1])[:, None] & batch.present
  else:
    visible = common.random_subsets(jax.random.split(KEY, 3)[0], batch.id, batch.present, 6)
  inputs = example_batches.to_inputs(batch)
  predict = jax.jit(lambda shown: method.predict(params, {}, inputs.replace(present=shown)))
  logits = np.stack([predict(shown)["logits"] for shown in visible])
  expected = distil.subset_terms(logits, logits[0], visible, batch, spec.task)
  found = train_terms(method, params, batch)
  for name in ("supervised", "distil"):
    assert found[name].value == pytest.approx(float(expected[name].value), rel=1e-4)


@pytest.mark.parametrize("kind", example_batches.TASKS)
def test_the_mean_prediction_is_that_of_probabilities_or_numbers(kind, rng):
  task = example_batches.TASKS[kind]
  logits = rng.normal(size=(3, 5, task.outputs)).astype(np.float32)
  found = share.mean_prediction(logits, task)
  probability = [share.supervised.predict_probability(x, task) for x in logits]
  again = share.supervised.predict_probability(found, task)
  np.testing.assert_allclose(again, np.mean(probability, axis=0), 1e-5)


@pytest.mark.parametrize(
  "values", [{"mix": -1.0}, {"members": 0}, {"hidden": 1}, {"weight": -0.1}, {"ramp_end": 0.0}]
)
def test_settings_without_meaning_are_refused(values):
  with pytest.raises(ValueError, match=f"share.{next(iter(values))} is"):
    share.ShareConfig(**values)
