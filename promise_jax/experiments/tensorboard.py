"""Training curves for TensorBoard, by tensorboardX, which is imported only where it is used."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

Log = Callable[[list[dict]], None]
NOT_SCALARS = ("seed", "stage", "step")


def import_writer() -> type:
  """The class of tensorboardX that writes. ValueError if it is not installed."""
  try:
    from tensorboardX import SummaryWriter
  except ImportError:
    raise ValueError(
      '--log=tensorboard needs tensorboardX: python -m pip install "promise-jax[track]"'
    ) from None
  return SummaryWriter


@contextlib.contextmanager
def extend_log(log: Log, folder: Path, step: int) -> Iterator[Log]:
  """A log that also writes the numbers of its lines as scalars, to `folder`/seed_<s>.

  What a killed run wrote after its last checkpoint, at `step`, is hidden by TensorBoard.
  """
  make_writer = import_writer()
  with contextlib.ExitStack() as stack:

    @functools.cache
    def open_writer(seed: int):
      # Steps from `purge_step` on in the files of before do not count. The suffix keeps a resume
      # in the same second from writing over them.
      path, options = str(folder / f"seed_{seed}"), {"filename_suffix": f".{step}"}
      return stack.enter_context(make_writer(path, purge_step=step + 1, **options))

    def log_all(lines: list[dict]) -> None:
      log(lines)
      for line in lines:
        writer = open_writer(line["seed"])
        for name in line.keys() - NOT_SCALARS:
          writer.add_scalar(name, line[name], line["step"])
        writer.flush()

    yield log_all
