"""Residual networks over [N, H, W, C]: pre-activation bottlenecks, basic blocks.

`ResNetV2` (arXiv 1603.05027) carries TSM-ResNet and the audio network of MMV and BraVe;
depths (3, 4, 6, 3) at widths (256, 512, 1024, 2048) are ResNet-50. `Basic` is the block
of ResNet-18 (arXiv 1512.03385). Children are named as in the published weights.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vlp_jax.layers import conv2d, conv3d, norm

DEPTHS = (3, 4, 6, 3)
WIDTHS = (256, 512, 1024, 2048)


class BottleneckV2(nn.Module):
  """y = shortcut + conv_2(a_2(conv_1(a_1(conv_0(mix(p)))))), p = relu(bn(x)).

  a_i is BN and ReLU. The shortcut is a 1 x 1 convolution of p, taken before `mix`, or x
  itself. conv_0 and conv_1 have a quarter of the width; conv_1 is 3 x 3 and has the
  stride.

  Attributes:
    mix: of p on the residual branch (the temporal shift), or None.
  """

  width: int
  stride: int
  project: bool
  norm: functools.partial
  mix: Callable | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, *, train=False, where=None):
    conv = functools.partial(conv2d.Conv2D, dtype=self.dtype)
    strides, inner = (self.stride, self.stride), self.width // 4
    act = lambda i, x: nn.relu(
      self.norm(dtype=self.dtype, name=f"bn_{i}")(x, train=train, where=where)
    )
    p = act(0, x)
    if self.project:
      x = conv(self.width, (1, 1), strides, name="shortcut_conv")(p)
    p = self.mix(p) if self.mix else p
    kept = functools.partial(checkpoint_name, name=conv3d.CONV)
    y = kept(conv(inner, (1, 1), name="conv_0")(p))
    y = kept(conv(inner, (3, 3), strides, name="conv_1")(act(1, y)))
    return x + conv(self.width, (1, 1), name="conv_2")(act(2, y))


class ResNetV2(nn.Module):
  """The trunk: 7 x 7 / 2, max-pool 3 x 3 / 2, stages of `BottleneckV2`, BN, ReLU.

  Stages after the first halve the picture; the first block of each projects. The stem
  has no normalisation. Attributes as their names say; `mix` as in the block, `remat` of
  the blocks as in `towers.s3d`.
  """

  depths: Sequence[int] = DEPTHS
  widths: Sequence[int] = WIDTHS
  stem_width: int = 64
  mix: Callable | None = None
  norm: functools.partial = functools.partial(norm.BatchNorm)
  remat: str = "none"
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, where: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """x [N, H, W, C], where [N] bool, rows that count in the statistics.

    Returns: last [N, h, w, D], the sum of the last block; map, the same after BN and
      ReLU.
    """
    stem = conv2d.Conv2D(self.stem_width, (7, 7), (2, 2), dtype=self.dtype, name="stem")
    x = conv2d.max_pool(stem(x), (3, 3), (2, 2))
    for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
      for k in range(depth):
        block = BottleneckV2(
          width,
          stride=2 if i and not k else 1,
          project=k == 0,
          norm=self.norm,
          mix=self.mix,
          dtype=self.dtype,
          name=f"unit_{i}_block_{k}",
        )
        call = lambda block, x: block(x, train=train, where=where)
        x = conv3d.recompute(call, self.remat)(block, x)
    bn = self.norm(dtype=self.dtype, name="bn")
    return {"last": x, "map": nn.relu(bn(x, train=train, where=where))}


class Basic(nn.Module):
  """relu(shortcut + bn(conv(relu(bn(conv(x)))))), both 3 x 3, the first strided.

  The shortcut is a 1 x 1 convolution with BN where shapes differ, x itself elsewhere.
  """

  width: int
  stride: int
  norm: functools.partial
  padding: str = "torch"
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, *, train=False, where=None):
    conv = functools.partial(
      conv2d.Conv2D,
      padding=self.padding,
      kernel_init=conv2d.msra_normal,
      dtype=self.dtype,
    )
    bn = lambda name, x: self.norm(dtype=self.dtype, name=name)(
      x, train=train, where=where
    )
    strides = (self.stride, self.stride)
    y = nn.relu(bn("bn1", conv(self.width, (3, 3), strides, name="conv1")(x)))
    y = bn("bn2", conv(self.width, (3, 3), name="conv2")(y))
    if self.stride > 1 or x.shape[-1] != self.width:
      x = bn("shortcut_bn", conv(self.width, (1, 1), strides, name="shortcut")(x))
    return nn.relu(x + y)
