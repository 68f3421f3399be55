"""One Transformer over the concatenation of several streams.

Attention does not see order, and positions are explicit, so padded streams laid side by
side give the same as streams compacted to one padded sequence: `fuse_index` chooses the
second, which computes fewer tokens.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import attention, transformer


class Fused(NamedTuple):
  """streams name -> [B, L_s, D]; hidden, maps: of every layer, over the sequence.

  read: [B, P, D] on request, and then no streams.
  """

  streams: dict[str, jax.Array]
  hidden: jax.Array | None = None
  maps: jax.Array | None = None
  read: jax.Array | None = None


def inverse(index: jax.Array, size: int) -> jax.Array:
  """Where each of `size` concatenated tokens went: [B, size] int32, M for nowhere.

  Args:
    index: [B, M] int32 into the concatenated tokens; anything out of range is padding.
      Of a token named twice only the first place counts, so the padding of published
      gather indices, which points at tokens taken already, is harmless.
  """
  rows, length = index.shape
  at = jnp.where(index < 0, size, index)
  start = jnp.full((rows, size), length, jnp.int32)
  place = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), index.shape)
  return start.at[jnp.arange(rows)[:, None], at].min(place, mode="drop")


class Encoder(nn.Module):
  """A `transformer.Stack` over streams. Attributes: see there."""

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
  unroll: int | None = None

  @nn.compact
  def __call__(
    self,
    streams: Mapping[str, jax.Array],
    masks: Mapping[str, jax.Array],
    *,
    index: jax.Array | None = None,
    full: jax.Array | None = None,
    segments: Mapping[str, jax.Array] | None = None,
    read: jax.Array | None = None,
    train: bool = False,
    hidden: bool = False,
    maps: bool = False,
  ) -> Fused:
    """Runs the layers over all streams at once.

    Args:
      streams: name -> [B, L_s, D], in the order of the sequence; masks: name ->
        [B, L_s] bool.
      index: [B, M] int32 into the concatenated tokens, -1 for padding; None leaves them
        side by side. A real token that is not in the index is not seen and comes back
        as zeros.
      full: [B, M, M] or [B, heads, M, M] bool, for the sequence as it is run.
      segments: name -> [B, L_s] int32, 0 at padding: in packed rows a token sees those
        of its own example only, over all streams.
      read: [B, P] int32 into the concatenated tokens, of those whose state is wanted;
        None: all. The last layer then runs for these alone.
    Returns: states of every stream, or of the tokens read; exactly 0 at padding.
    """
    sizes = [x.shape[1] for x in streams.values()]
    axes = ("act_batch", "act_length", "act_embed")
    x = jnp.concatenate(list(streams.values()), axis=1)  # [B, S, D]
    x = nn.with_logical_constraint(x, axes)
    where = jnp.concatenate([masks[k] for k in streams], axis=1)  # [B, S]
    real, number = where, None
    if segments is not None:
      number = jnp.concatenate([segments[k] for k in streams], axis=1)  # [B, S]
    if index is not None:
      back = inverse(index, x.shape[1])  # [B, S]
      at = jnp.clip(index, 0, x.shape[1] - 1)
      take = lambda y: jnp.take_along_axis(y, at, axis=1)
      first = take(back) == jnp.arange(index.shape[1])
      where = take(where) & first & (index >= 0) & (index < x.shape[1])
      number = None if number is None else take(number)
      x = jnp.take_along_axis(x, at[..., None], axis=1)  # [B, M, D]
    if number is not None:
      own = number[:, :, None] == number[:, None, :]  # [B, M, M]
      full = attention.visible(own[:, None], full)
    x = nn.with_logical_constraint(x, axes)
    places = read
    if read is not None:
      real = jnp.take_along_axis(real, read, axis=1)  # [B, P]
      if index is not None:
        back = jnp.take_along_axis(back, read, axis=1)
        places = jnp.minimum(back, index.shape[1] - 1)
    out = transformer.Stack(
      self.depth,
      self.num_heads,
      self.mlp_dim,
      self.dropout,
      self.attention_dropout,
      self.eps,
      self.act,
      self.dtype,
      self.implementation,
      self.remat,
      self.unroll,
      name="stack",
    )(x, where, full, read=places, train=train, hidden=hidden, maps=maps)
    y = out.x
    if index is not None:
      real = real & (back < index.shape[1])
    if read is not None:
      return Fused({}, read=jnp.where(real[..., None], y, 0))
    if index is not None:
      back = jnp.minimum(back, index.shape[1] - 1)
      y = jnp.take_along_axis(y, back[..., None], axis=1)  # [B, S, D]
    y = jnp.where(real[..., None], y, 0)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    parts = jnp.split(y, ends, axis=1)
    return Fused(dict(zip(streams, parts, strict=True)), out.hidden, out.maps)
