"""BraVe: a narrow view of a clip, and broad ones of its video or sound.

TSM-ResNet-50 on 16 frames of 224 x 224 is 131 GFLOP, the audio network on 10.24 s at
48 kHz in steps of 160 samples (3,072 x 80) 41.
"""

import math

from vlp_jax import resolve
from vlp_jax.costs import families, flops, towers, views
from vlp_jax.costs.towers import sound
from vlp_jax.towers import audio_resnet, tsm_resnet

MODELS = ("brave",)


def forward(model, batch, lengths, objective) -> dict[str, float]:
  """FLOPs by part."""
  families.known(objective, ("brave:brave",))
  rows, out = families.rows(batch), {}
  given = {} if objective is None else objective.keywords
  for name, sizes in _clips(model, batch, given).items():
    tower = resolve.bind(tsm_resnet.TSMResNet, dict(model.video_args))()
    net = towers.count(tower, sizes, 3)
    out |= net.scaled(rows, name) | _heads(model, name, rows, net.features)
  if given:
    made = _views(batch, given, "video_broad" in model.broad)
    out["views"] = rows * math.fsum(made)
  if "audio_samples" in batch and "audio" in model.broad:
    heard = sound.spectrogram(model.front_end, batch["audio_samples"].shape[1])
    tower = resolve.bind(audio_resnet.AudioResNet, dict(model.audio_args))()
    net = towers.count(tower, (heard.frames, heard.bins), 1)
    out |= net.scaled(rows, "audio") | _heads(model, "audio", rows, net.features)
    out["mel"] = rows * heard.flops
  return out


def _cut(batch, given):
  """Frames of the narrow view and of the broad one, 0 where there is none."""
  length, stride = batch["video_frames"].shape[1], given["broad_stride"]
  return min(given["narrow_frames"], length), -(-length // stride) if stride else 0


def _clips(model, batch, given) -> dict[str, tuple[int, ...]]:
  """{tower: T, H, W that it sees}."""
  if not given:
    names = ("video", *(n for n in model.broad if n != "audio"))
    found = {
      n: batch[f"{n}_frames"].shape[1:4] for n in names if f"{n}_frames" in batch
    }
    return {k: tuple(v) for k, v in found.items()}
  narrow, broad = _cut(batch, given)
  out = {"video": (narrow, *[given["narrow"]["size"]] * 2)}
  if broad and "video_broad" in model.broad:
    out["video_broad"] = (broad, *[given["broad"]["size"]] * 2)
  return out


def _views(batch, given, broad) -> list[float]:
  sizes, counts = batch["video_frames"].shape[2:4], _cut(batch, given)
  found = zip(counts, ("narrow", "broad"), strict=True)
  asked = [(n, given[name]) for n, name in found if n and (broad or name == "narrow")]
  return [views.pixels(settings, (n, *sizes)) for n, settings in asked]


def _heads(model, name, rows, width) -> dict[str, float]:
  """Projector and predictor, two layers each."""
  two = lambda a: (
    flops.linear(1, a, model.hidden) + flops.linear(1, model.hidden, model.embed_dim)
  )
  return {f"heads/{name}": rows * (two(width) + two(model.embed_dim))}


def frozen(model, objective) -> list[str]:
  return ["views", "mel"]  # of pixels and samples: nothing in them learns
