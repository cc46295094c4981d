"""The benchmark as one function: which parts, on which workloads, into which file."""

import importlib.metadata
import json
import platform
import sys
import time
from pathlib import Path

import jax

from bench import measure, parts, report, versus, workloads
from promise_jax import methods
from promise_jax.training import progress

PARTS = {
  "twins": versus.twins,
  "methods": parts.every,
  "patterns": parts.patterns,
  "dispatch": parts.dispatch,
  "seeds": parts.seeds,
  "faults": parts.faults,
  "devices": parts.devices,
}
# What a part asks of a process of its own.
INNER = {"allocator": parts.allocator, "twins_here": versus.twins_here}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")
NO_TWINS = "PyTorch is not installed, so the twins were left out"


def run(only: str = "", quick: bool = False, out: str = "SPEED.md") -> dict:
  """Measures and writes `out` with the numbers beside it as json, part by part, or
  prints these on one line for `out` "-"; all numbers that were measured.

  `only` names parts, workloads and methods, joined by commas; where none of a sort is
  named, all are meant. A row that is measured replaces what stood there of this
  machine. Raises ValueError for a name that is unknown and a twin that is not equal.
  """
  names, plan = plan_of(only, quick)
  found = {}
  if out != "-":
    record = machine(quick) | {"peak": peaks(quick)}
  for name in names:
    if skipped := reason(name):
      print(skipped, file=sys.stderr)
      continue
    since = time.perf_counter()
    print(f"{name} ...", file=sys.stderr, flush=True)
    found[name] = (PARTS | INNER)[name](plan)
    print(f"{name}: {time.perf_counter() - since:.0f} s", file=sys.stderr, flush=True)
    if out != "-":
      record["process_mb"] = progress.peak_memory_mb()
      write(Path(out), record, {name: found[name]})
  if out == "-":
    print(json.dumps(found))
  return found


def write(path: Path, record: dict, found: dict[str, list[dict]]) -> None:
  """Puts the rows `found` into the page and its json, as those of a machine; a package
  that is not here now keeps its version, for the rows that stay, and so do the peak
  memory of a larger run and the rate of products of a faster one."""
  numbers = path.with_suffix(".json")
  every = json.loads(numbers.read_text()) if numbers.exists() else {}
  none = {"versions": {}, "peak": {}, "process_mb": 0, "parts": {}}
  kept = every.get(record["name"], none)
  merged = {name: report.merged(kept["parts"].get(name, []), rows) for name, rows in found.items()}
  every[record["name"]] = record | {
    "versions": kept["versions"] | record["versions"],
    "peak": {k: max(v, kept["peak"].get(k, 0)) for k, v in record["peak"].items()},
    "process_mb": max(kept["process_mb"], record["process_mb"]),
    "parts": kept["parts"] | merged,
  }
  numbers.write_text(json.dumps(every, indent=1) + "\n")
  text = path.read_text() if path.exists() else ""
  path.write_text(report.page(text, every))


def plan_of(only: str, quick: bool) -> tuple[list[str], parts.Plan]:
  """The names of the parts, and the plan, that `only` asks for."""
  loads = workloads.workloads(quick)
  known = {
    "part": dict.fromkeys((*PARTS, *INNER)),
    "workload": dict.fromkeys(loads),
    "method": dict.fromkeys(methods.METHODS),
  }
  chosen = {sort: [] for sort in known}
  for word in filter(None, only.replace(" ", "").split(",")):
    sorts = [sort for sort, names in known.items() if word in names]
    if not sorts:
      every = ", ".join(name for names in known.values() for name in names)
      raise ValueError(f"only is {word!r}, known are {every}")
    chosen[sorts[0]].append(word)
  named = chosen["workload"] or list(loads)
  seeds, devices = ((1, 2), (1, 2)) if quick else ((1, 5, 8), (1, 2, 4, 8))
  plan = parts.Plan(
    {name: loads[name] for name in named},
    tuple(chosen["method"] or methods.METHODS),
    repeats=2 if quick else 15,
    seeds=seeds,
    devices=devices,
    quick=quick,
  )
  return chosen["part"] or list(PARTS), plan


def reason(part: str) -> str:
  """Why a part cannot be measured here, in one sentence; empty where it can."""
  cpu = jax.default_backend() == "cpu"
  if part.startswith("twins") and not cpu:
    return "The twins are compared on a CPU, so they were left out"
  if part.startswith("twins") and not versus.found():
    return NO_TWINS
  if part in ("faults", "allocator") and not (cpu and sys.platform == "linux"):
    return "Page faults are those of Linux on a CPU, so they were left out"
  return ""


def machine(quick: bool) -> dict:
  """What these numbers are true of."""
  device, count = jax.devices()[0], len(jax.devices())
  name = f"{processor()}, {measure.cores()} cores"
  if device.platform != "cpu":
    name = f"{count} x {device.device_kind}, {name}"
  name += ", quick sizes that say nothing of speed" if quick else ""
  versions = {"python": platform.python_version()}
  for package in PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return {"name": name, "system": platform.system(), "versions": versions}


def processor() -> str:
  """The name of the processor."""
  info = Path("/proc/cpuinfo")
  lines = info.read_text().splitlines() if info.exists() else []
  models = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
  return models[0] if models else platform.processor() or platform.machine()


def peaks(quick: bool) -> dict[str, float]:
  """Operations a second of f32 matrix products, by the size of the matrices."""
  cpu = jax.default_backend() == "cpu"
  sizes = (64,) if quick else (256, 2048) if cpu else (2048, 8192)
  return {str(size): measure.matrix_peak(size) for size in sizes}
