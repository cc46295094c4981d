"""The stages of `mplmm` and `promma`: a host is trained, then prompts on it.

On `host="mult"`, as in MPLMM, the host is trained on all that was recorded. On `host="tokens"`
(ours) every stage trains under the masks, with modality dropout, as `fusion` does.
"""

import jax

from promise_jax import types
from promise_jax.method import Method, Stage
from promise_jax.methods import common
from promise_jax.nn import image_features
from promise_jax.types import Array, Batch, PyTree

# What depends on the data set: projections, embeddings and the output layer.
DATA_LAYERS = ("projection", "embedding", "output")
FITTED = "params/backbone/(projection|embedding|output).*"
# The layers of `token_host` start as nothing, and are trained with the prompts.
TUNED = "params/(backbone/(projection|embedding|output|cross_layers|self_layers)|(?!backbone/)).*"


def loss_and_predict(net, output_of, task: types.Task):
  """The loss of the task and `predict`, by a method of the network that returns an output."""

  def loss(params, model_state, batch, key, step_info):
    del step_info
    logits, _ = net.apply(params, batch, batch.present, rngs={"dropout": key}, method=output_of)
    term = common.supervised_loss(logits, batch, task)
    return term.value, (model_state, {"supervised": term})

  def predict(params, model_state, inputs, pattern=None, codes=None):
    del model_state
    inputs = common.keep_pattern(inputs, pattern)
    logits, fused = net.apply(params, inputs, inputs.present, pattern, codes, method=output_of)
    return {"logits": logits, "fused": fused}

  return loss, predict


def make_encode(net):
  """`Method.encode`; None with host "mult", whose projections are a small part of it."""
  if net.config.host == "mult":
    return None
  return lambda params, inputs: net.apply(params, inputs, inputs.present, method=net.encode)


def make_method(config, init, net, spec: types.Spec, tune: Stage) -> Method:
  """The method with those of the three stages that have a part of the training steps."""
  loss, predict = loss_and_predict(net, net.backbone_output, spec.task)
  tune = tune._replace(trainable=(TUNED if config.frozen else ".*",), fraction=config.tune)
  validated = {"predict": predict, "encode": make_encode(net)}
  stages = (
    Stage("pretrain", loss, ("params/backbone/.*",), config.pretrain, False, **validated),
    Stage("fit", loss, (FITTED,), config.fit, False, **validated),
    tune,
  )
  stages = tuple(stage for stage in stages if stage.fraction)
  if config.host == "mult":
    return Method(init, stages[-1].predict, stages)
  stages = tuple(map(drop_modalities, stages))
  preprocess = image_features.make_preprocess(spec.modalities)
  return Method(init, stages[-1].predict, stages, preprocess, stages[-1].encode)


def drop_modalities(stage: Stage) -> Stage:
  """`stage` with modality dropout in its loss, of what masks have left."""

  def loss(params, model_state, batch: Batch, key, step_info):
    subset_key, key = jax.random.split(key)
    kept = common.random_subset(subset_key, batch.id, batch.present)
    return stage.loss(params, model_state, batch.replace(present=kept), key, step_info)

  return stage._replace(loss=loss, hide=True)


def reset_data_layers(config, init, key: Array, params: PyTree) -> PyTree:
  """`params` with new data layers, as the released code starts the prompts; ours keeps them."""
  if not config.released_code:
    return params
  backbone = params["params"]["backbone"] | data_layers(init(key)[0])
  return {"params": params["params"] | {"backbone": backbone}}


def data_layers(params: PyTree) -> dict[str, PyTree]:
  """The projections, embeddings and output layer of the backbone, by name."""
  backbone = params["params"]["backbone"]
  return {name: x for name, x in backbone.items() if name.split("_")[0] in DATA_LAYERS}
