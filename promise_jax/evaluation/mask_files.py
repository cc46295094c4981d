"""Masks by hash and as npz files, so that another program can use the very same."""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from promise_jax import counter_rng, files
from promise_jax.missing import Protocol, parse_protocol


def mask_hash(mask: np.ndarray, ids: np.ndarray) -> str:
  """16 hex digits that name the pairs (id, mask row), whatever their order.

  `mask` bool[N, M], `ids` int[N]. The start of a SHA-256.
  """
  mask, ids = np.asarray(mask, bool), counter_rng.as_int64_ids(ids)
  order = np.lexsort((*mask.T, ids))
  digest = hashlib.sha256(json.dumps(mask.shape).encode())
  digest.update(ids[order].astype("<i8").tobytes())
  digest.update(mask[order].astype("u1").tobytes())
  return digest.hexdigest()[:16]


class Masks(NamedTuple):
  """What an exported file holds: mask bool[N, M], ids i64[N], protocol, M names."""

  mask: np.ndarray
  ids: np.ndarray
  protocol: Protocol
  names: tuple[str, ...]


def export_masks(
  path: str | os.PathLike,
  mask: np.ndarray,
  ids: np.ndarray,
  protocol: Protocol | str,
  names: Sequence[str],
) -> None:
  """Writes `mask` bool[N, M] as npz to `path`, all of it or nothing.

  Arrays: mask, ids, and as text protocol, names and hash.
  """
  mask, ids = np.asarray(mask, bool), counter_rng.as_int64_ids(ids)
  if mask.shape != (len(ids), len(names)):
    raise ValueError(f"a mask of shape {(len(ids), len(names))} is expected, found {mask.shape}")
  arrays = {"mask": mask, "ids": ids, "protocol": str(protocol)}
  arrays |= {"names": np.array(names, str), "hash": mask_hash(mask, ids)}
  files.write_npz(path, arrays)


def load_masks(path: str | os.PathLike) -> Masks:
  """What `export_masks` wrote; ValueError if a field is absent or the hash differs."""
  with np.load(path, allow_pickle=False) as file:
    absent = {"mask", "ids", "protocol", "names", "hash"} - set(file.files)
    if absent:
      raise ValueError(f"{path} is no export of masks: no {', '.join(sorted(absent))}")
    names, protocol = (
      tuple(file["names"].tolist()),
      parse_protocol(str(file["protocol"])),
    )
    masks = Masks(file["mask"], file["ids"], protocol, names)
    stored, found = str(file["hash"]), mask_hash(masks.mask, masks.ids)
  if stored != found:
    raise ValueError(f"{path}: the masks have hash {found}, the file says {stored}")
  return masks
