"""What a command that computes does first."""


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
