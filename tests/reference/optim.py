"""Optimisers in float64 numpy, one parameter and one step at a time.

`run(name, p, grads, lrs, **hyper)` returns the parameter after the steps.
"""

import math

import numpy as np


def norm(x):
  total = 0.0
  for value in np.ravel(x):
    total += float(value) ** 2
  return math.sqrt(total)


def ratio(p, u):
  return norm(p) / norm(u) if norm(p) > 0 and norm(u) > 0 else 1.0


class Memory:
  """First and second moments of one parameter."""

  def __init__(self, p, b1, b2):
    self.b1, self.b2 = b1, b2
    self.first, self.second = np.zeros_like(p), np.zeros_like(p)

  def see(self, g):
    self.first = self.b1 * self.first + (1 - self.b1) * g
    self.second = self.b2 * self.second + (1 - self.b2) * g**2

  def corrected(self, t):
    return self.first / (1 - self.b1**t), self.second / (1 - self.b2**t)


def adam(p, grads, lrs, b1=0.9, b2=0.999, eps=1e-8, wd=0.0):
  memory = Memory(p, b1, b2)
  for t, (g, lr) in enumerate(zip(grads, lrs, strict=True), 1):
    memory.see(g + wd * p)
    first, second = memory.corrected(t)
    p = p - lr * first / (np.sqrt(second) + eps)
  return p


def adamw(
  p, grads, lrs, b1=0.9, b2=0.999, eps=1e-8, wd=0.0, decay="after", eps_on="corrected"
):
  memory = Memory(p, b1, b2)
  for t, (g, lr) in enumerate(zip(grads, lrs, strict=True), 1):
    memory.see(g)
    if decay == "before":
      p = p * (1 - lr * wd)
    if eps_on == "corrected":
      first, second = memory.corrected(t)
      p = p - lr * first / (np.sqrt(second) + eps)
    else:  # the way the published BERT ports write it
      size = lr * math.sqrt(1 - b2**t) / (1 - b1**t)
      p = p - size * memory.first / (np.sqrt(memory.second) + eps)
    if decay == "after":
      p = p - lr * wd * p
  return p


def bert_adam(p, grads, lrs, b1=0.9, b2=0.999, eps=1e-6, wd=0.0, max_grad_norm=1.0):
  memory = Memory(p, b1, b2)
  for g, lr in zip(grads, lrs, strict=True):
    if max_grad_norm is not None:
      factor = max_grad_norm / (norm(g) + 1e-6)
      g = g * factor if factor < 1 else g
    memory.see(g)
    p = p - lr * (memory.first / (np.sqrt(memory.second) + eps) + wd * p)
  return p


def sgd(p, grads, lrs, momentum=0.0, nesterov=False, wd=0.0):
  speed = None
  for g, lr in zip(grads, lrs, strict=True):
    g = g + wd * p
    speed = g if speed is None else momentum * speed + g
    p = p - lr * (g + momentum * speed if nesterov else speed)
  return p


def lamb(p, grads, lrs, b1=0.9, b2=0.999, eps=1e-6, wd=0.0, trust=True):
  memory = Memory(p, b1, b2)
  for t, (g, lr) in enumerate(zip(grads, lrs, strict=True), 1):
    memory.see(g)
    first, second = memory.corrected(t)
    u = first / (np.sqrt(second) + eps) + wd * p
    p = p - lr * (ratio(p, u) if trust else 1.0) * u
  return p


def lars(p, grads, lrs, momentum=0.9, nesterov=False, trust=1e-3, wd=0.0):
  speed = np.zeros_like(p)
  for g, lr in zip(grads, lrs, strict=True):
    u = g + wd * p
    if trust is not None and norm(p) > 0 and norm(u) > 0:
      u = trust * ratio(p, u) * u
    speed = momentum * speed + lr * u
    p = p - (lr * u + momentum * speed if nesterov else speed)
  return p


def adafactor(
  p, grads, lrs, decay_rate=0.8, threshold=1.0, relative=True, min_factored=128,
  b1=None, wd=0.0,
):  # fmt: skip
  rows = columns = whole = kept = 0.0
  factored = p.ndim == 2 and min(p.shape) >= min_factored
  for t, (g, lr) in enumerate(zip(grads, lrs, strict=True), 1):
    b2 = 1 - t**-decay_rate
    square = g**2 + 1e-30
    if factored:
      rows = b2 * rows + (1 - b2) * square.mean(axis=1)
      columns = b2 * columns + (1 - b2) * square.mean(axis=0)
      guess = np.outer(rows, columns) / rows.mean()
    else:
      whole = b2 * whole + (1 - b2) * square
      guess = whole
    u = g / np.sqrt(guess)
    rms = lambda x: norm(x) / math.sqrt(x.size)
    if threshold is not None:
      u = u / max(1.0, rms(u) / threshold)
    u = lr * (max(rms(p), 1e-3) if relative else 1.0) * u
    if b1 is not None:
      u = kept = b1 * kept + (1 - b1) * u
    p = p - u - lr * wd * p
  return p


def run(name, p, grads, lrs, **hyper):
  rules = dict(
    adam=adam, adamw=adamw, bert_adam=bert_adam, sgd=sgd, lamb=lamb, lars=lars,
    adafactor=adafactor,
  )  # fmt: skip
  return rules[name](np.asarray(p, np.float64), grads, lrs, **hyper)
