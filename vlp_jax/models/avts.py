"""AVTS: is this the sound of this very moment? (arXiv 1807.00230)

Reads:   video_frames [B, T, H, W, 3], video_mask [B, T]; audio_samples, audio_mask
         [B, S], about a second. `score` reads video_embed, audio_embed [P, D].
Returns: video_embed, audio_embed [B, D], of norm `embed_norm`; video_features,
         audio_features [B, C] before the last layer; audio_pooled [B, C], the maxima of
         conv5, which classifiers of sounds read; match_logits [B] = `threshold` less
         the distance of each row's own pair. A row without frames or sound is 0 and in
         no batch statistics.

The video network is MC3-18 or R(2+1)D-18, in torchvision's form, the sound network a
VGG of `towers.audio_vgg`. The paper's numbers of the latter, the width of the space and
whether the vectors are normalised are not published: all are fields. The authors of a
later re-implementation normalise them, one version to the norm 0.5, with which squared
distances lie in 0..1.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax import resolve
from vlp_jax.layers import conv2d, fields, gated, logmel
from vlp_jax.metrics import wide
from vlp_jax.towers import audio_vgg, r2plus1d

KINDS = ("mc3", "r2plus1d")
# Tests and laptops: fewer and narrower stages, the same code.
MU = dict(
  embed_dim=8,
  front_end="mmv16k",
  video_args=dict(widths=(4, 8), depths=(1, 1), stem_mid=3),
  audio_args=dict(widths=(4, 8), depths=(1, 1), fc_dim=8),
)
SMALL = dict(
  embed_dim=64,
  front_end="mmv16k",
  video_args=dict(widths=(12, 24, 48), depths=(1, 1, 1), stem_mid=9),
  audio_args=dict(widths=(16, 32, 64, 128), depths=(1, 1, 1, 1), fc_dim=128),
)
VARIANTS = {
  "mu": MU,
  "small": SMALL,
  "mc3": {},
  "r2plus1d": dict(video="r2plus1d"),
}


class Model(nn.Module):
  """See the module's header.

  Attributes:
    video: "mc3" or "r2plus1d"; video_args: keywords of `towers.r2plus1d`.
    audio_args: of `towers.audio_vgg`.
    front_end: of `layers.logmel`; the sound must have its sampling rate.
    embed_dim: D; embed_norm: of the embeddings, 0 leaves them as they are.
    threshold: distance below which a pair is taken for synchronous, half the margin of
      the loss.
    bn_groups: see `layers.norm`; dtype: of the computation.
    remat: of the video tower, see `towers.r2plus1d`.
  """

  video: Literal[*KINDS] = "mc3"
  front_end: fields.FrontEnd = "xdc"
  embed_dim: fields.Count = 128
  embed_norm: float = 1.0
  threshold: float = 0.495
  video_args: Mapping = dataclasses.field(default_factory=dict)
  audio_args: Mapping = dataclasses.field(default_factory=dict)
  bn_groups: fields.Count = 1
  remat: fields.ConvRemat = "none"
  dtype: fields.Dtype = "float32"

  def setup(self):
    if self.video not in KINDS:
      raise ValueError(f"video is {self.video!r}; give one of {KINDS}.")
    dtype = jnp.dtype(self.dtype)
    given = dict(bn_groups=self.bn_groups, dtype=dtype)
    own = dict(kind=self.video, middles="block", bn_eps=1e-5)
    own = own | dict(self.video_args) | given | dict(remat=self.remat)
    what = "model.video_args"
    self.video_tower = resolve.bind(r2plus1d.R2Plus1D, own, what=what)()
    own, what = dict(self.audio_args) | given, "model.audio_args"
    self.audio_tower = resolve.bind(audio_vgg.AudioVGG, own, what=what)()
    init = conv2d.msra_normal
    self.video_head = nn.Dense(self.embed_dim, kernel_init=init, dtype=dtype)
    self.audio_head = nn.Dense(self.embed_dim, kernel_init=init, dtype=dtype)

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every key that the model can read, at the least sizes."""
    # Four seconds, as the training input: clips are cut out of it.
    samples = 4 * logmel.front_end(self.front_end).rate_hz
    shapes = {
      "video_frames": ((1, 100, 16, 16, 3), jnp.uint8),
      "video_mask": ((1, 100), jnp.bool_),
      "audio_samples": ((1, samples), jnp.int16),
      "audio_mask": ((1, samples), jnp.bool_),
    }
    return {k: jax.ShapeDtypeStruct(*v) for k, v in shapes.items()}

  def __call__(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """Both streams, or the one that the batch has; with both, the pairs' logits."""
    out = self.encode_video(batch, train=train) if "video_frames" in batch else {}
    if "audio_samples" in batch:
      out |= self.encode_audio(batch, train=train)
    both = {"video_embed", "audio_embed"} <= set(out)
    return out | (self.score(out, train=train) if both else {})

  def encode_video(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """video_embed [B, D], video_features [B, C]."""
    frames, mask = batch["video_frames"], batch["video_mask"]
    black = jnp.zeros((), frames.dtype)
    frames = jnp.where(mask[..., None, None, None], frames, black)
    where = mask.any(1)
    features = self.video_tower(frames, train=train, where=where)["features"]
    embed = self._embed(self.video_head(features))
    return _named("video", {"embed": embed, "features": features}, where)

  def encode_audio(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """audio_embed [B, D], audio_features, audio_pooled [B, C]."""
    settings, mask = logmel.front_end(self.front_end), batch["audio_mask"]
    where = mask.any(1)
    sound = logmel.log_mel(batch["audio_samples"], mask, settings=settings)["logmel"]
    out = self.audio_tower(sound[..., None], train=train, where=where)
    embed = self._embed(self.audio_head(out["features"]))
    return _named("audio", out | {"embed": embed}, where)

  def score(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """match_logits [P] of the pairs that stand in the same row."""
    del train  # no layer behaves differently
    square = jnp.square(batch["video_embed"] - batch["audio_embed"]).sum(-1)
    return {"match_logits": self.threshold - jnp.sqrt(square)}

  def _embed(self, x):
    return self.embed_norm * gated.unit(x) if self.embed_norm else wide(x)


def _named(stream, out, where):
  """The outputs under their full names, 0 in rows without the stream."""
  return {f"{stream}_{k}": jnp.where(where[:, None], x, 0.0) for k, x in out.items()}
