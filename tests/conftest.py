"""One process with eight virtual devices, strict ranks; warnings are errors (pyproject)."""

import gc
import os
import pathlib
from importlib.metadata import version

# Before JAX starts: the number of devices cannot change later.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Programs of tests run a few times only. This emitter is half of what it takes to compile them,
# and pieces to compile in threads a fifth. Later versions of jaxlib may not know the flags.
if version("jaxlib").startswith("0.10."):
  flags = "--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"
  os.environ["XLA_FLAGS"] = " ".join(filter(None, (os.environ.get("XLA_FLAGS", ""), *flags)))

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing makes millions of objects that stay. Looking for garbage among them as often as
# by default took a tenth of the time of all tests.
gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="module", autouse=True)
def drop_compiled_programs(request):
  """A compiled program holds memory maps. A process may have 65,530, then the compiler
  crashes; long before, the programs of finished files are dropped."""
  yield
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and maps.read_text().count("\n") > 25_000:
    for value in vars(request.module).values():
      if hasattr(value, "cache_clear"):
        value.cache_clear()
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module", autouse=True)
def skip_optimizations(request):
  """Compiling takes longer than running, so programs are not optimised. A file that
  trains for long sets `LONG = True`."""
  long = getattr(request.module, "LONG", False)
  jax.config.update("jax_disable_most_optimizations", not long)


@pytest.fixture(scope="module")
def compile_once(tmp_path_factory):
  """For files that train one program many times: see `tiny_runs.compile_once`."""
  import tiny_runs

  with tiny_runs.compile_once(tmp_path_factory.mktemp("compiled")):
    yield


@pytest.fixture
def rng() -> np.random.Generator:
  return np.random.default_rng(0)


@pytest.fixture(scope="session")
def one_device():
  """A mesh of the first device alone."""
  from promise_jax.devices import mesh

  return mesh.make_mesh(jax.devices()[:1])


@pytest.fixture(scope="session")
def eight_devices():
  """A mesh of all eight."""
  from promise_jax.devices import mesh

  assert jax.device_count() == 8
  return mesh.make_mesh()
