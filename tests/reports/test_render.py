"""Tables as text that other programs read: LaTeX, HTML, CSV."""

import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pandas as pd
import pytest

from made_up_results import PATTERNS, RATES, frame, line
from promise_jax.reports import render, tables

ODD = "50%_of {a} & #1 ~^\\ $x$"
ESCAPED = (
  r"50\%\_of \{a\} \& \#1 \textasciitilde{}\textasciicircum{}\textbackslash{} \$x\$"  # by hand
)


@pytest.fixture
def odd() -> tables.Table:
  """Two variants and three patterns with means; one name has every special character."""
  lines = [x | {"method": ODD} if x["method"] == "robult" else x for x in PATTERNS]
  return tables.pattern_table(frame(lines), "accuracy", [ODD, "fusion"])


def test_latex_has_the_rules_of_booktabs_and_the_best_in_bold(odd):
  lines = render.to_latex(odd).splitlines()
  assert lines[:3] == [
    r"\begin{table}",
    r"\centering",
    r"\caption{accuracy (\%), mean $\pm$ std (n-1) over 2 seeds}",
  ]
  assert lines[3:6] == [
    r"\begin{tabular}{lrrr}",
    r"\toprule",
    rf"present & n & {ESCAPED} & fusion \\",
  ]
  assert lines[6:9] == [
    r"\midrule",
    r"text & 40 & 60.0 $\pm$ 14.1 & \textbf{70.0 $\pm$ 14.1} \\",
    r"audio & 40 & \textbf{30.0 $\pm$ 0.0} & 20.0 $\pm$ 0.0 \\",
  ]
  assert lines[10] == r"\midrule" and lines[11].startswith("mean, incomplete & 40 & ")
  assert lines[-3:] == [r"\bottomrule", r"\end{tabular}", r"\end{table}"]


def test_latex_is_balanced_and_every_row_has_as_many_cells(odd):
  text = render.to_latex(odd)
  assert re.findall(r"\\begin{(\w+)}", text) == re.findall(r"\\end{(\w+)}", text)[::-1]
  plain = re.sub(r"\\[_%&#${}\\]", "", text)
  assert plain.count("{") == plain.count("}") and plain.count("$") % 2 == 0
  rows = [x for x in plain.splitlines() if " & " in x]
  assert len(rows) == 6 and {x.count("&") for x in rows} == {3}


def test_a_negative_number_has_a_minus():
  lines = [line(metric="corr", value=-0.25), line("a-1", metric="corr", value=0.5)]
  text = render.to_latex(tables.pattern_table(frame(lines), "corr", ["robult", "a-1"]))
  assert r"& $-$0.250 & \textbf{0.500}" in text and "& robult & a-1 " in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs a TeX")
def test_latex_compiles(odd, tmp_path):
  page = r"\documentclass{article}\usepackage{booktabs}\begin{document}%s\end{document}"
  (tmp_path / "page.tex").write_text(page % render.to_latex(odd))
  call = ["pdflatex", "-halt-on-error", "page.tex"]
  subprocess.run(call, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)


def test_html_has_a_cell_for_each_text_and_the_best_in_bold(odd):
  cells, bold = [], []

  class Cells(HTMLParser):
    def handle_starttag(self, tag, attrs):
      self.tag = tag

    def handle_data(self, data):
      if data.strip():
        (bold if self.tag == "strong" else []).append(data)
        cells.append(data)

  Cells().feed(render.to_html(odd))
  caption, *texts = cells
  assert caption == odd.caption() and texts == [x for line in odd.lines() for x in line]
  assert bold[:4] == ["70.0 ± 14.1", "30.0 ± 0.0", "90.0 ± 14.1", "90.0 ± 0.0"]  # a tie


def test_csv_is_plain_numbers_that_pandas_reads_back(odd):
  (rates,) = tables.rate_tables(frame(RATES), "accuracy", ["robult"])
  found = pd.read_csv(io.StringIO(render.render_tables([odd, rates], "csv")))
  assert list(found.columns) == "rows row n metric variant mean std seeds".split()
  wide = found[found["rows"] == "present"].pivot(index="row", columns="variant")
  for name, cells in odd.cells.iterrows():
    for variant, cell in cells.items():
      got = tuple(wide.loc[name, (column, variant)] for column in ("mean", "std", "seeds"))
      assert got == pytest.approx(cell)
  assert len(found) == 5 * 2 + 4  # `fusion` has no rates


def test_several_tables_stand_below_each_other_and_an_unknown_format_is_refused(odd):
  assert render.render_tables([odd, odd], "md").count("accuracy (%)") == 2
  with pytest.raises(ValueError, match="format is 'docx', known are console, latex, md, html, csv"):
    render.render_tables([odd], "docx")
