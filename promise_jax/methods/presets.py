"""Presets: named sets of settings for the methods and for their training."""

# A MulT that compiles and trains in seconds.
_TINY_MULT = {"width": 4, "heads": 1, "layers": 1, "memory_layers": 1, "prompts": 2}
# Layers of MPLMM's paper; width 30 and 5 heads are the default.
_PAPER_MULT = {"layers": 5, "memory_layers": 5}

# RedCore as its released code is. The widths stay (theirs: hidden=128, imputer=256,
# head_hidden=128, at a rate of 2e-4 for 60 epochs).
_REDCORE_AUTHORS = {
  "encoder": "transformer",
  "heads": 8,
  "blocks": 3,
  "vib": True,
  "kl": 8e-4,
  "unimodal": 1.0,
  "detach_target": False,
  "upper": "relative_advantage",
  "rho": 0.7,
  "step": 0.1,
  "period": 500,
  "every": 3,
  "floor": 0.1,
  "subsets": 0,
  "links": 5,
  "absent": "zero",
  "eval_sample": True,
  "mask_padding": False,
  "average": False,
  "he_init": True,
  "logvar_start": 0.0,
  "logvar_bound": 0.0,
  "count_empty": True,
  "clip": 1.0,
  "head_dropout": 0.5,
  "impute": 0.15,
  "growth": 1.5,
}
# The defaults, written out: it undoes "authors" in a variant of such a run.
_REDCORE_CLEAN = _REDCORE_AUTHORS | {
  "encoder": "pooled",
  "subsets": 2,
  "links": 1,
  "absent": "learned",
  "eval_sample": False,
  "mask_padding": True,
  "average": True,
  "he_init": False,
  "logvar_start": -3.0,
  "logvar_bound": 10.0,
  "count_empty": False,
  "clip": 0.0,
  "head_dropout": 0.0,
  "impute": 1.0,
  "growth": 1.0,
}

# PROMISE at the sizes of CLIP features, with every block of the figure (ours: the
# paper's sizes are not known). Positions are added to all steps, also to those of
# features that have some. The rate falls on a cosine with optax's betas, where MAP and
# DCP have a linear decay and (0.9, 0.98). Views of sequences of features are scaled,
# jittered and lose a span: they do not drop tokens (15 %) and features (10 %).
_PROMISE_CLIP = {
  "encoder": "frozen",
  "hidden": 512,
  "heads": 8,
  "prompts": 16,
  "generator_layers": 1,
  "cross_layers": 2,
  "self_layers": 2,
  "norm": True,
  "code": 128,
  "fncl": 0.1,
  "cccl": 0.1,
  "temperature": 0.07,
  "views": 2,
  "strength": 1.0,
  "hide": False,
  "dropout": 0.1,
  "prompt_rate": 10.0,
}

# {preset: {section of the config: fields}}; `seeds` stands at the top of the config.
PRESETS = {
  # For the embedded data sets: encoders trained from nothing on few rows.
  "default": {},
  # For features of a frozen backbone: wider codes, a slower rate (ours).
  "large": {
    "train": {"optim": {"lr": 1e-4}},
    "robult": {"hidden": 256, "shared": 128, "private": 128},
    "share": {"hidden": 256},
    "fusion": {"hidden": 256},
    "distil": {"hidden": 256},
    "redcore": {"hidden": 256, "imputer": 256},
    "promise": {"hidden": 256, "code": 64},
    "mplmm": {"width": 60},
    "promma": {"width": 60},
  },
  # Shows that everything runs; the numbers mean nothing.
  "tiny": {
    "seeds": 2,
    "train": {"steps": 20, "eval_every": 10, "batch_size": 32, "labelled_per_batch": 8},
    "robult": {"hidden": 16, "shared": 8, "private": 8, "head_hidden": 16},
    "share": {"hidden": 16, "head_hidden": 16},
    "fusion": {"hidden": 16, "head_hidden": 16},
    "distil": {"hidden": 16, "head_hidden": 16},
    "redcore": {"hidden": 16, "imputer": 16, "links": 2, "head_hidden": 16},
    "promise": {"hidden": 16, "prompts": 2, "code": 8},
    "mplmm": _TINY_MULT,
    "promma": _TINY_MULT,
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
