"""Training on streamed rows is training on resident ones, bit by bit."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from streams import stream

import tiny_runs
from promise_jax.data import batches, device_data, prefetch
from promise_jax.devices import placement
from promise_jax.method import Method
from promise_jax.nn import image_features
from promise_jax.training import loop
from promise_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("compile_once")


def run_fit(source, train_data, mesh, **more):
  method, valid = tiny_runs.two_stage_method(source.spec), source.split("valid")
  return loop.fit(
    method, source.spec, train_data, valid, tiny_runs.train_config(), mesh=mesh, **more
  )


@pytest.fixture(scope="module")
def resident(one_device):
  """Toy data, their train rows, a fit and its log."""
  source, lines = tiny_runs.dataset(), []
  rows = tiny_runs.train_data(source, protocol="bernoulli(0.3,redraw=true)")
  return source, rows, run_fit(source, rows, one_device, log=lines.extend), lines


def test_training_on_streamed_rows_is_the_same_bit_by_bit(resident, one_device):
  (source, rows, fit, expected), lines = resident, []
  found = run_fit(source, stream(rows, threads=3), one_device, log=lines.extend)
  assert lines == expected and len(lines) == 2 * 4
  assert tiny_runs.is_same(found[:4], fit[:4])


@pytest.mark.slow
def test_worker_processes_read_the_same_and_ignore_signals(resident, one_device):
  """Ctrl-C and SIGTERM go to a whole group of processes; the one that trains answers."""
  (source, rows, fit, expected), lines, codes = resident, [], []

  def log(more):
    lines.extend(more)
    for worker in multiprocessing.active_children():
      with contextlib.suppress(ProcessLookupError):  # it has read its last row meanwhile
        for number in (signal.SIGINT, signal.SIGTERM):
          os.kill(worker.pid, number)
      worker.join(0.3)
      codes.append(worker.exitcode)

  found = run_fit(source, stream(rows, threads=1, workers=2), one_device, log=log)
  assert lines == expected and len(codes) >= 2 and set(codes) <= {None, 0}
  assert tiny_runs.is_same(found[:4], fit[:4])


def test_a_resumed_run_reads_only_what_is_left(resident, one_device, eight_devices, tmp_path):
  """Stopped on eight devices after the first of four blocks, resumed on one."""
  source, rows, fit, _ = resident
  streamed = stream(rows)
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(loop.TrainingInterrupted):
    stop = tiny_runs.stop_after(1)
    run_fit(source, streamed, eight_devices, checkpoints=checkpoints, stop=stop)
  for x in streamed.split.inputs.values():
    x.num_read.clear()
  with Checkpoints(tmp_path) as checkpoints:
    resumed = run_fit(source, streamed, one_device, checkpoints=checkpoints)
  tiny_runs.assert_close(resumed.params, fit.params, atol=1e-5)
  for x in streamed.split.inputs.values():
    assert x.num_read == [2 * 5 * 16] * 3  # seeds, steps and rows of the blocks that are left


def test_rows_read_on_the_host_are_those_gathered_on_the_device(eight_devices):
  source = tiny_runs.dataset()
  rows, sizes = tiny_runs.train_data(source, protocol="exact(0.5)"), tiny_runs.train_config()
  steps = batches.StageSteps(0, 20, True)
  data = device_data.collect_arrays(rows.split)
  read = lambda host_rows: next(
    batches.iterate_blocks(rows, sizes, steps, 5, host_rows, None, eight_devices)
  )
  block, on_host = read(None), read(data)
  x = on_host.choice["rows"]["inputs"]["m0"]
  assert x.shape == (2, 5, 16, 4)
  assert [part.data.shape for part in x.addressable_shards] == [(2, 5, 2, 4)] * 8
  make = jax.jit(batches.make_batch, static_argnums=(2, 3))
  at = lambda choice: jax.tree.map(lambda x: x[1, 3], choice)
  ours = make({}, at(on_host.choice), False, eight_devices)
  theirs = make(data, at(block.choice), False, eight_devices)
  assert tiny_runs.is_same(ours, theirs)
  index = block.choice["index"][1, 3]
  np.testing.assert_array_equal(ours.inputs["m1"], rows.split.inputs["m1"][index])


def test_streamed_images_are_preprocessed_to_the_same_bits(one_device, eight_devices, monkeypatch):
  """By the devices that read them, and in pieces for other processes."""
  rng = np.random.default_rng(0)
  photo, index = rng.integers(0, 256, (140, 8, 8, 3), np.uint8), rng.integers(0, 140, (2, 3, 32))
  method = Method(None, None, (), image_features.precompute)
  expected = device_data.to_devices(method, {"inputs": {"p": photo}}, one_device)["inputs"]["p"]
  rows = batches.place_rows({"p": photo[index]}, (2, 3, 32), eight_devices)
  made = device_data.preprocess_batches(method, eight_devices)(rows)["p"]
  assert made.sharding.is_equivalent_to(rows["p"].sharding, made.ndim)
  np.testing.assert_array_equal(np.asarray(made), np.asarray(expected)[index])
  monkeypatch.setattr(device_data, "PIECE", 128)
  kept = device_data.preprocess_on_host(method, {"inputs": {"p": photo}, "id": index})
  assert isinstance(kept["inputs"]["p"], np.ndarray) and kept["id"] is index
  np.testing.assert_array_equal(kept["inputs"]["p"], expected)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_blocks_are_read_in_order(workers):
  config = prefetch.PrefetchConfig(threads=1, workers=workers)
  found = list(prefetch.open_reader(np.square, range(10, 30, 5), config))
  assert found == [100, 225, 400, 625]


def test_few_blocks_are_read_ahead():
  read = []

  def read_block(start):
    read.append(start)
    return start

  blocks = prefetch.open_reader(read_block, range(40), prefetch.PrefetchConfig(threads=1))
  assert [next(blocks), next(blocks)] == [0, 1]
  blocks.close()
  assert 2 <= len(read) <= 4
  with pytest.raises(ValueError, match="threads is 0, it must be at least 1"):
    prefetch.PrefetchConfig(0)


def test_a_split_larger_than_the_device_is_refused(monkeypatch, one_device):
  source = tiny_runs.dataset()
  method, rows = tiny_runs.linear_method(source.spec), tiny_runs.train_data(source)
  assert placement.num_bytes(device_data.collect_arrays(rows.split)) == 48 * (32 + 2 + 8)
  assert placement.free_memory(one_device) > 2**20
  monkeypatch.setattr(placement, "free_memory", lambda mesh: 1000)
  with pytest.raises(ValueError, match="rows take 0.0 GB on every .* set data.stream"):
    device_data.place_train_rows(method, rows.split, one_device)


BIG = """
import sys
import jax, jax.numpy as jnp, numpy as np
from promise_jax.data import batches
from promise_jax.method import Method, Stage
from promise_jax.training import config, loop, progress
from promise_jax.types import Average, Modality, Spec, Split, Task

COUNT, WIDTH = int(sys.argv[1]), 2**16

class Made:  # a few rows again and again
  shape, dtype = (COUNT, WIDTH), np.dtype(np.float32)
  few = np.random.default_rng(0).normal(size=(8, WIDTH)).astype(np.float32)
  def __len__(self): return COUNT
  def __getitem__(self, index): return self.few[index % 8]

def part(x, count):
  rows = np.arange(count, dtype=np.int32)
  return Split({"x": x}, {}, np.ones((count, 1), bool), rows % 2, rows)

def init(key): return {"w": jnp.zeros((WIDTH, 2))}, {}
def predict(params, model_state, inputs, pattern=None):
  return {"logits": inputs.inputs["x"] @ params["w"]}
def loss(params, model_state, batch, key, info):
  logits = jax.nn.log_softmax(predict(params, model_state, batch)["logits"])
  loss = -jnp.mean(jnp.take_along_axis(logits, batch.label[:, None], axis=1))
  return loss, (model_state, {"nll": Average(loss, jnp.float32(1))})

spec = Spec((Modality("x", "vector", (WIDTH,)),), Task("classes", 2), {})
data = batches.TrainData(part(Made(), COUNT), np.ones((1, COUNT), bool), (0,))
settings = config.TrainConfig(steps=24, eval_every=4, batch_size=16, labelled_per_batch=8)
method = Method(init, predict, (Stage("train", loss),))
fit = loop.fit(method, spec, data, part(Made.few, 8), settings)
assert fit.best_score[0] == 1.0, fit.best_score  # every row was seen, with its label
print(int(progress.peak_memory_mb()))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data():
  """21 GB of rows, of which 400 MB are read, beside a hundredth of them."""
  command = [sys.executable, "-W", "error", "-c", BIG]
  both = [
    subprocess.Popen([*command, str(count)], stdout=subprocess.PIPE, text=True)
    for count in (80_000, 800)
  ]
  big, small = (int(p.communicate(timeout=120)[0]) for p in both)
  assert big < small + 60 and big < 1000, (big, small)
