"""Robult: the ten properties of the reconstruction, its switches, and its inference."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import example_batches
from promise_jax import methods, missing
from promise_jax.losses import soft_pu
from promise_jax.methods import robult

SIZES = {"hidden": 8, "shared": 4, "private": 3, "head_hidden": 5}
CLASSES, MULTILABEL, REGRESSION = (example_batches.spec(task) for task in example_batches.TASKS)


def network(spec=CLASSES, **values):
  config = robult.RobultConfig(**SIZES | values)
  return robult.RobultNet(spec.modalities, spec.task.outputs, config)


def start(spec=CLASSES, **values):
  """Random parameters, and a bank with the labels of other rows in it."""
  method = robult.robult(robult.RobultConfig(**SIZES | values), spec)
  net, params = network(spec, **values), example_batches.parameters(method)
  code = np.random.default_rng(3).normal(size=(example_batches.ROWS, SIZES["shared"]))
  code = np.float32(code / np.linalg.norm(code, axis=1, keepdims=True))
  label = example_batches.complete(spec, seed=9).label
  member = robult.label_member(jnp.asarray(label), spec, net.config)
  bank = soft_pu.Bank(code, member, np.ones(example_batches.ROWS, bool))
  return net, params, {"bank": bank}


def evaluate(net, params, model_state, batch, spec=CLASSES, progress=1.0):
  """The terms without training noise, and model_state. Op by op: switches compile nothing."""
  progress = jnp.float32(progress)
  return robult.robult_terms(net, spec, params, model_state, batch, None, progress)


def values(net, params, model_state, batch, spec=CLASSES, progress=1.0):
  terms, _ = evaluate(net, params, model_state, batch, spec, progress)
  return {k: float(v.value) for k, v in terms.items()}


@functools.cache
def gradient_program(net):
  def total(params, weight, model_state, batch):
    terms, _ = evaluate(net, params, model_state, batch)
    found = {k: v.value for k, v in terms.items()}
    return sum(w * found[k] for k, w in weight.items()), found

  return jax.jit(jax.grad(total, has_aux=True))


def gradient(net, params, model_state, batch, names):
  """Of the sum of the terms `names`, and the values of all terms."""
  weight = {k: np.float32(k in names) for k in ("sup", "lb", "ulb", "rec")}
  grads, found = gradient_program(net)(params, weight, model_state, batch)
  return grads["params"], found


def moved(grads, prefix):
  """Whether a gradient other than 0 reaches the modules of that name."""
  chosen = [v for k, v in grads.items() if k == prefix or k.startswith(prefix + "_")]
  assert chosen, f"{prefix} is not among {sorted(grads)}"
  return any((np.asarray(x) != 0).any() for x in jax.tree.leaves(chosen))


def partly_labelled(spec=CLASSES):
  batch = example_batches.complete(spec)
  labelled = np.arange(example_batches.ROWS) % 8 < 5
  return batch.replace(labelled=labelled, bank_index=np.where(labelled, batch.bank_index, -1))


# The ten properties. Two are in test_losses: the first, the reductions of the contrast,
# and the sixth, the range of memberships.


@pytest.mark.parametrize("own_encoders", [True, False])
def test_2_the_contrast_does_not_train_the_fused_branch(own_encoders):
  net, params, model_state = start(own_encoders=own_encoders)
  grads, _ = gradient(net, params, model_state, partly_labelled(), ("lb", "ulb"))
  assert not moved(grads, "f0_fuse")
  assert not own_encoders or not moved(grads, "f0_encode")
  assert moved(grads, "c") and moved(grads, "f")


def test_2_unless_it_is_asked_to():
  net, params, model_state = start(stop_s=False)
  grads, _ = gradient(net, params, model_state, partly_labelled(), ("lb", "ulb"))
  assert moved(grads, "f0_fuse") and moved(grads, "f0_encode") and moved(grads, "c")


def test_3_reconstruction_trains_neither_the_shared_code_nor_its_target():
  net, params, model_state = start()
  grads, _ = gradient(net, params, model_state, example_batches.complete(CLASSES), ("rec",))
  assert not moved(grads, "c") and not moved(grads, "f0_fuse")
  assert moved(grads, "f") and moved(grads, "g") and moved(grads, "q")
  # Decoders that do not read the private code: only the way through the target is left.
  deaf = dict(params["params"])
  for i in range(3):
    first = deaf[f"q_{i}"]["Dense_0"]
    first = first | {"kernel": np.zeros_like(first["kernel"])}
    deaf[f"q_{i}"] = deaf[f"q_{i}"] | {"Dense_0": first}
  grads, _ = gradient(
    net, {"params": deaf}, model_state, example_batches.complete(CLASSES), ("rec",)
  )
  assert moved(grads, "q") and not moved(grads, "f") and not moved(grads, "g")


def test_4_logits_of_a_subset_do_not_depend_on_the_rest():
  _, params, model_state = start()
  method = robult.robult(robult.RobultConfig(**SIZES), CLASSES)
  batch, other = (
    example_batches.complete(CLASSES),
    example_batches.complete(CLASSES, seed=5),
  )
  predict = jax.jit(method.predict)
  for pattern in missing.all_patterns(3):
    now = batch.replace(present=batch.present & np.array([pattern]))
    inputs = {
      m.name: (batch if kept else other)["inputs"][m.name]
      for m, kept in zip(CLASSES.modalities, pattern, strict=True)
    }
    found = predict(params, model_state, now | {"inputs": inputs})
    jax.tree.map(np.testing.assert_array_equal, found, predict(params, model_state, now))


def test_5_the_order_of_the_classes_cannot_matter():
  net, params, model_state = start(gate="soft")
  batch, order = partly_labelled(), np.array([2, 0, 1])
  before = values(net, params, model_state, batch)
  assert before["lb"] > 0 and before["ulb"] > 0
  head = params["params"]["classify"]
  last = {k: v[..., order] for k, v in head["Dense_1"].items()}
  params = {"params": params["params"] | {"classify": head | {"Dense_1": last}}}
  bank = model_state["bank"]._replace(member=model_state["bank"].member[:, order])
  # Column j now stands for what was class order[j].
  label = np.argsort(order)[batch.label].astype(np.int32)
  after = values(net, params, {"bank": bank}, batch.replace(label=label))
  assert before == pytest.approx(after, rel=1e-5)


def test_7_a_batch_without_labels():
  net, params, model_state = start()
  batch = example_batches.complete(CLASSES).replace(labelled=np.zeros(example_batches.ROWS, bool))
  grads, found = gradient(net, params, model_state, batch, ("sup", "lb", "ulb", "rec"))
  assert found["sup"] == found["lb"] == 0
  assert found["ulb"] > 0 and found["rec"] > 0
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_8_a_batch_with_every_label():
  net, params, model_state = start()
  found = values(net, params, model_state, example_batches.complete(CLASSES))
  assert found["ulb"] == 0
  assert found["sup"] > 0 and found["lb"] > 0


@pytest.mark.parametrize("classes", [[], [1], [1, 1, 1, 1], [0, 1, 2], [0]])
def test_9_any_bank_gives_finite_losses(classes, rng):
  net, params, _ = start()
  code = rng.normal(size=(16, 4)).astype(np.float32)
  code /= np.linalg.norm(code, axis=1, keepdims=True)
  label = np.resize(classes or [0], 16)
  member = np.eye(3, dtype=np.float32)[label]
  model_state = {"bank": soft_pu.Bank(code, member, np.arange(16) < len(classes))}
  grads, found = gradient(net, params, model_state, partly_labelled(), ("lb", "ulb"))
  assert all(math.isfinite(v) for v in found.values()) and found["ulb"] > 0
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("spec", [CLASSES, MULTILABEL, REGRESSION])
def test_10_the_order_of_the_rows_changes_no_term(spec, rng):
  net, params, model_state = start(spec)
  batch, order = example_batches.mixed(spec), rng.permutation(example_batches.ROWS)
  before = values(net, params, model_state, batch, spec)
  after = values(net, params, model_state, example_batches.take(batch, order), spec)
  assert before == pytest.approx(after, rel=1e-5)
  assert before["lb"] > 0


# The network.


@pytest.mark.parametrize("own_encoders", [True, False])
def test_parameter_shapes(own_encoders):
  method = robult.robult(robult.RobultConfig(**SIZES, own_encoders=own_encoders), MULTILABEL)
  params, model_state = jax.eval_shape(method.init, jax.random.key(0))
  params = params["params"]

  def widths(name):
    layers = params[name].values()
    kernels = sorted((x["kernel"].shape for x in layers), key=lambda s: s[0])
    return set(kernels)

  assert widths("f0_fuse") == {(3 * 8, 8), (8, 8)}
  assert widths("c") == {(8, 8), (8, 4)}
  assert widths("classify") == {(4 + 3 * 3, 5), (5, 4)}
  for i in range(3):
    assert widths(f"g_{i}") == {(8, 8), (8, 3)}
    assert widths(f"q_{i}") == {(4 + 3, 8), (8, 8)}
    assert f"f_{i}" in params and (f"f0_encode_{i}" in params) == own_encoders
  assert "c_0" not in params
  assert model_state["bank"].code.shape == (16, 4) and model_state["bank"].member.shape == (16, 4)


def test_one_modality_is_enough():
  spec = example_batches.spec(modalities=example_batches.VECTORS[:1])
  net, params, model_state = start(spec)
  found = values(net, params, model_state, partly_labelled(spec), spec)
  assert all(math.isfinite(v) for v in found.values())


def slow_head(params, z, s, u, shown):
  """Logits of one row that shows the modalities `shown`."""
  length = lambda x: math.sqrt(sum(float(v) ** 2 for v in x))
  if all(shown):
    shared = s
  else:
    shared = sum(z[i] for i in range(3) if shown[i]) / sum(shown)
    shared = shared / length(shared)
  private = [u[i] / length(u[i]) if shown[i] else 0 * u[i] for i in range(3)]
  x = np.concatenate([shared, *private]).astype(float)
  first, second = (params["params"]["classify"][f"Dense_{k}"] for k in (0, 1))
  x = np.maximum(x @ first["kernel"] + first["bias"], 0)
  return x @ second["kernel"] + second["bias"]


@pytest.mark.parametrize("own_encoders", [True, False])
def test_inference_equals_a_slow_loop_for_every_subset(own_encoders):
  net, params, model_state = start(own_encoders=own_encoders)
  method = robult.robult(net.config, CLASSES)
  batch = example_batches.complete(CLASSES)
  out = net.apply(params, batch, batch.present, method="branches")
  z, u, s = (np.asarray(out[k]) for k in ("z", "u", "s"))  # [M, B, .], s [B, .]
  np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1, 1e-5)
  np.testing.assert_allclose(np.linalg.norm(s, axis=-1), 1, 1e-5)
  predict = jax.jit(method.predict, static_argnames="pattern")
  for pattern in missing.all_patterns(3):
    expected = [slow_head(params, z[:, n], s[n], u[:, n], pattern) for n in range(16)]
    ways = [predict(params, model_state, batch.replace(present=np.tile(pattern, (16, 1))))]
    if own_encoders:
      ways.append(predict(params, model_state, batch, pattern=pattern))
    for found in ways:
      np.testing.assert_allclose(found["logits"], expected, 1e-4, 1e-5)
      for i, kept in enumerate(pattern):
        np.testing.assert_allclose(found["shared"][i], kept * z[i], 1e-5, 1e-6)
        np.testing.assert_allclose(found["private"][i], kept * u[i], 1e-5, 1e-6)


def test_a_static_pattern_costs_what_its_modalities_cost():
  _, params, model_state = start()
  method = robult.robult(robult.RobultConfig(**SIZES), CLASSES)
  batch = example_batches.complete(CLASSES)

  def products(pattern):
    run = lambda *args: method.predict(*args, pattern=pattern)["logits"]
    return str(jax.make_jaxpr(run)(params, model_state, batch)).count("dot_general")

  head = 2
  each = products((True, False, False)) - head
  assert products((True, False, True)) == head + 2 * each
  # With everything there the fused branch runs too.
  assert products((True, True, True)) > head + 3 * each


# The terms and the switches.


@pytest.mark.parametrize("sup", robult.SUPERVISE)
def test_supervision_equals_a_slow_loop(sup):
  net, params, model_state = start(sup=sup)
  method, batch = robult.robult(net.config, CLASSES), example_batches.mixed(CLASSES)
  predict = jax.jit(method.predict)
  full = (True,) * 3
  patterns = {
    "full": [full],
    "singles": [full, *np.eye(3, dtype=bool)],
    "all": [p for p in itertools.product((False, True), repeat=3) if any(p)],
  }[sup]
  means = []
  for pattern in patterns:
    shown = batch.present & np.array([pattern])
    logits = np.asarray(predict(params, model_state, batch.replace(present=shown))["logits"])
    errors = [
      math.log(sum(map(math.exp, logits[n]))) - logits[n, batch.label[n]]
      for n in range(example_batches.ROWS)
      if batch.labelled[n] and shown[n].any()
    ]
    means.append(np.mean(errors))
  found = values(net, params, model_state, batch)["sup"]
  assert found == pytest.approx(np.mean(means), rel=1e-5)


def test_patterns_of_supervision_by_hand():
  singles = robult.supervised_patterns("singles", 2)
  assert singles.tolist() == [[True, True], [True, False], [False, True]]
  assert robult.supervised_patterns("full", 3).tolist() == [[True] * 3]
  every = robult.supervised_patterns("all", 3)
  assert len(every) == len({tuple(p) for p in every}) == 7 and every[0].all()
  for sup in robult.SUPERVISE:
    assert robult.supervised_patterns(sup, 1).tolist() == [[True]]


@pytest.fixture(scope="module")
def default():
  return start()


def switched(default, **switches):
  _, params, model_state = default
  return values(network(**switches), params, model_state, partly_labelled())


def test_every_contrast_gives_another_loss(default):
  found = {kind: switched(default, contrast=kind) for kind in soft_pu.CONTRASTS}
  assert set(found.pop("none")) == {"sup", "rec"}
  for x in found.values():
    assert x["sup"] == pytest.approx(found["softpu"]["sup"])
    assert x["rec"] == pytest.approx(found["softpu"]["rec"])
  anchors = {kind: (x["lb"], x["ulb"]) for kind, x in found.items()}
  for one, two in itertools.combinations(anchors, 2):
    assert anchors[one] != pytest.approx(anchors[two], rel=1e-6), (one, two)
  # Only the positives of unlabelled anchors differ.
  assert found["softpu_allpos"]["lb"] == found["softpu"]["lb"]


def test_gate_calibration_and_temperature_give_another_loss(default):
  base = switched(default)
  for switch in ({"gate": "soft"}, {"gate": "no_rbf"}, {"calibrate": False}):
    found = switched(default, **switch)
    assert found["lb"] != pytest.approx(base["lb"], rel=1e-6), switch
    assert found["sup"] == base["sup"] and found["rec"] == base["rec"]
  assert switched(default, tau=0.5)["lb"] != pytest.approx(base["lb"], rel=1e-2)
  assert switched(default, stop_s=False) == pytest.approx(base)


def test_before_the_ramp_soft_pu_is_pucl(default):
  net, params, model_state = default
  batch = partly_labelled()
  early = values(net, params, model_state, batch, progress=0.05)
  late = values(net, params, model_state, batch)
  pucl = switched(default, contrast="pucl")
  assert early == pytest.approx(pucl, rel=1e-6)
  assert late["lb"] != pytest.approx(early["lb"], rel=1e-6)


def test_weights_add_up_the_terms(default):
  _, params, model_state = default
  weights = {"lb": 0.5, "ulb": 0.0, "rec": 2.0, "cov": 0.25}
  method = robult.robult(robult.RobultConfig(**SIZES, **weights), CLASSES)
  clock = example_batches.clock(1.0)
  batch = partly_labelled()
  loss = jax.jit(method.stages[0].loss)
  total, (_, terms) = loss(params, model_state, batch, jax.random.key(0), clock)
  expected = float(terms["sup"].value)
  for name, weight in weights.items():
    expected += weight * float(terms[name].total) / float(terms[name].count)
  assert float(total) == pytest.approx(expected, rel=1e-5)


def test_anchors_are_averaged_over_modalities_and_complete_rows(rng):
  config = robult.RobultConfig(tau=1.0)
  codes = rng.normal(size=(3, 6, 2)).astype(np.float32)
  s, z = codes[0], tuple(codes[1:])
  complete = np.array([1, 1, 0, 1, 1, 1], bool)
  labelled = np.array([1, 0, 1, 0, 1, 0], bool)
  eye = np.eye(6, dtype=np.float32)
  found = robult.contrast_terms(config, s, z, (eye, eye), labelled, complete)
  rows = np.flatnonzero(complete)

  def infonce(a, b, n):
    return math.log(sum(math.exp(float(a[n] @ b[k] - a[n] @ b[n])) for k in rows))

  for name, anchors in (("lb", (0, 4)), ("ulb", (1, 3, 5))):
    each = [np.mean([(infonce(s, x, n) + infonce(x, s, n)) / 2 for n in anchors]) for x in z]
    assert float(found[name].value) == pytest.approx(np.mean(each), rel=1e-5)


# Labels of other kinds, and the bank.


def test_a_label_as_classes_by_hand():
  config = {kind: robult.RobultConfig(regression=kind) for kind in robult.REGRESSION}
  label = jnp.float32([-3.0, -0.4, 0.0, 0.6, 2.7, 9.0])
  signs = robult.label_member(label, REGRESSION, config["sign"])
  assert signs.argmax(1).tolist() == [0, 0, 1, 1, 1, 1] and signs.shape == (6, 2)
  rounded = robult.label_member(label, REGRESSION, config["round"])
  assert rounded.argmax(1).tolist() == [0, 3, 3, 4, 6, 6] and rounded.shape == (6, 7)
  assert (rounded.sum(1) == 1).all()
  # In [-1, 1] the seven classes are thirds.
  spec = REGRESSION._replace(task=REGRESSION.task._replace(scale=1.0))
  thirds = robult.label_member(jnp.float32([-0.7, 0.3, 1.0]), spec, config["round"])
  assert thirds.argmax(1).tolist() == [1, 4, 6]
  many = jnp.float32([[1, 0, 1, 0]])
  assert (robult.label_member(many, MULTILABEL, config["sign"]) == many).all()


def weights_of(spec, rng, label, labelled, full, **switches):
  """A of a batch of rows that share one fused code, after the ramp."""
  config = robult.RobultConfig(**SIZES | switches)
  rows = len(label)
  batch = {
    "label": label,
    "labelled": np.array(labelled),
    "id": np.arange(rows),
    "slot": np.arange(rows, dtype=np.int32),
  }
  s = np.tile(np.float32([[1, 0, 0, 0]]), (rows, 1))
  out = {"s": s, "full": np.float32(full)}
  bank, every = robult.init_model_state(config, spec)["bank"], np.ones(rows, bool)
  args = (config, spec, bank, batch, out, every, jnp.float32(1))
  affinity, _, bank = robult.pair_weights(*args)
  return np.asarray(robult.pair_weights(*args[:2], bank, *args[3:])[0])


def test_affinity_of_many_labels(rng):
  label = np.float32([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
  full = np.where(label > 0, 9.0, -9.0)
  found = weights_of(MULTILABEL, rng, label, [True] * 4, full)
  np.testing.assert_allclose(found[0], [1, 0.5, 0, 0], 1e-6)
  # Row 1 becomes unlabelled; the classifier still says its label.
  found = weights_of(MULTILABEL, rng, label, [True, False, True, True], full)
  np.testing.assert_allclose(found[0], [1, 0.5, 0, 0], 1e-2)


def test_affinity_of_numbers(rng):
  label, labelled = np.float32([-2, -1.5, 0.2, 3]), [True, True, True, False]
  full = label[:, None] / 3
  args = (REGRESSION, rng, label, labelled, full)
  sign = weights_of(*args, regression="sign")
  np.testing.assert_allclose(sign[0, :3], [1, 1, 0])
  np.testing.assert_allclose(sign[2, 2:], [1, 1], 1e-3)
  rounded = weights_of(*args, regression="round")
  np.testing.assert_allclose(rounded[0, :3], [1, 1, 0])  # halves go to the even number
  gauss = weights_of(*args, regression="gaussian")
  # Distances .5 and 2.2 with width .5; the prediction of row 3 is 3.
  expected = [1, math.exp(-0.5), math.exp(-2 * 2.2**2), math.exp(-2 * 25)]
  np.testing.assert_allclose(gauss[0], expected, 1e-4, 1e-9)


def test_every_way_to_contrast_numbers_gives_another_finite_loss():
  found = []
  for kind in robult.REGRESSION:
    net, params, model_state = start(REGRESSION, regression=kind)
    terms = values(net, params, model_state, partly_labelled(REGRESSION), REGRESSION)
    assert all(math.isfinite(v) for v in terms.values())
    found.append(round(terms["lb"], 5))
  assert len(set(found)) == 3


def test_the_bank_gets_exactly_the_labelled_complete_rows():
  net = network()
  params = example_batches.parameters(robult.robult(net.config, CLASSES))
  batch = example_batches.mixed(CLASSES)
  batch.valid = np.arange(example_batches.ROWS) != 1
  _, model_state = evaluate(net, params, robult.init_model_state(net.config, CLASSES), batch)
  out = net.apply(params, batch, batch.present, method="branches")
  kept = [
    n
    for n in range(example_batches.ROWS)
    if batch.labelled[n] and batch.present[n].all() and n != 1
  ]
  assert len(kept) >= 4 and 1 not in kept
  bank = jax.tree.map(np.asarray, model_state["bank"])
  assert np.flatnonzero(bank.valid).tolist() == sorted(batch.bank_index[kept])
  for n in kept:
    k = batch.bank_index[n]
    np.testing.assert_allclose(bank.code[k], out["s"][n], 1e-5, 1e-6)
    assert bank.member[k].tolist() == np.eye(3)[batch.label[n]].tolist()
  # A later batch keeps what it does not overwrite.
  nobody = batch.replace(labelled=np.zeros(example_batches.ROWS, bool))
  _, later = evaluate(net, params, model_state, nobody)
  jax.tree.map(np.testing.assert_array_equal, later, model_state)


def test_a_small_bank_wraps_round():
  net = network(bank=4)
  params = example_batches.parameters(robult.robult(net.config, CLASSES))
  batch = example_batches.complete(CLASSES)
  _, model_state = evaluate(net, params, robult.init_model_state(net.config, CLASSES), batch)
  assert model_state["bank"].valid.tolist() == [True] * 4
  last = np.eye(3)[batch.label[12:]]
  np.testing.assert_array_equal(model_state["bank"].member, last)


# Settings.


@pytest.mark.parametrize(
  ("field", "value", "known"),
  [
    ("contrast", "nce", "infonce"),
    ("gate", "open", "no_rbf"),
    ("sup", "some", "singles"),
    ("regression", "bins", "gaussian"),
  ],
)
def test_an_unknown_switch_is_named_with_what_is_known(field, value, known):
  with pytest.raises(ValueError, match=f"robult.{field} is '{value}'.*{known}"):
    methods.build_method("robult", {field: value}, CLASSES)


def test_settings_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="private is 64.*below hidden 64"):
    methods.build_method("robult", {"private": 64}, CLASSES)
  with pytest.raises(ValueError, match="'robot', known are robult"):
    methods.build_method("robot", {}, CLASSES)
  with pytest.raises(ValueError, match="robult.depth is not a setting.*hidden"):
    methods.build_method("robult", {"depth": 3}, CLASSES)
  for value in (True, 8.0, "8"):
    with pytest.raises(ValueError, match="robult.hidden is .*expected a int"):
      methods.build_method("robult", {"hidden": value}, CLASSES)
  assert methods.make_config("robult", {"tau": 1}).tau == 1
