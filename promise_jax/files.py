"""Writes files whole or not at all: bytes, text, JSON, JSON lines, npz."""

import contextlib
import io
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np


def cache_folder(name: str) -> pathlib.Path:
  """promise_jax/<name> in the user's cache folder, for files that can be made again."""
  cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(cache, "promise_jax", name).expanduser()


@contextlib.contextmanager
def write_whole(path) -> Iterator[pathlib.Path]:
  """Yields a temporary file, which becomes `path` if nothing fails: readers see a file whole or not
  at all, and it is on disk when the context ends."""
  path = pathlib.Path(path)
  # In the same folder, because a rename is atomic inside a file system only.
  handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
  os.close(handle)
  temporary = pathlib.Path(name)
  try:
    yield temporary
    with open(temporary, "rb") as file:
      os.fsync(file)
    os.chmod(temporary, 0o644)  # mkstemp makes files for the owner alone
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_bytes(path, content: bytes) -> None:
  """Writes a file, see `write_whole`."""
  with write_whole(path) as temporary:
    temporary.write_bytes(content)


def write_text(path, text: str) -> None:
  """Writes text as UTF-8."""
  write_bytes(path, text.encode("utf-8"))


def write_json(path, value) -> None:
  """Writes JSON with one field a line."""
  write_text(path, json.dumps(to_plain(value), indent=1, allow_nan=False) + "\n")


def write_jsonl(path, rows: Iterable[dict]) -> None:
  """Writes one JSON object a line."""
  write_text(path, "".join(map(to_line, rows)))


def write_npz(path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays, compressed."""
  content = io.BytesIO()
  np.savez_compressed(content, **arrays)
  write_bytes(path, content.getvalue())


def read_json(path) -> Any:
  """Reads a JSON file; ValueError names one that is damaged."""
  return parse_json(path, pathlib.Path(path).read_bytes())


def read_jsonl(path) -> list[dict]:
  """Reads one JSON object a line; ValueError names the line that is none."""
  rows = []
  for number, line in enumerate(pathlib.Path(path).read_bytes().splitlines(), 1):
    if line.strip():
      rows.append(parse_json(f"{path}, line {number}", line))
      if not isinstance(rows[-1], dict):
        raise ValueError(f"{path}, line {number}: {line[:40]!r} is not a JSON object.")
  return rows


def parse_json(place: str, content: bytes) -> Any:
  """The value of some JSON; ValueError begins with `place`."""
  try:
    return json.loads(content)
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{place}: not JSON ({error}).") from error


def to_line(row: dict) -> str:
  """One JSON object as a line."""
  return json.dumps(to_plain(row), ensure_ascii=False, allow_nan=False) + "\n"


def to_plain(value):
  """What JSON can hold: arrays become lists, NaN and infinity null."""
  if isinstance(value, dict):
    return {str(k): to_plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [to_plain(v) for v in value]
  if hasattr(value, "tolist"):
    return to_plain(value.tolist())
  return None if isinstance(value, float) and not math.isfinite(value) else value
