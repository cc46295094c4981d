"""The words of a report in a line each."""

import re

# (term, regex that finds it in a page, what it means)
TERMS = (
  ("accuracy", r"\baccuracy", "fraction of rows whose class is predicted correctly"),
  ("macro F1", r"\bmacro[_ ]f1", "mean of F1 over classes: a rare one counts as much as any"),
  ("precision", r"\bprecision \(%\)", "of the rows predicted as a class, the part that is of it"),
  ("recall", r"\brecall\b", "of the rows of a class, the part that is predicted as it"),
  ("F1", r"\bf1\b", "harmonic mean of precision and recall"),
  ("UAR", r"\buar\b", "mean of recall over classes"),
  ("AUROC", r"\bauroc\b", "chance that a row of a class scores above one of another"),
  ("MAE", r"\bmae\b", "mean absolute error in the unit of the label; less is better"),
  ("NLL", r"\bnll\b", "minus the log-probability of the true label; less is better"),
  ("Brier", r"\bbrier\b", "squared distance of probabilities to the outcome; less is better"),
  ("ECE", r"\bece\b", "how far confidence is from the fraction that is right; less is better"),
  ("coverage", r"\bcoverage", "part of the rows whose set (or interval) holds the truth"),
  ("size", r"\bsize before", "mean number of classes in a set; less is better"),
  ("width", r"\bwidth before", "mean length of an interval in the label's unit; less is better"),
  ("AUILC", r"\bauilc\b", "area under a metric over missing rates, divided by their range"),
  ("Shapley value", r"\bshapley\b", "what a modality adds, averaged over all orders of adding"),
  ("pattern", r"\bpattern", "which modalities of a row are present"),
  ("protocol", r"\bprotocol", "how the modalities that are hidden are drawn"),
  ("interval", r"\binterval", "where the true value is, at 95 % confidence, by a bootstrap"),
  ("undecided", r"\bundecided\b", "the interval contains zero: either may be better"),
  ("seed", r"\bseeds?\b", "a repetition with other initial parameters, labels and masks"),
  ("± std", "± std", "standard deviation over seeds (n-1)"),
)


def find_terms(page: str) -> list[tuple[str, str]]:
  """(term, meaning) of the terms that occur in an HTML page, in its text or describing a plot."""
  text = " ".join([re.sub(r"<[^>]*>", " ", page), *re.findall(r'\balt="([^"]*)"', page)])
  return [(term, meaning) for term, found, meaning in TERMS if re.search(found, text, re.I)]
