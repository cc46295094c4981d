"""Answers rows over HTTP with an exported model: MODEL=model uvicorn serve:app"""

import json
import logging
import os

import pandas as pd
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

import promise_jax
from promise_jax import files

MAX_BYTES, MAX_ROWS = 2**20, 512
logging.getLogger("promise_jax").setLevel(logging.ERROR)  # a field that lacks is no news
app, model = FastAPI(), promise_jax.load(os.environ["MODEL"])


def answer(body: bytes) -> list[dict]:
  """The answers to the rows of a request. ValueError for a body of another form."""
  question = json.loads(body)
  rows = question.get("rows") if isinstance(question, dict) else None
  is_list = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
  if not is_list or not 0 < len(rows) <= MAX_ROWS:
    raise ValueError(f'expected: {{"rows": [{{...}}]}} with 1 to {MAX_ROWS} rows.')
  names = dict.fromkeys(name for row in rows for name in row)
  columns = {name: [row.get(name) for row in rows] for name in names}
  table = columns or pd.DataFrame(index=range(len(rows)))  # rows without any field
  return files.to_plain(model.predict_proba(table).to_dict("records"))


@app.post("/predict")
async def predict(request: Request) -> dict:
  body = bytearray()
  async for part in request.stream():
    body += part
    if len(body) > MAX_BYTES:
      raise HTTPException(413, f"The body has more than {MAX_BYTES} bytes.")
  try:
    return {"predictions": await run_in_threadpool(answer, bytes(body))}
  except (ValueError, RecursionError) as error:
    raise HTTPException(422, str(error).partition("\n")[0]) from error
