"""Contrastive losses as one writes them first: all scores of the batch in one array.

What `launch.bench.contrastive` compares the memory of `objectives.nce` with. The same
losses of the same arrays, summed over the rows; of a mesh nothing is said, and the
partitioner decides.
"""

import jax
import jax.numpy as jnp

TAU = {"symmetric": 0.05, "ego": 0.05, "nt_xent": 0.1}


def total(loss, video, text, tags, where, seen):
  """The sum of a loss.

  Args:
    loss: mil_nce, nt_xent, symmetric, ego or sigmoid; all but the first take the first
      candidate of each row.
    video, text, tags: [B, D], [B, K, D], two of [B, V].
    where, seen: [B, K] and [B] bool, which texts and clips are real.
  """
  if loss == "mil_nce":
    return _mil_nce(video, text, where, seen).sum()
  text, where = text[:, 0], where[:, 0]
  if loss == "nt_xent":
    return _nt_xent(video, text, where, seen).sum()
  row = seen & where
  video, text = (_unit(x, w) for x, w in ((video, seen), (text, where)))
  s = video @ text.T
  real = seen[:, None] & where
  if loss == "sigmoid":
    s = 10.0 * s - 10.0
    sign = 1 - 2 * jnp.eye(len(s))
    return jnp.where(row & real, jax.nn.softplus(sign * s), 0.0).sum()
  own = jnp.eye(len(s), dtype=bool)
  if loss == "ego":
    shared = [t @ t.T > 0 for t in tags]
    own |= shared[0] & shared[1]
  s = s / TAU[loss]
  both = 0.0
  for scores, some, ours in ((s, real, own), (s.T, real.T, own.T)):
    some = jnp.where(row[:, None], some, True)
    of = lambda where, x=scores: jax.nn.logsumexp(x, axis=1, where=where)
    both += jnp.where(row, of(some) - of(some & ours), 0.0)
  return both.sum()


def _unit(x, where):
  x = jnp.where(where[:, None], x, 1.0)
  return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def _mil_nce(video, text, where, seen):
  """[B], as in HOUSE_STYLE: rows and columns of the scores side by side."""
  s = jnp.einsum("id,jkd->ijk", video, text)
  real = seen[:, None, None] & where
  s = jnp.where(real, s, -jnp.inf)
  row = jnp.diagonal(real).any(axis=0)
  both = jnp.concatenate([s, s.swapaxes(0, 1)], axis=1)
  positive = jnp.where(row, jnp.diagonal(s), 0.0)
  both = jnp.where(row[:, None, None], both, 0.0)
  loss = jax.nn.logsumexp(both, axis=(1, 2)) - jax.nn.logsumexp(positive, axis=0)
  return jnp.where(row, loss, 0.0)


def _nt_xent(first, second, where, seen):
  """[B]: each view against the 2 B - 1 others."""
  x = jnp.concatenate([_unit(first, seen), _unit(second, where)])
  real, row = jnp.concatenate([seen, where]), jnp.tile(seen & where, 2)
  s = x @ x.T / TAU["nt_xent"]
  others = ~jnp.eye(len(s), dtype=bool) & real
  positive = jnp.diagonal(jnp.roll(s, len(first), axis=1))
  each = jax.nn.logsumexp(s, axis=1, where=others | ~row[:, None]) - positive
  return jnp.where(row, each, 0.0).reshape(2, -1).sum(0)
