"""ResNet-50 on pictures, post-activation: [B, H, W, 3] to 2,048 features.

The network of arXiv 1512.03385 with the stride in the 3 x 3 convolutions, as SimCLR,
MoCo and BYOL have it (and what is called v1.5): 23,508,032 parameters. Children are
named as in torchvision: conv1, bn1, layer1_0, ..., downsample.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import conv2d, norm, pixels
from vlp_jax.metrics import wide
from vlp_jax.towers import resnet

# Of ImageNet in 0..1, where a recipe normalises by them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Bottleneck(nn.Module):
  """relu(shortcut + bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))).

  conv1 and conv2 have a quarter of the width; conv2 is 3 x 3 and has the stride. The
  shortcut is a 1 x 1 convolution with BN where shapes differ, x itself elsewhere.
  """

  width: int
  stride: int
  norm: functools.partial
  zero_last: bool = False
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
    bn = lambda name, x, **more: self.norm(dtype=self.dtype, name=name, **more)(
      x, train=train, where=where
    )
    strides, inner = (self.stride, self.stride), self.width // 4
    y = nn.relu(bn("bn1", conv(inner, (1, 1), name="conv1")(x)))
    y = nn.relu(bn("bn2", conv(inner, (3, 3), strides, name="conv2")(y)))
    last = dict(scale_init=nn.initializers.zeros) if self.zero_last else {}
    y = bn("bn3", conv(self.width, (1, 1), name="conv3")(y), **last)
    if self.stride > 1 or x.shape[-1] != self.width:
      down = conv(self.width, (1, 1), strides, name="downsample")
      x = bn("downsample_bn", down(x))
    return nn.relu(x + y)


class ImageResNet(nn.Module):
  """The tower.

  Attributes:
    depths, widths, stem_width: before the factor width_mult; 1, 2 and 4 are published.
    mean, std: of the channels, taken off and divided by; MoCo and BYOL have ImageNet's
      (`MEAN`, `STD`), SimCLR none.
    zero_last: the last BN of each block starts at scale 0 (SimCLR, BYOL), not 1 (MoCo).
    padding: "torch", which SimCLR's fixed padding equals but for its max-pool, or "tf";
      see `layers.conv2d`.
    bn_eps, bn_momentum, bn_groups, bn_unbiased: see `layers.norm`.
  """

  depths: Sequence[int] = resnet.DEPTHS
  widths: Sequence[int] = resnet.WIDTHS
  stem_width: int = 64
  width_mult: int = 1
  mean: Sequence[float] = (0.0, 0.0, 0.0)
  std: Sequence[float] = (1.0, 1.0, 1.0)
  zero_last: bool = False
  padding: str = "torch"
  bn_eps: float = 1e-5
  bn_momentum: float = 0.9
  bn_groups: int = 1
  bn_unbiased: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    pictures: jax.Array,
    *,
    train: bool = False,
    where: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """features [B, D] float32, the mean of map [B, h, w, D] over the picture.

    Args:
      pictures: [B, H, W, 3], uint8 or float in 0..1; where: [B] bool, rows with one.
    """
    if pictures.ndim != 4 or pictures.shape[-1] != 3:
      raise ValueError(f"pictures are {pictures.shape}; expected [B, H, W, 3].")
    bn = functools.partial(
      norm.BatchNorm,
      momentum=self.bn_momentum,
      eps=self.bn_eps,
      groups=self.bn_groups,
      unbiased=self.bn_unbiased,
    )
    x = (pixels.unit(pictures) - jnp.array(self.mean)) / jnp.array(self.std)
    stem = conv2d.Conv2D(
      self.stem_width * self.width_mult,
      (7, 7),
      (2, 2),
      self.padding,
      kernel_init=conv2d.msra_normal,
      dtype=self.dtype,
      name="conv1",
    )
    x = bn(dtype=self.dtype, name="bn1")(stem(x), train=train, where=where)
    x = conv2d.max_pool(nn.relu(x), (3, 3), (2, 2), self.padding)
    for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
      for k in range(depth):
        block = Bottleneck(
          width * self.width_mult,
          stride=2 if i > 1 and not k else 1,
          norm=bn,
          zero_last=self.zero_last,
          padding=self.padding,
          dtype=self.dtype,
          name=f"layer{i}_{k}",
        )
        x = block(x, train=train, where=where)
    return {"features": wide(x).mean((1, 2)), "map": x}
