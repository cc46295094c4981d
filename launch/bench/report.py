"""SPEED.md, a page with the main numbers of SPEED.json, and the tables behind it, which the
documentation shows: a section for each machine."""

import numpy as np

from promise_jax.reports.formatting import markdown_rows

START = "<!-- What follows is written by launch/benchmark.py. -->"
# What tells the rows of a table apart.
KEY = ("workload", "method", "stage", "command", "cached", "curve", "x", "seeds", "precision")


def merge_rows(old: list[dict], new: list[dict]) -> list[dict]:
  """The rows of both; a new row replaces the old one with the same key."""
  key = lambda row: tuple(row.get(name) for name in KEY)
  return list(({key(row): row for row in old} | {key(row): row for row in new}).values())


def write_page(text: str, records: dict[str, dict]) -> str:
  """`text` with the main tables of `records` in place of all that follows `START`."""
  head = text.partition(START)[0].rstrip() or "# Speed"
  return f"{head}\n\n{START}\n\n{write_sections(records, SUMMARY, '')}"


def write_details(records: dict[str, dict]) -> str:
  """All tables."""
  return write_sections(records, DETAILS, "All numbers: ")


def write_sections(records: dict[str, dict], tables: dict, title: str) -> str:
  """The `tables` of every machine, whose name stands behind `title`."""
  parts = []
  for record in records.values():
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    parts += [f"## {title}{record['name']}", f"{record['system']}, {versions}."]
    for name, (heading, text, table) in tables.items():
      if rows := record["parts"].get(name):
        parts += [f"### {heading}", text, markdown_rows(table(rows)).rstrip()]
  return "\n\n".join(parts) + "\n"


def header(names: str) -> list[list[str]]:
  """The first two lines of a table."""
  return [names.split("|"), ["---"] * len(names.split("|"))]


def case_cells(row: dict) -> list[str]:
  stage = f" ({row['stage']})" if row["stage"] else ""
  return [row["workload"], row["method"] + stage]


def digits(value: float | None) -> str:
  """Three digits."""
  if value is None:
    return "-"
  return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def commands_table(rows: list[dict]) -> list[list[str]]:
  lines = header("command|first validation|compiling|training|in all|peak memory")
  for row in rows:
    times = [row.get(k) for k in ("first_s", "compile_s", "train_s", "seconds")]
    cells = ["-" if x is None else f"{x:.1f} s" for x in times]
    cells.append(f"{row['memory_mb']:.0f} MB" if "memory_mb" in row else "-")
    lines.append([f"`promise-jax {row['command']}`" + ", again" * row["cached"], *cells])
  return lines


def best_times(times: dict[str, float]) -> tuple[float, str, float]:
  """Our best time, and which of PyTorch's is best, with its time."""
  torch_times = {k: v for k, v in times.items() if not k.startswith("jax")}
  best = min(torch_times, key=torch_times.get)
  return min(v for k, v in times.items() if k.startswith("jax")), best, torch_times[best]


def ratios_table(rows: list[dict]) -> list[list[str]]:
  lines = header("workload|method|ours|PyTorch|ratio")
  for row in rows:
    ours, _, theirs = best_times(row["times"])
    cells = [f"{digits(ours)} ms", f"{digits(theirs)} ms", f"{theirs / ours:.1f}"]
    lines.append(case_cells(row) + cells)
  return lines


def twins_table(rows: list[dict]) -> list[list[str]]:
  names = "jax ms|eager ms|torch.compile ms|best of PyTorch|jax compile s|torch compile s"
  lines = header(f"workload|method|{names}|ratio|aim|difference")
  for row in rows:
    times = row["times"]
    ours, best, theirs = best_times(times)
    verdict = "reached" if theirs / ours >= row["target"] else "missed"
    cells = [
      " / ".join(digits(x) for name, x in times.items() if name.startswith(kind)) or "-"
      for kind in ("jax", "eager", "compiled")
    ]
    torch_s = " / ".join(f"{s:.0f}" for s in row["torch_compile_s"].values())
    cells += [best, f"{row['compile_s']:.1f}", torch_s or "-", f"{theirs / ours:.2f}"]
    cells += [f"{row['target']}, {verdict}", f"{max(row['difference'].values()):.0e}"]
    lines.append(case_cells(row) + cells)
  return lines


def growth_table(rows: list[dict]) -> list[list[str]]:
  lines = header("against|method|from|to|time|grows as|memory|grows as")
  for curve, method in dict.fromkeys((row["curve"], row["method"]) for row in rows):
    points = [row for row in rows if (row["curve"], row["method"]) == (curve, method)]
    x, cells = [row["x"] for row in points], []
    if len(x) < 2:
      continue
    for name, unit in (("ms", "ms"), ("memory_mb", "MB")):
      y = [row[name] for row in points]
      power = f"x^{fit_exponent(x, y):.2f}, at the end x^{fit_exponent(x[-2:], y[-2:]):.2f}"
      cells += [f"{digits(y[0])} to {digits(y[-1])} {unit}", power]
    lines.append([curve, method, f"{x[0]:,}", f"{x[-1]:,}", *cells])
  return lines


def fit_exponent(x: list[float], y: list[float]) -> float:
  """The exponent e of y ~ x^e, by least squares of the logarithms."""
  return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def points_table(rows: list[dict]) -> list[list[str]]:
  lines = header("against|method|how many|ms|MB|examples/s|MB of data")
  for row in rows:
    rate = row.get("examples_per_s")
    cells = [f"{row['x']:,}", digits(row["ms"]), digits(row["memory_mb"])]
    cells += [f"{rate:,.0f}" if rate else "-", digits(row.get("data_mb"))]
    lines.append([row["curve"], row["method"], *cells])
  return lines


def device_table(rows: list[dict]) -> list[list[str]]:
  names = "precision|seeds|ms of a step of one seed|examples/s|TFLOP/s|share of the peak"
  lines = header(f"workload|method|{names}|compile s|program MB")
  for row in rows:
    cells = [row["precision"], row["seeds"], digits(row["ms"])]
    cells += [f"{1e3 / row['ms'] * row['batch']:.0f}", digits(row["tflops"])]
    cells += [f"{100 * row['share']:.1f} %", f"{row['compile_s']:.1f}"]
    lines.append(case_cells(row) + cells + [f"{row['memory_mb']:.0f}"])
  return lines


WAITS = """\
From start to end, in a new process; "again": the compiled programs of the command before are there.
Configs train all their variants with five seeds; `synthetic` has 2,000 rows of three vectors."""
RATIOS = """\
A training step of one seed. PyTorch is the best of one thread and all cores, eager and compiled;
above 1 ours is faster."""
GROWS = """\
Time is that of a training step of all seeds, memory that of the compiled program; in the lines on
rows they are of an epoch and of the process. The CPU pretends to have several devices. The picture
has all curves."""
TWINS = """\
Milliseconds of a step of one seed. Ours: seeds in turn / all at once (`train.seed_parallelism` map
and vmap). PyTorch: on one thread / on all cores, AdamW fused. The ratio is the best of PyTorch
over the best of ours. The difference is the largest of loss, logits and gradient norm."""
POINTS = """\
Rows: `training.loop.fit` for 640 steps of 256 rows with a validation of 1,024 rows after every
160; ms of an epoch, and MB that the process grew by. The others: a step of all seeds, and the
compiled program."""
DEVICE = """\
Seeds in turn (map) or at once (vmap). Products of matrices alone count as FLOP; the peak is what
one large product reaches on this device in the same precision."""

SUMMARY = {
  "commands": ("What waits how long", WAITS, commands_table),
  "twins": ("How it compares", RATIOS, ratios_table),
  "size": ("How it grows", GROWS, growth_table),
  "device": ("What the device is used for", DEVICE, device_table),
}
DETAILS = {
  "twins": ("Against PyTorch", TWINS, twins_table),
  "size": ("Growth", POINTS, points_table),
}
