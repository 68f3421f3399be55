"""BraVe: a narrow view of a video predicts broad ones (arXiv 2103.16559).

Reads:   video_frames [B, T, H, W, 3], video_mask [B, T], the narrow view;
         video_broad_frames, video_broad_mask, a broad one; audio_samples, audio_mask
         [B, S], the other.
Returns: for each view there is, narrow `video`, broad `video_broad` and `audio`:
         <view>_features [B, C] of its tower, for probes; <view>_projection z and
         <view>_prediction h [B, D]. Rows without a view are 0 and in no statistics.

    z = BN(W_2 relu(BN(W_1 f))),   h = V_2 relu(BN(V_1 z))

In the released code one projector and one predictor serve all views (`shared`), so that
their running statistics move once for each view, the narrow one last (with two broad
views the code runs the narrow one twice, once behind each; here it runs once); the
paper writes heads of its own for each view. Shared heads want features of one width:
not TSM-ResNet50x2 beside the audio network.
"""

import dataclasses
import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax import resolve
from vlp_jax.heads import mlp
from vlp_jax.layers import fields, logmel, norm
from vlp_jax.towers import audio_resnet, tsm_resnet

VIEWS = ("video", "video_broad", "audio")
_SMALL = dict(depths=(1,), widths=(16,), stem_width=8)
VARIANTS = {
  "mu": dict(
    hidden=16,
    embed_dim=8,
    front_end="brave16k",
    video_args=_SMALL,
    audio_args=_SMALL,
  ),
  # Minutes on a laptop: 64 pixels, sound at 16 kHz.
  "small": dict(
    hidden=256,
    embed_dim=64,
    front_end="brave16k",
    video_args=dict(depths=(1, 1, 1), widths=(64, 128, 256), stem_width=24),
    audio_args=dict(depths=(1, 1, 1), widths=(64, 128, 256), stem_width=24),
  ),
  "tsm_resnet": {},
  "tsm_resnet_x2": dict(video_args=dict(width_mult=2), shared=False),
}


class Heads(nn.Module):
  """Projector and predictor: [B, C] to z and h, both [B, dim] float32."""

  dim: int = 128
  hidden: int = 4096
  norm: functools.partial = functools.partial(norm.BatchNorm)
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    make = functools.partial(
      mlp.Mlp, self.dim, 2, self.hidden, last_bias=True, norm=self.norm
    )
    self.projector = make(last_bn=True, center=True, dtype=self.dtype)
    self.predictor = make(dtype=self.dtype)

  def __call__(self, x, *, train=False, where=None):
    z = self.projector(x, train=train, where=where)
    return z, self.predictor(z, train=train, where=where)


class Model(nn.Module):
  """See the module's header.

  Attributes:
    broad: the broad views, of "video_broad" and "audio".
    video_args, audio_args: of `towers.tsm_resnet` and `towers.audio_resnet`; both video
      views have the same tower with weights of their own.
    front_end: of `layers.logmel`; the sound must have its sampling rate.
    embed_dim, hidden: of projector and predictor.
    shared: one pair of heads for all views.
    bn_groups: see `layers.norm`; of all towers and heads.
    dtype: of the computation, "float32" or "bfloat16".
  """

  broad: tuple[str, ...] = ("audio",)
  video_args: Mapping = dataclasses.field(default_factory=dict)
  audio_args: Mapping = dataclasses.field(default_factory=dict)
  front_end: fields.FrontEnd = "brave"
  embed_dim: fields.Count = 128
  hidden: fields.Count = 4096
  shared: bool = True
  bn_groups: fields.Count = 1
  dtype: fields.Dtype = "float32"

  def setup(self):
    wrong = set(self.broad) - set(VIEWS[1:])
    if wrong or not self.broad:
      raise ValueError(f"broad is {self.broad}; give some of {VIEWS[1:]}.")
    given = dict(bn_groups=self.bn_groups, dtype=jnp.dtype(self.dtype))
    video = resolve.bind(
      tsm_resnet.TSMResNet, dict(self.video_args) | given, what="model.video_args"
    )
    self.video_tower = video()
    if "video_broad" in self.broad:
      self.video_broad_tower = video()
    if "audio" in self.broad:
      self.audio_tower = resolve.bind(
        audio_resnet.AudioResNet,
        dict(self.audio_args) | given,
        what="model.audio_args",
      )()
    bn = functools.partial(norm.BatchNorm, groups=self.bn_groups)
    heads = functools.partial(
      Heads, self.embed_dim, self.hidden, norm=bn, dtype=given["dtype"]
    )
    if self.shared:
      self.heads = heads()
    else:
      self.own_heads = {name: heads() for name in ("video", *self.broad)}

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every key that the model can read, at the least sizes."""
    samples = 16 * logmel.front_end(self.front_end).hop
    shapes = {}
    for name in ("video", *self.broad):
      if name == "audio":
        shapes["audio_samples"] = (1, samples), jnp.int16
        shapes["audio_mask"] = (1, samples), jnp.bool_
      else:
        shapes[f"{name}_frames"] = (1, 8, 32, 32, 3), jnp.uint8
        shapes[f"{name}_mask"] = (1, 8), jnp.bool_
    return {k: jax.ShapeDtypeStruct(*v) for k, v in shapes.items()}

  def __call__(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """All views that the model and the batch have."""
    out = {}
    for name in (*self.broad, "video"):
      if f"{name}_{'samples' if name == 'audio' else 'frames'}" in batch:
        out |= self._view(name, batch, train)
    return out

  def encode_video(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """video_features [B, C] of the narrow view, for probes."""
    features, where = self._features("video", batch, train)
    return {"video_features": jnp.where(where[:, None], features, 0.0)}

  def encode_audio(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """audio_features [B, C], for probes."""
    features, where = self._features("audio", batch, train)
    return {"audio_features": jnp.where(where[:, None], features, 0.0)}

  def _features(self, name, batch, train):
    mask = batch[f"{name}_mask"]
    where = mask.any(-1)
    if name == "audio":
      settings = logmel.front_end(self.front_end)
      x = logmel.log_mel(batch["audio_samples"], mask, settings=settings)["logmel"]
    else:
      x = batch[f"{name}_frames"]
      x = jnp.where(mask[..., None, None, None], x, jnp.zeros((), x.dtype))
    tower = getattr(self, f"{name}_tower")
    return tower(x, train=train, where=where)["features"], where

  def _view(self, name, batch, train):
    features, where = self._features(name, batch, train)
    heads = self.heads if self.shared else self.own_heads[name]
    z, h = heads(features, train=train, where=where)
    out = {"features": features, "projection": z, "prediction": h}
    return {f"{name}_{k}": jnp.where(where[:, None], x, 0.0) for k, x in out.items()}
