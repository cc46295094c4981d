"""The config of a comparison: how config files make one, and what must fit."""

from promise_jax.checks import check_choice
from promise_jax.experiments.config import parse_pairs
from promise_jax.experiments.experiment import parse_experiment


def make_two_runs(
  arguments: str,
  base,
  *,
  title: str,
  headline: tuple[str, ...],
  others: tuple[str, ...],
  trials: dict[str, tuple[str, ...]] | None = None,
  variants: tuple[str, ...] = (),
  before: dict[str, dict] | None = None,
):
  """The ConfigDict of a comparison with 20 seeds of the main variants and 5 of the others.

  Args:
    arguments: of the config file; `base`, the ConfigDict of an experiment, has them already.
    title: of the report.
    headline: baselines beside the method, with 20 seeds.
    others: variants with 5 seeds, at least one; the method is not trained again with them.
    trials, variants: see `run_comparison`.
    before: {name: fields in place of those of `base`}, with 20 seeds and no baselines.

  Raises:
    ValueError: `arguments` set the seeds or the baselines.
  """
  from ml_collections import config_dict

  for field in ("seeds", "baselines"):
    if field in parse_pairs(arguments):
      raise ValueError(f"{field} is fixed in this comparison, it cannot be given")
  first, *rest = others
  base = base.to_dict()
  runs = {
    "headline": base | {"seeds": 20, "baselines": headline},
    "others": base | {"seeds": 5, "method": first, "baselines": tuple(rest)},
  }
  config = {"title": title, "trials": trials or {}, "trial_seeds": 5, "runs": runs}
  if variants:
    config["variants"] = variants
  if before:
    alone = base | {"seeds": 20, "baselines": (), "init_from": ""}
    config["before"] = {name: alone | fields for name, fields in before.items()}
  return config_dict.ConfigDict(config)


def check_comparison(config: dict) -> None:
  """ValueError unless the runs share data and protocols, and all lists of trials are as long."""
  if not config["runs"]:
    raise ValueError("runs is empty, at least one experiment is needed")
  counts = {name: len(trials) for name, trials in config["trials"].items()}
  if len(set(counts.values())) > 1:
    raise ValueError(f"trials must be equally many for every variant, found {counts}")
  for field in ("dataset", "data", "label_rate", "train_protocol", "test_protocols"):
    values = [one[field] for one in config["runs"].values()]
    if any(value != values[0] for value in values):
      raise ValueError(f"the runs of a comparison share {field}, found {values}")
  example = {name: trials[0] for name, trials in config["trials"].items()}
  runs = [fill_choices(one, example) for one in config["runs"].values()]
  for one in (*config.get("before", {}).values(), *runs):
    parse_experiment(one)
  known = sorted({name for one in runs for name in (one["method"], *one["baselines"])})
  for name in config.get("variants", ()):
    check_choice("variants", name, known)


def fill_choices(config: dict, chosen: dict[str, str]) -> dict:
  """The config with every "{name}" in its variants replaced by the variant chosen."""
  names = [config["method"], *config["baselines"]]
  for name, text in chosen.items():
    names = [n.replace("{" + name + "}", text) for n in names]
  return config | {"method": names[0], "baselines": tuple(names[1:])}
