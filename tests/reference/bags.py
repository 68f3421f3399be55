"""Bag losses of cosines in plain loops, both forms, with rows that lack a side."""

import math

import numpy as np


def cosines(left, right):
  """[B, B, K] of left [B, D] and right [B, K, D]."""
  unit = lambda x: np.asarray(x, np.float64) / np.linalg.norm(x, axis=-1, keepdims=True)
  return np.einsum("id,jkd->ijk", unit(left), unit(right))


def losses(left, right, where=None, left_where=None, tau=0.07, form="asymmetric"):
  """[B]; 0 in rows that lack a side."""
  rows, size = right.shape[:2]
  where = np.ones((rows, size), bool) if where is None else where
  left_where = np.ones(rows, bool) if left_where is None else left_where
  s = np.exp(cosines(left, right) / tau)
  out = np.zeros(rows)
  for i in range(rows):
    if not left_where[i] or not where[i].any():
      continue
    own = sum(s[i, i, k] for k in range(size) if where[i, k])
    across = sum(s[i, j, k] for j in range(rows) for k in range(size) if where[j, k])
    down = sum(
      s[j, i, k]
      for j in range(rows)
      for k in range(size)
      if where[i, k] and left_where[j]
    )
    if form == "asymmetric":
      out[i] = math.log(across + down) - math.log(own)
    else:
      out[i] = math.log(across / own) + math.log(down / own)
  return out
