"""MMV's towers of video, sound and words with their heads, and its deflated networks.

The networks on 32 frames of 200 x 200: S3D-G 59, TSM-ResNet-50 224, at twice the width
883 GFLOP; sound of 3.2 s at 48 kHz (150 x 80) 2.1.
"""

from vlp_jax import resolve
from vlp_jax.costs import contrast, families, flops, towers
from vlp_jax.costs.towers import sound
from vlp_jax.towers import audio_resnet

MODELS = ("mmv", "deflated")
OBJECTIVES = ("mmv:mmv", "deflation:l1")
PAIRS = {"va": ("video", "audio"), "vt": ("video", "text"), "at": ("audio", "text")}


def forward(model, batch, lengths, objective) -> dict[str, float]:
  """FLOPs by part; `lengths` may hold words, the real ones of a text."""
  families.known(objective, OBJECTIVES)
  if hasattr(model, "num_frames"):
    return _deflated(model, batch)
  rows, widths, out = families.rows(batch), {}, {}
  if "video_frames" in batch:
    net = towers.count(_video_tower(model), batch["video_frames"].shape[1:4], 3)
    widths["video"] = net.features
    out |= net.scaled(rows, "video")
  if "audio_samples" in batch:
    heard = sound.spectrogram(model.front_end, batch["audio_samples"].shape[1])
    tower = resolve.bind(audio_resnet.AudioResNet, dict(model.audio_args))()
    net = towers.count(tower, (heard.frames, heard.bins), 1)
    widths["audio"] = net.features
    out |= net.scaled(rows, "audio") | {"mel": rows * heard.flops}
  texts, length = _texts(batch)
  if texts:
    words = (lengths or {}).get("words", length)
    widths["text"] = model.text_mlp_dim
    out["text"] = texts * flops.linear(words, model.word_dim, model.text_mlp_dim)
  pairs = _pairs(widths, objective)
  count = {"video": rows, "audio": rows, "text": texts}
  for head, (stream, cost) in _heads(model, widths, pairs, objective).items():
    out[f"heads/{head}"] = count[stream] * cost
  if objective is not None:
    across = (_space(model, p) * count[PAIRS[p][1]] for p in pairs)
    out[families.LOSS] = sum(contrast.scores(rows, n, 1) for n in across)
  return out


def _video_tower(model, **more):
  cls, own = families.source(model).VIDEO[model.video]
  return resolve.bind(cls, own | dict(model.video_args) | more)()


def _texts(batch) -> tuple[int, int]:
  """(texts of the batch, words of each)."""
  if "narration_ids" in batch:
    rows, each, length = batch["narration_ids"].shape
    return rows * each, length
  return batch["text_ids"].shape if "text_ids" in batch else (0, 0)


def _pairs(widths, objective) -> list[str]:
  """The pairs with a loss; of a plain call all whose streams are there."""
  found = [p for p, streams in PAIRS.items() if set(streams) <= set(widths)]
  if objective is None:
    return found
  return [p for p in found if objective.keywords[p]]


def _space(model, pair) -> int:
  """Width of the space that a pair meets in."""
  return model.coarse_dim if model.graph == "fac" and "t" in pair else model.embed_dim


def _heads(model, widths, pairs, objective):
  """{name: (stream, FLOPs of a vector)} of the heads that the pairs read."""
  deep = lambda width: (
    flops.linear(1, width, model.hidden_dim)
    + flops.linear(1, model.hidden_dim, model.embed_dim)
  )
  linear = lambda width, to: flops.linear(1, width, to)
  plain, fine, coarse = objective is None, model.embed_dim, model.coarse_dim
  uses = lambda *names: plain or bool(set(names) & set(pairs))
  out = {}
  if model.graph == "shared":
    for stream, width in widths.items():
      cost = deep(width) if stream == "video" else linear(width, fine)
      out[stream] = (stream, cost)
    return out
  fac = model.graph == "fac"
  if "video" in widths:
    if fac or uses("va"):
      out["video_to_audio"] = ("video", deep(widths["video"]))
    if uses("vt"):
      cost = linear(fine, coarse) if fac else deep(widths["video"])
      out["video_to_text"] = ("video", cost)
  if "audio" in widths:
    if fac or uses("va"):
      out["audio_to_video"] = ("audio", linear(widths["audio"], fine))
    if uses("at"):
      cost = linear(fine, coarse) if fac else linear(widths["audio"], fine)
      out["audio_to_text"] = ("audio", cost)
  if "text" in widths:
    to = coarse if fac else fine
    if uses("vt", "at"):
      out["text_to_video"] = ("text", linear(widths["text"], to))
    if plain:
      out["text_to_audio"] = ("text", linear(widths["text"], fine))
  return out


def _deflated(model, batch) -> dict[str, float]:
  """A picture through the image network, and as a still clip through the video's."""
  still = "image_pixels" in batch
  height, width = batch["image_pixels" if still else "video_frames"].shape[-3:-1]
  rows, out = families.rows(batch), {}
  flat = towers.count(_video_tower(model, deflated=True), (1, height, width), 3)
  clip = towers.count(_video_tower(model), (model.num_frames, height, width), 3)
  out |= flat.scaled(rows, "image") | clip.scaled(rows, "video")
  return out


def recomputed(model, batch, objective) -> float:
  return families.again(model, forward(model, batch, None, objective), "video")


def frozen(model, objective) -> list[str]:
  # No gradient reaches the samples, nor the video network that is imitated.
  return ["video"] if hasattr(model, "num_frames") else ["mel"]


def moved(model, batch, shards, parts) -> list[tuple[str, int, float, str]]:
  if hasattr(model, "num_frames"):
    return []
  rows, out = families.rows(batch), []
  texts = _texts(batch)[0]
  if {"video_frames", "audio_samples"} <= set(batch):
    out += contrast.gathered(rows, model.embed_dim, shards)
  if "video_frames" in batch and texts:
    out += contrast.gathered(rows, _space(model, "vt"), shards)
  return out
