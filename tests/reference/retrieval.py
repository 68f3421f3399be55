"""Retrieval figures by loops over single queries and items, from their definition."""

import itertools

import numpy as np


def rank(scores, right):
  """1 + number of wrong items that are not strictly below the best right one."""
  best = None
  for s, r in zip(scores, right, strict=True):
    if r and not np.isnan(s) and (best is None or s > best):
      best = s
  ahead = 0
  for s, r in zip(scores, right, strict=True):
    if not r and (best is None or not s < best):
      ahead += 1
  return 1 + ahead


def recall(scores, relevant, k):
  """Share of rows with rank <= k; rows without a right item are misses."""
  hits = [
    any(right) and rank(s, right) <= k
    for s, right in zip(scores, relevant, strict=True)
  ]
  return sum(hits) / len(hits)


def median_rank(scores, relevant):
  ranks = sorted(rank(s, right) for s, right in zip(scores, relevant, strict=True))
  n = len(ranks)
  return (ranks[(n - 1) // 2] + ranks[n // 2]) / 2


def chance(size, positives, k):
  """Share of all orders of `size` items with a right one among the first k."""
  orders = list(itertools.combinations(range(size), min(k, size)))
  return sum(min(order) < positives for order in orders) / len(orders)
