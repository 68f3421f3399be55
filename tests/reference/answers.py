"""Losses of answers, one number at a time."""

import math


def vqa(logits, target):
  """(mean over rows of binary cross entropies summed over answers, mean score)."""
  loss = score = 0.0
  for z, t in zip(logits, target, strict=True):
    best = 0
    for a in range(len(z)):
      p = 1 / (1 + math.exp(-float(z[a])))
      loss -= float(t[a]) * math.log(p) + (1 - float(t[a])) * math.log(1 - p)
      best = a if z[a] > z[best] else best
    score += float(t[best])
  return loss / len(logits), score / len(logits)


def refer(logits, mask, label):
  """Mean over rows of -log softmax over the real regions at the right one."""
  total = 0.0
  for z, m, y in zip(logits, mask, label, strict=True):
    whole = sum(math.exp(float(v)) for v, real in zip(z, m, strict=True) if real)
    total -= math.log(math.exp(float(z[y])) / whole)
  return total / len(logits)


def overlap(a, b):
  """Intersection over union of two boxes x1 y1 x2 y2."""
  w = min(a[2], b[2]) - max(a[0], b[0])
  h = min(a[3], b[3]) - max(a[1], b[1])
  both = float(max(w, 0) * max(h, 0))
  area = [float((x[2] - x[0]) * (x[3] - x[1])) for x in (a, b)]
  return both / (sum(area) - both)
