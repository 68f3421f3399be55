"""Slow oracles of classifiers and of scores of several labels a row."""

import math

import numpy as np


def average_precision(scores, truth):
  """sum over thresholds of (R_n - R_{n-1}) P_n, thresholds falling."""
  total, before = 0.0, 0.0
  for threshold in sorted(set(scores.tolist()), reverse=True):
    chosen = [t for s, t in zip(scores, truth, strict=True) if s >= threshold]
    precision, recall = sum(chosen) / len(chosen), sum(chosen) / sum(truth)
    total, before = total + (recall - before) * precision, recall
  return total


def auc(scores, truth):
  """Pairs of a positive and a negative in the right order, equal ones half."""
  positive = [s for s, t in zip(scores, truth, strict=True) if t]
  negative = [s for s, t in zip(scores, truth, strict=True) if not t]
  right = sum((p > n) + (p == n) / 2 for p in positive for n in negative)
  return right / (len(positive) * len(negative))


def quantile(p):
  """Of the normal distribution, by bisection of its integral."""
  low, high = -10.0, 10.0
  for _ in range(200):
    middle = (low + high) / 2
    below = 0.5 * math.erfc(-middle / math.sqrt(2)) < p
    low, high = (middle, high) if below else (low, middle)
  return low


def svm_objective(weight, bias, x, sign, c):
  """1/2 |w|^2 + 1/2 b^2 + C sum max(0, 1 - y (w x + b))^2 of one class."""
  loss = 0.0
  for row, y in zip(x, sign, strict=True):
    loss += max(0.0, 1 - y * (float(np.dot(weight, row)) + bias)) ** 2
  return 0.5 * float(np.dot(weight, weight)) + 0.5 * bias**2 + c * loss


def neighbours(x, known, y, num_classes, k, tau):
  """[n, num_classes] weighted votes of the k nearest by cosine."""
  out = np.zeros((len(x), num_classes))
  for i, row in enumerate(x):
    cosines = [np.dot(row, r) / np.linalg.norm(row) / np.linalg.norm(r) for r in known]
    best = sorted(range(len(known)), key=lambda j: -cosines[j])[:k]
    weights = [math.exp(cosines[j] / tau) for j in best]
    for j, weight in zip(best, weights, strict=True):
      out[i, y[j]] += weight / sum(weights)
  return out


def section_19():
  """(features [24, 4], labels [24]) of the published check of LinearSVC."""
  rows = [
    [
      0.5 * i - 3 + 0.3 * ((7 * i) % 5),
      ((3 * i) % 7) - 3,
      0.2 * ((5 * i) % 11) - 1,
      (i % 3) - 1 + 0.1 * math.sin(i),
    ]
    for i in range(24)
  ]
  return np.array(rows), np.arange(24) % 3
