"""Slow, loop-only losses of masked words and regions, from their formulas."""

import numpy as np


def softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


def cross_entropy(logits, target, where):
  """Mean of -log p(target) over marked places; logits [B, P, C]."""
  values = [
    -np.log(softmax(logits[i, p])[target[i, p]])
    for i, p in np.ndindex(where.shape)
    if where[i, p]
  ]
  return sum(values) / len(values)


def squared_error(predicted, target, where, *, over_dims):
  """Mean over marked places of the mean (or the sum) of squared differences."""
  values = []
  for i, p in np.ndindex(where.shape):
    if where[i, p]:
      squares = [
        (a - b) ** 2 for a, b in zip(predicted[i, p], target[i, p], strict=True)
      ]
      values.append(sum(squares) / (len(squares) if over_dims == "mean" else 1))
  return sum(values) / len(values)


def kl(logits, target, where, *, over_classes):
  """Mean over marked places of the mean (or the sum) of t log(t / p)."""
  values = []
  for i, p in np.ndindex(where.shape):
    if where[i, p]:
      q = softmax(logits[i, p])
      terms = [t * np.log(t / q[c]) for c, t in enumerate(target[i, p]) if t > 0]
      values.append(sum(terms) / (len(q) if over_classes == "mean" else 1))
  return sum(values) / len(values)
