"""Hierarchical k-means of any depth and branching: streaming, sharded, resumable.

  tree = kmeans.fit(features, branching=12, depth=4).tree   # VideoBERT's 20,736 tokens
  labels = kmeans.fit([x], branching=256, depth=1).ids      # XDC's flat clusters

Level by level, each node divides its points among k children: k-means++ in a uniform
sample of the node, then `passes` over the data of mini-batch updates with cumulative
counts, as in scikit-learn's MiniBatchKMeans, all nodes of a level at once. A last pass
sends every point to its child. `batch` is the points of an update of one node, so the
K nodes of a level are updated every K x batch points, or once a pass, if it has fewer.

After each pass but the last, children of few rows start anew in the node's largest
child (`kmeans_seeds.anew`); after the last, children without a point are unused and
never chosen, and so are those beyond the distinct points of a node.

Memory beside the features: a buffer of `chunk_mb` (two on accelerators), a sample of
at most as much, 4 bytes a point, and about six times the centroids of a level. The
result does not depend on the number of devices but for the order of additions.
"""

import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np

from vlp_jax import (
  cluster_tree,
  kmeans_blocks,
  kmeans_seeds,
  kmeans_stream,
  sharding,
)
from vlp_jax.cluster_tree import Tree, load
from vlp_jax.errors import CheckpointError, UserError
from vlp_jax.formats import read as read_lib

__all__ = ["Fit", "Tree", "fit", "load", "mutual_information", "perplexity"]
log = logging.getLogger(__name__)
VERSION = 1  # of the saved state


class Fit(NamedTuple):
  """The tree; leaf [N] int32 of each point, in order; mean squared distance to it."""

  tree: Tree
  ids: np.ndarray
  inertia: float


class _Run:
  """One clustering: settings, data, and where it stands."""

  def __init__(self, data, mesh, save, progress, chunk_mb, **given):
    branching, depth, passes = (given[k] for k in ("branching", "depth", "passes"))
    batch, init = given["batch"], given["init"]
    if branching < 2 or min(depth, passes, batch) < 1 or chunk_mb <= 0:
      raise UserError(
        f"branching={branching} must be at least 2, depth={depth}, passes={passes} and "
        f"batch={batch} at least 1."
      )
    if given["seed"] < 0:
      raise UserError(f"seed={given['seed']} must be at least 0.")
    if branching**depth >= 2**31:
      raise UserError(f"{branching}^{depth} leaves do not fit into int32.")
    if init not in ("kmeans++", "random"):
      raise UserError(f"init={init!r}. Known: kmeans++, random.")
    self.k, self.depth, self.passes, self.batch = branching, depth, passes, batch
    self.init, self.cosine, self.seed = init, given["cosine"], given["seed"]
    self.mesh = sharding.mesh(dict(data=-1)) if mesh is None else mesh
    self.save, self.progress = save, progress or (lambda done, total: None)
    self.bytes = int(chunk_mb * 2**20)
    self.data = kmeans_stream.Data(data)
    self.buffers = kmeans_stream.Buffers(self.mesh, self.data.dtype)
    width = self.data.width
    self.row_bytes = width * self.data.dtype.itemsize
    what = given | dict(version=VERSION, chunk_mb=chunk_mb, width=width)
    text = json.dumps(what | dict(dtype=self.data.dtype.name), sort_keys=True)
    self.what = hashlib.sha256(text.encode()).hexdigest()
    self.total = None
    self.centroids, self.used, self.done = [], [], 0
    self.ids, self.mean, self.inertia = None, None, 0.0

  @property
  def chunk_rows(self) -> int:
    return max(self.bytes // self.row_bytes, 64)

  def count(self, rows):
    self.done += rows
    self.progress(self.done, self.total)

  def sample(self, level: int) -> kmeans_stream.Sample:
    nodes = self.k**level
    room = self.bytes // (nodes * self.row_bytes)
    size = max(3 * self.k, min(16 * self.k, 4096, room))
    size = min(size, len(self.ids)) if self.ids is not None else size
    return kmeans_stream.Sample(
      nodes, size, self.data.width, self.data.dtype, self.seed, level
    )

  def look(self) -> kmeans_stream.Sample:
    """The first pass: how many rows, their mean, whether all are finite."""
    sample, total, n = self.sample(0), 0.0, 0
    for first, parts in self.data.chunks(self.chunk_rows):
      for x in parts:
        for i in range(0, len(x), 4096):
          one = np.asarray(
            x[i : i + 4096], np.float64 if x.itemsize > 4 else np.float32
          )
          if self.cosine:
            length = np.sqrt((one * one).sum(-1, keepdims=True))
            one = one / np.where(length > 0, length, 1)
          own = np.ones(len(one), one.dtype) @ one
          if not np.isfinite(own).all():
            bad = np.flatnonzero(~np.isfinite(one).all(axis=1))
            at = n + i + int(bad[0]) if len(bad) else f"{n + i} and on"
            raise UserError(
              f"features: row {at} is not finite (NaN, inf or over 1e34)."
            )
          total = total + own.astype(np.float64)
        n += len(x)
      rows = sum(map(len, parts))
      both = np.concatenate(parts) if len(parts) > 1 else parts[0]
      sample.offer(first, np.zeros(rows, np.int32), lambda at, x=both: x[at])
      self.count(rows)
    self.mean, self.ids = total / n, np.zeros(n, np.int32)
    self.total = n * (1 + self.depth * (self.passes + 1))
    return sample

  def resample(self, level: int) -> kmeans_stream.Sample:
    """The sample of a level once more, after a restart: the same rows."""
    sample = self.sample(level)
    for first, parts, node in self._chunks(self.chunk_rows):
      both = np.concatenate(parts) if len(parts) > 1 else parts[0]
      sample.offer(first, node, lambda at, x=both: x[at])
    return sample

  def _chunks(self, rows):
    """(first row, arrays, nodes of the rows [n]) of chunks of `rows` rows."""
    total = 0
    for first, parts in self.data.chunks(rows):
      total = first + sum(map(len, parts))
      if total <= len(self.ids):
        yield first, parts, self.ids[first:total]
    if total != len(self.ids):
      raise UserError(f"there are {total} features; there were {len(self.ids)} before.")

  def parent(self, level: int) -> np.ndarray:
    kind = np.promote_types(self.data.dtype, np.float32)
    x = self.centroids[-1].reshape(-1, self.data.width) if level else self.mean[None]
    return np.asarray(x, kind)

  def level(
    self, level: int, sample: kmeans_stream.Sample, resumed: dict | None
  ) -> kmeans_stream.Sample | None:
    """Trains one level, sends the points to it; returns the sample of the next."""
    parent = self.parent(level)
    some = *sample.done(), parent
    if resumed is None:
      rng = np.random.default_rng((self.seed, level))
      given = dict(k=self.k, init=self.init, cosine=self.cosine, rng=rng)
      child, used = kmeans_seeds.start(*some, **given)
      count, begin = np.zeros(used.shape, child.dtype), 0
    else:
      child, used, count = (resumed[k] for k in ("child", "used", "count"))
      begin = int(resumed["pass"])
    parts = self._plan(level)
    blocks = self._blocks(level, *parts[:2])
    for number in range(begin, self.passes):
      state = kmeans_blocks.start(child, used, count, self.mesh)
      state = self._train(parts, blocks, state, self._everywhere(parent))
      child, count, recent = (
        np.asarray(x) for x in (state.child, state.count, state.recent)
      )
      if number + 1 < self.passes:
        rng = np.random.default_rng((self.seed, level, number))
        child, moved = kmeans_seeds.anew(
          child, used, recent, *some, cosine=self.cosine, rng=rng
        )
        count = np.where(moved, 0, count)
        self._save(level, number + 1, dict(child=child, used=used, count=count))
    del some, sample, blocks
    return self._finish(level, child, used, parent)

  def _everywhere(self, x):
    return jax.device_put(x, sharding.replicated(self.mesh))

  def _plan(self, level):
    """(rows of a part, parts of a chunk, chunks of an update)."""
    nodes, most = self.k**level, min(self.chunk_rows, len(self.ids))
    update = min(self.batch * nodes, len(self.ids))
    if update * 2 <= most:
      return update, most // update, 1
    chunks = -(-update // most)
    return -(-update // chunks), 1, chunks

  def _train(self, plan, blocks, state, parent):
    rows, parts, every = plan
    step = functools.partial(kmeans_blocks.train, mesh=self.mesh, cosine=self.cosine)
    last = -(-len(self.ids) // (rows * parts)) - 1
    for number, (_, some, node) in enumerate(self._chunks(rows * parts)):
      chunk, _ = blocks.put(some, node)
      due = number % every == every - 1 or number == last
      state = step(state, parent, chunk, update=due)
      self.buffers.until(state, chunk)
      self.count(len(node))
    return state

  def _blocks(self, level, rows, parts):
    return kmeans_stream.Blocks(
      self.buffers, self.k**level, rows, parts, self.data.width
    )

  def _finish(self, level, child, used, parent):
    """The last pass of a level: digits of all points, what is unused, the inertia."""
    nodes = self.k**level
    rows = min(self.chunk_rows, len(self.ids))
    blocks, far, counts = self._blocks(level, rows, 1), 0.0, np.zeros(nodes * self.k)
    step = functools.partial(kmeans_blocks.assign, mesh=self.mesh, cosine=self.cosine)
    child = parent[:, None] + child
    kept = (kmeans_seeds.unit(child) if self.cosine else child).astype(np.float32)
    # Relative to what the tree will hold, so that it gives the same ids.
    places = (kept - parent[:, None], used, parent)
    places = [self._everywhere(x) for x in places]
    following = self.sample(level + 1) if level + 1 < self.depth else None
    for first, some, node in self._chunks(rows):
      chunk, place = blocks.put(some, node)
      digits, distance = step(*places, chunk)
      node *= self.k
      node += kmeans_stream.host(digits).ravel()[place]
      far += float(kmeans_stream.host(distance).sum(dtype=np.float64))
      counts += np.bincount(node, minlength=len(counts))
      if following is not None:
        flat = blocks.x.reshape(-1, self.data.width)
        following.offer(first, node, lambda at, x=flat, p=place: x[p[at]])
      self.count(len(node))
    used = (counts > 0).reshape(nodes, self.k)
    # Unused children stand where their node stands: finite, and no use is made of them.
    place = np.where(used[..., None], kept, parent[:, None].astype(np.float32))
    shape = (self.k,) * (level + 1)
    self.centroids.append(place.reshape(*shape, self.data.width))
    self.used.append(used.reshape(shape))
    self.inertia = max(far, 0.0) / len(self.ids)
    log.info(
      "level %d: %d of %d children used, mean squared distance %.6g, perplexity %.1f",
      *(level + 1, used.sum(), used.size, self.inertia, perplexity(counts)),
    )
    self._save(level + 1, 0, None)
    return following

  def _save(self, level, number, state) -> None:
    """Where a restart goes on: after the passes of a level that are done."""
    if not self.save or jax.process_index():
      return
    arrays = {f"centroids_{i}": c for i, c in enumerate(self.centroids)}
    arrays |= {f"used_{i}": u for i, u in enumerate(self.used)}
    if state is not None:
      arrays |= state
    numbers = np.array([level, number, self.done], np.int64)
    what = np.frombuffer(bytes.fromhex(self.what), np.uint8)
    arrays |= dict(ids=self.ids, mean=self.mean, inertia=np.array(self.inertia))
    cluster_tree.write_npz(self.save, arrays | dict(numbers=numbers, what=what))

  def restore(self) -> tuple[int, dict | None]:
    """(level to go on with, the state within it) of the saved file; (0, None)."""
    if not self.save or not os.path.exists(self.save):
      return 0, None
    try:
      found = read_lib.read(self.save)
      what, (level, number, done) = found["what"].tobytes().hex(), found["numbers"]
      self.ids, self.mean = found["ids"].copy(), found["mean"]
      self.inertia = float(found["inertia"])
      self.centroids = [found[f"centroids_{i}"] for i in range(level)]
      self.used = [found[f"used_{i}"] for i in range(level)]
    except (UserError, KeyError, ValueError) as error:
      raise CheckpointError(f"{self.save} is damaged ({error}); remove it.") from None
    if what != self.what:
      raise CheckpointError(
        f"{self.save} was begun with other settings or features. Remove it to start "
        "anew, or give the same."
      )
    self.done, n = int(done), len(self.ids)
    self.total = n * (1 + self.depth * (self.passes + 1))
    state = {k: found[k] for k in ("child", "used", "count") if number}
    return int(level), (state | {"pass": number}) if number else None


def fit(
  data: Iterable[np.ndarray],
  *,
  branching: int = 12,
  depth: int = 4,
  passes: int = 4,
  batch: int = 1024,
  init: str = "kmeans++",
  cosine: bool = False,
  seed: int = 0,
  mesh: jax.sharding.Mesh | None = None,
  chunk_mb: float = 256.0,
  save: str | os.PathLike | None = None,
  identity: str = "",
  progress: Callable[[int, int | None], None] | None = None,
) -> Fit:
  """Clusters the rows of all arrays.

  Args:
    data: re-iterable of [n, D] float arrays of one width, in the same order each time
      and best in a random one: mini-batches are neighbours.
    branching, depth: k children of each node, so many levels; k ** depth leaves.
    passes, batch, init: see the module's header; `init` is "kmeans++" or "random".
    cosine: compare directions; rows and centroids are divided by their lengths.
    mesh: rows are split over its batch axes; by default over all devices. Every
      process reads all the data.
    save: a local file for the state after each pass; with it, a call that was stopped
      goes on where it stood and ends with the same tree. The caller removes it.
    identity: of the data; a saved state of others is refused.
    progress: told (rows of all passes done, their total; None in the first pass).
  Returns: `Fit`.
  Raises: UserError for data that are empty, not finite or of several widths;
    CheckpointError for a saved state that is damaged, or of other settings or data.
  """
  given = dict(branching=branching, depth=depth, passes=passes, batch=batch, init=init)
  given |= dict(cosine=cosine, seed=seed, identity=identity)
  run = _Run(data, mesh, save, progress, chunk_mb, **given)
  with sharding.context(run.mesh):
    level, resumed = run.restore()
    sample = None
    if run.ids is None:
      sample = run.look()
    elif level < depth:
      sample = run.resample(level)
    for number in range(level, depth):
      sample = run.level(number, sample, resumed)
      resumed = None
  tree = Tree(tuple(run.centroids), tuple(run.used), cosine)
  return Fit(tree, run.ids, run.inertia)


def perplexity(counts: np.ndarray) -> float:
  """exp of the entropy of cluster sizes: as how many equal ones they are."""
  share = np.asarray(counts, float)
  share = share[share > 0] / share.sum()
  return float(np.exp(-(share * np.log(share)).sum()))


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
  """Normalised mutual information of two labellings [n], 2 I / (H_a + H_b).

  1 where they are the same up to names, also if both have one label only. Agrees with
  sklearn.metrics.normalized_mutual_info_score.
  """
  _, a = np.unique(a, return_inverse=True)
  _, b = np.unique(b, return_inverse=True)
  _, n = np.unique(a * (b.max() + 1) + b, return_counts=True)
  entropy = lambda x: np.log(perplexity(x))
  own = entropy(np.bincount(a)) + entropy(np.bincount(b))
  return float(2 * (own - entropy(n)) / own) if own else 1.0
