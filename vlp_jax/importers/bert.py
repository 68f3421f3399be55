"""BERT and RoBERTa checkpoints: names of torch, safetensors, Google; and back.

Known spellings: `bert.*` or bare encoders with or without `cls.*` heads, LayerNorm as
`weight`/`bias` or `gamma`/`beta`, `module.` before everything; `roberta.*` with
`lm_head.*`; and the variables of Google's TensorFlow release, `bert/encoder/layer_0/
attention/self/query/kernel`, whose kernels are [in, out]. RoBERTa counts positions from
2: its first two rows are left out, and its model has type_vocab=1, eps=1e-5.
"""

import re
from collections.abc import Mapping

import jax
import numpy as np

from vlp_jax.importers import Report, Source, finish, shapes, surgery
from vlp_jax.importers import bert_layers as bert

# The head of next sentences: class 0 follows, in our model as in theirs.
NSP = "cls.seq_relationship"
MLM = "cls.predictions"
_OPTIMIZER = r".*/adam_[mv]$|.*AdamWeightDecay.*|global_step$|.*/LAMB.*"


def convert(arrays: Mapping[str, np.ndarray], model) -> tuple[dict, Report]:
  """Parameters of `models.bert.Model` out of a published state dict.

  A head that the checkpoint lacks stays as initialised, one that the model lacks is
  left; so is a pooler, which masked language models do not have.
  Raises: ValueError for unexplained leftovers and shapes.
  """
  source, want, notes = read(arrays), shapes(model), []
  flat = bert.under("bert", tower(source, want, "bert", model, notes))
  flat |= heads(source, model)
  may_miss = [r"bert/pooler/"]
  may_miss += [f"{h}_head/" for h in model.heads if not _has(flat, f"{h}_head/")]
  return finish(
    flat,
    want,
    source,
    reshaped=[k for k in flat if k.endswith("kernel") or "/layers/" in k],
    surgery=notes,
    may_miss=may_miss,
    may_leave=(r"cls\.",),
  )


def _has(flat, prefix):
  return any(k.startswith(prefix) for k in flat)


def read(arrays: Mapping[str, np.ndarray]) -> Source:
  """Any of the spellings as `bert.*` and `cls.*` of torch."""
  if any("/" in k and k.startswith(("bert/", "cls/")) for k in arrays):
    arrays = _google(arrays)
  source = Source(arrays)
  if source.has("roberta.") or source.has("lm_head."):
    source.rename(r"^roberta\.", "bert.")
    source.rename(r"^lm_head\.dense\.", f"{MLM}.transform.dense.")
    source.rename(r"^lm_head\.layer_norm\.", f"{MLM}.transform.LayerNorm.")
    source.rename(r"^lm_head\.", f"{MLM}.")
  source.rename(r"^(embeddings|encoder|pooler)\.", r"bert.\1.")
  source.tied(f"{MLM}.decoder.bias", source.arrays.get(f"{MLM}.bias"))
  return source


def _google(arrays):
  """Variables of the TensorFlow release under torch's names and in its layout."""
  out = {}
  for name, x in arrays.items():
    if re.match(_OPTIMIZER, name):
      continue
    to = re.sub(r"/layer_(\d+)/", r"/layer/\1/", name).replace("/", ".")
    to = to.replace("cls.predictions.output_bias", f"{MLM}.bias")
    to = to.replace(f"{NSP}.output_weights", f"{NSP}.weight")
    to = to.replace(f"{NSP}.output_bias", f"{NSP}.bias")
    if to.endswith("_embeddings"):
      to += ".weight"
    if to.endswith(".kernel"):
      to, x = to.removesuffix("kernel") + "weight", np.asarray(x).T
    out[to] = x
  return out


def tower(
  source: Source, want: Mapping[str, tuple], at: str, model, notes: list
) -> dict[str, np.ndarray]:
  """Paths below a `towers.bert.Bert` that lies at `at` in a model with its sizes."""
  flat = bert.under("embed", tables(source, want, f"{at}/embed", notes))
  flat |= bert.under("encoder", encoder(source, model))
  if source.has("bert.pooler.") and f"{at}/pooler/kernel" in want:
    flat |= bert.under("pooler", bert.linear(source, "bert.pooler.dense"))
  return flat


def encoder(source: Source, model) -> dict[str, np.ndarray]:
  """Paths below a `transformer.Stack` of model.depth layers."""
  return bert.stack(source, "bert.encoder.layer", model.depth, model.num_heads)


def tables(
  source: Source, want: Mapping[str, tuple], at: str, notes: list, *, seed: int = 0
) -> dict[str, np.ndarray]:
  """Paths below an `embeddings.Bert` at `at`; more words, fewer positions if asked."""
  name = "bert.embeddings"
  words = source.take(f"{name}.word_embeddings.weight")
  source.tied(f"{MLM}.decoder.weight", words)
  size = want[f"{at}/words"][0]
  if size > len(words):
    notes.append(f"words: {len(words)} rows, {size - len(words)} more of N(0, 0.02)")
    words = surgery.words(words, size, seed=seed)
  types = source.take(f"{name}.token_type_embeddings.weight")
  places = source.take(f"{name}.position_embeddings.weight")
  length = want[f"{at}/positions"][0]
  if len(types) == 1:
    notes.append("positions: RoBERTa's first two rows, of padding, left out")
    places = places[2:]
  if length < len(places):
    notes.append(f"positions: the first {length} of {len(places)}")
    places = surgery.positions(places, length, how="cut")
  out = {"words": words, "types": types, "positions": places}
  return out | bert.under("norm", bert.norm(source, f"{name}.LayerNorm"))


def heads(source: Source, model) -> dict[str, np.ndarray]:
  """`mlm_head/...` and `nsp_head/...` as far as both sides have them."""
  flat, inner = {}, f"{MLM}.transform"
  if "mlm" in model.heads and source.has(f"{MLM}."):
    found = bert.transform(source, f"{inner}.dense", f"{inner}.LayerNorm")
    flat |= bert.under("mlm_head/transform", found)
    flat["mlm_head/bias"] = source.take(f"{MLM}.bias")
  if "nsp" in model.heads and source.has(f"{NSP}."):
    flat |= bert.under("nsp_head/dense", bert.linear(source, NSP))
  return flat


def export(variables: Mapping) -> dict[str, np.ndarray]:
  """Variables of `models.bert.Model` under torch's names; `convert` gives them back."""
  leaves = jax.tree_util.tree_leaves_with_path(dict(variables)["params"])
  paths = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}
  flat = {k: np.asarray(x) for k, x in paths.items()}
  embed, out = "bert.embeddings", {}
  for key, name in (
    ("words", "word_embeddings"),
    ("positions", "position_embeddings"),
    ("types", "token_type_embeddings"),
  ):
    out[f"{embed}.{name}.weight"] = flat.pop(f"bert/embed/{key}")
  for path, x in flat.items():
    out |= _published(path, x)
  return {k: np.ascontiguousarray(x) for k, x in out.items()}


_PLACES = {
  "bert/embed/norm": "bert.embeddings.LayerNorm",
  "bert/pooler": "bert.pooler.dense",
  "mlm_head/transform/dense": f"{MLM}.transform.dense",
  "mlm_head/transform/norm": f"{MLM}.transform.LayerNorm",
  "mlm_head": MLM,
  "nsp_head/dense": NSP,
}
_LAYER = {
  "attention/out": "attention.output.dense",
  "attention_norm": "attention.output.LayerNorm",
  "mlp_in": "intermediate.dense",
  "mlp_out": "output.dense",
  "mlp_norm": "output.LayerNorm",
}


def _published(path, x):
  place, _, leaf = path.rpartition("/")
  leaf = "bias" if leaf == "bias" else "weight"
  layers = "bert/encoder/layers/"
  if not place.startswith(layers):
    x = x.T if path.endswith("kernel") else x
    return {f"{_PLACES[place]}.{leaf}": x}
  part, out = place.removeprefix(layers), {}
  for i, one in enumerate(x):
    name = f"bert.encoder.layer.{i}"
    if part == "attention/qkv":  # [D, 3, N, d] or [3, N, d]
      for k, kind in enumerate(("query", "key", "value")):
        own = one[:, k] if leaf == "weight" else one[k]
        own = own.reshape(len(own), -1).T if leaf == "weight" else own.reshape(-1)
        out[f"{name}.attention.self.{kind}.{leaf}"] = own
      continue
    if part == "attention/out" and leaf == "weight":  # [N, d, D]
      one = one.reshape(-1, one.shape[-1])
    one = one.T if path.endswith("kernel") else one
    out[f"{name}.{_LAYER[part]}.{leaf}"] = one
  return out
