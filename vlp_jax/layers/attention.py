"""Multi-head attention with 3-D kernels and one matmul for all that shares an input.

    A = softmax(Q K^T / sqrt(d) + bias), out = W_o (Drop(A) V)

Kernels are [D, 3, heads, kv] (self) or [D, heads, kv] and [D, 2, heads, kv] (cross),
[heads, kv, D] out. Masks are bool, True = may be seen. A query that sees nothing gets
the plain mean of all values: finite, and its row is masked further on.

Keys and values are handed out as a `Pair`, and taken back: a decoder that writes token
by token computes each of them once.
"""

import functools
import logging
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import dense, dropout
from vlp_jax.metrics import wide

log = logging.getLogger(__name__)
IMPLEMENTATIONS = (None, "xla", "cudnn")


class Pair(NamedTuple):
  """key, value [B, K, heads, d]."""

  key: jax.Array
  value: jax.Array


class Attended(NamedTuple):
  """x [B, Q, D]; maps [B, heads, Q, K] on request (before dropout, float32).

  pair: the keys and values that were attended to.
  """

  x: jax.Array
  maps: jax.Array | None = None
  pair: Pair | None = None


def visible(where: jax.Array | None, full: jax.Array | None) -> jax.Array | None:
  """One mask [B, 1 or heads, 1 or Q, K] out of keys [B, K] and pairs [B, (N,) Q, K]."""
  if where is not None and where.ndim == 2:
    where = where[:, None, None, :]
  if full is not None and full.ndim == 3:
    full = full[:, None]
  if where is None or full is None:
    return full if where is None else where
  return where & full


def seen_from(full: jax.Array, read: jax.Array) -> jax.Array:
  """What the queries at `read` [B, P] see, of pairs [B, (N,) Q, K]: [B, (N,) P, K]."""
  read = read[:, None, :, None] if full.ndim == 4 else read[..., None]
  return jnp.take_along_axis(full, read, axis=-2)


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  mask: jax.Array | None = None,
  *,
  bias: jax.Array | None = None,
  rate: float = 0.0,
  rng: jax.Array | None = None,
  implementation: str | None = None,
  maps: bool = False,
) -> Attended:
  """softmax(Q K^T / sqrt(d)) V.

  Args:
    query: [B, Q, N, d]; key, value: [B, K, N, d], any float; scores and softmax run in
      float32 or wider.
    mask: bool, broadcastable to [B, N, Q, K].
    bias: float, broadcastable to [B, N, Q, K], added to the scores.
    rate, rng: dropout on the probabilities; a dropout rng of None means none.
    implementation: None for the path written out here, "xla" or "cudnn" for
      `jax.nn.dot_product_attention`. That has no dropout and gives no maps: with
      either it is the former; with dropout that is logged, once. Splash attention,
      jax's kernel for TPUs, is not among the choices: it has neither dropout nor bias.
  Returns: x [B, Q, N, d], and maps when asked.
  """
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(f"implementation is {implementation!r}; one of {IMPLEMENTATIONS}.")
  drop = rng is not None and rate > 0
  if implementation is not None and drop:
    _passed_over(implementation, rate)
  if implementation is not None and not (drop or maps):
    if mask is not None:  # cuDNN takes no broadcast over queries
      heads = mask.shape[1]
      shape = (query.shape[0], heads, query.shape[1], key.shape[1])
      mask = jnp.broadcast_to(mask, shape)
    return Attended(
      jax.nn.dot_product_attention(
        query, key, value, bias=bias, mask=mask, implementation=implementation
      )
    )
  query = query * jnp.asarray(1 / math.sqrt(query.shape[-1]), query.dtype)
  wider = jnp.promote_types(query.dtype, jnp.float32)
  scores = jnp.einsum("bqnd,bknd->bnqk", query, key, preferred_element_type=wider)
  if bias is not None:
    scores = scores + bias
  weights = softmax(scores, mask)
  kept = dropout.keep(rng, weights.shape, rate) if drop else None
  return Attended(_mixed(weights, value, kept, rate), weights if maps else None)


@functools.cache  # once, not for every layer and shape that is traced
def _passed_over(implementation: str, rate: float) -> None:
  log.warning(
    "attention: implementation=%r has no dropout, so training with attention dropout "
    "%g takes the plain path. Set model.attention_dropout=0 to train with it.",
    implementation,
    rate,
  )


@jax.custom_vjp
def softmax(scores: jax.Array, mask: jax.Array | None) -> jax.Array:
  """softmax over the last axis of what `mask` leaves; the backward pass finds that."""
  if mask is not None:
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
  return jax.nn.softmax(scores, axis=-1)


def _softmax_fwd(scores, mask):
  weights = softmax(scores, mask)
  return weights, (weights, mask)


def _softmax_bwd(kept, grad):
  weights, mask = kept
  grad = weights * (grad - (weights * grad).sum(axis=-1, keepdims=True))
  # Where nothing may be seen the weights are even, and still no score has a gradient.
  return (grad if mask is None else jnp.where(mask, grad, 0)), None


softmax.defvjp(_softmax_fwd, _softmax_bwd)


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=3)
def _mixed(weights, value, kept, rate):
  """Weighted sums of values; the weights after dropout are not kept, but made again."""
  if kept is not None:
    weights = dropout.scaled(weights, kept, rate)
  return jnp.einsum("bnqk,bknd->bqnd", weights.astype(value.dtype), value)


class Attention(nn.Module):
  """Self-attention, or attention from x to `context` where that is given.

  Attributes:
    num_heads: of width head_dim, which is the width of x over num_heads when None.
    dropout: rate on the probabilities.
    features: width that comes out, that of x when None.
  """

  num_heads: int
  head_dim: int | None = None
  features: int | None = None
  dropout: float = 0.0
  dtype: str = "float32"
  implementation: str | None = None

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    where: jax.Array | None = None,
    full: jax.Array | None = None,
    *,
    context: jax.Array | None = None,
    pair: Pair | None = None,
    at: jax.Array | None = None,
    read: jax.Array | None = None,
    train: bool = False,
    maps: bool = False,
  ) -> Attended:
    """Attends.

    Args:
      x: [B, Q, D].
      where: [B, K] bool, real keys; full: [B, Q, K] or [B, heads, Q, K] bool.
      context: [B, K, C], where keys and values come from; x itself when None.
      pair: of an earlier call. Without `at` it stands for a context, and may have
        fewer rows than x: B / n of them, each for n rows of x that follow each other
        (beams); `where` has as many rows as the pair. With `at` it holds earlier
        tokens, and
      at: [] int32 is the place in it where those of x are written.
      read: [B, P] int32, the places of x that attend, without a context; None: all.
    Returns: x [B, Q, features] in `dtype` (P where `read` is given), maps when asked,
      and the pair.
    """
    width = x.shape[-1]
    if self.head_dim is None and width % self.num_heads:
      valid = [n for n in range(1, width + 1) if width % n == 0]
      raise ValueError(
        f"width {width} does not divide by {self.num_heads} heads; give one of {valid}."
      )
    size = (self.num_heads, self.head_dim or width // self.num_heads)
    names = ("embed", None, "heads", "kv")
    linear = lambda n, name: dense.Linear(
      (n, *size), names, dtype=self.dtype, name=name
    )
    if pair is not None and at is None:
      (query,) = jnp.unstack(linear(1, "q")(x), axis=2)
      key, value = pair
    elif context is None:
      query, key, value = jnp.unstack(linear(3, "qkv")(x), axis=2)
      if read is not None:
        query = jnp.take_along_axis(query, read[..., None, None], axis=1)
        full = None if full is None else seen_from(full, read)
      if pair is not None:
        put = lambda old, new: jax.lax.dynamic_update_slice_in_dim(
          old, new.astype(old.dtype), at, axis=1
        )
        key, value = put(pair.key, key), put(pair.value, value)
    else:
      (query,) = jnp.unstack(linear(1, "q")(x), axis=2)
      key, value = jnp.unstack(linear(2, "kv")(context), axis=2)
    axes = ("act_batch", "act_length", "act_heads", None)
    query, key, value = (
      nn.with_logical_constraint(y, axes) for y in (query, key, value)
    )
    rng = self.make_rng("dropout") if train and self.dropout > 0 else None
    shape = query.shape
    if len(key) != len(query):  # the rows of a beam share a context
      if full is not None or maps:
        raise ValueError("rows that share keys take no mask of pairs and give no maps.")
      query = query.reshape(len(key), -1, *size)
    out = attend(
      query,
      key,
      value,
      visible(where, full),
      rate=self.dropout,
      rng=rng,
      implementation=self.implementation,
      maps=maps,
    )
    back = dense.Linear(
      self.features or width,
      ("heads", "kv", "embed"),
      contract=2,
      dtype=self.dtype,
      name="out",
    )
    seen = None if out.maps is None else wide(out.maps)
    return Attended(back(out.x.reshape(shape)), seen, Pair(key, value))
