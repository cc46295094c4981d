"""What the launch scripts share: flags in, one sentence and an exit code out."""

import errno
import os
import platform
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from promise_jax import files
from promise_jax.devices import distributed
from promise_jax.experiments import run_dir
from promise_jax.training import checkpoint, loop

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
AGAIN = "the same command goes on from the last checkpoint"
LARGE_PAGES = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk says


def config_flag():
  """Defines --config=FILE.py[:key=value,...] and --config.field=value."""
  return config_flags.DEFINE_config_file(
    "config",
    None,
    "experiment file, with key=value,... after a colon",
    lock_config=True,
  )


def workdir_flag():
  """Defines --workdir."""
  return flags.DEFINE_string(
    "workdir", None, "run directory; default: runs/<config>-<hash of the config>"
  )


def process_flags() -> tuple:
  """Defines what `distributed.start` takes, in its order."""
  return (
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where no cluster says so"),
    flags.DEFINE_integer("processes", None, "how many processes train together"),
    flags.DEFINE_integer("process", None, "which of them this one is, from 0"),
    flags.DEFINE_integer(
      "heartbeat", distributed.HEARTBEAT, "seconds until a silent process ends all"
    ),
  )


def main(body: Callable[[], None]) -> None:
  """Parses the flags and runs `body`; every error of use is one sentence and code 2.

  After Ctrl-C the code is 130; after SIGTERM 0, because whoever sent it restarts; 1
  where training diverged, the disk is full or another process of the run has ended.
  """
  use_large_pages()
  try:
    sys.argv = with_kinds(sys.argv)  # where ml_collections looks for fields
    rest = flags.FLAGS(sys.argv)[1:]
    if rest:
      raise ValueError(f"{rest[0]!r} is not a flag; flags start with --")
    keep_programs()
    body()
  except loop.TrainingInterrupted as stopped:
    if distributed.is_primary():
      print(f"\n{stopped}; the same command goes on from there.")
    sys.exit(0 if stopped.signal == signal.SIGTERM else INTERRUPTED)
  except KeyboardInterrupt:
    leave(INTERRUPTED)
  except FloatingPointError as error:
    print(f"\nerror: {error}", file=sys.stderr)
    sys.exit(FAILED)
  except checkpoint.NotSaved as error:
    print(f"\nerror: {error}; {AGAIN}", file=sys.stderr)
    leave(FAILED)
  except jax.errors.JaxRuntimeError as error:
    if not distributed.is_multiprocess():
      raise
    traceback.print_exc()
    why = f"another process may have ended; {AGAIN}"
    if "RESOURCE_EXHAUSTED" in str(error):
      why = "a device has no memory left; train.batch_size may be too large for it"
    print(f"\nerror: {why}", file=sys.stderr)
    leave(FAILED)
  except (flags.Error, ValueError, AttributeError, KeyError, TypeError, OSError) as e:
    fail(e)


def leave(code: int) -> None:
  """Exits; as one of several processes at once, without a word to the others: they may
  wait for this one in the middle of a step, and end when it is gone."""
  if not distributed.is_multiprocess():
    sys.exit(code)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def use_large_pages() -> None:
  """Starts Python once more, with a variable that glibc reads before a process begins,
  unless it is set: memory that a step asks for and gives back then comes in large
  pages, and training on sequences takes up to a sixth less (SPEED.md, page faults)."""
  name, value = LARGE_PAGES
  begun = sys.argv[0] in sys.orig_argv  # not inside a process that does other things
  if begun and platform.libc_ver()[0] == "glibc" and name not in os.environ:
    os.environ[name] = value
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def pretend(groups: int) -> None:
  """Where seeds are trained by groups of devices, the CPU of this process pretends to
  be one for each, unless it was said how many it is. Before JAX is used."""
  said = "device_count" in os.environ.get("XLA_FLAGS", "")
  if groups > 1 and jax.config.jax_num_cpu_devices < 1 and not said:
    jax.config.update("jax_num_cpu_devices", groups)


def keep_programs() -> None:
  """Keeps every compiled program in the user's cache folder, unless
  JAX_COMPILATION_CACHE_DIR names another: the same command then starts at once."""
  if not jax.config.jax_compilation_cache_dir:
    folder = files.cache_folder("programs")
    jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def with_kinds(words: list[str]) -> list[str]:
  """The command line with every --config.kinds.NAME=KIND moved into one argument
  --config.data.kinds=NAME=KIND,...: a flag has a field of the config, and the names of
  modalities are known only when the data are read."""
  found = [re.fullmatch(r"--?config\.kinds\.(\w+=\w+)", word) for word in words]
  rest = [word for word, kind in zip(words, found, strict=True) if not kind]
  kinds = ",".join(kind[1] for kind in found if kind)
  return [*rest, f"--config.data.kinds={kinds}"] if kinds else words


def fail(error: Exception) -> None:
  """Prints an error of use as one line and exits; any other is raised.

  What this project or the reading of flags and configs says is about use; what JAX or
  NumPy says is a fault of ours, and its traceback is wanted.
  """
  if isinstance(error, OSError) and error.errno in FULL:
    print(f"\nerror: {error}; {AGAIN}", file=sys.stderr)
    leave(FAILED)
  if isinstance(error, flags.Error) or from_config(error) or said_here(error):
    print(f"error: {sentence(error)}", file=sys.stderr)
    sys.exit(BAD_INPUT)
  if distributed.is_multiprocess():
    traceback.print_exception(error)
    leave(FAILED)
  raise error


def said_here(error: Exception) -> bool:
  """Whether a ValueError was raised by a line of this project, or a file of the user's
  could not be opened."""
  if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
    return True
  frame = error.__traceback__
  while frame.tb_next:
    frame = frame.tb_next
  place = Path(frame.tb_frame.f_code.co_filename).resolve()
  ours = (Path(run_dir.__file__).parent, Path(__file__).resolve().parent)
  return isinstance(error, ValueError) and any(p in place.parents for p in ours)


def sentence(error: Exception) -> str:
  """What is wrong, in one line.

  ml_collections wraps what a config file says into a longer text that ends in it, and
  an unknown field into errors that quote each other.
  """
  if isinstance(error, AttributeError | KeyError):
    while error.__context__:
      error = error.__context__
    return f"{error} is no field of the config"
  *before, last = str(error).strip().splitlines() or [repr(error)]
  return last.strip().partition("Error: ")[2] or last.strip() if before else last


def from_config(error: BaseException) -> bool:
  """Whether an error comes from reading the config file or its overrides."""
  frame = error.__traceback__
  while frame:
    if "ml_collections" in frame.tb_frame.f_code.co_filename:
      return True
    frame = frame.tb_next
  return False


def default_folder(config: dict) -> Path:
  """runs/<name of the config file>-<hash of the config>."""
  value = config_flags.get_config_filename(flags.FLAGS["config"])
  return Path("runs") / f"{Path(value.split(':')[0]).stem}-{run_dir.config_hash(config)}"
