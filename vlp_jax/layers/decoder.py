"""The decoder block and a stack of them: earlier words, then a context, then an MLP.

    a = LN(x + Drop(MHA(x, x, x, causal)))
    c = LN(a + Drop(MHA(a, context, context)))
    y = LN(c + Drop(W_2 act(W_1 c)))

Post-norm with BERT's eps 1e-12 and erf GELU, as in UniVL (arXiv 2002.06353), whose
block has these parts in this order. Whole texts run at once for teacher forcing; for
writing there is a mode of one token, whose keys and values of earlier tokens lie in a
`Cache` that is passed in and handed back.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import attention, dense, dropout, transformer
from vlp_jax.metrics import wide


class Cache(NamedTuple):
  """Self-attention's key, value [depth, N, L, heads, d]; at [] int32, tokens so far."""

  key: jax.Array
  value: jax.Array
  at: jax.Array


class Decoded(NamedTuple):
  """x [B, L, D]; others as asked for or given.

  hidden: [depth, B, L, D], states of every layer. maps: the context's attention maps
  [depth, B, heads, L, K]. memory: keys and values of the context, [depth, B, K, heads,
  d] each. cache: with the token of this call in it.
  """

  x: jax.Array
  hidden: jax.Array | None = None
  maps: jax.Array | None = None
  memory: attention.Pair | None = None
  cache: Cache | None = None


def empty(
  depth: int, rows: int, length: int, heads: int, head_dim: int, dtype: str = "float32"
) -> Cache:
  """A cache for texts of up to `length` tokens, with none in it."""
  zeros = jnp.zeros((depth, rows, length, heads, head_dim), dtype)
  return Cache(zeros, zeros, jnp.zeros((), jnp.int32))


def reorder(cache: Cache, index: jax.Array) -> Cache:
  """Row i of the result is row index[i] of the cache; index: [N] int32."""
  take = lambda x: jnp.take(x, index, axis=1)
  return Cache(take(cache.key), take(cache.value), cache.at)


class Block(nn.Module):
  """One layer. Attributes: as those of `transformer.Block`."""

  num_heads: int
  mlp_dim: int
  dropout: float = 0.1
  attention_dropout: float | None = None
  eps: float = 1e-12
  act: str = "gelu"
  dtype: str = "float32"
  implementation: str | None = None

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    mask: jax.Array,
    *,
    context: jax.Array | None = None,
    context_where: jax.Array | None = None,
    memory: attention.Pair | None = None,
    earlier: attention.Pair | None = None,
    at: jax.Array | None = None,
    train: bool = False,
    maps: bool = False,
  ) -> tuple[attention.Attended, attention.Pair]:
    """Runs the layer; arguments as in `Stack`, of this layer.

    Args:
      mask: [B or 1, 1, L, K] bool, which tokens see which.
      earlier, at: keys and values of tokens before this one, and its place.
    Returns: (x [B, L, D] with the context's maps and pair, pair of self-attention).
    """
    rate = self.dropout
    if train and rate > 0:  # all hidden masks out of one draw
      kept = dropout.keep(self.make_rng("dropout"), (3, *x.shape), rate)
      drop = lambda y, i: dropout.scaled(y, kept[i], rate)
    else:
      drop = lambda y, i: y
    axes = ("act_batch", "act_length", "act_embed")
    norm = lambda name: dense.LayerNorm(self.eps, self.dtype, name=name)
    attend = lambda name: attention.Attention(
      self.num_heads,
      dropout=rate if self.attention_dropout is None else self.attention_dropout,
      dtype=self.dtype,
      implementation=self.implementation,
      name=name,
    )
    own = attend("attention")(x, full=mask, pair=earlier, at=at, train=train)
    # The sums in float32: in bfloat16 the residual would lose what the layer adds.
    x = norm("attention_norm")(wide(x) + drop(own.x, 0))
    x = nn.with_logical_constraint(x, axes)
    seen = attend("context")(
      x, context_where, context=context, pair=memory, train=train, maps=maps
    )
    x = norm("context_norm")(wide(x) + drop(seen.x, 1))
    x = nn.with_logical_constraint(x, axes)
    up = dense.Linear(self.mlp_dim, ("embed", "mlp"), dtype=self.dtype, name="mlp_in")
    down = dense.Linear(
      x.shape[-1], ("mlp", "embed"), dtype=self.dtype, act=self.act, name="mlp_out"
    )
    y = nn.with_logical_constraint(up(x), ("act_batch", "act_length", "act_mlp"))
    x = norm("mlp_norm")(wide(x) + drop(down(y), 2))
    x = nn.with_logical_constraint(x, axes)
    return seen._replace(x=x), own.pair


class Stack(nn.Module):
  """`depth` blocks; their parameters are stacked under "layers", [depth, ...].

  Attributes: as those of `transformer.Stack`.
  """

  depth: int
  num_heads: int
  mlp_dim: int
  dropout: float = 0.1
  attention_dropout: float | None = None
  eps: float = 1e-12
  act: str = "gelu"
  dtype: str = "float32"
  implementation: str | None = None
  remat: str = "none"
  unroll: int = 1

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    where: jax.Array | None = None,
    *,
    context: jax.Array | None = None,
    context_where: jax.Array | None = None,
    memory: attention.Pair | None = None,
    cache: Cache | None = None,
    keep: bool = False,
    train: bool = False,
    hidden: bool = False,
    maps: bool = False,
  ) -> Decoded:
    """Runs all layers over a text, or over its next token.

    Args:
      x: [B, L, D], or with a cache [N, 1, D].
      where: [B, L] bool, real tokens; without a cache only.
      context: [B, K, C]; context_where: [B, K] bool. A row that may see nothing of its
        context gets the plain mean of its values: finite.
      memory: of an earlier call, instead of the context. It may have fewer rows than x:
        those of a beam, which follow each other, share one.
      cache: of earlier tokens, `empty` at first.
      keep: whether to return the memory; hidden, maps: of every layer.
    """
    if self.remat not in transformer.REMAT:
      known = ", ".join(transformer.REMAT)
      raise ValueError(f"remat {self.remat!r}; known: {known}.")
    if (context is None) == (memory is None):
      raise ValueError("a decoder takes a context, or the memory of one.")
    if cache is None:
      causal = jnp.tril(jnp.ones((x.shape[1],) * 2, bool))[None]
      mask, at, earlier = attention.visible(where, causal), None, None
    else:
      if x.shape[1] != 1 or where is not None:
        raise ValueError(f"with a cache x is [N, 1, D] without a mask, not {x.shape}.")
      at, earlier = cache.at, attention.Pair(cache.key, cache.value)
      mask = (jnp.arange(cache.key.shape[2]) <= at)[None, None, None]
    block = Block(
      self.num_heads,
      self.mlp_dim,
      self.dropout,
      self.attention_dropout,
      self.eps,
      self.act,
      self.dtype,
      self.implementation,
      name="layers",
    )

    def body(block, x, given):
      memory, earlier = given
      out, pair = block(
        x,
        mask,
        context=context,
        context_where=context_where,
        memory=memory,
        earlier=earlier,
        at=at,
        train=train,
        maps=maps,
      )
      kept = out.pair if keep else None
      written = None if at is None else pair
      return out.x, (out.x if hidden else None, out.maps, kept, written)

    if self.remat != "none":
      policy = transformer.REMAT[self.remat]
      body = nn.remat(body, policy=policy, prevent_cse=False)
    scan = nn.scan(
      body,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      length=self.depth,
      unroll=self.unroll,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    x, out = scan(block, x.astype(self.dtype), (memory, earlier))
    states, seen, kept, written = out
    after = None if cache is None else Cache(*written, at + 1)
    return Decoded(x, states, seen, kept, after)
