"""VideoBERT: one Transformer over words and video tokens, by regime.

VideoBERT-large with 64 words and 16 video tokens is 52 GFLOP, of which 3.9 the heads.
"""

from vlp_jax.costs import families, flops, sequence

MODELS = ("videobert",)
# Objective -> (whether text, whether video is in the row)
REGIMES = {
  "videobert:text": (True, False),
  "videobert:video": (False, True),
  "videobert:joint": (True, True),
}


def _tokens(batch, lengths, name) -> tuple[float, float]:
  """Places of a row for (text, video) with the marks between them, real or all."""
  share = families.share(batch, lengths)
  text, video = (
    REGIMES[name] if name else ("text_ids" in batch, "clips_tokens" in batch)
  )
  words = batch["text_ids"].shape[1] * share if text else 2  # [CLS] [>]
  clips = batch["clips_tokens"].shape[1] * share + 1 if video else 0  # and [SEP]
  return words, clips


def forward(model, batch, lengths, objective) -> dict[str, float]:
  """FLOPs by part; `lengths`: tokens."""
  name, rows = families.known(objective, REGIMES), families.rows(batch)
  words, clips = _tokens(batch, lengths, name)
  width, given = model.width, {} if objective is None else objective.keywords
  tokens = words + clips
  layers = sequence.stack(model.depth, tokens, width, model.mlp_dim)
  out = {"blocks": rows * layers}
  if clips and model.token_dim != width:  # the whole table, once a step
    out["project"] = flops.linear(model.num_tokens, model.token_dim, width)
  if name in ("", "videobert:joint"):
    out["align"] = rows * (flops.linear(1, width, width) + flops.linear(1, width, 2))
  rate = given.get("rate", 1.0)
  most = {"mlm": given.get("max_masked", 0), "mvm": given.get("max_masked", 0)}
  most["mvm"] = given.get("max_masked_tokens", most["mvm"])
  size = {"mlm": model.vocab.size, "mvm": model.num_tokens}
  real = {"mlm": words - 2 if "text_ids" in batch else 0, "mvm": clips - 1}
  stream = {"mlm": "text_ids", "mvm": "clips_tokens"}
  for head, key in stream.items():
    if name and not REGIMES[name][head == "mvm"]:
      continue
    if f"{head}_positions" in batch:
      places = batch[f"{head}_positions"].shape[1]
    elif key not in batch:
      continue
    else:
      places = min(most[head], batch[key].shape[1])
    places = families.predicted(lengths, places, rate, real[head])
    if places:
      out[head] = rows * sequence.words(places, width, size[head])
  return out


def recomputed(model, batch, objective) -> float:
  name = families.known(objective, REGIMES)
  layers = model.depth, sum(_tokens(batch, None, name)), model.width, model.mlp_dim
  return families.rows(batch) * sequence.again(model.remat, *layers)


def moved(model, batch, shards, parts) -> list[tuple[str, int, float, str]]:
  tokens = sum(_tokens(batch, None, ""))
  return sequence.partial_sums(model, families.rows(batch), tokens, shards, parts)
