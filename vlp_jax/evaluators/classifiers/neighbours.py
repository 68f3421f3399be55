"""k nearest neighbours by the cosine of features: nothing is trained.

  score(x)[c] = sum over the k nearest rows i of class c of exp(cos(x, x_i) / tau)

divided by the sum over all k; without `tau` each neighbour has one vote. Source: the
weighted vote of arXiv 1805.01978. Equal cosines go to the earlier training row.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.evaluators import classifiers

CHUNK = 1024  # rows scored at once


def fit(
  x: np.ndarray,
  y: np.ndarray,
  *,
  num_classes: int,
  k: int = 20,
  tau: float | None = 0.07,
) -> classifiers.Fitted:
  """Keeps the rows. `k` is cut to their number; `tau`: None for plain votes."""
  if k < 1:
    raise ValueError(f"k={k} neighbours; at least 1 is needed.")
  k = min(k, len(x))
  hot = y if y.ndim == 2 else np.eye(num_classes)[y]
  known, votes = jnp.asarray(_unit(x)), jnp.asarray(hot, jnp.float32)

  @jax.jit
  def score(x):
    cosine, at = jax.lax.top_k(jnp.matmul(x, known.T, precision="highest"), k)
    # A common factor drops out; the largest weight is 1.
    weight = jnp.exp((cosine - cosine[:, :1]) / tau) if tau else jnp.ones_like(cosine)
    weight = weight / weight.sum(1, keepdims=True)
    return jnp.einsum("nk,nkc->nc", weight, votes[at])

  def scores(x):
    x = _unit(x)
    parts = [np.asarray(score(x[i : i + CHUNK])) for i in range(0, len(x), CHUNK)]
    return np.concatenate(parts).astype(np.float64)

  return classifiers.Fitted(scores)


def _unit(x):
  norm = np.linalg.norm(x, axis=1, keepdims=True)
  return (x / np.where(norm == 0, 1, norm)).astype(np.float32)
