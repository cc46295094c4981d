"""Presets: named sets of settings for the methods and for their training."""

from promise_jax.methods.redcore import RedcoreConfig

# Methods with the sizes `hidden` and `head_hidden` alone.
_TWO_SIZES = ("share", "fusion", "distil", "prototypes")
# A host that compiles and trains in seconds.
_TINY_HOST = {"width": 4, "heads": 1, "layers": 1, "memory_layers": 1, "prompts": 2}
# The backbone of MPLMM's paper.
_PAPER_MULT = {"host": "mult", "width": 30, "heads": 5, "layers": 5, "memory_layers": 5}
_PAPER_MULT |= {"pretrain": 0.5, "tune": 0.5}

# RedCore as its released code is. The widths stay (theirs: hidden=128, imputer_hidden=256,
# head_hidden=128, at a rate of 2e-4 for 60 epochs).
_REDCORE_AUTHORS = {
  "as_released": True,
  "encoder": "transformer",
  "num_blocks": 3,
  "num_autoencoders": 5,
  "head_dropout": 0.5,
  "vib": True,
  "kl_weight": 8e-4,
  "imputation_weight": 0.15,
  "unimodal_weight": 1.0,
  "detach_latents": False,
  "num_subsets": 0,
  "upper": "relative_advantage",
  "beta_step": 0.1,
  "beta_growth": 1.5,
  "beta_every": 3,
}
# The defaults: it undoes "authors" in a variant of such a run.
_REDCORE_CLEAN = {name: getattr(RedcoreConfig, name) for name in _REDCORE_AUTHORS}

# PROMISE at the sizes of CLIP features, with every block of the figure (ours: the
# paper's sizes are not known). Positions are added to all steps, also to those of
# features that have some. The rate falls on a cosine with optax's betas, where MAP and
# DCP have a linear decay and (0.9, 0.98). Views of sequences of features are scaled,
# jittered and lose a span: they do not drop tokens (15 %) and features (10 %).
_PROMISE_CLIP = {
  "encoder": "steps",
  "hidden": 512,
  "num_heads": 8,
  "num_prompts": 16,
  "num_cross_layers": 2,
  "num_self_layers": 2,
  "norm": True,
  "code_size": 128,
  "fncl_weight": 0.1,
  "cccl_weight": 0.1,
  "temperature": 0.07,
  "num_views": 2,
  "augment_strength": 1.0,
  "hide_views": False,
  "dropout": 0.1,
  "prompt_lr_factor": 10.0,
}

# {preset: {section of the config: fields}}; `seeds` stands at the top of the config.
PRESETS = {
  # For the embedded data sets: encoders trained from nothing on few rows.
  "default": {},
  # For features of a frozen backbone: wider codes, a slower rate (ours).
  "large": {
    "train": {"optim": {"lr": 1e-4}},
    "robult": {"hidden": 256, "shared": 128},
    **dict.fromkeys(_TWO_SIZES, {"hidden": 256}),
    "redcore": {"hidden": 256, "imputer_hidden": 256},
    "promise": {"hidden": 256, "code_size": 64},
    **dict.fromkeys(("mplmm", "promma"), {"width": 256}),
  },
  # Shows that everything runs; the numbers mean nothing.
  "tiny": {
    "seeds": 2,
    "train": {"steps": 20, "eval_every": 10, "batch_size": 32, "labelled_per_batch": 8},
    "robult": {"hidden": 16, "shared": 8, "head_hidden": 16},
    **dict.fromkeys(_TWO_SIZES, {"hidden": 16, "head_hidden": 16}),
    "redcore": {"hidden": 16, "imputer_hidden": 16, "num_autoencoders": 2, "head_hidden": 16},
    "promise": {"hidden": 16, "num_prompts": 2, "code_size": 8},
    **dict.fromkeys(("mplmm", "promma"), _TINY_HOST),
  },
  # What the released code of a method does, where the default mends it.
  "authors": {
    "redcore": _REDCORE_AUTHORS,
    "mplmm": _PAPER_MULT | {"released_code": True},
  },
  # The sizes of the paper without the faults of the released code.
  "clean": {"redcore": _REDCORE_CLEAN, "mplmm": _PAPER_MULT, "promma": _PAPER_MULT},
  # For CLIP features.
  "clip": {"promise": _PROMISE_CLIP},
}

# Presets that speak of some methods only; the others speak of all.
METHOD_PRESETS = ("authors", "clean", "clip")

# Fields of `train` that go with a preset, if the method of the run is this one.
PRESET_TRAINING = {
  # RedCore's released code clips the gradient of each module alone: no clip of the run.
  ("authors", "redcore"): {"optim": {"schedule": "linear", "weight_decay": 0.0, "clip": 1e9}},
  ("authors", "mplmm"): {
    "batch_size": 64,
    "optim": {"lr": 1e-3, "schedule": "constant", "weight_decay": 0.0, "clip": 0.8},
  },
  # Ours.
  ("clip", "promise"): {"optim": {"lr": 1e-4, "weight_decay": 0.02, "warmup": 0.1}},
}
