"""Data sets: `load(name)` -> `Dataset`. Only `load` imports tensorflow-datasets, and
only for a data set that needs it."""

from promise_jax.data.dataset import Dataset
from promise_jax.data.loading import load

__all__ = ["Dataset", "load"]
