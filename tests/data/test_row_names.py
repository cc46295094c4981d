"""Ids, groups and classes that are texts: what may be the same, what may belong together."""

import hashlib
import logging

import numpy as np
import pandas as pd
import pytest

from promise_jax import data
from promise_jax.data.readers import row_names

N = 80
SPLIT = np.repeat(["train", "valid", "test"], (40, 20, 20))
TOGETHER = "the ids may say that rows belong together: "
# name: (id of row i, what the sentence says, "" for none)
IDS = {
  "speakers": (lambda i: f"spk{i % 8}_{i:03d}", "'spk0' begins ids in train and valid and test"),
  "videos": (
    lambda i: f"v{i % 8}$_${i}",
    "'v0' begins ids in train and valid and test, and 8 of 8",
  ),
  "two photos": (lambda i: f"img{(i + 1) // 3}{'abc'[i % 3]}", "2 of 27 such beginnings"),
  "sessions": (lambda i: f"Ses{i % 5}F_{'impro' if i % 2 else 'script0_'}{i}", "'Ses0F' begins"),
  "of one split each": (lambda i: f"{SPLIT[i]}_{i}", ""),
  "classes": (lambda i: f"{'cat dog'.split()[i % 2]}_{i:03d}", ""),
  "plain": (lambda i: f"clip{i:03d}", ""),
  "hashes": (lambda i: hashlib.md5(str(i).encode()).hexdigest(), ""),
  "words": (lambda i: "x" * (i + 1), ""),
  "numbers": (lambda i: str(1000 + i), ""),
}


def arrays(**changed):
  x = np.random.default_rng(0).normal(size=(N, 2))
  return {"x_v": x, "y": np.arange(N) % 2, "split": SPLIT} | changed


@pytest.mark.parametrize("case", IDS)
def test_rows_that_may_belong_together_are_said(case):
  name, words = IDS[case]
  lines = row_names.describe_ids([name(i) for i in range(N)], SPLIT, 2)
  assert bool(lines) == bool(words)
  assert all(line.startswith(TOGETHER) and words in line for line in lines)


def test_a_file_with_groups_in_its_ids_says_so_unless_it_has_groups(save_npz):
  ids = np.array([IDS["speakers"][0](i) for i in range(N)])
  (note,) = data.load(save_npz(arrays(id=ids))).notes
  assert note.startswith(f"own.npz: {TOGETHER}") and "group keeps what" in note
  content = arrays(id=ids, group=np.arange(N) // 5)
  assert data.load(save_npz(content)).notes == ()


def test_names_that_differ_in_case_or_spaces_are_said(save_npz, tmp_path):
  ids = np.array([f"{'cC'[i % 2]}lip {' ' * (i % 2)}{i // 2}" for i in range(N)])
  y = np.array(["yes", "no", "No", "cafe\u0301", "caf\u00e9"])[np.arange(N) % 5]
  notes = data.load(save_npz(arrays(id=ids, y=y))).notes
  want = "that differ in case or spaces alone count as different: "
  assert notes[0] == f"own.npz: classes {want}'cafe\u0301' and 'caf\u00e9', 2 in all."
  assert notes[1] == f"own.npz: ids {want}'clip 0' and 'Clip  0', 40 in all."
  table = pd.DataFrame({"colour": ["red", "Red", "blue", "RED"] * 20, "kind": ["a", "b"] * 40})
  table.to_csv(tmp_path / "own.csv", index=False)
  notes = data.load(tmp_path / "own.csv", label="kind").notes
  assert any(f"values of column colour {want}'RED' and 'Red', 2 in all." in n for n in notes)


@pytest.mark.parametrize("empty", ["", "nan", "NA"])
def test_rows_without_a_group_are_not_one_group(save_npz, empty, caplog):
  group = np.array([empty if i < 10 else f"{'gG'[i % 2]}{i // 4}" for i in range(N)])
  dataset = data.load(save_npz(arrays(group=group, split=None) | {"split": SPLIT}))
  numbers = np.concatenate([dataset.group(name) for name in dataset.splits])
  assert len(np.unique(numbers)) == 10 + len(np.unique(group[10:]))
  for name in np.unique(group[10:]):
    assert len(np.unique(numbers[group == name])) == 1
  assert "groups that differ in case or spaces alone" in caplog.text
  assert caplog.records[0].levelno == logging.WARNING
