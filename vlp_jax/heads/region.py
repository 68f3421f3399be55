"""Masked regions: features back (MRFR) and classes (MRC), UNITER, arXiv 1909.11740."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import dense, embeddings


class Mrfr(nn.Module):
  """LN(gelu(W h + b)) W_v^T + bias, tied to the projection W_v [Dr, D] of the input."""

  eps: float = 1e-12
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[B, R, D] and W_v [Dr, D] -> features [B, R, Dr] float32."""
    x = dense.Transform(eps=self.eps, dtype=self.dtype, name="transform")(x)
    bias = self.param("bias", nn.initializers.zeros_init(), kernel.shape[:1])
    return embeddings.tied(x, kernel, self.dtype) + bias


class Mrc(nn.Module):
  """LN(gelu(W h + b)) then linear to the detector's classes, background first."""

  num_classes: int
  eps: float = 1e-12
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, R, D] -> logits [B, R, C] float32."""
    x = dense.Transform(eps=self.eps, dtype=self.dtype, name="transform")(x)
    out = dense.Linear(
      self.num_classes,
      ("embed", None),
      dtype=self.dtype,
      out_dtype=jnp.promote_types(self.dtype, jnp.float32).name,
      name="out",
    )
    return out(x)
