"""MPLMM: its sizes, its equations against a slow loop, what cannot matter."""

import functools
import math

import jax
import numpy as np
import pytest

import example_batches
from promise_jax import methods, missing, types
from promise_jax.methods import mplmm, presets
from promise_jax.nn import host
from promise_jax.optim import param_paths
from promise_jax.types import Modality

THREE = (
  Modality("text", "sequence", (3, 2)),
  Modality("audio", "sequence", (5, 4)),
  Modality("vision", "sequence", (3, 3)),
)
SMALL = {"width": 4, "heads": 2, "layers": 1, "memory_layers": 1, "prompts": 2}
PRESETS = {
  "clean": presets.PRESETS["clean"]["mplmm"] | SMALL,
  "authors": presets.PRESETS["authors"]["mplmm"] | SMALL,
}
each_preset = pytest.mark.parametrize("preset", PRESETS)


@functools.cache
def built(preset):
  """(spec, method, net) of a preset, whose parameters are the same."""
  spec, values = example_batches.spec("multilabel", THREE), PRESETS[preset]
  net = mplmm.MplmmNet(THREE, spec.task.outputs, mplmm.MplmmConfig(**values))
  return spec, methods.build_method("mplmm", values, spec), net


# Sizes.


def table(steps, features):
  """(sizes by path, the frozen paths, what is trained and all) of "tune"."""
  named = zip(("text", "audio", "vision"), steps, features, strict=True)
  modalities = tuple(Modality(n, "sequence", (t, d)) for n, t, d in named)
  spec = types.Spec(modalities, example_batches.TASKS["regression"], {})
  method = methods.build_method("mplmm", presets.PRESETS["authors"]["mplmm"], spec)
  shapes, _ = jax.eval_shape(method.init, jax.random.key(0))
  trains = method.stages[-1].trainable
  part = param_paths.leaves_by_path(param_paths.label_trainable(shapes, trains))
  sizes = {path: x.size for path, x in param_paths.leaves_by_path(shapes).items()}
  frozen = {path for path, value in part.items() if value == "freeze"}
  return sizes, frozen, param_paths.count_parameters(shapes, trains)


@pytest.mark.parametrize(
  "steps, features, backbone, trained, made, prompts, maps",
  [
    ((50, 50, 50), (300, 5, 20), 1_071_211, 88_141, 57_330, 11_880, 9_000),
    ((50, 50, 50), (768, 5, 20), 1_085_251, 130_261, 85_410, 11_880, 9_000),
    ((50, 50, 50), (300, 74, 35), 1_073_731, 95_701, 62_370, 11_880, 9_000),
    ((50, 50, 50), (768, 74, 35), 1_087_771, 137_821, 90_450, 11_880, 9_000),
    ((39, 400, 55), (768, 33, 709), 1_106_761, 382_595, 274_954, 32_520, 29_640),
  ],
)
def test_parameter_counts_are_those_of_the_released_code(
  steps, features, backbone, trained, made, prompts, maps
):
  sizes, frozen, counted = table(steps, features)
  assert counted == (trained, trained + 1_061_280)
  total = lambda kept: sum(x for path, x in sizes.items() if kept(path))
  assert total(lambda path: "/backbone/" in path) == backbone
  assert total(lambda path: path in frozen) == 1_061_280
  assert total(lambda p: "/generators/" in p and "prompts" not in p) == made
  assert total(lambda path: path.endswith("prompts")) == prompts
  assert total(lambda path: path.endswith("_map")) == maps


# Equations 1 to 5, row by row in double precision. The backbone is called as it is.


def gelu(x):
  return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def slow_made(p, raw, target):
  """The steps of `target` from the raw steps {modality: [T, D]} of what is there."""
  parts = [p[f"{target}_prompts"]]
  for source, x in raw.items():
    own = p[f"{target}_from_{source}"]
    parts.append(gelu(x @ own["kernel"] + own["bias"]))
  parts, name = np.concatenate(parts), f"{target}_of_{'_'.join(raw)}"
  kernel, bias = p[f"{name}_kernel"], p[f"{name}_bias"]
  out = np.zeros((len(bias), parts.shape[1]))
  for t in range(len(out)):
    for s in range(len(parts)):
      out[t] += kernel[s, t] * parts[s]
    out[t] += bias[t]
  return gelu(out)


def slow_row(p, batch, row, modalities):
  """({modality: (U_m, which of its steps are real)}, Q) of a row."""
  raw, streams, mapping = {}, {}, 0.0
  for i, m in enumerate(modalities):
    if batch.present[row, i]:
      raw[m.name], real = np.zeros(m.shape), batch.length[m.name][row]
      raw[m.name][:real] = batch.inputs[m.name][row, :real]
  for m in modalities:
    kind = "present" if m.name in raw else "missing"
    signal = p["signal"][f"{m.name}_{kind}_prompts"]
    if m.name in raw:
      steps = raw[m.name] @ p["backbone"][f"projection_{m.name}"]["kernel"]
      real = np.arange(len(steps)) < batch.length[m.name][row]
    else:
      steps = slow_made(p["generators"], raw, m.name) if raw else np.zeros(signal.shape)
      real = np.ones(len(steps), bool)
    streams[m.name] = steps + signal, real
    mapping = mapping + signal.T @ p["signal"][f"{m.name}_map"]
  return streams, mapping


def slow_logits(preset, params, batch):
  """The streams and maps row by row, through the backbone as it is."""
  spec, _, net = built(preset)
  p = jax.tree.map(lambda w: np.asarray(w, float), params["params"])
  rows = range(len(batch.present))
  streams, maps = zip(*(slow_row(p, batch, r, spec.modalities) for r in rows), strict=True)
  steps = [np.stack([s[n][0] for s in streams]) for n in spec.names]
  new = np.float32([p["type_prompts"] @ m for m in maps])

  def rest(net, steps, real):
    found, _ = net.backbone.cross_attend(steps, real)
    return net.backbone.head(net.backbone.self_attend(*host.append_steps(found, real, new)))

  # To the released code padding is a step like others.
  real = [np.stack([s[n][1] for s in streams]) | net.config.released_code for n in spec.names]
  args = host.pad_and_stack(steps).astype(np.float32), host.pad_and_stack(real)
  return jax.jit(functools.partial(net.apply, method=rest))(params, *args)


def batch_of(spec):
  """Eight rows: each pattern, then nothing. Garbage in padding and where absent."""
  batch = example_batches.complete_batch(spec, 8)
  present = np.array([*missing.all_patterns(3), (False,) * 3])
  batch = batch.replace(present=present)
  return example_batches.to_inputs(example_batches.poison(batch, spec, present))


@functools.cache
def forward(preset):
  """(batch, parameters without zeros, the program of `predict`)."""
  spec, method, _ = built(preset)
  run = jax.jit(method.predict, static_argnames="pattern")
  params = example_batches.random_params(method)["params"]
  # Large: near 0 the exact GELU and its approximation are the same.
  params["generators"] = jax.tree.map(lambda x: 3 * x, params["generators"])
  return batch_of(spec), {"params": params}, run


@each_preset
def test_the_forward_pass_equals_a_slow_loop(preset):
  batch, params, run = forward(preset)
  found = run(params, {}, batch)["logits"]
  np.testing.assert_allclose(found, slow_logits(preset, params, batch), rtol=1e-5, atol=5e-6)
  assert np.abs(np.diff(found, axis=0)).max(1).min() > 1e-2


def test_generated_steps_equal_a_slow_loop():
  """By themselves: in the logits an approximate GELU would not be seen."""
  _, _, net = built("clean")
  batch, params, _ = forward("clean")

  def generated(net):
    encoded = net.backbone.encode(batch, batch.present)
    return net.generate(encoded, batch.present), encoded.raw

  made, raw = jax.jit(lambda p: net.apply(p, method=generated))(params)
  p = jax.tree.map(lambda w: np.asarray(w, float), params["params"]["generators"])
  for row, present in enumerate(batch.present):
    there = [m.name for m, here in zip(THREE, present, strict=True) if here]
    own = {n: np.asarray(raw[n][row], float) for n in there}
    for n in set(raw) - set(there):
      wanted = slow_made(p, own, n) if own else 0
      np.testing.assert_allclose(made[n][row], wanted, rtol=1e-5, atol=1e-5)


# What cannot matter.


def other_where_absent(batch, spec, there):
  """Finite other values and other lengths where `there` is False."""
  rng = np.random.default_rng(5)
  inputs, length = dict(batch.inputs), dict(batch.length)
  for i, m in enumerate(spec.modalities):
    x = rng.normal(size=batch.inputs[m.name].shape).astype(np.float32)
    inputs[m.name] = np.where(there[:, i, None, None], inputs[m.name], x)
    steps = rng.integers(1, m.shape[0] + 1, len(x)).astype(np.int32)
    length[m.name] = np.where(there[:, i], length[m.name], steps)
  return batch.replace(inputs=inputs, length=length)


@each_preset
def test_an_absent_modality_is_not_read(preset):
  spec = built(preset)[0]
  batch, params, run = forward(preset)
  other = other_where_absent(batch, spec, batch.present)
  found, again = (run(params, {}, x)["logits"] for x in (batch, other))
  np.testing.assert_array_equal(again, found)


def test_a_modality_that_a_static_pattern_hides_is_not_read():
  spec = built("clean")[0]
  _, params, run = forward("clean")
  full = example_batches.to_inputs(example_batches.complete_batch(spec, 8))
  pattern = (True, False, False)
  hidden = other_where_absent(full, spec, np.tile(pattern, (8, 1)))
  one, two = (run(params, {}, x, pattern=pattern)["logits"] for x in (full, hidden))
  np.testing.assert_array_equal(two, one)
  assert np.abs(run(params, {}, full)["logits"] - one).max() > 1e-2
