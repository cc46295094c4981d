"""Files that are written whole or not at all."""

import errno
import math
import os

import numpy as np
import pytest

from promise_jax import files


def test_jsonl_comes_back_and_nan_is_null(tmp_path):
  path = tmp_path / "results.jsonl"
  files.write_jsonl(path, [{"a": np.float32(0.5), "b": np.arange(2)}, {"ü": math.nan}])
  assert path.read_text("utf-8") == '{"a": 0.5, "b": [0, 1]}\n{"ü": null}\n'
  assert files.read_jsonl(path) == [{"a": 0.5, "b": [0, 1]}, {"ü": None}]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
  path = tmp_path / "results.jsonl"
  files.write_jsonl(path, [{"a": 1}])
  with pytest.raises(TypeError):
    files.write_jsonl(path, [{"a": 2}, {"a": object()}])
  with pytest.raises(UnicodeEncodeError):
    files.write_text(path, "\ud800")
  assert files.read_jsonl(path) == [{"a": 1}]
  assert [p.name for p in tmp_path.iterdir()] == ["results.jsonl"]


def test_parts_that_are_being_written_stay_and_parts_that_were_left_go(tmp_path):
  path = tmp_path / "a[1].json"
  left = tmp_path / ".a[1].json.part-left"
  left.mkdir()
  (left / "new").touch()
  with files.make_part(path) as part:
    assert [p.name for p in tmp_path.iterdir()] == [part.name]
    files.write_json(path, 1)
    assert {p.name for p in tmp_path.iterdir()} == {part.name, path.name}
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a": \n', '{"a": 1}\n[1]\n'])
def test_a_bad_line_is_named(tmp_path, text):
  path = tmp_path / "metrics.jsonl"
  path.write_text(text)
  with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: .*not"):
    files.read_jsonl(path)


def test_a_full_disk_is_named(tmp_path):
  path = tmp_path / "out.csv"
  with pytest.raises(OSError) as found, files.write_whole(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as of a write, which names no file
  assert (found.value.errno, found.value.filename) == (errno.ENOSPC, str(path))
  assert not any(tmp_path.iterdir())
