"""`prototypes`: running sums, distances and the greedy choice against slow loops."""

import jax
import numpy as np
import pytest

import example_batches
from promise_jax.methods import distil, prototypes

SPEC = example_batches.spec("classes")


def test_sums_give_the_means_and_spreads_of_labelled_rows(rng):
  codes = rng.normal(size=(2, example_batches.ROWS, 3, 2)).astype(np.float32)
  batches = [example_batches.mixed_batch(SPEC, seed) for seed in (0, 5)]
  sums = {"count": np.zeros((3, 3)), "total": np.zeros((3, 3, 2)), "square": np.zeros(3)}
  for x, batch in zip(codes, batches, strict=True):
    sums = prototypes.update_sums(sums, x, batch, 0.75)
  found = jax.jit(prototypes.scale_distances)(sums, codes[0])
  # The rows of the first batch have decayed once.
  rows = [
    (0.75 if k == 0 else 1.0, codes[k, n], batch.label[n], batch.present[n])
    for k, batch in enumerate(batches)
    for n in np.flatnonzero(batch.labelled)
  ]
  for m in range(3):
    weight, x, label = map(
      np.array, zip(*[(w, x[m], y) for w, x, y, there in rows if there[m]], strict=True)
    )
    mean = np.stack([np.average(x[label == c], 0, weight[label == c]) for c in range(3)])
    spread = np.average(((x - mean[label]) ** 2).sum(-1), weights=weight)
    expected = ((codes[0][:, m, None] - mean) ** 2).sum(-1) / spread
    np.testing.assert_allclose(found[:, m], expected, 1e-3)


def choose_slowly(distance, present, temperature):
  """The greedy choice for one row, with distances [M, C]."""

  def measure_error(chosen):
    score = np.exp(-distance[chosen][:, known].sum(0) / temperature)
    return -np.log(score.max() / score.sum())

  known = np.isfinite(distance[present]).all(0)
  if not known.any():
    return present
  chosen, best = np.zeros_like(present), np.inf
  while True:
    left = np.flatnonzero(present & ~chosen)
    errors = [measure_error(chosen | (np.arange(len(present)) == i)) for i in left]
    if not errors or min(errors) >= best:
      return chosen
    best = min(errors)
    chosen[left[np.argmin(errors)]] = True


def test_the_choice_is_that_of_a_slow_loop(rng):
  distance = rng.gamma(2.0, size=(40, 4, 3)).astype(np.float32)
  distance[30:, 1, 2] = np.inf  # class 2 was never seen in modality 1
  distance[38:, 0] = np.inf
  present = rng.random((40, 4)) < 0.7
  present[0], present[39] = False, [True, True, False, True]
  choose = jax.jit(prototypes.choose_modalities, static_argnums=2)
  found = np.asarray(choose(distance, present, 0.5))
  expected = [choose_slowly(d, there, 0.5) for d, there in zip(distance, present, strict=True)]
  np.testing.assert_array_equal(found, expected)
  assert (found != present).any() and (found.sum(1) > 1).any()


def test_a_modality_that_disagrees_is_left_out():
  # Two say class 0; the third, less certain, says class 1.
  distance = np.float32([[[0.1, 4.0], [0.2, 3.0], [1.0, 0.2]]])
  present = np.ones((1, 3), bool)
  found = prototypes.choose_modalities(distance, present, 1.0)
  np.testing.assert_array_equal(found, [[True, True, False]])


def test_training_is_that_of_distil_and_the_head_sees_what_was_chosen():
  sizes = {"hidden": 8, "head_hidden": 5}
  config = prototypes.PrototypesConfig(**sizes)
  method = prototypes.prototypes(config, SPEC)
  base = distil.distil(distil.DistilConfig(**sizes), SPEC)
  params, batch = example_batches.random_params(method), example_batches.mixed_batch(SPEC)
  state = {"count": np.zeros((3, 3)), "total": np.zeros((3, 3, 8)), "square": np.zeros(3)}
  args = batch, jax.random.key(0), example_batches.step_info(0.9)
  loss, (state, _) = jax.jit(method.stages[0].loss)(params, state, *args)
  expected, _ = jax.jit(base.stages[0].loss)(params, {}, *args)
  np.testing.assert_allclose(loss, expected, 1e-6)
  inputs = example_batches.to_inputs(batch)
  predict = jax.jit(base.predict)
  codes = predict(params, {}, inputs)["fused"].reshape(-1, 3, 8)
  chosen = prototypes.choose_modalities(
    prototypes.scale_distances(state, codes), inputs.present, config.temperature
  )
  assert (np.asarray(chosen) != inputs.present).any()
  expected = predict(params, {}, inputs.replace(present=chosen))
  found = jax.jit(method.predict)(params, state, inputs)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-5), found, expected)


def test_a_task_without_classes_is_refused():
  spec = example_batches.spec("regression")
  with pytest.raises(ValueError, match="needs a task of classes, found regression"):
    prototypes.prototypes(prototypes.PrototypesConfig(), spec)


@pytest.mark.parametrize("values", [{"decay": 1.0}, {"temperature": 0.0}, {"ramp_end": 0.0}])
def test_settings_without_meaning_are_refused(values):
  with pytest.raises(ValueError, match=f"prototypes.{next(iter(values))} is"):
    prototypes.PrototypesConfig(**values)
