"""Made-up results of two methods, for the tests of reports."""

import pandas as pd


def line(method="robult", pattern="text", value=0.5, seed=0, **other) -> dict:
  """One row of results on 40 examples of the data set "toy"."""
  fixed = {
    "dataset": "toy",
    "split": "test",
    "protocol": "none",
    "mask_hash": "c0ffee",
    "metric": "accuracy",
    "n": 40,
    "label_rate": 0.05,
  }
  return fixed | {"method": method, "pattern": pattern, "value": value, "seed": seed} | other


def protocol_lines(method, protocol, values, **other) -> list[dict]:
  """One row a seed of a mixed protocol."""
  return [line(method, None, v, s, protocol=protocol, **other) for s, v in enumerate(values)]


def valid_lines(method, *values, metric="accuracy") -> list[dict]:
  """The validation scores of the selected step, a seed each."""
  fixed = {"split": "valid", "metric": metric, "step": 10}
  return protocol_lines(method, "mean over patterns", values, **fixed)


# Seeds 0 and 1 of two methods under the three patterns of two modalities.
VALUES = {
  "robult": {"text+audio": (0.8, 1), "text": (0.5, 0.7), "audio": (0.3, 0.3)},
  "fusion": {"text+audio": (0.9, 0.9), "text": (0.6, 0.8), "audio": (0.2, 0.2)},
}
PATTERNS = [
  line(method, pattern, value, seed)
  for method, patterns in VALUES.items()
  for pattern, values in patterns.items()
  for seed, value in enumerate(values)
]
SCORES = valid_lines("robult", 0.5, 0.6) + valid_lines("fusion", 0.6, 0.6)
RATES = [
  x
  for rate, values in ((0.1, (0.9, 0.7)), (0.3, (0.7, 0.7)), (0.7, (0.3, 0.5)))
  for x in protocol_lines("robult", f"bernoulli({rate}, keep=1)", values, rate=rate)
]
PROTOCOLS = [
  *protocol_lines("robult", "map(0.5)", (0.5, 0.7)),
  *protocol_lines("fusion", "map(0.5)", (0.4, 0.5)),
  *protocol_lines("robult", "exact(0.2)", (0.8, 0.8), n=39),
  *protocol_lines("fusion", "exact(0.2)", (0.9, None), n=39),
  *protocol_lines("fusion", "map(0.9)", (1, 1)),  # in no table
]


def training_log(method, step, seed, **terms) -> dict:
  """One row of the training log."""
  return {"method": method, "step": step, "seed": seed, "loss": 1.0, "valid": 0.5} | terms


UPPER = [
  training_log("redcore", step, seed, moved=0.1 * step, **{"beta/text": 0.6, "beta/audio": 1})
  for step in (1, 2)
  for seed in (0, 1)
]
STILL = [training_log("redcore(step=0.0)", 2, 0, moved=0.0), training_log("fusion", 2, 0)]


def frame(*lines: list[dict]) -> pd.DataFrame:
  """Lists of rows as one DataFrame, in the types that a run has."""
  return pd.DataFrame([x for part in lines for x in part]).astype({"value": float})
