"""The folder of one run: which config it belongs to, and that one process writes into it.

docs/reproducibility.md says what its files hold. The logits in predictions.npz are f32[S, P, N, C].
results.jsonl is written last, so that a run which has it is finished.
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

import promise_jax
from promise_jax import files
from promise_jax.data import describe, fingerprint
from promise_jax.data.dataset import Dataset
from promise_jax.devices import distributed
from promise_jax.experiments.config import PREFETCH_OPTIONS
from promise_jax.experiments.experiment import Experiment
from promise_jax.types import Split

# Fields that cannot change a result: a run may continue with other ones.
NEUTRAL_FIELDS = (
  *(f"train.{name}" for name in ("seed_devices", "save_every", "keep_checkpoints")),
  *(f"data.{name}" for name in PREFETCH_OPTIONS),
)
GO_ON = "; the command that trains it continues it"  # what to do about an unfinished run
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def result_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of a config, or of a comparison of several, that can change a result."""
  return {k: v for k, v in files.flatten(config).items() if not k.endswith(NEUTRAL_FIELDS)}


def config_hash(config: Mapping[str, Any]) -> str:
  """A short name of a config. Fields that cannot change a result do not change it."""
  text = json.dumps(result_fields(config), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


@contextlib.contextmanager
def open_run(folder: Path, experiment: Experiment) -> Iterator[None]:
  """Makes or opens the folder of a run; the primary process locks it while the context lasts.

  ValueError if the folder holds something else or another config's run, another process has it
  open, or not all processes of this run see it.
  """
  path = folder / "config.json"
  with contextlib.ExitStack() as stack:

    def lock_folder() -> None:
      folder.mkdir(parents=True, exist_ok=True)
      lock = stack.enter_context(open(folder / "lock", "a"))
      try:
        # The kernel drops this lock when the process ends, however it ends.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise ValueError(
          f"{folder} is in use by another process; wait for it, or give another --workdir"
        ) from None
      if not path.exists():
        files.write_json(path, {"config": experiment.config, **provenance()})

    distributed.run_on_all_processes(lock_folder, distributed.is_primary())
    distributed.wait_until_equal(lambda: int(path.exists()))
    distributed.run_on_all_processes(lambda: check_folder(folder, experiment))
    yield


def check_folder(folder: Path, experiment: Experiment) -> None:
  """Raises ValueError unless `folder` is free or belongs to this experiment."""
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"workdir {folder} is a file, a folder is needed; give another --workdir")
  if not (folder / "config.json").exists():
    # A start that was cut short leaves these two.
    names = sorted(p.name for p in folder.glob("*"))
    names = [n for n in names if n != "lock" and not n.startswith(".config.json.")]
    if names:
      some = ", ".join(names[:5])
      raise ValueError(
        f"workdir {folder} is not empty and not a run: it holds {some}; give another --workdir"
      )
    return
  before, now = result_fields(read_config(folder)), result_fields(experiment.config)
  fields = [f for f in sorted(before.keys() | now.keys()) if before.get(f) != now.get(f)]
  if changed := [f"{f} was {before.get(f)!r}, is {now.get(f)!r}" for f in fields]:
    words = f"workdir {folder} belongs to another config: {'; '.join(changed)}"
    raise ValueError(f"{words}; another --workdir trains with these settings")


def write_data(folder: Path, dataset: Dataset, splits: Mapping[str, Split]) -> list[str]:
  """Writes data.json: lines on what the data were taken for, which are returned, what was dropped
  or changed in which split and modality, and the fingerprint of `splits`."""
  folder.mkdir(parents=True, exist_ok=True)
  lines = [*dataset.notes, *describe.describe_data(dataset, splits)]
  changed = {
    f"{name}, {modality}": faults.describe()
    for name in splits
    for modality, faults in dataset.report.get(name, {}).items()
    if any(faults)
  }
  found = fingerprint.take_fingerprint(dataset, splits)
  files.write_json(folder / "data.json", {"lines": lines, "changed": changed, "fingerprint": found})
  return lines


def read_fingerprint(folder: Path) -> dict[str, Any] | None:
  """The fingerprint of the data of a run; None where it has none, of a version before 0.3."""
  path = folder / "data.json"
  try:
    return files.read_json(path)["fingerprint"] if path.exists() else None
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f"{path} is damaged: {error!r}") from error


def check_data(folder: Path, dataset: Dataset, splits: Mapping[str, Split]) -> None:
  """Raises ValueError if the run in `folder` has begun on other rows than these."""
  before = read_fingerprint(folder)
  if before is None:
    return
  now = fingerprint.take_fingerprint(dataset, splits)
  if changed := fingerprint.describe_differences(before, now):
    versions = "; ".join(describe_versions(folder))
    raise ValueError(
      f"the data of {folder} have changed since it began: {changed}; another --workdir trains on "
      "those of now, `promise-jax evaluate --data FILE` tests a finished run on other rows"
      + (f"; {versions}" if versions else "")
    )


def describe_versions(folder: Path) -> list[str]:
  """A sentence if the run in `folder` was begun by other versions than these."""
  path = folder / "config.json"
  if not path.exists():
    return []
  before, now = (
    made.get("versions", {}) | {"commit": str(made.get("commit"))[:12]}
    for made in (files.read_json(path), provenance())
  )
  changed = [name for name in before if name in now and before[name] != now[name]]
  old, new = (", ".join(f"{name} {found[name]}" for name in changed) for found in (before, now))
  return [f"{folder} was begun with {old}, this is {new}; numbers may differ"] if changed else []


def is_finished(folder: Path) -> bool:
  """Whether the run in `folder` has its results."""
  return (folder / "results.jsonl").exists()


def read_finished(folder: Path) -> dict[str, Any]:
  """The config of the run in `folder`. ValueError unless it is finished."""
  config = read_config(folder)
  if not is_finished(folder):
    raise ValueError(f"{folder} is not finished: it has no results.jsonl{GO_ON}")
  return config


def read_config(folder: Path) -> dict[str, Any]:
  """The config of the run in `folder`. ValueError if it is no run or damaged."""
  try:
    found = files.read_json(folder / "config.json")
  except FileNotFoundError:
    raise ValueError(f"{folder} is not a run: it has no config.json") from None
  if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
    raise ValueError(f"{folder} is not a run: its config.json is of something else")
  return found["config"]


def provenance() -> dict[str, Any]:
  """What produced the numbers: versions, device, commit of the library."""
  versions = {"promise-jax": promise_jax.__version__}
  versions |= {name: importlib.metadata.version(name) for name in PACKAGES}
  device, count = jax.devices()[0], jax.device_count()
  return {
    "versions": versions | {"python": platform.python_version()},
    "device": {"platform": device.platform, "kind": device.device_kind, "count": count},
    "processes": jax.process_count(),
    "commit": find_commit(),
  }


@functools.cache  # `git status` reads the whole checkout
def find_commit() -> str | None:
  """The commit of the checkout of this library, "-dirty" if it was changed; None in a wheel."""

  def git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

  try:
    git("ls-files", "--error-unmatch", "run_dir.py")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
  except (OSError, subprocess.CalledProcessError):
    return None
