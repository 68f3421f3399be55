"""Projections of features into a joint space: linear, or with a hidden layer."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import conv2d, norm
from vlp_jax.metrics import wide


class Projection(nn.Module):
  """[B, C] to [B, dim]: `linear`, or Dense, BN, ReLU, Dense; then BN if asked.

  The form of MMV (arXiv 2006.16228): the last dense layer has a bias unless a hidden
  one and a BN stand around it.

  Attributes:
    hidden: width of the hidden layer; 0 for a linear map.
    bn_after: whether the result is batch-normalised.
    norm: of the BatchNorms, with their settings.
  """

  dim: int
  hidden: int = 0
  bn_after: bool = False
  norm: functools.partial = functools.partial(norm.BatchNorm)
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, where: jax.Array | None = None
  ) -> jax.Array:
    """x [B, C], where [B] bool, rows that count in the statistics; [B, dim] float32."""
    run = dict(train=train, where=where)
    dense = functools.partial(
      nn.Dense, kernel_init=conv2d.haiku_normal, dtype=self.dtype
    )
    if self.hidden:
      x = self.norm(dtype=self.dtype, name="inner_bn")(
        dense(self.hidden, name="inner")(x), **run
      )
      x = nn.relu(x)
    bias = not (self.hidden and self.bn_after)
    x = wide(dense(self.dim, use_bias=bias, name="final")(x))
    return self.norm(dtype=x.dtype, name="final_bn")(x, **run) if self.bn_after else x
