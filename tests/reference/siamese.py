"""MoCo and BYOL of a linear network, step by step in float64; gradients by differences.

The network is q = x W (and p = x W P in BYOL) of features x [B, C]. MoCo is in the
order of its published code: the key encoder moves at the beginning of a step.
"""

import math

import numpy as np


def unit(x):
  return x / np.sqrt((x * x).sum(-1, keepdims=True))


def slope(loss, w, eps=1e-6):
  """Central differences of loss(w), element by element."""
  out = np.zeros_like(w)
  for at in np.ndindex(w.shape):
    up, down = w.copy(), w.copy()
    up[at] += eps
    down[at] -= eps
    out[at] = (loss(up) - loss(down)) / (2 * eps)
  return out


def moco_loss(q, k, queue, tau):
  """[B]: cross entropy with the own key at place 0 of 1 + K logits."""
  losses = []
  for i in range(len(q)):
    logits = [unit(q)[i] @ unit(k)[i] / tau]
    logits += [unit(q)[i] @ u / tau for u in queue]
    most = max(logits)
    total = most + math.log(sum(math.exp(s - most) for s in logits))
    losses.append(total - logits[0])
  return np.array(losses)


def moco(batches, w, queue, *, lr, decay, tau):
  """(losses, W, key encoder of the next step, queue) after a step on each batch."""
  w, key, queue, at, losses = w.copy(), w.copy(), queue.copy(), 0, []
  for x in batches:
    key = decay * key + (1 - decay) * w
    k = x @ key
    loss = lambda w, x=x, k=k: moco_loss(x @ w, k, queue, tau).mean()
    losses.append(loss(w))
    step = slope(loss, w)
    queue[at : at + len(x)] = unit(k)
    at = (at + len(x)) % len(queue)
    w = w - lr * step
  return np.array(losses), w, decay * key + (1 - decay) * w, queue


def byol_loss(p, z):
  """[B]: squared distance of unit vectors."""
  return np.array([((unit(a) - unit(b)) ** 2).sum() for a, b in zip(p, z, strict=True)])


def byol(batches, w, predictor, *, lr, base, total_steps):
  """(losses, W, P, target) after a step on each batch; both views are the batch."""
  w, predictor, target, losses = w.copy(), predictor.copy(), w.copy(), []
  for k, x in enumerate(batches):
    z = x @ target
    loss = lambda w, p, x=x, z=z: 2 * byol_loss(x @ w @ p, z).mean()
    losses.append(loss(w, predictor))
    dw = slope(lambda w, loss=loss, p=predictor: loss(w, p), w)
    dp = slope(lambda p, loss=loss, w=w: loss(w, p), predictor)
    w, predictor = w - lr * dw, predictor - lr * dp
    tau = 1 - (1 - base) * (math.cos(math.pi * k / total_steps) + 1) / 2
    target = tau * target + (1 - tau) * w
  return np.array(losses), w, predictor, target
