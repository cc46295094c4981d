"""What a command that computes does first."""

import logging
import os
import pathlib
import shutil
import warnings

MIN_FREE = 2**26  # bytes that compiled programs of a run may take


def enable_compilation_cache() -> None:
  """Keeps compiled programs in the user's cache folder (or JAX_COMPILATION_CACHE_DIR): the same
  command then starts at once."""
  import jax

  from promise_jax import files

  if not jax.config.jax_compilation_cache_dir:
    jax.config.update("jax_compilation_cache_dir", str(files.cache_folder("programs")))
  # JAX keeps only programs that took a second to compile; many small ones add up.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  warn_of_full_cache(pathlib.Path(jax.config.jax_compilation_cache_dir))


def warn_of_full_cache(folder: pathlib.Path) -> None:
  """Says once that programs cannot be kept; JAX would say it of each of them."""
  warnings.filterwarnings("ignore", "Error writing persistent compilation cache")
  place = next(path for path in (folder, *folder.parents) if path.exists())
  if not place.is_dir() or not os.access(place, os.W_OK):
    reason = "it cannot be written"
  elif (free := shutil.disk_usage(place).free) < MIN_FREE:
    reason = f"{free / 1e6:.0f} MB are free"
  else:
    return
  logging.getLogger(__name__).warning(
    "%s: %s, so programs may be compiled again by every command; XDG_CACHE_HOME names another "
    "folder for caches.",
    folder,
    reason,
  )
