"""What a good npz file becomes."""

import numpy as np
import pytest
from npz_files import N, plain, with_value

from promise_jax import data
from promise_jax.data.readers import text
from promise_jax.types import Modality, Task

NAN, INF = np.nan, np.inf


def test_kinds_shapes_and_splits_follow_from_the_arrays(save_npz):
  rng = np.random.default_rng(1)
  words = np.array([f"word {'x' * i}" for i in range(N)])
  arrays = plain(
    x_words=words,
    x_photo=rng.integers(0, 256, (N, 5, 4, 3), dtype=np.uint8),
    x_grey=rng.integers(0, 256, (N, 5, 4), dtype=np.uint8),
    x_ids=rng.integers(1, 9, (N, 7)) * (np.arange(7) < 5),  # padded
    length_s=np.arange(N) % 5,
    id=np.arange(N) * 3 + 100,
  )
  found = data.load(save_npz(arrays), vocabulary=64)
  longest = np.count_nonzero(text.hash_ngrams(words[:6].tolist(), 64), axis=1).max()
  assert found.spec.modalities == (
    Modality("v", "vector", (2,)),
    Modality("s", "sequence", (4, 3)),
    Modality("words", "tokens", (longest,), 64),
    Modality("photo", "image", (5, 4, 3)),
    Modality("grey", "image", (5, 4, 1)),
    Modality("ids", "tokens", (7,), 64),
  )
  assert found.spec.task == Task("classes", 3, ("0", "1", "2"))
  assert (found.name, found.splits) == ("own", ("train", "valid", "test"))
  assert found.notes == ()
  for split, rows in (
    ("train", range(6)),
    ("valid", range(6, 9)),
    ("test", range(9, N)),
  ):
    part = found.split(split)
    rows = list(rows)
    assert part.id.tolist() == [3 * r + 100 for r in rows]
    assert part.label.tolist() == [r % 3 for r in rows]
    assert part.length["s"].tolist() == [r % 5 for r in rows]
    assert part.recorded[:, 1].tolist() == [r % 5 > 0 for r in rows]
    assert part.recorded[:, [0, 2, 3, 4, 5]].all()
    np.testing.assert_array_equal(part.inputs["photo"], arrays["x_photo"][rows])
    np.testing.assert_array_equal(part.inputs["grey"][..., 0], arrays["x_grey"][rows])
    np.testing.assert_array_equal(part.inputs["ids"], arrays["x_ids"][rows])
    for i, r in enumerate(rows):
      ids = text.hash_ngrams([words[r]], 64)[0][:longest]
      assert part.inputs["words"][i, : len(ids)].tolist() == ids.tolist()
    mean, std = arrays["x_v"][:6].mean(0), arrays["x_v"][:6].std(0)
    expected = (arrays["x_v"][rows] - mean) / std
    np.testing.assert_allclose(part.inputs["v"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "u8", "f2", ">f4", ">i8", "f8", "g"])
def test_every_dtype_and_order_of_bytes_and_axes_is_read(save_npz, dtype):
  values = np.arange(N * 2).reshape(N, 2) % 5
  values = np.asfortranarray(values.astype(dtype))
  found = data.load(
    save_npz(plain(x_v=values, y=plain()["y"].astype(">i2"))), kinds={"v": "vector"}
  )
  mean, std = found.spec.standardise["v"]
  for name, rows in (("train", slice(0, 6)), ("test", slice(9, N))):
    back = found.split(name).inputs["v"] * std[None] + mean[None]
    np.testing.assert_allclose(back, values[rows].astype(float), atol=1e-5)
    assert found.split(name).label.tolist() == [0, 1, 2] * (len(back) // 3)


def test_kinds_can_be_chosen(save_npz):
  counts = np.arange(N) % 4 + 1
  arrays = plain(x_n=counts, x_pixels=np.full((N, 6), 7, np.uint8), x_s=np.ones((N, 5)))
  for kind, shape in (("vector", (1,)), ("tokens", (1,))):
    kinds = {"n": kind, "pixels": "vector", "s": "sequence"}
    found = data.load(save_npz(arrays), kinds=kinds)
    vocabulary = 8192 if kind == "tokens" else 0
    assert found.spec.modalities[1:] == (
      Modality("s", "sequence", (5, 1)),
      Modality("n", kind, shape, vocabulary),
      Modality("pixels", "vector", (6,)),
    )
  assert found.split("test").inputs["n"].tolist() == [[2], [3], [4]]


def test_images_may_be_floats_or_bool(save_npz):
  photo = np.zeros((N, 2, 2, 2))
  photo[0], photo[1, 0, 0, 0], photo[2, 1, 1, 0] = NAN, NAN, 0.5
  photo[1, 1, 1, 0] = 1
  photo[3, :, :, 1] = INF  # in every pixel: nothing is left
  mask = np.arange(N * 4).reshape(N, 2, 2, 1) % 3 == 0
  found = data.load(save_npz(plain(x_photo=photo, x_mask=mask)))
  train = found.split("train")
  assert train.inputs["photo"].dtype == np.uint8
  assert train.inputs["photo"][:3, :, :, 0].tolist() == [
    [[0, 0], [0, 0]], [[0, 0], [0, 255]], [[0, 0], [0, 128]],
  ]  # fmt: skip
  assert train.recorded[:, 2].tolist() == [False, True, True, False, True, True]
  # values, frames, absent, cut; the row of NaN alone is no fault
  assert found.report["train"]["photo"][:4] == (5, 5, 1, 0)
  np.testing.assert_array_equal(train.inputs["mask"], mask[:6] * 255)


def test_absent_rows_are_no_fault_and_bad_values_are(save_npz):
  arrays = plain(present_s=np.arange(N) % 2 == 0)
  arrays["x_v"][3] = NAN  # a hole
  arrays["x_v"][4] = [INF, -INF]  # what became too large: absent too
  arrays["x_v"][5, 1] = NAN  # a fault: this value is lost
  arrays["x_s"][0, 1] = INF  # a fault: a step is lost
  arrays["x_s"][1] = NAN  # not looked at
  found = data.load(save_npz(arrays))
  train = found.split("train")
  assert train.recorded.tolist() == [
    [True, True], [True, False], [True, True], [False, False], [False, True],
    [True, False],
  ]  # fmt: skip
  assert found.report["train"]["v"][:4] == (3, 1, 1, 0)  # those of inf are counted
  assert found.report["train"]["s"][:4] == (3, 1, 0, 0)
  assert not train.inputs["s"][0, 1].any()
  kept = np.where(np.isfinite(arrays["x_v"][:6]), arrays["x_v"][:6], NAN)
  np.testing.assert_allclose(found.spec.standardise["v"][0], np.nanmean(kept, 0), rtol=1e-5)
  assert train.inputs["v"][5, 0] != 0 == train.inputs["v"][5, 1]
  frame = data.load(save_npz(arrays), nonfinite="frame")
  assert frame.report["train"]["v"][:4] == (3, 2, 2, 0)
  arrays["x_s"][0, 1] = 0
  arrays["x_v"][5, 1] = 0
  arrays["x_v"][4] = NAN
  data.load(save_npz(arrays), nonfinite="error").split("train")  # holes are no error
  huge = with_value(arrays["x_v"].astype(np.float64), (0, 0), 1e300)
  assert data.load(save_npz(plain(x_v=huge))).report["train"]["v"].num_nonfinite == 1


def test_many_modalities_rare_ones_and_wide_ones(save_npz):
  rng = np.random.default_rng(2)
  n = 200
  arrays = {f"x_m{i}": rng.normal(size=(n, 1000 if i == 0 else 3)) for i in range(5)}
  arrays |= {"y": np.arange(n) % 10, "present_m4": np.arange(n) % 10 == 3}
  found = data.load(save_npz(arrays))
  assert found.spec.names == ("m0", "m1", "m2", "m3", "m4")
  assert found.spec.modalities[0].shape == (1000,)
  parts = [found.split(s) for s in found.splits]
  assert sum(p.recorded[:, 4].sum() for p in parts) == 20
  for part in parts:
    assert part.recorded[:, 4].tolist() == (part.id % 10 == 3).tolist()


def test_other_splits_are_read_only_when_asked_for(save_npz):
  path = save_npz(plain())
  found = data.load(path)
  path.rename(path.with_name("gone.npz"))
  assert len(found.split("train").id) == 6
  with pytest.raises(ValueError, match="own.npz: No such file"):
    found.split("test")
  path.with_name("gone.npz").rename(path)
  assert len(found.split("test").id) == 3
  assert set(found.report) == {"train", "test"}
