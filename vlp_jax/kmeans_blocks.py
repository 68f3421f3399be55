"""The device half of `vlp_jax.kmeans`: all nodes of a level at once.

Rows come sorted by node, cut into blocks of one node each, so that a block is one
matmul with the centroids of that node's children and never with those of others. Each
shard of the mesh walks through its own blocks; sums and counts are all-reduced once an
update. All places are relative to the node's own centroid: float32 keeps its digits
however far from zero the data lie and however tight the clusters are.

Letters: S shards, U updates of a call, N groups of G blocks, R rows of a block, D
width; K nodes of the level, k children of each,
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from vlp_jax import sharding
from vlp_jax.metrics import wide

_ROWS, _ALL = PartitionSpec(sharding.BATCH_AXES), PartitionSpec()
_exact = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class Chunk(NamedTuple):
  """Rows in blocks: the first `fill` of a block are real, the others any number.

  x [S, U, N, G, R, D]; node, fill [S, U, N, G] int32; trips [S, U] int32, the groups
  that hold a row at all.
  """

  x: jax.Array
  node: jax.Array
  fill: jax.Array
  trips: jax.Array


class State(NamedTuple):
  """What training changes.

  child [K, k, D] relative to the node; used [K, k] bool; count [K, k], of how many
  rows it is the mean; recent [K, k], rows of this pass; sums [S, K, k, D] and seen
  [S, K, k], of each shard since the last update.
  """

  child: jax.Array
  used: jax.Array
  count: jax.Array
  recent: jax.Array
  sums: jax.Array
  seen: jax.Array


_STATE = State(_ALL, _ALL, _ALL, _ALL, _ROWS, _ROWS)


def unit(x):
  """Rows of length 1; a row of zeros stays."""
  square = (x * x).sum(-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))


def start(child, used, count, mesh: jax.sharding.Mesh) -> State:
  """The state at the start of a pass: child [K, k, D], used and count [K, k]."""
  zeros = lambda *shape: np.zeros(shape, child.dtype)
  sums = zeros(sharding.batch_shards(mesh), *child.shape)
  state = State(child, used, count, zeros(*used.shape), sums, zeros(*sums.shape[:-1]))
  put = lambda x, spec: jax.make_array_from_callback(
    x.shape, jax.sharding.NamedSharding(mesh, spec), lambda i: np.array(x[i])
  )
  return State(*map(put, state, _STATE))


def _places(parent, child, used, cosine):
  """(places [K, k, D] to compare with, |place|^2 / 2 with inf where unused)."""
  if cosine:
    child = unit(parent[:, None] + child) - parent[:, None]
  half = 0.5 * _exact("kcd,kcd->kc", child, child)
  return child, jnp.where(used, half, jnp.inf)


def _compare(x, at, parent, places, half, cosine):
  """Rows [R, D] relative to their node, and |x - c|^2 / 2 - |x|^2 / 2 [R, k]."""
  x = wide(x)
  x = (unit(x) if cosine else x) - parent[at]
  return x, half[at] - _exact("rd,cd->rc", x, places[at])


def _group(chunk, u, i):
  """Group i of part u, on this shard: x [G, R, D], node and fill [G].

  Indexed in the loop, not before it: XLA would carry a copy of what is cut out there.
  """
  return tuple(x[0, u, i] for x in chunk[:3])


def _each(fn, *blocks):
  """fn of each of G blocks. One alone is no batch: XLA on CPU does those slowly."""
  if len(blocks[0]) > 1:
    return jax.vmap(fn)(*blocks)
  return jax.tree.map(lambda x: x[None], fn(*(x[0] for x in blocks)))


@functools.partial(
  jax.jit, static_argnames=("mesh", "cosine", "update"), donate_argnums=0
)
def train(
  state: State, parent: jax.Array, chunk: Chunk, *, mesh, cosine: bool, update: bool
) -> State:
  """Adds the rows of a chunk to their nearest children, and moves these.

    c <- (count c + sum of its rows) / (count + number of its rows)

  after each of the U parts, as in mini-batch k-means (Sculley 2010); without `update`
  sums and counts are only gathered.

  Args:
    parent: [K, D], the centroids of the nodes.
  """

  def part(state, parent, chunk, u):
    places, half = _places(parent, state.child, state.used, cosine)
    k = half.shape[1]

    def one(x, at, fill):
      x, score = _compare(x, at, parent, places, half, cosine)
      best = score.argmin(-1)[:, None] == jnp.arange(k)
      best &= (jnp.arange(len(x)) < fill)[:, None]
      best = best.astype(x.dtype)
      return _exact("rc,rd->cd", best, x), best.sum(0)

    def block(i, carry):
      sums, seen = carry
      x, at, fill = _group(chunk, u, i)
      more, rows = _each(one, x, at, fill)
      if len(at) == 1:
        put = jax.lax.dynamic_update_index_in_dim
        sums = put(sums, sums[at[0]] + more[0], at[0], 0)
        return sums, put(seen, seen[at[0]] + rows[0], at[0], 0)
      # Blocks of one node write the same total: no order of addition is left open.
      same = (at[:, None] == at).astype(sums.dtype)
      more, rows = _exact("gh,hcd->gcd", same, more), same @ rows
      return sums.at[at].set(sums[at] + more), seen.at[at].set(seen[at] + rows)

    carry = state.sums[0], state.seen[0]
    sums, seen = jax.lax.fori_loop(0, chunk.trips[0, u], block, carry)
    if not update:
      return state._replace(sums=sums[None], seen=seen[None])
    new = jax.lax.psum(seen, sharding.BATCH_AXES)
    sums = jax.lax.psum(sums, sharding.BATCH_AXES)
    share = 1 / jnp.maximum(state.count + new, 1)
    move = (sums - new[..., None] * state.child) * share[..., None]
    return state._replace(
      child=state.child + move,
      count=state.count + new,
      recent=state.recent + new,
      sums=jnp.zeros_like(state.sums),
      seen=jnp.zeros_like(state.seen),
    )

  def body(state, parent, chunk):
    one = lambda u, state: part(state, parent, chunk, u)
    return jax.lax.fori_loop(0, chunk.x.shape[1], one, state)

  specs = _STATE, _ALL, Chunk(_ROWS, _ROWS, _ROWS, _ROWS)
  fn = jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=_STATE, check_vma=False)
  return fn(state, parent, chunk)


@functools.partial(jax.jit, static_argnames=("mesh", "cosine"))
def assign(child, used, parent, chunk: Chunk, *, mesh, cosine: bool):
  """Nearest used children of a chunk of one part.

  Returns: (digit [S, 1, N, G, R] int32, squared distance [S, 1, N, G] summed over the
    real rows of a block). On a tie the first child is taken.
  """

  def body(child, used, parent, chunk):
    places, half = _places(parent, child, used, cosine)

    def one(x, at, fill):
      x, score = _compare(x, at, parent, places, half, cosine)
      real = (jnp.arange(len(x)) < fill).astype(x.dtype)
      # A matmul: XLA on CPU adds up rows of squares one number at a time.
      far = _exact("r,rd->d", real, x * x).sum() + 2 * (real * score.min(-1)).sum()
      return score.argmin(-1).astype(jnp.int32), far

    def block(i, carry):
      new = _each(one, *_group(chunk, 0, i))
      put = lambda all_, own: jax.lax.dynamic_update_index_in_dim(all_, own, i, 0)
      return tuple(map(put, carry, new))

    digits = jnp.zeros(chunk.x.shape[2:-1], jnp.int32)
    far = jnp.zeros(chunk.node.shape[2:], child.dtype)
    out = jax.lax.fori_loop(0, chunk.trips[0, 0], block, (digits, far))
    return jax.tree.map(lambda x: x[None, None], out)

  specs = _ALL, _ALL, _ALL, Chunk(_ROWS, _ROWS, _ROWS, _ROWS)
  fn = jax.shard_map(
    body, mesh=mesh, in_specs=specs, out_specs=(_ROWS, _ROWS), check_vma=False
  )
  return fn(child, used, parent, chunk)
