"""SPEED.md from the numbers in SPEED.json: a section for each machine."""

from promise_jax.reports.formatting import markdown_rows

START = "<!-- What follows is written by launch/benchmark.py. -->"
KEY = ("workload", "method", "stage", "present")  # what tells the rows of a table apart

TWINS = """\
Milliseconds of a step of one seed. Ours: seeds in turn / all at once (`train.seed_parallelism` map
and vmap). PyTorch: on one thread / on all cores, AdamW fused. The ratio is the best of PyTorch
over the best of ours; above 1 ours is faster. The difference is the largest of loss, logits and
gradient norm."""
TRAINING = """\
A block of `training.loop.fit`: a loop over steps, seeds in turn on a CPU and at once elsewhere.
Program MB is what XLA plans to hold."""
PATTERNS = """\
Milliseconds of 256 rows, the least of all rounds: every call asks for new memory, which is slow at
times. The last column is the static pattern over the static complete one."""


def merge_rows(old: list[dict], new: list[dict]) -> list[dict]:
  """The rows of both; a new row replaces the old one with the same key."""
  key = lambda row: tuple(row.get(name) for name in KEY)
  return list(({key(row): row for row in old} | {key(row): row for row in new}).values())


def write_page(text: str, records: dict[str, dict]) -> str:
  """`text` with the tables of `records` in place of all that follows `START`."""
  head = text.partition(START)[0].rstrip() or "# Speed"
  sections = [write_section(record) for record in records.values()]
  return "\n\n".join([head, START, *sections]) + "\n"


def write_section(record: dict) -> str:
  """The tables of one machine."""
  versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
  parts = [f"## {record['name']}", f"{record['system']}, {versions}."]
  for name, (title, text, table) in TABLES.items():
    if rows := record["parts"].get(name):
      parts += [f"### {title}", text, markdown_rows(table(rows)).rstrip()]
  return "\n\n".join(parts)


def header(names: str) -> list[list[str]]:
  """The first two lines of a table."""
  names = ["workload", "method", *names.split("|")]
  return [names, ["---"] * len(names)]


def case_cells(row: dict) -> list[str]:
  stage = f" ({row['stage']})" if row["stage"] else ""
  return [row["workload"], row["method"] + stage]


def digits(value: float) -> str:
  """Three digits."""
  return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def twins_table(rows: list[dict]) -> list[list[str]]:
  names = "jax ms|eager ms|torch.compile ms|best of PyTorch|jax compile s|torch compile s"
  lines = header(f"{names}|ratio|aim|difference")
  for row in rows:
    times = row["times"]
    torch_times = {k: v for k, v in times.items() if not k.startswith("jax")}
    best = min(torch_times, key=torch_times.get)
    ratio = torch_times[best] / min(v for k, v in times.items() if k.startswith("jax"))

    verdict = "reached" if ratio >= row["target"] else "missed"
    torch_s = " / ".join(f"{s:.0f}" for s in row["torch_compile_s"].values())
    lines.append(
      case_cells(row)
      + [*(list_times(times, kind) for kind in ("jax", "eager", "compiled")), best]
      + [f"{row['compile_s']:.1f}", torch_s or "-", f"{ratio:.2f}"]
      + [f"{row['target']}, {verdict}", f"{max(row['difference'].values()):.0e}"]
    )
  return lines


def list_times(times: dict[str, float], kind: str) -> str:
  """The times whose names start with `kind`."""
  return " / ".join(digits(x) for name, x in times.items() if name.startswith(kind)) or "-"


def training_table(rows: list[dict]) -> list[list[str]]:
  lines = header("ms of a step of one seed|steps/s|examples/s|compile s|program MB")
  for row in rows:
    rate = 1e3 / row["ms"]
    speed = [digits(row["ms"]), digits(rate), f"{rate * row['batch']:.0f}"]
    sizes = [f"{row['compile_s']:.1f}", f"{row['memory_mb']:.0f}"]
    lines.append(case_cells(row) + speed + sizes)
  return lines


def patterns_table(rows: list[dict]) -> list[list[str]]:
  lines = header("present|mask ms|static ms|of complete")
  complete = {tuple(case_cells(row)): row["static"] for row in rows}  # the last row of a case
  for row in rows:
    part = row["static"] / complete[tuple(case_cells(row))]
    cells = [row["present"], digits(row["mask"]), digits(row["static"]), f"{part:.2f}"]
    lines.append(case_cells(row) + cells)
  return lines


TABLES = {
  "twins": ("Against PyTorch", TWINS, twins_table),
  "methods": ("Training", TRAINING, training_table),
  "patterns": ("Prediction: masks against static patterns", PATTERNS, patterns_table),
}
