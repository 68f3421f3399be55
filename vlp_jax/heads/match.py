"""Scores of a pair out of its pooled state: matching, ranking, pairs of images."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import attention, dense, dropout
from vlp_jax.metrics import wide


class Match(nn.Module):
  """Linear to `num_classes` logits in float32: [..., D] -> [..., num_classes]."""

  num_classes: int = 2

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = wide(x)
    return dense.Linear(self.num_classes, dtype=x.dtype.name, name="dense")(x)


class PairedAttention(nn.Module):
  """NLVR2 over two encoded pairs (UNITER, section 4.2 and the published code).

    L' = Drop(relu(W [MHA_1(L, R, R); L])), R' = Drop(relu(W [MHA_2(R, L, L); R]))

  with one W for both; each side is pooled by softmax(relu(w . x)) over its tokens, with
  dropout on these weights, and [left; right] goes linearly to 2 logits.
  """

  num_heads: int
  dropout: float = 0.1
  dtype: str = "float32"

  @nn.compact
  def __call__(
    self,
    left: jax.Array,
    right: jax.Array,
    left_where: jax.Array,
    right_where: jax.Array,
    *,
    train: bool = False,
  ) -> jax.Array:
    """[B, M, D] twice and their masks [B, M] -> logits [B, 2] float32."""
    attend = lambda name: attention.Attention(
      self.num_heads, dropout=self.dropout, dtype=self.dtype, name=name
    )
    width = left.shape[-1]
    mix = dense.Linear(width, (None, "embed"), dtype=self.dtype, name="mix")
    score = dense.Linear(1, name="pool")
    drop = dropout.Dropout(self.dropout)

    def side(name, own, other, own_where, other_where):
      seen = attend(name)(own, other_where, context=other, train=train).x
      own = jnp.concatenate([seen, own], axis=-1)
      own = wide(drop(jax.nn.relu(mix(own)), train=train))
      s = jax.nn.relu(score(own)[..., 0])  # [B, M]
      s = jnp.where(own_where, s, jnp.finfo(s.dtype).min)
      weights = drop(jax.nn.softmax(s, axis=-1), train=train)
      return jnp.einsum("bm,bmd->bd", weights, own)

    both = [
      side("left", left, right, left_where, right_where),
      side("right", right, left, right_where, left_where),
    ]
    return Match(name="match")(jnp.concatenate(both, axis=-1))
