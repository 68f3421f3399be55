"""One hidden layer on frozen features, as AudioSet's published numbers have it.

  linear 512, batch norm, ReLU, dropout 0.5, linear K; Adam at 1e-3, cosine to 0

with softmax cross entropy, or sigmoids where rows have several labels. The papers say
"an MLP with one hidden layer of 512"; the other numbers are ours. All rows must fit
into the memory of one device. The order of rows and dropout are drawn from `seed` and
the epoch, so the result depends on nothing else.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlp_jax.evaluators import classifiers
from vlp_jax.evaluators.classifiers import scaling

MOMENTUM, EPS = 0.9, 1e-5  # of the batch norm
CHUNK = 8192  # rows scored at once


def fit(
  x: np.ndarray,
  y: np.ndarray,
  *,
  num_classes: int,
  seed: int = 0,
  hidden: int = 512,
  dropout: float = 0.5,
  lr: float = 1e-3,
  epochs: int = 30,
  rows: int = 512,
  wd: float = 0.0,
  scale: bool = True,
) -> classifiers.Fitted:
  """The network after `epochs` passes in batches of `rows`.

  What remains of an epoch after full batches is left to other epochs; fewer rows than
  a batch are one batch. `wd` is decoupled (AdamW). Scores are log-probabilities of the
  softmax, or logits of the sigmoids, so means over windows are means of these.
  """
  scaler = scaling.Scaler.of(x) if scale else np.asarray
  data = jnp.asarray(scaler(x), jnp.float32)
  many = y.ndim == 2
  target = jnp.asarray(y, jnp.float32 if many else jnp.int32)
  rows = min(rows, len(x))
  steps = len(x) // rows
  rate = optax.cosine_decay_schedule(lr, epochs * steps)
  tx = optax.adamw(rate, weight_decay=wd)
  key = jax.random.key(seed)
  params, stats = _init(key, data.shape[1], hidden, num_classes)
  run = functools.partial(_epoch, tx=tx, rows=rows, dropout=dropout, many=many)
  run = jax.jit(run, donate_argnums=0)
  carry = params, stats, tx.init(params)
  for epoch in range(epochs):
    carry = run(carry, data, target, jax.random.fold_in(key, 1 + epoch))
  params, stats = carry[:2]
  forward = jax.jit(lambda x: _out(_forward(params, stats, x)[0], many))

  def scores(x):
    x = scaler(x).astype(np.float32)
    parts = [np.asarray(forward(x[i : i + CHUNK])) for i in range(0, len(x), CHUNK)]
    return np.concatenate(parts).astype(np.float64)

  return classifiers.Fitted(scores)


def _init(key, width, hidden, num_classes):
  uniform = lambda key, m, n: jax.random.uniform(
    key, (m, n), minval=-(m**-0.5), maxval=m**-0.5
  )
  first, second = jax.random.split(key)
  params = {
    "hidden": uniform(first, width, hidden),
    "gain": jnp.ones(hidden),
    "shift": jnp.zeros(hidden),
    "out": uniform(second, hidden, num_classes),
    "bias": jnp.zeros(num_classes),
  }
  return params, {"mean": jnp.zeros(hidden), "var": jnp.ones(hidden)}


def _forward(params, stats, x, *, key=None, dropout=0.0):
  """(logits [n, K], new statistics); a `key` is given in training."""
  dot = functools.partial(jnp.matmul, precision="highest")
  h = dot(x, params["hidden"])
  if key is not None:
    now = {"mean": h.mean(0), "var": h.var(0)}
    kept = lambda old, new: MOMENTUM * old + (1 - MOMENTUM) * new
    new = jax.tree.map(kept, stats, now)
    stats = now
  else:
    new = stats
  h = (h - stats["mean"]) * jax.lax.rsqrt(stats["var"] + EPS)
  h = jax.nn.relu(h * params["gain"] + params["shift"])
  if key is not None and dropout:
    keep = jax.random.bernoulli(key, 1 - dropout, h.shape)
    h = jnp.where(keep, h / (1 - dropout), 0)
  return dot(h, params["out"]) + params["bias"], new


def _out(logits, many):
  return logits if many else jax.nn.log_softmax(logits)


def _epoch(carry, data, target, key, *, tx, rows, dropout, many):
  """One pass over the rows in a new order."""
  order = jax.random.permutation(jax.random.fold_in(key, 0), len(data))
  steps = len(data) // rows
  order = order[: steps * rows].reshape(steps, rows)

  def loss_fn(params, stats, x, y, key):
    logits, stats = _forward(params, stats, x, key=key, dropout=dropout)
    if many:
      loss = optax.sigmoid_binary_cross_entropy(logits, y)
    else:
      loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return loss.mean(), stats

  def step(carry, at):
    params, stats, opt = carry
    index, ids = at
    own = jax.random.fold_in(key, 1 + index)
    grad_fn = jax.grad(loss_fn, has_aux=True)
    grads, stats = grad_fn(params, stats, data[ids], target[ids], own)
    updates, opt = tx.update(grads, opt, params)
    return (optax.apply_updates(params, updates), stats, opt), None

  return jax.lax.scan(step, carry, (jnp.arange(steps), order))[0]
