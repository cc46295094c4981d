"""Which variant a run is about: the best by the steps that were selected."""

from made_up_results import PATTERNS, SCORES, frame, protocol_lines, valid_lines
from promise_jax.reports import comparison


def test_the_best_variant_is_that_of_the_selected_steps():
  """Less of an error is better; what was evaluated on validation rows later does not count."""
  later = protocol_lines("robult", "exact(0.5)", (0.99, 0.99), split="valid")
  results = frame(SCORES, later)
  assert comparison.best_on_validation(results) == "fusion"
  ((split, lines),) = comparison.other_splits(results)
  assert split == "valid" and set(lines["protocol"]) == {"exact(0.5)"}
  errors = valid_lines("robult", 0.5, metric="mae") + valid_lines("fusion", 0.6, metric="mae")
  assert comparison.best_on_validation(frame(errors)) == "robult"
  assert comparison.best_on_validation(frame(PATTERNS)) is None
