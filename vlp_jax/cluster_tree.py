"""The tree of a hierarchical k-means: digits, centroids, assignment, files.

A leaf is a path from the root, one child a level, and its id these digits read in base
k: id = ((d_1 k + d_2) k + d_3) ... A point goes down greedily, at each level to the
nearest child of where it is, so that 12^4 = 20,736 leaves cost 4 x 12 distances and
not 20,736; its leaf is not always the nearest of all. VideoBERT's tokens (arXiv
1904.01766, sec. 3.2) are such ids.

Children that no training point chose are unused: they stand where their node stands
and are never chosen. `tree.digest` identifies the tokens; a model trained on those of
one tree is of no use with another, and `tree.expect` refuses it. (`vlp_jax.fitting`
refuses a tree of another size than the model's table.)
"""

import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax import workdir
from vlp_jax.errors import CheckpointError, UserError
from vlp_jax.formats import read as read_lib
from vlp_jax.metrics import wide

TOGETHER = 256  # points whose children's centroids are gathered at once, on device
ROWS = 1 << 16  # points at a time on the host


class Tree(NamedTuple):
  """Centroids by level, [k, D], [k, k, D], ... float32; used [k], [k, k], ... bool.

  With `cosine` points are compared by direction, and centroids have length 1.
  """

  centroids: tuple[np.ndarray, ...]
  used: tuple[np.ndarray, ...]
  cosine: bool = False

  @property
  def depth(self) -> int:
    return len(self.centroids)

  @property
  def branching(self) -> int:
    return self.centroids[0].shape[0]

  @property
  def width(self) -> int:
    return self.centroids[0].shape[-1]

  @property
  def size(self) -> int:
    """Number of ids, used or not."""
    return self.branching**self.depth

  @property
  def digest(self) -> str:
    """Hex sha256 of all that decides which id a point gets."""
    code = hashlib.sha256(f"tree 1 {int(self.cosine)}".encode())
    for x, kind in ((self.centroids, "<f4"), (self.used, "|b1")):
      for level in x:
        code.update(f" {level.shape} ".encode())
        code.update(np.ascontiguousarray(level, kind).data)
    return code.hexdigest()

  def expect(self, digest: str, what: str = "the checkpoint") -> None:
    """Raises CheckpointError unless this is the tree of that digest."""
    if self.digest != digest:
      raise CheckpointError(
        f"{what} has tokens of the tree {digest[:16]}, this one is "
        f"{self.digest[:16]} with {self.branching}^{self.depth} = {self.size} leaves: "
        "ids of one tree mean nothing in another. Give the tree it was trained with."
      )

  def digits(self, ids) -> np.ndarray:
    """[..., depth] int32, the child taken at each level."""
    ids, k = self._known(ids), self.branching
    powers = k ** np.arange(self.depth - 1, -1, -1)
    return (ids[..., None] // powers % k).astype(np.int32)

  def _known(self, ids):
    ids = np.asarray(ids)
    if ids.size and not 0 <= ids.min() <= ids.max() < self.size:
      raise ValueError(
        f"ids from {ids.min()} to {ids.max()}; 0..{self.size - 1} exist."
      )
    return ids

  def ids(self, digits) -> np.ndarray:
    """[...] int32 of [..., depth] digits: the inverse of `digits`."""
    digits, k = np.asarray(digits), self.branching
    if digits.shape[-1] != self.depth or not ((digits >= 0) & (digits < k)).all():
      raise ValueError(f"digits {digits.shape}: {self.depth} of 0..{k - 1} expected.")
    axes = tuple(np.moveaxis(digits, -1, 0))
    return np.ravel_multi_index(axes, (k,) * self.depth).astype(np.int32)

  def centroid(self, ids) -> np.ndarray:
    """[..., D] float32, of leaves."""
    return self.leaves()[self._known(ids)]

  def leaves(self) -> np.ndarray:
    """[k ** depth, D] float32 in the order of ids; finite for unused ones too."""
    return self.centroids[-1].reshape(self.size, self.width)

  def leaves_used(self) -> np.ndarray:
    """[k ** depth] bool."""
    return self.used[-1].reshape(self.size)

  def assign(self, x) -> np.ndarray:
    """[...] int32 leaves of points [..., D] of any float dtype; numpy, on the host.

    Raises: UserError for points of another width, or that are not finite.
    """
    x = np.asarray(x)
    if x.shape[-1:] != (self.width,):
      raise UserError(
        f"features have width {x.shape[-1] if x.ndim else 0}; the tree was made of "
        f"{self.width}. Extract them with the model that the tree is of."
      )
    flat = x.reshape(-1, self.width)
    parts = [self._assign(flat[i : i + ROWS]) for i in range(0, len(flat), ROWS)]
    return np.concatenate([*parts, np.zeros(0, np.int32)]).reshape(x.shape[:-1])

  def _assign(self, x):
    x = np.asarray(x, np.float32)
    if not np.isfinite(x).all():
      raise UserError("features are not finite; look for the broken clip.")
    if self.cosine:
      length = np.sqrt((x * x).sum(-1, keepdims=True))
      x = x / np.where(length > 0, length, 1)
    at, k = np.zeros(len(x), np.int32), self.branching
    for parent, places, used in self.levels():
      half = np.where(used, 0.5 * (places * places).sum(-1), np.inf)
      order = np.argsort(at, kind="stable")
      nodes, first = np.unique(at[order], return_index=True)
      digit = np.empty_like(at)
      for node, rows in zip(nodes, np.split(order, first[1:]), strict=True):
        near = half[node] - (x[rows] - parent[node]) @ places[node].T
        digit[rows] = near.argmin(-1)
      at = at * k + digit
    return at

  def levels(self):
    """(nodes [K, D], children relative to them [K, k, D], used [K, k]) of each level.

    Differences to the node keep the digits of float32; so does the training. The root,
    the mean of all points there, is that of its children: any place near them will do.
    """
    k, top = self.branching, self.centroids[0][self.used[0]]
    parent = top.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    for child, used in zip(self.centroids, self.used, strict=True):
      child = child.reshape(-1, k, self.width)
      yield parent, child - parent[:, None], used.reshape(-1, k)
      parent = child.reshape(-1, self.width)

  def save(
    self, path: str | os.PathLike, *, origin: Mapping[str, Any] | None = None
  ) -> str:
    """Writes an .npz, whole or not at all; returns the digest.

    Args:
      origin: settings and `features`, what identifies these, that it was made of; no
        part of the digest.
    """
    arrays = {f"centroids_{i}": np.asarray(c) for i, c in enumerate(self.centroids)}
    arrays |= {f"used_{i}": np.asarray(u) for i, u in enumerate(self.used)}
    digest = self.digest
    code = np.frombuffer(bytes.fromhex(digest), np.uint8)
    arrays |= {"cosine": np.array(self.cosine), "digest": code}
    if origin:
      text = json.dumps(origin, sort_keys=True).encode()
      arrays["origin"] = np.frombuffer(text, np.uint8)
    write_npz(path, arrays)
    return digest


def write_npz(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes an .npz so that a reader, or a kill, never finds half of it."""
  path = workdir.root(path)
  local = "://" not in os.fspath(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.parent / f"{path.name}.tmp-{os.getpid()}" if local else path
  with partial.open("wb") as f:
    np.savez(f, **arrays)
    if local:
      f.flush()
      os.fsync(f.fileno())
  if local:
    partial.replace(path)


def load(path: str | os.PathLike, *, digest: str = "") -> Tree:
  """A saved tree; nothing in the file is executed.

  Args:
    digest: of the tree that is meant, if it is known.
  Raises: UserError if it is missing or no tree, CheckpointError if it is damaged or
    another one than meant.
  """
  found = read_lib.read(path)
  depth = sum(k.startswith("centroids_") for k in found)
  names = [f"{kind}_{i}" for kind in ("centroids", "used") for i in range(depth)]
  if not depth or set(found) - {"origin"} != {*names, "cosine", "digest"}:
    raise UserError(
      f"{path} is no tree of launch.cluster; it holds {sorted(found)[:9]}."
    )
  levels = lambda kind: tuple(found[f"{kind}_{i}"] for i in range(depth))
  tree = Tree(levels("centroids"), levels("used"), bool(found["cosine"]))
  if found["digest"].tobytes().hex() != tree.digest:
    raise CheckpointError(f"{path} is damaged: its content does not fit its digest.")
  if digest:
    tree.expect(digest, os.fspath(path))
  return tree


def differ(path: str | os.PathLike, origin: Mapping[str, Any]) -> list[str]:
  """What a saved tree was made of where that is not `origin`, in words; [] if it is.

  Of a tree saved without its origin only what can be seen of it is compared.
  Raises: UserError if it is missing, CheckpointError if it is damaged.
  """
  tree, text = load(path), read_lib.read(path).get("origin")
  try:
    said = {} if text is None else dict(json.loads(text.tobytes()))
  except (TypeError, ValueError):
    raise CheckpointError(f"{path} is damaged in what it says of its origin.") from None
  found = {
    k: getattr(tree, k) for k in ("branching", "depth", "width", "cosine")
  } | said
  odd = [k for k in origin if k in found and found[k] != origin[k]]
  # What identifies features says nothing to people, and changes with the seed.
  words = [f"{k}={found[k]}, not {origin[k]}" for k in odd if k != "features"]
  return words or ["other features"] * len(odd)


@functools.partial(jax.jit, static_argnames=("cosine", "together"))
def _descend(x, levels, *, cosine, together):
  def one(x):
    if cosine:
      square = (x * x).sum()
      x = x * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))
    at = jnp.zeros((), jnp.int32)
    for parent, places, used in levels:
      near = places[at]  # [k, D]
      score = 0.5 * (near * near).sum(-1) - jnp.einsum(
        "kd,d->k", near, x - parent[at], precision=jax.lax.Precision.HIGHEST
      )
      best = jnp.where(used[at], score, jnp.inf).argmin()
      at = at * used.shape[-1] + best.astype(jnp.int32)
    return at

  flat = wide(x).reshape(-1, x.shape[-1])
  return jax.lax.map(one, flat, batch_size=together).reshape(x.shape[:-1])


def descend(
  levels: Sequence, x: jax.Array, *, cosine: bool = False, together: int = TOGETHER
) -> jax.Array:
  """`Tree.assign` on the device, for features that are there already.

  Args:
    levels: `jax.device_put(list(tree.levels()))`; arguments of the step, not constants.
    x: [..., D] float, finite.
    together: points at a time: of each level so many times k x D numbers are gathered.
  Returns: [...] int32.
  """
  if x.shape[-1] != levels[0][0].shape[-1]:
    raise ValueError(
      f"features have width {x.shape[-1]}; the tree was made of "
      f"{levels[0][0].shape[-1]}."
    )
  return _descend(x, list(levels), cosine=cosine, together=together)
