"""Made-up sentiment pickles: the fields of a file beside the rows they were made of."""

import numpy as np

DIMS = {"text": 4, "audio": 3, "vision": 2}
STEPS = {"text": 5, "audio": 7, "vision": 6}
SIZES = {"train": 6, "valid": 3, "test": 4}


def pad(rows, steps, in_front=False):
  """Rows as one array, with zeros behind or in front."""
  out = np.zeros((len(rows), steps, rows[0].shape[1]), np.float32)
  for i, row in enumerate(rows):
    start = steps - len(row) if in_front else 0
    out[i, start : start + len(row)] = row
  return out


def make_bert(lengths, steps):
  """text_bert: ids, mask and segment of each row."""
  out = np.zeros((len(lengths), 3, steps), np.float32)
  for i, n in enumerate(lengths):
    out[i, :2, :n] = [[101], [1]]
  return out


def make(layout="unaligned", seed=0):
  """({split: fields}, {split: {modality: true rows}}) of a layout, tiny.

  The layouts are "aligned", "unaligned" and "sims" of MMSA, and "mult".
  """
  rng = np.random.default_rng(seed)
  steps = STEPS if layout in ("unaligned", "sims") else dict.fromkeys(DIMS, 5)
  files, truth = {}, {}
  for split, count in SIZES.items():
    lengths = {m: rng.integers(1, steps[m] + 1, count) for m in DIMS}
    if steps["audio"] == steps["text"]:
      lengths = dict.fromkeys(DIMS, lengths["text"])
    rows = {m: [rng.uniform(1, 2, (n, DIMS[m])) for n in lengths[m]] for m in DIMS}
    label = rng.uniform(-3, 3, count).astype(np.float32)
    fields = {m: pad(rows[m], steps[m], in_front=layout == "mult") for m in DIMS}
    if layout == "mult":
      fields["labels"] = label[:, None, None]
      fields["id"] = np.array([[f"{split}{i}", "1.0", "2.5"] for i in range(count)], "S")
    else:
      fields["regression_labels"] = label / 3 if layout == "sims" else label
      fields["classification_labels"] = np.sign(np.round(label)) + 1
      fields["annotations"] = ["Positive"] * count
      fields["raw_text"] = np.array(["a word"] * count)
      fields["text_bert"] = make_bert(lengths["text"], steps["text"])
      fields["id"] = [f"{split}{i // 2}$_${i % 2}" for i in range(count)]
    if layout in ("unaligned", "sims"):
      fields["audio_lengths"] = lengths["audio"].tolist()
      fields["vision_lengths"] = lengths["vision"].tolist()
    files[split], truth[split] = fields, rows
  return files, truth


def check_rows(dataset, truth):
  """The splits are the true rows, standardised by slow loops, then zeros."""
  for split, modalities in truth.items():
    rows = dataset.split(split)
    for m, true in modalities.items():
      frames = np.concatenate([row for row in truth["train"][m]]).astype(np.float32)
      mean, std = frames.astype(np.float64).mean(0), frames.astype(np.float64).std(0)
      assert rows.length[m].tolist() == [len(row) for row in true]
      for i, row in enumerate(true):
        expected = np.zeros(rows.inputs[m].shape[1:])
        expected[: len(row)] = (row.astype(np.float32) - mean) / std
        np.testing.assert_allclose(rows.inputs[m][i], expected, atol=2e-5)
