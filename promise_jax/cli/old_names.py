"""Names of version 0.1 that the command line still takes, with a note of the new one."""

import re

FIELDS = {
  "controls": "baselines",
  "init_only": "init_filter",
  "train.every": "train.eval_every",
  "train.batch": "train.batch_size",
  "train.select": "train.select_on",
  "train.replicate": "train.seed_parallelism",
  "train.seed_groups": "train.seed_devices",
}
_MULT = "steps>max_steps signal>signal_prompts types>type_prompts"
_RENAMED = {  # where only the name of a setting changed
  "fusion": "absent>fill",
  "robult": "stop_s>detach_shared tau>temperature lb>labelled_weight ulb>unlabelled_weight "
  "rec>reconstruction_weight bank>bank_size",
  "redcore": "imputer>imputer_hidden links>num_autoencoders blocks>num_blocks kl>kl_weight "
  "impute>imputation_weight unimodal>unimodal_weight subsets>num_subsets step>beta_step "
  "growth>beta_growth every>beta_every upper_lr>hypergradient_lr upper_from>hypergradient_from",
  "promise": "prompts>num_prompts heads>num_heads cross_layers>num_cross_layers "
  "self_layers>num_self_layers code>code_size fncl>fncl_weight cccl>cccl_weight "
  "views>num_views strength>augment_strength hide>hide_views prompt_rate>prompt_lr_factor",
  "mplmm": _MULT,
  "promma": _MULT + " skip>identity_skip aim>generation_target judge_every>gate_every "
  "evaluator>gate_weight orthogonal>orthogonality_weight recover>recovery_weight "
  "information>information_weight generator>generation_weight",
}
# {method: {old setting: setting}}
SETTINGS = {m: dict(p.split(">") for p in text.split()) for m, text in _RENAMED.items()}


def rename_arguments(text: str) -> str:
  """`key=value,...` after the colon of --config, with today's names."""
  text = re.sub(r"(^|,)(\w+)=(?![^(]*\))", lambda m: f"{m[1]}{rename(m[2], FIELDS)}=", text)
  return rename_variants(text)


def rename_override(field: str, value: str | None) -> tuple[str, str | None]:
  """The field and value of --config.FIELD=VALUE, with today's names."""
  value = value and rename_variants(value)
  for old in FIELDS:
    # A comparison has the same fields in each of its runs: runs.NAME.train.every.
    if field == old or field.endswith(f".{old}"):
      return field.removesuffix(old) + rename(old, FIELDS), value
  section, _, last = field.rpartition(".")
  settings = SETTINGS.get(section.rpartition(".")[2], {})
  return field.removesuffix(last) + rename(last, settings), value


def rename_variants(text: str) -> str:
  """Settings in parentheses behind a method, as in "fusion(absent=zeros)"."""

  def one(match):
    names = SETTINGS.get(match[1], {})
    inside = re.sub(r"(^|,)(\w+)=", lambda m: f"{m[1]}{rename(m[2], names)}=", match[2])
    return f"{match[1]}({inside})"

  return re.sub(r"(\w+)\(([^()]*)\)", one, text)


def rename(name: str, names: dict[str, str]) -> str:
  """Today's name, with a note where it is another."""
  if name in names:
    print(f"note: {name} is now called {names[name]}")
  return names.get(name, name)
