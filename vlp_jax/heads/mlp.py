"""Projectors and predictors of siamese networks: dense layers with ReLU between."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import conv2d, norm
from vlp_jax.metrics import wide


class Mlp(nn.Module):
  """[B, C] to [B, dim] in `depth` dense layers; the hidden ones may have BN.

  SimCLR (arXiv 2002.05709): BN throughout, no bias in any dense layer, none in the last
  BN. MoCo (1911.05722, 2003.04297): one layer or two with biases, no BN. BYOL
  (2006.07733): dense with bias, BN, ReLU, dense without. BraVe (2103.16559): biases
  throughout, and BN with a bias behind the projector.

  Attributes:
    hidden: width of the hidden layers; 0: that of the input.
    hidden_bn: BN before the ReLUs. hidden_bias: of the dense layers before.
    last_bn: BN behind the last layer, with a bias if `center`. last_bias: of that
      layer.
    norm: of the BatchNorms, with their settings.
  """

  dim: int
  depth: int = 2
  hidden: int = 0
  hidden_bn: bool = True
  hidden_bias: bool = True
  last_bn: bool = False
  last_bias: bool = False
  center: bool = False
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
    hidden = self.hidden or x.shape[-1]
    for i in range(self.depth - 1):
      x = dense(hidden, use_bias=self.hidden_bias, name=f"dense_{i}")(x)
      if self.hidden_bn:
        x = self.norm(dtype=self.dtype, name=f"bn_{i}")(x, **run)
      x = nn.relu(x)
    last = dense(self.dim, use_bias=self.last_bias, name=f"dense_{self.depth - 1}")
    x = wide(last(x))
    if self.last_bn:
      bn = self.norm(center=self.center, dtype=x.dtype, name=f"bn_{self.depth - 1}")
      x = bn(x, **run)
    return x
