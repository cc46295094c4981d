"""The logits of trained variants under all that is tested, with a bar of progress."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import tqdm

from promise_jax import frames
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

  Those of test are followed by those under the protocols that are predicted by themselves.
  """
  valid, num_patterns = setup.valid_data, len(setup.patterns)
  protocols = conditions.tested_protocols(setup.experiment.test_protocols)
  alone = conditions.kept_alone(test_split, protocols, setup.spec.names, "test")
  # Together, because each variant would compile a program for each split.
  rows = jax.tree.map(lambda *x: np.concatenate(x), valid, test_split)
  logits, count = {}, len(valid.id)
  pad = lambda x: np.pad(x, [(count, 0), (0, 0)], constant_values=True)
  alone = [frames.Kept(pad(mask), {m: pad(x) for m, x in steps.items()}) for mask, steps in alone]
  with show_progress(len(variants) * (num_patterns + len(alone))) as move:
    for v in variants:
      model = v.method, v.params, v.model_state
      logits[v.name] = predict.predict_split(*model, rows, setup.patterns, alone=alone, move=move)
  return {
    "valid": {name: x[:, :num_patterns, :count] for name, x in logits.items()},
    "test": {name: x[:, :, count:] for name, x in logits.items()},
  }


def predict_saved(
  folder: Path,
  model: SavedModel,
  rows: Split,
  tested: Sequence[Pattern],
  alone: Sequence[frames.Kept],
) -> Logits:
  """The logits of every variant in `folder` under the `tested` patterns, then on what
  is left of the rows by `alone`."""
  logits, names = {}, [variant.name for variant in model.variants]
  with show_progress(len(names) * (len(tested) + len(alone))) as move:
    for name in names:
      loaded = saved_model.load_variant(folder, model, name)
      logits[name] = predict.predict_split(*loaded, rows, tested, alone=alone, move=move)
  return logits


@contextlib.contextmanager
def show_progress(total: int) -> Iterator[Callable[[int], object]]:
  """A bar of `total` predictions with the time left, on a terminal; yields what moves it on."""
  bar = {"desc": "testing", "unit": "pattern", "delay": 1, "leave": False}
  with tqdm.tqdm(total=total, **bar, disable=None if distributed.is_primary() else True) as shown:
    yield shown.update
