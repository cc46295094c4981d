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


def label_leaves(params: PyTree, rules: tuple[tuple[str, str], ...]) -> PyTree:
  """Replaces every leaf by the label of the first rule (regex, label) that matches its path.

  Raises:
    ValueError: a rule matches no leaf, or a leaf no rule. A regex must match the whole path.
  """
  used = set()

  def label(path, _):
    name = path_to_string(path)
    for i, (pattern, value) in enumerate(rules):
      if re.fullmatch(pattern, name):
        used.add(i)
        return value
    raise ValueError(f"parameter {name} matches none of {[r for r, _ in rules]}")

  tree = jax.tree_util.tree_map_with_path(label, params)
  for i, (pattern, _) in enumerate(rules):
    if i not in used and pattern != ".*":
      raise ValueError(f"{pattern!r} matches no parameter of {', '.join(leaves_by_path(params))}")
  return tree


def label_trainable(params: PyTree, trainable: tuple[str, ...]) -> PyTree:
  """Labels leaves that match one of the regexes "train", all others "freeze"."""
  return label_leaves(params, (*((p, "train") for p in trainable), (".*", "freeze")))


def count_parameters(params: PyTree, trainable: tuple[str, ...]) -> tuple[int, int]:
  """(numbers in the leaves that match `trainable`, numbers in all leaves)."""
  sizes = [x.size for x in jax.tree.leaves(params)]
  labels = jax.tree.leaves(label_trainable(params, trainable))
  trained = [n for n, label in zip(sizes, labels, strict=True) if label == "train"]
  return sum(trained), sum(sizes)
