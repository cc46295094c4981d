"""Writes and reads results.jsonl, and reads a finished run for its report."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from promise_jax import files, missing
from promise_jax.reports import html

FIELDS = dict.fromkeys(("method", "split", "protocol", "metric", "dataset", "mask_hash"), str)
FIELDS |= {"seed": int, "n": int, "label_rate": int | float, "value": int | float | None}
FIELDS |= {"pattern": list | None, "rate": int | float | None, "step": int | None}  # of a line


def write_results(path: Path, results: pd.DataFrame) -> None:
  """Writes results.jsonl: `pattern` as a list of names, no field for a column without value."""
  optional = ("rate", "step", "train_mask_hash")
  lines = []
  for line in results.to_dict("records"):
    line = {k: v for k, v in line.items() if k not in optional or not pd.isna(v)}
    line["pattern"] = None if pd.isna(line["pattern"]) else line["pattern"].split("+")
    lines.append(line | ({"step": int(line["step"])} if "step" in line else {}))
  files.write_jsonl(path, lines)


def read_results(path: Path) -> pd.DataFrame:
  """Reads results.jsonl; `pattern` is "text+audio", or null for a mixed protocol."""
  lines = files.read_jsonl(path)
  for number, line in enumerate(lines, 1):
    for field, kind in FIELDS.items():
      if not isinstance(line.get(field), kind):
        words = f"{path}, line {number}: {field} is {str(line.get(field))[:40]!r}"
        raise ValueError(f"{words}; the file is damaged, a copy of it is needed")
  if not lines:
    raise ValueError(f"{path} has no line")
  named = (line.get("pattern") for line in lines)
  patterns = ["+".join(map(str, names)) if names else None for names in named]
  return make_frame(lines, "value").assign(pattern=pd.Series(patterns, dtype=object))


def read_run(folder: Path, results: pd.DataFrame | None = None) -> html.Report:
  """A run for its report, by those of its files that exist; `results` before they are written."""

  def read(name: str, empty: list | dict) -> Any:
    path = folder / name
    reader = files.read_jsonl if path.suffix == ".jsonl" else files.read_json
    return reader(path) if path.exists() else empty

  frame = lambda name, *numbers: make_frame(read(name, []), *numbers)
  config = files.read_json(folder / "config.json")
  return html.Report(
    folder.resolve().name,
    config,
    read_results(folder / "results.jsonl") if results is None else results,
    frame("metrics.jsonl", "loss", "valid"),
    frame("comparison.json", "difference", "low", "high"),
    frame("speed.jsonl"),
    canonical_protocols(config["config"].get("test_protocols")),
    rows=read("rows.json", {}),
    data=read("data.json", {}),
    classes=frame("classes.json", "precision", "recall", "f1"),
    calibration=frame("calibration.json", "before", "after"),
    contribution=frame("contribution.json", "value", "low", "high"),
  )


def make_frame(lines: list[dict], *numbers: str) -> pd.DataFrame:
  """Lines of JSON as a DataFrame; null is NaN in the columns `numbers`."""
  frame = pd.DataFrame(lines)
  return frame.astype({name: float for name in numbers if name in frame})


def canonical_protocols(texts: Iterable[str]) -> tuple[str, ...]:
  """Protocols as the results name them. ValueError for what a damaged config may have."""
  if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
    raise ValueError(f"test_protocols is {texts!r}, expected a list of texts")
  return tuple(str(missing.parse_protocol(text)) for text in texts)
