"""Gated embedding unit of the HowTo100M model (arXiv 1906.03327, after 1706.06905).

f = W x + b,    y = unit( f * sigmoid(W_g f + b_g) )
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import conv3d
from vlp_jax.metrics import wide


def unit(x: jax.Array, eps: float = 1e-12) -> jax.Array:
  """x / max(|x|, eps) over the last axis, float32 or wider; 0, and no NaN, at 0."""
  x = wide(x)
  square = jnp.square(x).sum(-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, eps**2))


class GatedUnit(nn.Module):
  """[..., D] to unit vectors [..., width] float32.

  The published class holds a BatchNorm as well that its code never calls.
  """

  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = conv3d.torch_uniform
    make = lambda name: nn.Dense(
      self.width, kernel_init=init, dtype=self.dtype, name=name
    )
    x = make("fc")(x)
    return unit(wide(x) * nn.sigmoid(wide(make("gate")(x))))
