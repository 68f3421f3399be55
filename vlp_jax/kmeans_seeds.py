"""Where the clusters of `vlp_jax.kmeans` start, and start anew: on the host, in numpy.

Works on a uniform sample of each node, so it costs little beside a pass over the data,
and it is the same whatever the devices. K nodes, m sampled rows of each of width D, k
children; all places are relative to the node.
"""

from collections.abc import Iterator

import numpy as np

# Closer than this part of their squared lengths, two sampled rows count as one.
SAME = 1e-5
LOW = 0.01  # of the node's largest child: fewer rows, and a child starts anew
FLOATS = 1 << 24  # worked on at a time


def unit(x: np.ndarray) -> np.ndarray:
  """Rows of length 1; a row of zeros stays."""
  length = np.sqrt((x * x).sum(-1, keepdims=True))
  return x / np.where(length > 0, length, 1)


def _groups(x, parent, cosine) -> Iterator[tuple[slice, np.ndarray]]:
  """(nodes, their rows [n, m, D] relative to them), a few nodes at a time."""
  step = max(FLOATS // x[0].size, 1)
  for i in range(0, len(x), step):
    at = slice(i, i + step)
    rows = x[at].astype(parent.dtype, copy=False)
    yield at, (unit(rows) if cosine else rows) - parent[at, None]


def _square(x):
  return np.einsum("...d,...d->...", x, x)


def _pick(weight: np.ndarray, u: np.ndarray) -> np.ndarray:
  """Rows drawn with probabilities ~ weight [n, m], one for each u [n, t] in 0..1."""
  upto = weight.cumsum(-1)
  at = (upto[:, None] <= (u * upto[:, -1:])[..., None]).sum(-1)
  last = weight.shape[1] - 1 - (weight[:, ::-1] > 0).argmax(-1)  # against rounding
  return np.minimum(at, last[:, None])


def _plus_plus(x, real, k, rng):
  """(chosen [n, k], used [n, k]) among rows x [n, m, D], greedy over 2 + log k."""
  n, trials = len(x), 2 + int(np.log(k))
  square, nodes = _square(x), np.arange(n)

  def distances(at):  # [n, t] -> [n, t, m]
    near = np.take_along_axis(x, at[..., None], 1)
    both = np.take_along_axis(square, at, 1)[..., None] + square[:, None]
    far = both - 2 * near @ x.swapaxes(1, 2)
    return np.where(real[:, None] & (far > SAME * both), far, 0)

  chosen, used = np.zeros((n, k), int), np.zeros((n, k), bool)
  chosen[:, 0] = _pick(real.astype(float), rng.random((n, 1)))[:, 0]
  used[:, 0] = real.any(1)
  near = distances(chosen[:, :1])[:, 0]
  for j in range(1, k):
    some = _pick(near, rng.random((n, trials)))
    after = np.minimum(near[:, None], distances(some))
    best = after.sum(-1).argmin(1)
    fresh = (near > 0).any(1)
    chosen[:, j] = np.where(fresh, some[nodes, best], chosen[:, 0])
    used[:, j] = fresh
    near = np.where(fresh[:, None], after[nodes, best], near)
  return chosen, used


def start(x, have, parent, *, k: int, init: str, cosine: bool, rng):
  """Children to start from: (child [K, k, D] relative, used [K, k]).

  "kmeans++" (Arthur and Vassilvitskii 2007, greedy over 2 + log k candidates as
  scikit-learn's) stops where no sampled row is left that differs from the chosen ones;
  "random" takes any k of the sampled rows.

  Args:
    x: [K, m, D] sampled rows, the first `have` [K] of each node real.
    parent: [K, D] nodes.
  """
  nodes, m, width = x.shape
  child = np.zeros((nodes, k, width), parent.dtype)
  used = np.zeros((nodes, k), bool)
  for at, rows in _groups(x, parent, cosine):
    real = np.arange(m) < have[at, None]
    if init == "random":
      order = np.where(real, rng.random(real.shape), 2.0).argsort(1)
      chosen = order[:, np.arange(k) % m]
      used[at] = np.arange(k) < have[at, None]
    else:
      chosen, used[at] = _plus_plus(rows, real, k, rng)
    picked = np.take_along_axis(rows, chosen[..., None], 1)
    child[at] = np.where(used[at][..., None], picked, 0)
  return child, used


def anew(child, used, recent, x, have, parent, *, cosine: bool, rng):
  """Moves children of few rows: (child [K, k, D], moved [K, k] bool).

  A used child that had less than LOW of the rows of its node's largest child in this
  pass goes to a sampled row of that child, drawn with the weights of k-means++, its
  squared distance from where it belongs. If those rows are all alike, it stays.

  Args:
    recent: [K, k] rows of this pass. Others: see `start`.
  """
  most = np.where(used, recent, -1).argmax(1)
  low = used & (recent < LOW * recent.max(1, keepdims=True))
  child, moved = child.copy(), np.zeros_like(used)
  todo = np.flatnonzero(low.any(1))
  if not len(todo):
    return child, moved
  x, have, parent = x[todo], have[todo], parent[todo]
  for at, rows in _groups(x, parent, cosine):
    own = todo[at]
    places = child[own]
    if cosine:
      places = unit(places + parent[at, None]) - parent[at, None]
    half = np.where(used[own], 0.5 * _square(places), np.inf)
    near = half[:, None] - rows @ places.swapaxes(1, 2)  # [n, m, k]
    square = _square(rows)
    far = square + 2 * near.min(-1)
    real = np.arange(rows.shape[1]) < have[at, None]
    real &= (near.argmin(-1) == most[own, None]) & (far > SAME * square)
    for i, node in enumerate(own):
      places = np.flatnonzero(low[node])
      weight = np.where(real[i], far[i], 0)
      n = min(len(places), int(real[i].sum()))
      if n:
        chosen = rng.choice(len(weight), n, replace=False, p=weight / weight.sum())
        child[node, places[:n]] = rows[i, chosen]
        moved[node, places[:n]] = True
  return child, moved
