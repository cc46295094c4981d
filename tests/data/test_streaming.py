"""Training on streamed rows is training on resident ones, bit by bit."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import tiny_runs
from promise_jax.data import batches, device_data, prefetch
from promise_jax.devices import mesh as devices_mesh
from promise_jax.method import Method
from promise_jax.nn import image_features
from promise_jax.training import checkpoint, loop

pytestmark = pytest.mark.usefixtures("compile_once")


class Taken:
  """The rows of an array, only by number, as streamed ones; `asked` notes how many."""

  def __init__(self, rows: np.ndarray):
    self.rows, self.shape, self.dtype, self.asked = rows, rows.shape, rows.dtype, []

  def __len__(self):
    return len(self.rows)

  def __getitem__(self, index):
    self.asked.append(np.size(index))
    return self.rows[index]


def taken(rows: batches.TrainData, **reading) -> batches.TrainData:
  """The same rows, streamed."""
  inputs = {name: Taken(x) for name, x in rows.split.inputs.items()}
  split = rows.split._replace(inputs=inputs)
  return rows._replace(split=split, reading=prefetch.PrefetchConfig(**reading))


def test_a_split_larger_than_the_device_is_told(monkeypatch, one_device):
  source = tiny_runs.dataset()
  method, rows = tiny_runs.linear(source.spec), tiny_runs.rows(source)
  monkeypatch.setattr(devices_mesh, "room", lambda mesh: 1000)
  given = method, source.spec, rows, source.split("valid"), tiny_runs.settings()
  with pytest.raises(ValueError, match="rows take 0.0 GB on every .* set data.stream"):
    loop.fit(*given, mesh=one_device)
  monkeypatch.undo()
  assert devices_mesh.num_bytes(device_data.rows_of(rows.split)) == 48 * (32 + 2 + 8)
  assert devices_mesh.free_memory(one_device) > 2**20


def fitted(source, rows, mesh, **more):
  method, valid = tiny_runs.two_stages(source.spec), source.split("valid")
  return loop.fit(method, source.spec, rows, valid, tiny_runs.settings(), mesh=mesh, **more)


@pytest.fixture(scope="module")
def resident(one_device):
  """Toy data, their train rows, a fit and its log."""
  source, lines = tiny_runs.dataset(), []
  rows = tiny_runs.rows(source, protocol="bernoulli(0.3,redraw=true)")
  return source, rows, fitted(source, rows, one_device, log=lines.extend), lines


def test_training_is_the_same_bit_by_bit(resident, one_device):
  (source, rows, whole, said), lines = resident, []
  fit = fitted(source, taken(rows, threads=3), one_device, log=lines.extend)
  assert lines == said and len(lines) == 2 * 4
  assert tiny_runs.same(fit[:4], whole[:4])


@pytest.mark.slow
def test_workers_train_the_same_and_leave_signals_alone(resident, one_device):
  """Ctrl-C and SIGTERM go to a whole group of processes: whoever trains answers."""
  (source, rows, whole, said), lines, told = resident, [], []

  def log(more):
    lines.extend(more)
    for worker in multiprocessing.active_children():
      for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
      worker.join(0.3)
      told.append(worker.exitcode)

  fit = fitted(source, taken(rows, threads=1, workers=1), one_device, log=log)
  assert lines == said and len(told) >= 2 and set(told) <= {None, 0}
  assert tiny_runs.same(fit[:4], whole[:4])


def test_a_stopped_run_goes_on_where_it_stood(resident, one_device, eight_devices, tmp_path):
  source, given, whole, _ = resident
  rows = taken(given)
  with checkpoint.open_manager(tmp_path / "own") as manager:
    with pytest.raises(loop.TrainingInterrupted):  # after one step of a call of five
      fitted(source, rows, one_device, manager=manager, stop=tiny_runs.stopping(1))
  shutil.copytree(tmp_path / "own", tmp_path / "other")
  with checkpoint.open_manager(tmp_path / "other") as manager:
    other = fitted(source, taken(given, threads=1), eight_devices, manager=manager)
  tiny_runs.assert_close(other.params, whole.params, atol=1e-5)
  for x in rows.split.inputs.values():
    x.asked.clear()
  with checkpoint.open_manager(tmp_path / "own") as manager:
    resumed = fitted(source, rows, one_device, manager=manager)
  assert tiny_runs.same(whole[:4], resumed[:4])
  # Two seeds, 16 rows, the 20 steps of the calls that were not at their end.
  for x in rows.split.inputs.values():
    assert x.asked == [2 * 16] * 20


def test_images_are_prepared_on_their_way(one_device, eight_devices, monkeypatch):
  """By the devices that read them, and in pieces for other processes: the same bits."""
  rng = np.random.default_rng(0)
  photo = rng.integers(0, 256, (140, 8, 8, 3), np.uint8)
  index, own = rng.integers(0, 140, (2, 3, 32)), (np.arange(2), np.arange(32))
  method = Method(None, None, (), image_features.precompute)
  every = device_data.to_devices(method, {"inputs": {"p": photo}}, one_device)["inputs"]["p"]
  x = devices_mesh.place_local_rows(photo[index], own, 2, 32, eight_devices)
  made = device_data.preprocess_batches(method, eight_devices)({"p": x})["p"]
  assert made.sharding.is_equivalent_to(x.sharding, made.ndim)
  np.testing.assert_array_equal(np.asarray(made), np.asarray(every)[index])
  monkeypatch.setattr(device_data, "PIECE", 128)
  kept = device_data.preprocess_on_host(method, {"inputs": {"p": photo}, "id": index})
  assert isinstance(kept["inputs"]["p"], np.ndarray) and kept["id"] is index
  np.testing.assert_array_equal(kept["inputs"]["p"], every)


def test_ahead_is_one_call_at_most():
  read = []

  def take(drawn, k):
    read.append((drawn, k))
    return {"chosen": np.full(2, 10 * drawn + k), "clock": k}

  steps = prefetch.Steps(lambda call: call, take, every=4, count=40)
  with prefetch.open_reader(steps, 8, prefetch.PrefetchConfig(threads=1)) as calls:
    first = next(calls)
    np.testing.assert_array_equal(first["chosen"], [[20, 21, 22, 23]] * 2)
    np.testing.assert_array_equal(first["clock"], range(4))
    next(calls)
  assert (2, 0) in read and 8 <= len(read) <= 8 + 4 + 4
  with pytest.raises(ValueError, match="threads is 0, it must be at least 1"):
    prefetch.check_prefetch(prefetch.PrefetchConfig(0))


BIG = """
import sys
import jax, jax.numpy as jnp, numpy as np
from promise_jax import progress, train
from promise_jax.data import feed
from promise_jax.types import Mean, Method, Modality, Spec, Split, Stage, Task

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
def predict(params, model_state, batch, pattern=None):
  return {"logits": batch.inputs["x"] @ params["w"]}
def loss(params, model_state, batch, key, clock):
  logits = jax.nn.log_softmax(predict(params, model_state, batch)["logits"])
  loss = -jnp.mean(jnp.take_along_axis(logits, batch.label[:, None], axis=1))
  return loss, (model_state, {"loss": Mean(loss, jnp.float32(1))})

spec = Spec((Modality("x", "vector", (WIDTH,)),), Task("classes", 2), {})
rows = feed.Rows(part(Made(), COUNT), np.ones((1, COUNT), bool), (0,))
config = train.TrainConfig(steps=24, eval_every=4, batch_size=16, labelled_per_batch=8)
method = Method(init, predict, (Stage("train", loss),))
fit = train.fit(method, spec, rows, part(Made.few, 8), config)
assert fit.score[0] == 1.0, fit.score  # every row was seen, with its label
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


def whole_call(call: int) -> int:
  return 10 * call


def one_step(drawn: int, k: int) -> dict:
  return {"chosen": np.full((2, 3), drawn + k), "clock": (np.int32(k),)}


@pytest.mark.slow
def test_workers_read_the_same_in_the_same_order():
  steps, told = prefetch.Steps(whole_call, one_step, every=3, count=9), []
  for workers in (0, 2):
    with prefetch.open_reader(steps, 3, prefetch.PrefetchConfig(1, workers)) as calls:
      told.append(list(calls))
  assert tiny_runs.same(*told) and len(told[0]) == 2
