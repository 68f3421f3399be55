"""S3D-G: separable 3-D Inception with self-gating (arXiv 1712.04851, 1912.06430).

Takes frames [B, T, H, W, 3], uint8 or float in 0..1, with no mean or deviation taken
off. All sizes are data: `STAGES` below is the published net, a preset is another list.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import conv3d, norm
from vlp_jax.metrics import wide

# (name, kind, numbers): pool (window, strides); point and separable (width); gate;
# inception (b0, b1a, b1b, b2a, b2b, b3b).
STAGES = (
  ("maxpool_2a", "pool", (1, 3, 3), (1, 2, 2)),
  ("conv_2b", "point", 64),
  ("conv_2c", "separable", 192),
  ("gating", "gate"),
  ("maxpool_3a", "pool", (1, 3, 3), (1, 2, 2)),
  ("mixed_3b", "inception", 64, 96, 128, 16, 32, 32),
  ("mixed_3c", "inception", 128, 128, 192, 32, 96, 64),
  ("maxpool_4a", "pool", (3, 3, 3), (2, 2, 2)),
  ("mixed_4b", "inception", 192, 96, 208, 16, 48, 64),
  ("mixed_4c", "inception", 160, 112, 224, 24, 64, 64),
  ("mixed_4d", "inception", 128, 128, 256, 24, 64, 64),
  ("mixed_4e", "inception", 112, 144, 288, 32, 64, 64),
  ("mixed_4f", "inception", 256, 160, 320, 32, 128, 128),
  ("maxpool_5a", "pool", (2, 2, 2), (2, 2, 2)),
  ("mixed_5b", "inception", 256, 160, 320, 32, 128, 128),
  ("mixed_5c", "inception", 384, 192, 384, 48, 128, 128),
)


def pixels(frames: jax.Array) -> jax.Array:
  """uint8 0..255 to float32 0..1; floats are in 0..1 already."""
  return frames / jnp.float32(255) if frames.dtype == jnp.uint8 else frames


class Inception(nn.Module):
  """Four branches, each with its own gate, concatenated (b0, b1, b2, b3).

  b0 is 1 x 1 x 1; b1 and b2 are 1 x 1 x 1, then separable 3 x 3 x 3; b3 is a max-pool
  of 3 x 3 x 3, then 1 x 1 x 1.
  """

  widths: Sequence[int]
  norm: functools.partial
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, *, train=False, where=None):
    b0, b1a, b1b, b2a, b2b, b3b = self.widths
    conv = functools.partial(conv3d.ConvBN, norm=self.norm, dtype=self.dtype)
    deep = functools.partial(conv, window=(3, 3, 3), separable=True)
    run = dict(train=train, where=where)
    pooled = conv3d.max_pool(x, (3, 3, 3), (1, 1, 1), "tf")  # stride 1: both agree
    branches = (
      conv(b0, name="conv_b0")(x, **run),
      deep(b1b, name="conv_b1_b")(conv(b1a, name="conv_b1_a")(x, **run), **run),
      deep(b2b, name="conv_b2_b")(conv(b2a, name="conv_b2_a")(x, **run), **run),
      conv(b3b, name="conv_b3_b")(pooled, **run),
    )
    gates = [
      conv3d.SelfGating(self.dtype, name=f"gating_b{i}") for i in range(len(branches))
    ]
    return jnp.concatenate(
      [gate(y) for gate, y in zip(gates, branches, strict=True)], axis=-1
    )


class S3D(nn.Module):
  """The tower. Paper and code differ in the stem: both are here, by numbers.

  The released weights fold blocks of 2 x 2 x 2 pixels into channels, convolve them by
  2 x 4 x 4 with stride 1, and drop the first index of T, H, W after the ReLU, where an
  even kernel with k // 2 of padding gives one too many. The training repository uses a
  plain 3 x 7 x 7 convolution with stride 2: `space_to_depth=(), stem_window=(3, 7, 7),
  stem_strides=(2, 2, 2)`.

  Attributes:
    embed_dim: width of `embed`; 0 leaves the last layer out.
    pool_padding: "torch" for the published .pth, "tf" for weights of TensorFlow.
    bn_groups: BatchNorm statistics over runs of B / bn_groups rows; 1 is global.
  """

  embed_dim: int = 512
  stem_width: int = 64
  space_to_depth: Sequence[int] = (2, 2, 2)
  stem_window: Sequence[int] = (2, 4, 4)
  stem_strides: Sequence[int] = (1, 1, 1)
  stages: Sequence[Sequence] = STAGES
  pool_padding: str = "torch"
  bn_eps: float = 1e-5
  bn_momentum: float = 0.9
  bn_groups: int = 1
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    frames: jax.Array,
    *,
    train: bool = False,
    where: jax.Array | None = None,
    stages: bool = False,
  ) -> dict[str, jax.Array]:
    """Embeds clips.

    Args:
      frames: [B, T, H, W, 3] uint8, or float in 0..1.
      where: [B] bool, rows with a clip; the others stay out of all batch statistics.
      stages: whether to hand back the activations of every stage too.
    Returns: features [B, C] (mean of the last stage), embed [B, embed_dim]; both
      float32; with `stages` also {stage name: [B, t, h, w, c]}, the stem as "conv1"
      before its first indices are dropped.
    Raises: ValueError for clips that are not 5-D or do not divide into blocks.
    """
    if frames.ndim != 5 or frames.shape[-1] != 3:
      raise ValueError(f"frames are {frames.shape}; S3D takes [B, T, H, W, 3].")
    bn = functools.partial(
      norm.BatchNorm,
      momentum=self.bn_momentum,
      eps=self.bn_eps,
      groups=self.bn_groups,
      unbiased=True,
    )
    run = dict(train=train, where=where)
    conv = functools.partial(conv3d.ConvBN, norm=bn, dtype=self.dtype)
    x = frames
    if self.space_to_depth:
      x = conv3d.space_to_depth(x, self.space_to_depth)
    x = pixels(x).astype(self.dtype)
    stem = conv(self.stem_width, self.stem_window, self.stem_strides, name="conv1")
    x = stem(x, **run)
    seen = {"conv1": x}
    if self.space_to_depth:
      t, h, w = (1 - k % 2 for k in self.stem_window)
      x = x[:, t:, h:, w:]
    for name, kind, *numbers in self.stages:
      if kind == "pool":
        x = conv3d.max_pool(x, *numbers, self.pool_padding)
      elif kind == "gate":
        x = conv3d.SelfGating(self.dtype, name=name)(x)
      elif kind == "point":
        x = conv(*numbers, name=name)(x, **run)
      elif kind == "separable":
        x = conv(*numbers, window=(3, 3, 3), separable=True, name=name)(x, **run)
      elif kind == "inception":
        x = Inception(numbers, bn, self.dtype, name=name)(x, **run)
      else:
        raise ValueError(
          f"stage {name!r} is {kind!r}; known: pool, gate, point, separable, inception."
        )
      seen[name] = x
    features = wide(x).mean((1, 2, 3))
    out = {"features": features, **({"stages": seen} if stages else {})}
    if self.embed_dim:
      init = conv3d.torch_uniform
      out["embed"] = nn.Dense(self.embed_dim, kernel_init=init, name="fc")(features)
    return out
