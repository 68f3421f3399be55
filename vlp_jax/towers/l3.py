"""L3-Net's image and sound networks: four blocks of two 3 x 3 convolutions.

`arXiv 1705.08168` (Look, Listen and Learn), with AVE-Net's and AVOL-Net's first
convolution at stride 2 (`arXiv 1712.06651`). The image is [B, H, W, 3], the sound a
log-spectrogram [B, bins, frames, 1] of `layers.logmel` ("l3" or "ave"), turned: 257 x
199 in L3-Net.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import conv2d, norm, pixels
from vlp_jax.metrics import wide


class L3(nn.Module):
  """The tower: conv, BN, ReLU twice, then a 2 x 2 max-pool, four times.

  The last pool spans the whole map. 4,689,216 parameters on images and 4,688,064 on
  sound, biases and BN included.

  Attributes:
    first_stride: 1 in L3-Net, 2 in AVE-Net and AVOL-Net.
    widths: of the blocks; bn_*: see `layers.norm`.
  """

  widths: Sequence[int] = (64, 128, 256, 512)
  first_stride: int = 1
  bn_eps: float = 1e-5
  bn_momentum: float = 0.9
  bn_groups: int = 1
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, where: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """features [B, D] float32, the maximum of map [B, h, w, D].

    Args: x [B, H, W, C], uint8 or float; where [B] bool, rows that are there.
    """
    bn = functools.partial(
      norm.BatchNorm,
      momentum=self.bn_momentum,
      eps=self.bn_eps,
      groups=self.bn_groups,
      dtype=self.dtype,
    )
    x = pixels.unit(x)
    for i, width in enumerate(self.widths):
      if i:
        x = conv2d.max_pool(x, (2, 2), (2, 2), "valid")
      for k in range(2):
        stride = self.first_stride if i == k == 0 else 1
        conv = conv2d.Conv2D(
          width,
          (3, 3),
          (stride, stride),
          use_bias=True,
          kernel_init=conv2d.msra_normal,
          dtype=self.dtype,
          name=f"conv_{i}_{k}",
        )
        x = nn.relu(bn(name=f"bn_{i}_{k}")(conv(x), train=train, where=where))
    return {"features": wide(x).max((1, 2)), "map": x}


def middle(frames: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The frame in the middle of the real ones.

  Args: frames [B, T, H, W, 3]; mask [B, T] bool, real frames, which come first.
  Returns: [B, H, W, 3], black in rows without a frame, and [B] bool, rows with one.
  """
  at = mask.sum(1) // 2
  real = jnp.take_along_axis(mask, at[:, None], axis=1)[:, 0]
  frame = jnp.take_along_axis(frames, at[:, None, None, None, None], axis=1)[:, 0]
  black = jnp.zeros((), frames.dtype)
  return jnp.where(real[:, None, None, None], frame, black), real


def grid_max(x: jax.Array, rows: int = 4, columns: int = 3) -> jax.Array:
  """Maxima of a map [B, h, w, D] over rows x columns equal parts: [B, r * c * D].

  Of the 32 x 24 map of one second of sound it makes the 6,144 numbers that L3-Net's
  classifiers of sounds read. What is left over at the end of an axis does not count.
  """
  rows, columns = min(rows, x.shape[1]), min(columns, x.shape[2])
  part = x.shape[1] // rows, x.shape[2] // columns
  x = conv2d.max_pool(x[:, : part[0] * rows, : part[1] * columns], part, part, "valid")
  return wide(x).reshape(len(x), -1)
