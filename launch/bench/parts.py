"""The parts of the benchmark: each takes a `Plan` and gives rows for a table."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax

from bench import measure, program, report, workloads
from promise_jax import methods, missing

TRANSFORMER = ("redcore", {"encoder": "transformer"}, -1, "transformer")
RECURRENT = ("redcore", {"encoder": "lstm"}, -1, "lstm")
# Of each kind of network one, for what is not asked of every method.
SOME = (("vectors", "robult"), ("sequences_300", "mplmm"), ("images_text", "robult"))
# Wider text changes a first layer alone: there not every method is measured.
WIDE = ("sequences_768", ("fusion", "robult", "redcore", "mplmm"))
SHOWN = ("sequences_300", "images_text")
STATIC = ("fusion", "robult", "redcore", "promise", "mplmm")
ROUNDS = 3  # of processes that are compared
HEAVY = ("mplmm", "promma")  # a step takes long: a call has few


class Plan(NamedTuple):
  """What was asked for: workloads and methods by name, how many `repeats` a timing
  has, seeds and numbers of `devices` to try; `quick` ones say nothing of speed."""

  loads: dict[str, workloads.Workload]
  methods: tuple[str, ...]
  repeats: int
  seeds: tuple[int, ...]
  devices: tuple[int, ...]
  quick: bool

  def case(self, load: str, method: str, values=None, stage=-1, note="") -> list:
    """The case, in a list that is empty where it was not asked for."""
    if load not in self.loads or method not in self.methods:
      return []
    tiny = {k: v for k, v in TINY.get(method, {}).items() if self.quick}
    values, load = tiny | (values or {}), self.loads[load]
    if method in HEAVY or "transformer" in note:
      load = load._replace(seeds=1, steps=min(load.steps, 5))
    return [workloads.Case(load, method, values, stage, note)]

  def some(self) -> list[workloads.Case]:
    """The cases of `SOME`."""
    return [case for pair in SOME for case in self.case(*pair)]


SMALL = {"hidden": 8, "head_hidden": 8}
TINY_MULT = {"width": 4, "heads": 1, "layers": 1, "memory_layers": 1, "prompts": 2}
TINY = {
  **dict.fromkeys(("fusion", "distil"), SMALL),
  "share": SMALL | {"shared": 4},
  "robult": SMALL | {"shared": 4, "private": 4},
  "redcore": SMALL | {"imputer_hidden": 8},
  "promise": {"hidden": 8, "num_prompts": 1, "code_size": 4},
  **dict.fromkeys(("mplmm", "promma"), TINY_MULT),
}


def every(plan: Plan) -> list[dict]:
  """Training with every method: the call of `train.fit`, a loop over steps inside a map
  over seeds."""
  rows = []
  for load in plan.loads:
    names = WIDE[1] if load == WIDE[0] else methods.METHODS
    cases = [case for name in names for case in plan.case(load, name)]
    if load.startswith("sequences"):
      cases += plan.case(load, *TRANSFORMER) + plan.case(load, *RECURRENT)
    for case in cases:
      rows.append(told(case) | trained(plan, case, count=True))
  return rows


def trained(plan: Plan, case: workloads.Case, count=False, **how) -> dict:
  """The numbers of one program, `program.made(case, **how)`."""
  made = program.made(case, **how)
  # First: the call takes the state away.
  work = measure.products(program.single(made), made.args) if count else 0
  found = measure.timed({"scan": measure.scanned(made)}, plan.repeats)["scan"]
  found |= {"compile_s": made.compile_s, "memory_mb": made.memory_mb}
  if count:
    found |= {"gflop": work / 1e9, "gflops": work / found["ms"] / 1e6}
  return found | {"batch": case.workload.batch}


def told(case: workloads.Case) -> dict:
  """What names a case in a table."""
  stages = case.build().stages
  stage = stages[case.stage].name if len(stages) > 1 else ""
  return {"workload": case.workload.name, "method": case.name, "stage": stage}


def dispatch(plan: Plan) -> list[dict]:
  """One seed: the scan over K steps against K calls of a program of one step."""
  rows = []
  for case in plan.some():
    made = program.made(case, seeds=1)
    single = program.single(made)
    runs = {
      "scan": measure.scanned(made),
      "step": measure.dispatched(single, made.args),
    }
    found = measure.timed(runs, plan.repeats)
    rows.append(told(case) | {k: v["ms"] for k, v in found.items()})
  return rows


def seeds(plan: Plan) -> list[dict]:
  """map against vmap over seeds, time for a step of one of them."""
  rows = []
  for case in plan.some()[:2]:
    for count in plan.seeds:
      row = told(case) | {"seeds": count}
      for kind in ("map", "vmap"):
        found = trained(plan, case, seeds=count, seed_parallelism=kind)
        row |= {kind: found["ms"], f"{kind}_mb": found["memory_mb"]}
      rows.append(row)
  return rows


def patterns(plan: Plan) -> list[dict]:
  """Prediction of 256 rows under every pattern, as a mask that one program reads, and
  as a static pattern with a program of its own."""
  rows = []
  for load in SHOWN:
    for name in STATIC:
      for case in plan.case(load, name):
        rows += predicted(plan, case)
  return rows


def predicted(plan: Plan, case: workloads.Case) -> list[dict]:
  """The rows of `patterns` for one case."""
  load, method = case.workload, case.build()
  params, model_state = jax.jit(method.init)(jax.random.key(0))
  split = workloads.split(load, 2 * load.batch if plan.quick else 256)
  inputs = jax.jit(method.preprocess)(split.inputs)
  batch = {"inputs": inputs, "length": split.length, "id": split.id}
  batch = jax.device_put(batch.replace(present=split.recorded))
  shown = missing.all_patterns(len(load.spec.modalities))

  def predict(pattern, params, model_state, batch):
    return method.predict(params, model_state, batch, pattern)["logits"]

  def run(call, batch):
    def once() -> int:
      for _ in range(4):
        out = call(params, model_state, batch)
      jax.block_until_ready(out)
      return 4

    return once

  dense = jax.jit(functools.partial(predict, None))
  runs = {}
  for pattern in shown:
    mask = batch.present & jax.numpy.asarray(pattern)[None]
    runs["dense", pattern] = run(dense, batch.replace(present=mask))
    static = jax.jit(functools.partial(predict, pattern))
    runs["static", pattern] = run(static, batch)
  found = measure.timed(runs, 2 * plan.repeats)
  return [
    told(case)
    | {"present": missing.pattern_name(pattern, load.spec.names)}
    | {"of": sum(pattern), "dense": found["dense", pattern]["least_ms"]}
    | {"static": found["static", pattern]["least_ms"]}
    for pattern in shown
  ]


def devices(plan: Plan) -> list[dict]:
  """A batch spread over 1 to 8 devices. A CPU pretends to be so many, in a process of
  its own: what is seen is what the spreading costs."""
  if jax.default_backend() == "cpu" and jax.device_count() < max(plan.devices):
    return pretended(plan, "devices", max(plan.devices))
  rows = []
  for case in plan.some()[:2]:
    for count in (n for n in plan.devices if n <= jax.device_count()):
      found = trained(plan, case, seeds=1, devices=count)
      rows.append(told(case) | {"devices": count, "ms": found["ms"]})
  return rows


def faults(plan: Plan) -> list[dict]:
  """Minor page faults and time of a step by a scan and by single steps, with glibc as
  it is and with huge pages: of `ROUNDS` processes each, which take turns, the
  fastest."""
  settings = [("default", ""), ("hugetlb=1", "glibc.malloc.hugetlb=1")]
  best: dict[tuple, dict] = {}
  with tempfile.TemporaryDirectory() as folder:
    for name, value in (1 if plan.quick else ROUNDS) * settings:
      for row in child(plan, "allocator", {"GLIBC_TUNABLES": value}, folder):
        row = {"allocator": name} | row
        known = best.setdefault(report.key(row), row)
        best[report.key(row)] = min(known, row, key=lambda row: row["ms"])
  return list(best.values())


def allocator(plan: Plan) -> list[dict]:
  """The rows of `faults` in this process."""
  rows = []
  cases = plan.some()[:2] + plan.case("sequences_300", *TRANSFORMER)
  for case in cases:
    made = program.made(case, seeds=1)
    single = program.single(made)
    runs = {
      "scan": measure.scanned(made),
      "step": measure.dispatched(single, made.args),
    }
    for how, found in measure.timed(runs, plan.repeats).items():
      rows.append(told(case) | {"how": how} | found)
  return rows


def pretended(plan: Plan, part: str, devices: int) -> list:
  """The rows of `part`, from a process whose CPU pretends to be so many devices."""
  with tempfile.TemporaryDirectory() as folder:
    return child(plan, part, {"JAX_NUM_CPU_DEVICES": str(devices)}, folder)


def child(plan: Plan, part: str, environment: dict[str, str], folder: str) -> list:
  """The rows of `part`, measured in a new process with such an environment; what it
  compiles is kept in `folder` for the next one."""
  script = Path(__file__).parents[1] / "benchmark.py"
  only = ",".join([part, *plan.loads, *plan.methods])
  command = [sys.executable, str(script), f"--only={only}", "--out=-"]
  command += ["--quick"] if plan.quick else []
  environment = os.environ | environment | {"JAX_COMPILATION_CACHE_DIR": folder}
  done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])[part]
