"""Files of tables in blocks: the cells of the whole file, whatever its encoding and separator."""

import logging

import pandas as pd
import pytest

from promise_jax.data.readers import table_file

ROWS = [["1,5", "a b", "ü"], ["2", 'say "x"\nand y', ""], ["-3,25", "", "c"], ["", "d", "é"]]
NAMES = ["size", "text", "name"]


def write_text(path, separator, encoding, newline="\n"):
  quote = lambda cell: f'"{cell.replace(chr(34), chr(34) * 2)}"'
  lines = [separator.join(map(quote, row)) for row in (NAMES, *ROWS)]
  path.write_bytes((newline.join(lines) + newline * 2).encode(encoding))


@pytest.mark.parametrize(
  ("separator", "encoding", "words"),
  [
    (",", "utf-8", "the comma is the decimal point in size."),
    (",", "utf-8-sig", ""),
    ("\t", "utf-16", "the comma is the decimal point in size."),
    (",", "latin-1", "it was read as Latin-1"),
    ("|", "utf-8", "separated by '|'"),
    (";", "utf-8", "the comma is the decimal point in size."),
  ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_blocks_are_the_rows_of_the_file(tmp_path, caplog, separator, encoding, words, newline):
  path = tmp_path / "own.csv"
  write_text(path, separator, encoding, newline)
  with caplog.at_level(logging.WARNING):
    blocks = list(table_file.read_blocks(path, 3))
  assert [len(block) for block in blocks] == [3, 1] and words in caplog.text
  lines = pd.Index([2, 3, 5, 6], name="line")  # of the second row there are two
  want = pd.DataFrame(ROWS, lines, NAMES, dtype=object)
  want["size"] = pd.Series(["1.5", "2", "-3.25", ""], lines, dtype=object)
  pd.testing.assert_frame_equal(pd.concat(blocks), want)
  pd.testing.assert_frame_equal(table_file.read_frame(path)[0], want)


def test_blocks_are_read_when_they_are_asked_for(tmp_path):
  path = tmp_path / "own.csv"
  path.write_text("a,b\n1,2\n3,4\n5\n")
  blocks = table_file.read_blocks(path, 2)
  assert next(blocks)["a"].tolist() == ["1", "3"]
  with pytest.raises(ValueError, match="own.csv: line 4 has 1 cells, the first line has 2"):
    next(blocks)


@pytest.mark.parametrize("ending", [".parquet", ".feather"])
def test_blocks_of_arrow_are_the_rows_of_the_file(tmp_path, ending):
  path, count = tmp_path / f"own{ending}", 25
  want = pd.DataFrame({"a": range(count), "b": [f"text {i}" for i in range(count)]})
  want["photo"] = [{"bytes": bytes([i]), "path": None} for i in range(count)]
  if ending == ".parquet":
    want.to_parquet(path, row_group_size=10)
  else:
    want.to_feather(path, chunksize=6)  # record batches
  blocks = list(table_file.read_blocks(path, 4))
  assert max(map(len, blocks)) == 4
  pd.testing.assert_frame_equal(pd.concat(blocks), want)
  pd.testing.assert_frame_equal(table_file.read_frame(path)[0], want)
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  with pytest.raises(ValueError, match=f"own{ending}: this is no .* file, or a damaged one"):
    list(table_file.read_blocks(path, 4))


def test_a_parquet_file_without_rows_is_refused(tmp_path):
  pd.DataFrame({"a": pd.Series([], dtype=float)}).to_parquet(tmp_path / "own.parquet")
  with pytest.raises(ValueError, match="the table has no rows, its columns are a"):
    list(table_file.read_blocks(tmp_path / "own.parquet", 4))


def test_a_star_names_several_files(tmp_path):
  for name, rows in (("a", [1, 2]), ("b", [3])):
    pd.DataFrame({"x": rows}).to_parquet(tmp_path / f"part_{name}.parquet")
  path = tmp_path / "part_*.parquet"
  assert table_file.read_frame(path)[0]["x"].tolist() == [1, 2, 3]
  assert [block["x"].tolist() for block in table_file.read_blocks(path, 1)] == [[1], [2], [3]]
  with pytest.raises(ValueError, match="none_.*csv: there is no such file"):
    table_file.read_frame(tmp_path / "none_*.csv")


@pytest.mark.parametrize(
  ("separator", "columns", "want", "said"),
  [
    (";", ["1.234,5", "NA", "7"], ["1234.5", "NA", "7"], "is the decimal point in a"),
    (";", ["1,234", "2", ""], ["1.234", "2", ""], "is the decimal point in a"),
    (",", ["1,234", "2", ""], ["1234", "2", ""], "separates thousands in a"),
    (",", ["1,234.5", "12,000,000", "-1.5"], ["1234.5", "12000000", "-1.5"], "thousands in a"),
    (",", ["0,234", "2", "1"], ["0.234", "2", "1"], "is the decimal point in a"),
    ("\t", ["1,5", "2", "1"], ["1.5", "2", "1"], "is the decimal point in a"),
    (",", ["1,5", "x", "1"], ["1,5", "x", "1"], ""),
    (",", ["1,5", "2.5", "1"], ["1,5", "2.5", "1"], ""),
    ("|", ["1,23,4", "2", "1"], ["1,23,4", "2", "1"], ""),
    (",", ["1.500", "2", "1"], ["1.500", "2", "1"], ""),
  ],
)
def test_commas_of_numbers(tmp_path, separator, columns, want, said):
  path = tmp_path / "own.csv"
  lines = [f'"{cell}"{separator}"a, b"' for cell in columns]
  path.write_text("\n".join([f"a{separator}text", *lines]))
  frame, notes = table_file.read_frame(path)
  assert frame["a"].tolist() == want and frame["text"].tolist() == ["a, b"] * 3
  assert said in "\n".join(notes) and ("comma" in "\n".join(notes)) == bool(said)


def test_points_separate_thousands_where_commas_are_decimal(tmp_path):
  path = tmp_path / "own.csv"
  path.write_text("a;b;c;d\n1.234;0,5;1.25;3\n12.000;2;7;4\n")
  frame, notes = table_file.read_frame(path)
  assert frame.to_numpy().tolist() == [["1234", "0.5", "1.25", "3"], ["12000", "2", "7", "4"]]
  assert notes[-1] == "own.csv: the comma is the decimal point in a, b."
