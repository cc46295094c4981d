"""Text as hashed n-grams: any unicode string becomes ids of kind `tokens`."""

import functools
import zlib
from collections.abc import Sequence

import numpy as np

from promise_jax.checks import check_at_least

LENGTHS = (3, 4, 5)


def hash_ngrams(
  texts: Sequence[str], vocabulary: int, width: int | None = None, max_width: int | None = None
) -> np.ndarray:
  """Words and character n-grams of `texts` as ids i32[N, T]; 0 is padding.

  A word is a run of characters without white space, lower-cased and marked as `<word>`.
  Its features are `<word>` itself and all its pieces of 3, 4 and 5 characters, so that
  scripts without spaces are covered too (subword features of Bojanowski et al. 2017,
  the hashing trick of Weinberger et al. 2009). A feature gets the id
  `1 + crc32(utf-8) % (vocabulary - 1)`, which is the same in every process; repeats
  stay. Rows start with their words, so that `width` (default: the longest row, at most
  `max_width`) cuts pieces first.
  """
  check_at_least("vocabulary", vocabulary, 2)
  check_at_least("width", 1 if width is None else width, 1)
  rows = []
  for text in texts:
    words = [hash_word(word, vocabulary) for word in text.lower().split()]
    rows.append([own for own, _ in words] + [i for _, pieces in words for i in pieces])
  if width is None:
    width = max(map(len, rows), default=0)
    width = width if max_width is None else min(width, max_width)
  ids = np.zeros((len(rows), width), np.int32)
  for row, found in zip(ids, rows, strict=True):
    row[: len(found)] = found[:width]
  return ids


@functools.lru_cache(2**15)  # most words are there often
def hash_word(word: str, vocabulary: int) -> tuple[int, list[int]]:
  """The id of a word, and those of its pieces."""
  identify = lambda feature: 1 + zlib.crc32(feature.encode()) % (vocabulary - 1)
  word = f"<{word}>"
  shorter = [n for n in LENGTHS if n < len(word)]  # at n == len(word) the piece is the word
  pieces = [word[i : i + n] for n in shorter for i in range(len(word) - n + 1)]
  return identify(word), [identify(piece) for piece in pieces]
