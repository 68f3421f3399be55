"""What is hidden from the model, drawn for one row from that row's own key.

Objectives `vmap` these over rows with keys folded from `example_id`, so a mask depends
on no batch size, microbatch or device; nor on padding, because the draw of position i
depends on i alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Masked(NamedTuple):
  """ids [L] corrupted; positions, where [P] to predict; lost: words beyond P."""

  ids: jax.Array
  positions: jax.Array
  where: jax.Array
  lost: jax.Array


def row_keys(key: jax.Array, example_id: jax.Array) -> jax.Array:
  """One key an example: [B], or [B, S] in packed rows."""
  fold = jax.random.fold_in
  for _ in example_id.shape:
    fold = jax.vmap(fold, (None, 0))
  return fold(key, example_id)


def drop_rng(key: jax.Array, example_id: jax.Array) -> jax.Array:
  """The dropout key of some rows: it differs between microbatches."""
  return jax.random.fold_in(key, example_id[(0,) * example_id.ndim])


def draw(
  key: jax.Array, words: jax.Array, rate: float, *, least: str
) -> tuple[jax.Array, jax.Array]:
  """Each True of `words` [L] with probability `rate`, at least one if there is any.

  Args:
    least: which one when none was drawn: "first", or "random" (uniform).
  Returns: (drawn [L] bool, forced bool: nothing had been drawn).
  """
  if least not in ("first", "random"):
    raise ValueError(f'least={least!r}; "first" or "random".')
  draw_key, least_key = jax.random.split(key)
  drawn = words & (jax.random.uniform(draw_key, words.shape) < rate)
  if least == "first":
    one = jnp.argmax(words)
  else:
    one = jnp.argmax(jnp.where(words, jax.random.uniform(least_key, words.shape), -1.0))
  spare = words & (jnp.arange(len(words)) == one)
  forced = ~drawn.any()
  return jnp.where(forced, spare, drawn), forced


def bert(
  key: jax.Array, ids: jax.Array, words: jax.Array, *, rate: float, size: int, vocab
) -> Masked:
  """BERT's corruption of one row: 80 % [MASK], 10 % a random id, 10 % unchanged.

  Every word independently with probability `rate`; if none is drawn the first word
  becomes [MASK] (published code of UNITER). More than `size` masked words are thinned
  at random: the rest are left as they were and counted in `lost`.

  Args:
    ids: [L] int32; words: [L] bool, what may be masked (no padding, no specials).
    size: P, positions that come out; min(size, L) when the row is shorter.
    vocab: `vlp_jax.vocab.Vocab`: mask_id and the range of random ids.
  """
  if vocab.mask_id < 0:
    raise ValueError("the vocabulary has no mask id: masked words need one.")
  pick_key, thin_key, kind_key, random_key = jax.random.split(key, 4)
  length, size = len(ids), min(size, len(ids))
  drawn, forced = draw(pick_key, words, rate, least="first")
  order = jnp.where(drawn, jax.random.uniform(thin_key, (length,)), 2.0)
  kept = jnp.argsort(order)[:size]  # [P], masked words first, in random order
  kept = jnp.sort(jnp.where(drawn[kept], kept, length))
  where = kept < length
  positions = jnp.where(where, kept, 0).astype(jnp.int32)
  chosen = jnp.zeros(length, bool).at[kept].set(True, mode="drop")
  kind = jax.random.uniform(kind_key, (length,))
  low, high = vocab.valid_range
  other = _integers(random_key, length, low, high)
  new = jnp.where((kind < 0.8) | forced, vocab.mask_id, other)
  new = jnp.where((kind >= 0.9) & ~forced, ids, new)
  lost = drawn.sum() - where.sum()
  return Masked(jnp.where(chosen, new, ids).astype(ids.dtype), positions, where, lost)


def regions(key: jax.Array, real: jax.Array, *, rate: float) -> jax.Array:
  """Regions to hide: [R] bool out of the real ones [R], at least one, at random."""
  return draw(key, real, rate, least="random")[0]


def _integers(key, length, low, high):
  """Uniform in [low, high); the draw of place i depends on i only."""
  bits = jax.random.bits(key, (length,), jnp.uint32)
  return (low + bits % jnp.uint32(high - low)).astype(jnp.int32)
