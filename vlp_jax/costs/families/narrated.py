"""Clips and narrations in one space: MIL-NCE's S3D-G and I3D, HowTo100M's features.

S3D-G on 32 x 224 x 224 is 74.2 GFLOP, I3D 111.2 (`costs.towers.s3d`). HowTo100M with 64
clips and as many narrations of 20 words a video, 4,096 wide, is 11.7 GFLOP a video, and
the scores of 32 such videos 1.1 a video.
"""

import math

from vlp_jax.costs import contrast, families, flops, towers
from vlp_jax.towers import i3d, s3d

MODELS = ("mil_nce", "howto100m")


def forward(model, batch, lengths, objective) -> dict[str, float]:
  """FLOPs by part; `lengths` may hold words, the real ones of a text."""
  name = families.known(objective, contrast.OBJECTIVES)
  gated = hasattr(model, "feature_dims")
  texts, length = _texts(batch)
  words, out = (lengths or {}).get("words", length), {}
  clips = _clips(batch, objective)
  if gated:
    for part, count in clips.items():
      out[part] = count * _gate(sum(model.feature_dims), model.embed_dim)
    pooling = flops.linear(words, model.word_dim, model.embed_dim)
    out["text"] = texts * (pooling + _gate(model.embed_dim, model.embed_dim))
  else:
    if "video_frames" in batch:
      sizes = batch["video_frames"].shape[1:4]
      histogram = model.video == "colour_histogram"
      parts = _histogram(model, sizes) if histogram else _tower(model, sizes)
      out |= {f"video/{k}": families.rows(batch) * x for k, x in parts.items()}
    up = flops.linear(words, model.word_dim, model.text_mlp_dim)
    out["text"] = texts * (up + flops.linear(1, model.text_mlp_dim, model.embed_dim))
  if not texts:
    del out["text"]
  if name and texts and clips:
    left = max(clips.values())
    out[families.LOSS] = contrast.scores(left, texts, model.embed_dim)
  return out


def _texts(batch) -> tuple[int, int]:
  """(texts of the batch, words of each)."""
  for stream in ("narration", "text"):
    if f"{stream}_ids" in batch:
      *rows, length = batch[f"{stream}_ids"].shape
      return math.prod(rows), length
  return 0, 0


def _clips(batch, objective) -> dict[str, int]:
  """{what is embedded of the video side: how many}."""
  if "video_frames" in batch:
    return {"video": families.rows(batch)}
  if "clips_features" not in batch:
    return {}
  both = {"clips": math.prod(batch["clips_features"].shape[:2])}
  both["video"] = families.rows(batch)
  if objective is None:
    return both
  streams = objective.keywords["streams"]
  return {k: n for k, n in both.items() if k in streams}


def _gate(width, features) -> float:
  """A gated embedding unit on one vector."""
  return flops.linear(1, width, features) + flops.linear(1, features, features)


def _tower(model, sizes) -> dict[str, float]:
  tower = towers.alike(s3d.S3D, model)
  if model.video == "i3d":
    tower = towers.alike(i3d.I3D, model, **i3d.OWN)
  return towers.count(tower, sizes, 3).parts


def _histogram(model, sizes) -> dict[str, float]:
  """Votes of all pixels for 4 x 4 x 4 cells, and two layers."""
  bins, hidden = 4, 256
  layers = flops.linear(1, bins**3, hidden)
  layers += flops.linear(1, hidden, model.embed_dim)
  votes = flops.linear(math.prod(sizes), bins * bins, bins)
  return {"histogram": votes, "fc": layers}


def frozen(model, objective) -> list[str]:
  return ["video/histogram"]  # of pixels: nothing in it learns


def recomputed(model, batch, objective) -> float:
  return families.again(model, forward(model, batch, None, objective), "video")


def moved(model, batch, shards, parts) -> list[tuple[str, int, float, str]]:
  clips = _clips(batch, None)
  return (
    contrast.gathered(max(clips.values()), model.embed_dim, shards) if clips else []
  )
