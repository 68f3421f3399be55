"""The host half of `vlp_jax.kmeans`: chunks of rows, samples of nodes, sorted blocks.

`Data` checks the features and cuts them into chunks, `Sample` keeps a uniform sample of
each node as they pass, `Blocks` brings them to the devices, sorted by node.
"""

from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from vlp_jax import kmeans_blocks, sharding
from vlp_jax.errors import UserError

EMPTY = np.iinfo(np.uint64).max  # rank of a slot that holds no row


class Data:
  """The rows of a re-iterable in chunks, checked.

  A chunk is (first row, list of [n_i, D] views), all but the last of as many rows.
  """

  def __init__(self, data: Iterable):
    if iter(data) is data:
      raise UserError("the features can be read only once; give a re-iterable.")
    self.data, self.width, self.dtype = data, 0, None
    first = next((x for x in self._arrays() if len(x)), None)
    if first is None:
      raise UserError("there are no features: nothing to cluster.")

  def _arrays(self) -> Iterator[np.ndarray]:
    for number, x in enumerate(self.data):
      x = np.asarray(x)
      if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(f"features {number}: {x.dtype}{list(x.shape)}; float [n, D].")
      self.width, self.dtype = self.width or x.shape[1], self.dtype or x.dtype
      if x.shape[1] != self.width or not x.shape[1]:
        raise UserError(
          f"features {number} have width {x.shape[1]}, those before {self.width}: "
          "cluster features of one model at a time."
        )
      if not np.can_cast(x.dtype, self.dtype):
        raise UserError(
          f"features {number} are {x.dtype}, those before {self.dtype}, which cannot "
          "hold them. Store them all as one."
        )
      yield x.astype(self.dtype, copy=False)

  def chunks(self, rows: int) -> Iterator[tuple[int, list[np.ndarray]]]:
    first, parts, have = 0, [], 0
    for x in self._arrays():
      while have + len(x) >= rows:
        take = rows - have
        yield first, [*parts, x[:take]]
        first, parts, have, x = first + rows, [], 0, x[take:]
      if len(x):
        parts.append(x)
        have += len(x)
    if have:
      yield first, parts


def _priority(first: int, n: int, seed: int, level: int) -> np.ndarray:
  """[n] uint64, a random number for each row of the data: splitmix64 of its place."""
  with np.errstate(over="ignore"):
    x = np.arange(first, first + n, dtype=np.uint64)
    x += np.uint64(((seed << 8) + level) & (2**40 - 1)) << np.uint64(24)
    x *= np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) >> np.uint64(1)  # below the mark of an empty slot


class Sample:
  """Of each node the `size` rows of least priority, a uniform sample without order."""

  def __init__(self, nodes: int, size: int, width: int, dtype, seed: int, level: int):
    self.x = np.zeros((nodes, size, width), dtype)
    self.rank = np.full((nodes, size), EMPTY)
    self.seed, self.level = seed, level

  def offer(self, first: int, node: np.ndarray, rows: Callable) -> None:
    """Rows `first` and on, of these nodes [n]; rows(places) gives some of them."""
    rank = _priority(first, len(node), self.seed, self.level)
    new = np.flatnonzero(rank < self.rank.max(axis=1)[node])
    if not len(new):
      return
    size = self.rank.shape[1]
    touched = np.unique(node[new])
    of = np.concatenate([np.repeat(touched, size), node[new]])
    rank = np.concatenate([self.rank[touched].ravel(), rank[new]])
    order = np.lexsort((rank, of))
    begin = np.searchsorted(of[order], of[order])
    keep = np.zeros(len(of), bool)
    keep[order] = np.arange(len(of)) - begin < size
    old = len(touched) * size
    # As many rows of a node come in as go out, both in the order of nodes.
    out = np.flatnonzero(~keep[:old])
    come = np.flatnonzero(keep[old:])
    come = come[np.argsort(node[new[come]], kind="stable")]
    at = touched[out // size], out % size
    for i in range(0, len(come), 512):  # rows that stay in cache between two copies
      part = slice(i, i + 512)
      self.x[at[0][part], at[1][part]] = rows(new[come[part]])
    self.rank[at] = rank[old + come]

  def done(self) -> tuple[np.ndarray, np.ndarray]:
    """(x [K, m, D], how many are real [K]), the real ones first, in a fixed order."""
    order = np.argsort(self.rank, axis=1)
    for node, places in enumerate(order):
      self.x[node] = self.x[node, places]
    return self.x, (self.rank < EMPTY).sum(axis=1).astype(np.int32)


class Buffers:
  """Host memory of chunks, used in turns and kept: fresh pages cost more than copies.

  On accelerators one is filled while the other travels. On CPU the chunk is the buffer
  itself, and there is only one.
  """

  def __init__(self, mesh: jax.sharding.Mesh, dtype):
    self.mesh, self.dtype = mesh, np.dtype(dtype)
    self.cpu = mesh.devices.flat[0].platform == "cpu"
    count = 1 if self.cpu else 2
    self.raw, self.busy, self.turn = [np.zeros(0, np.uint8)] * count, [None] * count, 0

  def take(self, shape) -> np.ndarray:
    """The next buffer, as soon as nobody reads it; holds old rows or zeros."""
    self.turn = (self.turn + 1) % len(self.raw)
    jax.block_until_ready(self.busy[self.turn])
    size = int(np.prod(shape)) * self.dtype.itemsize
    if len(self.raw[self.turn]) < size + 64:
      self.raw[self.turn] = np.zeros(size + 64, np.uint8)
    raw = self.raw[self.turn]
    skip = -raw.ctypes.data % 64  # XLA on CPU copies what is not aligned
    return raw[skip : skip + size].view(self.dtype).reshape(shape)

  def until(self, state, chunk) -> None:
    """The step that made `state` is the last one to read the chunk."""
    jax.block_until_ready(state if self.cpu else None)
    self.busy[self.turn] = chunk.x


class Blocks:
  """Chunks of one level on the device, their rows sorted by node into blocks.

  Args:
    nodes: K. rows: of an update, or of a chunk if that is less. updates: of a chunk.
    group: blocks at once, enough to fill an accelerator; on CPU one, which stays in
      cache.
  Attributes:
    x: the buffer of the last chunk.
  """

  def __init__(
    self,
    buffers: Buffers,
    nodes: int,
    rows: int,
    updates: int,
    width: int,
    group: int | None = None,
  ):
    self.buffers, self.nodes, self.updates = buffers, nodes, updates
    self.shards = sharding.batch_shards(buffers.mesh)
    self.rows, self.own = rows, -(-rows // self.shards)
    self.group = group or (1 if buffers.cpu else 64)
    mean = self.own / nodes
    self.size = int(np.clip(2 ** round(np.log2(max(mean / 4, 1))), 8, 1024))
    most = self.own // self.size + min(nodes, self.own)
    self.groups = -(-most // self.group)
    self.shape = (self.shards, updates, self.groups * self.group, self.size, width)
    self.at, self.x = sharding.batch_sharding(buffers.mesh), None

  def put(self, parts: list[np.ndarray], node: np.ndarray):
    """(Chunk, places [n] of the rows in its x, seen as [any, D])."""
    self.x = x = self.buffers.take(self.shape)
    n = len(node)
    blocks = self.groups * self.group
    shape = self.shards, self.updates, blocks
    of, fill = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    place = np.empty(n, np.int64)
    for u in range(-(-n // self.rows)):
      mine = slice(u * self.rows, min((u + 1) * self.rows, n))
      local = np.arange(mine.stop - mine.start)
      key = local // self.own * self.nodes + node[mine]
      order = np.argsort(key, kind="stable")
      count = np.bincount(key, minlength=self.shards * self.nodes)
      need = -(-count // self.size).reshape(self.shards, -1)
      start = need.cumsum(1) - need  # first block of a node, within its shard
      shard = np.arange(self.shards)[:, None]
      base = (shard * self.updates + u) * blocks + start
      first = count.cumsum() - count
      row = local - first[key[order]]
      place[mine][order] = base.ravel()[key[order]] * self.size + row
      for s in range(self.shards):
        total = int(need[s].sum())
        of[s, u, :total] = np.repeat(np.arange(self.nodes), need[s])
        full = np.arange(total) - np.repeat(start[s], need[s])
        rest = count.reshape(self.shards, -1)[s][of[s, u, :total]] - full * self.size
        fill[s, u, :total] = np.minimum(rest, self.size)
    trips = -(-(fill > 0).sum(-1) // self.group)
    flat, done = x.reshape(-1, x.shape[-1]), 0
    for part in parts:
      flat[place[done : done + len(part)]] = part
      done += len(part)
    grouped = lambda a: a.reshape(*shape[:2], self.groups, self.group, *a.shape[3:])
    arrays = grouped(x), grouped(of), grouped(fill), trips.astype(np.int32)
    chunk = kmeans_blocks.Chunk(*(self._put(a) for a in arrays))
    return chunk, place

  def _put(self, x):
    """Every process has the whole chunk and hands over what its devices need."""
    return jax.make_array_from_callback(x.shape, self.at, lambda i: x[i])


def host(x) -> np.ndarray:
  if jax.process_count() > 1:
    x = multihost_utils.process_allgather(x, tiled=True)
  return np.asarray(x)
