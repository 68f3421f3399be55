"""A scalar for a video and a text: one Transformer over both (CBT, arXiv 1906.05743).

h(x, y) = MLP( Transformer( [CLS]; text states; video states )_[CLS] )
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import dense, dropout, transformer
from vlp_jax.metrics import wide


class PairScore(nn.Module):
  """Attributes: sizes of the Transformer; the MLP has one hidden layer of its width."""

  width: int
  depth: int
  num_heads: int
  dropout: float = 0.1
  eps: float = 1e-12
  dtype: str = "float32"

  def setup(self):
    linear = lambda width: dense.Linear(width, ("embed", None), dtype=self.dtype)
    self.first = self.param("first", dense.INIT, (self.width,))
    self.kinds = self.param("kinds", dense.INIT, (3, self.width))
    self.text = linear(self.width)
    self.video = linear(self.width)
    self.norm = dense.LayerNorm(self.eps, self.dtype)
    self.drop = dropout.Dropout(self.dropout)
    self.stack = transformer.Stack(
      self.depth,
      self.num_heads,
      4 * self.width,
      self.dropout,
      eps=self.eps,
      dtype=self.dtype,
    )
    self.hidden, self.out = linear(self.width), dense.Linear(1)

  def __call__(
    self,
    video: jax.Array,
    video_where: jax.Array,
    text: jax.Array,
    text_where: jax.Array,
    *,
    train: bool = False,
  ) -> jax.Array:
    """[B, T, Dv], [B, T], [B, L, Dt], [B, L] -> scores [B] float32."""
    first = jnp.broadcast_to(self.first, (len(video), 1, self.width))
    parts = [first, self.text(text), self.video(video)]
    x = jnp.concatenate(
      [x + kind for x, kind in zip(parts, self.kinds, strict=True)], axis=1
    )
    ones = jnp.ones((len(video), 1), bool)
    where = jnp.concatenate([ones, text_where, video_where], axis=1)
    x = self.drop(self.norm(x), train=train)
    x = self.stack(x, where, train=train).x[:, 0]
    return wide(self.out(wide(dense.gelu(self.hidden(x)))))[..., 0]

  def columns(self, video, video_where, text, text_where, index, *, train=False):
    """Scores [B, K] of video i with text index[i, k], one column after the other.

    Only one column's states are in memory; the backward pass computes them again.
    """

    def body(pair, carry, at):
      score = pair(video, video_where, text[at], text_where[at], train=train)
      return carry, score

    scan = nn.scan(
      nn.remat(body, prevent_cse=False),
      variable_broadcast="params",
      split_rngs={"params": False, "dropout": True},
    )
    return scan(self, (), index.T)[1].T
