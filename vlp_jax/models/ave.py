"""AVE-Net and AVOL-Net: aligned embeddings, and where the sound is (arXiv 1712.06651).

Reads:   video_frames [B, T, H, W, 3], video_mask [B, T], of which it sees the middle
         frame; audio_samples, audio_mask [B, S], one second. `score` reads video_embed
         (AVE) or video_map (AVOL), and audio_embed, of P pairs.
Returns: video_features, audio_features [B, C], the maximum of each map; audio_pooled
         [B, 12 C]; audio_embed [B, D] and match_logits of each row's own pair;
         AVE: video_embed [B, D], unit vectors; match_logits [B, 2] (no, yes);
         AVOL: video_map [B, h, w, D]; match_logits [B], location_logits [B, h, w] and
         location [B, h, w], their sigmoid. A row without frame or sound is 0.

L3-Net's towers with a first convolution of stride 2; then, with FC twice Dense to 128
and a ReLU between,

  ave    v, a = unit(FC(.)) of the features,  match_logits = W |v - a| + b
  avol   v_xy = FC(map_xy), a = FC(features), location_logits = s <v_xy, a> + b,
         match_logits = max over places

W begins negative for "yes" and positive for "no". AVE-Net has 9,541,636 parameters.
Nothing is published on the first value of s. Ours is small, since products of 128
numbers that are not normalised would saturate the sigmoid.
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
from vlp_jax.towers import l3

KINDS = ("ave", "avol")
_TINY = dict(widths=(4, 8, 8, 8))
_NARROW = dict(widths=(16, 32, 64, 128))
# Tests and laptops: narrower towers and sound at 16 kHz, the same code.
MU = dict(embed_dim=8, front_end="mmv16k", video_args=_TINY, audio_args=_TINY)
SMALL = dict(embed_dim=64, front_end="mmv16k", video_args=_NARROW, audio_args=_NARROW)
AVOL = dict(kind="avol")
# Of pictures of 64 x 64 stride 1 leaves a map of 8 x 8.
FINE = AVOL | dict(video_args=_NARROW | dict(first_stride=1))
VARIANTS = {
  "mu": MU,
  "mu_avol": MU | AVOL,
  "small": SMALL,
  "small_avol": SMALL | FINE,
  "ave": {},
  "avol": AVOL,
}


class _TwoLayers(nn.Module):
  """Dense, ReLU, Dense over the last axis: on a map, two 1 x 1 convolutions."""

  width: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x):
    init = conv2d.msra_normal
    dense = lambda name: nn.Dense(
      self.width, kernel_init=init, dtype=self.dtype, name=name
    )
    return wide(dense("final")(nn.relu(dense("inner")(x))))


class Model(nn.Module):
  """See the module's header.

  Attributes:
    kind: "ave" or "avol".
    front_end: of `layers.logmel`; the sound must have its sampling rate.
    embed_dim: D, also of the hidden layer.
    distance_scale: of AVE, W is (distance_scale, -distance_scale) at first.
    scale_init: of AVOL, s at first.
    video_args, audio_args: keywords of `towers.l3.L3`, over a first stride of 2.
    bn_groups: see `layers.norm`; dtype: of the computation.
  """

  kind: Literal[*KINDS] = "ave"
  front_end: fields.FrontEnd = "ave"
  embed_dim: fields.Count = 128
  distance_scale: float = 1.0
  scale_init: float = 0.01
  video_args: Mapping = dataclasses.field(default_factory=dict)
  audio_args: Mapping = dataclasses.field(default_factory=dict)
  bn_groups: fields.Count = 1
  dtype: fields.Dtype = "float32"

  def setup(self):
    if self.kind not in KINDS:
      raise ValueError(f"kind is {self.kind!r}; give one of {KINDS}.")
    given = dict(bn_groups=self.bn_groups, dtype=jnp.dtype(self.dtype))
    stride = dict(first_stride=2)
    make = lambda own, what: resolve.bind(l3.L3, stride | dict(own) | given, what=what)
    self.video_tower = make(self.video_args, "model.video_args")()
    self.audio_tower = make(self.audio_args, "model.audio_args")()
    self.video_head = _TwoLayers(self.embed_dim, given["dtype"])
    self.audio_head = _TwoLayers(self.embed_dim, given["dtype"])
    if self.kind == "ave":
      first = jnp.array([[self.distance_scale, -self.distance_scale]])
      self.match = nn.Dense(2, kernel_init=lambda key, *_: first)
    else:
      self.match_scale = self.param(
        "scale", nn.initializers.constant(self.scale_init), ()
      )
      self.match_bias = self.param("bias", nn.initializers.zeros, ())

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every key that the model can read, at the least sizes."""
    samples = logmel.front_end(self.front_end).rate_hz  # a second
    shapes = {
      "video_frames": ((1, 1, 32, 32, 3), jnp.uint8),
      "video_mask": ((1, 1), jnp.bool_),
      "audio_samples": ((1, samples), jnp.int16),
      "audio_mask": ((1, samples), jnp.bool_),
    }
    return {k: jax.ShapeDtypeStruct(*v) for k, v in shapes.items()}

  def __call__(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """Both streams, or the one that the batch has; with both, the pairs' scores."""
    out = self.encode_video(batch, train=train) if "video_frames" in batch else {}
    if "audio_samples" in batch:
      out |= self.encode_audio(batch, train=train)
    both = {"video_features", "audio_features"} <= set(out)
    return out | (self.score(out, train=train) if both else {})

  def encode_video(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """video_features [B, C] and video_embed [B, D] or video_map [B, h, w, D]."""
    frame, where = l3.middle(batch["video_frames"], batch["video_mask"])
    out = self.video_tower(frame, train=train, where=where)
    found = {"video_features": out["features"]}
    if self.kind == "ave":
      found["video_embed"] = gated.unit(self.video_head(out["features"]))
    else:
      found["video_map"] = self.video_head(out["map"])
    return _there(found, where)

  def encode_audio(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """audio_features [B, C], audio_pooled [B, 12 C] and audio_embed [B, D]."""
    settings, mask = logmel.front_end(self.front_end), batch["audio_mask"]
    where = mask.any(1)
    sound = logmel.log_mel(batch["audio_samples"], mask, settings=settings)["logmel"]
    out = self.audio_tower(sound.swapaxes(1, 2)[..., None], train=train, where=where)
    embed = self.audio_head(out["features"])
    found = {
      "audio_features": out["features"],
      "audio_pooled": l3.grid_max(out["map"]),
      "audio_embed": gated.unit(embed) if self.kind == "ave" else embed,
    }
    return _there(found, where)

  def score(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """match_logits of the pairs that stand in the same row; AVOL: location as well."""
    del train  # no layer behaves differently
    if self.kind == "ave":
      square = jnp.square(batch["video_embed"] - batch["audio_embed"]).sum(-1)
      # The root has no derivative at 0, where a picture meets its very sound.
      far = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
      return {"match_logits": self.match(far[:, None])}
    places = jnp.einsum(
      "bhwd,bd->bhw", batch["video_map"], batch["audio_embed"], precision="highest"
    )
    logits = self.match_scale * places + self.match_bias
    flat = logits.reshape(len(logits), -1)
    # One place, also among equals: the maximum's own gradient would be shared.
    peak = jnp.take_along_axis(flat, flat.argmax(1, keepdims=True), axis=1)[:, 0]
    location = jax.nn.sigmoid(logits)
    return {"match_logits": peak, "location_logits": logits, "location": location}


def _there(found, where):
  """0 in rows without the stream."""
  row = lambda x: where.reshape(-1, *[1] * (x.ndim - 1))
  return {k: jnp.where(row(x), x, 0.0) for k, x in found.items()}
