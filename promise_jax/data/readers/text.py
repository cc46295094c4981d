"""Text as hashed n-grams: any unicode string becomes ids of kind `tokens`."""

import zlib
from collections.abc import Iterator, Sequence

import numpy as np

LENGTHS = (3, 4, 5)


def hash_ngrams(texts: Sequence[str], vocabulary: int, width: int | None = None) -> np.ndarray:
  """Words and character n-grams of `texts` as ids i32[N, T]; 0 is padding.

  A word is a run of characters without white space, lower-cased and marked as `<word>`.
  Its features are `<word>` itself and all its pieces of 3, 4 and 5 characters, so that
  scripts without spaces are covered too (subword features of Bojanowski et al. 2017,
  the hashing trick of Weinberger et al. 2009). A feature gets the id
  `1 + crc32(utf-8) % (vocabulary - 1)`, which is the same in every process; repeats
  stay. Rows start with their words, so that `width` (default: the longest row) cuts
  pieces first. Raises ValueError for a vocabulary below 2 or a width below 1.
  """
  if vocabulary < 2:
    raise ValueError(f"vocabulary is {vocabulary}, it must be at least 2.")
  if width is not None and width < 1:
    raise ValueError(f"width is {width}, it must be at least 1 (or None).")
  known: dict[str, int] = {}

  def identify(feature: str) -> int:
    if feature not in known:
      known[feature] = 1 + zlib.crc32(feature.encode()) % (vocabulary - 1)
    return known[feature]

  rows = [[identify(f) for f in _features(text)] for text in texts]
  if width is None:
    width = max(map(len, rows), default=0)
  ids = np.zeros((len(rows), width), np.int32)
  for row, found in zip(ids, rows, strict=True):
    row[: len(found)] = found[:width]
  return ids


def _features(text: str) -> Iterator[str]:
  words = [f"<{word}>" for word in text.lower().split()]
  yield from words
  for word in words:
    for n in LENGTHS:
      if n < len(word):  # at n == len(word) the piece is the word
        yield from (word[i : i + n] for i in range(len(word) - n + 1))
