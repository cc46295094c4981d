"""Steps that protocols lose: what they depend on, in training batches and in tests."""

import jax
import numpy as np
import pytest

import tiny_runs
from promise_jax import frames, missing
from promise_jax.data import batches
from promise_jax.evaluation import conditions, mask_files, predict
from promise_jax.method import Method

IDS = np.arange(600) * 7 + 3
NAMES = ("audio", "table", "video")
STEPS = {"video": 5, "audio": 20}
LENGTH = {"audio": np.arange(600) % 20 + 1, "video": np.arange(600) % 3}


def draw(text, index=slice(None), seed=0, epoch=0, steps=STEPS, split="train"):
  protocol = missing.parse_protocol(text)
  draws = {"seed": seed, "split": split, "epoch": epoch}
  mask = missing.draw_mask(protocol, ids=IDS, modalities=3, **draws)[index]
  length = {m: LENGTH[m][index] for m in steps}
  rows = {"ids": IDS[index], "names": NAMES, "num_steps": steps, "length": length}
  return frames.lose_steps(protocol, mask, **rows, **draws)


@pytest.mark.parametrize(
  ("text", "rate"),
  [("frames(0.3,redraw=true)", 0.3), ("map(0.7,frames=0.25)", 0.25), ("patterns(frames=1.0)", 1)],
)
def test_the_text_of_a_protocol_is_read_back(text, rate):
  protocol = missing.parse_protocol(text)
  assert str(protocol) == text and protocol.frame_rate == rate


def test_each_step_is_lost_with_the_rate_and_by_itself():
  kept = draw("frames(0.3)")
  for name, count in STEPS.items():
    assert kept.steps[name].shape == (600, count)
    sd = np.sqrt(0.3 * 0.7 / kept.steps[name].size)
    assert abs(kept.steps[name].mean() - 0.7) < 4 * sd
  video, audio = kept.steps["video"].ravel(), kept.steps["audio"][:, :5].ravel()
  assert abs(np.corrcoef(video, audio)[0, 1]) < 4 / np.sqrt(len(video))


def test_a_step_depends_on_the_row_the_seed_and_the_split_alone():
  every, index = draw("frames(0.5)"), np.array([77, 5, 300])
  some = draw("frames(0.5)", index, steps={"audio": 20})
  np.testing.assert_array_equal(some.steps["audio"], every.steps["audio"][index])
  more = draw("frames(0.8)")
  assert not (more.steps["audio"] & ~every.steps["audio"]).any()
  redrawn = [draw("frames(0.5,redraw=true)", epoch=epoch) for epoch in (0, 1)]
  others = [draw("frames(0.5)", seed=1), draw("frames(0.5)", split="test"), *redrawn]
  tables = [x.steps["audio"].tobytes() for x in (every, draw("frames(0.5)", epoch=1), *others)]
  assert tables[0] == tables[1] and len({*tables}) == 5


def test_a_sequence_without_a_step_left_is_absent_and_other_kinds_stay():
  kept, without = draw("exact(0.5,frames=0.6)"), draw("exact(0.5)")
  assert without.steps == {}
  for n in range(600):
    assert kept.mask[n, 1] == without.mask[n, 1]
    for i, name in ((0, "audio"), (2, "video")):
      left = any(kept.steps[name][n, : LENGTH[name][n]])
      assert kept.mask[n, i] == (without.mask[n, i] and left)
  assert not draw("frames(1.0)").mask[:, [0, 2]].any() and draw("frames(1.0)").mask[:, 1].all()


def test_without_sequences_it_is_refused():
  with pytest.raises(ValueError, match=r"frames\(0.3\) loses steps.*no modality is one: audio, t"):
    draw("frames(0.3)", steps={})
  with pytest.raises(ValueError, match="frames takes one rate and the keywords redraw"):
    missing.parse_protocol("frames(0.3,0.2)")
  with pytest.raises(ValueError, match="found '2'"):
    missing.parse_protocol("exact(0.3,frames=2)")


@pytest.fixture(scope="module")
def dataset():
  return tiny_runs.dataset(kind="sequence", steps=6)


def test_batches_have_zeros_where_steps_are_lost(dataset, one_device):
  train = tiny_runs.train_data(dataset, protocol="exact(0.25,frames=0.5)")
  train = train._replace(names=("m0", "m1"))
  sizes = tiny_runs.train_config()
  block = batches.draw_block(train, sizes, batches.StageSteps(0, 20, True), 5)
  split = train.split
  for s, seed in enumerate(train.seeds):
    want = batches.draw_kept(train, seed, 0, np.arange(48))
    choice = jax.tree.map(lambda x, s=s: x[s, 2], block.choice)
    batch = batches.make_batch(split._asdict(), choice, False, one_device)
    for row, n in enumerate(choice["index"]):
      for i, m in enumerate(("m0", "m1")):
        assert batch.present[row, i] == want.mask[n, i]
        for t in range(6):
          step = split.inputs[m][n, t] if want.steps[m][n, t] else np.zeros(4)
          np.testing.assert_array_equal(batch.inputs[m][row, t], step)
      assert batch.length["m0"][row] == split.length["m0"][n]
  assert "steps" not in batches.draw_block(train, sizes, batches.StageSteps(0, 20, False), 5).choice


def test_a_test_under_lost_steps_is_predicted_by_itself(dataset, one_device, tmp_path):
  """Its slot stands behind the patterns; its hash and its file tell the steps."""
  split = dataset.split("test")
  protocols = [missing.parse_protocol(x) for x in ("exact(0.4)", "frames(0.5)", "map(0.5)")]
  made = conditions.protocol_conditions(split, protocols, ("m0", "m1"), "test", 3)
  assert [c.slots for c in made] == [None, (3,), None]
  (kept,) = conditions.kept_alone(split, protocols, ("m0", "m1"), "test")

  columns = ((0, "m0"), (1, "m1"))

  def sums(params, state, inputs):  # of what can be read
    total = sum(inputs.inputs[m].sum(axis=(1, 2)) * inputs.present[:, i] for i, m in columns)
    return {"logits": total[:, None] * params[None, None]}

  method = Method(lambda key: None, sums, ())
  found = predict.predict_split(method, np.ones(1), {}, split, (), one_device, alone=[kept])
  for n in range(20):
    total = sum(split.inputs[m][n, kept.steps[m][n]].sum() for i, m in columns if kept.mask[n, i])
    np.testing.assert_allclose(found[0, 0, n, 0], total, 1e-4, 1e-5)
  mask, steps = made[1].mask[0], made[1].steps
  mask_files.export_masks(tmp_path / "m.npz", mask, split.id, protocols[1], ("m0", "m1"), steps)
  with np.load(tmp_path / "m.npz") as loaded:
    np.testing.assert_array_equal(loaded["steps_m1"], steps["m1"])
  changed = split._replace(id=split.id + 1)
  (other,) = conditions.protocol_conditions(changed, [protocols[1]], ("m0", "m1"), "test")
  assert other.columns["mask_hash"] != made[1].columns["mask_hash"]
