import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promise_jax import counter_rng, missing
from promise_jax.evaluation import mask_files

IDS = np.arange(4000) * 3 + 17
PER_ROW = ("none", "patterns", "bernoulli(0.2,0.5,0.8)", "mplmm(0.7)")
ALL = (*PER_ROW, "exact(0.5,0.2,0.8)", "map(0.7)")


def drawn(protocol, ids=IDS, modalities=3, seed=0, split="train", epoch=0):
  return missing.draw_mask(
    protocol, seed=seed, split=split, ids=ids, modalities=modalities, epoch=epoch
  )


def test_splitmix64_gives_the_published_outputs():
  outputs = counter_rng.splitmix64(np.array([1234567], "u8"), np.arange(5, dtype="u8"))
  assert outputs.tolist() == [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
  ]


def test_uniform_is_frozen():
  # Computed apart, with Python's integers and the generator run step by step.
  expected = [
    [1867668919854094, 8946777045062815, 2839021110325257],
    [8126621446773700, 2360442962626512, 5014880637440295],
    [8901835669012170, 3834840251893782, 7268402748912036],
  ]
  found = counter_rng.uniform(7, ("mask", "train"), np.array([0, 3, 1000]), 3) * 2**53
  assert found.astype(np.int64).tolist() == expected


def test_uniform_is_uniform():
  u = counter_rng.uniform(0, "a", np.arange(20_000), 4)
  assert u.min() >= 0 and u.max() < 1
  gap = np.abs(np.sort(u, axis=0) - np.arange(20_000)[:, None] / 20_000)
  assert gap.max() < 1.95 / np.sqrt(20_000)  # Kolmogorov-Smirnov, level .001


def test_uniform_is_independent():
  ids = np.arange(20_000)
  u = counter_rng.uniform(0, "a", ids, 4)
  others = [
    *u.T[1:],
    np.roll(u[:, 0], 1),
    counter_rng.uniform(1, "a", ids, 1)[:, 0],
    counter_rng.uniform(0, "b", ids, 1)[:, 0],
    counter_rng.uniform(0, ("a", 0), ids, 1)[:, 0],
  ]
  for other in others:
    assert abs(np.corrcoef(u[:, 0], other)[0, 1]) < 4 / np.sqrt(20_000)


def test_uniform_depends_on_id_and_column_alone():
  u = counter_rng.uniform(3, "a", np.arange(50), 5)
  chosen = np.array([31, 4, 4], np.uint8)
  np.testing.assert_array_equal(counter_rng.uniform(3, "a", chosen, 2), u[chosen, :2])
  assert counter_rng.uniform(3, "a", np.array([], int), 2).shape == (0, 2)
  with pytest.raises(ValueError, match="integers .* float64"):
    counter_rng.uniform(3, "a", np.array([0.5]), 1)


def test_streams_are_told_apart():
  streams = ["ab", "a", ("a", "b"), ("a", 1), ("a", "1"), ("a", 1, 1), ("a", 11)]
  firsts = {counter_rng.uniform(0, s, np.array([5]), 1).item() for s in streams}
  assert len(firsts) == len(streams)
  same = counter_rng.uniform(0, ("a", np.int32(1)), np.array([5]), 1)
  np.testing.assert_array_equal(counter_rng.uniform(0, ("a", 1), np.array([5]), 1), same)


def test_patterns_of_three():
  names = [missing.pattern_name(p, "abc") for p in missing.all_patterns(3)]
  assert names == ["a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"]
  assert missing.all_patterns(1) == ((True,),)
  assert missing.pattern_name((False, False), "ab") == "nothing"
  with pytest.raises(ValueError, match="found 0"):
    missing.all_patterns(0)
  with pytest.raises(ValueError, match=r"2 modalities \(a, b\)"):
    missing.pattern_name((True,), "ab")


@pytest.mark.parametrize("modalities", [1, 2, 3, 5])
def test_pattern_index_inverts_all_patterns(modalities):
  patterns = missing.all_patterns(modalities)
  assert len(set(patterns)) == 2**modalities - 1
  assert missing.pattern_index(np.array(patterns)).tolist() == [*range(len(patterns))]
  nested = np.zeros((2, 4, modalities), bool)
  nested[1, 2] = patterns[-1]
  expected = np.full((2, 4), -1)
  expected[1, 2] = len(patterns) - 1
  np.testing.assert_array_equal(missing.pattern_index(nested), expected)


def test_restrict():
  present = jnp.array([[True, True], [False, True]])
  assert missing.restrict_to_pattern(present, None) is present
  assert missing.restrict_to_pattern(present, (True, False)).tolist() == [
    [True, False],
    [False] * 2,
  ]


def test_select_keeps_nan_out_of_values_and_gradients():
  x = jnp.array([[[1.0, 2.0]], [[jnp.nan, jnp.inf]]])
  present = jnp.array([True, False])
  loss = lambda x, w: jnp.sum(missing.zero_absent(x, present) * w)  # noqa: E731
  with jax.numpy_rank_promotion("raise"):
    assert missing.zero_absent(x, present).tolist() == [[[1.0, 2.0]], [[0.0, 0.0]]]
    at_x, at_w = jax.jit(jax.grad(loss, (0, 1)))(x, jnp.full(x.shape, 3.0))
  assert at_x.tolist() == [[[3.0, 3.0]], [[0.0, 0.0]]]
  assert at_w.tolist() == [[[1.0, 2.0]], [[0.0, 0.0]]]
  assert missing.zero_absent(jnp.array([[4, 5], [6, 7]]), present).tolist() == [
    [4, 5],
    [0, 0],
  ]


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2)])
def test_masked_mean_against_a_loop(shape):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(4, 3, 2)).astype(np.float32)
  where = rng.random(shape) < 0.5
  where[2] = False
  every = where if where.ndim == 3 else np.repeat(where[:, :, None], 2, axis=2)
  expected = np.zeros((4, 2))
  for b, d in itertools.product(range(4), range(2)):
    kept = [x[b, m, d] for m in range(3) if every[b, m, d]]
    expected[b, d] = sum(kept) / len(kept) if kept else 0.0
  x[~every] = np.nan
  with jax.numpy_rank_promotion("raise"):
    found = jax.jit(missing.masked_mean, static_argnums=2)(x, where, 1)
    slope = jax.grad(lambda x: jnp.sum(missing.masked_mean(x, where, 1)))(x)
    whole = missing.masked_mean(x, where, None)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  assert np.isfinite(slope).all() and not slope[~every].any()
  np.testing.assert_allclose(slope.sum(axis=1), every.any(axis=1), atol=1e-6)
  np.testing.assert_allclose(whole, x[every].mean(), atol=1e-6)


def test_masked_mean_does_not_hide_what_is_selected():
  x = jnp.array([[1.0, jnp.nan], [1.0, jnp.nan]])
  found = missing.masked_mean(x, jnp.array([[True, True], [True, False]]), 1)
  assert jnp.isnan(found[0]) and found[1] == 1


@pytest.mark.parametrize(
  ("text", "canonical"),
  [
    ("none", "none"),
    (" patterns ( redraw = true ) ", "patterns(redraw=true)"),
    ("bernoulli(.30)", "bernoulli(0.3)"),
    ("bernoulli(0.2, 0.5,1,keep_one=true)", "bernoulli(0.2,0.5,1.0)"),
    ("bernoulli(keep_one=false,0.3)", "bernoulli(0.3,keep_one=false)"),
    ("exact(1e-5,-0.0)", "exact(1e-05,0.0)"),
    ("map(0.7,both=0.5)", "map(0.7)"),
    ("map(0.7,redraw=true,both=1)", "map(0.7,both=1.0,redraw=true)"),
    ("mplmm(0.7,redraw=false)", "mplmm(0.7)"),
  ],
)
def test_parse_and_str_are_inverse(text, canonical):
  protocol = missing.parse_protocol(text)
  assert f"{protocol}" == canonical
  assert missing.parse_protocol(canonical) == protocol
  assert hash(missing.parse_protocol(canonical)) == hash(protocol)


def test_parse_reads_every_field():
  expected = missing.Protocol("bernoulli", (0.25, 0.5), keep_one=False, redraw=True)
  assert missing.parse_protocol("bernoulli(0.25,0.5,keep_one=false,redraw=true)") == expected
  assert missing.parse_protocol("map(0.5,both=0.25)") == missing.Protocol("map", (0.5,), both=0.25)


@pytest.mark.parametrize(
  ("text", "found", "known"),
  [
    ("dropout(0.3)", "dropout", "none, patterns, bernoulli, exact, map, mplmm"),
    ("map(0.3", "map", "known"),
    ("", "''", "known"),
    ("none(0.3)", "1 rates", "no rate"),
    ("bernoulli", "0 rates", "one rate or one a modality"),
    ("map(0.2,0.3)", "2 rates", "one rate"),
    ("exact(1.2)", "1.2", r"\[0, 1\]"),
    ("exact(-0.1)", "-0.1", r"\[0, 1\]"),
    ("mplmm(nan)", "nan", r"\[0, 1\]"),
    ("mplmm(often)", "often", r"\[0, 1\]"),
    ("map(0.3,both=2)", "2", r"\[0, 1\]"),
    ("mplmm(0.3,keep_one=true)", "keep_one", "keywords redraw"),
    ("bernoulli(0.3,keep_one=1)", "'1'", "true or false"),
    ("mplmm(0.3,redraw=true,redraw=true)", "repeated 'redraw'", "redraw"),
  ],
)
def test_parse_says_what_is_wrong_and_what_is_known(text, found, known):
  with pytest.raises(ValueError, match=found) as error:
    missing.parse_protocol(text)
  error.match(known)
  assert "\n" not in str(error.value)


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
    drawn(protocol, modalities=modalities)


def test_none_keeps_everything():
  assert drawn("none").all()


def shares(mask):
  """Share of the rows with nothing left, then of each pattern."""
  index = missing.pattern_index(mask)
  return np.bincount(index + 1, minlength=2 ** mask.shape[1]) / len(mask)


def assert_close(found, expected, rows):
  """Within four standard deviations of a binomial share."""
  expected = np.asarray(expected)
  assert (np.abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / rows)).all()


def test_patterns_are_equally_likely():
  assert_close(shares(drawn("patterns")), [0.0] + [1 / 7] * 7, 4000)
  assert drawn("patterns", modalities=1).all()


@pytest.mark.parametrize("rate", [0.0, 0.7, 1.0])
def test_mplmm_rates(rate):
  expected = [0.0] + [rate / 6] * 6 + [1 - rate]
  assert_close(shares(drawn(f"mplmm({rate})")), expected, 4000)


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
  assert_close(shares(drawn(text)), np.clip(expected, 0, 1), 4000)


def test_keep_one_changes_only_rows_that_lost_all():
  without, kept = drawn("bernoulli(0.8,keep_one=false)"), drawn("bernoulli(0.8)")
  lost = ~without.any(axis=1)
  assert 0.4 < lost.mean() < 0.6
  assert (kept[lost].sum(axis=1) == 1).all()
  np.testing.assert_array_equal(kept[~lost], without[~lost])
  one_rate = drawn("bernoulli(0.8,0.8,0.8)")
  np.testing.assert_array_equal(kept, one_rate)


@pytest.mark.parametrize("kind", ["bernoulli", "exact"])
def test_a_higher_rate_hides_the_same_and_more(kind):
  masks = [drawn(f"{kind}({rate})") for rate in (0.0, 0.1, 0.5, 0.8, 0.95, 1.0)]
  for low, high in itertools.pairwise(masks):
    assert not (high & ~low).any() and (low & ~high).any()


@pytest.mark.parametrize("kind", ["map", "mplmm"])
def test_a_higher_rate_leaves_incomplete_rows_incomplete(kind):
  low, high = (drawn(f"{kind}({rate})").all(axis=1) for rate in (0.3, 0.6))
  assert not (high & ~low).any()


def test_exact_counts_and_rows():
  mask = drawn("exact(0.5,0.2,0.8)")
  assert (~mask).sum(axis=0).tolist() == [2000, 800, 3200]
  assert_close(shares(mask)[0], 0.5 * 0.2 * 0.8, 4000)
  assert (~drawn("exact(0.29)", np.arange(100))).sum(axis=0).tolist() == [29] * 3
  assert not drawn("exact(1)").any() and drawn("exact(0)").all()
  u = counter_rng.uniform(0, ("mask", "train"), IDS[:9], 1)[:, 0]
  first = sorted(range(9), key=lambda n: u[n])[:4]  # floor(9 * .5)
  assert np.flatnonzero(~drawn("exact(0.5)", IDS[:9])[:, 0]).tolist() == sorted(first)


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
  index = missing.pattern_index(drawn(text, IDS[:rows], modalities=2))
  counts = np.bincount(index, minlength=3).tolist()
  assert counts == [only_first, only_second, complete]


def test_map_counts_of_three_modalities():
  counts = np.bincount(missing.pattern_index(drawn("map(0.7)")), minlength=7)
  assert counts[:6].sum() == 2800 and counts[6] == 1200
  assert set(counts[:6].tolist()) == {466, 467}


@pytest.mark.parametrize("text", ALL)
def test_rows_follow_their_ids(text):
  mask = drawn(text)
  order = np.random.default_rng(0).permutation(len(IDS))
  np.testing.assert_array_equal(drawn(text, IDS[order]), mask[order])
  np.testing.assert_array_equal(drawn(text, IDS.astype(np.int32)), mask)


@pytest.mark.parametrize("text", PER_ROW)
def test_batches_and_shards_see_the_mask_of_the_whole(text):
  mask = drawn(text)
  np.testing.assert_array_equal(drawn(text, IDS[[5, 3999, 5]]), mask[[5, 3999, 5]])
  shards = [drawn(text, IDS[host::4]) for host in range(4)]
  whole = np.stack(shards, axis=1).reshape(mask.shape)
  np.testing.assert_array_equal(whole, mask)


@pytest.mark.parametrize("text", ["exact(0.5)", "map(0.5)"])
def test_exact_counts_refuse_repeated_ids(text):
  with pytest.raises(ValueError, match="repeated"):
    drawn(text, IDS[[5, 3999, 5]])


@pytest.mark.parametrize("text", ALL[1:])
def test_seeds_splits_and_redrawn_epochs_differ(text):
  fixed, redrawn = (
    missing.parse_protocol(text),
    missing.parse_protocol(text)._replace(redraw=True),
  )
  mask = drawn(fixed)
  np.testing.assert_array_equal(drawn(fixed, epoch=3), mask)
  np.testing.assert_array_equal(drawn(redrawn, epoch=3), drawn(redrawn, epoch=3))
  others = [
    drawn(fixed, seed=1),
    drawn(fixed, split="test"),
    *(drawn(redrawn, epoch=e) for e in range(3)),
  ]
  for a, b in itertools.combinations([mask, *others], 2):
    assert (a != b).any(axis=1).mean() > 0.3


def test_mask_hash():
  mask, ids = drawn("patterns")[:20], IDS[:20]
  name = mask_files.mask_hash(mask, ids)
  assert len(name) == 16 and int(name, 16) >= 0
  assert mask_files.mask_hash(mask[::-1], ids[::-1].astype(np.int32)) == name
  flipped = mask.copy()
  flipped[3, 1] ^= True
  others = [(flipped, ids), (mask, ids + 1), (mask, ids[::-1]), (mask[1:], ids[1:])]
  assert len({name, *(mask_files.mask_hash(*other) for other in others)}) == 5


def test_export_and_load(tmp_path):
  path = tmp_path / "masks.npz"
  mask = drawn("bernoulli(0.3)")
  mask_files.export_masks(path, mask, IDS, "bernoulli(0.30)", ("a", "b", "c"))
  found = mask_files.load_masks(path)
  np.testing.assert_array_equal(found.mask, mask)
  np.testing.assert_array_equal(found.ids, IDS)
  assert str(found.protocol) == "bernoulli(0.3)" and found.names == ("a", "b", "c")
  assert [p.name for p in tmp_path.iterdir()] == ["masks.npz"]
  with pytest.raises(ValueError, match=r"\(4000, 2\) is expected"):
    mask_files.export_masks(path, mask, IDS, "none", ("a", "b"))


def test_a_failed_export_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "masks.npz"
  path.write_bytes(b"old")

  def fail(file, **arrays):
    file.write(b"half")
    raise OSError("disk full")

  monkeypatch.setattr(np, "savez_compressed", fail)
  with pytest.raises(OSError, match="disk full"):
    mask_files.export_masks(path, np.ones((2, 1), bool), np.arange(2), "none", ("a",))
  assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_load_refuses_changed_and_foreign_files(tmp_path):
  path = tmp_path / "masks.npz"
  mask_files.export_masks(path, np.ones((2, 1), bool), np.arange(2), "none", ("a",))
  with np.load(path) as file:
    fields = dict(file)
  np.savez(path, **(fields | {"mask": np.zeros((2, 1), bool)}))
  with pytest.raises(ValueError, match="hash"):
    mask_files.load_masks(path)
  del fields["protocol"]
  np.savez(path, **fields)
  with pytest.raises(ValueError, match="no protocol"):
    mask_files.load_masks(path)
