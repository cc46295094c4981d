"""Several processes that train as one: how they start, and what they agree on.

Every process runs the same program with the same config. All of them train, save and restore; only
the primary one writes logs and tables. A single process agrees with itself without waiting.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

PATIENCE = 90  # seconds that a network file system may take to show a new file
MESSAGE_BYTES = 4096


def initialize(
  coordinator: str | None = None,
  processes: int | None = None,
  process: int | None = None,
  heartbeat: int = 100,
) -> None:
  """Joins the processes of a run. Call it before any other use of JAX.

  Without `processes` and `process`, JAX detects SLURM, Open MPI, TPU pods and Kubernetes; where it
  finds none of them the run has one process. So it has where JAX was used before and nothing is
  given, as in a notebook.

  Args:
    coordinator: HOST:PORT of process 0.
    processes: how many processes there are.
    process: which of them this one is, from 0.
    heartbeat: seconds of silence after which a process counts as dead and all others end.
  """
  if (processes is None) != (process is None):
    raise ValueError(f"processes is {processes} and process is {process}, give both or none")
  if processes is not None and not 0 <= process < processes:
    raise ValueError(
      f"process is {process} of {processes} processes, allowed are 0 to processes - 1"
    )
  if processes is not None and processes > 1 and not coordinator:
    raise ValueError(f"processes is {processes}, coordinator, HOST:PORT, is missing")
  if coordinator and not coordinator.rpartition(":")[2].isdecimal():
    raise ValueError(f"coordinator is {coordinator!r}, HOST:PORT is expected")
  if heartbeat < 1:
    raise ValueError(f"heartbeat is {heartbeat}, at least 1 second is needed")
  if processes == 1:
    return
  given = {"coordinator_address": coordinator}
  if processes is not None:
    given |= {"num_processes": processes, "process_id": process}
    given |= {"cluster_detection_method": "deactivate"}
  # SIGTERM is answered by `experiments.run.stop_signals`, not by JAX's own service.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      **given, heartbeat_timeout_seconds=heartbeat, shutdown_timeout_seconds=heartbeat
    )
  except ValueError as error:
    if coordinator:
      raise ValueError(
        f"coordinator is {coordinator} and no cluster was found, give processes and process too"
      ) from error
    if "coordinator_address" not in str(error):  # that one means: there is no cluster
      raise
  except RuntimeError as error:  # JAX was used, or the processes have joined, before
    if given["coordinator_address"] and not jax.distributed.is_initialized():
      raise ValueError(f"coordinator is {coordinator}, but JAX was used before: {error}") from error


def is_multiprocess() -> bool:
  """Whether this process is one of several."""
  return jax.process_count() > 1


def is_primary() -> bool:
  """Whether this is the process that writes."""
  return jax.process_index() == 0


def all_processes_max(number: int) -> int:
  """The largest `number` of all processes. All of them must call it."""
  if not is_multiprocess():
    return number
  return int(multihost_utils.process_allgather(np.int32(number)).max())


def wait_until_equal(read_number: Callable[[], int], patience: float = PATIENCE) -> int:
  """Waits until `read_number()`, which looks at a shared folder, gives every process what it gives
  the primary one; network file systems may show an older state for a while.

  Raises:
    ValueError: a process still reads another number after `patience` seconds.
  """
  number = read_number()
  if not is_multiprocess():
    return number
  expected = all_processes_max(number if is_primary() else -1)
  end = time.monotonic() + patience
  while number != expected and time.monotonic() < end:
    time.sleep(0.2)
    number = read_number()
  if all_processes_max(number != expected):
    raise ValueError(
      f"process {jax.process_index()} finds {number} in the run folder where the first "
      f"process finds {expected}: all processes need to see the same folder"
    )
  return expected


def run_on_all_processes(function: Callable[[], Any], where: bool = True) -> Any:
  """Calls `function` in the processes with `where`, waits for all of them, returns its value.

  Raises:
    ValueError, OSError: in every process when `function` raised one of them anywhere, so that no
      process waits for another that has given up.
  """
  if not is_multiprocess():
    return function()
  value, error = None, None
  try:
    value = function() if where else None
  except (ValueError, OSError) as caught:
    error = caught
  text = (str(error) or repr(error)).encode()[:MESSAGE_BYTES] if error else b""
  padded = np.frombuffer(text.ljust(MESSAGE_BYTES, b"\0"), np.uint8)
  messages = multihost_utils.process_allgather(padded)
  if error:
    raise error
  for message in messages:
    if message.any():
      raise ValueError(message.tobytes().rstrip(b"\0").decode(errors="ignore"))
  return value
