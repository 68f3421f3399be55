"""BERT on text alone: FLOPs of masked words, next sentences and the language model.

BERT-base on 128 words with 20 predictions is 22.3 GFLOP of layers and 1.0 of the head.
"""

from vlp_jax.costs import families, flops, sequence

MODELS = ("bert",)
OBJECTIVES = ("text:bert", "text:nsp", "masked:mlm", "generate:lm")


def forward(model, batch, lengths, objective) -> dict[str, float]:
  """FLOPs by part; `lengths`: tokens, masked."""
  name, rows = families.known(objective, OBJECTIVES), families.rows(batch)
  length, width = batch["text_ids"].shape[1], model.width
  tokens = length * families.share(batch, lengths)
  layers = sequence.stack(model.depth, tokens, width, model.mlp_dim)
  out = {"blocks": rows * layers}
  if name in ("text:nsp", "text:bert") or (not name and "nsp" in model.heads):
    out["pooler"] = rows * flops.linear(1, width, width)
    out["nsp"] = rows * flops.linear(1, width, 2)
  places = _places(name, batch, tokens, lengths, objective)
  if places:
    out["mlm"] = rows * sequence.words(places, width, model.vocab_size)
  return out


def _places(name, batch, tokens, lengths, objective):
  """Places of a row that the head of words runs on."""
  length = batch["text_ids"].shape[1]
  if name == "text:nsp":
    return 0
  if name == "generate:lm":  # all but the last
    return (length if lengths is None else tokens) - 1
  if not name:
    return batch["mlm_positions"].shape[1] if "mlm_positions" in batch else 0
  given = objective.keywords
  if lengths and "masked" in lengths:
    return lengths["masked"]
  places = min(given["max_masked"], length)
  marks = 3 if name == "text:bert" else 2  # [CLS] and [SEP] are never masked
  return families.predicted(lengths, places, given["rate"], tokens - marks)


def recomputed(model, batch, objective) -> float:
  rows, length = batch["text_ids"].shape
  layers = model.depth, length, model.width, model.mlp_dim
  return rows * sequence.again(model.remat, *layers)


def moved(model, batch, shards, parts) -> list[tuple[str, int, float, str]]:
  length = batch["text_ids"].shape[1]
  return sequence.partial_sums(model, families.rows(batch), length, shards, parts)
