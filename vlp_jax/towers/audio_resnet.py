"""Audio networks on log-mel spectrograms: ResNet-50 of MMV and BraVe, XDC's ResNet-18.

Both take a spectrogram [B, F, M] (frames, bins) of `layers.logmel` as a picture of one
channel. Sources: arXiv 2006.16228 and 2103.16559; arXiv 1911.12667 with the acoustic
network of its code base.
"""

import functools
import itertools
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
      only, bins side by side: small networks would lose the pitch otherwise; "parts"
      means over `parts` stretches of the real frames and `bands` of the bins, side by
      side, for words, whose sounds have an order.
    parts, bands: of pool "parts".
    neck: width of a dense layer with BN and ReLU behind the pool; 0 for none.
    bn_eps, bn_momentum, bn_groups: see `layers.norm`.
  """

  depths: Sequence[int] = resnet.DEPTHS
  widths: Sequence[int] = resnet.WIDTHS
  stem_width: int = 64
  pool: str = "all"
  parts: int = 6
  bands: int = 5
  neck: int = 0
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
    frames: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """features [B, D] float32, and last [B, f, m, D], before the last BN.

    Args: logmel [B, F, M]; where [B] bool, rows with sound; frames [B, F] bool, the
      real ones, which come first; all when None. Only pool "parts" asks.
    """
    if self.pool not in ("all", "time", "parts"):
      raise ValueError(f"pool is {self.pool!r}; give 'all', 'time' or 'parts'.")
    bn = functools.partial(
      norm.BatchNorm,
      momentum=self.bn_momentum,
      eps=self.bn_eps,
      groups=self.bn_groups,
    )
    trunk = resnet.ResNetV2(
      self.depths,
      self.widths,
      self.stem_width,
      norm=bn,
      dtype=self.dtype,
      name="trunk",
    )
    out = trunk(logmel[..., None], train=train, where=where)
    y = wide(out["map"])
    if self.pool == "parts":
      real = jnp.ones(logmel.shape[:2], bool) if frames is None else frames
      y = parts_of_time(y, real.mean(1), self.parts)  # [B, parts, m, D]
      y = bands_of_bins(y, self.bands).reshape(len(y), -1)
    else:
      y = y.mean(1)  # [B, m, D]
      y = y.mean(1) if self.pool == "all" else y.reshape(len(y), -1)
    if self.neck:
      init = nn.initializers.lecun_normal()
      y = nn.Dense(self.neck, kernel_init=init, dtype=self.dtype, name="neck")(y)
      y = bn(dtype=self.dtype, name="neck_bn")(y, train=train, where=where)
      y = wide(nn.relu(y))
    return {"features": y, "last": out["last"]}


def parts_of_time(x: jax.Array, share: jax.Array, parts: int) -> jax.Array:
  """Means over overlapping stretches of the real steps of a map.

  Part k of P is centred at (k + 1/2) / P of the real length and weighs steps by a
  triangle that ends at the centres of its neighbours; where that holds no step it is
  the nearest one.

  Args: x [B, t, m, D]; share [B], of the t steps that are real, from the first on.
  Returns: [B, P, m, D].
  """
  steps = jnp.arange(x.shape[1])
  length = jnp.maximum(share * x.shape[1], 1.0)[:, None]  # [B, 1]
  centre = (jnp.arange(parts) + 0.5) / parts * length - 0.5  # [B, P]
  far = jnp.abs(steps - centre[..., None]) / (length / parts)[..., None]
  real = steps < jnp.ceil(length)[..., None]
  weight = jnp.where(real, jnp.maximum(1 - far, 0.0), 0.0)
  nearest = jax.nn.one_hot(jnp.where(real, far, jnp.inf).argmin(-1), x.shape[1])
  weight = jnp.where(weight.sum(-1, keepdims=True) > 1e-3, weight, nearest)
  weight = weight / weight.sum(-1, keepdims=True)
  return jnp.einsum("bpt,btmd->bpmd", weight, x)


def bands_of_bins(x: jax.Array, bands: int) -> jax.Array:
  """Means over `bands` runs of neighbouring bins, as even as they go: [B, P, n, D]."""
  size, bands = x.shape[2], min(bands, x.shape[2])
  edges = [i * size // bands for i in range(bands + 1)]
  runs = [x[:, :, a:b].mean(2) for a, b in itertools.pairwise(edges)]
  return jnp.stack(runs, axis=2)


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
    frames: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """features [B, D] float32, the maximum of last [B, f, m, D].

    Args: logmel [B, F, M], 100 x 40 in XDC; where [B] bool, rows with sound; frames,
      for the sake of one call for all towers, is not read: silence counts.
    """
    del frames
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
