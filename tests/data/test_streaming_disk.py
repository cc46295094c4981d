"""Train rows that are kept on disk are those in memory, bit by bit."""

import tracemalloc
import types

import numpy as np
import pytest

import tiny_runs
from promise_jax import data
from promise_jax.data import dataset, prefetch, scaling, streaming
from promise_jax.data.readers import npz, records
from promise_jax.types import Modality, Task

WORDS = ("a red sock", "no", "", "the blue, the green and the very red sock")


def content(count: int = 60) -> dict[str, np.ndarray]:
  """Arrays of an npz file with every kind of modality and something wrong in each."""
  rng = np.random.default_rng(0)
  motion = rng.normal(3, 2, size=(count, 5, 3)).astype(np.float32)
  motion[rng.random(motion.shape) < 0.05] = np.nan
  motion[rng.random(motion.shape) < 0.02] = np.inf
  numbers = rng.normal(size=(count, 4))
  numbers[:, 2] = 7.0
  numbers[4:9] = np.nan
  return {
    "x_photo": rng.integers(0, 256, (count, 4, 4, 3), np.uint8),
    "x_glow": rng.random((count, 3, 3, 1)),
    "x_words": np.array([WORDS[i % 4] for i in range(count)]),
    "x_codes": rng.integers(0, 9, (count, 6)),
    "x_motion": motion,
    "x_numbers": numbers,
    "length_motion": rng.integers(0, 6, count),
    "present_photo": rng.random(count) < 0.8,
    "y": np.arange(count) % 3,
    "id": rng.permutation(1000)[:count],
    "group": np.arange(count) // 5,
    "split": np.repeat(("train", "valid", "test", "train"), count // 4),
  }


def assert_same(streamed: data.Dataset, resident: data.Dataset) -> None:
  """Everything that the two say is equal, bit by bit."""
  for name in resident.splits:
    ours, theirs = streamed.split(name), resident.split(name)
    assert prefetch.is_streamed(ours) == (name == "train")
    index = np.arange(len(theirs.id))
    inputs = {m: x[index] for m, x in ours.inputs.items()}
    assert inputs.keys() == theirs.inputs.keys()
    assert tiny_runs.is_same(ours._replace(inputs=inputs), theirs)
    group = resident.group(name)
    assert (group is None) == (streamed.group(name) is None)
    assert group is None or tiny_runs.is_same(group, streamed.group(name))
  ours, theirs = streamed.spec, resident.spec
  assert tiny_runs.is_same(ours.standardise, theirs.standardise)
  assert ours._replace(standardise=0) == theirs._replace(standardise=0)
  assert streamed.report == resident.report
  assert "train rows are streamed from" in streamed.notes[-1]
  assert streamed.notes[:-1] == resident.notes


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """An empty cache, and pieces of a few rows."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(npz, "BLOCK_BYTES", 2000)
  monkeypatch.setattr(records, "BLOCK_BYTES", 2000)
  monkeypatch.setattr(scaling, "BLOCK_VALUES", 100)
  return tmp_path


@pytest.fixture
def mine(folder):
  np.savez_compressed(folder / "mine.npz", **content())
  return folder / "mine.npz"


@pytest.mark.parametrize("nonfinite", ["frame", "value"])
def test_an_npz_file_is_the_same_streamed(mine, nonfinite):
  both = [data.load(mine, nonfinite=nonfinite, stream=s) for s in (True, False)]
  assert_same(*both)
  assert both[1].report["train"]["motion"].num_nonfinite > 0
  some = [data.load(mine, modalities="words+numbers", stream=s) for s in (True, False)]
  assert_same(*some)


def test_stored_rows_are_used_until_the_file_changes(mine, monkeypatch):
  first = data.load(mine, stream=True)
  written = []
  write = streaming.write_store
  monkeypatch.setattr(streaming, "write_store", lambda *a: written.append(a) or write(*a))
  again = data.load(mine, stream=True)
  assert not written and tiny_runs.is_same(first.spec.standardise, again.spec.standardise)
  data.load(mine, stream=True, nonfinite="value")
  assert len(written) == 1
  np.savez(mine, **(content() | {"x_numbers": np.ones((60, 4))}))
  assert data.load(mine, stream=True).spec.standardise["numbers"][0].tolist() == [1] * 4
  assert len(written) == 2


def test_a_folder_that_a_killed_process_left_is_not_used(mine, monkeypatch):
  def killed(*args):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(streaming.shutil, "rmtree", lambda *a, **k: None)  # nor tidied up
    patch.setattr(streaming, "standardise_file", killed)
    with pytest.raises(KeyboardInterrupt):
      data.load(mine, stream=True)
  (half,) = (mine.parent / "cache/promise_jax/streamed").glob(".mine-*.half")
  (half / "motion.rows").write_bytes(b"old")
  assert_same(data.load(mine, stream=True), data.load(mine))
  assert not half.exists()


def test_a_tfds_set_is_the_same_streamed(folder):
  import tensorflow_datasets as tfds

  from promise_jax.data.builtin import builders

  class StreamedOwn(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      steps = tfds.features.Tensor(shape=(None, 2), dtype=np.float32)
      return builders.describe(
        self,
        inputs={"words": tfds.features.Text(), "audio": steps},
        label=tfds.features.Scalar(np.float32),
        present=("words",),
        scale=2.0,
      )

    def _split_generators(self, dl_manager):
      return {s: self._generate_examples(s) for s in builders.SPLITS}

    def _generate_examples(self, split):
      start = 20 * builders.SPLITS.index(split)
      for i in range(start, start + 20):
        audio = np.full((i % 4 + 1, 2), np.nan if i % 9 == 4 else i, np.float32)
        row = {"inputs": {"words": WORDS[i % 4], "audio": audio}, "label": i / 10}
        yield i, row | {"id": i, "present": {"words": i % 3 > 0}}

  path = builders.write_tfds(StreamedOwn, None, folder)
  streamed, resident = (data.load(path, stream=s) for s in (True, False))
  assert_same(streamed, resident)
  assert streamed.spec.modalities[1].shape == (4, 2)


def some_records(start: int) -> list[dict]:
  rng = np.random.default_rng(start)
  rows = [{"v": rng.normal(size=3), "t": WORDS[i % 4]} for i in range(12)]
  return [{"inputs": r, "label": i % 2, "id": start + i} for i, r in enumerate(rows)]


def test_records_are_the_same_streamed(folder):
  modalities = Modality("v", "vector", (3,)), Modality("t", "tokens", (None,), 50)
  splits = {s: some_records(i) for i, s in ((0, "train"), (50, "valid"))}
  given = "own", splits, modalities, Task("classes", 2)
  source = records.source(*given, identity="1")
  resident = dataset.assemble(source)
  assert_same(streaming.assemble_stream(source), resident)
  np.testing.assert_allclose(
    resident.spec.standardise["v"][0],
    np.mean([r["inputs"]["v"] for r in splits["train"]], axis=0),
    rtol=1e-5,
  )
  with pytest.raises(ValueError, match="'own' cannot be streamed, .* with an identity"):
    streaming.assemble_stream(records.source(*given))
  splits["train"][5]["id"] = 7
  with pytest.raises(ValueError, match="'train', id, row .*: found 7, .* no row above"):
    streaming.assemble_stream(records.source(*given, identity="2"))
  left = [p for p in (folder / "cache/promise_jax/streamed").iterdir() if p.is_dir()]
  assert len(left) == 1 and left[0].name.startswith("own-")  # no half of what was refused


def test_stored_rows_are_read_by_index_and_never_all(mine):
  split = data.load(mine, stream=True).split("train")
  photo, every = split.inputs["photo"], data.load(mine).split("train").inputs["photo"]
  assert (len(photo), photo.shape, photo.dtype) == (30, (30, 4, 4, 3), np.uint8)
  index = np.array([[3, 3, 29], [0, 7, 3]])
  np.testing.assert_array_equal(photo[index], every[index])
  assert photo[np.zeros(0, int)].shape == (0, 4, 4, 3)
  with pytest.raises(IndexError, match="index 30 is out of bounds"):
    photo[np.array([3, 30])]
  with pytest.raises(ValueError, match="30 rows in .* are streamed, load the data without"):
    np.asarray(photo)
  photo.path.write_bytes(photo.path.read_bytes()[:-1])
  with pytest.raises(ValueError, match="photo.rows is cut short, delete its folder"):
    photo[np.array([29])]


@pytest.mark.parametrize(
  ("name", "options", "words"),
  [
    ("mine.pkl", {}, "No such file|cannot be streamed"),
    ("synthetic", {}, "no option 'stream'"),
    ("mine.npz", {"encoders": {"photo": "a:b"}}, "stream and encoders are given"),
  ],
)
def test_sources_that_cannot_be_streamed_are_refused(mine, name, options, words):
  name = mine.parent / name if "." in name else name
  with pytest.raises(ValueError, match=words):
    data.load(name, stream=True, **options)


def test_arrays_by_column_and_full_disks_are_refused(mine, monkeypatch):
  by_column = np.asfortranarray(content()["x_numbers"])
  np.savez(mine, **(content() | {"x_numbers": by_column}))
  with pytest.raises(ValueError, match="mine.npz: x_numbers .* stored column by column"):
    data.load(mine, stream=True)

  def full(*args):
    raise OSError(28, "No space left on device")

  np.savez(mine, **content())
  monkeypatch.setattr(streaming, "write_rows", full)
  with pytest.raises(ValueError, match="'mine' could not be kept in .*No space left"):
    data.load(mine, stream=True)
  assert not list((mine.parent / "cache/promise_jax/streamed").glob(".*.half"))


def test_a_file_larger_than_memory_is_refused(mine, monkeypatch):
  memory = types.SimpleNamespace(available=2000)
  monkeypatch.setattr(dataset.psutil, "virtual_memory", lambda: memory)
  with pytest.raises(ValueError, match="'train': reading the rows .* set data.stream"):
    data.load(mine)
  data.load(mine, stream=True)
  memory.available = 10**9
  data.load(mine)


def test_writing_takes_the_memory_of_one_block(folder, monkeypatch):
  monkeypatch.setattr(npz, "BLOCK_BYTES", 2**18)
  monkeypatch.setattr(scaling, "BLOCK_VALUES", 2**16)
  x = np.arange(400 * 2**14, dtype=np.float32).reshape(400, -1)  # 26 MB
  np.savez(folder / "big.npz", x_a=x, y=np.arange(400) % 2)
  del x
  tracemalloc.start()
  try:
    found = data.load(folder / "big.npz", stream=True)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert found.split("train").inputs["a"].shape == (240, 2**14)
  assert peak < 6 * 2**20
