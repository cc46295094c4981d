"""`load`: a name or a path -> Dataset."""

import inspect
import numbers
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

from promise_jax import files
from promise_jax.data import dataset, features, streaming
from promise_jax.data import source as data_source
from promise_jax.data.builtin import synthetic
from promise_jax.data.readers import mmsa, npz

BUILTIN = ("mfeat", "emoji", "watch", "synthetic")
FASHION = "fashion_quadrants"
MANUAL_DOWNLOADS = (
  *("mosi/aligned_50", "mosi/unaligned_50", "mosei/aligned_50", "mosei/unaligned_50"),
  "sims/unaligned_39",
)
FOLDS = (0, 1)


def load(
  name: str | os.PathLike, *, data_dir: str | os.PathLike | None = None, **options
) -> dataset.Dataset:
  """The data set `name`: "mfeat", "emoji", "watch" or "synthetic", a data set prepared
  by tensorflow-datasets in `data_dir` ("mine", "mine/config"), one of `MANUAL`, made of
  a file in its manual folder (see `sentiment_builders`), "fashion_quadrants", made of a
  Debian package (see `fashion_builder`), or the path of an npz file (see `arrays`), of
  a pickle *.pkl (see `sentiment`) or of a prepared version folder.

  `data_dir` defaults to the variable TFDS_DATA_DIR, else to promise_jax/tfds in the
  user's cache folder. Options: `nonfinite` (see `cleaning.clean`), `vocabulary` (8192)
  of tokens, `scale` of a regression label, `modalities` ("image+text" or a sequence of
  names; "": all): those that are kept, in the order of the data set, `frozen`
  {modality: encoder} whose features take the place of the modality (see `frozen`),
  `stream` (False): train rows are kept on disk and read while training, for data larger
  than memory, of npz files and prepared data (see `stored`); for
  emoji `tags` (False): text is name and tags; for watch `fold` (0 or 1): which subjects
  test; for an npz file `kinds` {modality: kind} and `split_seed` (0); for a pickle
  `classes` (False): polarities are the labels; for "synthetic" those of
  `synthetic.synthetic` alone, where `modalities` is how many are made.

  A mask goes by the place of the modality among those kept and by the id of the row, so
  a protocol has one rate for each modality kept. ValueError for an unknown name, path
  or option, and for data off the convention (see `arrays`, `builders`).
  """
  name = os.fspath(name)
  make = synthetic.synthetic if name == "synthetic" else _open_source
  _check_options(name, options, make)
  if name == "synthetic":
    if not isinstance(count := options.get("modalities", 1), numbers.Integral):
      raise ValueError(
        f"modalities is {count!r}, of data set 'synthetic' it is how many are made, a whole number."
      )
    return synthetic.synthetic(**options)
  root = pathlib.Path(data_dir or default_data_dir()).expanduser()
  return _open_source(root, name, **options)


def default_data_dir() -> str:
  """Where prepared data sets are, unless an argument says otherwise."""
  return os.environ.get("TFDS_DATA_DIR") or str(files.cache_folder("tfds"))


def _open_source(
  root: pathlib.Path,
  name: str,
  *,
  nonfinite: str = "frame",
  vocabulary: int = 8192,
  scale: float | None = None,
  tags: bool = False,
  fold: int = 0,
  kinds: Mapping[str, str] | None = None,
  split_seed: int = 0,
  classes: bool = False,
  modalities: str | Sequence[str] = "",
  frozen: Mapping[str, features.EncoderSpec] | None = None,
  stream: bool = False,
) -> dataset.Dataset:
  own_file, pickled = is_file(name, ".npz"), is_file(name, ".pkl")
  for option, given, fits, where in (
    ("tags", tags, name == "emoji", "'emoji'"),
    ("fold", fold, name == "watch", "'watch'"),
    ("kinds", kinds, own_file, "npz files"),
    ("split_seed", split_seed, own_file, "npz files"),
    ("classes", classes, pickled, "pickles *.pkl"),
  ):
    if given and not fits:
      raise ValueError(f"data set {name!r} has no {option}, the option is for {where}.")
  if own_file:
    source = npz.read_npz(
      pathlib.Path(name).expanduser(),
      vocabulary=vocabulary,
      scale=scale,
      kinds=kinds,
      split_seed=split_seed,
    )
  elif pickled:
    path = pathlib.Path(name).expanduser()
    source = mmsa.read_mmsa(path, scale=scale, classes=classes)
  else:
    if fold not in FOLDS:
      raise ValueError(f"fold is {fold!r}, it must be 0 or 1.")
    config = {"emoji": "tags" if tags else "label", "watch": f"fold{fold}"}.get(name)
    full = f"{name}/{config}" if config else name
    source = _read_prepared(root, full, vocabulary=vocabulary, scale=scale)
  source = data_source.keep_modalities(source, modalities)
  if frozen and stream:
    raise ValueError("stream and frozen are given, encoders read all rows into memory; give one.")
  if frozen:
    source = features.replace_by_features(source, frozen, nonfinite=nonfinite)
  return (streaming.assemble_stream if stream else dataset.assemble)(source, nonfinite=nonfinite)


def is_file(name: str, ending: str) -> bool:
  """Whether `name` means a file with this `ending`, there or not; a file without is not
  one's own, so that one called "mfeat" cannot hide the data set."""
  return name.endswith(ending) and not pathlib.Path(name).expanduser().is_dir()


def _read_prepared(
  root: pathlib.Path, name: str, *, vocabulary: int, scale: float | None
) -> data_source.Source:
  # These import tfds: only where needed.
  from promise_jax.data.builtin import builders, fashion, sentiment_builders
  from promise_jax.data.readers import tfds

  own = builders.BUILTIN | sentiment_builders.OWN | fashion.BUILTIN
  folder = builders.write_tfds(*own[name], root) if name in own else _find(root, name)
  source = tfds.read_tfds(folder, vocabulary=vocabulary, scale=scale)
  if name in builders.BUILTIN:
    card = (builders.EMBEDDED / f"{source.name}.md").read_text("utf-8")
    source = source._replace(card=card)
  return source


def _find(root: pathlib.Path, name: str) -> pathlib.Path:
  """The version folder that `name` means, a prepared data set or a path."""
  found = prepared_folders(root)
  if name in found:
    return found[name]
  path = pathlib.Path(name).expanduser()
  if (path / "dataset_info.json").is_file():
    return path.resolve()
  if path.exists():
    raise ValueError(
      f"{name!r} holds no dataset_info.json: a path must be a file *.npz or a prepared "
      "tensorflow-datasets folder, with its version as in mine/1.0.0, or a file *.pkl."
    )
  raise ValueError(
    f"no data set, folder or file {name!r}; known in {root} are "
    f"{', '.join(dict.fromkeys((*BUILTIN, *sorted(found))))}; of files of your own: "
    f"{', '.join(MANUAL_DOWNLOADS)}; of a Debian package: {FASHION}."
  )


def prepared_folders(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """{name or name/config: folder of its newest version} under `root`."""

  def version(folder: pathlib.Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.name.split(".") if part.isdigit())

  files = [*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json")]
  folders = (f.parent for f in files if not f.parent.name.startswith("incomplete."))
  return {f.parent.relative_to(root).as_posix(): f for f in sorted(folders, key=version)}


def _check_options(name: str, options: dict, function: Callable) -> None:
  parameters = inspect.signature(function).parameters.values()
  known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
  for option in options:
    if option not in known:
      raise ValueError(
        f"data set {name!r} has no option {option!r}, its options are {', '.join(known)}."
      )
