"""Gradients that layers write out themselves, against automatic differentiation."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.layers import attention, dense, dropout, transformer

RNG = np.random.default_rng(0)


def plain_product(x, kernel, contract, act):
  x = x if act is None else 0.5 * x * (1 + jax.lax.erf(x / np.sqrt(2)))
  axes = range(x.ndim - contract, x.ndim), range(contract)
  return jnp.tensordot(x, kernel, tuple(map(tuple, axes)))


@pytest.mark.parametrize("act", [None, "gelu"])
@pytest.mark.parametrize(
  ("lead", "into", "out"),
  [
    ((3, 5), (4,), (3, 2, 2)),  # queries, keys and values
    ((3, 5), (2, 8), (4,)),  # heads to the width
    ((40,), (64,), (2,)),  # the gradient of the result is the smaller one
  ],
)
def test_gradients_of_products(lead, into, out, act):
  with jax.enable_x64(True):
    x, kernel = RNG.normal(size=(*lead, *into)), RNG.normal(size=(*into, *out))
    n, kind = len(into), jnp.dtype("float64")
    ours = lambda x, w: jnp.sin(dense.product(x, w, n, kind, act)).sum()
    want = lambda x, w: jnp.sin(plain_product(x, w, n, act)).sum()
    got = jax.jit(jax.grad(ours, (0, 1)))(x, kernel)
    for a, b in zip(got, jax.grad(want, (0, 1))(x, kernel), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_types_of_a_product_in_bfloat16():
  """Accumulated and handed out in float32; gradients in the types of the arguments."""
  x, kernel = jnp.ones((2, 3, 4), jnp.bfloat16), jnp.ones((4, 5), jnp.bfloat16)
  fn = lambda x, w: dense.product(x, w, 1, jnp.dtype("float32"), "gelu")
  assert fn(x, kernel).dtype == jnp.float32
  dx, dkernel = jax.grad(lambda *a: fn(*a).sum(), (0, 1))(x, kernel)
  assert dx.dtype == dkernel.dtype == jnp.bfloat16
  np.testing.assert_allclose(dkernel.astype(float), 6 * 0.8413, rtol=1e-2)


def test_gradients_of_the_norm():
  with jax.enable_x64(True):
    x, scale, bias = (RNG.normal(size=s) for s in ((3, 4, 6), (6,), (6,)))

    def plain(x, scale, bias):
      return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(
        x.var(-1, keepdims=True) + 1e-5
      ) * scale + bias

    total = lambda fn: lambda *args: jnp.sin(fn(*args)).sum()
    ours = functools.partial(dense.layer_norm, eps=1e-5)
    args = x, scale, bias
    np.testing.assert_allclose(ours(*args), plain(*args), rtol=1e-9)
    got = jax.grad(lambda *a: jnp.sin(dense.layer_norm(*a, 1e-5)).sum(), (0, 1, 2))
    want = jax.grad(total(plain), (0, 1, 2))
    for a, b in zip(got(*args), want(*args), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


def test_gradients_of_masked_softmax():
  """A row that sees nothing has even weights, and no gradient."""
  with jax.enable_x64(True):
    scores = RNG.normal(size=(2, 3, 4, 5))
    mask = RNG.random((2, 1, 1, 5)) < 0.6
    mask[1] = False
    plain = lambda s: jax.nn.softmax(jnp.where(mask, s, -1e300), axis=-1)
    weight = RNG.normal(size=scores.shape)
    total = lambda fn: lambda s: (weight * fn(s)).sum()
    ours = lambda s: attention.softmax(s, mask)
    np.testing.assert_allclose(ours(scores), plain(scores), rtol=1e-9)
    np.testing.assert_allclose(ours(scores)[1], 0.2)
    got, want = jax.grad(total(ours))(scores), jax.grad(total(plain))(scores)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
    assert not got[1].any()
    free = jax.grad(total(lambda s: attention.softmax(s, None)))(scores)
    np.testing.assert_allclose(
      free, jax.grad(total(functools.partial(jax.nn.softmax, axis=-1)))(scores)
    )


def test_gradient_of_dropout():
  mask = dropout.keep(jax.random.key(0), (4, 8), 0.5)
  grad = jax.grad(lambda x: (x * dropout.scaled(x, mask, 0.5)).sum())(jnp.ones((4, 8)))
  np.testing.assert_array_equal(grad, np.where(mask, 4.0, 0.0))


def kept(fn, *args):
  """Bytes that the backward pass of `fn(*args)` finds."""
  arrays = jax.tree.leaves(jax.eval_shape(lambda *a: jax.vjp(fn, *a)[1], *args))
  return sum(a.size * a.dtype.itemsize for a in arrays)


def test_what_a_layer_keeps_for_the_backward_pass():
  """In units of its input: 4 of the MLP, 4 of attention, 4 of inputs and norms."""
  rows, length, width, heads = 2, 32, 64, 2
  block = transformer.Block(heads, 4 * width, dropout=0.1)
  x, where = jnp.ones((rows, length, width)), jnp.ones((rows, length), bool)
  key = jax.random.key(0)
  params = nn.unbox(jax.eval_shape(block.init, key, x, where))
  run = lambda p, x: block.apply(p, x, where, train=True, rngs={"dropout": key}).x
  own = sum(4 * p.size for p in jax.tree.leaves(params))
  maps = rows * heads * length**2 * (4 + 1)
  assert kept(run, params, x) - own - maps <= 12.8 * x.nbytes


def test_policies_of_recomputing_keep_what_they_say():
  """ "dots": queries, keys, values, two results, the MLP (9 units) and the input."""
  x, where = jnp.ones((2, 32, 64)), jnp.ones((2, 32), bool)
  key, found = jax.random.key(0), {}
  for remat in ("none", "dots", "full"):
    stack = transformer.Stack(5, 2, 256, dropout=0.1, remat=remat)
    params = nn.unbox(jax.eval_shape(stack.init, key, x, where))
    run = lambda p, x, s=stack: (
      s.apply(p, x, where, train=True, rngs={"dropout": key}).x
    )
    own = sum(4 * p.size for p in jax.tree.leaves(params))
    found[remat] = (kept(run, params, x) - own) / (5 * x.nbytes)
  assert found["full"] == pytest.approx(1.0, abs=0.1)
  assert found["dots"] == pytest.approx(10.0, abs=0.1)
  assert found["none"] > 11
