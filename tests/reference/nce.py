"""Contrastive losses in plain loops, from the formulas."""

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


def _unit(x):
  x = np.asarray(x, np.float64)
  return x / np.sqrt((x * x).sum(-1, keepdims=True))


def _lse(values):
  values = list(values)
  most = max(values)
  return most + math.log(sum(math.exp(v - most) for v in values))


def _dot(a, b):
  return float(sum(float(x) * float(y) for x, y in zip(a, b, strict=True)))


def _real(rows, where):
  return np.ones(rows, bool) if where is None else where


def nt_xent(one, two, where=None, one_where=None, tau=0.1, normalize=True):
  """[B] sums of both anchors' losses; views [B, D], masks [B]."""
  rows = len(one)
  norm = _unit if normalize else lambda x: np.asarray(x, np.float64)
  views = {}
  for side, x, real in ((0, one, one_where), (1, two, where)):
    real = _real(rows, real)
    views |= {(i, side): norm(x[i]) for i in range(rows) if real[i]}
  losses = np.zeros(rows)
  for i in range(rows):
    if (i, 0) not in views or (i, 1) not in views:
      continue
    for side in (0, 1):
      a = views[i, side]
      others = [_dot(a, b) / tau for k, b in views.items() if k != (i, side)]
      losses[i] += _lse(others) - _dot(a, views[i, 1 - side]) / tau
  return losses


def ego(video, text, tags=(), where=None, video_where=None, tau=0.05):
  """[B] losses in both directions; without tags the only positive is the own one."""
  rows = len(video)
  where, video_where = _real(rows, where), _real(rows, video_where)
  s = [[_dot(_unit(v), _unit(t)) / tau for t in text] for v in video]

  def alike(i, j):
    if i == j or not tags:
      return i == j
    return all(any(x and y for x, y in zip(t[i], t[j], strict=True)) for t in tags)

  losses = np.zeros(rows)
  for i in range(rows):
    if not where[i] or not video_where[i]:
      continue
    texts = [j for j in range(rows) if where[j]]
    videos = [j for j in range(rows) if video_where[j]]
    losses[i] += _lse(s[i][j] for j in texts)
    losses[i] -= _lse(s[i][j] for j in texts if alike(i, j))
    losses[i] += _lse(s[j][i] for j in videos)
    losses[i] -= _lse(s[j][i] for j in videos if alike(i, j))
  return losses


def sigmoid(video, text, scale, bias, where=None, video_where=None):
  """[B] sums over clips of the two-class losses of each text."""
  rows = len(video)
  where, video_where = _real(rows, where), _real(rows, video_where)
  losses = np.zeros(rows)
  for j in range(rows):
    if not where[j] or not video_where[j]:
      continue
    for i in range(rows):
      if video_where[i]:
        x = scale * _dot(_unit(video[i]), _unit(text[j])) + bias
        losses[j] += math.log1p(math.exp(-x if i == j else x))
  return losses


def max_margin(video, text, margin, where=None, video_where=None):
  """[B] hinges of cosines, both directions, over 2 (n - 1) for n real pairs."""
  rows = len(video)
  row = _real(rows, where) & _real(rows, video_where)
  margin = np.broadcast_to(margin, rows)
  s = [[_dot(_unit(v), _unit(t)) for t in text] for v in video]
  losses = np.zeros(rows)
  for i in range(rows):
    for j in range(rows):
      if row[i] and row[j] and i != j:
        losses[i] += max(0, margin[i] - s[i][i] + s[i][j])
        losses[i] += max(0, margin[i] - s[i][i] + s[j][i])
  return losses / (2 * max(row.sum() - 1, 1))
