"""A shop as a file: photos of varied size and mode, holes, ids of text, rows without a label."""

import csv
import pathlib

import numpy as np
from PIL import Image

CLASSES = ("kitchen", "shoes", "tea & coffee", "toys")
WORDS = ("red", "blue", "mug", "shoe", "teapot", "robot", "small", "large", "green", "old")
MODES = ("RGB", "L", "RGBA", "P", "I;16", "1", "CMYK")
ENDINGS = {"CMYK": "jpg", "RGB": "jpg"}  # else png


def write_shop(folder: pathlib.Path, num_rows: int = 120, num_unlabelled: int = 12) -> pathlib.Path:
  """Writes products.csv and photos/ into `folder`; returns the path of the table."""
  rng = np.random.default_rng(0)
  (folder / "photos").mkdir(parents=True)
  rows = []
  for i in range(num_rows):
    kind = int(rng.choice(len(CLASSES), p=(0.4, 0.3, 0.2, 0.1))) if i > 12 else i % len(CLASSES)
    photo = "" if rng.random() < 0.2 else write_photo(folder, i, kind, rng)
    title = " ".join(rng.choice(WORDS[2 * kind : 2 * kind + 4], 3)) + f" no {i}"
    rows.append(
      {
        "sku": f"P{i:05}",
        "photo": photo,
        "title": "" if rng.random() < 0.1 else title,
        "notes": "" if rng.random() < 0.5 else f"as new, {rng.choice(WORDS)} {i % 70}",
        "price": "NA" if rng.random() < 0.2 else f"{10 * kind + rng.random() * 20:.2f}",
        "weight": f"{rng.integers(1, 90)}",
        "brand": "" if rng.random() < 0.2 else f"brand {rng.integers(kind, kind + 5)}",
        "category": "" if i >= num_rows - num_unlabelled else CLASSES[kind],
      }
    )
  with (folder / "products.csv").open("w", newline="", encoding="utf-8") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
  return folder / "products.csv"


def write_photo(folder: pathlib.Path, i: int, kind: int, rng: np.random.Generator) -> str:
  """A photo whose brightness tells the class; returns its path inside `folder`."""
  width, height = rng.integers(20, 130, 2)
  mode = MODES[i % len(MODES)]
  pixels = np.clip(60 * kind + rng.normal(30, 20, (height, width, 3)), 0, 255).astype(np.uint8)
  image = Image.fromarray(pixels)
  if mode == "I;16":
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
  elif mode != "RGB":
    image = image.convert(mode)
  if mode == "RGBA":
    image.putalpha(Image.fromarray(pixels[..., 1]))
  name = f"photos/{i}.{ENDINGS.get(mode, 'png')}"
  image.save(folder / name)
  return name
