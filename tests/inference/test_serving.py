"""docs/howto/serve.py over HTTP: its answers; every mistake is a 4xx of one sentence."""

import concurrent.futures
import importlib.util
import json
import logging
import socket
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn

from inference import saved_runs
from promise_jax.inference import export

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "serve.py"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
  """(address of a running server, the predictor that it serves, rows as JSON has them)."""
  folder = tmp_path_factory.mktemp("served")
  arrays, *_ = saved_runs.save_run(folder / "run")
  export.export_run(folder / "run", folder / "model")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("MODEL", str(folder / "model"))
    spec = importlib.util.spec_from_file_location("serve", PAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    logging.getLogger("promise_jax").setLevel(logging.NOTSET)  # other tests read warnings
  options = {"ws": "none", "lifespan": "off", "log_level": "warning"}
  server = uvicorn.Server(uvicorn.Config(module.app, **options))
  with socket.create_server(("127.0.0.1", 0)) as listening:
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    columns = saved_runs.of_split(arrays, "valid")
    rows = [{name: x[i].tolist() for name, x in columns.items()} for i in range(20)]
    yield f"http://127.0.0.1:{listening.getsockname()[1]}", module.model, rows
    server.should_exit = True
    thread.join()


def ask(address, **body):
  return httpx.post(f"{address}/predict", timeout=60, **body)


def test_200_requests_in_parallel_get_the_answers_to_their_rows(served):
  address, model, rows = served
  single = [
    model.predict_proba({n: [v] for n, v in row.items()}).to_dict("records")[0] for row in rows
  ]
  groups = [[i % 20, (7 * i + 3) % 20, (i * i) % 20][: 1 + i % 3] for i in range(200)]
  with concurrent.futures.ThreadPoolExecutor(32) as pool:
    answers = pool.map(lambda g: ask(address, json={"rows": [rows[i] for i in g]}), groups)
    for group, answer in zip(groups, answers, strict=True):
      assert answer.status_code == 200
      found = answer.json()["predictions"]
      assert [p.keys() for p in found] == [single[i].keys() for i in group]
      for p, i in zip(found, group, strict=True):
        np.testing.assert_allclose(list(p.values()), list(single[i].values()), atol=1e-6)


def test_a_row_may_lack_what_it_lacks(served):
  """A field that lacks, that is null or that is marked as absent is the same."""
  address, model, (row, *_) = served
  row = row | {"present_photo": True, "present_text": True, "present_v": True}
  without = {name: value for name, value in row.items() if name != "x_v"}
  rows = [without, without | {"x_v": None}, row | {"present_v": False}, {}]
  found = ask(address, json={"rows": rows}).json()["predictions"]
  assert found[0] == found[1] == found[2] != found[3]
  prior = np.exp(model.prior)
  np.testing.assert_allclose(list(found[3].values()), prior / prior.sum(), rtol=1e-5)
  assert ask(address, json={"rows": [{}, {}]}).json()["predictions"] == [found[3]] * 2


BAD = {
  "no body": (b"", "Expecting value"),
  "no JSON": (b"{", "Expecting property name"),
  "no text": (b"\xff\xfe\x00", "can't decode"),
  "too deep": (b"[" * 100_000, "recursion"),
  "a list": (b"[]", "expected: "),
  "no rows": (b"{}", "expected: "),
  "empty rows": (b'{"rows": []}', "1 to 512 rows"),
  "too many rows": (json.dumps({"rows": [{}] * 513}).encode(), "1 to 512 rows"),
  "rows of numbers": (b'{"rows": [1, 2]}', "expected: "),
  "unknown fields": (b'{"rows": [{"price": 3}]}', "no column is of a modality"),
  "a text for numbers": (b'{"rows": [{"v": "tall"}]}', "'tall', expected: numbers of shape"),
  "too few numbers": (b'{"rows": [{"v": [1, 2]}]}', "shape"),
  "an object for numbers": (b'{"rows": [{"v": {"a": 1}}]}', "expected: numbers of shape"),
  "ragged lists": (b'{"rows": [{"photo": [[1], [2, 3]]}]}', "expected: numbers of shape"),
  "a number for a text": (b'{"rows": [{"text": 3.5}]}', "3.5, expected: texts"),
  "a pixel of 300": (json.dumps({"rows": [{"photo": [[[300] * 3] * 8] * 8}]}).encode(), "300"),
  "a huge number": (b'{"rows": [{"v": [1' + b"0" * 400 + b", 1, 1]}]}", "expected: numbers"),
  "a flag of words": (b'{"rows": [{"text": "a", "present_text": "maybe"}]}', "'maybe'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_a_422_of_one_sentence(case, served):
  body, words = BAD[case]
  answer = ask(served[0], content=body)
  assert answer.status_code == 422
  detail = answer.json()["detail"]
  assert words in detail and "\n" not in detail


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_that_is_too_large_is_a_413(is_chunked, served):
  part = b" " * 2**18
  content = iter([part] * 5) if is_chunked else part * 5
  answer = ask(served[0], content=content)
  assert answer.status_code == 413
  assert answer.json() == {"detail": "The body has more than 1048576 bytes."}


def test_other_paths_and_methods_are_json_too(served):
  for answer in (httpx.get(f"{served[0]}/predict"), httpx.get(f"{served[0]}/none")):
    assert answer.status_code in (404, 405) and "detail" in answer.json()
