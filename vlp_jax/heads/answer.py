"""Two-layer heads of the downstream tasks: answers, choices, region scores."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import dense


class Answer(nn.Module):
  """Linear to `hidden`, act, LN, linear to `num_answers` logits in float32.

  UNITER: VQA and visual entailment (hidden 2 D, gelu), VCR (2 D, relu, 2 logits),
  referring expressions (D, gelu, 1 logit).
  """

  num_answers: int
  hidden: int
  act: str = "gelu"
  eps: float = 1e-12
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., D] -> [..., num_answers]."""
    up = dense.Linear(self.hidden, ("embed", "mlp"), dtype=self.dtype, name="dense")
    x = dense.activation(self.act)(up(x))
    x = dense.LayerNorm(self.eps, self.dtype, name="norm")(x)
    wider = jnp.promote_types(self.dtype, jnp.float32).name
    out = dense.Linear(self.num_answers, dtype=self.dtype, out_dtype=wider, name="out")
    return out(x)
