"""BERT's pooler: act(W h + b) of one token's state."""

import flax.linen as nn
import jax

from vlp_jax.layers import dense


class Pooler(nn.Module):
  """[B, D] -> [B, width]; the width of the input when None (ViLBERT: relu, wider)."""

  width: int | None = None
  act: str = "tanh"
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = self.width or x.shape[-1]
    linear = dense.Linear(width, ("embed", None), dtype=self.dtype, name="dense")
    return dense.activation(self.act)(linear(x))
