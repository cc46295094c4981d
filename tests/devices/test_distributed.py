"""Processes join, agree and fail together; one process needs none of it."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from promise_jax.devices import distributed, placement
from promise_jax.devices import mesh as devices_mesh


@pytest.mark.parametrize(
  ("given", "sentence"),
  [
    (("a:1", 2, None, 9), "processes is 2 and process is None, give both or none"),
    (("a:1", None, 0, 9), "processes is None and process is 0, give both or none"),
    (("a:1", 2, 2, 9), "process is 2 of 2 processes, allowed are 0 to"),
    (("a:1", 0, 0, 9), "process is 0 of 0 processes"),
    ((None, 2, 0, 9), "processes is 2, coordinator, HOST:PORT, is missing"),
    (("a", 2, 0, 9), "coordinator is 'a', HOST:PORT is expected"),
    (("a:1", 2, 0, 0), "heartbeat is 0, at least 1 second"),
  ],
)
def test_arguments_that_do_not_fit_are_refused(given, sentence):
  with pytest.raises(ValueError, match=sentence):
    distributed.initialize(*given)


@pytest.fixture
def no_cluster(monkeypatch):
  """JAX finds no cluster, and does not check whether it was used before."""
  calls = []

  def initialize(coordinator_address=None, **options):
    calls.append(options)
    missing = "Number of processes must" if coordinator_address else "coordinator_address should"
    raise ValueError(f"{missing} be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  return calls


def test_without_a_cluster_there_is_one_process(no_cluster):
  distributed.initialize()
  distributed.initialize("a:1", 1, 0)
  assert len(no_cluster) == 1 and not jax.distributed.is_initialized()
  assert not distributed.is_multiprocess() and distributed.is_primary()
  assert distributed.all_processes_max(3) == 3
  assert distributed.run_on_all_processes(lambda: "x") == "x"
  assert distributed.wait_until_equal(lambda: 7) == 7


def test_where_jax_was_used_before_one_process_trains_and_several_are_refused():
  jax.devices()
  distributed.initialize()
  assert not jax.distributed.is_initialized()
  with pytest.raises(ValueError, match="coordinator is a:1, but JAX was used before: "):
    distributed.initialize("a:1", 2, 0)


def test_a_coordinator_without_a_cluster_is_refused(no_cluster):
  with pytest.raises(ValueError, match="a:1 and no cluster was found, give processes and"):
    distributed.initialize("a:1")


def test_all_wait_until_they_see_what_the_primary_sees(monkeypatch):
  """A process to which the folder shows an older state; step 30 is that of the primary."""
  monkeypatch.setattr(distributed, "is_multiprocess", lambda: True)
  monkeypatch.setattr(distributed, "is_primary", lambda: False)
  monkeypatch.setattr(distributed, "all_processes_max", lambda n: 30 if n == -1 else n)
  seen = iter([20, 20, 30])
  assert distributed.wait_until_equal(lambda: next(seen)) == 30
  with pytest.raises(ValueError, match="process 0 finds 20 .* process finds 30: all"):
    distributed.wait_until_equal(lambda: 20, patience=0.3)


@pytest.mark.parametrize(("seed_devices", "data"), [(1, 8), (2, 4), (8, 1)])
def test_a_mesh_has_seeds_and_rows(seed_devices, data):
  mesh = devices_mesh.make_mesh(seed_devices=seed_devices)
  assert dict(mesh.shape) == {"seed": seed_devices, "data": data}
  x = np.arange(8 * 2 * 8).reshape(8, 2, 8)
  placed = placement.place(x, devices_mesh.batch_sharding(mesh))
  shapes = {part.data.shape for part in placed.addressable_shards}
  assert shapes == {(8 // seed_devices, 2, 8 // data)}
  np.testing.assert_array_equal(placed, x)
  assert placed.sharding.spec == P("seed", None, "data")
  whole = placement.local_slices(x.shape, devices_mesh.batch_sharding(mesh))
  assert whole == (slice(0, 8), slice(0, 2), slice(0, 8))
