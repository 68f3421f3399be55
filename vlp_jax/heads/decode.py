"""UniVL's decoder: writes a text about any sequence of states (arXiv 2002.06353).

Embeddings of words and positions, `layers.decoder`, and a head tied to the word table.
With 30,522 words, width 768 and three layers it has 52,813,626 parameters, of which
23,834,112 are the two tables.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.heads import mlm
from vlp_jax.layers import decoder, decoding, embeddings
from vlp_jax.vocab import Vocab


class Decoder(nn.Module):
  """Scores of the next words given the right ones, and whole texts.

  Attributes:
    vocab: with [CLS] and [SEP], where a text begins and ends, for `write`.
    max_positions: of the table.
    others: see `layers.transformer`.
  """

  vocab: Vocab
  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  max_positions: int = 512
  dropout: float = 0.1
  attention_dropout: float | None = None
  eps: float = 1e-12
  act: str = "gelu"
  dtype: str = "float32"
  implementation: str | None = None
  remat: str = "none"

  def setup(self):
    shared = dict(eps=self.eps, dtype=self.dtype)
    self.embed = embeddings.Bert(
      self.vocab.size, self.width, self.max_positions, 0, self.dropout, **shared
    )
    self.stack = decoder.Stack(
      self.depth,
      self.num_heads,
      self.mlp_dim,
      self.dropout,
      self.attention_dropout,
      act=self.act,
      implementation=self.implementation,
      remat=self.remat,
      **shared,
    )
    self.head = mlm.Mlm(self.act, **shared)

  def __call__(
    self,
    ids: jax.Array,
    where: jax.Array,
    context: jax.Array,
    context_where: jax.Array,
    *,
    train: bool = False,
  ) -> jax.Array:
    """Scores [B, L, V] float32 of the token behind each of ids [B, L].

    Args:
      where: [B, L] bool, real tokens.
      context, context_where: [B, K, C] and [B, K] bool.
    """
    x = self.embed(ids, train=train)
    given = dict(context=context, context_where=context_where)
    out = self.stack(x, where, **given, train=train)
    return self.head(out.x, self.embed.table)

  def memory(self, context: jax.Array, where: jax.Array):
    """Keys and values of the context, by a run over a single token."""
    first = jnp.full((len(context), 1), self.vocab.cls_id, jnp.int32)
    given = dict(context=context, context_where=where, keep=True)
    return self.stack(self.embed(first), **given).memory

  def step(self, cache: decoder.Cache, ids: jax.Array, memory, where: jax.Array):
    """(scores [N, V], cache) behind the tokens ids [N].

    Args:
      memory, where: of B rows, each for the N / B beams that follow each other.
    """
    at = jnp.broadcast_to(cache.at, (len(ids), 1))
    x = self.embed(ids[:, None], positions=at)
    out = self.stack(x, memory=memory, context_where=where, cache=cache)
    return self.head(out.x, self.embed.table)[:, 0], out.cache

  def write(
    self,
    context: jax.Array,
    where: jax.Array,
    search: decoding.Search,
    *,
    rows: jax.Array | None = None,
  ) -> decoding.Written:
    """Writes a text for every row; special ids never come but the [SEP] at the end.

    Args:
      context, where: [B, K, C] and [B, K] bool.
      rows: [B] bool, which want a text; all when None.
    Raises: ValueError if the vocabulary has no [CLS] or [SEP], or texts may become
      longer than the table of positions.
    """
    v = self.vocab
    if min(v.cls_id, v.sep_id) < 0:
      raise ValueError(
        f"writing needs [CLS] and [SEP]; the vocabulary has {v.cls_id} and {v.sep_id} "
        "(-1: none). Set vocab.name=wordpiece."
      )
    if search.max_length > self.max_positions:
      raise ValueError(
        f"max_length={search.max_length} is beyond the {self.max_positions} positions."
      )
    memory = self.memory(context, where)
    # Loops of jax take functions, not bound modules.
    plain, variables = self.unbind()

    def step(cache, ids):
      return plain.apply(variables, cache, ids, memory, where, method="step")

    size = len(context) * search.beam, search.max_length
    heads = self.num_heads, self.width // self.num_heads
    return decoding.write(
      step,
      decoder.empty(self.depth, *size, *heads, self.dtype),
      len(context),
      decoding.Tokens(v.cls_id, v.sep_id, v.pad_id, v.special_ids),
      search,
      where=rows,
      reorder=decoder.reorder,
    )
