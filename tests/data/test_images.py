"""Images of any size, mode and format become squares; what is damaged is not read."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from promise_jax.data.readers import images

GREY = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)


def encode(image, form="PNG", **options):
  file = io.BytesIO()
  image.save(file, form, **options)
  return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16", "1", "CMYK", "LA", "F", "I"])
def test_every_mode_shows_the_same_grey(mode):
  wide = np.repeat(GREY, 2, 1) if mode != "1" else np.where(np.repeat(GREY, 2, 1) > 99, 255, 0)
  grey = Image.fromarray(wide.astype(np.uint8))
  if mode == "I;16":
    content = encode(Image.fromarray(wide.astype(np.uint16) * 257))
  elif mode in ("CMYK", "F", "I"):
    content = encode(grey.convert(mode), "TIFF")
  else:
    content = encode(grey.convert(mode))
  found = images.decode_image(content, 8)
  assert found.shape == (8, 8, 3) and (found[[0, 1, 6, 7]] == 255).all()  # white bands
  np.testing.assert_allclose(found[2:6], np.repeat(wide[..., None], 3, 2), atol=1)


def test_transparency_lies_on_white_and_exif_turns():
  red = Image.new("RGBA", (2, 2), (255, 0, 0, 255))
  red.putpixel((0, 0), (0, 0, 0, 0))
  assert images.decode_image(encode(red), 2).tolist()[0] == [[255, 255, 255], [255, 0, 0]]
  palette = Image.new("P", (2, 2), 1)
  palette.putpalette([9, 9, 9, 40, 50, 60])
  palette.putpixel((1, 1), 0)
  found = images.decode_image(encode(palette, transparency=0), 2).tolist()
  assert found == [[[40, 50, 60]] * 2, [[40, 50, 60], [255, 255, 255]]]
  exif = Image.Exif()
  exif[0x0112] = 6  # turn by a quarter, clockwise
  turned = images.decode_image(encode(Image.fromarray(GREY), exif=exif), 4)
  np.testing.assert_array_equal(turned[..., 0], np.rot90(GREY, -1))


@pytest.mark.parametrize("size", [(1, 200), (300, 1), (1, 1), (7, 5)])
def test_any_size_fits(size):
  found = images.decode_image(encode(Image.new("RGB", size, "blue")), 6)
  blue = (found == [0, 0, 255]).all(-1)
  assert blue.any() and (found[~blue] == 255).all()
  assert blue.sum() == max(round(6 * size[0] / max(size)), 1) * max(
    round(6 * size[1] / max(size)), 1
  )


def png_chunk(kind, content):
  return (
    struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
  )


def make_bomb():
  """A small file that says it has 40,000 x 40,000 pixels."""
  header = struct.pack(">IIBBBBB", 40000, 40000, 8, 0, 0, 0, 0)
  body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
  return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def make_large():
  """One that Pillow would only warn of."""
  return make_bomb().replace(struct.pack(">I", 40000) * 2, struct.pack(">I", 11000) * 2)


def test_what_cannot_be_read_is_said(tmp_path):
  good = encode(Image.new("RGB", (64, 64), "red"), "JPEG")
  (tmp_path / "folder.png").mkdir()
  contents = [good, good[:300], b"", b"no image", make_bomb(), make_large(), None]
  contents += [tmp_path / "none.png", tmp_path / "folder.png"]
  found, readable = images.read_images(contents, 4)
  assert readable.tolist() == [True] + [False] * 8
  assert not found[1:].any() and found.shape == (9, 4, 4, 3)


def test_results_are_kept_until_a_file_changes(tmp_path, monkeypatch):
  photo, cache = tmp_path / "a.png", tmp_path / "cache"
  photo.write_bytes(encode(Image.new("RGB", (5, 5), "red")))
  contents = [photo, None, tmp_path / "none.png"]
  first = images.read_images(contents, 4, cache)
  decode = images.decode_image
  monkeypatch.setattr(images, "decode_image", lambda *args: pytest.fail("decoded again"))
  again = images.read_images(contents, 4, cache)
  np.testing.assert_array_equal(first[0], again[0])
  assert again[1].tolist() == [True, False, False]
  monkeypatch.setattr(images, "decode_image", decode)
  photo.write_bytes(encode(Image.new("RGB", (6, 6), "blue")))
  assert images.read_images(contents, 4, cache)[0][0, 0, 0].tolist() == [0, 0, 255]
  assert images.read_images(contents, 3, cache)[0].shape == (3, 3, 3, 3)
  assert images.read_images([photo.read_bytes()], 3, cache)[1].all()
  assert len(list(cache.iterdir())) == 3  # bytes are not kept


def test_a_file_with_the_size_and_time_of_another_is_another(tmp_path):
  """As one has that comes from an archive, or was written before a clock was set back."""
  path, other = tmp_path / "a.npy", tmp_path / "b.npy"
  path.write_bytes(b"old")
  os.utime(path, ns=(0, 0))
  before = images.hash_files([path])
  assert images.hash_files([path]) == before
  other.write_bytes(b"new")
  os.utime(other, ns=(0, 0))
  other.replace(path)
  assert images.hash_files([path]) != before
