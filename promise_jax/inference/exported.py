"""An exported model in use: JAX and NumPy run it, without the code and packages of training.

A folder has model.json, params.safetensors and a StableHLO program, or one for each pattern of
modalities. All are data: reading them runs no code, and a program may only compute.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jax import export

from promise_jax import missing, types
from promise_jax.checks import shorten
from promise_jax.evaluation.calibration import Calibration
from promise_jax.inference import saved_model
from promise_jax.inference.predictor import BATCH_SIZES, Forward
from promise_jax.inference.saved_model import SavedModel
from promise_jax.types import Inputs, Pattern, PyTree

FORMAT = 1
DESCRIPTION, ARRAYS = "model.json", "params.safetensors"
MAX_STATIC = 6  # modalities, for a program a pattern
MAX_DESCRIPTION = 2**26  # bytes of model.json
MAX_ROW = 2**28  # values of a modality in one row
ALLOWED_CALLS = {"@shape_assertion"}  # JAX checks shapes by it; any other call leaves the program
# What a part of a wrong form raises.
ERRORS = (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError)


def is_export(folder: Path) -> bool:
  """Whether a folder is an exported model; a run has its model in a folder of its own."""
  return (folder / DESCRIPTION).is_file() and (folder / ARRAYS).is_file()


def list_patterns(num_modalities: int, is_static: bool) -> Sequence[Pattern | None]:
  """The patterns that have a program each; None is all of them. ValueError for too many."""
  if is_static and num_modalities > MAX_STATIC:
    raise ValueError(
      f"patterns is 'static', a program for each pattern, which is for {MAX_STATIC} modalities at "
      f"most and not for {num_modalities}; 'any' is one program for all patterns"
    )
  return missing.all_patterns(num_modalities) if is_static else [None]


def program_name(pattern: Pattern | None) -> str:
  """The file of a program: "program.stablehlo", or "program_101.stablehlo" of a pattern."""
  bits = "".join("01"[is_kept] for is_kept in pattern or ())
  return f"program_{bits}.stablehlo" if bits else "program.stablehlo"


def describe_file(content: bytes) -> dict[str, Any]:
  """What model.json says of another file."""
  return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def read_export(folder: Path) -> tuple[SavedModel, Forward]:
  """The model, of one variant, and its forward pass. ValueError for a file that is missing, damaged
  or of another version, or does not fit the others."""
  version = None
  try:
    value = json.loads(read_file(folder / DESCRIPTION, MAX_DESCRIPTION))
    version = value.get("version")
    saved_model.check_seal(value)
    facts = value.pop("export")
    if facts["format"] != FORMAT:
      raise ValueError(f"its format is {facts['format']!r}, known is {FORMAT}")
    model = saved_model.model_from_json(value)
    check_model(model)
    arrays = safetensors.numpy.load(read_checked(folder / ARRAYS, facts["files"]))
    programs = {}
    for pattern in list_patterns(len(model.spec.modalities), facts["static"]):
      program = read_program(read_checked(folder / program_name(pattern), facts["files"]))
      check_program(program, model, arrays)
      programs[pattern] = program
  except OSError as error:
    raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from error
  except (*ERRORS, safetensors.SafetensorError) as error:
    reason = f"{shorten(repr(error))}{saved_model.describe_versions(version)}"
    raise ValueError(f"{folder} cannot be read as an exported model: {reason}") from error
  return model, make_forward(programs, arrays)


def make_forward(
  programs: Mapping[Pattern | None, export.Exported], arrays: Mapping[str, np.ndarray]
) -> Forward:
  """The function that runs rows through the programs; the first rows of a size wait for XLA."""
  compiled = {pattern: jax.jit(program.call) for pattern, program in programs.items()}
  arrays = jax.device_put(arrays)  # once, and not for every pattern
  needed = {
    pattern: {name: arrays[name] for name in describe_arguments(program)[0]}
    for pattern, program in programs.items()
  }

  def run(pattern: Pattern | None, rows: Inputs) -> PyTree:
    return compiled[pattern](needed[pattern], rows.inputs, rows.length, rows.present)

  def run_by_pattern(rows: Inputs) -> dict[str, np.ndarray]:
    output, lacks_all = {}, ~rows.present.any(axis=1)
    for number, pattern in enumerate(compiled):
      where = (rows.present == pattern).all(axis=1) | (lacks_all & (number == 0))
      if where.any():
        size = next(size for size in BATCH_SIZES if size >= where.sum())
        index = np.resize(np.flatnonzero(where), size)  # some rows several times
        part = run(pattern, jax.tree.map(lambda x: x[index], rows))  # noqa: B023
        for name, x in jax.device_get(part).items():
          empty = np.zeros((len(x), len(where), *x.shape[2:]), x.dtype)
          output.setdefault(name, empty)[:, index] = x
    return output

  return (lambda rows: run(None, rows)) if None in compiled else run_by_pattern


def read_file(path: Path, max_bytes: int) -> bytes:
  """The content of a file. ValueError if it is too large."""
  size = path.stat().st_size
  if size > max_bytes:
    raise ValueError(f"{path.name} has {size} bytes, expected are {max_bytes} at most")
  return path.read_bytes()


def read_checked(path: Path, files: Mapping[str, Mapping[str, Any]]) -> bytes:
  """The content of a file. ValueError unless it is the one that model.json describes."""
  content = read_file(path, files[path.name]["bytes"])
  if describe_file(content) != files[path.name]:
    raise ValueError(f"{path.name} is damaged: its SHA-256 is not the one in {DESCRIPTION}")
  return content


def check_model(model: SavedModel) -> None:
  """Raises for a model that is not one of an export, has an encoder, whose code would run, or rows
  that fill the memory."""
  (variant,) = model.variants
  Calibration.from_json(model.calibration[variant.name])
  if model.best != variant.name:
    raise ValueError("its parts are of different models")
  if model.preprocessing.encoded:
    raise ValueError("it names an encoder, whose code would run")
  for m in model.spec.modalities:
    if m.kind not in types.KINDS or math.prod(m.shape) > MAX_ROW:
      raise ValueError(f"modality {m.name!r} is {m.kind!r} of the shape {m.shape}")


def read_program(content: bytes) -> export.Exported:
  """A program from its bytes. ValueError if they are none, or if it does more than compute."""
  try:
    program = export.deserialize(bytearray(content))
    text = program.mlir_module()
  except Exception as error:  # what was not written by JAX may raise anything
    raise ValueError(f"a program cannot be read: {error!r}") from error
  calls = set(re.findall(r"custom_call\W*?(@?[^\s(]+)\(", text)) - ALLOWED_CALLS
  if calls:
    raise ValueError(f"a program calls {', '.join(sorted(calls))}")
  return program


def check_program(
  program: export.Exported, model: SavedModel, arrays: Mapping[str, np.ndarray]
) -> None:
  """Raises unless a program takes such arrays and rows, and returns logits of them."""
  rows, outputs = types.example_batch(model.spec, 1), model.spec.task.outputs
  needed, *args = describe_arguments(program)
  logits = jax.tree.unflatten(program.out_tree, program.out_avals)["logits"]
  expected = [rows.inputs, rows.length, rows.present]
  fits = describe_arrays(needed) == describe_arrays({name: arrays[name] for name in needed})
  fits &= describe_arrays(args, 1) == describe_arrays(expected, 1)
  fits &= (logits.shape[0], *logits.shape[2:]) == (len(model.seeds), outputs)
  if not fits:
    raise ValueError(f"a program takes or returns other arrays than {DESCRIPTION} says")


def describe_arguments(program: export.Exported) -> tuple:
  """The arguments (arrays, inputs, length, present) of a program, as shapes and types."""
  args, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
  return args


def describe_arrays(arrays: PyTree, axis: int = 0) -> PyTree:
  """Shapes, from `axis` on, and types."""
  return jax.tree.map(lambda x: (x.shape[axis:], str(x.dtype)), arrays)
