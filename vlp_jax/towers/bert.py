"""BERT's text encoder: embeddings, post-norm blocks, pooler (arXiv 1810.04805).

Base has 109,482,240 parameters and large 335,141,888, pooler included, with the 30,522
words of the uncased vocabulary. RoBERTa (arXiv 1907.11692) is the same net with one
type, eps 1e-5 and its own words.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import dense, embeddings, transformer

VARIANTS = {  # mu is for tests: other numbers, same code
  "mu": dict(width=32, depth=2, num_heads=2, max_positions=64),
  "small": dict(width=256, depth=4, num_heads=4),
  "base": dict(width=768, depth=12, num_heads=12),
  "large": dict(width=1024, depth=24, num_heads=16),
  "roberta_base": dict(width=768, depth=12, num_heads=12, type_vocab=1, eps=1e-5),
}


class Encoded(NamedTuple):
  """x [B, L, D], 0 at padding; pooled [B, D]; on request hidden, maps of all layers."""

  x: jax.Array
  pooled: jax.Array | None = None
  hidden: jax.Array | None = None
  maps: jax.Array | None = None


def causal(length: int) -> jax.Array:
  """[1, L, L] bool: a token sees itself and what stands before it."""
  return jnp.tril(jnp.ones((length, length), bool))[None]


class Bert(nn.Module):
  """The tower.

  Attributes:
    vocab_size, width, depth, num_heads, mlp_dim: sizes; mlp_dim is 4 * width if None.
    pool: whether there is a pooler, tanh(W h + b) of the first token.
    causal: attention to earlier tokens only, for autoregressive language models.
    others: see `layers.transformer` and `layers.embeddings`.
  """

  vocab_size: int
  width: int
  depth: int
  num_heads: int
  mlp_dim: int | None = None
  max_positions: int = 512
  type_vocab: int = 2
  pool: bool = True
  causal: bool = False
  dropout: float = 0.1
  attention_dropout: float | None = None
  eps: float = 1e-12
  act: str = "gelu"
  dtype: str = "float32"
  implementation: str | None = None
  remat: str = "none"

  def setup(self):
    self.embed = embeddings.Bert(
      self.vocab_size,
      self.width,
      self.max_positions,
      self.type_vocab,
      self.dropout,
      self.eps,
      self.dtype,
    )
    self.encoder = transformer.Stack(
      self.depth,
      self.num_heads,
      self.mlp_dim or 4 * self.width,
      self.dropout,
      self.attention_dropout,
      self.eps,
      self.act,
      self.dtype,
      self.implementation,
      self.remat,
    )
    if self.pool:
      self.pooler = dense.Linear(self.width, ("embed", None), dtype=self.dtype)

  @property
  def table(self) -> jax.Array:
    """The word table [V, D], to which prediction heads are tied."""
    return self.embed.table

  def __call__(
    self,
    ids: jax.Array,
    where: jax.Array,
    *,
    types: jax.Array | None = None,
    positions: jax.Array | None = None,
    segments: jax.Array | None = None,
    delta: jax.Array | None = None,
    train: bool = False,
    hidden: bool = False,
    maps: bool = False,
  ) -> Encoded:
    """Encodes texts.

    Args:
      ids: [B, L] int32; where: [B, L] bool, real tokens; types, positions: [B, L].
      segments: [B, L] int32, 0 at padding: in packed rows a token sees those of its own
        example only.
      delta: [B, L, D] added to the word embeddings.
    """
    x = self.embed(ids, types=types, positions=positions, delta=delta, train=train)
    full = causal(ids.shape[1]) if self.causal else None
    if segments is not None:
      own = segments[:, :, None] == segments[:, None, :]
      full = own if full is None else own & full
    out = self.encoder(x, where, full, train=train, hidden=hidden, maps=maps)
    x = jnp.where(where[..., None], out.x, 0)
    pooled = self.pool_token(x[:, 0]) if self.pool else None
    return Encoded(x, pooled, out.hidden, out.maps)

  def pool_token(self, x: jax.Array) -> jax.Array:
    """The pooler on states [..., D] of first tokens."""
    return jnp.tanh(self.pooler(x))
