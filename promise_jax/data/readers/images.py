"""Images of any size, mode and format that Pillow reads, as squares of one size.

An image is turned as its EXIF says, laid on white where it is transparent, scaled as a whole so
that its longer side fits, and centred on white. 16 bits become 8.
"""

import functools
import hashlib
import io
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from promise_jax import files

FORMAT = 1  # of a decoded image: another number makes cached ones unused


def read_images(
  contents: Sequence[pathlib.Path | bytes | None], size: int, cache: pathlib.Path | None = None
) -> tuple[UInt8[np.ndarray, "N {size} {size} 3"], Bool[np.ndarray, " N"]]:
  """Decodes and resizes images in threads, and says which could be read.

  Args:
    contents: files, or their bytes; None: no image, which counts as not read.
    size: height and width of the results; zeros where nothing could be read.
    cache: a folder for results, named by a hash of paths, sizes and times of change.
  """
  make = functools.partial(decode_images, contents, size)
  found = load_or_make(make, contents, f"{size}-{FORMAT}", cache)
  return found["images"], found["readable"]


def decode_images(contents: Sequence[pathlib.Path | bytes | None], size: int) -> dict:
  """The "images", and which are "readable"."""
  images = np.zeros((len(contents), size, size, 3), np.uint8)
  readable = np.zeros(len(contents), bool)

  def read(i: int) -> None:
    try:
      images[i] = decode_image(contents[i], size)
      readable[i] = True
    except Exception:  # a damaged file can fail in any way; the caller counts them
      pass

  # A huge image, which may be a decompression bomb, is an error and not only a warning.
  with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    list(pool.map(read, [i for i, content in enumerate(contents) if content is not None]))
  return {"images": images, "readable": readable}


def load_or_make(
  make: Callable[[], dict], contents: Sequence, form: str, cache: pathlib.Path | None
) -> dict[str, np.ndarray]:
  """The arrays that `make()` returns of `contents`; where all of these are files, they are kept in
  `cache`, under a name with `form`."""
  if not cache or not all(isinstance(one, pathlib.Path | None) for one in contents):
    return make()
  path = cache / f"{hash_files(contents)}-{form}.npz"
  if path.exists():
    with np.load(path) as file:
      return dict(file)
  arrays, content = make(), io.BytesIO()
  np.savez(content, **arrays)  # photos are not smaller when compressed
  cache.mkdir(parents=True, exist_ok=True)
  files.write_bytes(path, content.getvalue())
  return arrays


def hash_files(contents: Sequence) -> str:
  """A text that changes when the files at some paths do, by their sizes and times of change.

  The time of the last change of the content can be set, as archives do; that of the entry cannot.
  """
  digest = hashlib.sha256()
  for content in contents:
    try:
      stat = content.stat() if isinstance(content, pathlib.Path) else None
    except (OSError, ValueError):  # ValueError: a character that no path has
      stat = None
    times = stat and (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    digest.update(f"{content}\0{times}\n".encode())
  return digest.hexdigest()[:24]


def decode_image(content: pathlib.Path | bytes, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
  """One image; raises whatever Pillow raises."""
  with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
    image.draft("RGB", (2 * size, 2 * size))  # JPEG: decodes no more detail than is needed
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
      values = np.asarray(image, np.float64)
      highest = 65535 if image.mode.startswith("I;16") else max(values.max(), 255)
      image = Image.fromarray(np.round(255 * values.clip(0) / highest).astype(np.uint8))
    if image.has_transparency_data:
      image = image.convert("RGBA")
      image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    scale = size / max(image.size)
    width, height = (max(round(scale * side), 1) for side in image.size)
    image = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (size, size), "white")
    square.paste(image, ((size - width) // 2, (size - height) // 2))
    return np.asarray(square)
