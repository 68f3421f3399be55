"""Captioners: a video encoder and a decoder that attends to it, by teacher forcing.

UniVL's with 96 steps of 1,024 features and captions of 128 words is 21 GFLOP: encoder
8.3, decoder 6.6, head of 30,522 words 6.1.
"""

import math

from vlp_jax.costs import families, flops, sequence, towers
from vlp_jax.towers import s3d

MODELS = ("captioner",)
OBJECTIVES = ("caption:caption",)


def _video(model, batch):
  """(parts of one row's tower, steps, width of a step)."""
  if model.encoder == "s3d":
    tower = towers.alike(s3d.S3D, model, embed_dim=0)
    net = towers.count(tower, batch["video_frames"].shape[1:4], 3)
    return net.parts, net.places[0], net.width
  key = "clips_tokens" if model.encoder == "tokens" else "clips_features"
  width = model.token_dim if model.encoder == "tokens" else model.feature_dim
  return {}, batch[key].shape[1], width


def forward(model, batch, lengths, objective) -> dict[str, float]:
  """FLOPs by part; `lengths`: tokens (words and steps), text, clips."""
  families.known(objective, OBJECTIVES)
  rows, share, lengths = (
    families.rows(batch),
    families.share(batch, lengths),
    lengths or {},
  )
  parts, steps, wide = _video(model, batch)
  width, mlp_dim = model.width, model.mlp_dim
  if model.encoder != "s3d":  # its steps are not counted among the tokens
    steps = lengths.get("clips", steps * share)
  encoder = sequence.stack(model.encoder_depth, steps, width, mlp_dim)
  out = {f"video_tower/{k}": rows * x for k, x in parts.items()}
  out["project"] = rows * flops.linear(steps, wide, width)
  out["encoder"] = rows * encoder
  if "text_ids" in batch:
    words = lengths.get("text", batch["text_ids"].shape[1] * share) - 1
    decoder = sequence.decoder(model.depth, words, steps, width, mlp_dim)
    out["decoder"] = rows * decoder
    out["head"] = rows * sequence.words(words, width, model.vocab.size)
  return out


def recomputed(model, batch, objective) -> float:
  steps, width = _video(model, batch)[1], model.width
  given = width, model.mlp_dim
  again = sequence.again(model.remat, model.encoder_depth, steps, *given)
  words = batch["text_ids"].shape[1] - 1
  again += sequence.again(model.remat, model.depth, words, *given, context=steps)
  return families.rows(batch) * again


def moved(model, batch, shards, parts) -> list[tuple[str, int, float, str]]:
  words = batch["text_ids"].shape[1] if "text_ids" in batch else 0
  tokens = math.fsum([words, _video(model, batch)[1]])
  return sequence.partial_sums(model, families.rows(batch), tokens, shards, parts)
