"""What training tells while it runs: log lines, a bar, the first sign of harm."""

import pathlib
import re
import resource

import jax
import numpy as np

from promise_jax.types import Average

STATUS = pathlib.Path("/proc/self/status")


def check_finite(metrics: dict, at: int, seeds: tuple[int, ...]) -> None:
  """Raises FloatingPointError that names the first step, seed and term."""
  loss = metrics["terms"]["loss"]  # [S, K]
  bad = ~np.isfinite(loss)
  if not bad.any():
    # A loss is taken before its step: what the last step broke, no loss has seen.
    if not metrics["finite"].all():
      seed, last = seeds[int(np.argmin(metrics["finite"]))], at + loss.shape[1] - 1
      raise FloatingPointError(
        f"the parameters of seed {seed} are not finite after step {last}; "
        "the last checkpoint is from before"
      )
    return
  k = int(np.argmax(bad.any(axis=0)))
  s = int(np.argmax(bad[:, k]))
  values = {
    name: float((m.total / np.maximum(m.count, 1) if isinstance(m, Average) else m)[s, k])
    for name, m in metrics["terms"].items()
  }
  terms = [f"{n} = {v}" for n, v in values.items() if n != "loss" and not np.isfinite(v)]
  raise FloatingPointError(
    f"the loss is {loss[s, k]} at step {at + k} of seed {seeds[s]} "
    f"({', '.join(terms) or 'every term is finite, their sum is not'}); "
    "the last checkpoint is from before"
  )


def of_steps(metrics: dict, steps: np.ndarray) -> dict:
  """The metrics of a part of a call, with the terms of its `steps` [from, to) alone."""
  own = slice(*steps)
  return metrics | {"terms": jax.tree.map(lambda x: x[:, own], metrics["terms"])}


def restored(terms: dict) -> dict:
  """The terms of a checkpoint, where a `Mean` is a dict, as they were, on the host."""
  terms = jax.device_get(terms)
  return {k: Average(**x) if isinstance(x, dict) else x for k, x in terms.items()}


def joined(parts: list[dict]) -> dict:
  """The terms of all parts, step after step."""
  join = lambda *x: np.concatenate(x, axis=1)
  return jax.tree.map(join, *(part["terms"] for part in parts))


def summarise(parts: list[dict], stage: str, step: int, seeds: tuple[int, ...]) -> list[dict]:
  """One line a seed, of the parts of a call: the loss and its terms over all of them,
  and the validation score, which the last part has."""
  terms, lines = joined(parts), []
  for s, seed in enumerate(seeds):
    line = {"seed": int(seed), "stage": stage, "step": step}
    line["valid"] = float(parts[-1]["valid"][s])
    for name, m in terms.items():
      if isinstance(m, Average):
        line[name] = float(m.total[s].sum() / max(m.count[s].sum(), 1))
      else:
        line[name] = float(m[s].mean())
    lines.append(line)
  return lines


def mean_over_seeds(lines: list[dict]) -> dict[str, str]:
  """Loss and validation score over the seeds, as the bar shows them."""
  return {k: f"{np.mean([x[k] for x in lines]):.3f}" for k in ("loss", "valid")}


def progress_bar(title: str | None, total: int, done: int):
  """A tqdm bar over steps; silent without a title."""
  from tqdm import tqdm

  return tqdm(total=total, initial=done, desc=title, disable=title is None, unit="step")


def peak_memory_mb() -> float:
  """The most host memory that this process has held so far, in MB."""
  if STATUS.exists():
    # Linux: ru_maxrss would count what the process held that started this one, too.
    return int(re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())[1]) / 2**10
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS: bytes
