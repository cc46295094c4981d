"""Files that are written whole or not at all, text, JSON, npz; the cache folder."""

import io
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterable, Mapping

import numpy as np


def cache_folder(name: str) -> pathlib.Path:
  """promise_jax/<name> in the user's cache folder: what can be made again."""
  cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(cache, "promise_jax", name).expanduser()


def write_bytes(path, content: bytes) -> None:
  """Writes a file whole or not at all, and on disk when this returns."""
  path = pathlib.Path(path)
  handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
  try:
    with open(handle, "wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    pathlib.Path(temporary).unlink(missing_ok=True)
    raise


def write_text(path, text: str) -> None:
  """Text as UTF-8."""
  write_bytes(path, text.encode("utf-8"))


def write_json(path, value) -> None:
  """JSON with one field a line; NaN and infinity as null."""
  write_text(path, json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")


def write_npz(path, arrays: Mapping[str, np.ndarray]) -> None:
  """Arrays, compressed."""
  content = io.BytesIO()
  np.savez_compressed(content, **arrays)
  write_bytes(path, content.getvalue())


def read_jsonl(path) -> list[dict]:
  """The rows of a file with one JSON object a line.

  Raises:
    ValueError: a line that is not a JSON object, by file and number.
  """
  rows = []
  for number, line in enumerate(pathlib.Path(path).read_text("utf-8").splitlines(), 1):
    try:
      row = json.loads(line) if line.strip() else None
    except json.JSONDecodeError as error:
      raise ValueError(f"{path}, line {number}: not JSON ({error.msg}).") from error
    if isinstance(row, dict):
      rows.append(row)
    elif line.strip():
      raise ValueError(f"{path}, line {number}: {line[:40]!r} is not a JSON object.")
  return rows


def to_line(row: dict) -> str:
  """One row as a line of JSON; NaN and infinity as null."""
  return json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n"


def write_jsonl(path, rows: Iterable[dict]) -> None:
  """Writes rows one a line, whole or not at all; NaN and infinity as null."""
  write_text(path, "".join(map(to_line, rows)))


def _plain(value):
  """JSON has no NaN: null. Arrays become lists, their scalars numbers."""
  if isinstance(value, dict):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(v) for v in value]
  if hasattr(value, "tolist"):
    return _plain(value.tolist())
  return None if isinstance(value, float) and not math.isfinite(value) else value
