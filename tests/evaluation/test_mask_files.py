"""Files of masks: written whole, with a hash of what they hold."""

import numpy as np
import pytest

from promise_jax import missing
from promise_jax.evaluation import mask_files

IDS = np.arange(4000) * 3 + 17


def draw(protocol):
  return missing.draw_mask(protocol, seed=0, split="train", ids=IDS, modalities=3)


def test_mask_hash():
  mask, ids = draw("patterns")[:20], IDS[:20]
  name = mask_files.mask_hash(mask, ids)
  assert len(name) == 16 and int(name, 16) >= 0
  assert mask_files.mask_hash(mask[::-1], ids[::-1].astype(np.int32)) == name
  flipped = mask.copy()
  flipped[3, 1] ^= True
  others = [(flipped, ids), (mask, ids + 1), (mask, ids[::-1]), (mask[1:], ids[1:])]
  assert len({name, *(mask_files.mask_hash(*other) for other in others)}) == 5


def test_export(tmp_path):
  path = tmp_path / "masks.npz"
  mask = draw("bernoulli(0.3)")
  mask_files.export_masks(path, mask, IDS, "bernoulli(0.30)", ("a", "b", "c"))
  with np.load(path, allow_pickle=False) as file:
    found = dict(file)
  np.testing.assert_array_equal(found["mask"], mask)
  np.testing.assert_array_equal(found["ids"], IDS)
  assert found["protocol"] == "bernoulli(0.30)" and found["names"].tolist() == ["a", "b", "c"]
  assert found["hash"] == mask_files.mask_hash(mask, IDS)
  assert [p.name for p in tmp_path.iterdir()] == ["masks.npz"]
  with pytest.raises(ValueError, match=r"\(4000, 2\) is expected"):
    mask_files.export_masks(path, mask, IDS, "none", ("a", "b"))


def test_a_failed_export_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "masks.npz"
  path.write_bytes(b"old")

  def fail(file, **arrays):
    file.write(b"half")
    raise OSError("disk full")

  monkeypatch.setattr(np, "savez_compressed", fail)
  with pytest.raises(OSError, match="disk full"):
    mask_files.export_masks(path, np.ones((2, 1), bool), np.arange(2), "none", ("a",))
  assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
