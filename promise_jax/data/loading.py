"""`load`: the name of a data set, or the path of a file of your own -> Dataset."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from promise_jax import files
from promise_jax.checks import check_choice
from promise_jax.data import cleaning, dataset, feature_folders, features, pretrained, streaming
from promise_jax.data import source as data_source
from promise_jax.data.builtin import cdda, flights, synthetic
from promise_jax.data.feature_encoders import EncoderSpec
from promise_jax.data.readers import hdf5, mmin, mmsa, npz, table, table_file

BUILTIN = ("mfeat", "emoji", "watch", "synthetic", "flights")
FASHION, CDDA = "fashion_quadrants", "cdda"  # need Debian packages


@dataclasses.dataclass(frozen=True)
class CommonOptions:
  """How any data set that is read, not made, becomes arrays."""

  nonfinite: str = "auto"  # what NaN and inf drop, see cleaning.Rules
  zeros: str = "auto"  # what rows of zeros alone are, see cleaning.Rules
  modalities: str | Sequence[str] = ""  # that are kept, as "image+text"; all if empty
  # {modality: encoder} whose features take the place of the modality, see `features`.
  encoders: Mapping[str, EncoderSpec] = dataclasses.field(default_factory=dict)
  stream: bool = False  # keeps the train rows on disk, for data larger than memory
  # {modality: its folder of <id>.npy}, also as "audio=FOLDER", see `feature_folders`
  features: Mapping[str, str] | str = ""
  root: str = ""  # the folder that paths start from; that of the data
  allow_missing_files: bool = False  # more than a fifth of the files of a modality may be missing


@dataclasses.dataclass(frozen=True)
class EmojiOptions(data_source.ReadOptions):
  """How the emoji are read."""

  tags: bool = False  # the text is the name and the tags, not the name alone


@dataclasses.dataclass(frozen=True)
class WatchOptions(data_source.ReadOptions):
  """How the exercises are read."""

  fold: int = 0  # which subjects test; 0 or 1


READERS = {  # {ending of a file, or name: (its options, what reads it; None: `read_prepared`)}
  ".npz": (npz.NpzOptions, npz.read_npz),
  ".pkl": (mmsa.MmsaOptions, mmsa.read_mmsa),
  **dict.fromkeys((".h5", ".hdf5"), (hdf5.Hdf5Options, hdf5.read_hdf5)),
  **dict.fromkeys(table_file.ENDINGS, (table.TableOptions, table.read_table)),
  CDDA: (npz.NpzOptions, npz.read_npz),  # `load` makes an npz file of it
  "flights": (flights.FlightsOptions, lambda _, options: flights.read_flights(options)),
  "emoji": (EmojiOptions, None),
  "watch": (WatchOptions, None),
}


def load(
  name: str | os.PathLike, *, data_dir: str | os.PathLike | None = None, **options: Any
) -> dataset.Dataset:
  """Loads a data set.

  Args:
    name: "mfeat", "emoji", "watch", "flights", "synthetic", "fashion_quadrants" or "cdda"; the path
      of an npz file (see `readers.npz`), of a table *.csv, *.tsv, *.parquet, *.arrow or *.feather
      (`readers.table`), of a sentiment pickle *.pkl (`readers.mmsa`), of an HDF5 file *.h5 or
      *.hdf5 (`readers.hdf5`) or a folder of MMIN (`readers.mmin`); the name or folder of a
      data set that tensorflow-datasets prepared in `data_dir` ("mine", "mine/config", see
      `builtin.builders`).
    data_dir: default: TFDS_DATA_DIR, else promise_jax/tfds in the user's cache folder.
    **options: fields of `CommonOptions` and of the source: `npz.NpzOptions`,
      `table.TableOptions`, `mmsa.MmsaOptions`, `hdf5.Hdf5Options`, `mmin.MminOptions`,
      `EmojiOptions`, `WatchOptions`, `flights.FlightsOptions`, of other prepared data
      `source.ReadOptions`; for "synthetic" those of `synthetic.SyntheticOptions` alone.

  Raises:
    ValueError: an unknown name or option, or data that break the convention.
  """
  name = os.fspath(name)
  if name == "synthetic":
    (own,) = parse_options(name, options, synthetic.SyntheticOptions)
    return synthetic.make_synthetic(own)
  kind, reader = find_reader(name)
  own, common = parse_options(name, options, kind, CommonOptions)
  if common.encoders and common.stream:
    raise ValueError("stream and encoders are given, encoders read all rows into memory; give one.")
  root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or files.cache_folder("tfds"))
  root = root.expanduser()
  path = cdda.make_file(root) if name == CDDA else pathlib.Path(name).expanduser()
  if isinstance(own, table.TableOptions) and "=" in common.modalities:
    own = dataclasses.replace(own, groups=common.modalities)
    common = dataclasses.replace(common, modalities="")
  size = max(map(pretrained.image_size, common.encoders.values()), default=0)
  if size and kind is table.TableOptions and "image_size" not in options:
    own = dataclasses.replace(own, image_size=size)
  source = reader(path, own) if reader else read_prepared(root, name, own)
  if common.features:
    folders = table.parse_pairs("features", common.features)
    start = pathlib.Path(common.root or path.parent).expanduser()
    allow = common.allow_missing_files
    source = feature_folders.add_folders(source, folders, start, allow)
  source = data_source.keep_modalities(source, common.modalities)
  rules = cleaning.Rules(common.nonfinite, common.zeros)
  if common.encoders:
    source = features.extract_features(source, common.encoders, rules)
  assemble = streaming.assemble_stream if common.stream else dataset.assemble
  return assemble(source, rules)


def find_reader(name: str) -> tuple[type, Callable | None]:
  """The entry of `READERS` for what `name` means; the ending says what a file is."""
  path = pathlib.Path(name).expanduser()
  ending = path.suffix.lower()
  ending = "" if path.is_dir() and ending not in table_file.ENDINGS else ending
  if (path / "target").is_dir():
    return mmin.MminOptions, mmin.read_mmin
  if ending and path.is_file() and ending not in READERS:
    known = ", ".join(f"*{e}" for e in READERS if e.startswith("."))
    raise ValueError(f"{name}: files of this kind are not read, save it as one of {known}.")
  return READERS.get(ending) or READERS.get(name, (data_source.ReadOptions, None))


def parse_options(name: str, options: Mapping[str, Any], *kinds: type) -> list:
  """One instance of each of the dataclasses `kinds`, made of the options that are theirs; several
  may read one."""
  fields = {kind: [field.name for field in dataclasses.fields(kind)] for kind in kinds}
  known = dict.fromkeys(name for names in fields.values() for name in names)
  for option in options:
    if option not in known:
      of_tables = option in table.TableOptions.__dataclass_fields__
      words = f" (a table {', '.join(f'*{e}' for e in table_file.ENDINGS)} has)" * of_tables
      raise ValueError(
        f"data set {name!r} has no option {option!r}{words}, its options are {', '.join(known)}."
      )
  return [kind(**{k: v for k, v in options.items() if k in fields[kind]}) for kind in kinds]


def read_prepared(
  root: pathlib.Path, name: str, options: data_source.ReadOptions
) -> data_source.Source:
  """A data set that tensorflow-datasets prepared, or prepares now if it is ours."""
  # These import tensorflow-datasets: only where needed.
  from promise_jax.data.builtin import builders, fashion
  from promise_jax.data.readers import tfds

  if isinstance(options, EmojiOptions):
    name = "emoji/tags" if options.tags else "emoji/label"
  if isinstance(options, WatchOptions):
    check_choice("fold", str(options.fold), ("0", "1"))
    name = f"watch/fold{options.fold}"
  ours = builders.BUILTIN | fashion.BUILTIN
  folder = builders.write_tfds(*ours[name], root) if name in ours else find_prepared(root, name)
  source = tfds.read_tfds(folder, options)
  if name in builders.BUILTIN:
    card = builders.EMBEDDED / f"{source.name}.md"
    source = source._replace(card=card.read_text("utf-8"))
  return source


def find_prepared(root: pathlib.Path, name: str) -> pathlib.Path:
  """The version folder that `name` means, a prepared data set or a path."""
  folders = list_prepared(root)
  if name in folders:
    return folders[name]
  path = pathlib.Path(name).expanduser()
  if (path / "dataset_info.json").is_file():
    return path.resolve()
  raise ValueError(
    f"{name!r} is no data set: a path must be a file *.npz, *.csv, *.parquet, *.h5 or *.pkl, "
    "or a prepared tensorflow-datasets folder with its version, as mine/1.0.0; known in "
    f"{root} are {', '.join(dict.fromkeys((*BUILTIN, *sorted(folders))))}; of a Debian package: "
    f"{FASHION}, {CDDA}."
  )


def list_prepared(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """{name or name/config: folder of its newest version} under `root`."""

  def version(folder: pathlib.Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.name.split(".") if part.isdigit())

  infos = [*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json")]
  folders = (f.parent for f in infos if not f.parent.name.startswith("incomplete."))
  return {f.parent.relative_to(root).as_posix(): f for f in sorted(folders, key=version)}
