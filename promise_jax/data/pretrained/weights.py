"""Where pretrained weights are: a folder, a zip archive, a file, or an installed package.

Nothing is downloaded.
"""

import hashlib
import importlib.metadata
import json
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Array

from promise_jax.data.pretrained import torch_files

Folder = pathlib.Path | zipfile.Path  # or a file with weights alone
ENDINGS = (".safetensors", ".pth")
MAIN = "model.safetensors"
READ = ("config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json")
READ += ("sentence_bert_config.json", "preprocessor_config.json")


def find(place: str) -> Folder:
  """The folder with model.safetensors, or the file, that a path or the name of a package means.
  ValueError where there is neither."""
  path = pathlib.Path(place).expanduser()
  if path.exists():
    found = list(search([path, *path.iterdir()] if path.is_dir() else [path]))
    where = f"{path} has no {MAIN} and no *.pth"
  else:
    try:
      files = importlib.metadata.files(place) or ()
    except importlib.metadata.PackageNotFoundError:
      words = f"there is no folder or file {place}, nor an installed package of that name"
      raise ValueError(f"{words} (nothing is downloaded)") from None
    found = list(search(pathlib.Path(file.locate()) for file in files))
    where = f"the package {place} has no {MAIN} and no *.pth"
  if not found:
    raise ValueError(where)
  return found[0]


def search(paths: Iterator[pathlib.Path] | list[pathlib.Path]) -> Iterator[Folder]:
  """What can be read among some paths: folders or archives with `MAIN`, other files of weights."""
  for path in paths:
    if path.name == MAIN:
      yield path.parent
    elif path.suffix in ENDINGS:
      yield path
    elif path.suffix == ".zip" and zipfile.is_zipfile(path):
      if (zipfile.Path(path) / MAIN).exists():
        yield zipfile.Path(path)


def read(folder: Folder, name: str) -> bytes:
  """The content of a file beside the weights. ValueError where there is none."""
  file = folder / name
  if not file.is_file():
    raise ValueError(f"{folder} has no {name}")
  return file.read_bytes()


def read_json(folder: Folder, name: str) -> Any:
  """The JSON of a file beside the weights; {} where there is none."""
  return json.loads(read(folder, name)) if (folder / name).is_file() else {}


def weights_file(folder: Folder) -> Folder:
  """The file with the arrays."""
  return folder / MAIN if folder.is_dir() else folder


def read_arrays(folder: Folder, dtype: jnp.dtype = jnp.float32) -> dict[str, Array]:
  """The arrays by name; floats as `dtype`. ValueError for a damaged file."""
  file = weights_file(folder)
  try:
    content = file.read_bytes()
    if file.name.endswith(".pth"):
      arrays = torch_files.read_tensors(content)
    else:
      arrays = safetensors.numpy.load(content)
  except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
    raise ValueError(f"{file} cannot be read: {error}") from error
  is_float = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
  return {n: jnp.asarray(x, dtype) if is_float(x) else np.asarray(x) for n, x in arrays.items()}


def hash_files(folder: Folder) -> str:
  """SHA-256 of all that is read of a folder."""
  digest = hashlib.sha256(weights_file(folder).read_bytes())
  if folder.is_dir():
    for file in (folder / name for name in READ):
      digest.update(file.read_bytes() if file.is_file() else b"")
  return digest.hexdigest()
