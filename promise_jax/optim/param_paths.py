"""Parameters by path: "params/head/kernel" is the name of a leaf, regexes select leaves."""

import re

import jax

from promise_jax.types import PyTree


def path_to_string(path) -> str:
  """The key path of a leaf as "params/head/kernel"."""
  return "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path)


def leaves_by_path(tree: PyTree) -> dict:
  """The leaves of a tree as {path: leaf}."""
  return {path_to_string(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def label_trainable(params: PyTree, trainable: tuple[str, ...]) -> PyTree:
  """Labels leaves whose whole path matches one of the regexes "train", all others "freeze";
  ValueError if a regex matches no leaf."""
  paths = leaves_by_path(params)
  for pattern in trainable:
    if not any(re.fullmatch(pattern, path) for path in paths):
      raise ValueError(f"{pattern!r} matches no parameter of {', '.join(paths)}")
  trains = re.compile("|".join(f"(?:{pattern})" for pattern in trainable)).fullmatch
  label = lambda path, _: "train" if trains(path_to_string(path)) else "freeze"
  return jax.tree_util.tree_map_with_path(label, params)


def count_parameters(params: PyTree, trainable: tuple[str, ...]) -> tuple[int, int]:
  """(numbers in the leaves that match `trainable`, numbers in all leaves)."""
  sizes = [x.size for x in jax.tree.leaves(params)]
  labels = jax.tree.leaves(label_trainable(params, trainable))
  trained = [n for n, label in zip(sizes, labels, strict=True) if label == "train"]
  return sum(trained), sum(sizes)
