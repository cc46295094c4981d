"""The page in Chromium, on a screen and on a phone: nothing sticks out, no script fails."""

import json
import re
import shutil
import subprocess
from html import escape, unescape

import numpy as np
import pandas as pd
import pytest

from made_up_results import PATTERNS, RATES, frame, line, protocol_lines, training_log
from promise_jax.reports import html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
QUIET += " --disable-background-networking --disable-component-update --virtual-time-budget=5000"
ODD = "<script>throw 1</script> & $x$ " + 20 * "long"
WIDTHS = 420, 1200
SECTIONS = "conclusion rows results baselines classes contribution calibration training speed"
# Before all else errors are collected; in the end what was seen is written into the outer page.
BEFORE = (
  "<script>const errors = []; addEventListener('error', (e) => errors.push(e.message))</script>"
)
AFTER = """<script>(async () => {
  const copied = [], clipboard = { writeText: async (text) => copied.push(text) };
  Object.defineProperty(navigator, "clipboard", { value: clipboard });
  for (const part of document.querySelectorAll("details")) part.open = true;
  const buttons = [...document.querySelectorAll("#classes button")];
  for (const button of buttons) await button.onclick();
  const found = { copied, errors, names: buttons.map((button) => button.textContent) };
  found.sections = [...document.querySelectorAll("section")].map((part) => part.id);
  found.width = document.scrollingElement.scrollWidth;
  found.window = innerWidth;
  const wide = (part) => part.getBoundingClientRect().width > part.closest(".scroll").clientWidth;
  found.captions = [...document.querySelectorAll("caption")].map(wide);
  found.broken = [...document.images].filter((image) => !image.naturalWidth).length;
  found.images = document.images.length;
  const outer = parent.document.body.appendChild(document.createElement("pre"));
  outer.textContent = JSON.stringify(found);
})()</script>"""


def full_run() -> html.Report:
  """A run with every part, and names that are no HTML, no LaTeX and too long."""
  best = {"split": "valid", "protocol": "mean over patterns", "step": 10}
  results = [x | ({"method": ODD} if x["method"] == "robult" else {}) for x in PATTERNS + RATES]
  results += [line(ODD, None, 0.9, s, **best) for s in (0, 1)]
  results += protocol_lines(ODD, "exact(0.5)", (0.5, 0.6), split="valid")
  pair = {"method": ODD, "baseline": "fusion", "metric": "accuracy", "verdict": "undecided"}
  ends = {"low": -0.1, "high": 0.2}
  compared = [pair | {"rows": rows, "difference": 0.1} | ends for rows in ("incomplete", "all")]
  classes = [
    {"variant": ODD, "class": name, "seed": s, "n": 20, "predicted": [15.0, 5.0]}
    | {"precision": 0.5, "recall": 0.75, "f1": np.nan}
    for name in (ODD, "b_1")
    for s in (0, 1)
  ]
  worth = [
    {"variant": ODD, "modality": m, "rows": rows, "kind": kind, "metric": "accuracy"}
    | {"value": 0.1, **ends}
    for m in ("text", "audio")
    for rows in ("all", ODD)
    for kind in ("shapley", "without")
  ]
  calibration = [
    {"variant": ODD, "pattern": "text", "num_present": 1, "n": 40, "metric": name}
    | {"before": 0.3, "after": 0.1}
    for name in ("nll", "ece")
  ]
  log = [training_log(ODD, step, s, **{f"gate/{ODD}": 0.5}) for step in (1, 2) for s in (0, 1)]
  whole = {"text": 0.0, ODD: 0.25}
  counts = {"rows": {"train": 60, "valid": 20, "test": 40}, "groups": {}, "labelled": [30, 30]}
  counts |= {"missing": whole, "empty": 0, "unrecorded": dict.fromkeys(counts["rows"], whole)}
  return html.Report(
    ODD,
    {"name": ODD, "commit": "abc"},
    frame(results),
    pd.DataFrame(log),
    pd.DataFrame(compared),
    pd.DataFrame([{"method": ODD, "compile_s": 1.0}]),
    rows=counts,
    classes=pd.DataFrame(classes),
    calibration=pd.DataFrame(calibration),
    contribution=pd.DataFrame(worth),
  )


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
  """{width: what the page saw}. In frames, because no window of Chromium is as small as a phone."""
  if not CHROMIUM:
    pytest.skip("Chromium is not installed")
  page = html.render_page(full_run())
  page = page.replace("<head>", f"<head>{BEFORE}", 1).replace("</body>", f"{AFTER}</body>", 1)
  frames = [f'<iframe width="{w}" srcdoc="{escape(page)}"></iframe>' for w in WIDTHS]
  folder = tmp_path_factory.mktemp("page")
  (folder / "frames.html").write_text("<!DOCTYPE html>" + "".join(frames), "utf-8")
  command = [CHROMIUM, *QUIET.split(), f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
  command.append((folder / "frames.html").as_uri())
  done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
  found = [json.loads(unescape(x)) for x in re.findall(r"<pre>(.*?)</pre>", done.stdout, re.S)]
  return {x["window"]: x for x in found}


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_in_a_browser(seen, width):
  seen = seen[width]
  assert seen["errors"] == [] and seen["broken"] == 0 and seen["images"] == 11
  assert seen["sections"] == [*SECTIONS.split(), "sources", "glossary"]
  assert seen["width"] <= width and seen["captions"] and not any(seen["captions"])
  assert seen["names"] == ["copied", "copied"]
  csv, latex = seen["copied"]
  head, first, second = csv.splitlines()
  assert head == "class,n,precision (%),recall (%),f1 (%)"
  assert first == f"{ODD},20,50.0 ± 0.0,75.0 ± 0.0,undefined"
  assert latex.splitlines()[:2] == [r"\begin{tabular}{lrrrr}", r"\toprule"]
  assert r"b\_1 & 20 & 50.0 $\pm$ 0.0 & 75.0 $\pm$ 0.0 & undefined \\" in latex
