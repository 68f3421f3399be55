"""The decoder: against a slow one, against itself token by token, and what it sees."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import decoder as reference
from vlp_jax.layers import attention, decoder

B, L, K, D, C, DEPTH, HEADS = 3, 5, 4, 8, 6, 2, 2
STACK = decoder.Stack(depth=DEPTH, num_heads=HEADS, mlp_dim=12)


@pytest.fixture(scope="module")
def made():
  keys = jax.random.split(jax.random.key(0), 4)
  x = jax.random.normal(keys[0], (B, L, D))
  context = jax.random.normal(keys[1], (B, K, C))
  where = jnp.arange(L) < jnp.array([[5], [3], [4]])
  seen = jnp.arange(K) < jnp.array([[4], [2], [0]])  # a row without context
  run = lambda key: nn.unbox(STACK.init(key, x, context=context))
  variables = jax.jit(run)(keys[2])
  params = jax.tree.map(lambda p: 20 * p if p.ndim > 2 else p, variables["params"])
  full = jax.jit(
    lambda x, where, context, seen: STACK.apply(
      {"params": params},
      x,
      where,
      context=context,
      context_where=seen,
      keep=True,
      hidden=True,
      maps=True,
    )
  )
  return {"params": params}, full, (x, where, context, seen)


def test_it_agrees_with_the_slow_one(made):
  variables, full, given = made
  out = full(*given)
  rows = [np.asarray(a) for a in given]
  own = lambda i: jax.tree.map(
    lambda p: np.asarray(p)[i], variables["params"]["layers"]
  )
  for b in range(B):
    x = rows[0][b]
    for i in range(DEPTH):
      x = reference.block(own(i), x, *(a[b] for a in rows[1:]))
      np.testing.assert_allclose(out.hidden[i][b], x, atol=2e-5)
  np.testing.assert_array_equal(out.x, out.hidden[-1])
  assert out.maps.shape == (DEPTH, B, HEADS, L, K)
  np.testing.assert_allclose(out.maps.sum(-1), 1, rtol=1e-5)
  assert (np.asarray(out.maps)[:, 1, :, :, 2:] == 0).all()


def test_no_token_sees_a_later_one_or_padding(made):
  _, full, (x, where, context, seen) = made
  before = full(x, where, context, seen).x
  after = full(x.at[:, 3:].add(7.0), where, context, seen).x
  np.testing.assert_array_equal(before[:, :3], after[:, :3])
  assert np.abs(before[:, 3:] - after[:, 3:]).max() > 1e-3
  other = full(x, where, context.at[1, 2:].add(9.0), seen).x
  np.testing.assert_array_equal(before, other)


@pytest.mark.parametrize("beams", [1, 2])
def test_token_by_token_equals_all_at_once(made, beams):
  variables, full, (x, _, context, seen) = made
  beamed = jnp.concatenate([x[:, None], -x[:, None]], 1)[:, :beams]  # beams differ
  want = [
    full(beamed[:, i], jnp.ones((B, L), bool), context, seen) for i in range(beams)
  ]
  memory = want[0].memory
  assert memory.key.shape == (DEPTH, B, K, HEADS, D // HEADS)
  flat = beamed.reshape(B * beams, L, D)

  def body(cache, token):
    out = STACK.apply(
      variables, token[:, None], memory=memory, context_where=seen, cache=cache
    )
    return out.cache, out.x[:, 0]

  cache = decoder.empty(DEPTH, B * beams, L + 1, HEADS, D // HEADS)
  cache, got = jax.jit(lambda c: jax.lax.scan(body, c, flat.swapaxes(0, 1)))(cache)
  got = got.swapaxes(0, 1).reshape(B, beams, L, D)
  for i in range(beams):
    np.testing.assert_allclose(got[:, i], want[i].x, atol=1e-5)
  assert int(cache.at) == L
  assert (np.asarray(cache.key)[:, :, L:] == 0).all()
  order = np.array([1, 0, 2, *range(3, B * beams)])
  moved = decoder.reorder(cache, jnp.asarray(order))
  np.testing.assert_array_equal(moved.value, np.asarray(cache.value)[:, order])


def test_wrong_calls_are_refused(made):
  variables, _, (x, _, context, _) = made
  with pytest.raises(ValueError, match="context, or the memory"):
    STACK.apply(variables, x)
  cache = decoder.empty(DEPTH, B, L, HEADS, D // HEADS)
  with pytest.raises(ValueError, match="N, 1, D"):
    STACK.apply(variables, x, context=context, cache=cache)
  with pytest.raises(ValueError, match="dots"):
    decoder.Stack(1, 1, 4, remat="all").init(jax.random.key(0), x, context=context)
  pair = attention.Pair(*[jnp.ones((1, K, HEADS, 4))] * 2)
  layer = attention.Attention(HEADS)
  one = nn.unbox(layer.init(jax.random.key(0), x, context=context))
  with pytest.raises(ValueError, match="share"):
    layer.apply(one, x, pair=pair, maps=True)
  assert layer.apply(one, x, pair=pair).x.shape == x.shape


def test_gradients_are_finite_and_rematerialisation_changes_none(made):
  variables, _, (x, where, context, seen) = made

  def grad(remat):
    stack = STACK.clone(remat=remat)
    run = lambda v: stack.apply(
      v,
      x,
      where,
      context=context,
      context_where=seen,
      train=True,
      rngs={"dropout": jax.random.key(1)},
    )
    return jax.jit(jax.grad(lambda v: jnp.sin(run(v).x).sum()))(variables)

  want = grad("none")
  near = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5)
  jax.tree.map(near, grad("full"), want)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(want))
