"""Checks of settings: each raises ValueError with the value found and what is allowed."""

import contextlib
import difflib
import typing
from collections.abc import Iterable, Iterator, Sequence


def shorten(text: str, most: int = 400) -> str:
  """A text without its middle if it is long: values in messages may be of any length."""
  return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


@contextlib.contextmanager
def name_place_in_errors(place: str) -> Iterator[None]:
  """Makes an error of reading a value one sentence that starts with where it is from."""
  try:
    yield
  except (ValueError, TypeError, ArithmeticError, RecursionError) as error:  # cells hold anything
    raise ValueError(f"{place}: {shorten(str(error)).rstrip('.')}.") from error


def suggest(value, known: Iterable[str]) -> str:
  """ "; did you mean NAME?" with the nearest of `known`, "" if none is near."""
  near = difflib.get_close_matches(str(value), known, 1)
  return f"; did you mean {near[0]}?" if near else ""


def check_choice(name: str, value, known: Sequence) -> None:
  """Raises ValueError unless `value` is one of `known`."""
  if value not in known:
    # An empty choice stands for the default; nobody has to type it.
    words = ", ".join(filter(None, known)) + suggest(value, known)
    raise ValueError(f"{name} is {value!r}, known are {words}")


def check_that(name: str, value: float, is_valid: bool, bounds: str) -> None:
  """Raises ValueError unless `value` is valid; `bounds` says what it must do."""
  if not is_valid:
    raise ValueError(f"{name} is {value}, it must {bounds}")


def check_at_least(name: str, value: float, low: float) -> None:
  """Raises ValueError unless `value` is a number of at least `low`."""
  check_that(name, value, value >= low, f"be at least {low}")


def check_fields(config, name: str, **lows: float) -> None:
  """Checks the fields of a dataclass, `name.field` in messages: those of a Literal type, and
  those with a minimum, `lows` {field: least value}."""
  for field, kind in typing.get_type_hints(type(config)).items():
    if typing.get_origin(kind) is typing.Literal:
      check_choice(f"{name}.{field}", getattr(config, field), typing.get_args(kind))
  for field, low in lows.items():
    check_at_least(f"{name}.{field}", getattr(config, field), low)
