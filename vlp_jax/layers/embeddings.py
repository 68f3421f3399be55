"""Word, position and type embeddings of BERT (arXiv 1810.04805, section 3.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import dense, dropout


class Bert(nn.Module):
  """Drop(LN(word + position + type)); its tables serve tied heads and other streams.

  Attributes:
    vocab_size, width, max_positions, type_vocab: sizes of the three tables; a
      type_vocab of 0 leaves the types out (decoders).
    eps: of the norm.
  """

  vocab_size: int
  width: int
  max_positions: int = 512
  type_vocab: int = 2
  dropout: float = 0.1
  eps: float = 1e-12
  dtype: str = "float32"

  def setup(self):
    named = lambda *names: nn.with_logical_partitioning(dense.INIT, names)
    sizes = (self.vocab_size, self.max_positions, self.type_vocab)
    self.table = self.param("words", named("vocab", "embed"), (sizes[0], self.width))
    self.places = self.param("positions", named(None, "embed"), (sizes[1], self.width))
    if self.type_vocab:
      self.kinds = self.param("types", named(None, "embed"), (sizes[2], self.width))
    self.norm = dense.LayerNorm(self.eps, self.dtype)
    self.drop = dropout.Dropout(self.dropout)

  def __call__(
    self,
    ids: jax.Array,
    *,
    types: jax.Array | None = None,
    positions: jax.Array | None = None,
    delta: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """Embeds.

    Args:
      ids: [B, L] int32; one out of range gives NaN, which training reports.
      types: [B, L] int32, 0 when None; positions: [B, L] int32, 0..L-1 when None.
      delta: [B, L, D] added to the word embeddings (adversarial training).
    Returns: [B, L, D] in `dtype`.
    Raises: ValueError when L is beyond the position table.
    """
    length = ids.shape[1]
    if positions is None and length > self.max_positions:
      raise ValueError(
        f"a text of {length} tokens is beyond the {self.max_positions} positions of "
        "the table; shorten the text or set model.max_positions."
      )
    axes = ("act_batch", "act_length", "act_embed")
    # A table split by width would leave the states split so: gather the width first.
    table = nn.with_logical_constraint(self.table, ("act_vocab", "act_embed"))
    x = nn.with_logical_constraint(jnp.take(table, ids, axis=0), axes)
    if delta is not None:
      x = x + delta
    if positions is None:
      at = self.places[:length]
    else:
      at = jnp.take(self.places, positions, axis=0)
    x = x + at
    if self.type_vocab:
      x = x + (self.kinds[0] if types is None else self.type(types))
    elif types is not None:
      raise ValueError("types are given, but type_vocab is 0.")
    x = nn.with_logical_constraint(self.norm(x), axes)
    return self.drop(x, train=train)

  def type(self, ids: int | jax.Array) -> jax.Array:
    """Rows of the type table: [..., D] float32; out of range is NaN."""
    return jnp.take(self.kinds, ids, axis=0)

  def attend(self, x: jax.Array) -> jax.Array:
    """Tied logits [..., V] in float32 of x [..., D]."""
    return tied(x, self.table, self.dtype)


def tied(x: jax.Array, table: jax.Array, dtype: str = "float32") -> jax.Array:
  """x [..., D] times table [V, D] transposed: [..., V], accumulated in float32."""
  return jnp.einsum(
    "...d,vd->...v",
    x.astype(dtype),
    table.astype(dtype),
    preferred_element_type=jnp.promote_types(dtype, jnp.float32),
  )
