"""A table as text: for a console, Markdown, LaTeX, HTML or CSV."""

import re
from collections.abc import Callable, Sequence

import jinja2
import pandas as pd

from promise_jax.checks import check_choice
from promise_jax.reports import formatting
from promise_jax.reports.tables import Table

LATEX_NAMES = {"\\": "textbackslash", "~": "textasciitilde", "^": "textasciicircum"}
LATEX_NAMES |= {"<": "textless", ">": "textgreater", "|": "textbar"}
LATEX_ESCAPES = str.maketrans(
  {character: f"\\{character}" for character in "_%&#${}"}
  | {character: f"\\{name}{{}}" for character, name in LATEX_NAMES.items()}
  | {"±": r"$\pm$"}
)
HTML = jinja2.Template(
  """<table>
<caption>{{ table.caption() }}</caption>
<thead><tr>{% for name in lines[0] %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for line in lines[1:] %}
{% set row = loop.index0 %}
<tr{% if row >= table.num_plain %} class="mean"{% endif %}>
{%- for text in line -%}
<td>{% if loop.index > 2 and best[row][loop.index0 - 2] %}<strong>{{ text }}</strong>
{%- else %}{{ text }}{% endif %}</td>
{%- endfor -%}
</tr>
{% endfor %}
</tbody></table>
""",
  autoescape=True,
  trim_blocks=True,
  keep_trailing_newline=True,
)


def to_text(table: Table) -> str:
  """For a console: columns aligned, means set off by a line."""
  header, *body = formatting.align(table.lines())
  rule = "-" * len(header)
  if table.num_plain < len(body):
    body.insert(table.num_plain, rule)
  return "\n".join([table.caption(), header, rule, *body]) + "\n"


def to_markdown(table: Table) -> str:
  """The best mean of a row in bold."""
  header, *body = _mark_best(table, table.lines(), "**{}**")
  rule = ["---", *["---:"] * (len(header) - 1)]
  return f"{table.caption()}\n\n{formatting.markdown_rows([header, rule, *body])}"


def to_latex(table: Table) -> str:
  """For the package booktabs; the best mean of a row in bold."""
  lines = [[_escape_latex(text) for text in line] for line in table.lines()]
  lines = _mark_best(table, lines, r"\textbf{{{}}}")
  header, *body = (" & ".join(line) + r" \\" for line in lines)
  if table.num_plain < len(body):
    body.insert(table.num_plain, r"\midrule")
  columns = "l" + "r" * (len(lines[0]) - 1)
  return "\n".join(
    [r"\begin{table}", r"\centering", rf"\caption{{{_escape_latex(table.caption())}}}"]
    + [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", header, r"\midrule", *body]
    + [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
  )


def to_html(table: Table) -> str:
  """An element <table>; the best mean of a row in bold."""
  return HTML.render(table=table, lines=table.lines(), best=table.best().to_numpy().tolist())


def to_frame(table: Table) -> pd.DataFrame:
  """A line a cell, in the unit of results.jsonl: a share is a fraction, not in percent."""
  return pd.DataFrame(
    {
      "rows": table.row_kind,
      "row": row,
      "n": n,
      "metric": table.metric,
      "variant": variant,
      "mean": cell.mean,
      table.error: getattr(cell, table.error),
      "seeds": cell.num_seeds,
    }
    for (row, cells), n in zip(table.cells.iterrows(), table.n, strict=True)
    for variant, cell in cells.items()
    if cell
  )


def _mark_best(table: Table, lines: list[list[str]], mark: str) -> list[list[str]]:
  """The lines of a table with `mark`, as "**{}**", around the best cells."""
  header, *body = lines
  for line, best in zip(body, table.best().to_numpy(), strict=True):
    line[2:] = [mark.format(x) if b else x for x, b in zip(line[2:], best, strict=True)]
  return [header, *body]


def _escape_latex(text: str) -> str:
  """Special characters as TeX prints them; a minus before a number is one."""
  return re.sub(r"(?<!\w)-(?=\d)", "$-$", text.translate(LATEX_ESCAPES))


TEXTS: dict[str, Callable[[Table], str]] = {
  "console": to_text,
  "latex": to_latex,
  "md": to_markdown,
  "html": to_html,
}


def render_tables(tables: Sequence[Table], form: str) -> str:
  """All tables in the format `form`, below each other; as CSV under one header."""
  check_choice("format", form, [*TEXTS, "csv"])
  if form == "csv":
    return pd.concat(map(to_frame, tables)).to_csv(index=False)
  return "\n".join(map(TEXTS[form], tables))
