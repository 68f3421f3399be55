"""MIL-NCE in plain loops, from the formula."""

import math

import numpy as np


def mil_nce(video, text, where=None, video_where=None, tau=1.0, positives="twice"):
  """[B] losses of video [B, D] and text [B, K, D] in float64; masks are [B, K], [B]."""
  rows, candidates = text.shape[:2]
  where = np.ones((rows, candidates), bool) if where is None else where
  video_where = np.ones(rows, bool) if video_where is None else video_where
  dot = lambda i, j, k: float(
    sum(float(a) * float(b) for a, b in zip(video[i], text[j, k], strict=True)) / tau
  )
  losses = np.zeros(rows)
  for i in range(rows):
    if not video_where[i] or not where[i].any():
      continue
    positive = sum(math.exp(dot(i, i, k)) for k in range(candidates) if where[i, k])
    everything = 0.0
    for j in range(rows):
      for k in range(candidates):
        if where[j, k]:  # this clip, all narrations
          everything += math.exp(dot(i, j, k))
        same = i == j and positives == "once"
        if where[i, k] and video_where[j] and not same:  # all clips, these narrations
          everything += math.exp(dot(j, i, k))
    losses[i] = math.log(everything) - math.log(positive)
  return losses
