"""Slow, loop-only IPOT for one unpadded pair, from the formula in the docstring."""

import numpy as np


def cost(x, y, eps=1e-5):
  """1 - cosine, [m, n]."""
  out = np.zeros((len(x), len(y)))
  for i, a in enumerate(x):
    for j, b in enumerate(y):
      norms = max(np.sqrt((a * a).sum()), eps) * max(np.sqrt((b * b).sum()), eps)
      out[i, j] = 1 - (a * b).sum() / norms
  return out


def plan(c, beta=0.5, iterations=50):
  """Transport plan [n, m] of a cost [m, n]."""
  m, n = c.shape
  t, sigma = np.ones((n, m)), np.full(m, 1 / m)
  delta = np.zeros(n)
  for _ in range(iterations):
    q = np.zeros((n, m))
    for j in range(n):
      for i in range(m):
        q[j, i] = np.exp(-c[i, j] / beta) * t[j, i]
    for j in range(n):
      delta[j] = 1 / (n * sum(q[j, i] * sigma[i] for i in range(m)))
    for i in range(m):
      sigma[i] = 1 / (m * sum(delta[j] * q[j, i] for j in range(n)))
    for j in range(n):
      for i in range(m):
        t[j, i] = delta[j] * q[j, i] * sigma[i]
  return t


def distance(x, y):
  c = cost(x, y)
  return float((c * plan(c).T).sum())
