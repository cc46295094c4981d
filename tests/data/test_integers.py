"""Integers [N, D] are token ids or numbers; what is guessed equals what is said by hand."""

import numpy as np
import pytest
from npz_files import N, plain

from promise_jax import data
from promise_jax.data.readers import integers
from promise_jax.types import Modality

RNG = np.random.default_rng(0)
ROWS = 200


def tokens(steps=12, low=1, high=8000, start=()):
  """Token ids of texts of 2 to `steps` words; `start` is the same in every row."""
  ids = RNG.integers(low, high, (ROWS, steps))
  ids[:, : len(start)] = start
  return np.where(np.arange(steps) < RNG.integers(2, steps + 1, (ROWS, 1)), ids, 0)


NUMBERS = {
  "mutations": RNG.random((ROWS, 30)) < 0.05,
  "counts": RNG.poisson(3, (ROWS, 20)),
  "large counts": RNG.poisson(np.exp(RNG.normal(3, 2, (ROWS, 20)))),
  "answers": RNG.integers(1, 6, (ROWS, 20)),
  "differences": RNG.normal(0, 50, (ROWS, 10)).astype(int),
  "incomes": RNG.integers(300_000, 900_000, (ROWS, 10)),
  "a person": np.stack([RNG.integers(a, b, ROWS) for a, b in ((18, 90), (150, 200), (0, 5))], 1),
  "a house": np.stack([RNG.integers(a, b, ROWS) for a, b in ((1900, 2026), (9, 8000), (1, 9))], 1),
  "pairs": RNG.integers(1, 8000, (ROWS, 2)),
  "grey values": RNG.integers(0, 256, (ROWS, 64)),
}
IDS = {
  "words": tokens(),
  "words of a large vocabulary": tokens(high=30_000),
  "words behind a start": tokens(low=1000, start=[101]),
  "words padded in front": tokens()[:, ::-1],
  "bases": tokens(steps=100, high=5),
  "bytes": tokens(high=256),
}


@pytest.mark.parametrize("name", [*NUMBERS, *IDS])
def test_numbers_are_a_vector_and_padded_ids_are_tokens(name):
  values = (NUMBERS | IDS)[name].astype(np.int64)
  assert integers.guess_kind(values)[0] == ("vector" if name in NUMBERS else "tokens")


def test_what_may_be_either_is_asked():
  assert integers.guess_kind(RNG.integers(1, 8000, (ROWS, 20)))[0] == ""


def test_the_share_between_columns_is_that_of_an_analysis_of_variance():
  values = RNG.normal([0, 1, 4], 1, (50, 3))
  mask = RNG.random((50, 3)) < 0.7
  columns = [column[rows] for column, rows in zip(values.T, mask.T, strict=True)]
  every = np.concatenate(columns)
  between = sum(len(c) * (c.mean() - every.mean()) ** 2 for c in columns)
  share = integers.share_between_columns(values, mask)
  assert share == pytest.approx(between / (len(every) * every.var()))


@pytest.mark.parametrize("dtype", ["i8", "u1", ">i2"])
@pytest.mark.parametrize("stream", [False, True])
def test_numbers_give_what_the_same_floats_give(save_npz, dtype, stream, monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  counts = np.asfortranarray(RNG.poisson(3, (N, 5)))
  clean = data.load(save_npz(plain(x_gene=counts.astype(np.float32))))
  gene = counts.astype(dtype) if not stream else np.ascontiguousarray(counts.astype(dtype))
  found = data.load(save_npz(plain(x_gene=gene)), stream=stream)
  assert found.spec.modalities == clean.spec.modalities
  assert "kinds.gene=tokens says otherwise" in found.guesses["gene"]
  for split in found.splits:
    expected = clean.split(split).inputs["gene"]
    np.testing.assert_array_equal(found.split(split).inputs["gene"][:], expected)
  said = data.load(save_npz(plain(x_gene=gene)), kinds={"gene": "tokens"})
  assert said.spec.modalities[-1] == Modality("gene", "tokens", (5,), 8192)
  assert "gene" not in said.guesses


def test_integers_with_a_length_are_tokens(save_npz):
  ids, length = RNG.integers(1, 9, (N, 8)), np.arange(N) % 8 + 1
  found = data.load(save_npz(plain(x_words=ids, length_words=length)))
  clean = np.where(np.arange(8) < length[:, None], ids, 0)
  assert found.spec.modalities[-1] == Modality("words", "tokens", (8,), 8192)
  for split, rows in (("train", slice(0, 6)), ("test", slice(9, N))):
    ours = found.split(split).inputs["words"]
    np.testing.assert_array_equal(ours, clean[rows])


def test_rows_without_the_modality_have_no_say(save_npz):
  ids = np.where(np.arange(8) < 4, RNG.integers(1, 50, (N, 8)), 0)
  ids[::3] = -1
  found = data.load(save_npz(plain(x_words=ids, present_words=np.arange(N) % 3 > 0)))
  assert found.spec.modalities[-1] == Modality("words", "tokens", (8,), 8192)
