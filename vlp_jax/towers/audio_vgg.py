"""AVTS's sound network: five blocks of 3 x 3 convolutions, a VGG (arXiv 1807.00230).

Takes a spectrogram [B, F, bins, 1] of about a second: 100 frames of 40 filters of
`layers.logmel` ("xdc"). The paper names the form only; its sizes are not published, so
the defaults are VGG-11's convolutions, each with BatchNorm.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import conv2d, norm
from vlp_jax.metrics import wide


class AudioVGG(nn.Module):
  """conv, BN, ReLU `depths[i]` times, then a 2 x 2 max-pool, in each block.

  The pool of the last block spans the whole map; a dense layer with ReLU follows.

  Attributes:
    widths, depths: of the blocks conv1 to conv5.
    fc_dim: of the dense layer; bn_*: see `layers.norm`.
  """

  widths: Sequence[int] = (64, 128, 256, 512, 512)
  depths: Sequence[int] = (1, 1, 2, 2, 2)
  fc_dim: int = 512
  bn_eps: float = 1e-5
  bn_momentum: float = 0.9
  bn_groups: int = 1
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, where: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """features [B, fc_dim] and pooled [B, widths[-1]] (of conv5), float32.

    Args: x [B, F, bins, 1]; where [B] bool, rows that are there.
    """
    bn = functools.partial(
      norm.BatchNorm,
      momentum=self.bn_momentum,
      eps=self.bn_eps,
      groups=self.bn_groups,
      dtype=self.dtype,
    )
    for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True), 1):
      if i > 1:
        x = conv2d.max_pool(x, (2, 2), (2, 2), "valid")
      for k in range(1, depth + 1):
        conv = conv2d.Conv2D(
          width,
          (3, 3),
          kernel_init=conv2d.msra_normal,
          dtype=self.dtype,
          name=f"conv{i}_{k}",
        )
        x = nn.relu(bn(name=f"bn{i}_{k}")(conv(x), train=train, where=where))
    pooled = wide(x).max((1, 2))
    fc = nn.Dense(
      self.fc_dim, kernel_init=conv2d.msra_normal, dtype=self.dtype, name="fc"
    )
    return {"features": wide(nn.relu(fc(pooled))), "pooled": pooled}
