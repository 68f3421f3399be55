"""A video network and the image network that it becomes (arXiv 2006.16228, sec. 3.3).

Reads:   image_pixels [B, H, W, 3], or video_frames [B, T, H, W, 3], whose first frame
         is the picture.
Returns: image_features [B, C] of the image tower; video_features [B, C] of the video
         tower on the picture repeated `num_frames` times: what the image tower is to
         give (`objectives.deflation`).

Weights come by `init_from = dict(path=..., importer="deflate")`. All but the scales and
biases of the image tower's BatchNorms stay as they are: `optim.groups` freezes them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax import resolve
from vlp_jax.layers import fields
from vlp_jax.towers import s3d, tsm_resnet

# name -> (class, what MMV gives it)
VIDEO = {
  "s3d": (s3d.S3D, s3d.MMV),
  "tsm_resnet": (tsm_resnet.TSMResNet, {}),
}
MU = dict(
  num_frames=4,
  video_args=dict(
    stem_width=8,
    stem_window=(2, 2, 2),
    stages=(
      ("maxpool_2a", "pool", (1, 3, 3), (1, 2, 2)),
      ("conv_2c", "separable", 8),
      ("gating", "gate"),
      ("mixed_3b", "inception", 4, 4, 4, 4, 4, 4),
    ),
  ),
)
VARIANTS = {
  "mu": MU,
  "small": dict(num_frames=8, video_args=s3d.SMALL),
  "s3d": {},
  "tsm_resnet": dict(video="tsm_resnet"),
  "tsm_resnet_x2": dict(video="tsm_resnet", video_args=dict(width_mult=2)),
}


class Model(nn.Module):
  """See the module's header.

  Attributes:
    video: "s3d" or "tsm_resnet"; video_args: its keywords, of both towers.
    num_frames: of the clip that stands still, as many as the video network was
      trained on.
    alpha: of a deflated TSM-ResNet, see `towers.tsm_resnet.deflated_shift`.
    dtype: of the computation.
  """

  video: Literal[*VIDEO] = "s3d"
  video_args: Mapping = dataclasses.field(default_factory=dict)
  num_frames: int = 32
  alpha: float = 1.0
  dtype: fields.Dtype = "float32"

  def setup(self):
    if self.video not in VIDEO:
      raise ValueError(f"video is {self.video!r}; give one of {tuple(VIDEO)}.")
    cls, own = VIDEO[self.video]
    own = own | dict(self.video_args) | dict(dtype=jnp.dtype(self.dtype))
    flat = dict(deflated=True)
    if self.video == "tsm_resnet":
      flat["alpha"] = self.alpha
    self.video_tower = resolve.bind(cls, own, what="model.video_args")()
    self.image_tower = resolve.bind(cls, own | flat, what="model.video_args")()

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every key that the model can read, at the least sizes."""
    shapes = {"image_pixels": (1, 32, 32, 3), "video_frames": (1, 1, 32, 32, 3)}
    return {k: jax.ShapeDtypeStruct(s, jnp.uint8) for k, s in shapes.items()}

  def __call__(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """Features of both towers, with running statistics: they stay the video's."""
    clip = jnp.repeat(_pictures(batch), self.num_frames, axis=1)
    return self.encode_image(batch, train=train) | {
      "video_features": self.video_tower(clip)["features"]
    }

  def encode_image(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """image_features alone."""
    del train
    return {"image_features": self.image_tower(_pictures(batch))["features"]}


def _pictures(batch):
  """[B, 1, H, W, 3]."""
  if "image_pixels" in batch:
    return batch["image_pixels"][:, None]
  return batch["video_frames"][:, :1]
