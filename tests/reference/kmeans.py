"""Mini-batch k-means in k-means, one point at a time."""

import numpy as np


def nearest(x, places, used):
  """Index of the nearest used place of [k, D]; the first of equals."""
  best, least = -1, np.inf
  for j, place in enumerate(places):
    far = float(((x - place) ** 2).sum())
    if used[j] and far < least:
      best, least = j, far
  return best, least


def update(rows, nodes, parent, child, used, count, batch):
  """One pass: c <- (count c + sum of the batch's rows) / (count + their number)."""
  child, count = child.astype(np.float64).copy(), count.astype(np.float64).copy()
  for i in range(0, len(rows), batch):
    sums, seen = np.zeros_like(child), np.zeros_like(count)
    for x, node in zip(rows[i : i + batch], nodes[i : i + batch], strict=True):
      x = x.astype(np.float64) - parent[node]
      j, _ = nearest(x, child[node], used[node])
      sums[node, j] += x
      seen[node, j] += 1
    for node in range(len(child)):
      for j in range(child.shape[1]):
        if seen[node, j]:
          total = count[node, j] + seen[node, j]
          before = count[node, j] * child[node, j]
          child[node, j] = (before + sums[node, j]) / total
          count[node, j] = total
  return child, count


def descend(x, centroids, used):
  """The id of a point: the nearest child of a child of ..."""
  at = ()
  for level, there in zip(centroids, used, strict=True):
    j, _ = nearest(x, level[at], there[at])
    at = (*at, j)
  out = 0
  for digit in at:
    out = out * centroids[0].shape[0] + digit
  return out
