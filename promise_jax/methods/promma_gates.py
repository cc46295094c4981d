"""Gates of ProMMA: how they are decided, and the labels that their evaluator learns from.

The evaluator never sees its label. The label says by how much generating a modality brings
the model nearer to y* = (y + f0(everything recorded)) / 2, where f0 is the backbone as it was
when the stage began. A row without a label has y* = f0(everything recorded). All ours.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax import missing
from promise_jax.losses import generation_gate, supervised
from promise_jax.types import Average, Batch, Inputs, PyTree, Task

LABEL_WEIGHT = 0.5  # of y in y*, beside the pseudo label


def frozen_backbone_logits(
  net, params: PyTree, f0: PyTree, batch: Inputs, masks: Bool[Array, "K B M"], needed: Array
) -> Float[Array, "K B C"]:
  """Logits of f0, which sees `masks` in turn; zeros where `needed` bool[K] is False.

  `f0` holds the layers of the backbone that the stage changes.
  """
  params = jax.lax.stop_gradient(params)["params"]
  params = {"params": params | {"backbone": params["backbone"] | f0}}
  run = lambda mask: net.apply(params, batch, mask, method=net.backbone_output)[0]
  skip = lambda mask: jnp.zeros((mask.shape[0], net.outputs))
  # One program for all masks: the backbone is most of what is compiled.
  return jax.lax.map(lambda args: jax.lax.cond(args[1], run, skip, args[0]), (masks, needed))


def label_gates(
  net,
  task: Task,
  params: PyTree,
  moments: PyTree,
  batch: Batch,
  pseudo_logits: Float[Array, "B C"],
  margin: float,
) -> tuple[Float[Array, "B M"], PyTree]:
  """Soft labels of the gates, and the moments of the targets with those of this batch."""
  where = batch.labelled & jnp.any(batch.present, axis=1)
  label = missing.zero_absent(batch.label, where)
  label = supervised.label_probability(label, task)
  moments = generation_gate.update_moments(moments, label, where)
  pseudo = supervised.predict_probability(pseudo_logits, task)
  mixed = LABEL_WEIGHT * label + (1 - LABEL_WEIGHT) * pseudo
  target = jnp.where(where[:, None], mixed, pseudo)
  errors = errors_per_setting(net, task, params, batch, target)
  benefit = generation_gate.generation_benefit(errors, batch.present)
  deviation = generation_gate.target_deviation(moments)
  return generation_gate.gate_label(benefit, deviation, margin), moments


def errors_per_setting(
  net, task: Task, params: PyTree, batch: Inputs, target: Float[Array, "B C"]
) -> Float[Array, "G B"]:
  """Errors of the model under every setting of the gates, without dropout or gradient."""
  params, present = jax.lax.stop_gradient(params), batch.present
  encoded, generated = net.apply(params, batch, present, present, method=net.encode_and_generate)

  def error(setting):
    gates = generation_gate.gate_values(setting, present)
    out = net.apply(params, encoded, generated, present, gates, method=net.forward)
    return generation_gate.prediction_error(out.logits, target, task)

  return jax.lax.map(error, jnp.asarray(generation_gate.gate_settings(present.shape[1])))


def predict_gates(
  net, params: PyTree, model_state: PyTree, batch: Inputs, encoded, generated
) -> Float[Array, "B M"]:
  """The hard gates of a prediction. The evaluator decides once it has been trained."""
  present = batch.present
  if net.config.gate != "learned":
    return jnp.full(present.shape, float(net.config.gate == "on"))
  args = net, params, model_state["f0"], batch
  (backbone,) = frozen_backbone_logits(*args, present[None], jnp.ones(1, bool))
  logits = net.apply(params, encoded, generated, present, backbone, method=net.gate_logits)
  return jnp.where(model_state["evaluator_trained"] & (logits < 0), 0.0, 1.0)


def train_gates(
  net, task: Task, params: PyTree, model_state: PyTree, batch: Batch, encoded, generated, step_info
) -> tuple[Float[Array, "B M"], Array, dict[str, Average], PyTree]:
  """(soft gates, weight of the gate term, terms, model_state) of a training step."""
  c, present = net.config, batch.present
  absent = ~present & jnp.any(present, axis=1)[:, None]
  warm = step_info.progress < c.warmup
  has_labels = ~warm & (step_info.step % c.gate_every == 0)
  masks, needed = jnp.stack([present, batch.recorded]), jnp.stack([True, has_labels])
  args = net, params, model_state["f0"], batch
  answer, pseudo_label = frozen_backbone_logits(*args, masks, needed)
  make = lambda moments: label_gates(net, task, params, moments, batch, pseudo_label, c.margin)
  skip = lambda moments: (jnp.zeros(present.shape), moments)
  labels, moments = jax.lax.cond(has_labels, make, skip, model_state["moments"])
  logits = net.apply(params, encoded, generated, present, answer, method=net.gate_logits)
  trained = model_state["evaluator_trained"] | jnp.any(absent & ~warm)
  model_state = model_state | {"moments": moments, "evaluator_trained": trained}
  entropy = generation_gate.gate_cross_entropy(labels, logits)
  terms = {"gate": Average.of(entropy, absent & has_labels)}
  for i, name in enumerate(net.names):
    terms[f"on/{name}"] = Average.of((logits[:, i] >= 0).astype(jnp.float32), absent[:, i])
  # The mean weight over steps does not depend on `gate_every`.
  weight = jnp.where(has_labels, c.gate_weight * c.gate_every, 0.0)
  return jnp.where(warm, 1.0, jax.nn.sigmoid(logits)), weight, terms, model_state
