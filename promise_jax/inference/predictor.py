"""`Predictor`: a trained model that predicts, embeds and explains rows of your own.

Rows may lack any modality, column or cell. Their preprocessing is the one that was fitted on the
train rows; a row has the same answer alone and among others.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float

from promise_jax import missing
from promise_jax.data import cleaning, new_rows, new_values, split_checks
from promise_jax.data.preprocessing import Preprocessing
from promise_jax.data.readers import lost_files
from promise_jax.evaluation import calibration, contribution, gain, measure
from promise_jax.evaluation.calibration import Calibration
from promise_jax.evaluation.gain import Gain
from promise_jax.patterns import MAX_ALL_TESTED
from promise_jax.types import Inputs, Spec, Split

logger = logging.getLogger(__name__)

TINY = np.finfo(np.float32).tiny  # the smallest probability that has a logarithm here
BLOCK_VALUES = 2**25  # numbers of new rows that are in memory at a time
BATCH_SIZES = (1, 8, 64, 512)  # rows are padded to one of them: a compilation each
Forward = Callable[[Inputs], Mapping[str, Array]]  # "logits" [S, B, C] and embeddings [S, B, ...]


class Block(NamedTuple):
  """Some predicted rows."""

  ids: pd.Index  # [n]
  label: np.ndarray | None  # [n], as given
  split: Split  # cleaned
  output: dict[str, np.ndarray]  # [S, n, ...]


@dataclasses.dataclass(frozen=True)
class Predictor:
  """One trained variant. Its answers are means over its seeds, calibrated on validation rows."""

  variant: str
  seeds: tuple[int, ...]
  spec: Spec = dataclasses.field(repr=False)
  preprocessing: Preprocessing = dataclasses.field(repr=False)
  calibration: Calibration = dataclasses.field(repr=False)
  gain: Gain | None = dataclasses.field(repr=False)
  prior: Float[np.ndarray, " C"] = dataclasses.field(repr=False)  # logits where nothing is present
  card: Mapping[str, Any] = dataclasses.field(repr=False)  # data set, versions, metrics
  forward: Forward = dataclasses.field(repr=False)
  file_options: lost_files.FileOptions = lost_files.DEFAULTS

  @property
  def modalities(self) -> tuple[str, ...]:
    """The modalities by name."""
    return self.spec.names

  @property
  def classes(self) -> tuple[str, ...]:
    """The classes or labels by name; of a regression, the one name "value"."""
    task = self.spec.task
    return ("value",) if task.kind == "regression" else task.output_names

  def predict(self, rows: Any) -> pd.Series | pd.DataFrame:
    """The class of every row; the value of a regression; of several labels, which are true.

    Args:
      rows: as `data.new_rows` describes: a DataFrame, a dict of arrays, or the path of a file.

    Returns:
      A Series, or for several labels a DataFrame of bool, with the index of `rows` or their ids.
    """
    probabilities = self.predict_proba(rows)
    if self.spec.task.kind == "multilabel":
      return probabilities > 0.5
    if self.spec.task.kind == "regression":
      return probabilities["value"]
    names = np.array(self.classes, object)[probabilities.to_numpy().argmax(axis=1)]
    return pd.Series(names, probabilities.index, dtype=object, name="class")

  def predict_proba(self, rows: Any, coverage: float | None = None) -> pd.DataFrame:
    """The probability of every class, a column each, indexed as `predict`.

    Of a regression: `value`, and `low` and `high` of an interval that holds the true value in
    `coverage` of the rows, 0.9 by default. Of classes `coverage` adds a column `set`: lists of
    classes that hold the true one as often. ValueError for several labels, which have no sets.
    """
    parts = [self.tabulate(block, coverage) for block in self.iterate_blocks(rows)]
    return index_as(rows, pd.concat(parts))

  def tabulate(self, block: Block, coverage: float | None = None) -> pd.DataFrame:
    """`predict_proba` of a block, indexed by ids."""
    present, names = block.split.recorded, self.classes
    served, count = self.calibrate(block.output["logits"], present), present.sum(axis=1)
    if self.spec.task.kind == "regression":
      part = 0.9 if coverage is None else coverage
      ends = calibration.prediction_intervals(self.calibration, served, count, part)
      served, names = np.concatenate([served, ends], axis=1), ("value", "low", "high")
    table = pd.DataFrame(served, block.ids, list(names))
    if coverage is not None and self.spec.task.kind != "regression":
      sets = calibration.prediction_sets(self.calibration, served, count, coverage)
      chosen = [np.array(names, object)[row].tolist() for row in sets]
      table.insert(len(names), "set", chosen, allow_duplicates=True)  # a class may be called so
    return table

  def embed(self, rows: Any) -> dict[str, np.ndarray]:
    """Arrays f32[N, ...] by key: `fused`, and `shared`, `private`, `composite`, `gate` where the
    method has them (docs: methods). Codes of different seeds do not compare: the first seed's."""
    blocks = [block.output for block in self.iterate_blocks(rows, every_key=True)]
    keys = [key for key in blocks[0] if key != "logits"]
    return {key: np.concatenate([block[key][0] for block in blocks]) for key in keys}

  def contribution(self, rows: Any) -> pd.DataFrame:
    """What each modality of a row adds to its prediction.

    Returns:
      A column a modality: its Shapley value in the log-probability of the predicted class (of the
      most probable label; of a regression, in the value). It is 0 where the modality is absent;
      together they are the difference to the prediction without any modality. And a column
      `gain_<modality>`: by how many nats the entropy is expected to fall if the absent modality
      were there; NaN where it is. Where the method has gates (ProMMA), `gate_<modality>`: how far
      its evaluator lets in what it generated for an absent modality, 0 to 1; 1 where it is present.
    """
    if len(self.modalities) > MAX_ALL_TESTED:
      raise ValueError(
        f"contribution is over all patterns, which is for {MAX_ALL_TESTED} modalities at most; "
        f"this model has {len(self.modalities)}"
      )
    patterns = np.array(missing.all_patterns(len(self.modalities)))
    is_regression = self.spec.task.kind == "regression"
    nothing = calibration.calibrate(self.calibration, self.prior[None, None], np.zeros(1, int))
    parts = []
    for block in self.iterate_blocks(rows, every_key=True):
      present = block.split.recorded
      masks = [present & pattern for pattern in patterns]
      table = [self.calibrate(self.run(block.split, mask)["logits"], mask) for mask in masks]
      table = np.stack([np.broadcast_to(nothing, table[0].shape), *table])
      index = missing.pattern_index(present)
      own = table[index + 1, np.arange(len(index))]
      worth = table if is_regression else np.log(np.maximum(table, TINY))
      shapley = contribution.row_shapley(worth, own.argmax(axis=1), present)
      expected = np.full(present.shape, np.nan)
      if self.gain is not None:
        expected = gain.expected_gain(self.gain, index, own)
      columns = {"": shapley, "gain_": expected}
      if "gate" in block.output:
        columns["gate_"] = block.output["gate"].mean(axis=0)
      names = [f"{kind}{m}" for kind in columns for m in self.modalities]
      parts.append(pd.DataFrame(np.concatenate([*columns.values()], axis=1), block.ids, names))
    return index_as(rows, pd.concat(parts))

  def evaluate(self, rows: Any) -> pd.DataFrame:
    """Metrics of the rows that have a label: columns present, metric, value, n.

    ValueError where no row has one, or a label is unknown to the model.
    """
    parts = []
    for block in self.iterate_blocks(rows):
      if block.label is not None:
        label, is_known = new_values.encode_labels(block.label, self.spec.task)
        count = block.split.recorded.sum(axis=1)
        parts.append([x[is_known] for x in (self.served_logits(block), label, count)])
    if not sum(len(label) for _, label, _ in parts):
      names = " or ".join(new_values.label_names(self.preprocessing))
      words = f"every cell of {names} is missing" if parts else f"a column {names} is needed"
      raise ValueError(f"no row has a label, {words}.")
    logits, label, count = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    groups = {"all rows": count >= 0}
    groups |= {f"{k} of {len(self.modalities)}": count == k for k in np.unique(count)}
    lines = []
    for name, where in groups.items():
      scores = measure.measure(self.spec.task, logits[None, where], label[where])
      lines += [
        {"present": name, "metric": metric, "value": float(value[0]), "n": int(where.sum())}
        for metric, value in scores.items()
      ]
    return pd.DataFrame(lines)

  def iterate_blocks(self, rows: Any, every_key: bool = False) -> Iterator[Block]:
    """Predicts some rows at a time, in order: logits alone, or `every_key` of the method."""
    row_values = sum(int(np.prod(m.shape)) for m in self.preprocessing.raw_modalities)
    block_rows = int(np.clip(BLOCK_VALUES // row_values, 64, 4096))
    reports, lines = {}, []
    for new in new_rows.read_new_rows(rows, self.preprocessing, block_rows, self.file_options):
      split, report = self.preprocessing.clean(new.rows)
      for name, found in report.items():
        reports[name] = np.add(reports.get(name, 0), found)
      lines = lines or split_checks.describe_units(self.preprocessing.modalities, split)
      ids = pd.Index(new.ids, name="id")
      yield Block(ids, new.label, split, self.run(split, split.recorded, every_key))
    for name, found in reports.items():
      if any(found):
        lines.append(f"{name}: {cleaning.CleaningReport(*found).describe()}")
    for line in lines:
      logger.warning("%s.", line)

  def run(
    self, split: Split, present: Bool[np.ndarray, "N M"], every_key: bool = False
  ) -> dict[str, np.ndarray]:
    """The output of every seed, [S, N, ...]; the logits of a row without any modality are those
    of the constant prediction."""
    starts = range(0, max(len(present), 1), BATCH_SIZES[-1])
    slices = [slice(i, i + BATCH_SIZES[-1]) for i in starts]
    parts = [self.run_batch(split, present, part, every_key) for part in slices]
    output = {key: np.concatenate([part[key] for part in parts], axis=1) for key in parts[0]}
    output["logits"] = np.where(present.any(axis=1)[:, None], output["logits"], self.prior)
    return output

  def run_batch(
    self, split: Split, present: np.ndarray, part: slice, every_key: bool
  ) -> dict[str, np.ndarray]:
    """`run` for a slice of rows, padded to one of `BATCH_SIZES`."""
    count = len(present[part])
    size = next(size for size in BATCH_SIZES if size >= count)
    pad = lambda x: np.pad(x[part], [(0, size - count)] + [(0, 0)] * (x.ndim - 1))
    given = jax.tree.map(pad, (split.inputs, split.length, present))
    output = self.forward(Inputs(*given, np.zeros(size, np.int32)))
    keys = output if every_key else ("logits",)
    return {key: np.asarray(output[key])[:, :count] for key in keys}

  def calibrate(self, logits: Float[np.ndarray, "S N C"], present: Bool[np.ndarray, "N M"]):
    """Probabilities [N, C] of all seeds together; values [N, 1] of a regression."""
    return calibration.calibrate(self.calibration, logits, present.sum(axis=1))

  def served_logits(self, block: Block) -> Float[np.ndarray, "N C"]:
    """What is served, as the logits that a metric takes."""
    served = self.calibrate(block.output["logits"], block.split.recorded)
    if self.spec.task.kind == "regression":
      return served / self.spec.task.scale
    log_p = np.log(np.maximum(served, TINY))
    is_multilabel = self.spec.task.kind == "multilabel"
    return log_p - np.log(np.maximum(1 - served, TINY)) if is_multilabel else log_p


def index_as(rows: Any, table: pd.DataFrame) -> pd.DataFrame:
  """`table` with the index of `rows` where they are a DataFrame, so that it can be assigned."""
  return table.set_axis(rows.index) if isinstance(rows, pd.DataFrame) else table
