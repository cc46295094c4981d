"""Several processes as one run: their start, and what they have to agree on.

Every process runs the same program on the same config. The first one alone writes logs,
tables and the config, and holds the lock of the run folder; all of them train, save and
restore. With one process nothing here does anything.
"""

import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

HEARTBEAT = 100  # seconds, as in JAX
PATIENCE = 90  # seconds for which a file system may show an older state
TEXT = 4096  # bytes of a sentence that is passed on
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


def initialize(
  coordinator: str | None = None,
  processes: int | None = None,
  process: int | None = None,
  heartbeat: int = HEARTBEAT,
) -> None:
  """Starts `jax.distributed` if there are several processes, before JAX is used.

  Without `processes` and `process` a cluster is looked for (`detected`); where there is
  none, as on a laptop, this does nothing. With them, `coordinator` is the HOST:PORT of
  process 0. A process that has not been heard of for `heartbeat` seconds ends all
  others. Raises ValueError for what does not fit.
  """
  check(coordinator, processes, process, heartbeat)
  where = {"coordinator_address": coordinator}
  if processes is not None:
    if processes == 1:
      return
    where |= {"num_processes": processes, "process_id": process}
    where |= {"cluster_detection_method": "deactivate"}
  elif (cluster := detect_cluster(os.environ)) is None:
    if coordinator:
      raise ValueError(
        f"coordinator is {coordinator} and no cluster was found, "
        "processes and process are needed too"
      )
    return
  elif cluster == "ompi":
    where |= open_mpi(coordinator, os.environ)
  # SIGTERM is ours to answer (`experiment.stop_signals`), not that of JAX's service.
  jax.config.update("jax_enable_preemption_service", False)
  jax.distributed.initialize(
    **where,
    heartbeat_timeout_seconds=heartbeat,
    # Long enough for the others to notice an error too, not longer than they live.
    shutdown_timeout_seconds=heartbeat,
  )


def check(
  coordinator: str | None,
  processes: int | None,
  process: int | None,
  heartbeat: int,
) -> None:
  """Raises ValueError for settings of `start` that do not fit each other."""
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


def detect_cluster(environ: Mapping[str, str]) -> str | None:
  """The cluster that started this process as one of several: "slurm", "ompi" or "tpu";
  None if there is none or it started only this one."""

  def number(name: str) -> int:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else 1

  # In a batch script or a shell of salloc, outside srun, there are tasks but no step.
  if "SLURM_STEP_NODELIST" in environ and number("SLURM_NTASKS") > 1:
    return "slurm"
  if number("OMPI_COMM_WORLD_SIZE") > 1:
    return "ompi"
  # JAX sets this when it is imported on a machine with TPUs.
  if environ.get("TPU_ML_PLATFORM") == "JAX" and tpu_workers(environ) > 1:
    return "tpu"
  return None


def tpu_workers(environ: Mapping[str, str]) -> int:
  """How many workers share the TPU slices of this machine."""
  if environ.get("MEGASCALE_NUM_SLICES", "1") != "1":
    return int(environ["MEGASCALE_NUM_SLICES"])  # and at least one worker in each
  for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
    if name in environ:
      return len(environ[name].split(","))
  if "TPU_SKIP_MDS_QUERY" in environ:
    return 1
  address = METADATA + "worker-network-endpoints"
  asked = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
  try:
    with urllib.request.urlopen(asked, timeout=10) as answer:
      return len(answer.read().decode().split(","))
  except (urllib.error.URLError, TimeoutError) as error:
    if is_host_not_found(error):
      return 1  # a machine with TPUs of its own has nobody to ask
    raise ValueError(
      f"{METADATA} did not answer ({error}), so how many workers there are is not "
      "known; start again, or set TPU_WORKER_HOSTNAMES"
    ) from error


def is_host_not_found(error: OSError) -> bool:
  """Whether a request failed because there is no such host, or no such thing there."""
  if isinstance(error, urllib.error.HTTPError):
    return error.code == 404
  return isinstance(getattr(error, "reason", None), socket.gaierror)


def open_mpi(coordinator: str | None, environ: Mapping[str, str]) -> dict:
  """Who this process is, by Open MPI; ValueError where it does not say where process 0
  runs, as from version 5 on, and `coordinator` does not either."""
  if coordinator is None and "OMPI_MCA_orte_hnp_uri" in environ:
    return {}  # JAX reads the rest from there
  if coordinator is None:
    raise ValueError(
      "Open MPI does not say where process 0 runs, coordinator, HOST:PORT, is missing"
    )
  return {
    "num_processes": int(environ["OMPI_COMM_WORLD_SIZE"]),
    "process_id": int(environ["OMPI_COMM_WORLD_RANK"]),
    "local_device_ids": int(environ["OMPI_COMM_WORLD_LOCAL_RANK"]),
  }


def is_multiprocess() -> bool:
  """Whether this process is one of several."""
  return jax.process_count() > 1


def is_primary() -> bool:
  """Whether this is the process that writes."""
  return jax.process_index() == 0


def all_processes_max(number: int) -> int:
  """The largest number that any process gives; all of them have to ask."""
  if not is_multiprocess():
    return number
  return int(multihost_utils.process_allgather(np.int32(number)).max())


def wait_until_equal(look: Callable[[], int], patience: float = PATIENCE) -> int:
  """What `look`, at a folder that all share, says in the first process, once all say
  so: others may be shown an older state for a while. ValueError if some still are after
  `patience` seconds."""
  if not is_multiprocess():
    return look()
  own = look()
  wanted = all_processes_max(own if is_primary() else -1)
  end = time.monotonic() + patience
  while own != wanted and time.monotonic() < end:
    time.sleep(0.2)
    own = look()
  if all_processes_max(own != wanted):
    raise ValueError(
      f"process {jax.process_index()} finds {own} in the run folder where the first "
      f"process finds {wanted}: all need to see the same folder"
    )
  return wanted


def run_on_all_processes(body: Callable[[], Any], where: bool = True) -> Any:
  """What `body` returns, run in the processes with `where`, None in the others.

  All go on when all are done. A ValueError or OSError of one is raised in every one, so
  that none waits for a process that has given up.
  """
  if not is_multiprocess():
    return body()
  value, error, said = None, None, ""
  if where:
    try:
      value = body()
    except (ValueError, OSError) as caught:
      error, said = caught, str(caught) or repr(caught)
  text = np.zeros(TEXT, np.uint8)
  code = said.encode()[:TEXT]
  text[: len(code)] = np.frombuffer(code, np.uint8)
  every = multihost_utils.process_allgather(text)
  if error:
    raise error
  for other in every:
    if other.any():
      raise ValueError(other.tobytes().rstrip(b"\0").decode(errors="ignore"))
  return value
