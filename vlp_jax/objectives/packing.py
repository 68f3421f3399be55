"""Rows that hold several examples: each example's tokens by themselves, and back.

A packed batch has `example_id` [B, S] and `<stream>_segments` [B, N], 1..S with the
tokens of an example side by side, 0 at padding (`data_pipelines/packing.py`). What is
drawn for an example is drawn by its own key over its own tokens, so that it is the same
in a packed row and in a row of its own.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp


def is_packed(batch: Mapping[str, jax.Array]) -> bool:
  """Whether rows hold several examples; static."""
  return batch["example_id"].ndim == 2


class Parts(NamedTuple):
  """Where the examples of each row lie in one stream.

  segments [B, N]; start [B, S], the first token; real [B, S, N], whether example s has
  an n-th token.
  """

  segments: jax.Array
  start: jax.Array
  real: jax.Array

  @classmethod
  def of(cls, segments: jax.Array, count: int) -> "Parts":
    """Args: segments [B, N] int32; count: S."""
    own = segments[:, None] == jnp.arange(1, count + 1)[:, None]  # [B, S, N]
    place = jnp.arange(segments.shape[1])
    real = place < own.sum(axis=-1, keepdims=True)
    return cls(segments, own.argmax(axis=-1).astype(jnp.int32), real)

  def split(self, x: jax.Array) -> jax.Array:
    """[B, N] -> [B, S, N], the tokens of each example first; zeros behind them."""
    at = self.start[..., None] + jnp.arange(x.shape[1])
    at = jnp.minimum(at, x.shape[1] - 1)
    return jnp.where(self.real, jnp.take_along_axis(x[:, None], at, axis=2), 0)

  def join(self, x: jax.Array, rest: jax.Array | int | bool) -> jax.Array:
    """[B, S, N] -> [B, N], the inverse; `rest` at padding."""
    mine = jnp.maximum(self.segments - 1, 0)
    start = jnp.take_along_axis(self.start, mine, axis=1)
    at = jnp.maximum(jnp.arange(x.shape[2]) - start, 0)
    rows = jnp.arange(len(x))[:, None]
    return jnp.where(self.segments > 0, x[rows, mine, at], rest)


def refusal(objective: Callable) -> str:
  """Why an objective takes no packed rows: "" if it does.

  Its attribute `packing` is True, or names the keyword values with which it does; one
  without compares whole rows, or reads what a packed row does not have.
  """
  keywords = {}
  while isinstance(objective, functools.partial):
    keywords, objective = objective.keywords | keywords, objective.func
  accepts = getattr(objective, "packing", False)
  if accepts is True:
    return ""
  if isinstance(accepts, Mapping):
    defaults = inspect.signature(objective).parameters
    given = {k: keywords.get(k, defaults[k].default) for k in accepts}
    odd = {k: v for k, v in given.items() if v != accepts[k]}
    if not odd:
      return ""
    told = lambda d: ", ".join(f"{k}={v!r}" for k, v in d.items())
    return f"{_name(objective)} with {told(odd)} refuses packing; set {told(accepts)}"
  return f"{_name(objective)} refuses packing; leave input.pack out"


def _name(objective):
  module = getattr(objective, "__module__", "").removeprefix("vlp_jax.objectives.")
  return f"objective {module}:{getattr(objective, '__name__', objective)}"
