"""What training shows and logs while it runs, and the first sign of harm."""

import datetime
import pathlib
import re
import resource
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
import tqdm

from promise_jax.evaluation import metrics as task_metrics
from promise_jax.training.config import TrainConfig
from promise_jax.types import Average, Task

STATUS = pathlib.Path("/proc/self/status")
LINE_EVERY = 10.0  # seconds between two plain lines


class Progress:
  """Reports blocks: to the log and, if there is a `title`, on the console, as a bar on a terminal
  and as plain lines elsewhere."""

  def __init__(
    self,
    config: TrainConfig,
    task: Task,
    seeds: tuple[int, ...],
    done: int,
    log: Callable,
    title: str | None,
  ):
    self.metric, self.sign = task_metrics.primary_metric(task)
    self.seeds, self.log, self.title, self.step = seeds, log, title, done
    self.total, self.rows_per_step = config.steps, config.batch_size * len(seeds)
    self.first, self.since, self.printed_at = None, 0.0, float("-inf")
    if title and 0 < done < self.total:
      print(f"{title}: resuming from step {done} of {self.total}", flush=True)
    # A bar redraws its line, which makes a file or a pipe unreadable.
    self.bar = None
    if title and sys.stderr.isatty():
      self.bar = tqdm.tqdm(total=self.total, initial=done, desc=title, unit="step")

  def __enter__(self):
    return self

  def __exit__(self, *error):
    if self.bar:
      self.bar.close()

  def report(self, stage: str, step: int, metrics: dict) -> None:
    """Waits for the metrics of the block that ends at `step`, then checks and shows them."""
    metrics = jax.device_get(metrics)
    check_finite(metrics, step, self.seeds)
    lines = summarise(metrics, stage, step, self.seeds)
    self.log(lines)
    loss, valid = (float(np.mean([x[k] for x in lines])) for k in ("loss", "valid"))
    if self.bar:
      self.bar.update(step - self.step)
      shown = {"loss": f"{loss:.3f}", f"valid {self.metric}": f"{self.sign * valid:.3f}"}
      self.bar.set_postfix(shown)
    elif self.title and (step == self.total or time.monotonic() - self.printed_at >= LINE_EVERY):
      text = f"{self.title}: step {step}/{self.total}, loss {loss:.3f}, "
      text += f"valid {self.metric} {self.sign * valid:.3f}"
      print(text + self.describe_speed(step), flush=True)
      self.printed_at = time.monotonic()
    if self.first is None:  # the speed is that after the first block, without compilation
      self.first, self.since = step, time.monotonic()
    self.step = step

  def describe_speed(self, step: int) -> str:
    """Examples per second and the time that is left, once they are known."""
    if self.first is None:
      return ""
    speed = (step - self.first) / max(time.monotonic() - self.since, 1e-9)
    left = datetime.timedelta(seconds=round((self.total - step) / speed))  # may be days
    return f", {speed * self.rows_per_step:,.0f} examples/s, {left} left"


def check_finite(metrics: dict, end: int, seeds: tuple[int, ...]) -> None:
  """Raises FloatingPointError with the first bad step, seed and term of the K steps to `end`."""
  loss = metrics["terms"]["loss"]  # [S, K]
  bad, start = ~np.isfinite(loss), end - loss.shape[1]
  if not bad.any():
    # A loss is taken before its step: no loss has seen what the last step did.
    if not metrics["finite"].all():
      seed = seeds[int(np.argmin(metrics["finite"]))]
      raise FloatingPointError(
        f"the parameters of seed {seed} are not finite after step {end - 1}; "
        "the last checkpoint is from before"
      )
    return
  k = int(np.argmax(bad.any(axis=0)))
  s = int(np.argmax(bad[:, k]))
  values = {
    name: float((x.total / np.maximum(x.count, 1) if isinstance(x, Average) else x)[s, k])
    for name, x in metrics["terms"].items()
  }
  terms = [f"{n} = {v}" for n, v in values.items() if n != "loss" and not np.isfinite(v)]
  raise FloatingPointError(
    f"the loss is {loss[s, k]} at step {start + k} of seed {seeds[s]} "
    f"({', '.join(terms) or 'every term is finite, their sum is not'}); "
    "the last checkpoint is from before"
  )


def summarise(metrics: dict, stage: str, step: int, seeds: tuple[int, ...]) -> list[dict]:
  """The log lines of a block, one for each seed: the validation score after `step`, and the
  loss and its terms over the K steps before."""

  def mean(x, s):
    average = isinstance(x, Average)
    return float(x.total[s].sum() / max(x.count[s].sum(), 1) if average else x[s].mean())

  return [
    {"seed": int(seed), "stage": stage, "step": step, "valid": float(metrics["valid"][s])}
    | {name: mean(x, s) for name, x in metrics["terms"].items()}
    for s, seed in enumerate(seeds)
  ]


def peak_memory_mb() -> float:
  """The most host memory that this process has held so far, in MB."""
  if STATUS.exists():
    # On Linux ru_maxrss also counts what the parent process held.
    return int(re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())[1]) / 2**10
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS: bytes
