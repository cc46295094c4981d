"""Hashed n-grams: known hashes, the set of pieces, cutting and padding."""

import numpy as np
import pytest

from promise_jax.data.readers import text


def test_ids_of_a_word_and_its_pieces_are_the_crc32_that_gzip_writes():
  # 1 + crc32 % 1000 of the bytes, read from the trailer of gzip's output:
  # <cats> | <ca cat ats ts> | <cat cats ats> | <cats cats>, and <\u732b> alone.
  ids = text.hash_ngrams(["Cats", "\u732b"], vocabulary=1001)
  assert ids[0].tolist() == [637, 525, 833, 610, 729, 680, 35, 1, 301, 541]
  assert ids[1].tolist() == [495] + [0] * 9


def test_case_is_ignored_and_word_order_does_not_change_the_set():
  a, b = text.hash_ngrams(["Red CIRCLE", "circle red"], vocabulary=4096)
  assert sorted(a) == sorted(b) and not np.array_equal(a, b)


def test_ids_stay_in_range_and_zero_is_only_padding():
  ids = text.hash_ngrams(["a", "", "one two three", "猫が好き"], vocabulary=7)
  assert ids.dtype == np.int32 and ids.max() <= 6 and ids.min() == 0
  real = ids > 0
  assert not real[1].any() and real[3].sum() > 1
  assert (np.diff(real.astype(int), axis=1) <= 0).all()  # padding is at the end


def test_width_cuts_pieces_before_words():
  wide = text.hash_ngrams(["red circle"], vocabulary=4096)
  words = text.hash_ngrams(["circle", "red"], vocabulary=4096, width=1)
  narrow = text.hash_ngrams(["red circle"], vocabulary=4096, width=2)
  assert narrow.tolist() == [[words[1, 0], words[0, 0]]]
  padded = text.hash_ngrams(["red circle"], vocabulary=4096, width=99)
  assert padded.shape == (1, 99) and padded[0, wide.shape[1] :].sum() == 0
  assert np.array_equal(padded[:, : wide.shape[1]], wide)


def test_bad_sizes_are_errors_and_no_texts_give_no_rows():
  assert text.hash_ngrams([], 9).shape == (0, 0)
  with pytest.raises(ValueError, match="vocabulary is 1"):
    text.hash_ngrams(["a"], 1)
  with pytest.raises(ValueError, match="width is 0"):
    text.hash_ngrams(["a"], 9, width=0)
