"""What `blockwise` reduces a similarity matrix to: which pairs count, and how.

A relation says which pairs of row i [c] and column j [t] of a block count: bool [c, t],
or True for all. A `Stat` reduces those pairs along rows or columns.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


def everyone(i, j, tags_i, tags_j):
  return True


def own(i, j, tags_i, tags_j):
  return i[:, None] == j


def others(i, j, tags_i, tags_j):
  return i[:, None] != j


def partner(i, j, tags_i, tags_j):
  """0 with 1, 2 with 3, ...: two views of one thing, one after the other."""
  return i[:, None] == (j ^ 1)


def strangers(i, j, tags_i, tags_j):
  """Neither itself nor the partner."""
  return i[:, None] // 2 != j // 2


def packed(tags):
  """Multi-hot [B, V] as bits, uint32 [B, V / 32]: 32 times less to send and compare."""
  short = -tags.shape[1] % 32
  octets = jnp.packbits(jnp.pad(tags != 0, [(0, 0), (0, short)]), axis=1)
  return jax.lax.bitcast_convert_type(octets.reshape(len(tags), -1, 4), jnp.uint32)


def sharing(i, j, tags_i, tags_j):
  """Itself, and all that have something in common in every one of the `packed` tags."""
  words = lambda a, b: ((a[:, n, None] & b[:, n]) != 0 for n in range(a.shape[1]))
  common = [
    functools.reduce(jnp.logical_or, words(a, b))
    for a, b in zip(tags_i, tags_j, strict=True)
  ]
  return own(i, j, tags_i, tags_j) | functools.reduce(jnp.logical_and, common)


class Stat(NamedTuple):
  """A value for each row, or for each j over i and all of its K columns.

  Attributes:
    axis: "row" or "column".
    over: relation that says which pairs count.
    how: "lse", "softplus" (the sum of log(1 + e^s)) or "max" (without gradient).
  """

  axis: str
  over: Callable
  how: str = "lse"

  @property
  def empty(self) -> float:
    return 0.0 if self.how == "softplus" else -jnp.inf

  def of(self, s, where):
    """Of a block [c, K, t]: [c] or [t]."""
    along = (1, 2) if self.axis == "row" else (0, 1)
    if self.how == "softplus":
      return jnp.where(where, jax.nn.softplus(s), 0.0).sum(along)
    s = jnp.where(where, s, -jnp.inf)
    return s.max(along) if self.how == "max" else jax.nn.logsumexp(s, along)

  def merge(self, a, b):
    merges = {"lse": jnp.logaddexp, "softplus": jnp.add, "max": jnp.maximum}
    return merges[self.how](a, b)

  def over_devices(self, x, axes):
    if not axes:
      return x
    if self.how == "softplus":
      return jax.lax.psum(x, axes)
    most = jax.lax.pmax(x, axes)
    if self.how == "max":
      return most
    some = jnp.where(most == -jnp.inf, 0.0, most)  # -inf less -inf would be NaN
    return some + jnp.log(jax.lax.psum(jnp.exp(x - some), axes))

  def slope(self, s, where, total, cotangent):
    """Gradient with respect to s [c, K, t] of a value [c] or [t]."""
    if self.how == "max":
      return 0.0
    place = (slice(None), None, None) if self.axis == "row" else slice(None)
    if self.how == "softplus":
      weight = jax.nn.sigmoid(s)
    else:
      weight = jnp.exp(s - total[place])
    return jnp.where(where, weight * cotangent[place], 0.0)
