"""SPEED.md from the numbers: tables and ratios, one section a machine."""

START = "<!-- What follows is written by launch/benchmark.py. -->"
TITLES = {
  "twins": "Against PyTorch",
  "methods": "Training",
  "dispatch": "A scan over steps against a call a step",
  "seeds": "map and vmap over seeds",
  "patterns": "Prediction: masks against static patterns",
  "devices": "Devices",
  "faults": "Page faults",
}


# What tells the rows of a table apart.
KEYS = (
  "workload",
  "method",
  "stage",
  "seeds",
  "devices",
  "present",
  "allocator",
  "how",
)


def key(row: dict) -> tuple:
  """What tells a row from the others of its table."""
  return tuple(row.get(name) for name in KEYS)


def merged(old: list[dict], new: list[dict]) -> list[dict]:
  """The rows of both; a new one takes the place of the old one that it replaces."""
  return list(({key(r): r for r in old} | {key(r): r for r in new}).values())


def page(text: str, records: dict) -> str:
  """`text` with everything from `START` on replaced by the tables of `records`; what
  stands before it, written by hand, stays."""
  head = text.partition(START)[0].rstrip() or "# Speed"
  sections = [section(record) for record in records.values()]
  return "\n\n".join([head, START, *sections]) + "\n"


def section(record: dict) -> str:
  """All tables of one machine."""
  versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
  best = max(record["peak"].values())
  rates = "; ".join(f"{n} x {n}: {v / 1e9:.0f}" for n, v in record["peak"].items())
  lines = [
    f"## {record['name']}",
    f"{record['system']}, {versions}. Products of f32 matrices reach, in Gflop/s, "
    f"{rates}. The largest run for this section held {record['process_mb']:.0f} MB at "
    "its peak.",
  ]
  for part, title in TITLES.items():
    if rows := record["parts"].get(part):
      lines += [f"### {title}", *MAKERS[part](rows, best)]
  return "\n\n".join(lines)


def table(head: str, rows: list[list[str]]) -> str:
  """A table of markdown; `head` joins the names of the columns by "|"."""
  names = head.split("|")
  lines = [names, ["---"] * len(names), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ms(value: float) -> str:
  """Milliseconds with three digits."""
  return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def named(row: dict) -> list[str]:
  """The first columns of every table."""
  stage = f" ({row['stage']})" if row["stage"] else ""
  return [row["workload"], row["method"] + stage]


def training(rows: list[dict], best: float) -> list[str]:
  """Rates, compile time, memory and the part of the peak of every method."""
  cells = []
  for row in rows:
    rate = 1e3 / row["ms"]
    cells.append(
      named(row)
      + [ms(row["ms"]), ms(rate), f"{rate * row['batch']:.0f}"]
      + [f"{row['compile_s']:.1f}", f"{row['memory_mb']:.0f}"]
      + [f"{row['gflop']:.3g}", f"{100 * 1e9 * row['gflops'] / best:.0f} %"]
    )
  head = "workload|method|ms a seed-step|seed-steps/s|examples/s|compile s|program MB"
  head += "|Gflop a step|of the matrix peak"
  text = "The call of `train.fit`: steps in a loop, seeds in a map (vmap off CPU). "
  text += "Program MB: what XLA plans to hold. Gflop: in matrix products alone."
  return [text, table(head, cells)]


def versus(rows: list[dict], best: float) -> list[str]:
  """Ours against the better of eager and compiled PyTorch."""
  del best
  cells = []
  for row in rows:
    times, (name, least) = row["times"], best_of(row["times"])
    ratio = least / min(v for k, v in times.items() if k.startswith("jax"))
    pick = lambda kind, times=times: " / ".join(
      f"{ms(v)} {k.partition(', ')[2]}".strip() for k, v in times.items() if k.startswith(kind)
    )
    compiling = " / ".join(f"{v:.0f}" for v in row["torch_compile_s"].values())
    verdict = "reached" if ratio >= row["target"] else "missed"
    cells.append(
      named(row)
      + [pick("jax"), pick("eager"), pick("compiled") or "-", name]
      + [f"{row['compile_s']:.1f}", compiling or "-"]
      + [
        f"{ratio:.2f}",
        f"{row['target']}, {verdict}",
        f"{max(row['off'].values()):.0e}",
      ]
    )
  head = "workload|method|jax ms|eager ms|torch.compile ms|best of PyTorch"
  head += "|jax compile s|torch compile s|ratio|asked for|largest difference"
  text = "A step of one seed. Ours: seeds in a map / a vmap (`train.seed_parallelism`) / in a "
  text += "map on several devices that the CPU pretends to have, a group for each part "
  text += "of the seeds (`train.seed_devices`) or all for each batch. PyTorch: 1 thread "
  text += "/ all cores, AdamW fused. Ratio: the best of PyTorch over the best of ours; "
  text += "above 1 ours is faster."
  return [text, table(head, cells)]


def best_of(times: dict[str, float]) -> tuple[str, float]:
  """The fastest of PyTorch: its name and time."""
  rest = {k: v for k, v in times.items() if not k.startswith("jax")}
  name = min(rest, key=rest.get)
  return name, rest[name]


def dispatch(rows: list[dict], best: float) -> list[str]:
  """One program of K steps against K calls."""
  del best
  cells = [
    named(row) + [ms(row["scan"]), ms(row["step"]), f"{row['step'] / row['scan']:.2f}"]
    for row in rows
  ]
  return [table("workload|method|scan ms|call a step ms|ratio", cells)]


def seeds(rows: list[dict], best: float) -> list[str]:
  """map against vmap."""
  del best
  cells = [
    named(row)
    + [str(row["seeds"]), ms(row["map"]), ms(row["vmap"])]
    + [f"{row['vmap'] / row['map']:.2f}"]
    + [f"{row['map_mb']:.0f}", f"{row['vmap_mb']:.0f}"]
    for row in rows
  ]
  head = "workload|method|seeds|map ms a seed-step|vmap ms a seed-step|ratio"
  return [table(f"{head}|map program MB|vmap program MB", cells)]


def patterns(rows: list[dict], best: float) -> list[str]:
  """Every pattern; the part of the time of the full one that a static one takes."""
  del best
  full = {tuple(named(r)): r["static"] for r in rows}  # the last is the full one
  cells = [
    named(row)
    + [row["present"], ms(row["dense"]), ms(row["static"])]
    + [f"{row['static'] / full[tuple(named(row))]:.2f}"]
    for row in rows
  ]
  head = "workload|method|present|mask ms|static ms|static, of all present"
  text = "256 rows a call, the least of all blocks: a call asks for its memory anew, "
  text += "which is slow at times, for one program and not for the next."
  return [text, table(head, cells)]


def devices(rows: list[dict], best: float) -> list[str]:
  """One batch over several devices."""
  del best
  cells = [named(row) + [str(row["devices"]), ms(row["ms"])] for row in rows]
  text = "One batch spread over the devices; those of a CPU are pretended and share its "
  text += "cores."
  return [text, table("workload|method|devices|ms a step", cells)]


def faults(rows: list[dict], best: float) -> list[str]:
  """Page faults by allocator."""
  del best
  cells = [
    named(row) + [row["how"], row["allocator"], ms(row["ms"]), f"{row['faults']:.0f}"]
    for row in rows
  ]
  head = "workload|method|by|allocator|ms a step|minor faults a step"
  return [table(head, cells)]


MAKERS = {
  "twins": versus,
  "methods": training,
  "dispatch": dispatch,
  "seeds": seeds,
  "patterns": patterns,
  "devices": devices,
  "faults": faults,
}
