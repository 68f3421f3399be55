"""Scores of several labels a clip: average precision, AUC and d', macro means.

  AP = sum_n (R_n - R_{n-1}) P_n over the distinct scores, falling   (no interpolation)
  AUC = P(positive above negative) + P(equal) / 2
  d' = sqrt(2) Phi^-1(AUC)

AP is `sklearn.metrics.average_precision_score`, AUC `roc_auc_score`. Classes without a
positive or without a negative clip are left out of every mean. Of d' there are two in
use: the mean over classes of d' (the code of VATT) and d' of the mean AUC (most papers
on AudioSet); both are given.
"""

import math
import statistics
from collections.abc import Iterator

import numpy as np

from vlp_jax.metrics import Result


def _counts(scores, truth):
  """Cumulated positives and negatives at the last of each run of equal scores."""
  order = np.argsort(-scores, kind="stable")
  scores, truth = scores[order], truth[order]
  last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
  positives = np.cumsum(truth)[last]
  return positives, last + 1 - positives


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
  """AP of one class: scores [n] float, truth [n] bool with at least one True."""
  positives, negatives = _counts(scores, truth.astype(int))
  recall = np.diff(positives, prepend=0) / positives[-1]
  return float((recall * positives / (positives + negatives)).sum())


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
  """Area under the ROC curve of one class, with positives and negatives."""
  positives, negatives = _counts(scores, truth.astype(int))
  up, right = np.append(0, positives), np.diff(negatives, prepend=0)
  area = (right * (up[1:] + up[:-1]) / 2).sum()
  return float(area / (positives[-1] * negatives[-1]))


def d_prime(area: float) -> float:
  """sqrt(2) times the normal quantile of an AUC in (0, 1)."""
  return math.sqrt(2) * statistics.NormalDist().inv_cdf(area)


def results(
  scores: np.ndarray, truth: np.ndarray, protocol: str
) -> Iterator[tuple[str, Result]]:
  """mAP, AUC, d_prime (mean over classes), d_prime_of_mean_auc of [n, K] each.

  An AUC of 0 or 1, which has no finite d', counts as half a pair off. Chance is the
  mean share of positives for mAP, 1/2 and 0; intervals are over classes.
  Raises: ValueError where no class has positives and negatives, or for NaN.
  """
  truth = np.asarray(truth) > 0
  if scores.shape != truth.shape or scores.ndim != 2:
    raise ValueError(f"scores {scores.shape} and labels {truth.shape}; both [n, K].")
  if np.isnan(scores).any():
    raise ValueError("scores are not numbers.")
  found = truth.sum(0)
  kept = np.flatnonzero((found > 0) & (found < len(truth)))
  if not len(kept):
    raise ValueError("no class has clips with and without it.")
  precision = [average_precision(scores[:, k], truth[:, k]) for k in kept]
  areas = [auc(scores[:, k], truth[:, k]) for k in kept]
  half = 0.5 / (found[kept] * (len(truth) - found[kept]))
  apart = [d_prime(a) for a in np.clip(areas, half, 1 - half)]
  told = f"{protocol}, {len(kept)} of {truth.shape[1]} classes, interval over classes"
  over = lambda values, chance: Result.of(values, chance=chance, protocol=told)
  share = float(found[kept].mean() / len(truth))
  mean = over(areas, 0.5)
  for name, result in (
    ("mAP", over(precision, share)),
    ("AUC", mean),
    ("d_prime", over(apart, 0.0)),
  ):
    yield name, result._replace(n=len(truth))
  one = d_prime(min(max(mean.value, half.min()), 1 - half.min()))
  yield "d_prime_of_mean_auc", Result(one, 0.0, len(truth), math.nan, told)
