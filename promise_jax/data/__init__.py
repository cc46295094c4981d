"""Data sets: `load(name)` -> `Dataset`, without TensorFlow."""

from promise_jax.data.dataset import Dataset
from promise_jax.data.loading import load

__all__ = ["Dataset", "load"]
