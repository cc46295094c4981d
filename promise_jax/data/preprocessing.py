"""`Preprocessing`: how new rows become what a model was trained on.

It is fitted on the train rows and saved with every run. Whatever later reads new rows uses it
and fits nothing of its own.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from promise_jax.data import cleaning, scaling
from promise_jax.data import source as data_source
from promise_jax.data.cleaning import CleaningReport, CleanModality
from promise_jax.data.readers.table_columns import TableColumns
from promise_jax.types import Modality, Split


@dataclasses.dataclass(frozen=True)
class EncodedModality:
  """A modality whose features, made by a frozen encoder, take its place."""

  raw: Modality  # what the encoder reads
  encoder: str  # the name of a pretrained network, or "package.module:function"
  is_text: bool = False  # it reads texts, `raw` are the token ids that are made of them
  sha256: str = ""  # of the files of a pretrained network


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """What is fixed about the inputs of a model once its train rows have been read."""

  modalities: tuple[Modality, ...]  # no open dimension any more
  scale: Mapping[str, scaling.Scale]  # {modality: four arrays f32[D]}
  rules: cleaning.Rules = cleaning.DEFAULTS  # what counts as nothing
  texts: tuple[str, ...] = ()  # modalities of kind tokens that are made of strings
  encoded: Mapping[str, EncodedModality] = dataclasses.field(default_factory=dict)
  columns: TableColumns | None = None  # where the data are a table
  # {modality: that of its files <id>.npy}
  folders: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def raw_modalities(self) -> tuple[Modality, ...]:
    """The modalities as they are read, before frozen encoders."""
    return tuple(self.encoded[m.name].raw if m.name in self.encoded else m for m in self.modalities)

  def without_encoders(self) -> "Preprocessing":
    """That of rows which give the features of frozen encoders in place of what these read."""
    rest = tuple(m.name for m in self.modalities if m.name not in self.encoded)
    texts = tuple(name for name in self.texts if name in rest)
    columns = self.columns and self.columns.keep(rest)
    return dataclasses.replace(self, encoded={}, texts=texts, columns=columns)

  def clean(self, rows: data_source.Rows) -> tuple[Split, dict[str, CleaningReport]]:
    """The rows as arrays, padded, without holes, standardised; and what was wrong with them.
    ValueError where an array has another shape than in training, or a token id or pixel is not
    allowed."""
    raw = cleaned = clean_rows(self.raw_modalities, rows, self.rules)
    if self.encoded:
      from promise_jax.data import features  # frozen encoders alone need it

      rows = features.encode_rows(self, rows, cleaned)
      cleaned = clean_rows(self.modalities, rows, self.rules)
    split, report = make_split(self.modalities, rows, cleaned, self.scale)
    # Of an encoded modality both what was read and the features can be wrong.
    report |= {m: CleaningReport(*np.add(raw[m].report, report[m])) for m in self.encoded}
    return split, report

  def to_json(self) -> dict[str, Any]:
    """Plain values; `from_json` reads them back exactly."""
    return {
      "modalities": [m._asdict() for m in self.modalities],
      "scale": {name: [a.tolist() for a in scale] for name, scale in self.scale.items()},
      **vars(self.rules),
      "texts": list(self.texts),
      "encoded": {n: {**vars(e), "raw": e.raw._asdict()} for n, e in self.encoded.items()},
      "columns": None if self.columns is None else self.columns.to_json(),
      "folders": dict(self.folders),
    }


def from_json(value: Mapping[str, Any]) -> Preprocessing:
  """What `Preprocessing.to_json` wrote."""
  columns = value["columns"] and TableColumns.from_json(value["columns"])
  encoded = {
    name: EncodedModality(**{**e, "raw": Modality.from_json(e["raw"])})
    for name, e in value["encoded"].items()
  }
  scale = {
    name: scaling.Scale(*(np.array(a, np.float32) for a in arrays))
    for name, arrays in value["scale"].items()
  }
  modalities = tuple(map(Modality.from_json, value["modalities"]))
  texts = tuple(value["texts"])
  rules = cleaning.Rules(value["nonfinite"], value["zeros"])
  return Preprocessing(modalities, scale, rules, texts, encoded, columns, value["folders"])


def clean_rows(
  modalities: tuple[Modality, ...], rows: data_source.Rows, rules: cleaning.Rules
) -> dict[str, CleanModality]:
  """Cleans every modality of some rows."""
  return {
    m.name: cleaning.clean_modality(
      m, rows.inputs[m.name], rows.length.get(m.name), rows.recorded[:, i], rules
    )
    for i, m in enumerate(modalities)
  }


def make_split(
  modalities: tuple[Modality, ...],
  rows: data_source.Rows,
  cleaned: Mapping[str, CleanModality],
  scale: Mapping[str, scaling.Scale],
) -> tuple[Split, dict[str, CleaningReport]]:
  """The standardised split of cleaned rows, and what was wrong with them."""
  report = {name: part.report for name, part in cleaned.items()}
  for name, fitted in scale.items():
    part = cleaned[name]
    count = scaling.count_clipped(part.values, part.kept_mask, fitted)
    report[name] = part.report._replace(num_clipped=count)
  split = Split(
    inputs={
      m: scaling.standardise(c.values, c.kept_mask, scale.get(m)) for m, c in cleaned.items()
    },
    length={m.name: cleaned[m.name].length for m in modalities if m.kind == "sequence"},
    recorded=np.stack([c.recorded for c in cleaned.values()], axis=1),
    label=rows.label,
    id=rows.id.astype(np.int32),
  )
  return split, report
