"""Writes files whole or not at all: bytes, text, JSON, JSON lines, npz."""

import contextlib
import fcntl
import glob
import io
import json
import math
import os
import pathlib
import shutil
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
  with make_part(path) as part:
    yield part
    with open(part, "rb") as file:
      os.fsync(file)
    os.chmod(part, 0o644)  # mkstemp makes files for the owner alone
    os.replace(part, path)


@contextlib.contextmanager
def make_part(path: pathlib.Path, folder: bool = False) -> Iterator[pathlib.Path]:
  """Yields a new file, or folder, beside `path`: only inside a file system a rename is atomic.

  It is deleted when the context ends. What killed processes left goes first: a process locks what
  it writes, and the kernel drops the locks of one that has ended.
  """
  prefix = f".{path.name}.part-"
  for left in path.parent.glob(f"{glob.escape(prefix)}*"):
    if (lock := lock_part(left)) is not None:
      remove(left)
      os.close(lock)
  lock = None
  while lock is None:  # another process may take it for one that was left, before it is locked
    if folder:
      part = tempfile.mkdtemp(prefix=prefix, dir=path.parent)
    else:
      handle, part = tempfile.mkstemp(prefix=prefix, dir=path.parent)
      os.close(handle)
    part = pathlib.Path(part)
    lock = lock_part(part)
  try:
    yield part
  except OSError as error:
    if error.filename:
      raise
    # Of a disk that is full: whoever reads it wants to know which.
    raise OSError(error.errno, error.strerror or str(error), str(path)) from error
  finally:
    remove(part)
    os.close(lock)


def lock_part(part: pathlib.Path) -> int | None:
  """Opens and locks a file or folder; None if another process has locked or deleted it."""
  try:
    lock = os.open(part, os.O_RDONLY)
  except FileNotFoundError:
    return None
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if part.exists():
      return lock
  except BlockingIOError:
    pass
  os.close(lock)
  return None


def remove(path: pathlib.Path) -> None:
  """Deletes a file or a folder with what it holds, if it is there."""
  if path.is_dir():
    shutil.rmtree(path, ignore_errors=True)
  else:
    path.unlink(missing_ok=True)


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


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{"train.optim.lr": 0.001, ...} of nested dicts; tuples become lists, as in JSON."""
  fields = {}
  for key, value in config.items():
    if isinstance(value, Mapping):
      fields |= flatten(value, f"{prefix}{key}.")
    else:
      fields[prefix + key] = list(value) if isinstance(value, tuple) else value
  return fields


def to_plain(value):
  """What JSON can hold: arrays become lists, NaN and infinity null."""
  if isinstance(value, dict):
    return {str(k): to_plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [to_plain(v) for v in value]
  if hasattr(value, "tolist"):
    return to_plain(value.tolist())
  return None if isinstance(value, float) and not math.isfinite(value) else value
