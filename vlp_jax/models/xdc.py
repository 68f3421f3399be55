"""SDC, MDC, CDC and XDC: towers that predict clusters of each other (arXiv 1911.12667).

Reads:   video_frames [B, T, H, W, 3], video_mask [B, T]; audio_samples, audio_mask
         [B, S].
Returns: video_features, audio_features of the towers, [B, D], for clusters and probes;
         for each name in `heads`, as "video_by_audio", logits [B, K] of a tower (the
         first word) over the clusters of a modality (the last), `<name>_logits`. Rows
         without the modality are 0 and are in no batch statistics.

A tower that is "" is not there: `video=""` makes a model of sound alone, for SDC. The
heads are linear, on the features; `objectives.cluster.xdc_round` starts them anew.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax import resolve
from vlp_jax.layers import dense, fields, logmel
from vlp_jax.towers import audio_resnet, r2plus1d, s3d, tsm_resnet

VIDEO = {
  "r2plus1d": r2plus1d.R2Plus1D,
  "s3d": s3d.S3D,
  "tsm_resnet": tsm_resnet.TSMResNet,
}
AUDIO = {
  "audio_resnet18": audio_resnet.AudioResNet18,
  "audio_resnet": audio_resnet.AudioResNet,
}
_MU_VIDEO = dict(widths=(8, 16), depths=(1, 1), stem_mid=6)
_MU_AUDIO = dict(widths=(16,), stem_width=4, first_width=8)
VARIANTS = {
  "r2plus1d": {},  # R(2+1)D-18 and the acoustic ResNet-18
  "mu": dict(clusters=4, video_args=_MU_VIDEO, audio_args=_MU_AUDIO),
  # Minutes on a laptop, where 3-D convolutions with strides are slow.
  "small": dict(
    clusters=32,
    video="s3d",
    video_args=s3d.MMV | s3d.SMALL,
    audio="audio_resnet",
    audio_args=dict(
      depths=(1, 1, 1), widths=(64, 128, 256), stem_width=24, pool="time"
    ),
    front_end="mmv16k",
  ),
}
HEADS = ("video_by_audio", "audio_by_video")


class Model(nn.Module):
  """See the module's header.

  Attributes:
    clusters: K, those of each labelling.
    heads: of "<tower>_by_<labels>": towers "video", "audio"; labels the same, "joint".
    video, audio: names of towers, or ""; *_args: their keywords.
    front_end, normalise: of `layers.logmel`; the sound must have the sampling rate of
      the former.
    dropout: of the features before the heads, in training.
    remat: of the video tower, "none" or what it knows, see `towers.r2plus1d`.
    dtype: of the computation, "float32" or "bfloat16".
  """

  clusters: fields.Count = 256
  heads: tuple[str, ...] = HEADS
  video: str = "r2plus1d"
  audio: str = "audio_resnet18"
  video_args: Mapping = dataclasses.field(default_factory=dict)
  audio_args: Mapping = dataclasses.field(default_factory=dict)
  front_end: fields.FrontEnd = "xdc"
  normalise: fields.Norm = "none"
  dropout: fields.Rate = 0.0
  remat: fields.ConvRemat = "none"
  dtype: fields.Dtype = "float32"

  def setup(self):
    self.video_tower = self._tower("video", VIDEO)
    self.audio_tower = self._tower("audio", AUDIO)
    wrong = [h for h in self.heads if h.split("_by_")[0] not in self._towers()]
    if wrong:
      raise ValueError(f"heads {wrong} have no tower; there are {self._towers()}.")
    # Small, as after each round: the first logits say nothing.
    init = nn.initializers.normal(0.01)
    self.cluster_heads = {
      name: dense.Linear(
        self.clusters,
        ("embed", None),
        dtype=self.dtype,
        out_dtype="float32",
        kernel_init=init,
      )
      for name in self.heads
    }
    self.drop = nn.Dropout(self.dropout)

  def _tower(self, stream, known):
    name = getattr(self, stream)
    if not name:
      return None
    if name not in known:
      raise ValueError(f"{stream} is {name!r}.{resolve.nearest(name, known)}")
    own = dict(getattr(self, f"{stream}_args")) | {"dtype": jnp.dtype(self.dtype)}
    if stream == "video" and self.remat != "none":
      own["remat"] = self.remat
    return resolve.bind(known[name], own, what=f"model.{stream}_args")()

  def _towers(self):
    return tuple(s for s in ("video", "audio") if getattr(self, s))

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every key that the model can read, at the least sizes."""
    samples = 16 * logmel.front_end(self.front_end).hop
    shapes = {
      "video_frames": ((1, 8, 32, 32, 3), jnp.uint8),
      "video_mask": ((1, 8), jnp.bool_),
      "audio_samples": ((1, samples), jnp.int16),
      "audio_mask": ((1, samples), jnp.bool_),
    }
    return {
      k: jax.ShapeDtypeStruct(*v)
      for k, v in shapes.items()
      if k.split("_")[0] in self._towers()
    }

  def __call__(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """All modalities that the model and the batch have."""
    out = {}
    if self.video and "video_frames" in batch:
      out |= self.encode_video(batch, train=train)
    if self.audio and "audio_samples" in batch:
      out |= self.encode_audio(batch, train=train)
    return out

  def encode_video(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """video_features [B, D] and the logits of its heads."""
    frames, mask = batch["video_frames"], batch["video_mask"]
    # Missing frames are black and count like others.
    black = jnp.zeros((), frames.dtype)
    frames = jnp.where(mask[..., None, None, None], frames, black)
    where = mask.any(-1)
    features = self.video_tower(frames, train=train, where=where)["features"]
    return self._classify("video", features, where, train)

  def encode_audio(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """audio_features [B, D] and the logits of its heads."""
    settings, mask = logmel.front_end(self.front_end), batch["audio_mask"]
    sound = logmel.log_mel(batch["audio_samples"], mask, settings=settings)
    x = logmel.normalise(sound["logmel"], sound["mask"], self.normalise)
    where = mask.any(-1)
    out = self.audio_tower(x, train=train, where=where, frames=sound["mask"])
    return self._classify("audio", out["features"], where, train)

  def _classify(self, stream, features, where, train):
    found = {f"{stream}_features": features}
    dropped = self.drop(features, deterministic=not train)
    for name, head in self.cluster_heads.items():
      if name.startswith(f"{stream}_by_"):
        found[f"{name}_logits"] = head(dropped)
    return {k: jnp.where(where[:, None], x, 0.0) for k, x in found.items()}
