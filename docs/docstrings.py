"""Makes docstrings, which are written to be read in the source, safe for reStructuredText."""

import re

SECTION = re.compile(r"(Args|Returns|Raises|Yields|Source|Example|Examples|Note):$")
LIST_ITEM = re.compile(r"\s*([-*]|\d+\.) ")


def process_docstring(app, what, name, obj, options, lines) -> None:
  """An `autodoc-process-docstring` hook that runs before napoleon."""
  del app, what, name, obj, options
  lines[:] = to_rst(lines)


def process_signature(app, what, name, obj, options, signature, result):
  """An `autodoc-process-signature` hook: arrays are called as in the source."""
  del app, what, name, obj, options
  short = lambda text: text and re.sub(r"\bjaxlib\._jax\.|\bjax\.Array\b", _short_name, text)
  return short(signature), short(result)


def _short_name(match: re.Match) -> str:
  return "Array" if match[0] == "jax.Array" else ""


def to_rst(lines: list[str]) -> list[str]:
  """Escapes text, makes `code` a literal, and indented blocks literal blocks.

  The contents of the sections that napoleon knows stay text.
  """
  out, in_section, literal = [], False, False
  for line in lines:
    indented = line.startswith(" ")
    if not line.strip():
      out.append("")
      literal = False
      continue
    if not indented:
      if literal:
        out.append("")
      in_section, literal = bool(SECTION.match(line)), False
      out.append(line if in_section else escape(line))
      continue
    if in_section or (LIST_ITEM.match(line) and not literal) or continues_item(out):
      head, text = re.match(r"(\s+(?:\*{0,2}\w+(?:, \w+)*:(?= |$))?)(.*)", line).groups()
      out.append(head + escape(text))
      continue
    if not literal:
      if out and out[-1]:
        out.append("")
      out += ["::", ""]
      literal = True
    out.append(line)
  return balance(out)


def continues_item(out: list[str]) -> bool:
  """Whether the line before is a list item, which an indented line then continues."""
  return bool(out and LIST_ITEM.match(out[-1]))


def escape(text: str) -> str:
  """`text` without markup of its own, but with `code` as a literal."""
  parts = text.split("`")
  for i in range(0, len(parts), 2):
    plain = re.sub(r"([\\*|])", r"\\\1", parts[i])
    parts[i] = re.sub(r"_(?!\w)", r"\_", plain)
  return "``".join(parts)


def balance(lines: list[str]) -> list[str]:
  """Drops the marks of a literal that ends in another line, which few docstrings have."""
  out = []
  for line in lines:
    odd = line.count("``") % 2
    out.append(line.replace("``", "") if odd else line)
  return out
