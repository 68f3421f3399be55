"""Step alignment by trying everything; words of steps one by one."""

import itertools

import numpy as np


def align(cost):
  """(seconds, total) of the cheapest increasing choice of a second for each step."""
  num, k = cost.shape
  ways = itertools.combinations(range(num), k)
  total = lambda way: sum(float(cost[t, s]) for s, t in enumerate(way))
  best = min(ways, key=total)
  return list(best), total(best)


def components(steps, words):
  """[M, K]: of each step 1 / n at its n different words, parted by blanks."""
  out = np.zeros((len(words), len(steps)))
  for k, step in enumerate(steps):
    own = set(step.split())
    for word in own:
      out[words.index(word), k] = 1 / len(own)
  return out


def align_runs(cost, background=0.0):
  """Total cost of the cheapest alignment where a step may last."""
  num, k = cost.shape
  best = np.inf
  for labels in itertools.product(range(k + 1), repeat=num):  # k is background
    order = [
      a for i, a in enumerate(labels) if a < k and (i == 0 or labels[i - 1] != a)
    ]
    if order == list(range(k)):
      total = sum(
        background if a == k else float(cost[t, a]) for t, a in enumerate(labels)
      )
      best = min(best, total)
  return best
