"""Exported folders that are damaged or meant to harm, and a process without training packages."""

import hashlib
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from jax import export as jax_export

import promise_jax
from inference import saved_runs
from promise_jax.inference import export, exported, saved_model


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  """(folder with an exported model, its arrays as new rows)."""
  folder = tmp_path_factory.mktemp("exported")
  arrays, *_ = saved_runs.save_run(folder / "run")
  export.export_run(folder / "run", folder / "model")
  return folder / "model", saved_runs.of_split(arrays, "valid")


@pytest.fixture
def folder(original, tmp_path):
  """A copy of the exported model."""
  for path in original[0].iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  return tmp_path


def refuse(folder, words):
  """`load` raises one sentence with `words`."""
  with pytest.raises(ValueError, match=words) as caught:
    promise_jax.load(folder)
  assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value)


def rewrite(folder, change):
  """Changes the value in model.json by `change(value)`, with the hash of an attacker."""
  path = folder / "model.json"
  value = json.loads(path.read_text())
  value.pop("sha256")
  change(value)
  path.write_text(json.dumps(saved_model.seal(value)))


def replace_file(folder, name, content):
  """Another file, with its SHA-256 in model.json as an attacker would write it."""
  (folder / name).write_bytes(content)
  facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
  rewrite(folder, lambda value: value["export"]["files"].update({name: facts}))


@pytest.mark.parametrize("name", ["params.safetensors", "program.stablehlo"])
def test_files_that_are_damaged_longer_or_gone_are_refused(name, folder):
  content = (folder / name).read_bytes()
  (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  refuse(folder, f"{name} is damaged: its SHA-256")
  (folder / name).write_bytes(content + b"\0" * 1000)
  refuse(folder, f"{name} has {len(content) + 1000} bytes, expected are {len(content)} at most")
  (folder / name).write_bytes(content[:100])
  refuse(folder, f"{name} is damaged: its SHA-256")
  (folder / name).unlink()
  words = "has no model.json" if name == exported.ARRAYS else f"{name} cannot be read: No such file"
  refuse(folder, words)


def set_photo(**changed):
  """A change of the description of the photo in model.json."""
  return lambda value: value["preprocessing"]["modalities"][0].update(changed)


ENCODER = {
  "photo": {"raw": {"name": "photo", "kind": "vector", "shape": [3]}, "encoder": "os:system"}
}
CHANGES = {
  "another format": (lambda v: v["export"].update(format=2), "its format is 2, known is 1"),
  "no export": (lambda v: v.pop("export"), "KeyError"),
  "no hash": (lambda v: v["export"].update(files={}), "KeyError"),
  "hash of another type": (lambda v: v["export"].update(files=7), "TypeError"),
  "an encoder": (lambda v: v["preprocessing"].update(encoded=ENCODER), "encoder, whose code would"),
  "a huge row": (set_photo(shape=[2**40, 2**40, 3]), "'photo' is 'image' of the shape"),
  "a path for a name": (set_photo(name="../../etc/passwd"), "other arrays than model.json says"),
  "a shape of words": (set_photo(shape=["8", "8"]), "TypeError"),
  "a negative shape": (set_photo(shape=[-8, 8, 3]), "negative dimensions"),
  "an unknown kind": (set_photo(kind="sound"), "'photo' is 'sound'"),
  "fewer modalities": (lambda v: v["preprocessing"]["modalities"].pop(), "other arrays than model"),
  "another variant": (lambda v: v.update(best="share"), "parts are of different models"),
  "other classes": (lambda v: v["spec"]["task"].update(outputs=4), "other arrays than model.json"),
  "other seeds": (lambda v: v["seeds"].pop(), "other arrays than model.json says"),
  "no calibration": (lambda v: v.update(calibration={}), "KeyError"),
  "two variants": (lambda v: v["variants"].append(v["variants"][0]), "too many values"),
  "another version": (lambda v: v.update(version="9.9", new=1), "made by version 9.9, this is"),
  "many programs": (lambda v: v["export"].update(static=True), "KeyError.*program_100"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_descriptions_that_do_not_fit_are_refused(change, folder):
  function, words = CHANGES[change]
  rewrite(folder, function)
  refuse(folder, words)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '"x"', "[" * 10**5, "\0", "1" * 5000])
def test_descriptions_of_another_form_are_refused(text, folder):
  (folder / "model.json").write_text(text)
  refuse(folder, "cannot be read as an exported model")


def test_a_description_that_fills_the_memory_is_not_read(folder):
  with open(folder / "model.json", "wb") as file:
    file.truncate(2**40)  # takes no room on the disk
  refuse(folder, "model.json has 1099511627776 bytes, expected are 67108864 at most")


def test_arrays_of_another_form_are_refused(folder):
  arrays = safetensors.numpy.load_file(folder / exported.ARRAYS)
  name, x = next(iter(arrays.items()))
  for wrong in (x[:1], x.astype(np.float64)):
    replace_file(folder, exported.ARRAYS, safetensors.numpy.save(arrays | {name: wrong}))
    refuse(folder, "other arrays than model.json says")
  arrays.pop(name)
  replace_file(folder, exported.ARRAYS, safetensors.numpy.save(arrays))
  refuse(folder, "KeyError")
  header = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
  replace_file(folder, exported.ARRAYS, len(header).to_bytes(8, "little") + header)
  refuse(folder, "SafetensorError")


def test_programs_that_are_none_or_would_leave_the_program_are_refused(folder):
  content = (folder / "program.stablehlo").read_bytes()
  for wrong in (b"", b"PK\3\4", content[: len(content) // 2], content[::-1]):
    replace_file(folder, "program.stablehlo", wrong)
    refuse(folder, "a program cannot be read")
  # JAX writes no program with such a call, unless a method makes one.
  call = jax.ffi.ffi_call("xla_ffi_python_cpu_callback", jax.ShapeDtypeStruct((), np.float32))
  checks = [jax_export.DisabledSafetyCheck.custom_call("xla_ffi_python_cpu_callback")]
  calling = jax_export.export(jax.jit(call), disabled_checks=checks)(np.float32(1))
  replace_file(folder, "program.stablehlo", bytes(calling.serialize()))
  refuse(folder, "a program calls @xla_ffi_python_cpu_callback")


BLOCKED = ("flax", "optax", "chex", "orbax", "grain", "tensorflow_datasets", "ml_collections")
BLOCKED += (
  "jinja2",
  "matplotlib",
  "tensorstore",
  "sklearn",
  "promise_jax.methods",
  "promise_jax.nn",
)
SCRIPT = """
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path, target=None):
    if name.startswith(BLOCKED):
      raise ImportError(f"{name} is not for those who serve")

BLOCKED = tuple(sys.argv[3].split(","))
sys.meta_path.insert(0, Block())
import numpy as np
import promise_jax

with np.load(sys.argv[2]) as file:
  rows = dict(file)
print(promise_jax.load(sys.argv[1]).predict_proba(rows).to_numpy().tolist())
"""


def test_a_process_without_training_packages_predicts(original, tmp_path):
  folder, rows = original
  np.savez(tmp_path / "rows.npz", **rows)
  words = [sys.executable, "-c", SCRIPT, folder, tmp_path / "rows.npz", ",".join(BLOCKED)]
  environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
  made = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
  expected = promise_jax.load(folder).predict_proba(rows)
  np.testing.assert_allclose(json.loads(made.stdout), expected, rtol=1e-5, atol=1e-6)
