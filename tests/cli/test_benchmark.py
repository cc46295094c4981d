"""The benchmark: its times, its page, and twins that equal their originals."""

import importlib
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest

from promise_jax.cli import main

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


@pytest.fixture(scope="module")
def bench():
  """`bench("report")` is a module of the benchmark."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(LAUNCH), *sys.path])
    yield lambda name: importlib.import_module(f"bench.{name}")


def read_table(text: str, title: str) -> dict[str, tuple[str, ...]]:
  """The columns of the table below a title."""
  lines = text.partition(f"### {title}\n")[2].partition("###")[0].splitlines()
  cells = [[c.strip() for c in x.strip("|").split("|")] for x in lines if x[:1] == "|"]
  assert {len(row) for row in cells} == {len(cells[0])}
  return dict(zip(cells[0], zip(*cells[2:], strict=True), strict=True))


def test_functions_run_in_turns_and_time_is_per_step(bench, monkeypatch):
  timing, calls, now = bench("timing"), [], [0.0]
  monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

  def make_run(name, seconds, num_steps):
    def run():
      calls.append(name)
      now[0] += seconds
      return num_steps

    return run

  times = timing.time_in_turns({"a": make_run("a", 1.0, 4), "b": make_run("b", 3.0, 1)}, 7)
  # Each has paused while the other ran, so it warms up first; time is over after three rounds.
  assert "".join(calls) == "aabb" * 3
  assert times["a"] == {"ms": 250, "least_ms": 250} and times["b"]["ms"] == 3000
  calls.clear()
  timing.time_in_turns({"a": make_run("a", 0.125, 4), "b": make_run("b", 0.0625, 1)}, 4)
  assert "".join(calls) == "aabb" + "ab" * 3


def make_row(**changes) -> dict:
  row = {"workload": "vectors", "method": "robult", "stage": "", "target": 1.8}
  row |= {"compile_s": 1.0, "torch_compile_s": {"2": 9.0}, "difference": {"loss": 1e-7}}
  times = {"jax map": 2.5, "jax vmap": 2.0, "eager 1": 5.0, "eager 2": 6.0, "compiled 2": 3.0}
  return row | {"times": times} | changes


def make_record(rows: list, **versions: str) -> dict:
  machine = {"name": "a machine", "system": "Linux", "versions": {"python": "3.11"} | versions}
  return machine | {"parts": {"twins": rows}}


def test_the_ratio_is_of_the_best_times_of_both(bench):
  record = make_record([make_row()])
  text = bench("report").write_details({"a machine": record})
  table = read_table(text, "Against PyTorch")
  assert table["best of PyTorch"] == ("compiled 2",)
  assert table["ratio"] == ("1.50",)  # 3 ms over 2 ms
  assert table["aim"] == ("1.8, missed",)
  assert table["eager ms"] == ("5 / 6",) and table["jax ms"] == ("2.5 / 2",)
  text = bench("report").write_page("", {"a machine": record})
  assert read_table(text, "How it compares")["ratio"] == ("1.5",)


def test_text_above_the_tables_stays(bench):
  report, records = bench("report"), {"a machine": make_record([make_row()])}
  text = report.write_page("# Mine\n\nA word.\n", records)
  assert text.startswith("# Mine\n\nA word.\n\n" + report.START)
  assert report.write_page(text, records) == text


def test_a_new_row_replaces_that_of_the_same_case(bench):
  old = [make_row(), make_row(stage="tune")]
  new = [make_row(target=2.0), make_row(workload="images_text")]
  assert bench("report").merge_rows(old, new) == [new[0], old[1], new[1]]


def test_rows_that_stay_keep_their_versions(bench, tmp_path):
  write_rows, page = bench("run").write_rows, tmp_path / "speed.md"
  write_rows(page, make_record([], torch="2.13"), {"twins": [make_row()]})
  write_rows(page, make_record([], python="3.12"), {"twins": [make_row(stage="tune")]})
  (record,) = json.loads(page.with_suffix(".json").read_text()).values()
  assert record["versions"] == {"python": "3.12", "torch": "2.13"}
  assert [row["stage"] for row in record["parts"]["twins"]] == ["", "tune"]


@pytest.mark.parametrize("word", ["method", "robult;"])
def test_an_unknown_name_is_refused_with_the_known_ones(bench, word):
  with pytest.raises(ValueError, match=f"only is '{word}', known are commands, twins"):
    bench("run").run(f"vectors,{word}", quick=True)


def test_twins_without_pytorch_are_left_out_with_a_sentence(bench, tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "torch", None)
  page = tmp_path / "speed.md"
  assert bench("run").run("twins,vectors", quick=True, out=str(page)) == {}
  assert "The twins need PyTorch" in capsys.readouterr().err and not page.exists()


def test_without_a_checkout_the_command_says_so(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr("promise_jax.cli.configs.PACKAGE", tmp_path / "promise_jax")
  assert main.main(["benchmark"])
  assert "benchmark needs a source checkout" in capsys.readouterr().err


def test_a_run_writes_the_page_and_its_numbers(bench, tmp_path, monkeypatch):
  page, row = tmp_path / "speed.md", make_row()
  monkeypatch.setitem(bench("run").PARTS, "device", lambda plan: [row | {"quick": plan.quick}])
  monkeypatch.setitem(bench("report").SUMMARY, "device", bench("report").SUMMARY["twins"])
  rows = bench("run").run("device", quick=True, out=str(page))
  assert rows == {"device": [row | {"quick": True}]}
  (record,) = json.loads(page.with_suffix(".json").read_text()).values()
  assert record["parts"] == rows and "quick" in record["name"]
  assert record["name"] in page.read_text() and "How it compares" in page.read_text()


def test_a_step_is_compiled_and_timed(bench, monkeypatch):
  size, cases = bench("size"), bench("cases")
  monkeypatch.setattr(size.startup, "enable_compilation_cache", lambda: None)
  case = cases.make_case(cases.make_workloads(quick=True)["images_text"], "fusion")
  row = size.measure_point(size.Point("seeds", 1, case))
  assert row["method"] == "fusion" and row["ms"] > 0 and row["memory_mb"] > 0


def test_growth_is_an_exponent_of_time_and_of_memory(bench):
  points = [{"x": x, "ms": 3 * x**2, "memory_mb": 5 * x} for x in (1, 10, 100)]
  rows = [{"curve": "steps", "method": "mplmm mult"} | point for point in points]
  record = {"name": "a machine", "system": "Linux", "versions": {}, "parts": {"size": rows}}
  table = read_table(bench("report").write_page("", {"a machine": record}), "How it grows")
  assert table["time"] == ("3 to 30000 ms",) and table["memory"] == ("5 to 500 MB",)
  assert table["grows as"] == ("x^1.00, at the end x^1.00",)  # of both columns, the last
  assert bench("report").fit_exponent([1, 10, 100], [3, 300, 30000]) == pytest.approx(2)
  assert b"mplmm mult" in bench("plots").draw_curves(rows)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_point_of_rows_is_a_whole_training(bench, streamed, monkeypatch):
  size, cases = bench("size"), bench("cases")
  monkeypatch.setattr(size.startup, "enable_compilation_cache", lambda: None)
  monkeypatch.setattr(size, "NUM_VALID", 8)
  monkeypatch.setattr(size, "FLIGHTS", {"leg": 4, "plane": 3})
  workload = size.make_workload("rows", 64)._replace(num_steps=2)
  point = size.Point("rows", 64, cases.Case(workload, "fusion"), streamed)
  row = size.measure_point(point)
  assert row["data_mb"] == 64 * 7 * 4 / 2**20  # rows of 7 float32
  assert row["ms"] == pytest.approx(64e3 / row["examples_per_s"])
  assert row["method"] == ("fusion from disk" if streamed else "fusion")


def test_points_are_named_once_and_have_the_size_they_say(bench):
  points = bench("size").make_points()
  keys = [tuple(point.key().values()) for point in points]
  assert len(keys) == len({*keys}) and len(points) < 60
  found = {point.curve: point for point in points}  # the last, the largest
  assert found["rows"].case.workload.num_rows == 328_521 and found["rows"].streamed
  assert len(found["modalities"].case.workload.spec.modalities) == 10
  assert found["steps"].case.workload.spec.modalities[0].shape[0] == 1000


def test_matrix_products_of_a_scan_count_as_often_as_it_turns(bench):
  step = lambda x, _: (x @ jnp.ones((5, 5)), None)
  traced = jax.jit(lambda x: jax.lax.scan(step, x, length=3)[0]).trace(jnp.ones((4, 5)))
  assert bench("training").count_flops(traced.jaxpr.jaxpr) == 3 * 2 * 4 * 5 * 5


@pytest.mark.slow
def test_a_device_is_measured_both_ways_in_both_precisions(bench, tmp_path):
  page = tmp_path / "speed.md"
  rows = bench("run").run("device,robult", quick=True, out=str(page))["device"]
  assert {(row["seeds"], row["precision"]) for row in rows} == {
    (way, kind) for way in ("map", "vmap") for kind in ("float32", "bfloat16")
  }
  assert all(row["ms"] > 0 and row["share"] > 0 for row in rows)
  table = read_table(page.read_text(), "What the device is used for")
  assert table["workload"] == ("small kernels",) * 4


def test_a_command_is_timed_and_its_failure_shown(bench, tmp_path):
  run_command = bench("commands").run_command
  assert run_command(["--help"], tmp_path, tmp_path)["seconds"] > 0
  with pytest.raises(RuntimeError, match="there is no config 'nothing'"):
    run_command(["train", "--config", "nothing"], tmp_path / "run", tmp_path)


TWINS = {
  "robult": ("vectors", "robult"),
  "redcore": ("vectors", "redcore"),
  "mplmm": ("vectors", "mplmm", {"host": "mult", "width": 4, "heads": 2}),
  "lstm": ("sequences", "redcore", {"encoder": "lstm"}),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_equals_its_original_and_one_that_does_not_is_refused(bench, name):
  pytest.importorskip("torch")
  workload, *args = TWINS[name]
  cases, twins = bench("cases"), bench("twins")
  case = cases.make_case(cases.make_workloads(quick=True)[workload], *args)
  program, twin, model_state = twins.make_twin(case)
  assert max(twins.check_equal(case, program, twin, model_state).values()) < 1e-4
  for weight in twin.parameters():
    weight.data += 0.1 * weight.requires_grad
  with pytest.raises(ValueError, match=f"the twin of {case.name} on {workload} differs in"):
    twins.check_equal(case, program, twin, model_state)
