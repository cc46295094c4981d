"""Checks of settings: each raises ValueError with the value found and what is allowed."""

from collections.abc import Sequence


def check_choice(name: str, value, known: Sequence) -> None:
  """Raises ValueError unless `value` is one of `known`."""
  if value not in known:
    raise ValueError(f"{name} is {value!r}, known are {', '.join(known)}")


def check_at_least(name: str, value: float, low: float) -> None:
  """Raises ValueError unless `value` is a number of at least `low`."""
  if not value >= low:
    raise ValueError(f"{name} is {value}, it must be at least {low}")
