"""L3-Net: do this picture and this sound belong together? (arXiv 1705.08168)

Reads:   video_frames [B, T, H, W, 3], video_mask [B, T], of which it sees the middle
         frame; audio_samples, audio_mask [B, S], one second. `score` reads
         video_features, audio_features [P, D].
Returns: video_features, audio_features [B, D], the maximum of each map; audio_pooled
         [B, 12 D], the map's maxima on a grid of 4 x 3, which classifiers of sounds
         read; match_logits [B, 2] (no, yes) of each row's own pair. A row without frame
         or sound is 0 and in no batch statistics.

  match_logits = W_2 relu(W_1 [v; a])

9,508,738 parameters at full size: 4,689,216 of vision, 4,688,064 of sound, the head.
"""

import dataclasses
import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax import resolve
from vlp_jax.layers import conv2d, fields, logmel
from vlp_jax.metrics import wide
from vlp_jax.towers import l3

_TINY = dict(widths=(4, 8, 8, 8))
_NARROW = dict(widths=(16, 32, 64, 128), first_stride=2)
# Tests and laptops: narrower towers and sound at 16 kHz, the same code.
MU = dict(hidden_dim=8, front_end="mmv16k", video_args=_TINY, audio_args=_TINY)
SMALL = dict(front_end="mmv16k", video_args=_NARROW, audio_args=_NARROW)
VARIANTS = {"mu": MU, "small": SMALL, "base": {}}


class Model(nn.Module):
  """See the module's header.

  Attributes:
    front_end: of `layers.logmel`; the sound must have its sampling rate.
    hidden_dim: of the head.
    video_args, audio_args: keywords of `towers.l3.L3`.
    bn_groups: see `layers.norm`; dtype: of the computation.
  """

  front_end: fields.FrontEnd = "l3"
  hidden_dim: fields.Count = 128
  video_args: Mapping = dataclasses.field(default_factory=dict)
  audio_args: Mapping = dataclasses.field(default_factory=dict)
  bn_groups: fields.Count = 1
  dtype: fields.Dtype = "float32"

  def setup(self):
    given = dict(bn_groups=self.bn_groups, dtype=jnp.dtype(self.dtype))
    tower = lambda own, what: resolve.bind(l3.L3, dict(own) | given, what=what)()
    self.video_tower = tower(self.video_args, "model.video_args")
    self.audio_tower = tower(self.audio_args, "model.audio_args")
    dense = functools.partial(
      nn.Dense, kernel_init=conv2d.msra_normal, dtype=given["dtype"]
    )
    self.hidden, self.match = dense(self.hidden_dim), dense(2)

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
    """Both streams, or the one that the batch has; with both, the pairs' logits."""
    out = self.encode_video(batch, train=train) if "video_frames" in batch else {}
    if "audio_samples" in batch:
      out |= self.encode_audio(batch, train=train)
    both = {"video_features", "audio_features"} <= set(out)
    return out | (self.score(out, train=train) if both else {})

  def encode_video(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """video_features [B, D]."""
    frame, where = l3.middle(batch["video_frames"], batch["video_mask"])
    features = self.video_tower(frame, train=train, where=where)["features"]
    return {"video_features": jnp.where(where[:, None], features, 0.0)}

  def encode_audio(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """audio_features [B, D] and audio_pooled [B, 12 D]."""
    settings, mask = logmel.front_end(self.front_end), batch["audio_mask"]
    where = mask.any(1)
    sound = logmel.log_mel(batch["audio_samples"], mask, settings=settings)["logmel"]
    out = self.audio_tower(sound.swapaxes(1, 2)[..., None], train=train, where=where)
    out = {"features": out["features"], "pooled": l3.grid_max(out["map"])}
    return {f"audio_{k}": jnp.where(where[:, None], x, 0.0) for k, x in out.items()}

  def score(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """match_logits [P, 2] of the pairs that stand in the same row."""
    del train  # no layer behaves differently
    both = [batch["video_features"], batch["audio_features"]]
    hidden = nn.relu(self.hidden(jnp.concatenate(both, axis=-1)))
    return {"match_logits": wide(self.match(hidden))}
