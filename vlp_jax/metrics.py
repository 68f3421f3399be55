"""What the loop adds up: sums with their weights, never means of means.

`Mean(total, weight)` is a metric, `Term(total, weight, coef)` a part of the loss; both
merge by addition, so a value never depends on how rows were split into microbatches,
devices or hosts. `Result` is what an evaluator hands back.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def wide(x: jax.Array) -> jax.Array:
  """Floats below 32 bits to float32, where losses and statistics live.

  float64 stays, so that a test can run a loss in it.
  """
  if jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits < 32:
    return x.astype(jnp.float32)
  return x


def _over(total, weight):
  """total / weight, and exactly 0 with zero gradient where the weight is 0."""
  empty = weight == 0
  return jnp.where(empty, 0.0, total / jnp.where(empty, 1.0, weight))


class Mean(NamedTuple):
  """A weighted sum and its weight; `value` is their quotient, 0 when empty."""

  total: jax.Array
  weight: jax.Array

  @classmethod
  def of(cls, values: jax.Array, where: jax.Array | bool = True) -> "Mean":
    """Sums `values` where `where` (broadcast to values) is true.

    Args:
      values: any shape, any real dtype or bool.
      where: bool, what counts; may be of lower rank as long as it broadcasts.
    Returns: totals as scalars, float32 or wider. Masked entries give no gradient.
    """
    values = jnp.asarray(values)
    values = wide(values if values.dtype != bool else values.astype(jnp.float32))
    if not jnp.issubdtype(values.dtype, jnp.floating):
      values = values.astype(jnp.float32)
    where = jnp.broadcast_to(jnp.asarray(where, bool), values.shape)
    total = jnp.where(where, values, 0.0).sum()
    return cls(total, where.sum().astype(values.dtype))

  @property
  def value(self) -> jax.Array:
    return _over(self.total, self.weight)

  def merge(self, other: "Mean") -> "Mean":
    return Mean(self.total + other.total, self.weight + other.weight)


class Term(NamedTuple):
  """One term of a loss: coef * total / weight, weights summed before the division."""

  total: jax.Array
  weight: jax.Array
  coef: float = 1.0

  @property
  def value(self) -> jax.Array:
    return self.coef * _over(self.total, self.weight)


class Result(NamedTuple):
  """A figure of an evaluator, beside what guessing gives and over how many.

  `ci` is the half width of the 95 % interval (nan when unknown), `protocol` one line
  on how the figure was made.
  """

  value: float
  chance: float = math.nan
  n: int = 0
  ci: float = math.nan
  protocol: str = ""

  @classmethod
  def of(cls, hits, *, chance=math.nan, protocol="") -> "Result":
    """The mean of per-example values [n] with the normal 95 % interval."""
    hits = np.asarray(hits, np.float64)
    n = hits.size
    if n == 0:
      raise ValueError("A result over no example: is the evaluation set empty?")
    ci = 1.96 * float(hits.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return cls(float(hits.mean()), float(chance), n, ci, protocol)
