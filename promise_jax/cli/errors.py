"""From exceptions to exit codes: a mistake of the user is one sentence, a bug a traceback."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import promise_jax
from promise_jax.checks import shorten

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
READER_GONE = 128 + 13  # what a shell gives for SIGPIPE
RESUME = "the same command continues from the last checkpoint"
MAKE_ROOM = "make room, or give another folder (of caches by XDG_CACHE_HOME), and run it again"
NO_FILE = FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def exit_code(command: Callable[[], None]) -> int:
  """Runs `command`; prints what went wrong, if anything, and returns the exit code."""
  try:
    command()
    sys.stdout.flush()
  except KeyboardInterrupt:
    return exit_process(INTERRUPTED)
  except BrokenPipeError:  # of `promise-jax list settings | head`
    sys.stdout = open(os.devnull, "w")  # which Python flushes once more at its end
    return exit_process(READER_GONE)
  except Exception as error:
    return report(error)
  return 0


def report(error: Exception) -> int:
  """Prints `error` and returns its exit code; raises it again if it is a bug."""
  if is_user_error(error):  # the usual case; the rest needs modules that import JAX
    print_error(error)
    return BAD_INPUT
  import jax

  from promise_jax.devices import distributed
  from promise_jax.training import checkpoint, loop

  if isinstance(error, loop.TrainingInterrupted):
    if distributed.is_primary():
      print(f"\n{error}; the same command goes on from there.")
    # Whoever sends SIGTERM starts the command again: that is no failure.
    return 0 if error.signal == signal.SIGTERM else INTERRUPTED
  if isinstance(error, FloatingPointError):
    print_error(error)
    return FAILED
  if isinstance(error, checkpoint.NotSaved) or getattr(error, "errno", None) in DISK_FULL:
    is_saving = isinstance(error, checkpoint.NotSaved)
    reason = error if is_saving else f"{error.filename or 'a file'}: {error.strerror}"
    print_error(f"{reason}; {RESUME if is_saving else MAKE_ROOM}")
    return exit_process(FAILED)
  if not distributed.is_multiprocess():
    raise error
  traceback.print_exception(error)
  if isinstance(error, jax.errors.JaxRuntimeError):
    out_of_memory = "RESOURCE_EXHAUSTED" in str(error)
    reason = "a device has no memory left; train.batch_size may be too large for it"
    print_error(reason if out_of_memory else f"another process may have ended; {RESUME}")
  return exit_process(FAILED)


def print_error(error: Exception | str) -> None:
  if isinstance(error, NO_FILE) and error.filename:
    error = f"{error.filename}: {error.strerror}"
  print(f"error: {shorten(' '.join(str(error).split()), 2000)}", file=sys.stderr)


def exit_process(code: int) -> int:
  """Returns `code`; as one of several processes, ends at once instead.

  The others may be waiting for this process in the middle of a step. They notice when it is gone,
  but not while it waits for them in a clean exit.
  """
  jax = sys.modules.get("jax")
  if jax is None or jax.process_count() == 1:
    return code
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def is_user_error(error: Exception) -> bool:
  """Whether this project raised a ValueError about its input, or a file cannot be opened.

  A ValueError from JAX or NumPy is a bug of ours, and its traceback is wanted.
  """
  if isinstance(error, NO_FILE):
    return True
  last = traceback.extract_tb(error.__traceback__)[-1]
  package = Path(promise_jax.__file__).resolve().parent
  return isinstance(error, ValueError) and package in Path(last.filename).resolve().parents
