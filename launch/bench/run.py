"""The benchmark as one function: chooses what to measure, and writes SPEED.md."""

import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import jax

from bench import cases, commands, device, plots, report, size, timing
from promise_jax import methods


def measure_twins(plan: cases.Plan) -> list[dict]:
  """As in `twins`, which needs PyTorch."""
  from bench import twins

  return twins.measure_twins(plan)


PARTS = {
  "commands": commands.measure_commands,
  "twins": measure_twins,
  "size": size.measure_size,
  "device": device.measure_device,
}
ON_DEVICE = ("device", "twins")  # what an accelerator is measured with
DEVICE_SECONDS = 7 * 60  # after which it starts no other case


def run(
  only: str = "", quick: bool = False, out: str = "SPEED.md", on_device: bool = False
) -> dict[str, list[dict]]:
  """Measures, and adds the rows of every part to the page `out` and the files beside it.

  Args:
    only: parts, workloads and methods to measure, joined by commas. Of a kind that is not
      named, all are measured.
    quick: tiny sizes, to see that everything works.
    out: the page. Rows of the same case and machine are replaced.
    on_device: measure what an accelerator is for, in at most 8 minutes, in place of the rest.

  Returns:
    The rows that were measured, by part.

  Raises:
    ValueError: an unknown name in `only`, or a twin that is not equal to its original.
  """
  names, plan = make_plan(only, quick, on_device)
  # What PyTorch reads from its cache was not compiled.
  os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
  rows = {}
  for name in names:
    if name == "twins" and (reason := why_no_twins()):
      print(reason, file=sys.stderr)
      continue
    begin = time.perf_counter()
    print(f"{name} ...", file=sys.stderr, flush=True)
    rows[name] = PARTS[name](plan)
    print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    write_rows(Path(out), timing.describe_machine(quick), {name: rows[name]})
  return rows


def make_plan(only: str, quick: bool, on_device: bool = False) -> tuple[list[str], cases.Plan]:
  """The parts and the plan for a list of names."""
  workloads = cases.make_workloads(quick)
  kinds = (list(PARTS), list(workloads), list(methods.METHODS))
  words = [word for word in only.replace(" ", "").split(",") if word]
  for word in words:
    if not any(word in names for names in kinds):
      known = ", ".join(name for names in kinds for name in names)
      raise ValueError(f"only is {word!r}, known are {known}")
  usual = ON_DEVICE if on_device else [name for name in PARTS if name != "device"]
  chosen = [[word for word in words if word in names] for names in kinds]
  names, of, by = (found or all for found, all in zip(chosen, (usual, *kinds[1:]), strict=True))
  plan = cases.Plan({name: workloads[name] for name in of}, tuple(by), 2 if quick else 15, quick)
  if on_device:
    plan = plan._replace(end=time.perf_counter() + DEVICE_SECONDS)
  return list(names), plan


def why_no_twins() -> str:
  """Why twins cannot be measured here, as a sentence; empty if they can."""
  if importlib.util.find_spec("torch") is None:
    return 'The twins need PyTorch (pip install -e ".[benchmark]"), so they were left out.'
  if jax.default_backend() != "cpu":
    import torch

    if jax.default_backend() != "gpu" or not torch.cuda.is_available():
      return f"PyTorch finds no {jax.default_backend()} here, so the twins were left out."
  return ""


def write_rows(page: Path, machine: dict, rows: dict[str, list[dict]]) -> None:
  """Adds rows to the page, its json and its plot. A package that is not installed now keeps its
  version, for the rows that were measured with it."""
  numbers = page.with_suffix(".json")
  records = json.loads(numbers.read_text()) if numbers.exists() else {}
  old = records.get(machine["name"], {"versions": {}, "parts": {}})
  merged = {name: report.merge_rows(old["parts"].get(name, []), new) for name, new in rows.items()}
  records[machine["name"]] = machine | {
    "versions": old["versions"] | machine["versions"],
    "parts": old["parts"] | merged,
  }
  numbers.write_text(json.dumps(records, indent=1) + "\n")
  if points := merged.get("size"):
    page.with_suffix(".svg").write_bytes(plots.draw_curves(points))
  text = page.read_text() if page.exists() else ""
  page.write_text(report.write_page(text, records))
