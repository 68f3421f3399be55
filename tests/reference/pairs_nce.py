"""Slow oracles of CBT's losses (arXiv 1906.05743) and of restricted softmaxes."""

import math

import numpy as np


def visual(steps, predicted, positions, where, real):
  """Mean over hidden steps of -log NCE, one step and one negative after the other."""
  values = []
  for i in range(len(steps)):
    for p in range(positions.shape[1]):
      if not where[i, p]:
        continue
      t = positions[i, p]
      own = math.exp(float(steps[i, t] @ predicted[i, p]))
      total = own
      for j in range(len(steps)):
        for u in range(steps.shape[1]):
          if real[j, u] and (j, u) != (i, t):
            total += math.exp(float(steps[j, u] @ predicted[i, p]))
      values.append(-math.log(own / total))
  return float(np.mean(values))


def cross(scores, own, group, real):
  """Mean of -log(own / (own + texts of other groups)) of a square of scores."""
  values = []
  for i in own:
    others = [
      j for j in range(len(group)) if j != i and real[j] and group[j] != group[i]
    ]
    top = math.exp(scores[i, i])
    total = top + sum(math.exp(scores[i, j]) for j in others)
    values.append(-math.log(top / total))
  return float(np.mean(values))


def restricted(logits, target, where):
  """Mean cross entropy of logits [B, P, C] at the places that count."""
  values = []
  for i in range(len(logits)):
    for p in range(logits.shape[1]):
      if where[i, p]:
        row = [math.exp(float(x)) for x in logits[i, p]]
        values.append(-math.log(row[target[i, p]] / sum(row)))
  return float(np.mean(values))
