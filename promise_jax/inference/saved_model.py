"""RUN/model/: what is left of a run for those who use its models.

model.json says what the models are. <variant>.safetensors has the best parameters of one variant,
by path: "params/..." and, of its model_state, "state/...", each stacked over seeds. Both are plain
data: reading them runs no code. Hashes in model.json, of the arrays and of itself, tell damage.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float

import promise_jax
from promise_jax import files
from promise_jax.checks import check_choice, shorten
from promise_jax.data import preprocessing
from promise_jax.data.preprocessing import Preprocessing
from promise_jax.method import Method
from promise_jax.optim import param_paths
from promise_jax.types import PyTree, Spec, Task


@dataclasses.dataclass(frozen=True)
class SavedVariant:
  """One trained variant of a run."""

  name: str  # as in the config, "fusion(dropout=false)"
  method: str  # "majority" is the constant predictor: its one array is "params/logits" f32[S, C]
  settings: Mapping[str, Any]  # all settings of the method
  folder: str  # the name as that of a file
  valid_score: float  # mean over seeds; larger is better
  sha256: str = ""  # of the file with its arrays, once it is written


@dataclasses.dataclass(frozen=True)
class SavedModel:
  """The content of model.json."""

  name: str  # of the run
  spec: Spec
  preprocessing: Preprocessing  # turns new rows into inputs
  variants: tuple[SavedVariant, ...]
  best: str  # the variant with the best validation score that is not the constant predictor
  seeds: tuple[int, ...]
  precision: str  # of the matrix products
  prior: Float[np.ndarray, " C"]  # logits of the constant predictor, mean over seeds
  calibration: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # {variant: JSON}
  gains: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # {variant: JSON}
  card: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # data set, protocols, metrics
  version: str = promise_jax.__version__  # of the library that wrote it


def write_model(
  folder: Path, model: SavedModel, arrays: Mapping[str, tuple[PyTree, PyTree]]
) -> None:
  """Writes `model` and the `arrays` {variant: (params, model_state)}, leaves [S, ...].

  model.json is written last: a folder that has it is whole.
  """
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "model.json").unlink(missing_ok=True)
  written = []
  for variant in model.variants:
    params, model_state = arrays[variant.name]
    leaves = param_paths.leaves_by_path({"params": params, "state": model_state})
    content = safetensors.numpy.save({p: np.ascontiguousarray(x) for p, x in leaves.items()})
    files.write_bytes(arrays_path(folder, variant), content)
    written.append(dataclasses.replace(variant, sha256=hashlib.sha256(content).hexdigest()))
  model = dataclasses.replace(model, variants=tuple(written))
  files.write_json(folder / "model.json", seal(model_to_json(model)))


def seal(value: dict[str, Any]) -> dict[str, Any]:
  """The content of model.json with its own hash, by which `check_seal` tells damage."""
  text = json.dumps(files.to_plain(value), sort_keys=True)
  return value | {"sha256": hashlib.sha256(text.encode()).hexdigest()}


def check_seal(value: dict[str, Any]) -> None:
  """Takes the hash out of the content of model.json. ValueError unless it is the right one."""
  sha256 = value.pop("sha256")
  if seal(value)["sha256"] != sha256:
    raise ValueError("it is damaged or was changed: its SHA-256 is another")


def read_model(folder: Path) -> SavedModel:
  """Reads model.json. ValueError where there is none, or one that this version cannot read."""
  path, value = folder / "model.json", {}
  try:
    value = files.read_json(path)
    check_seal(value)
    return model_from_json(value)
  except (FileNotFoundError, NotADirectoryError):
    words = "give the folder of an export, or of a run of 0.3 or later that is finished"
    found = "has no model.json" if folder.parent.exists() else "does not exist"
    raise ValueError(f"{folder} {found}: {words}") from None
  except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
    version = describe_versions(value.get("version") if isinstance(value, dict) else None)
    raise ValueError(f"{path} cannot be read ({shorten(repr(error))}){version}") from error


def load_variant(
  folder: Path, model: SavedModel, name: str
) -> tuple[Method | None, PyTree, PyTree]:
  """The variant `name` of the model in `folder`: (method, params, model_state), leaves [S, ...].

  The method is None for the constant predictor, whose params are {"logits": f32[S, C]}.
  ValueError for an unknown name, or arrays that are damaged or do not fit the method.
  """
  by_name = {variant.name: variant for variant in model.variants}
  check_choice("variant", name, tuple(by_name))
  variant = by_name[name]
  arrays = read_arrays(folder, variant)
  try:
    method, like = describe_arrays(model, variant)
    return method, *fill_leaves(like, arrays, len(model.seeds))
  except ValueError as error:
    place = f"{arrays_path(folder, variant)} does not fit"
    raise ValueError(f"{place} ({error}){describe_versions(model.version)}") from error


def read_arrays(folder: Path, variant: SavedVariant) -> dict[str, np.ndarray]:
  """The arrays of a variant by path. ValueError for a file that is damaged or not there."""
  path = arrays_path(folder, variant)
  try:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != variant.sha256:
      raise ValueError(f"{path} cannot be read: its SHA-256 is not the one in model.json")
    return safetensors.numpy.load(content)
  except (OSError, safetensors.SafetensorError) as error:
    reason = getattr(error, "strerror", None) or error
    raise ValueError(f"{path} cannot be read: {reason}") from error


def choose_seeds(model: SavedModel, seeds: str | int) -> slice:
  """Where "all" seeds or one of them, by its number, stand among those of a model."""
  if seeds == "all":
    return slice(None)
  check_choice("seeds", str(seeds), ("all", *map(str, model.seeds)))
  place = model.seeds.index(int(seeds))
  return slice(place, place + 1)


def arrays_path(folder: Path, variant: SavedVariant) -> Path:
  """The file with the arrays of a variant."""
  return folder / f"{variant.folder}.safetensors"


def describe_arrays(model: SavedModel, variant: SavedVariant) -> tuple[Method | None, tuple]:
  """The method of a variant and its (params, model_state) of one seed, as shapes and dtypes."""
  # They import flax and optax, which a reader of model.json alone does without.
  from promise_jax import methods
  from promise_jax.methods.constant import CONSTANT_VARIANT
  from promise_jax.nn import precision

  if variant.method == CONSTANT_VARIANT:
    return None, ({"logits": jax.ShapeDtypeStruct((model.spec.task.outputs,), np.float32)}, {})
  method = methods.build_method(variant.method, variant.settings, model.spec)

  def start_last_stage(key):
    arrays = method.init(key)
    for stage in method.stages:  # a stage may add to the model_state
      arrays = stage.on_start(key, *arrays)
    return arrays

  shapes = jax.eval_shape(start_last_stage, jax.eval_shape(lambda: jax.random.key(0)))
  return precision.with_precision(method, model.precision), shapes


def fill_leaves(like: tuple[PyTree, PyTree], arrays: dict, num_seeds: int) -> tuple:
  """(params, model_state) in the form of `like`, with `arrays` {path: [S, ...]} as leaves;
  ValueError if one is missing, has another shape or dtype, or belongs to nothing."""
  named = dict(zip(("params", "state"), like, strict=True))
  leaves = param_paths.leaves_by_path(named)
  for name, leaf in leaves.items():
    if name not in arrays:
      raise ValueError(f"{name} is missing")
    found, shape = arrays[name], (num_seeds, *leaf.shape)
    if (found.shape, found.dtype) != (shape, leaf.dtype):
      expected = f"{leaf.dtype}{[*shape]} is needed"
      raise ValueError(f"{name} is {found.dtype}{[*found.shape]}, {expected}")
  if others := arrays.keys() - leaves.keys():
    raise ValueError(f"{min(others)} belongs to nothing in the method")
  tree = jax.tree.unflatten(jax.tree.structure(named), [arrays[name] for name in leaves])
  return tree["params"], tree["state"]


def describe_versions(version: str | None) -> str:
  """Which version made a file and which one reads it, as the end of a message."""
  made = f"version {version}" if version else "an unknown version"
  return f"; it was made by {made}, this is {promise_jax.__version__}"


def model_to_json(model: SavedModel) -> dict[str, Any]:
  """The content of model.json."""
  return vars(model) | {
    # The preprocessing has the others.
    "spec": {"task": model.spec.task._asdict(), "labelled": model.spec.num_labelled},
    "preprocessing": model.preprocessing.to_json(),
    "variants": [vars(variant) for variant in model.variants],
  }


def model_from_json(value: dict[str, Any]) -> SavedModel:
  """The model of the content of model.json."""
  prepared, part = preprocessing.from_json(value["preprocessing"]), value["spec"]
  scale = {name: (fitted.mean, fitted.std) for name, fitted in prepared.scale.items()}
  changed = {
    "spec": Spec(prepared.modalities, Task.from_json(part["task"]), scale, part["labelled"]),
    "preprocessing": prepared,
    "variants": tuple(SavedVariant(**v) for v in value["variants"]),
    "seeds": tuple(value["seeds"]),
    "prior": np.array(value["prior"], np.float32),
  }
  return SavedModel(**value | changed)
