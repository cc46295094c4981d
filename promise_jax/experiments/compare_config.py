"""What must fit in the config of a comparison."""

from promise_jax.checks import check_choice
from promise_jax.experiments.experiment import parse_experiment


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
  for one in runs:
    parse_experiment(one)
  known = sorted({name for one in runs for name in (one["method"], *one["baselines"])})
  for name in config.get("against", ()):
    check_choice("against", name, known)


def fill_choices(config: dict, chosen: dict[str, str]) -> dict:
  """The config with every "{name}" in its variants replaced by the variant chosen."""
  names = [config["method"], *config["baselines"]]
  for name, text in chosen.items():
    names = [n.replace("{" + name + "}", text) for n in names]
  return config | {"method": names[0], "baselines": tuple(names[1:])}
