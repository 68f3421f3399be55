"""Audio networks on log-mel spectrograms: ResNet-50 of MMV and BraVe, XDC's ResNet-18.

Both take a spectrogram [B, F, M] (frames, bins) of `layers.logmel` as a picture of one
channel. Sources: arXiv 2006.16228 and 2103.16559; arXiv 1911.12667 with the acoustic
network of its code base.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import conv2d, norm
from vlp_jax.metrics import wide
from vlp_jax.towers import resnet


class AudioResNet(nn.Module):
  """Pre-activation ResNet-50 without shifts: [B, F, M] to 2,048 features.

  Attributes:
    depths, widths, stem_width: see `resnet.ResNetV2`.
    pool: "all" takes the mean over frames and bins, as published; "time" over frames
      only, bins side by side: small networks would lose the pitch otherwise.
    bn_eps, bn_momentum, bn_groups: see `layers.norm`.
  """

  depths: Sequence[int] = resnet.DEPTHS
  widths: Sequence[int] = resnet.WIDTHS
  stem_width: int = 64
  pool: str = "all"
  bn_eps: float = 1e-5
  bn_momentum: float = 0.9
  bn_groups: int = 1
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    logmel: jax.Array,
    *,
    train: bool = False,
    where: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """features [B, D] float32, and last [B, f, m, D], before the last BN.

    Args: logmel [B, F, M]; where [B] bool, rows with sound.
    """
    if self.pool not in ("all", "time"):
      raise ValueError(f"pool is {self.pool!r}; give 'all' or 'time'.")
    trunk = resnet.ResNetV2(
      self.depths,
      self.widths,
      self.stem_width,
      norm=functools.partial(
        norm.BatchNorm,
        momentum=self.bn_momentum,
        eps=self.bn_eps,
        groups=self.bn_groups,
      ),
      dtype=self.dtype,
      name="trunk",
    )
    out = trunk(logmel[..., None], train=train, where=where)
    y = wide(out["map"]).mean(1)  # [B, m, D]
    y = y.mean(1) if self.pool == "all" else y.reshape(len(y), -1)
    return {"features": y, "last": out["last"]}


class AudioResNet18(nn.Module):
  """XDC's: a 3 x 3 convolution to 16, three blocks of 32, then ResNet-18's stages.

  Post-activation basic blocks; the first of the 32s and the first of each stage halve
  the spectrogram; the features are maxima over frames and bins; BN with eps 1e-3 as in
  Caffe2. That the published audio encoder is this one exactly is not documented.
  """

  widths: Sequence[int] = (64, 128, 256, 512)
  stem_width: int = 16
  first_width: int = 32
  bn_eps: float = 1e-3
  bn_momentum: float = 0.9
  bn_groups: int = 1
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    logmel: jax.Array,
    *,
    train: bool = False,
    where: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """features [B, D] float32, the maximum of last [B, f, m, D].

    Args: logmel [B, F, M], 100 x 40 in XDC; where [B] bool, rows with sound.
    """
    run = dict(train=train, where=where)
    bn = functools.partial(
      norm.BatchNorm,
      momentum=self.bn_momentum,
      eps=self.bn_eps,
      groups=self.bn_groups,
      unbiased=True,
    )
    x = conv2d.Conv2D(
      self.stem_width,
      (3, 3),
      padding="torch",
      use_bias=True,  # no normalisation follows
      kernel_init=conv2d.msra_normal,
      dtype=self.dtype,
      name="stem",
    )(logmel[..., None])
    blocks = [(self.first_width, s) for s in (2, 1, 1)]
    blocks += [(width, stride) for width in self.widths for stride in (2, 1)]
    for i, (width, stride) in enumerate(blocks):
      block = resnet.Basic(width, stride, bn, dtype=self.dtype, name=f"block_{i}")
      x = block(x, **run)
    return {"features": wide(x).max((1, 2)), "last": x}
