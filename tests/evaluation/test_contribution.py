"""Contributions of modalities: orders counted one by one, scikit-learn, cases worked by hand."""

import itertools

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from promise_jax import missing
from promise_jax.evaluation import bootstrap, contribution
from promise_jax.types import Split, Task

TASKS = {
  "classes": Task("classes", 3, ("x", "y", "z")),
  "multilabel": Task("multilabel", 3),
  "regression": Task("regression", 1, scale=2.0),
}
FEW = 40


def split_of(label, recorded) -> Split:
  recorded = np.asarray(recorded, bool)
  return Split({}, {}, recorded, np.asarray(label), np.arange(len(recorded)))


def shapley_by_orders(worth: dict, players) -> dict:
  """The mean, over all orders, of what a player adds to those before; `worth` {frozenset: v}."""
  total = dict.fromkeys(players, 0.0)
  orders = list(itertools.permutations(players))
  for order in orders:
    for i, player in enumerate(order):
      before = frozenset(order[:i])
      total[player] += worth[before | {player}] - worth[before]
  return {player: x / len(orders) for player, x in total.items()}


def coalitions(num_modalities: int) -> list[frozenset]:
  """The members of every row of `coalition_table`."""
  table = contribution.coalition_table(num_modalities)
  return [frozenset(np.flatnonzero(row).tolist()) for row in table]


def case(kind: str, num_modalities: int = 3, num_rows: int = 30):
  """(logits [S, P, N, C], constant, split); 6 rows are incomplete, with NaN labels and logits."""
  rng, task = np.random.default_rng(0), TASKS[kind]
  shape = (3, 2**num_modalities - 1, num_rows, task.outputs)
  label = {
    "classes": rng.integers(0, 3, num_rows),
    "multilabel": rng.integers(0, 2, (num_rows, 3)).astype(np.float32),
    "regression": rng.normal(size=num_rows).astype(np.float32),
  }[kind]
  recorded = np.ones((num_rows, num_modalities), bool)
  recorded[::5, 1] = False
  logits = rng.normal(size=shape).astype(np.float32)
  logits[:, :, ::5] = np.nan
  return logits, rng.normal(size=(3, task.outputs)), split_of(label, recorded)


def measure(kind, *arrays, num_modalities=3, **options):
  names = [f"m{i}" for i in range(num_modalities)]
  frame = contribution.measure_contribution(
    TASKS[kind], *arrays, names, **{"resamples": FEW} | options
  )
  return frame.set_index(["rows", "kind", "modality"]).sort_index()


def score(kind, rows, logits, label) -> float:
  """The score of one seed and coalition by scikit-learn."""
  if kind == "regression":
    return -sklearn_metrics.mean_absolute_error(label, logits[:, 0].astype(float) * 2)
  if kind == "classes":
    predicted = logits.argmax(1)
    if rows == "all":
      return sklearn_metrics.accuracy_score(label, predicted)
    c = TASKS[kind].names.index(rows)
    return sklearn_metrics.recall_score(label == c, predicted == c)
  options = {"average": "macro", "zero_division": 0}
  if rows == "all":
    return sklearn_metrics.f1_score(label > 0.5, logits > 0, **options)
  return sklearn_metrics.recall_score(label[:, int(rows)] > 0.5, logits[:, int(rows)] > 0)


def worth_of(kind, rows, logits, constant, label) -> dict:
  """What every coalition is worth, a mean over seeds, on complete rows."""
  none = np.repeat(constant[:, None, None], len(label), axis=2)
  values = np.concatenate([none, logits], axis=1)
  means = [
    np.mean([score(kind, rows, x, label) for x in values[:, t]]) for t in range(values.shape[1])
  ]
  num_modalities = (values.shape[1]).bit_length() - 1
  return dict(zip(coalitions(num_modalities), means, strict=True))


@pytest.mark.parametrize("num_modalities", [1, 2, 4])
def test_weights_count_all_orders(num_modalities):
  worth = np.random.default_rng(0).normal(size=2**num_modalities)
  by_set = dict(zip(coalitions(num_modalities), worth, strict=True))
  want = shapley_by_orders(by_set, range(num_modalities))
  got = contribution.shapley_weights(num_modalities) @ worth
  np.testing.assert_allclose(got, [want[m] for m in range(num_modalities)], atol=1e-12)
  np.testing.assert_allclose(got.sum(), worth[-1] - worth[0], atol=1e-12)


def test_two_modalities_by_hand():
  """Right are, of 4 rows of the classes 0 0 0 1: by the constant the zeros, of which the first
  modality gets one wrong, the second two; both together get all right."""
  label = np.array([0, 0, 0, 1])
  predicted = np.array([[[0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 1]]])
  logits = np.eye(3, dtype=np.float32)[predicted]
  constant = np.array([[1.0, 0, 0]])
  got = measure("classes", logits, constant, split_of(label, np.ones((4, 2))), num_modalities=2)
  # v: none 3/4, first 3/4, second 1/4, both 1.
  want = {
    ("all", "shapley", "m0"): ((3 - 3) / 4 + (4 - 1) / 4) / 2,
    ("all", "shapley", "m1"): ((1 - 3) / 4 + (4 - 3) / 4) / 2,
    ("all", "without", "m0"): (1 - 4) / 4,
    ("all", "without", "m1"): (3 - 4) / 4,
    # The recall of class x: 1, 2/3, 1/3, 1. Of class y: 0, 1, 0, 1.
    ("x", "shapley", "m0"): ((2 - 3) / 3 + (3 - 1) / 3) / 2,
    ("x", "shapley", "m1"): ((1 - 3) / 3 + (3 - 2) / 3) / 2,
    ("x", "without", "m0"): -2 / 3,
    ("x", "without", "m1"): -1 / 3,
    ("y", "shapley", "m0"): 1.0,
    ("y", "shapley", "m1"): 0.0,
    ("y", "without", "m0"): -1.0,
    ("y", "without", "m1"): 0.0,
  }
  assert set(got.index) == set(want)  # class z does not occur
  np.testing.assert_allclose([got.loc[key, "value"] for key in want], list(want.values()))
  assert got["n"].groupby("rows").first().to_dict() == {"all": 4, "x": 3, "y": 1}
  assert set(got.loc["all", "metric"]) == {"accuracy"} and set(got.loc["x", "metric"]) == {"recall"}


@pytest.mark.parametrize("kind", TASKS)
def test_values_are_those_of_scikit_learn_on_the_complete_rows(kind):
  logits, constant, split = case(kind)
  got = measure(kind, logits, constant, split)
  complete = split.recorded.all(axis=1)
  rows = {"classes": ["all", "x", "y", "z"], "multilabel": ["all", "0", "1", "2"]}.get(
    kind, ["all"]
  )
  assert set(got.index.get_level_values("rows")) == set(rows)
  assert set(got.loc["all", "n"]) == {24}
  for name in rows:
    worth = worth_of(kind, name, logits[:, :, complete], constant, split.label[complete])
    everything, players = frozenset(range(3)), range(3)
    want = shapley_by_orders(worth, players)
    values = got.loc[name, "value"]
    np.testing.assert_allclose(values["shapley"], [want[m] for m in players], atol=1e-9)
    change = [worth[everything - {m}] - worth[everything] for m in players]
    np.testing.assert_allclose(values["without"], change, atol=1e-9)
    total = worth[everything] - worth[frozenset()]
    np.testing.assert_allclose(values["shapley"].sum(), total, atol=1e-9)


@pytest.mark.parametrize("kind", TASKS)
def test_intervals_are_percentiles_over_drawn_seeds_and_groups(kind, monkeypatch):
  logits, constant, split = case(kind)
  group = np.array(["a", "b", "c", "d", "e", "f"])[np.arange(30) // 5]
  monkeypatch.setattr(contribution, "CHUNK", 7 * 24)  # seven resamples at a time
  got = measure(kind, logits, constant, split, group=group, seed=3).loc["all"]
  complete = np.flatnonzero(split.recorded.all(axis=1))
  drawn = bootstrap.draw_resamples(3, num_seeds=3, num_groups=6, resamples=FEW)
  values = []
  for seed_count, group_count in zip(*map(np.asarray, drawn), strict=True):
    seeds = np.repeat(np.arange(3), seed_count)
    rows = np.concatenate(
      [np.tile(complete[complete // 5 == g], n) for g, n in enumerate(group_count)]
    )
    worth = worth_of(kind, "all", logits[seeds][:, :, rows], constant[seeds], split.label[rows])
    shapley, everything = shapley_by_orders(worth, range(3)), frozenset(range(3))
    without = [worth[everything - {m}] - worth[everything] for m in range(3)]
    values.append([*shapley.values(), *without])
  want = np.percentile(values, (2.5, 97.5), axis=0).T
  np.testing.assert_allclose(got[["low", "high"]], want, atol=1e-9)


def test_a_modality_of_noise_is_worth_nothing_and_one_that_is_not_read_exactly_nothing():
  """The first modality knows the class mostly; the second moves the logits at random; the third
  changes nothing."""
  rng = np.random.default_rng(0)
  label = rng.integers(0, 3, 400)
  table = contribution.coalition_table(3)[1:]
  signal = np.eye(3)[label] + rng.normal(size=(2, 400, 3)) / 2
  noise = rng.normal(size=(2, 400, 3)) / 10
  logits = table[:, :1, None] * signal[:, None] + table[:, 1:2, None] * noise[:, None]
  prior = np.zeros((2, 3))
  got = measure("classes", logits, prior, split_of(label, np.ones((400, 3)))).loc["all"]
  lows, highs = got["low"], got["high"]
  assert lows["shapley", "m0"] > 0.2 and highs["without", "m0"] < -0.2
  for kind in ("shapley", "without"):
    assert lows[kind, "m1"] < 0 < highs[kind, "m1"]
    assert tuple(got.loc[(kind, "m2"), ["value", "low", "high"]]) == pytest.approx((0, 0, 0))


def test_a_nan_logit_counts_on_a_complete_row_alone():
  logits, constant, split = case("classes")
  full = logits.shape[1] - 1
  logits[1, full, 1] = np.nan
  got = measure("classes", logits, constant, split)
  assert got[["value", "low", "high"]].isna().all(axis=None)
  # Not every value asks for the first modality alone.
  logits, constant, split = case("classes")
  logits[1, 0, 1] = np.nan
  got = measure("classes", logits, constant, split).loc["all", "value"]
  assert got["shapley"].isna().all() and got["without"].notna().all()


def test_without_complete_rows_nothing_is_measured():
  logits, constant, split = case("classes")
  recorded = split.recorded & (np.arange(3) != split.id[:, None] % 3)
  got = measure("classes", logits, constant, split._replace(recorded=recorded))
  assert len(got) == 6 and set(got["n"]) == {0}
  assert got[["value", "low", "high"]].isna().all(axis=None)


def test_rare_classes_share_a_line(monkeypatch):
  monkeypatch.setattr(contribution, "MAX_CLASSES", 1)
  logits, constant, split = case("classes")
  label = np.array([2] * 15 + [0] * 10 + [1] * 5)
  split = split._replace(label=label)
  got = measure("classes", logits, constant, split)
  assert list(got.index.unique("rows"))[::-1] == ["z", "all", "2 other classes"]
  rest = got.loc["2 other classes"]
  assert set(rest["n"]) == {12} and set(rest["metric"]) == {"recall"}
  rows = split.recorded.all(axis=1) & (label < 2)
  right = logits[:, :, rows].argmax(-1) == label[rows]
  change = right[:, 5].mean() - right[:, 6].mean()  # 5: all without the first
  np.testing.assert_allclose(rest.loc[("without", "m0"), "value"], change, atol=1e-12)


def test_of_a_row_only_what_it_has_shares():
  rng = np.random.default_rng(0)
  recorded = missing.draw_mask("patterns", seed=0, split="x", ids=np.arange(12), modalities=3)
  recorded[0] = False
  worth = rng.normal(size=(8, 12, 4))
  # A coalition predicts what its recorded part does; anything else must not be read.
  table, chosen = contribution.coalition_table(3), rng.integers(0, 4, 12)
  unreadable = (table[:, None] & ~recorded[None]).any(axis=-1)
  worth[unreadable] = np.nan
  got = contribution.row_shapley(worth, chosen, recorded)
  sets = coalitions(3)
  for row in range(12):
    by_set = {members: worth[t, row, chosen[row]] for t, members in enumerate(sets)}
    want = shapley_by_orders(by_set, np.flatnonzero(recorded[row]).tolist())
    np.testing.assert_allclose(got[row], [want.get(m, 0) for m in range(3)], atol=1e-12)
    everything = frozenset(want)
    np.testing.assert_allclose(got[row].sum(), by_set[everything] - by_set[frozenset()], atol=1e-9)
