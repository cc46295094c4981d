"""The twins in PyTorch against their originals: first equal, then timed."""

import os
import time
from typing import NamedTuple
from unittest import mock

import flax.linen
import jax
import numpy as np

from bench import measure, parts, program, workloads
from promise_jax.data import batches
from promise_jax.methods import common, redcore


class Twin(NamedTuple):
  """A `case` for `Plan.case`, how much faster ours is asked to be, and the `devices`
  that the CPU pretends to have, in `groups`, on which ours is measured beside one."""

  case: tuple
  target: float
  devices: int = 2
  groups: int = 2


ALL = (
  Twin(("vectors", "robult"), 5.0),
  Twin(("vectors", "redcore"), 2.0),
  Twin(("vectors", "mplmm"), 2.0),
  Twin(("sequences_300", *parts.TRANSFORMER), 1.8),
  Twin(("sequences_300", "robult"), 1.8),
  Twin(("sequences_300", *parts.RECURRENT), 1.0),
  Twin(("sequences_768", *parts.TRANSFORMER), 1.8),
  Twin(("images_text", "robult"), 1.3),
  Twin(("images_text", "redcore"), 1.3),
  # Long steps of this gain by a batch that is spread; others lose by it.
  Twin(("sequences_300", "mplmm", None, 0), 1.8, 4, 1),
  Twin(("sequences_300", "mplmm"), 1.8, 4, 1),
  Twin(("sequences_768", "mplmm"), 1.8, 4, 1),
)
CLOSE = 1e-4
PATIENCE = 25  # seconds of compiling by PyTorch, after which the rest is left out


def found() -> bool:
  """Whether PyTorch is installed."""
  # What is read from a cache was not compiled.
  os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
  try:
    import torch  # noqa: F401
  except ImportError:
    return False
  return True


def twins(plan: parts.Plan) -> list[dict]:
  """A row for each of `ALL`: milliseconds of a step of one seed. They are measured in
  a process for each number of devices."""
  counts = sorted({twin.devices for twin in ALL if plan.case(*twin.case)})
  each = (parts.pretended(plan, "twins_here", count) for count in counts)
  return [row for rows in each for row in rows]


def twins_here(plan: parts.Plan) -> list[dict]:
  """The rows of those that want as many devices as this process has."""
  return [
    parts.told(case) | {"target": twin.target} | compared(plan, case, twin)
    for twin in ALL
    if twin.devices == jax.device_count()
    for case in plan.case(*twin.case)
  ]


def compared(plan: parts.Plan, case: workloads.Case, over: Twin) -> dict:
  """The row of one case, ours on one device and `over` several. ValueError where the
  twin is not equal."""
  import torch

  made = program.made(case, seed_parallelism="map")
  made = made._replace(carry=made.call(made.carry, *made.args)[0])
  twin, model_state = twin_of(case, made)
  off = difference(case, made, twin, model_state)
  step = stepper(case, made, twin, model_state)
  vmapped = program.made(case, seed_parallelism="vmap")
  runs = {"jax map": measure.scanned(made), "jax vmap": measure.scanned(vmapped)}
  places = {"devices": over.devices, "groups": over.groups}
  seeds = over.groups * -(-case.workload.seeds // over.groups)
  spread = program.made(case, seeds=seeds, seed_parallelism="map", **places)
  kind = "groups" if over.groups > 1 else "devices"
  runs[f"jax map, {places[kind]} {kind}"] = measure.scanned(spread)
  threads = sorted({1, measure.cores()})
  eager = {n: threaded(step, twin.loss, n) for n in threads}
  runs |= {f"eager {n}": run for n, run in eager.items()}
  compile_s = {}
  if not plan.quick:
    fast = measure.timed(eager, 3)
    compiled = torch.compile(twin.loss)
    # Those threads first that suit it: compiling for others as well can take minutes.
    for n in sorted(threads, key=lambda n: fast[n]["ms"]):
      if sum(compile_s.values()) < PATIENCE:
        run = runs[f"compiled {n}"] = threaded(step, compiled, n)
        since = time.perf_counter()
        run(1)
        compile_s[str(n)] = time.perf_counter() - since
  times = measure.timed(runs, 2 * plan.repeats)
  return {
    "off": off,
    "compile_s": made.compile_s,
    "torch_compile_s": compile_s,
    "times": {name: value["ms"] for name, value in times.items()},
    "least": {name: value["least_ms"] for name, value in times.items()},
  }


def twin_of(case: workloads.Case, made: program.Program) -> tuple:
  """(module, model_state) in PyTorch with the parameters and model_state of the first seed."""
  from bench.twins import layers, mplmm, robult
  from bench.twins import redcore as redcores

  config = settings(case)
  spec = case.workload.spec
  if case.method == "mplmm":
    plain = made.stage.name == "pretrain"
    twin, carried = mplmm.Mplmm(config, spec, plain), dict
  elif case.method == "redcore":
    twin, carried = redcores.Redcore(config, spec), redcores.carried
  else:
    twin, carried = robult.Robult(config, spec), robult.carried
  state = jax.tree.map(lambda x: np.asarray(x[0]), made.carry.state)
  layers.load(twin, state.params["params"])
  return twin, carried(state.model_state)


def settings(case: workloads.Case):
  """The settings of the method."""
  from promise_jax import methods

  return methods.make_config(case.method, case.values)


def difference(case: workloads.Case, made: program.Program, twin, model_state: dict) -> dict:
  """How far loss, logits and gradient norm of the twin are from the original's on one
  batch, without dropout. ValueError if they are not `CLOSE`."""
  import torch

  ours = original(case, made)
  batch = tensors(ours["batch"])
  draws = tuple(tensors(ours["draws"])) or None
  twin.eval()
  loss, _ = twin.loss(batch, model_state, torch.tensor(ours["progress"]), draws)
  twin.zero_grad()
  loss.backward()
  square = sum(p.grad.square().sum() for p in twin.parameters() if p.grad is not None)
  with torch.no_grad():
    logits = twin.predict(batch)
  theirs = {"loss": loss.item(), "logits": logits.numpy(), "gradient": square.sqrt()}
  off = {}
  for name, value in theirs.items():
    mine = np.asarray(ours[name])
    scale = max(float(np.abs(mine).max()), 1.0)
    off[name] = float(np.abs(mine - np.asarray(value)).max()) / scale
    if not off[name] <= CLOSE * (10 if name == "gradient" else 1):
      raise ValueError(
        f"the twin of {case.name} on {case.workload.name} differs in its {name} by "
        f"{off[name]:.1e}, at most {CLOSE} is allowed"
      )
  return off


def original(case: workloads.Case, made: program.Program) -> dict:
  """Loss, logits and gradient norm of the original on its first batch without dropout,
  with the batch, its progress and what it draws otherwise."""
  ready, keys, data, *_ = made.args
  config, predict = settings(case), made.stage.predict or made.method.predict
  mesh = program.sharding.make_mesh(list(keys.devices())[:1])

  def told(params, model_state, choice, key, data):
    chosen, clock = choice
    batch = batches.make_batch(data, chosen, False, mesh)
    (loss, _), grads = jax.value_and_grad(made.stage.loss, has_aux=True)(
      params, model_state, batch, key, clock
    )
    parts = program.optim.parts(params, made.stage.trainable)
    square = jax.tree.map(lambda g, part: jax.numpy.sum(g * g) * (part == "train"), grads, parts)
    out = {"loss": loss, "gradient": sum(jax.tree.leaves(square)) ** 0.5}
    out |= {"logits": predict(params, model_state, batch)["logits"], "batch": batch}
    draws = drawn(config, batch, key) if case.method == "redcore" else ()
    return out | {"draws": draws, "progress": clock.progress}

  choice, state = program.choices(ready)[0], program.first_seed(made.carry.state)
  plain = lambda self, x, **options: x
  with mock.patch.object(flax.linen.Dropout, "__call__", plain):
    args = (state.params, state.model_state, choice, keys[0], data)
    once = program.programs.compiled(jax.jit(told), args, {"compile_s": 0.0}, once=True)
  return jax.device_get(once(*args))


def drawn(config, batch: dict, key) -> tuple:
  """The noise and the shown parts that RedCore draws in a step."""
  hide_key, noise_key, _, _ = jax.random.split(key, 4)
  shown = redcore.draw_visible(hide_key, batch.id, batch.present, config.num_subsets)
  keys = common.row_keys(noise_key, batch.id)
  shape = (batch.present.shape[1], config.hidden)
  return jax.vmap(lambda k: jax.random.normal(k, shape))(keys), shown


def tensors(tree):
  """Arrays as tensors; labels as the whole numbers that PyTorch wants."""
  from bench.twins import layers

  out = jax.tree.map(layers.tensor, tree)
  if isinstance(out, dict) and "label" in out:
    out["label"] = out["label"].long()
  return out


def stepper(case: workloads.Case, made: program.Program, twin, model_state: dict):
  """step(loss, k): one update by AdamW on the k-th batch, gathered from all rows."""
  import torch

  ready, _, data, *_ = made.args
  ready, data = jax.device_get(ready), tensors(jax.device_get(data))
  chosen = tensors({k: v[0] for k, v in ready["chosen"].items()})
  progress = torch.from_numpy(np.array(ready["clock"][1]))
  held, config = [model_state], workloads.settings(case.workload).optim
  trained = [p for p in twin.parameters() if p.requires_grad]
  thick = [p for p in trained if p.dim() > 1]
  thin = [p for p in trained if p.dim() <= 1]
  groups = [{"params": thick, "weight_decay": config.weight_decay}]
  groups += [{"params": thin, "weight_decay": 0.0}]
  adam = torch.optim.AdamW(groups, lr=config.lr, fused=True)

  def take(tree, index):
    if isinstance(tree, dict):
      return {k: take(x, index) for k, x in tree.items()}
    return tree[index]

  def step(loss, k: int) -> None:
    now = {name: x[k] for name, x in chosen.items()}
    batch = take(data, now["index"])
    batch.present = batch.recorded & now["keep"]
    batch = batch.replace(labelled=now["labelled"], bank_index=now["slot"])
    value, held[0] = loss(batch, held[0], progress[k])
    value.backward()
    torch.nn.utils.clip_grad_norm_(trained, config.clip, foreach=True)
    adam.step()
    adam.zero_grad(set_to_none=True)

  step.count = len(progress)
  twin.train()
  return step


def threaded(step, loss, threads: int):
  """A run of all steps on so many threads, for `measure.timed`."""
  import torch

  def run(steps: int = step.count) -> int:
    torch.set_num_threads(threads)
    for k in range(steps):
      step(loss, k)
    return steps

  return run
