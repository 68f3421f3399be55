"""Towers under linear heads: classifiers, and XDC with its kin on clusters.

R(2+1)D-18 on 32 x 224 x 224 is 650 GFLOP, XDC's sound network on 3.2 s 1.1.
"""

import math

from vlp_jax import resolve
from vlp_jax.costs import families, flops, towers, views
from vlp_jax.costs.towers import sound

MODELS = ("classifier", "xdc")
HEADS = {
  "cluster:mdc": (
    "video_by_video",
    "audio_by_audio",
    "video_by_audio",
    "audio_by_video",
  ),
  "cluster:cdc": ("video_by_joint", "audio_by_joint"),
  "cluster:xdc": ("video_by_audio", "audio_by_video"),
}
OBJECTIVES = ("cluster:sdc", *HEADS, "classify:softmax", "classify:sigmoid")


def forward(model, batch, lengths, objective) -> dict[str, float]:
  """FLOPs by part. Rounds of clustering are no part of a step."""
  name = families.known(objective, OBJECTIVES)
  if hasattr(model, "num_classes"):
    stream = model.sees
    out, count, width = _run(_classifier(model), model, batch, stream, objective)
    return out | {"head": count * flops.linear(1, width, model.num_classes)}
  heads = HEADS.get(name, model.heads)
  if name == "cluster:sdc":
    heads = [f"{t}_by_{t}" for t in objective.keywords["towers"]]
  out = {}
  for stream in ("video", "audio"):
    own = [h for h in heads if h.startswith(f"{stream}_by_")]
    if not own or f"{stream}_mask" not in batch:
      continue
    known = families.source(model)
    cls = (known.VIDEO if stream == "video" else known.AUDIO)[getattr(model, stream)]
    tower = resolve.bind(cls, dict(getattr(model, f"{stream}_args")))()
    parts, count, width = _run(tower, model, batch, stream, objective)
    head = count * len(own) * flops.linear(1, width, model.clusters)
    out |= parts | {f"heads/{stream}": head}
  return out


def _classifier(model):
  if ":" in model.tower:
    cls, own = resolve.function("vlp_jax.towers", model.tower), {}
  else:
    cls, _, own = families.source(model).TOWERS[model.tower]
  return resolve.bind(cls, own | dict(model.tower_args))()


def _run(tower, model, batch, stream, objective) -> tuple[dict[str, float], int, int]:
  """(FLOPs by part, examples of the batch, width of features) of a tower."""
  given = {} if objective is None else objective.keywords
  seen = given.get("views") if given.get("stream") == stream else None
  if stream == "audio":
    rows, samples = batch["audio_samples"].shape
    heard = sound.spectrogram(model.front_end, samples)
    sizes = heard.frames, heard.bins
    if type(tower).__name__ == "L3":  # turned
      sizes = sizes[::-1]
    net = towers.count(tower, sizes, 1)
    mel = {f"{stream}/mel": rows * heard.flops} if heard.flops else {}
    return net.scaled(rows, stream) | mel, rows, net.features
  key = "video_frames" if stream == "video" else "image_pixels"
  shape = batch[key].shape  # windows may stand before T
  axes = 4 if stream == "video" else 3
  count, sizes, more = math.prod(shape[:-axes]), shape[-axes:-1], {}
  if seen is not None:
    more[f"{stream}/views"] = count * views.pixels(seen, sizes)
    sizes = (*sizes[:-2], seen["size"], seen["size"])
  if stream == "image" and type(tower).__name__ in ("S3D", "TSMResNet", "R2Plus1D"):
    sizes = (1, *sizes)
  net = towers.count(tower, sizes, 3)
  return net.scaled(count, stream) | more, count, net.features


def recomputed(model, batch, objective) -> float:
  towers = ("video", "image") if hasattr(model, "num_classes") else ("video",)
  return families.again(model, forward(model, batch, None, objective), *towers)


def frozen(model, objective) -> list[str]:
  # Of samples and pixels: nothing in them learns.
  return ["audio/mel", "video/views", "image/views"]
