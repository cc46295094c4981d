"""`promise-jax predict`: its files against the Predictor, its refusals."""

import numpy as np
import pandas as pd
import pytest

from inference import saved_runs
from promise_jax.cli import main
from promise_jax.inference import predictions

CLASSES = ["hat", "shoe", "dress"]


def test_the_command_writes_what_the_predictor_says(classes, tmp_path, capsys, caplog):
  folder, predictor, arrays = classes
  rows = saved_runs.of_split(arrays, "test")
  np.savez(tmp_path / "new.npz", **{name: x for name, x in rows.items() if name != "y"})
  expected = predictor.predict_proba(rows)
  tables = {}
  for ending in (".csv", ".parquet"):
    out = tmp_path / f"out{ending}"
    words = ["predict", str(folder), str(tmp_path / "new.npz"), "--out", str(out)]
    assert main.main([*words, "--coverage", "0.8"]) == 0
    tables[ending] = pd.read_csv(out) if ending == ".csv" else pd.read_parquet(out)
  pd.testing.assert_frame_equal(tables[".csv"], tables[".parquet"], check_dtype=False)
  table = tables[".csv"]
  assert table["id"].tolist() == rows["id"].tolist()
  assert table["class"].tolist() == predictor.predict(rows).tolist()
  np.testing.assert_allclose(table[[f"p_{c}" for c in CLASSES]], expected, rtol=1e-6)
  np.testing.assert_allclose(table["probability"], expected.max(axis=1), rtol=1e-6)
  names = np.array(["photo", "text", "v"])
  present = np.stack([rows[f"present_{m}"] for m in names], axis=1)
  assert table["present"].fillna("").tolist() == ["+".join(names[row]) for row in present]
  assert all(c in s.split("+") for c, s in zip(table["class"], table["set"], strict=True))
  assert "10 rows by fusion" in capsys.readouterr().out


@pytest.mark.parametrize(
  "change, words",
  [
    ({"--out": "none/out.csv"}, "the folder none does not exist"),
    ({"--out": "out.txt"}, "the ending of --out"),
    ({"data": "new.doc"}, "ends in '.doc'"),
    ({"data": "none.npz"}, "No such file"),
    ({"--coverage": "2"}, "coverage is 2"),
    ({"--coverage": "0"}, "coverage is 0"),
    ({"--seeds": "x"}, "seeds"),
    ({"model": "none"}, "none/model does not exist"),
  ],
)
def test_mistakes_are_one_sentence_and_leave_no_file(
  classes, tmp_path, monkeypatch, capsys, change, words
):
  folder, _, arrays = classes
  monkeypatch.chdir(tmp_path)
  np.savez("new.npz", **saved_runs.of_split(arrays, "test"))
  words_of = {"model": str(folder), "data": "new.npz", "--out": "out.csv"} | change
  line = [words_of.pop("model"), words_of.pop("data")]
  assert main.main(["predict", *line, *(w for pair in words_of.items() for w in pair)]) == 2
  error = capsys.readouterr().err
  assert words in error and error.count("\n") == 1
  assert [path.name for path in tmp_path.iterdir()] == ["new.npz"]


def test_the_file_of_the_rows_is_not_written_over(classes, tmp_path, capsys):
  path = tmp_path / "new.csv"
  path.write_text("v_0\n1\n")
  assert main.main(["predict", str(classes[0]), str(path), "--out", str(path)]) == 2
  assert "the file of the rows, which would be lost" in capsys.readouterr().err
  assert path.read_text() == "v_0\n1\n"


def test_names_with_a_plus_are_in_json_lists():
  mask = np.array([[True, True], [False, True], [False, False]])
  names = np.array(["a", "d+é"], object)
  chosen = [names[row] for row in mask]
  assert predictions.join_names(chosen, names) == ['["a", "d+é"]', '["d+é"]', "[]"]
  names = np.array(["a", "b"], object)
  assert predictions.join_names([names[row] for row in mask], names) == ["a+b", "b", ""]
