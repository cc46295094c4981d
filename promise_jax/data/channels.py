"""Images whose channels come first, [1 or 3, height, width], are turned."""

import numpy as np

from promise_jax.types import Modality

CHANNELS = (1, 3)
TURNED = "its channels come first and are moved behind"


def is_first(shape: tuple[int, ...]) -> bool:
  """Whether the first axis of an image is that of channels, and the last is not."""
  return len(shape) == 3 and shape[0] in CHANNELS and shape[2] not in CHANNELS


def turn_modality(modality: Modality) -> Modality:
  """The modality with channels last, if it is of images."""
  if modality.kind != "image" or not is_first(modality.shape):
    return modality
  return modality._replace(shape=(*modality.shape[1:], modality.shape[0]))


def turn_image(image: np.ndarray, modality: Modality) -> np.ndarray:
  """An image with channels last, unless it has the shape of its modality."""
  if image.shape == modality.shape or not is_first(image.shape):
    return image
  return np.moveaxis(image, 0, -1)
