"""What `predict` returns beside the logits: the keys and sizes that method.py promises.

test_methods.py asks whether a static pattern gives the same embeddings, and whether any of them
reads what is absent.
"""

import jax
import numpy as np
import pytest

import example_batches
from method_cases import CASES, assert_same, built, every_case, every_method, predict

ROWS = example_batches.ROWS
# By hand, from the sizes in method_cases.py and the three vectors of its first cases.
SIZES = {
  "robult": {"fused": (8,), "shared": (3, 4), "private": (3, 4)},
  "redcore": {"fused": (3 * 8,), "composite": (3, 8)},
  "promise": {"fused": (8,)},
  "promma": {"fused": (3 * 8,), "gate": (3,)},
  "mplmm": {"fused": (3 * 8,)},
  "fusion": {"fused": (3 * 8,)},
  "distil": {"fused": (3 * 8,)},
  "prototypes": {"fused": (3 * 8,)},
  "share": {"fused": (4 * 8,)},
}


@every_method
def test_the_keys_and_sizes_are_those_of_method_py(name):
  p = built(name)
  found = predict(p, example_batches.mixed_batch(p.spec))
  expected = SIZES[name] | {"logits": (p.spec.task.outputs,)}
  assert {key: x.shape for key, x in found.items()} == {
    key: (ROWS, *size) for key, size in expected.items()
  }
  assert all(x.dtype == np.float32 for x in found.values())


@every_case
def test_the_keys_are_those_of_the_method_under_all_settings(name):
  p = built(name)
  inputs = example_batches.to_inputs(example_batches.complete_batch(p.spec), p.case.has_test_noise)
  found = jax.eval_shape(p.predict, p.params, p.model_state, inputs)
  assert found.keys() == {"logits"} | SIZES[CASES[name].method].keys()
  assert found["fused"].ndim == 2


@every_method
def test_what_is_present_changes_every_embedding_of_its_row_and_no_other(name):
  p = built(name)
  batch = example_batches.complete_batch(p.spec)
  other = batch.replace(inputs={n: x.copy() for n, x in batch.inputs.items()})
  for x in other.inputs.values():
    x[0] += 1
  before, after = predict(p, batch), predict(p, other)
  assert_same({k: x[1:] for k, x in before.items()}, {k: x[1:] for k, x in after.items()})
  assert all(np.any(after[key][0] != x[0]) for key, x in before.items() if key != "gate")


@every_method
def test_a_row_alone_has_the_embeddings_that_it_has_in_a_batch(name):
  p = built(name)
  batch = example_batches.mixed_batch(p.spec)
  together = predict(p, batch)
  for row in (0, 6, ROWS - 1):  # complete, incomplete, empty
    alone = predict(p, example_batches.take_rows(batch, [row]))
    for key, x in alone.items():
      np.testing.assert_allclose(x[0], together[key][row], 1e-5, 1e-5, err_msg=key)


@pytest.mark.parametrize("key", ["shared", "private"])
def test_codes_of_robult_are_0_where_a_modality_is_absent(key):
  p = built("robult")
  batch = example_batches.mixed_batch(p.spec)
  codes = predict(p, batch)[key]
  np.testing.assert_array_equal(np.any(codes != 0, axis=2), batch.present)


def test_the_head_of_fusion_reads_fused():
  p = built("fusion")
  found = predict(p, example_batches.mixed_batch(p.spec))
  head = p.params["params"]["head"]
  hidden = np.maximum(found["fused"] @ head["Dense_0"]["kernel"] + head["Dense_0"]["bias"], 0)
  logits = hidden @ head["Dense_1"]["kernel"] + head["Dense_1"]["bias"]
  np.testing.assert_allclose(found["logits"], logits, 1e-5, 1e-5)


def test_redcore_keeps_the_latents_of_what_is_present():
  """`fused` is `composite`, side by side; what is present is the same under every mask."""
  p = built("redcore")
  batch = example_batches.complete_batch(p.spec)
  full = predict(p, batch)
  np.testing.assert_array_equal(full["fused"], full["composite"].reshape(ROWS, -1))
  present = np.tile([[True, False, True]], (ROWS, 1))
  some = predict(p, batch.replace(present=present))["composite"]
  np.testing.assert_allclose(some[:, ::2], full["composite"][:, ::2], 1e-6, 1e-6)
  assert np.all(np.any(some[:, 1] != full["composite"][:, 1], axis=1))


def test_the_gate_of_promma_is_1_where_present_and_0_or_1_elsewhere():
  p = built("promma")
  batch = example_batches.mixed_batch(p.spec)
  gate = predict(p, batch)["gate"]
  assert np.all(gate[batch.present] == 1) and np.all(np.isin(gate, (0, 1)))
