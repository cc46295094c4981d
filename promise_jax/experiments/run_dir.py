"""The folder of one run: whose it is, what is in it, and that only one process writes.

config.json      the config, the versions, the device, the commit
spec.json        what the data are, for whoever reads a checkpoint later
checkpoints/     one folder a variant
init.json        what variants took over from `init_from`, and what not and why
metrics.jsonl    a line a seed and call of `train.eval_every` steps
predictions.npz  logits f32[S, P, N, C] of every variant on the test rows
rows.json        how many rows and groups every split has, how many are labelled, the
                 part of the train rows that lack each modality, and all of them
comparison.json  the method against its best control, with intervals and verdicts
speed.jsonl      a line a variant: compile time, rate, peak memory so far
report.html      all of it, to look at
results.jsonl    a line a (method, pattern or protocol, metric, seed); written last,
                 so that a run which has it is finished
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from promise_jax import files
from promise_jax.data import prefetch
from promise_jax.devices import distributed
from promise_jax.types import Modality, Spec, Task

# Who reads streamed rows (`data.ahead`), and which devices train which seeds, decides
# nothing: a run may go on with others.
PREFETCH_OPTIONS = prefetch.PrefetchConfig()._asdict()
NOT_HASHED = (*(f"data.{name}" for name in PREFETCH_OPTIONS), "train.seed_devices")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def config_hash(config: dict) -> str:
  """Eight hex digits that name a config, the same whatever its `FREE` fields are."""
  text = json.dumps(drop_neutral_fields(config), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def drop_neutral_fields(config: dict) -> dict:
  """The config, or one of several experiments, with what is `FREE` as it is by
  default."""
  found = {k: drop_neutral_fields(v) if isinstance(v, dict) else v for k, v in config.items()}
  found.pop("seed_devices", None)
  if "data" in found:
    own = {k: v for k, v in PREFETCH_OPTIONS.items() if k in found["data"]}
    found["data"] = found["data"] | own
  return found


@contextlib.contextmanager
def open_run(folder: Path, config: dict) -> Iterator[Path]:
  """The folder, made or found, locked while the context lasts; of several processes of
  one run the first locks it and writes for all.

  Raises ValueError if another config made it (the fields that differ are listed), if
  it holds something else, if another run has it open, or if one of the processes does
  not see it or has another config.
  """
  with contextlib.ExitStack() as stack:
    enter = functools.partial(stack.enter_context, lock_folder(folder, config))
    distributed.run_on_all_processes(enter, distributed.is_primary())
    distributed.wait_until_equal(lambda: int((folder / "config.json").exists()))
    distributed.run_on_all_processes(functools.partial(check_config, folder, config))
    yield folder


@contextlib.contextmanager
def lock_folder(folder: Path, config: dict) -> Iterator[None]:
  """`opened` for the process that writes."""
  check_config(folder, config)
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / "lock", "a") as lock:
    try:
      # The kernel drops this lock when the process ends, however it ends.
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(f"{folder} is in use by another process") from None
    # Another process may have made the folder its own since the first look.
    check_config(folder, config)
    if not (folder / "config.json").exists():
      files.write_json(folder / "config.json", {"config": config, **provenance()})
    yield


def check_config(folder: Path, config: dict) -> None:
  """Raises ValueError unless `folder` is free for `config` or was made with it, but for
  the fields that are `FREE`."""
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"workdir {folder} is a file, a folder is needed")
  if not (folder / "config.json").exists():
    foreign = sorted(p.name for p in folder.glob("*") if not is_unfinished_name(p.name))
    if foreign:
      raise ValueError(
        f"workdir {folder} is not empty and not a run: it holds {', '.join(foreign[:5])}"
      )
    return
  found = read_config(folder)["config"]
  before, now = flatten(found), flatten(config)
  changed = [
    f"{k} was {before.get(k)!r}, is {now.get(k)!r}"
    for k in sorted((before.keys() | now.keys()) - set(NOT_HASHED))
    if before.get(k) != now.get(k)
  ]
  if changed:
    raise ValueError(f"workdir {folder} belongs to another config: {'; '.join(changed)}")


def is_unfinished_name(name: str) -> bool:
  """Whether a start that was cut short can have left a file of this name."""
  return name == "lock" or name.startswith(".config.json.")


def read_config(folder: Path) -> dict:
  """config.json of a run; ValueError where there is none or it cannot be read."""
  path = folder / "config.json"
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise ValueError(f"{folder} is not a run: it has no config.json") from None
  except json.JSONDecodeError as error:
    raise ValueError(f"{path} is damaged: {error}") from None
  if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
    raise ValueError(f"{folder} is not a run: its config.json is of something else")
  return found


def flatten(config: dict, prefix: str = "") -> dict:
  """{"train.optim.lr": 0.001, ...}; tuples as lists, as JSON has them."""
  out = {}
  for key, value in config.items():
    if isinstance(value, dict):
      out |= flatten(value, f"{prefix}{key}.")
    else:
      out[prefix + key] = list(value) if isinstance(value, tuple) else value
  return out


def provenance() -> dict:
  """What produced the numbers: versions, device, commit of the library."""
  versions = {name: importlib.metadata.version(name) for name in PACKAGES}
  versions["python"] = platform.python_version()
  device = jax.devices()[0]
  return {
    "versions": versions,
    "device": {
      "platform": device.platform,
      "kind": device.device_kind,
      "count": jax.device_count(),
    },
    "processes": jax.process_count(),
    "commit": commit(),
  }


def commit() -> str | None:
  """The commit of the checkout that this library is part of, "-dirty" if it differs;
  null where it is part of none."""
  here = Path(__file__)

  def git(*words: str) -> str | None:
    try:
      command = ["git", "-C", str(here.parent), *words]
      done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
      return None
    return done.stdout.strip() if done.returncode == 0 else None

  if git("ls-files", "--error-unmatch", here.name) is None:
    return None
  changed = git("status", "--porcelain", "--untracked-files=no")
  head = git("rev-parse", "HEAD")
  return f"{head}-dirty" if changed else head


def spec_to_json(spec: Spec) -> dict:
  """The spec as plain values; `spec_from_json` reads it back exactly."""
  scale = {n: [a.tolist(), b.tolist()] for n, (a, b) in spec.standardise.items()}
  return {
    "modalities": [m._asdict() for m in spec.modalities],
    "task": spec.task._asdict(),
    "standardise": scale,
    "labelled": spec.num_labelled,
  }


def spec_from_json(value: dict) -> Spec:
  """The spec that `spec_to_json` wrote."""
  modalities = tuple(Modality(**(m | {"shape": tuple(m["shape"])})) for m in value["modalities"])
  task = Task(**(value["task"] | {"names": tuple(value["task"]["names"])}))
  scale = {
    n: (np.array(a, np.float32), np.array(b, np.float32))
    for n, (a, b) in value["standardise"].items()
  }
  return Spec(modalities, task, scale, value["labelled"])
