"""Masks that protocols draw: their rates, exact counts, and what a row depends on."""

import itertools

import numpy as np
import pytest

from promise_jax import counter_rng, missing

IDS = np.arange(4000) * 3 + 17
PER_ROW = ("none", "patterns", "bernoulli(0.2,0.5,0.8)", "mplmm(0.7)")
ALL = (*PER_ROW, "exact(0.5,0.2,0.8)", "map(0.7)")


def draw(protocol, ids=IDS, modalities=3, seed=0, split="train", epoch=0):
  return missing.draw_mask(
    protocol, seed=seed, split=split, ids=ids, modalities=modalities, epoch=epoch
  )


def pattern_shares(mask):
  """Share of the rows with nothing left, then of each pattern."""
  index = missing.pattern_index(mask)
  return np.bincount(index + 1, minlength=2 ** mask.shape[1]) / len(mask)


def assert_close(found, expected, rows):
  """Within four standard deviations of a binomial share."""
  expected = np.asarray(expected)
  assert (np.abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / rows)).all()


@pytest.mark.parametrize(
  ("protocol", "modalities", "words"),
  [
    ("bernoulli(0.2,0.5)", 3, "2 rates.*3 modalities"),
    ("exact(0.2,0.5)", 1, "2 rates"),
    ("map(0.5)", 1, "2 modalities or more"),
    ("mplmm(0.5)", 1, "2 modalities or more"),
    ("map(0.5,both=0.2)", 3, "exactly 2 modalities, found 3"),
    (missing.Protocol("mplmm", (1.5,)), 2, "1.5"),
    (missing.Protocol("mplmm", (0.5,), both=0.2), 2, "both"),
  ],
)
def test_draw_refuses_what_does_not_fit(protocol, modalities, words):
  with pytest.raises(ValueError, match=words):
    draw(protocol, modalities=modalities)


@pytest.mark.parametrize(
  ("text", "modalities", "same"),
  [
    ("exact(0.2..0.8)", 3, "exact(0.2,0.5,0.8)"),
    ("exact(0.2..0.8)", 2, "exact(0.2,0.8)"),
    ("exact(0.2..0.8)", 4, "exact(0.2,0.4,0.6,0.8)"),
    ("bernoulli(0.9..0.1,keep_one=false)", 5, "bernoulli(0.9,0.7,0.5,0.3,0.1,keep_one=false)"),
    ("exact(0.2..0.8)", 1, "exact(0.2)"),
  ],
)
def test_rates_are_spread_evenly_over_any_number_of_modalities(text, modalities, same):
  np.testing.assert_array_equal(
    draw(text, modalities=modalities), draw(same, modalities=modalities)
  )
  assert str(missing.parse_protocol(text)) == text


@pytest.mark.parametrize("text", ["map(0.1..0.3)", "exact(0.1..)", "exact(0.1..0.2..0.3)"])
def test_a_range_of_rates_has_two_ends_and_is_for_rates_of_modalities(text):
  with pytest.raises(ValueError, match="; (map|exact) takes one rate"):
    missing.parse_protocol(text)


def test_none_keeps_everything():
  assert draw("none").all()


def test_patterns_are_equally_likely():
  assert_close(pattern_shares(draw("patterns")), [0.0] + [1 / 7] * 7, 4000)
  assert draw("patterns", modalities=1).all()


@pytest.mark.parametrize("rate", [0.0, 0.7, 1.0])
def test_mplmm_rates(rate):
  expected = [0.0] + [rate / 6] * 6 + [1 - rate]
  assert_close(pattern_shares(draw(f"mplmm({rate})")), expected, 4000)


@pytest.mark.parametrize("keep_one", [True, False])
@pytest.mark.parametrize("rates", [(0.2, 0.5, 0.8), (0.9, 0.9, 0.9), (1.0, 1.0, 1.0)])
def test_bernoulli_rates_by_enumeration(rates, keep_one):
  expected = np.zeros(8)
  for mask in itertools.product([False, True], repeat=3):
    chance = np.prod([1 - r if kept else r for r, kept in zip(rates, mask, strict=True)])
    if keep_one and not any(mask):
      expected[1:4] += chance / 3  # the three patterns of one modality
    else:
      expected[missing.pattern_index(np.array(mask)) + 1] += chance
  text = f"bernoulli({','.join(map(str, rates))},keep_one={str(keep_one).lower()})"
  assert_close(pattern_shares(draw(text)), np.clip(expected, 0, 1), 4000)


def test_keep_one_changes_only_rows_that_lost_all():
  without, kept = draw("bernoulli(0.8,keep_one=false)"), draw("bernoulli(0.8)")
  lost = ~without.any(axis=1)
  assert 0.4 < lost.mean() < 0.6
  assert (kept[lost].sum(axis=1) == 1).all()
  np.testing.assert_array_equal(kept[~lost], without[~lost])
  one_rate = draw("bernoulli(0.8,0.8,0.8)")
  np.testing.assert_array_equal(kept, one_rate)


@pytest.mark.parametrize("kind", ["bernoulli", "exact"])
def test_a_higher_rate_hides_the_same_and_more(kind):
  masks = [draw(f"{kind}({rate})") for rate in (0.0, 0.1, 0.5, 0.8, 0.95, 1.0)]
  for low, high in itertools.pairwise(masks):
    assert not (high & ~low).any() and (low & ~high).any()


@pytest.mark.parametrize("kind", ["map", "mplmm"])
def test_a_higher_rate_leaves_incomplete_rows_incomplete(kind):
  low, high = (draw(f"{kind}({rate})").all(axis=1) for rate in (0.3, 0.6))
  assert not (high & ~low).any()


def test_exact_counts_and_rows():
  mask = draw("exact(0.5,0.2,0.8)")
  assert (~mask).sum(axis=0).tolist() == [2000, 800, 3200]
  assert_close(pattern_shares(mask)[0], 0.5 * 0.2 * 0.8, 4000)
  assert (~draw("exact(0.29)", np.arange(100))).sum(axis=0).tolist() == [29] * 3
  assert not draw("exact(1)").any() and draw("exact(0)").all()
  u = counter_rng.uniform(0, ("mask", "train"), IDS[:9], 1)[:, 0]
  first = sorted(range(9), key=lambda n: u[n])[:4]  # floor(9 * .5)
  assert np.flatnonzero(~draw("exact(0.5)", IDS[:9])[:, 0]).tolist() == sorted(first)


@pytest.mark.parametrize(
  ("text", "rows", "only_first", "only_second", "complete"),
  [
    ("map(0.7,both=0.25)", 4000, 700, 2100, 1200),
    ("map(0.7,both=0)", 4000, 0, 2800, 1200),
    ("map(0.7,both=1)", 4000, 2800, 0, 1200),
    ("map(0.3)", 10, 1, 2, 7),
    ("map(0.29)", 100, 14, 15, 71),
    ("map(1)", 4000, 2000, 2000, 0),
    ("map(0)", 4000, 0, 0, 4000),
  ],
)
def test_map_counts_of_two_modalities(text, rows, only_first, only_second, complete):
  index = missing.pattern_index(draw(text, IDS[:rows], modalities=2))
  counts = np.bincount(index, minlength=3).tolist()
  assert counts == [only_first, only_second, complete]


def test_map_counts_of_three_modalities():
  counts = np.bincount(missing.pattern_index(draw("map(0.7)")), minlength=7)
  assert counts[:6].sum() == 2800 and counts[6] == 1200
  assert set(counts[:6].tolist()) == {466, 467}


@pytest.mark.parametrize("text", ALL)
def test_the_mask_of_a_row_depends_on_its_id(text):
  mask = draw(text)
  order = np.random.default_rng(0).permutation(len(IDS))
  np.testing.assert_array_equal(draw(text, IDS[order]), mask[order])
  np.testing.assert_array_equal(draw(text, IDS.astype(np.int32)), mask)


@pytest.mark.parametrize("text", PER_ROW)
def test_batches_and_shards_see_the_mask_of_the_whole(text):
  mask = draw(text)
  np.testing.assert_array_equal(draw(text, IDS[[5, 3999, 5]]), mask[[5, 3999, 5]])
  shards = [draw(text, IDS[host::4]) for host in range(4)]
  whole = np.stack(shards, axis=1).reshape(mask.shape)
  np.testing.assert_array_equal(whole, mask)


@pytest.mark.parametrize("text", ["exact(0.5)", "map(0.5)"])
def test_exact_counts_refuse_repeated_ids(text):
  with pytest.raises(ValueError, match="repeated"):
    draw(text, IDS[[5, 3999, 5]])


@pytest.mark.parametrize("text", ALL[1:])
def test_seeds_splits_and_redrawn_epochs_differ(text):
  fixed, redrawn = (
    missing.parse_protocol(text),
    missing.parse_protocol(text)._replace(redraw=True),
  )
  mask = draw(fixed)
  np.testing.assert_array_equal(draw(fixed, epoch=3), mask)
  np.testing.assert_array_equal(draw(redrawn, epoch=3), draw(redrawn, epoch=3))
  others = [
    draw(fixed, seed=1),
    draw(fixed, split="test"),
    *(draw(redrawn, epoch=e) for e in range(3)),
  ]
  for a, b in itertools.combinations([mask, *others], 2):
    assert (a != b).any(axis=1).mean() > 0.3
