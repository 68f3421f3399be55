"""One Transformer over text and regions: FLOPs of UNITER and its like.

UNITER-base with 15 words and 39 regions and the MLM head at 2 places: 54 tokens of 12
layers at 24 D^2 + 4 D 54 each are 9.28 GFLOP, regions 0.12, head 0.09: 9.5 an example.

`lengths`: tokens (real, of the fused sequence), text, regions, masked (words to
predict); what is missing follows from the others or from the shapes.
"""

from collections.abc import Mapping

import jax

from vlp_jax.costs import families, flops
from vlp_jax.errors import UserError

MODELS = ("uniter",)
# Objective -> heads whose outputs it reads; the compiler drops the others.
HEADS = {
  "masked:mlm": ("mlm",),
  "masked:mrfr": ("mrfr",),
  "masked:mrc": ("mrc",),
  "masked:mrc_kl": ("mrc",),
  "match:itm": ("itm",),
}


def forward(
  model,
  batch: Mapping[str, jax.ShapeDtypeStruct],
  lengths: Mapping[str, float] | None,
  objective: families.Objective | None,
) -> dict[str, float]:
  """FLOPs by part of one encoded sequence a row; see the package's header."""
  if objective is not None and objective.name not in HEADS:
    raise families.unknown(objective, HEADS)
  if set(model.heads) & {"pair", "paired_attn"}:
    raise UserError("NLVR2 as two sequences has no FLOPs formula; use heads=triplet.")
  heads = model.heads if objective is None else HEADS[objective.name]
  n = counts(batch, lengths, objective)
  rows, width, tokens = n["rows"], model.width, n["tokens"]
  mlp_dim = model.mlp_dim or 4 * width
  project = flops.linear(1, model.region_dim + 7, width)
  one = flops.block(tokens, width, mlp_dim, tokens)
  out = {
    "regions": rows * n["regions"] * project,
    "blocks": rows * model.depth * one,
  }
  transform = flops.linear(1, width, width)
  if "mlm" in heads and n["masked"]:
    each = transform + flops.linear(1, width, model.vocab_size)
    out["mlm"] = rows * n["masked"] * each
  region = {"mrfr": model.region_dim, "mrc": model.region_classes}
  for name in set(region) & set(heads) if n["regions"] else ():
    each = transform + flops.linear(1, width, region[name])
    out[name] = rows * n["predicted_regions"] * each
  pooled = {"itm": 2, "rank": 1, "triplet": 2, "vqa": model.num_answers, "vcr": 2}
  for name in set(pooled) & set(heads) if n["text"] else ():
    up = 2 * width if name in ("vqa", "vcr") else 0
    up_cost = flops.linear(1, width, up)
    out[name] = rows * (up_cost + flops.linear(1, up or width, pooled[name]))
  if set(pooled) & set(heads) and n["text"]:
    out["pooler"] = rows * transform
  for name in {"refer", "refer_mlp"} & set(heads) if n["regions"] else ():
    up = transform if name == "refer_mlp" else 0.0
    out[name] = rows * n["regions"] * (up + flops.linear(1, width, 1))
  keywords = {} if objective is None else objective.keywords
  if keywords.get("wra_coef"):  # word-region alignment compares all pairs
    out["alignment"] = rows * flops.linear(n["text"], width, 1) * n["regions"]
  return out


def counts(batch, lengths, objective) -> dict[str, float]:
  """Rows, and vectors a row: tokens, text, regions, masked, predicted_regions."""
  size = lambda key: batch[key].shape[1] if key in batch else 0
  useful, lengths = lengths is not None, lengths or {}
  shape = {"text": size("text_ids")}
  shape["regions"] = size("regions_mask") + size("regions2_mask")
  both = shape["text"] + shape["regions"]
  shape["tokens"] = size("fuse_index") or both
  out = {"rows": next(iter(batch.values())).shape[0]}
  out["tokens"] = lengths.get("tokens", shape["tokens"])
  # Given only the fused length, text and regions share it as they share the shapes.
  share = out["tokens"] / max(both, 1) if "tokens" in lengths else 1.0
  for name in ("text", "regions"):
    out[name] = lengths.get(name, shape[name] * share)
  keywords = {} if objective is None else objective.keywords
  places = size("mlm_positions") or keywords.get("max_masked", 0)
  rate = keywords.get("rate", 1.0)
  words = max(out["text"] - 2, 0)  # [CLS] and [SEP] are never masked
  out["masked"], out["predicted_regions"] = places, out["regions"]
  if useful:  # that is what is predicted, not what is computed beside it
    out["masked"] = lengths.get("masked", min(places, rate * words))
    out["predicted_regions"] = rate * out["regions"]
  return out


def recomputed(model, batch) -> float:
  """FLOPs of a forward pass that rematerialisation runs again in the backward one."""
  n = counts(batch, None, None)
  tokens, width = n["tokens"], model.width
  again = {
    "none": 0.0,
    "dots": flops.attention(tokens, width, tokens),  # matmuls of weights are kept
    "full": flops.block(tokens, width, model.mlp_dim or 4 * width, tokens),
  }
  return n["rows"] * model.depth * again[model.remat]


def moved(model, batch, shards, parts) -> list[tuple[str, int, float, str]]:
  """Sums of partial outputs over the mesh axis `model`, two a layer and direction."""
  if parts == 1:
    return []
  n = counts(batch, None, None)
  wide = 4 if model.dtype == "float32" else 2
  each = n["rows"] / shards * n["tokens"] * model.width * wide
  count = 4 * model.depth
  return [("all-reduce", count, count * each, "model")]
