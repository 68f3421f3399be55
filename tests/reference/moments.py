"""Moment retrieval in loops over single candidates, from the published formulas."""


def iou(a, b):
  inter = min(a[1], b[1]) - max(a[0], b[0])
  hull = max(a[1], b[1]) - min(a[0], b[0])
  return max(inter, 0) / hull if hull > 0 else 0.0


def suppress(spans, threshold):
  kept = []
  for span in spans:
    if all(iou(span, other) <= threshold for other in kept):
      kept.append(span)
  return kept


def candidates(sims, times, shortest, longest):
  """(score, (start, end)) of all runs of clips, the best first."""
  found = []
  for a in range(len(sims)):
    for b in range(a + shortest, min(a + longest, len(sims)) + 1):
      score = sum(float(s) for s in sims[a:b]) / (b - a)
      found.append((score, (float(times[a][0]), float(times[b - 1][1]))))
  return sorted(found, reverse=True)


def didemo(sims, annotators):
  """(mean of the best three ranks, mean of the best three overlaps)."""
  ranked = [
    (int(a), int(b) - 1)
    for _, (a, b) in candidates(
      sims, [(i, i + 1) for i in range(len(sims))], 1, len(sims)
    )
  ]
  ranks = sorted(ranked.index(tuple(t)) + 1 for t in annotators)[:3]
  first = ranked[0]
  overlaps = []
  for a, b in annotators:
    inter = min(b, first[1]) + 1 - max(a, first[0])
    overlaps.append(max(0, inter) / (max(b, first[1]) + 1 - min(a, first[0])))
  overlaps = sorted(overlaps)[-3:]
  return sum(ranks) / len(ranks), sum(overlaps) / len(overlaps)


def average_precision(scores, positive):
  """By walking down the list."""
  order = sorted(range(len(scores)), key=lambda i: (-scores[i], positive[i]))
  hits, total = 0, 0.0
  for place, i in enumerate(order, 1):
    if positive[i]:
      hits += 1
      total += hits / place
  return total / sum(positive)
