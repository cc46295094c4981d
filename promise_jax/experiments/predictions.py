"""The logits of trained variants under all that is tested, with a bar of progress."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import tqdm
from jaxtyping import Bool

from promise_jax.devices import distributed
from promise_jax.evaluation import conditions, predict
from promise_jax.experiments.setup import Setup
from promise_jax.experiments.train_variant import TrainedVariant
from promise_jax.inference import saved_model
from promise_jax.inference.saved_model import SavedModel
from promise_jax.types import Pattern, Split

Logits = dict[str, np.ndarray]  # of every variant [S, P, N, C]


def predict_variants(
  setup: Setup, variants: list[TrainedVariant], test_split: Split
) -> dict[str, Logits]:
  """{"valid": logits, "test": logits}. All processes must call it.

  Where not all patterns are tested, those of test are followed by those under the protocols.
  """
  valid, num_patterns = setup.valid_data, len(setup.patterns)
  protocols = conditions.tested_protocols(setup.experiment.test_protocols)
  masks = conditions.masks_alone(test_split, protocols, "test")
  masks = [np.concatenate([valid.recorded, mask]) for mask in masks]
  # Together, because each variant would compile a program for each split.
  rows = jax.tree.map(lambda *x: np.concatenate(x), valid, test_split)
  logits, count = {}, len(valid.id)
  with show_progress(len(variants) * (num_patterns + len(masks))) as move:
    for v in variants:
      model = v.method, v.params, v.model_state
      logits[v.name] = predict.predict_split(*model, rows, setup.patterns, masks=masks, move=move)
  return {
    "valid": {name: x[:, :num_patterns, :count] for name, x in logits.items()},
    "test": {name: x[:, :, count:] for name, x in logits.items()},
  }


def predict_saved(
  folder: Path,
  model: SavedModel,
  rows: Split,
  tested: Sequence[Pattern],
  masks: Sequence[Bool[np.ndarray, "N M"]],
) -> Logits:
  """The logits of every variant in `folder` under the `tested` patterns, then under the masks."""
  logits, names = {}, [variant.name for variant in model.variants]
  with show_progress(len(names) * (len(tested) + len(masks))) as move:
    for name in names:
      loaded = saved_model.load_variant(folder, model, name)
      logits[name] = predict.predict_split(*loaded, rows, tested, masks=masks, move=move)
  return logits


@contextlib.contextmanager
def show_progress(total: int) -> Iterator[Callable[[int], object]]:
  """A bar of `total` predictions with the time left, on a terminal; yields what moves it on."""
  bar = {"desc": "testing", "unit": "pattern", "delay": 1, "leave": False}
  with tqdm.tqdm(total=total, **bar, disable=None if distributed.is_primary() else True) as shown:
    yield shown.update
