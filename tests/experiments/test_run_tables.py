"""Tables of finished runs: by hand from predictions, by pandas from results.jsonl, refusals."""

import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import tiny_runs
from promise_jax import files
from promise_jax.cli.main import main
from promise_jax.experiments import config as experiment_config
from promise_jax.experiments import evaluate, run_tables
from promise_jax.experiments import run as experiment_run

pytestmark = pytest.mark.usefixtures("compile_once")
VARIANTS = ["fusion", "majority"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run of three seeds on data with holes, and what it printed. 20 test rows have both
  modalities, some only one."""
  folder, rng = tmp_path_factory.mktemp("holes"), np.random.default_rng(0)
  y, split = rng.integers(0, 2, 110), np.repeat(["train", "valid", "test"], (50, 20, 40))
  arrays = {f"x_m{i}": rng.normal(size=(110, 4)) + y[:, None] for i in range(2)}
  arrays |= {"present_m0": np.arange(110) % 4 != 0, "present_m1": np.arange(110) % 4 != 1}
  np.savez(folder / "mine.npz", y=y, split=split, **arrays)
  given = tiny_runs.get_config("seeds=3,baselines=majority").to_dict()
  given |= {"dataset": str(folder / "mine.npz"), "test_protocols": ("map(.5,both=1)",)}
  given["data"] = experiment_config.default_config("fusion", "mfeat", 0.5).data.to_dict()
  run = folder / "run"
  return run, experiment_run.run_experiment(given, run, show=lambda text: None)


@pytest.fixture
def folders(finished, tmp_path, monkeypatch):
  """The working folder, with copies of the run that differ in one thing each."""
  monkeypatch.chdir(tmp_path)
  lines = files.read_jsonl(finished[0] / "results.jsonl")

  def copy(name: str, change=None) -> None:
    shutil.copytree(finished[0], tmp_path / name, ignore=shutil.ignore_patterns("checkpoints"))
    if change:
      files.write_jsonl(tmp_path / name / "results.jsonl", [change(dict(x)) for x in lines])

  half = lambda x: x | {"value": x["value"] and x["value"] / 2} if x["method"] == "fusion" else x
  for name in ("run", "unfinished", "both/first", "plain"):
    copy(name)
  copy("both/second", half)
  copy("fewer", lambda x: x | {"label_rate": 0.1})
  copy("others", lambda x: half(x) | {"mask_hash": "other rows"})
  for name in ("unfinished/results.jsonl", "plain/config.json"):
    (tmp_path / name).unlink()
  return tmp_path


def by_hand(run, complete_only: bool) -> dict[str, list[list[float]]]:
  """{pattern: accuracies by variant and seed}, row by row from the predictions."""
  stored = dict(np.load(run / "predictions.npz"))
  found = {}
  for p, pattern in enumerate(stored["pattern"]):
    name = " + ".join(f"m{i}" for i in range(2) if pattern[i])
    cells = []
    for variant in VARIANTS:
      hits = [[] for _ in range(3)]
      for n, recorded in enumerate(stored["recorded"]):
        if recorded.all() if complete_only else (recorded & pattern).any():
          # What is left of the pattern in this row.
          index = next(
            i for i, q in enumerate(stored["pattern"]) if (q == (recorded & pattern)).all()
          )
          for s in range(3):
            logits = stored[f"logits/{variant}"][s, p if complete_only else index, n]
            hits[s].append(logits.argmax() == stored["label"][n])
      cells.append([np.mean(x) for x in hits])
    found[name] = cells
  return found


@pytest.mark.parametrize("same_rows", [True, False])
def test_patterns_are_measured_on_the_rows_of_the_table(finished, same_rows):
  run, console = finished
  (table,) = run_tables.make_tables([run], same_rows=same_rows)
  want = by_hand(run, complete_only=same_rows)
  means = table.cells.map(lambda cell: cell.mean)
  assert list(means.columns) == VARIANTS
  for name, cells in want.items():
    np.testing.assert_allclose(means.loc[name].tolist(), np.mean(cells, axis=1), atol=1e-6)
  singles = np.mean([want["m0"], want["m1"]], axis=0)  # by variant and seed
  incomplete = table.cells.loc["mean, incomplete", "fusion"]
  np.testing.assert_allclose(incomplete[:2], [singles[0].mean(), singles[0].std(ddof=1)])
  assert table.n == (["20"] * 5 if same_rows else ["30", "30", "40", "30", "30-40"])
  sentence = "20 of 40 rows that have every modality" if same_rows else "that have something left"
  assert sentence in table.caption()
  # The run itself shows the same rows, in the table and in the differences.
  assert (console.splitlines()[0] == table.caption()) == same_rows
  gap = np.mean(want["m0"][0]) - np.mean(want["m0"][1])
  difference = {x["rows"]: x["difference"] for x in files.read_json(run / "comparison.json")}["m0"]
  assert (difference == pytest.approx(gap, abs=1e-6)) == same_rows


def test_numbers_are_those_of_pandas_and_csv_is_read_back(folders, capsys):
  call = "table run --rows patterns,rates,protocols --metric accuracy,macro_f1 --format csv"
  assert main([*call.split(), "--error=interval", "--test-rows=every"]) == 0
  found = pd.read_csv(io.StringIO(capsys.readouterr().out))
  results = pd.DataFrame(files.read_jsonl("run/results.jsonl"))
  results = results[results["split"] == "test"].dropna(subset="value")
  results["row"] = results["pattern"].map(" + ".join, na_action="ignore")
  patterns = results[results["protocol"] == "none"]
  rates = results[results["rate"].notna()]
  rates = rates.assign(row=rates["rate"].map("{:g}".format))
  protocols = results[results["protocol"].str.startswith("map(")]
  protocols = protocols.assign(row=protocols["protocol"])
  names = {"present": patterns, "bernoulli(rate)": rates, "protocol": protocols}
  assert set(found["rows"]) == set(names) and set(found["metric"]) == {"accuracy", "macro_f1"}
  for rows, lines in names.items():
    got = found[found["rows"] == rows].set_index(["metric", "row", "variant"])
    want = lines.groupby(["metric", "row", "method"])["value"].agg(["mean", "sem", "count"])
    want["interval"] = want["sem"] * stats.t.ppf(0.975, want["count"] - 1)
    plain = got[~got.index.get_level_values("row").str.startswith(("mean", "area"))]
    assert len(plain) == 2 * 2 * {"present": 3, "bernoulli(rate)": 10, "protocol": 1}[rows]
    want = want.loc[plain.index]
    for column in ("mean", "interval"):
      np.testing.assert_allclose(plain[column], want[column], rtol=1e-12, err_msg=rows)
  area = found[found["row"] == "area 0 to 0.9 (AUILC)"].set_index(["metric", "variant"])["mean"]
  for (metric, variant), value in area.items():
    curve = rates[(rates["metric"] == metric) & (rates["method"] == variant)]
    curve = curve.groupby("rate")["value"].mean()
    assert value == pytest.approx(np.trapezoid(curve, curve.index) / 0.9)


def test_what_was_evaluated_later_is_a_row(finished, tmp_path):
  shutil.copytree(finished[0], tmp_path / "run")
  evaluate.evaluate_run(tmp_path / "run", "exact(0.5)")
  (table,) = run_tables.make_tables([tmp_path / "run"], rows=["protocols"], metrics=["macro_f1"])
  assert table.cells.index.tolist() == ["map(0.5,both=1.0)", "exact(0.5)"]
  assert (table.metric, table.cells.notna().all(axis=None)) == ("macro_f1", True)
  evaluate.evaluate_run(tmp_path / "run", split="valid")
  (table,) = run_tables.make_tables([tmp_path / "run"], split="valid")
  assert table.n == ["10"] * 5 and table.caption().endswith("every modality; rows of valid")


def test_runs_share_the_variants_in_which_they_agree(folders, capsys):
  """`fusion` differs between the two runs of the folder, `majority` is the same."""
  (table,) = run_tables.make_tables([folders / "both"])
  assert list(table.cells.columns) == ["first/fusion", "majority", "second/fusion"]
  first, second = (table.cells.loc["mean, all", f"{name}/fusion"] for name in ("first", "second"))
  assert first.mean == pytest.approx(2 * second.mean)
  (twice,) = run_tables.make_tables([folders / "run", folders / "both" / "first"])
  assert list(twice.cells.columns) == VARIANTS
  assert {cell.num_seeds for cell in twice.cells.to_numpy().flat} == {3}
  call = "table both --variants=majority+second/fusion --format=md --out=t.md"
  assert main(call.split()) == 0
  assert capsys.readouterr().out == "files: t.md\n"
  assert "| present | n | majority | second/fusion |" in (folders / "t.md").read_text()


def test_a_run_that_is_not_finished_is_left_out_of_a_folder_of_several(folders, caplog):
  (folders / "both/second/results.jsonl").unlink()
  (table,) = run_tables.make_tables([folders / "both"])
  assert list(table.cells.columns) == VARIANTS
  assert f"{folders / 'both/second'} is left out, it is not finished." in caplog.text
  (folders / "both/first/results.jsonl").unlink()
  with pytest.raises(ValueError, match="both is not finished"):
    run_tables.make_tables([folders / "both"])


REFUSED = [
  ("run --metric=f2", "for 'f2'; there is: accuracy, macro_f1,"),
  ("run --rows=cells", "a kind of rows is 'cells', known are patterns, rates, protocols"),
  ("run --variants=fusion+none", "a variant is 'none', known are fusion, majority"),
  ("run --split=new.csv", "split is 'new.csv', known are test, valid"),
  ("run --error=sem", "invalid choice: 'sem'"),
  ("run --format=docx", "invalid choice: 'docx'"),
  ("run --out=nowhere/t.csv", "nowhere"),
  ("unfinished", "unfinished is not finished"),
  ("plain", "plain is not a run"),
  ("nowhere", "nowhere is not a run"),
  ("run fewer", "one data set and label rate, not ["),
  ("run others", "the same test rows under the same masks"),
  ("bare --rows=protocols", "the runs have no test protocol; `promise-jax evaluate` adds one"),
]


@pytest.mark.parametrize(("line", "sentence"), REFUSED, ids=[line for line, _ in REFUSED])
def test_what_does_not_fit_is_one_sentence(line, sentence, folders, capsys):
  shutil.copytree("run", "bare")
  lines = [x for x in files.read_jsonl("run/results.jsonl") if x["protocol"][:3] != "map"]
  files.write_jsonl("bare/results.jsonl", lines)
  config = json.loads((folders / "run" / "config.json").read_text())
  config["config"]["test_protocols"] = []
  files.write_json("bare/config.json", config)
  assert main(["table", *line.split()]) == 2
  out, err = capsys.readouterr()
  assert out == "" and err.startswith("error: ") and err.count("\n") == 1
  assert sentence in err


def test_runs_that_were_tested_on_other_labels_have_no_common_table(folders):
  path = folders / "others" / "data.json"
  value = files.read_json(path)
  value["fingerprint"]["splits"]["test"]["labels"] = "0" * 16
  files.write_json(path, value)
  with pytest.raises(
    ValueError, match="the test rows of mine or their labels are others in .*others than"
  ):
    run_tables.make_tables([folders / "run", folders / "others"])
