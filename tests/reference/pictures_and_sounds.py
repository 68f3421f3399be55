"""Losses, retrieval scores and places of pictures and sounds, pair by pair in loops."""

import math


def xent(logit: float, match: bool) -> float:
  """-log of the probability of the right answer, of the logit of yes."""
  p = 1 / (1 + math.exp(-logit))
  return -math.log(p if match else 1 - p)


def contrastive(video, audio, match, margin) -> float:
  """The mean over pairs of d^2 where they match, else of max(margin - d, 0)^2."""
  total = 0.0
  for v, a, y in zip(video, audio, match, strict=True):
    d = math.sqrt(sum((p - q) ** 2 for p, q in zip(v, a, strict=True)))
    total += d**2 if y else max(margin - d, 0.0) ** 2
  return total / len(match)


def dcg(gains, k: int) -> float:
  return sum(g / math.log2(place + 1) for place, g in enumerate(gains[:k], 1))


def ndcg(scores, relevance, own: int | None, k: int) -> float | None:
  """One query: the list without its own place; equal scores worst first."""
  rest = [j for j in range(len(scores)) if j != own]
  found = sorted(rest, key=lambda j: (-scores[j], relevance[j]))
  best = dcg(sorted((relevance[j] for j in rest), reverse=True), k)
  return dcg([relevance[j] for j in found], k) / best if best else None
