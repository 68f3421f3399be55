"""Optimal transport between words and regions, for word-region alignment.

IPOT (arXiv 1802.04307) as in UNITER: C_ij = 1 - cos(x_i, y_j), A = exp(-C / beta)

    Q = A T,  delta = 1 / (n Q sigma),  sigma = 1 / (m Q^T delta),  T = delta Q sigma

The plan T is a constant of the gradient: D = sum_ij C_ij T_ji.
"""

import jax
import jax.numpy as jnp

from vlp_jax.metrics import wide


def cosine_cost(x: jax.Array, y: jax.Array, *, eps: float = 1e-5) -> jax.Array:
  """1 - cos, norms held above eps: x [..., m, D], y [..., n, D] -> [..., m, n]."""
  unit = lambda v: (
    v * jax.lax.rsqrt(jnp.maximum(jnp.square(v).sum(-1, keepdims=True), eps**2))
  )
  return 1 - jnp.einsum("...md,...nd->...mn", unit(wide(x)), unit(wide(y)))


def ipot(
  cost: jax.Array,
  x_where: jax.Array,
  y_where: jax.Array,
  *,
  beta: float = 0.5,
  iterations: int = 50,
) -> jax.Array:
  """The transport plan, without gradient.

  Args:
    cost: [..., m, n]; x_where: [..., m] and y_where: [..., n] bool, what is real.
  Returns: [..., n, m]: each real column sums to 1 / (number of real x), exactly 0 at
    padding and where one side is empty.
  """
  real = y_where[..., :, None] & x_where[..., None, :]  # [..., n, m]
  x_len = jnp.maximum(x_where.sum(-1), 1)[..., None].astype(cost.dtype)
  y_len = jnp.maximum(y_where.sum(-1), 1)[..., None].astype(cost.dtype)
  x_some, y_some = real.any(-2), real.any(-1)
  cost = jnp.swapaxes(jax.lax.stop_gradient(cost), -1, -2)
  a = jnp.where(real, jnp.exp(-cost / beta), 0.0)
  over = lambda some, d: jnp.where(some, 1 / jnp.where(some, d, 1.0), 0.0)

  def once(_, carry):
    plan, sigma = carry
    q = a * plan
    delta = over(y_some, y_len * jnp.einsum("...nm,...m->...n", q, sigma))
    sigma = over(x_some, x_len * jnp.einsum("...nm,...n->...m", q, delta))
    return delta[..., :, None] * q * sigma[..., None, :], sigma

  start = real.astype(cost.dtype), jnp.where(x_some, 1 / x_len, 0.0)
  return jax.lax.stop_gradient(jax.lax.fori_loop(0, iterations, once, start)[0])


def distance(
  x: jax.Array,
  y: jax.Array,
  x_where: jax.Array,
  y_where: jax.Array,
  *,
  beta: float = 0.5,
  iterations: int = 50,
) -> jax.Array:
  """Transport distance of two sets of states, one value a row.

  Args:
    x: [..., m, D]; y: [..., n, D], any float; x_where, y_where: bool, what is real.
  Returns: [...] float32 or wider, 0 where one side is empty. Padding changes nothing.
  """
  cost = cosine_cost(x, y)
  cost = jnp.where(x_where[..., :, None] & y_where[..., None, :], cost, 0.0)
  plan = ipot(cost, x_where, y_where, beta=beta, iterations=iterations)
  return jnp.einsum("...mn,...nm->...", cost, plan)
