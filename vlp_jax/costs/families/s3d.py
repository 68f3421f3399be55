"""S3D-G with a bag of words: FLOPs of MIL-NCE and of its baseline of colours.

At 32 x 224 x 224 the tower is 74.2 GFLOP a clip, of which the stem (17 x 113 x 113
places, one of each axis dropped behind the ReLU) is 21.3.
"""

from collections.abc import Mapping

import jax

from vlp_jax.costs import families, flops

MODELS = ("mil_nce",)


def forward(
  model,
  batch: Mapping[str, jax.ShapeDtypeStruct],
  lengths: Mapping[str, float] | None,
  objective: families.Objective | None,
) -> dict[str, float]:
  """FLOPs by part; `lengths` may hold words, the real ones of a text."""
  out = {}
  if "video_frames" in batch:
    rows, *sizes, _ = batch["video_frames"].shape
    tower = _histogram if model.video == "colour_histogram" else _s3d
    out |= {f"video/{k}": rows * x for k, x in tower(model, sizes).items()}
  texts = 0
  stream = "narration" if "narration_ids" in batch else "text"
  if f"{stream}_ids" in batch:
    *rows, length = batch[f"{stream}_ids"].shape
    for n in rows:
      texts = n * (texts or 1)
    words = (lengths or {}).get("words", length)
    up = flops.linear(words, model.word_dim, model.text_mlp_dim)
    down = flops.linear(1, model.text_mlp_dim, model.embed_dim)
    out["text"] = texts * (up + down)
  if objective is not None and "video_frames" in batch and texts:
    out["loss"] = flops.linear(batch["video_frames"].shape[0], model.embed_dim, texts)
  return out


def _s3d(model, sizes) -> dict[str, float]:
  """FLOPs of one clip by stage; sizes are T, H, W of the frames."""
  channels, out = 3, {}
  if model.space_to_depth:
    sizes = [n // k for n, k in zip(sizes, model.space_to_depth, strict=True)]
    for k in model.space_to_depth:
      channels *= k
  window, strides = model.stem_window, model.stem_strides
  places = [
    (n + 2 * (k // 2) - k) // s + 1
    for n, k, s in zip(sizes, window, strides, strict=True)
  ]
  count = lambda axes: float(axes[0] * axes[1] * axes[2])
  out["stem"] = flops.conv(count(places), window, channels, model.stem_width)
  if model.space_to_depth:  # even windows give one place too many, dropped
    places = [n - (1 - k % 2) for n, k in zip(places, window, strict=True)]
  channels = model.stem_width
  for name, kind, *numbers in model.stages:
    if kind == "pool":
      places = [-(-n // s) for n, s in zip(places, numbers[1], strict=True)]
      continue
    cost, channels = _stage(kind, numbers, count(places), channels)
    out[name] = cost
  out["fc"] = flops.linear(1, channels, model.embed_dim)
  return out


def _stage(kind, numbers, places, width) -> tuple[float, int]:
  """(FLOPs, channels that come out) of one stage."""
  window = (3, 3, 3)
  if kind == "gate":
    return flops.linear(1, width, width), width
  if kind == "point":
    return flops.conv(places, (1,), width, numbers[0]), numbers[0]
  if kind == "separable":
    return flops.separable(places, window, width, numbers[0]), numbers[0]
  b0, b1a, b1b, b2a, b2b, b3b = numbers
  cost = flops.conv(places, (1,), width, b0 + b1a + b2a + b3b)
  cost += flops.separable(places, window, b1a, b1b)
  cost += flops.separable(places, window, b2a, b2b)
  branches = (b0, b1b, b2b, b3b)
  return cost + sum(flops.linear(1, b, b) for b in branches), sum(branches)


def _histogram(model, sizes) -> dict[str, float]:
  """Votes of all pixels for 4 x 4 x 4 cells, and two layers."""
  bins, hidden = 4, 256
  pixels = sizes[0] * sizes[1] * sizes[2]
  layers = flops.linear(1, bins**3, hidden)
  layers += flops.linear(1, hidden, model.embed_dim)
  return {"histogram": flops.linear(pixels, bins * bins, bins), "fc": layers}


def norms(model) -> list[int]:
  """Channels of every batch normalisation of the tower."""
  if model.video == "colour_histogram":
    return []
  out = [model.stem_width]
  for _, kind, *n in model.stages:
    if kind == "point":
      out += n
    if kind == "separable":
      out += [n[0]] * 2
    if kind == "inception":
      b0, b1a, b1b, b2a, b2b, b3b = n
      out += [b0, b1a, b1b, b1b, b2a, b2b, b2b, b3b]
  return out


def recomputed(model, batch) -> float:
  """Nothing is computed twice."""
  return 0.0


def moved(model, batch, shards, parts) -> list[tuple[str, int, float, str]]:
  """Batch statistics and the gathered clips of the contrastive loss.

  A norm sums two vectors of C over the shards in each direction, unless its groups of
  rows lie within a shard; the loss gathers [B, D] and sums its gradient.
  """
  widths, out = norms(model), []
  if model.bn_groups % shards:
    size = sum(widths) * 2 * 4  # float32
    out.append(("all-reduce", 2 * len(widths), 2.0 * size, "batch"))
  if "video_frames" in batch:
    gathered = batch["video_frames"].shape[0] * model.embed_dim * 4.0
    out.append(("all-gather", 1, gathered, "batch"))
    out.append(("reduce-scatter", 1, gathered / shards, "batch"))
  return out
