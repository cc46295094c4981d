"""Methods against their twins in PyTorch: first that both are equal, then which is faster."""

import functools
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
import optax
import torch
from torch_twins import mplmm, redcore, robult

from bench import timing, training
from bench.cases import MULT, Case, Plan, make_case, make_train_config
from promise_jax.data import batches
from promise_jax.devices import mesh as devices_mesh
from promise_jax.methods import common
from promise_jax.nn.dropout import Dropout
from promise_jax.optim import param_paths
from promise_jax.training.step import compile_program
from promise_jax.types import Batch

# Arguments of `make_case`, and how many times faster than PyTorch the project wants to be.
CASES = (
  (("vectors", "robult"), 3.5),
  (("vectors", "redcore"), 2.0),
  (("images_text", "robult"), 1.3),
  (("images_text", "redcore"), 1.3),
  (("sequences", "robult"), 1.8),
  (("sequences", "redcore", {"encoder": "transformer"}), 1.8),
  (("sequences", "redcore", {"encoder": "lstm"}), 1.0),
  (("sequences", "mplmm", MULT, 0), 1.8),
  (("sequences", "mplmm", MULT), 1.8),
)
TWINS = {"mplmm": mplmm, "redcore": redcore, "robult": robult}
TOLERANCE = 1e-4  # of loss, logits and gradient norm
# A step in ms, from which on kernels take the time: torch.compile never was faster there, and
# takes a minute.
LONG_STEP = 100


def measure_twins(plan: Plan) -> list[dict]:
  """Milliseconds of a step of one seed, ours and PyTorch's."""
  rows = []
  for (workload, method, *more), target in CASES:
    chosen = workload in plan.workloads and method in plan.methods
    if chosen and time.perf_counter() < plan.end:
      case = make_case(plan.workloads[workload], method, *more)
      rows.append(case.key() | {"target": target} | compare(plan, case))
  return rows


def compare(plan: Plan, case: Case) -> dict:
  """The times of one case.

  Raises:
    ValueError: the twin is not equal to the original.
  """
  is_cpu = jax.default_backend() == "cpu"
  torch.set_default_device("cpu" if is_cpu else "cuda")
  program, twin, state = make_twin(case)
  differences = check_equal(case, program, twin, state)
  torch_run = make_torch_run(case, program, twin, state)
  runs = {"jax map": training.make_runner(program)}
  if case.workload.num_seeds > 1:
    at_once = training.compile_training(case, seed_parallelism="vmap")
    runs["jax vmap"] = training.make_runner(at_once)
  threads = sorted({1, timing.count_cores()}) if is_cpu else [1]
  eager = {n: functools.partial(torch_run, twin.loss, n) for n in threads}
  runs |= {f"eager {n}": run for n, run in eager.items()}
  times, compile_s = timing.time_in_turns(eager, 3), {}
  best = min(threads, key=lambda n: times[n]["ms"])
  if not plan.quick and times[best]["ms"] < LONG_STEP:
    run = runs[f"compiled {best}"] = functools.partial(torch_run, torch.compile(twin.loss), best)
    begin = time.perf_counter()
    run(num_steps=1)
    compile_s[str(best)] = time.perf_counter() - begin
  times = timing.time_in_turns(runs, plan.num_rounds)
  return {
    "difference": differences,
    "compile_s": program.compile_s,
    "torch_compile_s": compile_s,
    "times": {name: value["ms"] for name, value in times.items()},
  }


def make_twin(case: Case) -> tuple[training.Program, object, dict]:
  """The program after one block, so that no parameter is 0, and its twin with
  the parameters of the first seed, and the model_state."""
  program = training.compile_training(case, seed_parallelism="map")
  loop_state, _ = program.train_block(program.loop_state, *program.inputs)
  program = program._replace(loop_state=loop_state)
  state = jax.tree.map(lambda x: np.asarray(x[0]), loop_state.state)
  stage, params = program.stage, state.params["params"]
  twin = TWINS[case.method].Twin(case.config, case.workload.spec, params, stage.name)
  labels = param_paths.label_trainable({"params": twin.p}, stage.trainable)["params"]
  for leaf, label in zip(jax.tree.leaves(twin.p), jax.tree.leaves(labels), strict=True):
    if label != "train":
      leaf.requires_grad_(False)
  return program, twin, to_tensors(state.model_state)


def check_equal(case: Case, program: training.Program, twin, model_state) -> dict[str, float]:
  """The differences of loss, logits and gradient norm on a batch, without dropout.

  Raises:
    ValueError: one of them is above `TOLERANCE`.
  """
  ours = evaluate_original(case, program)
  batch, progress, draws = to_tensors((ours["batch"], ours["progress"], ours["draws"]))
  twin.training = False
  loss, _ = twin.loss(batch, model_state, progress, draws)
  trainable = [p for p in twin.parameters() if p.requires_grad]
  grads = torch.autograd.grad(loss, trainable, allow_unused=True)
  norm = torch.nn.utils.get_total_norm([g for g in grads if g is not None])
  with torch.no_grad():
    logits = twin.predict(batch)
  theirs = {"loss": loss.item(), "logits": logits.cpu().numpy(), "gradient norm": norm.item()}
  differences = {}
  for name, value in theirs.items():
    scale = max(float(np.abs(ours[name]).max()), 1.0)
    differences[name] = float(np.abs(ours[name] - value).max()) / scale
    if not differences[name] <= TOLERANCE:
      raise ValueError(
        f"the twin of {case.name} on {case.workload.name} differs in its {name} by "
        f"{differences[name]:.1e}, at most {TOLERANCE} is allowed"
      )
  return differences


def evaluate_original(case: Case, program: training.Program) -> dict:
  """Loss, logits and gradient norm of the original on its first batch, without dropout; the
  batch, the progress of training, and what the loss draws otherwise."""
  stage, predict = program.stage, program.stage.predict or program.method.predict

  def skip_dropout(call, args, kwargs, context):
    return args[0] if isinstance(context.module, Dropout) else call(*args, **kwargs)

  def evaluate(state, choice, info, key, data):
    batch = batches.make_batch(data, choice, False, devices_mesh.make_mesh(jax.devices()[:1]))
    (loss, _), grads = jax.value_and_grad(stage.loss, has_aux=True)(
      state.params, state.model_state, batch, key, info
    )
    labels = param_paths.label_trainable(state.params, stage.trainable)
    grads = jax.tree.map(lambda g, label: g * (label == "train"), grads, labels)
    logits = predict(state.params, state.model_state, batch)["logits"]
    values = {"loss": loss, "logits": logits, "gradient norm": optax.tree.norm(grads)}
    draws = redcore_draws(case.config, batch, key) if case.method == "redcore" else ()
    return values | {"batch": batch, "draws": draws, "progress": info.progress}

  block, keys, data, _ = program.inputs
  choice = jax.tree.map(lambda x: x[0, 0], block.choice)
  state, info = jax.tree.map(lambda x: x[0], (program.loop_state.state, block.info))
  with nn.intercept_methods(skip_dropout):
    args = state, choice, info, keys[0], data
    compiled = compile_program(jax.jit(evaluate), args, {"compile_s": 0.0}, once=True)
  return jax.device_get(compiled(*args))


def redcore_draws(config, batch: Batch, key) -> tuple:
  """The noise f[B, M, H] and the visible modalities bool[P, B, M] of a step of RedCore."""
  subset_key, noise_key, _, _ = jax.random.split(key, 4)
  visible = common.random_subsets(subset_key, batch.id, batch.present, config.num_subsets)
  shape = (batch.present.shape[1], config.hidden)
  keys = common.row_keys(noise_key, batch.id)
  return jax.vmap(lambda k: jax.random.normal(k, shape))(keys), visible


def to_tensors(tree):
  """Arrays as tensors."""
  return jax.tree.map(lambda x: torch.tensor(np.asarray(x)), tree)


def make_torch_run(case: Case, program: training.Program, twin, model_state) -> Callable:
  """A function run(loss, num_threads, num_steps): AdamW on the batches of the first seed."""
  block, _, data, _ = jax.device_get(program.inputs)
  choices = to_tensors(jax.tree.map(lambda x: x[0], block.choice))
  data, progress = to_tensors(data), to_tensors(block.info.progress)
  config = make_train_config(case.workload).optim
  trainable = [p for p in twin.parameters() if p.requires_grad]
  groups = [
    {"params": [p for p in trainable if p.dim() > 1], "weight_decay": config.weight_decay},
    {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
  ]
  adam = torch.optim.AdamW(groups, lr=config.lr, fused=True)
  twin.training = True

  def make_batch(k: int) -> Batch:
    choice = {name: x[k] for name, x in choices.items()}
    rows = jax.tree.map(lambda x: x[choice["index"]], data)
    present = rows["recorded"] & choice["keep"]
    flags = {name: choice[name] for name in ("labelled", "bank_index")}
    rows |= flags | {"recorded": present, "row_mask": torch.ones_like(choice["labelled"])}
    return Batch(present=present, **rows)

  def run(loss: Callable, num_threads: int, num_steps: int = len(progress)) -> int:
    nonlocal model_state
    torch.set_num_threads(num_threads)
    for k in range(num_steps):
      value, model_state = loss(make_batch(k), model_state, progress[k], ())
      value.backward()
      torch.nn.utils.clip_grad_norm_(trainable, config.clip, foreach=True)
      adam.step()
      adam.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
      torch.cuda.synchronize()
    return num_steps

  return run
