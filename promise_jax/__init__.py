"""Multimodal learning that survives missing modalities and few labels, in JAX and Flax.

`methods` has the methods, `losses` their losses as pure functions, `missing` patterns
and protocols, `data.load` data sets, `train.fit` the training loop, `experiment.run` a
whole comparison from a config. Importing the package does no work.
"""

__version__ = "0.1.0"
