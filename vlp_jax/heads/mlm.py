"""Masked words: LN(gelu(W h + b)) E^T + bias, tied to the word table E."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import dense, embeddings


class Mlm(nn.Module):
  """Logits over the vocabulary, at the masked positions only: the head costs D V each.

  Attributes:
    act, eps: of the transform.
  """

  act: str = "gelu"
  eps: float = 1e-12
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
    """[B, P, D] and the word table [V, D] -> logits [B, P, V] float32."""
    x = dense.Transform(self.act, self.eps, self.dtype, name="transform")(x)
    zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("vocab",))
    bias = self.param("bias", zeros, table.shape[:1])
    logits = embeddings.tied(x, table, self.dtype) + bias
    return nn.with_logical_constraint(logits, ("act_batch", None, "act_vocab"))


def at_positions(x: jax.Array, positions: jax.Array) -> jax.Array:
  """States [B, L, D] at positions [B, P] int32: [B, P, D]."""
  return jnp.take_along_axis(x, positions[..., None], axis=1)
