"""Spans of time: overlap, suppression, recall at an overlap, DiDeMo's agreement.

Formulas of the TVR, HERO and LocalizingMoments code; numpy on the host.
"""

import itertools
from collections.abc import Sequence

import numpy as np


def iou(spans: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """Overlap of spans [..., 2] with truth [..., 2], (start, end) in one unit.

  inter / (max end - min start), as the TVR code has it: the hull, which is the union
  only of spans that meet. 0 where the hull is empty. Inclusive segments are spans to
  `last + 1`.
  """
  start, end = spans[..., 0], spans[..., 1]
  inter = np.minimum(end, truth[..., 1]) - np.maximum(start, truth[..., 0])
  hull = np.maximum(end, truth[..., 1]) - np.minimum(start, truth[..., 0])
  return np.where(hull > 0, np.maximum(inter, 0) / np.where(hull > 0, hull, 1.0), 0.0)


def suppress(spans: np.ndarray, *, threshold: float = 0.5, keep: int = 100):
  """Places of the spans [n, 2] that stay, of spans in the order of their scores.

  A span goes if its overlap with one that stayed is above the threshold; one just at
  it stays, as in the TVR code.
  """
  left, kept = np.arange(len(spans)), []
  while len(left) and len(kept) < keep:
    first, left = left[0], left[1:]
    kept.append(int(first))
    left = left[iou(spans[left], spans[first]) <= threshold]
  return np.array(kept, int)


def runs(num: int, shortest: int = 1, longest: int | None = None) -> np.ndarray:
  """[n, 2] int: first and last + 1 of all runs of `num` clips of allowed lengths."""
  longest = num if longest is None else longest
  pairs = [
    (a, b)
    for a, b in itertools.combinations(range(num + 1), 2)
    if shortest <= b - a <= longest
  ]
  return np.array(pairs, int).reshape(-1, 2)


def run_means(values: np.ndarray, spans: np.ndarray) -> np.ndarray:
  """[n] means of values [T] over runs [n, 2] of places."""
  total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
  return (total[spans[:, 1]] - total[spans[:, 0]]) / (spans[:, 1] - spans[:, 0])


def order(scores: np.ndarray, good: np.ndarray, scale: float) -> np.ndarray:
  """Places by falling score, and among equals (and NaN, first) the worst first.

  Args:
    scores: [n]; good: [n], what is to be found high up; scale: of the scores. What
      differs by 1e-12 of it only differs by the order of summation.
  """
  unit = 1e-12 * scale if np.isfinite(scale) and scale > 0 else 1.0
  grid = np.round(np.where(np.isfinite(scores), scores, 0.0) / unit)
  grid = np.where(np.isnan(scores), np.inf, np.where(np.isinf(scores), scores, grid))
  return np.lexsort((good, -grid))


def agreement(
  ranked: np.ndarray, times: Sequence[tuple[int, int]]
) -> tuple[float, float]:
  """DiDeMo's mean rank (from 1) and mean overlap with the three nearest annotators.

  Args:
    ranked: [n, 2] runs (first, last + 1), the best first.
    times: (first, last) of each annotator, inclusive segments.
  Returns: the mean of the three best ranks that annotators' runs have, a run that is
    not there ranking behind all; the mean of the three largest overlaps of the first
    run. Source: LisaAnne/LocalizingMoments, utils/eval.py.
  """
  truth = np.array([(a, b + 1) for a, b in times], float)
  same = (ranked[None] == truth[:, None]).all(-1)
  rank = np.where(same.any(axis=1), same.argmax(axis=1) + 1, len(ranked) + 1)
  overlap = iou(ranked[0].astype(float), truth)
  return float(np.sort(rank)[:3].mean()), float(np.sort(overlap)[-3:].mean())
