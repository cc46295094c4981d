"""What a machine lacks, room on a disk or letters of a terminal: one sentence, no traceback."""

import errno
import io
import os
import shutil
import sys

import numpy as np
import pytest

from promise_jax import data, files
from promise_jax.cli import errors, startup
from promise_jax.cli.main import COMMANDS, main


def fail(*_, **__):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_that_found_no_room_is_named(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(os, "fsync", fail)
  path = tmp_path / "predictions.csv"
  assert errors.exit_code(lambda: files.write_text(path, "a")) == errors.FAILED
  want = f"error: {path}: No space left on device; make room, or give another folder"
  assert capsys.readouterr().err.startswith(want)
  assert not any(tmp_path.iterdir())


def test_rows_that_cannot_be_streamed_say_how_much_room_they_take(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  x, split = np.arange(160.0).reshape(80, 2), np.repeat(["train", "valid", "test"], (40, 20, 20))
  np.savez(tmp_path / "own.npz", x_v=x, y=np.arange(80) % 2, split=split)

  def full(*_, **__):  # as `ndarray.tofile` raises it, without a number
    raise OSError("1920 requested and 0 written")

  monkeypatch.setattr(np, "savez", full)
  words = r"could not be kept in .*\(1920 requested and 0 written\), where they take about 0.0 GB"
  with pytest.raises(ValueError, match=words):
    data.load(tmp_path / "own.npz", stream=True)
  left = [path for path in tmp_path.rglob("*") if path.suffix != ".lock"]
  assert {path.name for path in left} == {"own.npz", "cache", "promise_jax", "streamed"}


@pytest.mark.parametrize(("free", "said"), [(10**6, "1 MB are free"), (10**9, "")])
def test_a_cache_without_room_is_said_once(tmp_path, monkeypatch, caplog, free, said):
  monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free))
  startup.warn_of_full_cache(tmp_path / "promise_jax" / "programs")
  assert len(caplog.records) == bool(said) and said in caplog.text


def test_a_cache_that_is_a_file_is_said(tmp_path, caplog):
  (tmp_path / "cache").write_text("")
  startup.warn_of_full_cache(tmp_path / "cache" / "programs")
  assert "cannot be written" in caplog.text


def test_a_terminal_without_a_letter_shows_another(monkeypatch):
  stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
  monkeypatch.setattr(sys, "stdout", stream)
  monkeypatch.setattr(COMMANDS["list"], "run", lambda args: print("caf\u00e9 \u00b1 1"))
  assert main(["list", "methods"]) == 0
  stream.flush()
  assert stream.buffer.getvalue() == b"caf? ? 1\n"
