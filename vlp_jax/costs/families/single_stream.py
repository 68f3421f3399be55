"""One Transformer over text and regions: FLOPs of UNITER and its like.

UNITER-base with 15 words and 39 regions and the MLM head at 2 places: 54 tokens of 12
layers at 24 D^2 + 4 D 54 each are 9.28 GFLOP, regions 0.12, head 0.09: 9.5 an example.

`lengths`: tokens (real, of the fused sequence), text, regions, masked (words to
predict); what is missing follows from the others or from the shapes.
"""

from collections.abc import Mapping

import jax

from vlp_jax.costs import families, flops, sequence

MODELS = ("uniter",)
# Objective -> heads whose outputs it reads; the compiler drops the others.
HEADS = {
  "masked:mlm": ("mlm",),
  "masked:mrfr": ("mrfr",),
  "masked:mrc": ("mrc",),
  "masked:mrc_kl": ("mrc",),
  "match:itm": ("itm",),
  "answer:vqa": ("vqa",),
  "answer:nlvr2": ("pair", "triplet", "paired_attn"),
  "answer:vcr": ("vcr",),
  "answer:refer": ("refer", "refer_mlp"),
}
TWO = {"pair", "paired_attn"}  # NLVR2 with a sequence for each image


def forward(
  model,
  batch: Mapping[str, jax.ShapeDtypeStruct],
  lengths: Mapping[str, float] | None,
  objective: families.Objective | None,
) -> dict[str, float]:
  """FLOPs by part; see the package's header.

  With the heads of two sequences (NLVR2) a row is encoded with each image, or, where
  rows come in pairs, is one of the two.
  """
  families.known(objective, HEADS)
  heads = set(model.heads)
  if objective is not None:
    heads &= set(HEADS[objective.name])
  n = counts(model, batch, lengths, objective)
  rows, width, region = n["rows"], model.width, model.region_dim
  project = flops.linear(1, region + 7, width)
  layers = [
    sequence.stack(model.depth, tokens, width, model.mlp_dim, n["read"])
    for tokens in n["tokens"]
  ]
  out = {"regions": rows * n["regions"] * project, "blocks": rows * sum(layers)}
  if "mlm" in heads and n["masked"]:
    out["mlm"] = rows * sequence.words(n["masked"], width, model.vocab_size)
  sizes = {"mrfr": region, "mrc": model.region_classes}
  for name in set(sizes) & heads if n["regions"] else ():
    out[name] = rows * sequence.words(n["predicted_regions"], width, sizes[name])
  out |= _pooled(model, heads, n)
  for name in {"refer", "refer_mlp"} & heads if n["regions"] else ():
    up = flops.linear(1, width, width) if name == "refer_mlp" else 0.0
    out[name] = rows * n["regions"] * (up + flops.linear(1, width, 1))
  keywords = {} if objective is None else objective.keywords
  if keywords.get("wra_coef"):  # word-region alignment compares all pairs
    out["alignment"] = rows * flops.linear(n["text"], width, 1) * n["regions"]
  return out


def _pooled(model, heads, n) -> dict[str, float]:
  """Heads on the first state, and those of NLVR2."""
  rows, width, out = n["rows"], model.width, {}
  pooled = {"itm": 2, "rank": 1, "triplet": 2, "vqa": model.num_answers, "vcr": 2}
  read = set(pooled) & heads if n["text"] else set()
  for name in read:
    up = 2 * width if name in ("vqa", "vcr") else 0
    up_cost = flops.linear(1, width, up)
    out[name] = rows * (up_cost + flops.linear(1, up or width, pooled[name]))
  sides = rows * len(n["tokens"])  # sequences; two make an example of NLVR2
  if read or "pair" in heads:
    out["pooler"] = sides * flops.linear(1, width, width)
  if "pair" in heads:
    out["pair"] = sides / 2 * flops.linear(1, 2 * width, 2)
  if "paired_attn" in heads:
    first, second = n["tokens"] if len(n["tokens"]) == 2 else n["tokens"] * 2
    cost = sum(
      flops.cross(own, other, width, other)
      + flops.linear(own, 2 * width, width)
      + 2 * flops.linear(own, width, 1)  # the pool's scores, and its weighted sum
      for own, other in ((first, second), (second, first))
    )
    out["paired_attn"] = sides / 2 * (cost + flops.linear(1, 2 * width, 2))
  return out


def counts(model, batch, lengths, objective) -> dict:
  """Rows, and vectors a row: text, regions, masked, predicted_regions; `tokens` is a
  list, of each sequence that a row is encoded as; `read` those of which the last layer
  runs, None for all.
  """
  size = lambda key: batch[key].shape[1] if key in batch else 0
  useful, lengths = lengths is not None, lengths or {}
  one, other = size("regions_mask"), size("regions2_mask")
  shape = {"text": size("text_ids"), "regions": one + other}
  both = sum(shape.values())
  out = {"rows": families.rows(batch)}
  # Given only the fused length, text and regions share it as they share the shapes.
  share = lengths["tokens"] / max(both, 1) if "tokens" in lengths else 1.0
  for name in ("text", "regions"):
    out[name] = lengths.get(name, shape[name] * share)
  if other and set(model.heads) & TWO:  # the second sequence is not compacted
    first = size("fuse_index") or shape["text"] + one
    out["tokens"] = [first * share, (shape["text"] + other) * share]
  else:
    out["tokens"] = [lengths.get("tokens", size("fuse_index") or both)]
  keywords = {} if objective is None else objective.keywords
  places = size("mlm_positions")
  places = places or min(keywords.get("max_masked", 0), shape["text"])
  out["read"] = None
  if keywords.get("method") == "pooled":
    out["read"] = size("segment_starts") or 1
  rate = keywords.get("rate", 1.0)
  words = max(out["text"] - 2, 0)  # [CLS] and [SEP] are never masked
  out["masked"], out["predicted_regions"] = places, out["regions"]
  if useful:  # that is what is predicted, not what is computed beside it
    out["masked"] = lengths.get("masked", min(places, rate * words))
    out["predicted_regions"] = rate * out["regions"]
  return out


def recomputed(model, batch, objective) -> float:
  n = counts(model, batch, None, objective)
  layers = lambda tokens: (model.depth, tokens, model.width, model.mlp_dim)
  more = dict(read=n["read"])
  again = (sequence.again(model.remat, *layers(t), **more) for t in n["tokens"])
  return n["rows"] * sum(again)


def moved(model, batch, shards, parts) -> list[tuple[str, int, float, str]]:
  n = counts(model, batch, None, None)
  return sequence.partial_sums(model, n["rows"], sum(n["tokens"]), shards, parts)
