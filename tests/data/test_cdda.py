"""Items of Cataclysm-DDA: a small game by hand, and the installed one."""

import json

import numpy as np
import pytest
from PIL import Image

from promise_jax import data
from promise_jax.data.builtin import cdda

GAME = [
  {"type": "TOOL", "abstract": "base", "weight": "1 kg 500 g", "material": ["iron"]},
  {"type": "TOOL", "id": "axe", "name": "axe", "description": "Cuts.", "copy-from": "base"},
  {"type": "TOOL_ARMOR", "id": "hat", "name": {"str": "hat"}, "description": "Warm.", "volume": 2},
  {"type": "GUN", "id": "gun", "name": "hat", "description": {"str": "Loud."}, "to_hit": -1},
  {"type": "GUN", "id": "bow", "copy-from": "gun", "description": "Quiet.", "price": "3 USD"},
  {"type": "TOOL", "id": "ring", "name": "ring", "description": "Round.", "copy-from": "loop"},
  {"type": "TOOL", "abstract": "loop", "copy-from": "ring"},
  {"type": "MONSTER", "id": "rat", "description": "No item."},
  {"type": "TOOL", "id": "nothing", "name": "without description"},
]  # fmt: skip
MOD = [{"type": "TOOL", "id": "axe", "description": "The first of a name counts."}]


@pytest.fixture
def folder(tmp_path):
  for place, items in (("json/items.json", GAME), ("mods/a/items.json", MOD)):
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text(json.dumps(items), "utf-8")
  for tile_set in cdda.TILE_SETS:
    own = tmp_path / "gfx" / tile_set
    own.mkdir(parents=True)
    sheets = [{"file": "a.png", "tiles": []}]
    if tile_set == cdda.TILE_SETS[1]:  # two tiles in the first sheet, one in the second
      tiles = [{"id": ["axe", "x"], "fg": [{"weight": 1, "sprite": 2}]}, {"id": "hat", "fg": 1}]
      sheets[0]["tiles"] = [{"id": "gun", "fg": []}, {"id": "bow", "fg": 3}]
      sheets += [{"file": "b.png", "sprite_width": 4, "sprite_height": 4, "tiles": tiles}]
    config = {"tile_info": [{"width": 2, "height": 2}], "tiles-new": sheets}
    (own / "tile_config.json").write_text(json.dumps(config), "utf-8")
    pixels = np.zeros((2, 4, 4), np.uint8)
    pixels[:, 2:] = [0, 255, 0, 255]
    Image.fromarray(pixels).save(own / "a.png")
    Image.new("RGBA", (4, 4), (200, 0, 0, 255)).save(own / "b.png")
  return tmp_path


def test_a_small_game(folder):
  arrays = cdda.make_arrays(folder)
  assert arrays["x_text"].tolist() == ["Cuts.", "Warm.", "Loud.", "Quiet.", "Round."]
  names = arrays["classes"][arrays["y"]].tolist()
  assert names == ["tool", "armor", "gun", "gun", "tool"]
  assert arrays["group"][1] == arrays["group"][2] == arrays["group"][3]  # a name, and a copy
  assert len(set(arrays["group"].tolist())) == 3
  assert arrays["present_materials"].tolist() == [True, False, False, False, False]
  stats = arrays["x_stats"]
  assert stats[0, 0] == pytest.approx(np.log1p(1500)) and stats[0, 7] == 0
  assert stats[1, 1] == pytest.approx(np.log1p(500))
  assert stats[3, [2, 6]] == pytest.approx([np.log(4), -np.log(2)])
  assert stats[4].tolist() == [0] * 7 + [1] * 7  # a copy of itself has nothing
  assert arrays["present_image"].tolist() == [True, True, False, False, False]
  assert (arrays["x_image"][0] == [200, 0, 0]).all() and (arrays["x_image"][1] == [0, 255, 0]).all()


def test_the_file_is_made_once_and_needs_the_package(folder, tmp_path, monkeypatch):
  monkeypatch.setattr(cdda, "FOLDER", tmp_path / "none")
  with pytest.raises(ValueError, match="is not there, apt-get install cataclysm-dda-data"):
    data.load("cdda", data_dir=tmp_path / "made")
  monkeypatch.setattr(cdda, "FOLDER", folder)
  path = cdda.make_file(tmp_path / "made")
  before = path.stat().st_mtime_ns
  assert cdda.make_file(tmp_path / "made").stat().st_mtime_ns == before


@pytest.mark.skipif(not cdda.FOLDER.is_dir(), reason="apt-get install cataclysm-dda-data")
def test_the_installed_game(tmp_path):
  found = data.load("cdda", data_dir=tmp_path)
  kinds = [(m.name, m.kind) for m in found.spec.modalities]
  assert kinds == [
    ("image", "image"),
    ("text", "tokens"),
    ("stats", "vector"),
    ("materials", "vector"),
  ]
  splits = [found.split(name) for name in found.splits]
  assert [len(split.id) for split in splits] == [4294, 1064, 1834]
  label = np.concatenate([split.label for split in splits])
  assert np.bincount(label).tolist() == [630, 1459, 131, 584, 1272, 1407, 442, 135, 319, 813]
  recorded = np.concatenate([split.recorded for split in splits])
  assert recorded.sum(0).tolist()[:3] == [4107, 7192, 7192]
