"""Pictures and their sounds as pairs: L3-Net, AVE-Net, AVOL-Net, AVTS.

L3-Net on a picture of 224 x 224 is 20.5 GFLOP and on a second of sound (257 x 199) as
many; with the first strides of AVE-Net a quarter of that.
"""

import math

from vlp_jax import resolve
from vlp_jax.costs import families, flops, towers
from vlp_jax.costs.towers import sound
from vlp_jax.towers import audio_vgg, l3, r2plus1d

MODELS = ("l3", "ave", "avts")
OBJECTIVES = ("correspondence:avc", "synchronisation:avts")


def _heard(batch, objective) -> tuple[int, int, int]:
  """(frames of a clip, sounds of a batch, samples of each) as objectives cut them."""
  frames, rows = batch["video_frames"].shape[1], families.rows(batch)
  samples = batch["audio_samples"].shape[1]
  if objective is None:
    return frames, rows, samples
  given = objective.keywords
  if objective.name == "correspondence:avc":
    twice = given["period_s"] is not None
    return 1, rows * (1 + twice), round(given["window_s"] * given["audio_hz"])
  twice = bool(given["hard_fraction"] or given["super_hard_fraction"])
  window = given["clip_frames"] * samples // frames
  return given["clip_frames"], rows * (1 + twice), window


def forward(model, batch, lengths, objective) -> dict[str, float]:
  """FLOPs by part."""
  families.known(objective, OBJECTIVES)
  rows = families.rows(batch)
  frames, sounds, samples = _heard(batch, objective)
  heard, size = sound.spectrogram(model.front_end, samples), batch["video_frames"].shape
  clips = hasattr(model, "embed_norm")  # AVTS
  seen, ear = _towers(model)
  at = (frames, *size[2:4]) if clips else size[2:4]
  video = towers.count(seen, at, 3)
  turned = (heard.frames, heard.bins) if clips else (heard.bins, heard.frames)
  audio = towers.count(ear, turned, 1)
  out = video.scaled(rows, "video") | audio.scaled(sounds, "audio")
  if heard.flops:
    out["mel"] = sounds * heard.flops
  pairs = rows if objective is None else 2 * rows
  if clips:
    out["head/video"] = rows * flops.linear(1, video.features, model.embed_dim)
    out["head/audio"] = sounds * flops.linear(1, audio.features, model.embed_dim)
  elif hasattr(model, "hidden_dim"):  # L3
    both = video.features + audio.features
    one = flops.linear(1, both, model.hidden_dim) + flops.linear(1, model.hidden_dim, 2)
    out["head"] = pairs * one
  else:
    places = math.prod(video.places) if model.kind == "avol" else 1
    layers = lambda width: (
      flops.linear(1, width, model.embed_dim)
      + flops.linear(1, model.embed_dim, model.embed_dim)
    )
    out["head/video"] = rows * places * layers(video.features)
    out["head/audio"] = sounds * layers(audio.features)
    if model.kind == "avol":
      out["head/places"] = pairs * flops.linear(places, model.embed_dim, 1)
  return out


def _towers(model):
  """Unbound towers of (pictures, sound)."""
  if hasattr(model, "embed_norm"):
    own = dict(kind=model.video, middles="block") | dict(model.video_args)
    video = resolve.bind(r2plus1d.R2Plus1D, own)()
    return video, resolve.bind(audio_vgg.AudioVGG, dict(model.audio_args))()
  own = dict(first_stride=2) if hasattr(model, "kind") else {}
  make = lambda given: resolve.bind(l3.L3, own | dict(given))()
  return make(model.video_args), make(model.audio_args)


def recomputed(model, batch, objective) -> float:
  return families.again(model, forward(model, batch, None, objective), "video")


def frozen(model, objective) -> list[str]:
  return ["mel"]  # of samples: nothing in it learns
