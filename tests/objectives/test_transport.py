import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import transport as reference
from vlp_jax.objectives import transport

COST = jnp.array([[0.1, 0.9, 0.8], [0.7, 0.2, 0.6]])
# Published values: iterations -> (plan [n, m], distance).
PLANS = {
  50: ([[1 / 3, 0], [0, 1 / 3], [1 / 6, 1 / 6]], 0.333334),
  1: ([[0.280965, 0.070903], [0.072320, 0.245715], [0.146716, 0.183382]], 0.419361),
}


def states(rows=3, m=4, n=5, width=6):
  x = jax.random.normal(jax.random.key(0), (rows, m, width))
  y = jax.random.normal(jax.random.key(1), (rows, n, width))
  x_where = jnp.arange(m) < jnp.array([[4], [3], [2]])
  y_where = jnp.arange(n) < jnp.array([[2], [5], [3]])
  return x, y, x_where, y_where


@pytest.mark.parametrize("iterations", PLANS)
def test_published_plan(iterations):
  real = jnp.ones(2, bool), jnp.ones(3, bool)
  plan = transport.ipot(COST, *real, iterations=iterations)
  want, far = PLANS[iterations]
  np.testing.assert_allclose(plan, want, atol=5e-6)
  np.testing.assert_allclose((COST * plan.T).sum(), far, atol=2e-6)
  np.testing.assert_allclose(plan.sum(0), 0.5, atol=1e-6)


def test_agrees_with_the_oracle_and_ignores_padding():
  x, y, x_where, y_where = states()
  got = jax.jit(transport.distance)(x, y, x_where, y_where)
  for i in range(3):
    own = np.asarray(x[i])[np.asarray(x_where[i])]
    other = np.asarray(y[i])[np.asarray(y_where[i])]
    np.testing.assert_allclose(got[i], reference.distance(own, other), atol=1e-5)
  noisy = jnp.where(x_where[..., None], x, 9.0), jnp.where(y_where[..., None], y, -9.0)
  np.testing.assert_allclose(
    transport.distance(*noisy, x_where, y_where), got, atol=1e-6
  )


def test_gradient_flows_through_the_cost_only():
  x, y, x_where, y_where = states()
  plan = transport.ipot(transport.cosine_cost(x, y), x_where, y_where)
  fixed = lambda x: (transport.cosine_cost(x, y) * plan.swapaxes(1, 2)).sum()
  whole = lambda x: transport.distance(x, y, x_where, y_where).sum()
  grad = jax.grad(whole)(x)
  np.testing.assert_allclose(grad, jax.grad(fixed)(x), atol=1e-6)
  assert np.abs(grad[np.asarray(~x_where)]).max() == 0


def test_an_empty_side_is_zero_with_a_finite_gradient():
  x, y, x_where, y_where = states()
  x = x.at[0].set(0.0)  # padding is zero: its norm has no gradient of its own
  x_where = x_where.at[0].set(False)
  f = lambda x: transport.distance(x, y, x_where, y_where)
  assert f(x)[0] == 0
  grad = jax.grad(lambda x: f(x).sum())(x)
  assert np.isfinite(grad).all()
  assert np.abs(grad[0]).max() == 0
