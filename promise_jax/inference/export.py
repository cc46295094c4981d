"""Writes a trained model of a run as one folder, which is served without training code."""

import dataclasses
import importlib.resources
import logging
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import jinja2
import numpy as np
import safetensors.numpy
from jax import export

import promise_jax
from promise_jax import files, types
from promise_jax.checks import check_choice
from promise_jax.inference import exported, saved_model
from promise_jax.inference.saved_model import SavedModel
from promise_jax.method import Method
from promise_jax.optim import param_paths
from promise_jax.types import Inputs, Pattern, PyTree, Spec

logger = logging.getLogger(__name__)

PATTERNS = ("any", "static")
PLATFORMS = ("cpu", "cuda", "tpu")
CARD = "README.md"


def export_run(
  run: Path | str,
  out: Path | str,
  *,
  variant: str | None = None,
  seeds: str | int = "all",
  patterns: str = "any",
) -> dict[str, int]:
  """Writes a variant of a run to the folder `out`, and returns the sizes of its files in bytes.

  Args:
    run: the folder of a finished run.
    out: a new or an empty folder, or one with an exported model, which is replaced.
    variant: which method of the run; default: the best on validation.
    seeds: "all", whose probabilities are averaged, or the number of one.
    patterns: "any" makes one program for all patterns of modalities; "static" one for each, without
      the encoders of absent modalities: smaller and faster.

  ValueError for an option that does not fit the run, or other files in `out`.
  """
  run, out = Path(run).expanduser(), Path(out).expanduser().absolute()
  check_choice("patterns", patterns, PATTERNS)
  check_folder(out)
  model = saved_model.read_model(run / "model")
  name = variant or model.best
  method, *arrays = saved_model.load_variant(run / "model", model, name)
  if method is None:
    raise ValueError(f"variant is {name!r}, which has no program: it reads nothing")
  chosen = saved_model.choose_seeds(model, seeds)
  params, model_state = jax.tree.map(lambda x: np.ascontiguousarray(x[chosen]), arrays)
  variables = {"params": params, "state": model_state}
  contents = make_programs(method, variables, model.spec, is_static=patterns == "static")
  encoders = {m: encoded.encoder for m, encoded in model.preprocessing.encoded.items()}
  for modality, encoder in encoders.items():
    logger.warning("%s is read as the features that %s makes of it.", modality, encoder)
  path = run / "calibration.json"
  lines = files.read_json(path) if path.exists() else []
  lines = [line for line in lines if line["variant"] == name]
  contents |= describe(keep_variant(model, name, chosen), contents, encoders, lines)
  write_folder(out, contents)
  return {name: len(content) for name, content in contents.items()}


def check_folder(out: Path) -> None:
  """Raises ValueError if files of `out` would be lost."""
  if not out.exists() or (out.is_dir() and not any(out.iterdir())):
    return
  if not exported.is_export(out):
    raise ValueError(f"{out} has files and is no exported model; a new or empty folder is expected")
  known = {exported.ARRAYS, exported.DESCRIPTION, CARD}
  others = [p.name for p in out.iterdir() if p.name not in known and p.suffix != ".stablehlo"]
  if others:
    raise ValueError(
      f"{out} has {min(others)}, which no export writes; move it to replace the rest"
    )


def keep_variant(model: SavedModel, name: str, chosen: slice) -> SavedModel:
  """The model with one variant and the chosen seeds alone. Frozen encoders stay behind, because
  their code is no data: rows give their features."""
  fitted = model.calibration[name]
  if chosen != slice(None):
    fitted = fitted["seeds"][chosen.start]
    fitted = fitted | {"seeds": [fitted]}
  return dataclasses.replace(
    model,
    preprocessing=model.preprocessing.without_encoders(),
    variants=tuple(v for v in model.variants if v.name == name),
    best=name,
    seeds=model.seeds[chosen],
    calibration={name: fitted},
    gains={name: model.gains[name]} if name in model.gains else {},
  )


def make_programs(
  method: Method, variables: PyTree, spec: Spec, is_static: bool
) -> dict[str, bytes]:
  """{file: content} of the programs and of the arrays that they read."""
  contents, read = {}, set()
  for pattern in exported.list_patterns(len(spec.modalities), is_static):
    made = export_program(method, variables, spec, pattern)
    read |= exported.describe_arguments(made)[0].keys()
    contents[exported.program_name(pattern)] = bytes(made.serialize())
  leaves = param_paths.leaves_by_path(variables)
  arrays = {path: x for path, x in leaves.items() if path in read}
  return contents | {exported.ARRAYS: safetensors.numpy.save(arrays)}


def export_program(
  method: Method, variables: PyTree, spec: Spec, pattern: Pattern | None = None
) -> export.Exported:
  """The program f(arrays, inputs, length, present) -> {"logits": f[S, B, C], ...}; B is free.

  Args:
    method: its `preprocess` and `predict` become the program.
    variables: {"params": ..., "state": ...}, leaves [S, ...], of which only the shapes are read.
    spec: of the inputs.
    pattern: the modalities that a row may have at most; the encoders of the others are left out.

  The `arrays` {path: [S, ...]} are those leaves of `variables` that a prediction reads.
  """
  structure = jax.tree.structure(variables)
  leaves = {
    path: jax.ShapeDtypeStruct(x.shape, x.dtype)
    for path, x in param_paths.leaves_by_path(variables).items()
  }

  def predict(arrays, inputs, length, present):
    ids = jnp.zeros(present.shape[0], jnp.int32)  # new rows have no noise of their own
    # Each row alone: `preprocess` may work in blocks, and a free number of rows has no blocks.
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)
    one = lambda row: first(method.preprocess(jax.tree.map(lambda x: x[None], row)))
    rows = Inputs(jax.vmap(one)(inputs), length, present, ids)
    unread = {path: jnp.zeros(x.shape[1:], x.dtype) for path, x in leaves.items()}

    def predict_seed(arrays):
      given = jax.tree.unflatten(structure, (unread | arrays).values())
      return method.predict(given["params"], given["state"], rows, pattern=pattern)

    # In turn: together, seeds take twice as long on a CPU (512 rows, 5 seeds of fusion).
    return jax.lax.map(predict_seed, arrays)

  # JAX finds what is not read only where all shapes are numbers.
  trial = export.export(jax.jit(predict))(leaves, *shape_rows(spec, 2))
  read = set(trial.module_kept_var_idx)
  arrays = {path: leaves[path] for i, path in enumerate(sorted(leaves)) if i in read}
  free = shape_rows(spec, *export.symbolic_shape("b"))
  return export.export(jax.jit(predict), platforms=PLATFORMS)(arrays, *free)


def shape_rows(spec: Spec, count) -> tuple:
  """The arguments (inputs, length, present) of `count` rows, as shapes and types."""
  batch = types.example_batch(spec, 1)
  like = lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype)
  return jax.tree.map(like, (batch.inputs, batch.length, batch.present))


def describe(
  model: SavedModel,
  contents: Mapping[str, bytes],
  encoders: Mapping[str, str],
  calibration: list[dict],
) -> dict[str, bytes]:
  """{file: content} of model.json and the model card.

  `contents` are those of the other files, `encoders` {modality: the encoder whose features it is
  read as}, `calibration` lines of the run's calibration.json.
  """
  facts = {
    "format": exported.FORMAT,
    "static": exported.program_name(None) not in contents,
    "jax": jax.__version__,
    "encoders": encoders,
    "files": {name: exported.describe_file(content) for name, content in contents.items()},
  }
  value = saved_model.model_to_json(model) | {"export": facts}
  template = importlib.resources.files(__package__).joinpath("model_card.md.j2").read_text("utf-8")
  environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
  card = environment.from_string(template).render(
    model=model, calibration=calibration, facts=facts, version=promise_jax.__version__
  )
  return {
    exported.DESCRIPTION: files.to_line(saved_model.seal(value)).encode(),
    CARD: card.encode(),
  }


def write_folder(out: Path, contents: Mapping[str, bytes]) -> None:
  """Writes a folder whole or not at all, in place of the one that may be there."""
  out.parent.mkdir(parents=True, exist_ok=True)
  with files.make_part(out, folder=True) as part:
    new, old = part / "new", part / "old"
    new.mkdir()
    for name, content in contents.items():
      files.write_bytes(new / name, content)
    if out.exists():
      out.rename(old)
    new.rename(out)
