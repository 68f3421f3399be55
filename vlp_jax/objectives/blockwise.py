"""Reductions over the rows and columns of a similarity matrix that is never formed.

    s[i, (j, k)] = rows[i] . columns[j, k] + bias

A `Stat` is a log-sum-exp, a sum of softplus or a maximum of s along a row or a column,
over the pairs that a relation chooses; losses are made of a few of them. Blocks of s
are formed once in the forward pass and once more in the backward pass, so memory does
not depend on B * B * K.

Under a mesh (`jax.set_mesh`) with the batch over `dcn, data, fsdp` the columns, of
which there may be K times more, stay where they are. Rows are gathered once; what is
reduced along rows travels as vectors [B] (maximum and sum forward, the cotangent
backward), and the gradients of a chunk of rows are summed and scattered once. Other
axes hold copies. Without a mesh, or where B does not divide by the shards, the same
code runs as one part on global arrays.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from vlp_jax.metrics import wide
from vlp_jax.objectives import pair_stats

BATCH_AXES = ("dcn", "data", "fsdp")  # those of vlp_jax.sharding
COLUMNS = 4096  # of a block, at most
BLOCK = 2**19  # scores of a block, 2 MiB, where `chunk` does not say how many rows


class _Plan(NamedTuple):
  """What is static; axes: those of the mesh that split the batch, () for one part."""

  stats: tuple[pair_stats.Stat, ...]
  axes: tuple[str, ...]
  devices: int  # that the axes span
  chunks: int  # into how many a device's rows are split
  tiles: int  # and its columns

  def along(self, axis: str) -> dict[int, pair_stats.Stat]:
    return {n: s for n, s in enumerate(self.stats) if s.axis == axis}


class _Side(NamedTuple):
  """Rows or columns: x [..., n, D], what is real, index and tags of each."""

  x: jax.Array
  where: jax.Array
  index: jax.Array
  tags: tuple[jax.Array, ...]


def reduce(
  rows: jax.Array,
  columns: jax.Array,
  stats: tuple[pair_stats.Stat, ...],
  *,
  row_where: jax.Array | bool = True,
  column_where: jax.Array | bool = True,
  tags: tuple[jax.Array, ...] = (),
  bias: jax.Array | None = None,
  chunk: int | None = None,
) -> tuple[jax.Array, ...]:
  """The stats of s[i, (j, k)] = rows[i] . columns[j, k] + bias, without forming s.

  Differentiable in rows, columns and bias.

  Args:
    rows, columns: [B, D] and [B, K, D] float; row i and columns i are one example.
    row_where, column_where: [B] and [B, K] bool, what is real. What stands elsewhere,
      even NaN, reaches neither a value nor a gradient.
    tags: [B, V] arrays for relations that ask for them; what is not 0 counts.
    chunk: rows of a block, at most; changes memory and time only.
  Returns: [B] for each stat, float32 or wider; where nothing counts, -inf (0 for a
    softplus), with zero gradient.
  """
  (size, candidates), axes = columns.shape[:2], _axes(len(rows))
  devices = _shards(axes)
  tiles = _parts(size // devices, max(1, COLUMNS // candidates))
  chunk = chunk or BLOCK * tiles * devices // (size * candidates)
  chunks = _parts(size // devices, max(1, chunk // devices))
  plan = _Plan(tuple(stats), axes, devices, chunks, tiles)
  row_where = jnp.broadcast_to(row_where, rows.shape[:1])
  column_where = jnp.broadcast_to(column_where, columns.shape[:2])
  fixed = row_where, column_where, tuple(pair_stats.packed(t) for t in tags)
  return _reduce(plan, rows, columns, bias, fixed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _reduce(plan, rows, columns, bias, fixed):
  return _forward(plan, rows, columns, bias, fixed)[0]


def _forward(plan, rows, columns, bias, fixed):
  own, every, residual = _specs(plan)
  fn = _on_shards(_local_forward, plan, (own, own, every, own), (own, residual))
  return fn(rows, columns, bias, fixed)


def _backward(plan, residuals, cotangents):
  own, every, residual = _specs(plan)
  fn = _on_shards(_local_backward, plan, (residual, own), (own, own, every))
  return (*fn(residuals, cotangents), None)


_reduce.defvjp(_forward, _backward)


# ----- devices


def _axes(size: int) -> tuple[str, ...]:
  """Axes of the current mesh that split `size` rows; () for one part."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or AxisType.Manual in mesh.axis_types:  # or inside a shard_map
    return ()
  axes = tuple(a for a in BATCH_AXES if a in mesh.axis_names)
  parts = _shards(axes)
  return axes if parts > 1 and size % parts == 0 else ()


def _shards(axes) -> int:
  mesh = jax.sharding.get_abstract_mesh()
  return functools.reduce(lambda n, a: n * mesh.shape[a], axes, 1)


def _specs(plan):
  """Of arrays split by example, of those that all devices have, of the residuals."""
  own, every = PartitionSpec(plan.axes), PartitionSpec()
  kinds = {"row": every, "column": own}
  return own, every, (every, own, every, tuple(kinds[s.axis] for s in plan.stats))


def _on_shards(fn, plan, in_specs, out_specs):
  fn = functools.partial(fn, plan)
  if not plan.axes:
    return fn
  return jax.shard_map(fn, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _gather(x, axes):
  """[n, ...] of each device as [devices * n, ...] on all."""
  one = lambda x: jax.lax.all_gather(x, axes, tiled=True) if axes else x
  return jax.tree.map(one, x)


# ----- one device


def _local_forward(plan, rows, columns, bias, fixed):
  """The stats of this device's examples, and what the backward pass needs."""
  row_where, column_where, tags = fixed
  at = jax.lax.axis_index(plan.axes) if plan.axes else 0
  index = jnp.arange(len(rows)) + at * len(rows)
  # Flat: XLA would lay out an axis of one candidate anew, a copy of the batch.
  mine = _Side(columns.reshape(len(columns), -1), column_where, index, tags)
  sent = jax.tree.map(lambda x: _pad(x, plan.chunks), (rows, row_where, tags))
  x, row_where, tags = _gather(sent, plan.axes)
  place, device = jnp.arange(len(sent[0])), jnp.arange(plan.devices)[:, None]
  every = _Side(x, row_where, (place + device * len(rows)).reshape(-1), tags)
  columns = jax.tree.map(lambda x: _pad(x, plan.tiles), mine)
  beside, below = plan.along("row"), plan.along("column")
  full = lambda stat, shape: jnp.full(shape, stat.empty, wide(rows).dtype)
  merge = lambda stats, a, b: {n: s.merge(a[n], b[n]) for n, s in stats.items()}

  def chunk(down, n):
    c = _real(_chunk(every, plan, n))

    def block(across, at):
      m, down = at
      t = _part(columns, plan.tiles, m)
      s, where = _scores(c, t, _flat(t), bias)
      of = lambda stats: {n: stat.of(s, where(stat)) for n, stat in stats.items()}
      return merge(beside, across, of(beside)), merge(below, down, of(below))

    start = {n: full(stat, c.index.shape) for n, stat in beside.items()}
    across, down = jax.lax.scan(block, start, (jnp.arange(plan.tiles), down))
    return down, across

  shape = plan.tiles, len(columns.index) // plan.tiles
  start = {n: full(stat, shape) for n, stat in below.items()}
  down, across = jax.lax.scan(chunk, start, jnp.arange(plan.chunks))
  down = {n: x.reshape(-1)[: len(rows)] for n, x in down.items()}
  across = {n: beside[n].over_devices(x, plan.axes) for n, x in across.items()}
  across = {n: _unchunk(x, plan) for n, x in across.items()}
  out = {n: x.reshape(plan.devices, -1)[at, : len(rows)] for n, x in across.items()}
  ordered = lambda found: tuple(found[n] for n in range(len(plan.stats)))
  return ordered(out | down), (every, mine, bias, ordered(across | down))


def _local_backward(plan, residuals, cotangents):
  """Gradients of this device's rows and columns, and of the bias."""
  every, mine, bias, totals = residuals
  columns = jax.tree.map(lambda x: _pad(x, plan.tiles), mine)
  stats = {n: s for n, s in enumerate(plan.stats) if s.how != "max"}
  beside, below = {}, {}  # stat -> its totals and cotangents
  for n, stat in stats.items():
    if stat.axis == "row":
      g = _gather(_pad(cotangents[n], plan.chunks), plan.axes)
      beside[n] = totals[n], g
    else:
      below[n] = [_pad(x, plan.tiles) for x in (totals[n], cotangents[n])]

  def chunk(carry, n):
    c, across = _real(_chunk(every, plan, n)), _chunk(beside, plan, n)

    def block(carry, m):
      drows, dcolumns, dbias = carry
      t, down = (_part(x, plan.tiles, m) for x in (columns, below))
      flat, pairs = _flat(t), across | down
      s, where = _scores(c, t, flat, bias)
      slopes = (stat.slope(s, where(stat), *pairs[k]) for k, stat in stats.items())
      ds = sum(slopes, start=jnp.zeros_like(s))
      if bias is not None:
        dbias += ds.sum()
      ds = ds.reshape(len(s), -1)
      dcolumns = dcolumns.at[m].add(_unflat(_dot(ds.T, c.x), t))
      return (drows + _dot(ds, flat), dcolumns, dbias), None

    start = jnp.zeros_like(c.x), *carry
    (drows, *carry), _ = jax.lax.scan(block, start, jnp.arange(plan.tiles))
    if plan.axes:
      drows = jax.lax.psum_scatter(drows, plan.axes, tiled=True)
    return carry, drows

  kind = wide(every.x).dtype
  shape = plan.tiles, len(columns.x) // plan.tiles, columns.x.shape[1]
  start = [jnp.zeros(shape, kind), jnp.zeros((), kind)]
  (dcolumns, dbias), drows = jax.lax.scan(chunk, start, jnp.arange(plan.chunks))
  cut = lambda x, at: x.reshape(-1, x.shape[-1])[: len(mine.x)].astype(at.dtype)
  if bias is None:
    dbias = None
  else:
    dbias = jax.lax.psum(dbias, plan.axes) if plan.axes else dbias
    dbias = dbias.astype(bias.dtype)
  dcolumns = cut(dcolumns, mine.x).reshape(*mine.where.shape, -1)
  return cut(drows, every.x), dcolumns, dbias


_dot = functools.partial(jnp.dot, precision="highest")


def _scores(rows: _Side, tile: _Side, flat, bias):
  """s [c, K, t] of a block, and a function from a stat to the pairs that it counts."""
  s = _dot(rows.x, flat.T).reshape(len(rows.x), -1, len(tile.index))
  if bias is not None:
    s = s + bias
  real = rows.where[:, None, None] & tile.where.T

  def where(stat):
    chosen = stat.over(rows.index, tile.index, rows.tags, tile.tags)
    return real & (chosen if chosen is True else chosen[:, None])

  return s, where


def _real(rows: _Side):
  """Rows widened, and 0 where not real: a copy of a chunk, not of the batch."""
  return rows._replace(x=jnp.where(rows.where[:, None], wide(rows.x), 0.0))


def _flat(tile: _Side):
  """Columns [t, K * D] as [K * t, D]: j is then the last axis of a block."""
  x = wide(tile.x).reshape(*tile.where.shape, -1)
  x = jnp.where(tile.where[..., None], x, 0.0)
  return x.swapaxes(0, 1).reshape(-1, x.shape[-1])


def _unflat(x, tile: _Side):
  """The gradient of `_flat`."""
  x = x.reshape(*tile.where.shape[::-1], -1).swapaxes(0, 1)
  return jnp.where(tile.where[..., None], x, 0.0).reshape(tile.x.shape)


def _parts(size: int, most: int) -> int:
  """Into how many parts of at most `most`: up to twice as many if that divides."""
  least = -(-size // most)
  return next((n for n in range(least, 2 * least) if size % n == 0), least)


def _pad(x, parts: int):
  """To a multiple of `parts`; what is added is 0, which no mask calls real."""
  short = -len(x) % parts
  return jnp.pad(x, [(0, short)] + [(0, 0)] * (x.ndim - 1)) if short else x


def _part(x, parts: int, n, devices: int = 1):
  """Part n of the rows of each device: [devices * rows, ...] to [c, ...]."""

  def one(x):
    x = x.reshape(devices, -1, *x.shape[1:])
    size = x.shape[1] // parts
    x = jax.lax.dynamic_slice_in_dim(x, n * size, size, axis=1)
    return x.reshape(-1, *x.shape[2:])

  return jax.tree.map(one, x)


def _chunk(every, plan, n):
  return _part(every, plan.chunks, n, plan.devices)


def _unchunk(x, plan):
  """[chunks, c] of all chunks as [devices * rows]."""
  return x.reshape(plan.chunks, plan.devices, -1).swapaxes(0, 1).reshape(-1)
