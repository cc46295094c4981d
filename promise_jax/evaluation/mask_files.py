"""Masks by hash and as npz files, so that another program can use the very same."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Int

from promise_jax import counter_rng, files
from promise_jax.missing import Protocol


def mask_hash(mask: Bool[np.ndarray, "N M"], ids: Int[np.ndarray, " N"]) -> str:
  """16 hex digits of a SHA-256 of the pairs (id, mask row), whatever their order."""
  mask, ids = np.asarray(mask, bool), counter_rng.as_int64_ids(ids)
  order = np.lexsort((*mask.T, ids))
  digest = hashlib.sha256(json.dumps(mask.shape).encode())
  digest.update(ids[order].astype("<i8").tobytes())
  digest.update(mask[order].astype("u1").tobytes())
  return digest.hexdigest()[:16]


def export_masks(
  path: str | os.PathLike,
  mask: Bool[np.ndarray, "N M"],
  ids: Int[np.ndarray, " N"],
  protocol: Protocol | str,
  names: Sequence[str],
  steps: Mapping[str, Bool[np.ndarray, "N T"]] = MappingProxyType({}),
) -> None:
  """Writes an npz file, whole or not at all: mask, ids, protocol, names, hash, and steps_<name> of
  the sequences of which steps are lost. The hash is that of the mask and the steps side by side."""
  mask, ids = np.asarray(mask, bool), counter_rng.as_int64_ids(ids)
  if mask.shape != (len(ids), len(names)):
    raise ValueError(f"a mask of shape {(len(ids), len(names))} is expected, found {mask.shape}")
  arrays = {"mask": mask, "ids": ids, "protocol": str(protocol), "names": np.array(names, str)}
  arrays |= {f"steps_{name}": kept for name, kept in steps.items()}
  table = np.concatenate([mask, *steps.values()], axis=1)
  files.write_npz(path, arrays | {"hash": mask_hash(table, ids)})
