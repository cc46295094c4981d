"""The shape of the project: imports go one way, files stay short, few modules compile."""

import ast
from pathlib import Path

import pytest

import promise_jax

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "promise_jax"
# {part: the parts that it may import}; every part may import its own modules.
BASE = {"types", "method", "missing", "frames", "patterns", "checks", "counter_rng", "files"}
LAYERS = {
  "types": set(),
  "checks": set(),
  "counter_rng": set(),
  "files": set(),
  "method": {"types"},
  "patterns": {"types", "counter_rng"},
  "missing": {"types", "checks", "counter_rng", "patterns"},
  "frames": {"counter_rng", "missing"},
  "losses": BASE,
  "nn": BASE | {"losses"},
  "methods": BASE | {"losses", "nn", "optim"},
  "optim": BASE,
  "devices": BASE,
  "data": BASE | {"devices"},
  "evaluation": BASE | {"losses", "devices", "data"},
  "training": BASE | {"optim", "devices", "data", "evaluation"},
  "reports": {"checks", "files", "patterns", "evaluation"},
}
LAYERS["inference"] = {*LAYERS} - {"training", "reports"}
LAYERS["experiments"] = {*LAYERS}
LAYERS["cli"] = {*LAYERS}
COMPILING = ("training", "evaluation", "inference", "data/device_data.py", "data/pretrained")


def parse(path: Path) -> list[ast.AST]:
  return list(ast.walk(ast.parse(path.read_text("utf-8"))))


def imported_parts(path: Path) -> set[str]:
  """The parts of promise_jax that a file imports."""
  modules = set()
  for node in parse(path):
    if isinstance(node, ast.Import):
      modules |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      modules |= {f"{node.module}.{alias.name}" for alias in node.names}
  return {m.split(".")[1] for m in modules if m.startswith("promise_jax.")}


@pytest.mark.parametrize("part", LAYERS)
def test_imports_go_one_way(part):
  path = PACKAGE / part
  for file in path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
    beyond = imported_parts(file) - LAYERS[part] - {part}
    assert not beyond, f"{file.relative_to(ROOT)} imports {', '.join(beyond)}"


def test_every_part_has_a_layer():
  parts = {p.stem for p in PACKAGE.iterdir() if p.name[0] != "_" and p.suffix in ("", ".py")}
  assert parts == LAYERS.keys() == {*promise_jax._MODULES}


def test_no_file_is_longer_than_250_lines():
  folders = ("promise_jax", "configs", "docs", "launch", "notebooks", "tests")
  files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
  counts = {str(p.relative_to(ROOT)): p.read_text("utf-8").count("\n") for p in files}
  assert not {name: count for name, count in counts.items() if count > 250}


def test_only_a_few_modules_compile():
  for path in PACKAGE.rglob("*.py"):
    inside = path.relative_to(PACKAGE).as_posix()
    names = {n.attr for n in parse(path) if isinstance(n, ast.Attribute)}
    assert "jit" not in names or inside.startswith(COMPILING), inside
