"""Pairs of pictures and sounds made inside a batch: partners, and windows of sound."""

import jax
import jax.numpy as jnp


def partners(
  key: jax.Array, group: jax.Array, example_id: jax.Array, where: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """A random row of another group for each row, no row twice.

  The rows are laid out group by group, groups and the rows of each in random order, and
  the circle is turned by at least the largest group and at most the rest. Every sound
  is thus once a right partner and once a wrong one: none of the two streams alone tells
  what a pair is.

  Args:
    group, example_id: [B] int; where: [B] bool, rows that there are.
  Returns: (partner [B] int32, found [B] bool). Where a group holds more than half of
    the rows some of them find no partner.
  """
  group_key, row_key, turn_key = jax.random.split(key, 3)
  bits = lambda key, ids: jax.vmap(
    lambda i: jax.random.bits(jax.random.fold_in(key, i))
  )(ids)
  # `group` itself behind its own bits: two groups may have drawn the same.
  order = jnp.lexsort(
    (bits(row_key, example_id), group, bits(group_key, group), ~where)
  )
  at, count = jnp.arange(len(group)), where.sum()
  ranked = group[order]
  starts = jnp.concatenate([jnp.ones(1, bool), ranked[1:] != ranked[:-1]])
  place = at - jax.lax.cummax(jnp.where(starts, at, 0))  # in its group
  most = jnp.where(at < count, place, 0).max() + 1
  ways = jnp.maximum(count - 2 * most + 1, 1)
  u = jax.random.uniform(turn_key)
  turn = most + jnp.minimum((u * ways).astype(jnp.int32), ways - 1)
  other = jnp.where(at < count, (at + turn) % jnp.maximum(count, 1), at)
  partner = jnp.zeros_like(order).at[order].set(order[other])
  found = where & where[partner] & (group[partner] != group)
  return partner.astype(jnp.int32), found


def integers(u: jax.Array, count: jax.Array) -> jax.Array:
  """u in [0, 1) to 0..count - 1, elementwise; 0 where the count is not positive."""
  count = jnp.asarray(count)
  return jnp.clip((u * count).astype(jnp.int32), 0, jnp.maximum(count - 1, 0))


def cut(x: jax.Array, first: jax.Array, size: int) -> jax.Array:
  """Windows [B, size, ...] of x [B, S, ...] that begin at first [B]."""
  one = lambda x, at: jax.lax.dynamic_slice_in_dim(x, at, size)
  return jax.vmap(one)(x, first)


def shifted(
  u: jax.Array, first: jax.Array, *, least: int, most: int, last: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Another place in 0..last that is `least` to `most` away, all equally likely.

  Args:
    u: [B] float in [0, 1); first, last: [B] int, the place and the last one that fits.
  Returns: (place [B] int32, exists [B] bool).
  """
  low, high = jnp.maximum(first - most, 0), jnp.minimum(first + most, last)
  before = jnp.maximum(jnp.minimum(first - least, last) - low + 1, 0)
  after = jnp.maximum(high - (first + least) + 1, 0)
  drawn = integers(u, before + after)
  place = jnp.where(drawn < before, low + drawn, first + least + drawn - before)
  exists = before + after > 0
  return jnp.where(exists, place, first).astype(jnp.int32), exists
