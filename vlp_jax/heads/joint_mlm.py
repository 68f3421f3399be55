"""Masked words and masked video tokens of one joint vocabulary (arXiv 1904.01766).

    logits_E(h) = LN(gelu(W h + b)) E^T + bias_E

One transform serves both, as in a BERT whose vocabulary has grown; the softmax runs
over the part that the slot belongs to, words E_w or video tokens E_v.
"""

import flax.linen as nn
import jax

from vlp_jax.layers import dense, embeddings


class JointMlm(nn.Module):
  """`words` and `tokens` give float32 logits [B, P, V] and [B, Q, K].

  Attributes:
    num_words, num_tokens: V and K, rows of the two tables.
  """

  num_words: int
  num_tokens: int
  act: str = "gelu"
  eps: float = 1e-12
  dtype: str = "float32"

  def setup(self):
    zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("vocab",))
    self.transform = dense.Transform(self.act, self.eps, self.dtype)
    self.bias = self.param("bias", zeros, (self.num_words,))
    self.token_bias = self.param("token_bias", zeros, (self.num_tokens,))

  def _logits(self, x, table, bias):
    logits = embeddings.tied(self.transform(x), table, self.dtype) + bias
    return nn.with_logical_constraint(logits, ("act_batch", None, "act_vocab"))

  def words(self, x: jax.Array, table: jax.Array) -> jax.Array:
    """[B, P, D] and the word table [V, D]."""
    return self._logits(x, table, self.bias)

  def tokens(self, x: jax.Array, table: jax.Array) -> jax.Array:
    """[B, Q, D] and the table of video tokens [K, D]."""
    return self._logits(x, table, self.token_bias)
