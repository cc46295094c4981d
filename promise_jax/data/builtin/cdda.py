"""Things of the game Cataclysm: Dark Days Ahead, as text, picture, numbers and materials.

7,192 items of 10 types; 57 % have a picture, 94 % name their materials. The files are not ours to
pass on (CC BY-SA 3.0); Debian and Ubuntu have them,

  apt-get install cataclysm-dda-data

`load("cdda")` makes an npz file of them once, in the data folder. It was made for version 0.F.

  text       the description, as words
  image      32 x 32, of the first of four tile sets that has the item; absent where none has
  stats      f32[14]: weight (g), volume (ml), price and price_postapoc (as written), bashing,
             cutting, to_hit, as sign(x) log(1 + |x|), 0 where unknown; then which are unknown
  materials  f32[64] of 0 and 1: the 64 most frequent ones; absent where an item has none of these
  label      the type of the item; an armour that is a tool is an armour

Items of a family, that is with one description or name, or one a copy of the other, lie in one
split: of the families, in a random order, a quarter is test and 15 % are valid.
"""

import collections
import json
import pathlib
import re

import numpy as np
from PIL import Image

from promise_jax import files
from promise_jax.checks import check_choice

FOLDER = pathlib.Path("/usr/share/games/cataclysm-dda")
TYPES = ("AMMO", "ARMOR", "BIONIC_ITEM", "BOOK", "COMESTIBLE", "GENERIC", "GUN", "GUNMOD")
TYPES += ("MAGAZINE", "TOOL")
SAME_TYPE = {"TOOL_ARMOR": "ARMOR"}
TILE_SETS = ("RetroDaysTileset", "ChestHole16Tileset", "UltimateCataclysm", "MshockXotto+")
STATS = ("weight", "volume", "price", "price_postapoc", "bashing", "cutting", "to_hit")
UNITS = {"mg": 1e-3, "g": 1, "kg": 1e3, "ml": 1, "L": 1e3, "cent": 0.01, "USD": 1, "kUSD": 1e3}
VOLUME = 250  # ml, the unit of a volume that is a number
NUM_MATERIALS = 64
SIDE = 32


def make_file(root: pathlib.Path) -> pathlib.Path:
  """Makes cdda.npz under `root` unless it is there; returns its path."""
  path = root / "cdda.npz"
  if not path.exists():
    if not FOLDER.is_dir():
      raise ValueError(f"cdda: {FOLDER} is not there, apt-get install cataclysm-dda-data.")
    arrays = make_arrays(FOLDER)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_npz(path, arrays)
  return path


def make_arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of the npz file, see `readers.npz`."""
  known = read_known(folder)
  items = [i for i in known.values() if "id" in i and find_text(i, "description", known)]
  items = [i for i in items if SAME_TYPE.get(i["type"], i["type"]) in TYPES]
  materials = [find_materials(item, known) for item in items]
  count = collections.Counter(m for names in materials for m in dict.fromkeys(names))
  frequent = sorted(name for name, _ in count.most_common(NUM_MATERIALS))
  one_hot = np.array([[m in names for m in frequent] for names in materials], np.float32)
  images, has_image = draw_images(folder, [item["id"] for item in items])
  group = join_families(items, known)
  return {
    "x_image": images,
    "present_image": has_image,
    "x_text": np.array([find_text(item, "description", known) for item in items]),
    "x_stats": np.stack([describe_stats(item, known) for item in items]),
    "x_materials": one_hot,
    "present_materials": one_hot.any(axis=1),
    "y": np.array([TYPES.index(SAME_TYPE.get(i["type"], i["type"])) for i in items]),
    "classes": np.array([name.lower().replace("_", " ") for name in TYPES]),
    "group": group,
    "id": np.arange(len(items)),
    "split": split_families(group),
  }


def read_known(folder: pathlib.Path) -> dict[str, dict]:
  """{id, or name of an abstract item: item} of game and mods; the first of a name counts."""
  known = {}
  paths = [*folder.glob("json/**/*.json"), *folder.glob("mods/**/*.json")]
  for path in sorted(paths, key=str):
    content = json.loads(path.read_text("utf-8"))
    for item in content if isinstance(content, list) else [content]:
      if isinstance(item, dict) and item.get("type") in (*TYPES, *SAME_TYPE):
        known.setdefault(item.get("id", item.get("abstract")), item)
  return known


def find_value(item: dict, key: str, known: dict[str, dict]):
  """The value of an item, or else that of the item it is a copy of; None if none has it."""
  passed = []
  while key not in item:
    passed.append(item)
    item = known.get(item.get("copy-from"))
    if item is None or item in passed:
      return None
  return item[key]


def find_text(item: dict, key: str, known: dict[str, dict]) -> str:
  """A text, which may be written as singular and plural."""
  text = find_value(item, key, known) or ""
  if isinstance(text, dict):
    text = next((text[k] for k in ("str", "str_sp", "str_pl") if text.get(k)), "")
  return text


def find_materials(item: dict, known: dict[str, dict]) -> list[str]:
  """The names of what an item is made of."""
  found = find_value(item, "material", known) or []
  found = [found] if isinstance(found, str | dict) else found
  return [m["type"] if isinstance(m, dict) else m for m in found]


def describe_stats(item: dict, known: dict[str, dict]) -> np.ndarray:
  """f32[14], see above."""
  values = [parse_number(find_value(item, key, known), key) for key in STATS]
  numbers = np.array([0 if v is None else v for v in values], float)
  unknown = np.array([v is None for v in values])
  return np.concatenate([np.sign(numbers) * np.log1p(abs(numbers)), unknown]).astype(np.float32)


def parse_number(value, key: str) -> float | None:
  """A number, or a text such as "1 kg 50 g"; None where there is none."""
  if isinstance(value, int | float):
    return value * (VOLUME if key == "volume" else 1)
  parts = re.findall(r"(-?[\d.]+)\s*([A-Za-z]+)", value if isinstance(value, str) else "")
  for _, unit in parts:
    check_choice(f"cdda: the unit of a {key}", unit, tuple(UNITS))
  return sum(float(number) * UNITS[unit] for number, unit in parts) if parts else None


def join_families(items: list[dict], known: dict[str, dict]) -> np.ndarray:
  """i[N]: for all items of a family the number of one of them."""
  parent, first = list(range(len(items))), {}
  numbers = {item["id"]: i for i, item in enumerate(items)}

  def root(i: int) -> int:
    while parent[i] != i:
      i = parent[i]
    return i

  for i, item in enumerate(items):
    same = [first.setdefault(("description", find_text(item, "description", known)), i)]
    same += [numbers.get(item.get("copy-from"), i)]
    same += [first.setdefault(("name", find_text(item, "name", known)), i)]
    for other in same:
      parent[root(i)] = root(other)
  return np.array([root(i) for i in range(len(items))])


def split_families(group: np.ndarray, seed: int = 1) -> np.ndarray:
  """The split of every row, by name."""
  families = np.random.default_rng(seed).permutation(np.unique(group))
  num_test, num_valid = len(families) * 25 // 100, len(families) * 15 // 100
  split = np.full(len(group), "train")
  split[np.isin(group, families[:num_test])] = "test"
  split[np.isin(group, families[num_test : num_test + num_valid])] = "valid"
  return split


def draw_images(folder: pathlib.Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
  """(u8[N, 32, 32, 3], whether there is one bool[N]): tiles on black, scaled."""
  images, has_image = np.zeros((len(names), SIDE, SIDE, 3), np.uint8), np.zeros(len(names), bool)
  for tile_set in TILE_SETS:
    tiles = find_tiles(folder / "gfx" / tile_set)
    for i, name in enumerate(names):
      if not has_image[i] and name in tiles:
        tile = tiles[name]
        black = Image.new("RGBA", tile.size, "black")
        scaled = Image.alpha_composite(black, tile).convert("RGB").resize((SIDE, SIDE))
        images[i], has_image[i] = np.asarray(scaled), True
  return images, has_image


def find_tiles(folder: pathlib.Path) -> dict[str, Image.Image]:
  """{id: its tile in the foreground}; tiles are counted through all sheets of a set."""
  config = json.loads((folder / "tile_config.json").read_text("utf-8"))
  usual, places, numbers = config["tile_info"][0], [], {}
  for sheet in config["tiles-new"]:
    with Image.open(folder / sheet["file"]) as opened:
      image = opened.convert("RGBA")
    width = sheet.get("sprite_width", usual["width"])
    height = sheet.get("sprite_height", usual["height"])
    for y in range(image.height // height):
      places += [(image, x * width, y * height, width, height) for x in range(image.width // width)]
    for tile in sheet["tiles"]:
      number = tile.get("fg")
      while isinstance(number, list | dict):  # several, as when it is turned, or by chance
        number = number["sprite"] if isinstance(number, dict) else next(iter(number), None)
      for name in [tile["id"]] if isinstance(tile["id"], str) else tile["id"]:
        numbers.setdefault(name, number)
  places = {name: places[n] for name, n in numbers.items() if n is not None and n < len(places)}
  return {name: s.crop((x, y, x + w, y + h)) for name, (s, x, y, w, h) in places.items()}
