import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.layers import attention, dropout, transformer

B, Q, K, N, D = 2, 4, 5, 2, 3
KEY = jax.random.key(0)


def tensors():
  keys = jax.random.split(KEY, 3)
  make = lambda key, n: jax.random.normal(key, (B, n, N, D))
  where = jnp.arange(K) < jnp.array([[5], [2]])
  return make(keys[0], Q), make(keys[1], K), make(keys[2], K), where


def oracle(q, k, v, where):
  """softmax(q k / sqrt d) v by loops."""
  out = np.zeros(q.shape)
  for b, i, n in np.ndindex(B, Q, N):
    real = [j for j in range(K) if where[b, j]]
    s = np.array([(q[b, i, n] * k[b, j, n]).sum() / np.sqrt(D) for j in real])
    p = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
    out[b, i, n] = sum(w * v[b, j, n] for w, j in zip(p, real, strict=True))
  return out


@pytest.mark.parametrize("implementation", [None, "xla"])
def test_attend_agrees_with_the_oracle(implementation):
  q, k, v, where = tensors()
  run = functools.partial(attention.attend, implementation=implementation)
  got = jax.jit(run)(q, k, v, attention.visible(where, None)).x
  want = oracle(*(np.asarray(x) for x in (q, k, v, where)))
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_masks_combine_and_maps_are_probabilities():
  q, k, v, where = tensors()
  full = jnp.tril(jnp.ones((B, Q, K), bool))
  mask = attention.visible(where, full)
  out = attention.attend(q, k, v, mask, maps=True)
  np.testing.assert_allclose(out.maps.sum(-1), 1.0, rtol=1e-6)
  hidden = ~np.broadcast_to(mask, out.maps.shape)
  assert (np.asarray(out.maps)[hidden] == 0).all()
  assert attention.visible(None, None) is None
  with pytest.raises(ValueError, match="cudnn"):
    attention.attend(q, k, v, implementation="flash")


def test_dropout_passes_over_the_implementation_and_says_so_once(caplog):
  attention._passed_over.cache_clear()
  x, key = jnp.ones((1, 2, 1, 4)), jax.random.key(0)
  run = functools.partial(attention.attend, x, x, x, implementation="xla")
  run(rate=0.1)  # no dropout without a key
  assert not caplog.records
  for _ in range(2):
    run(rate=0.1, rng=key)
  (said,) = caplog.messages
  assert "implementation='xla' has no dropout" in said
  assert "attention_dropout=0" in said


def test_a_row_that_sees_nothing_is_finite():
  q, k, v, where = tensors()
  where = where.at[0].set(False)
  loss = lambda q: attention.attend(q, k, v, attention.visible(where, None)).x.sum()
  assert np.isfinite(jax.grad(loss)(q)).all()


def test_dropout_rate_scale_and_rows():
  shape = (64, 10, 31)
  kept = dropout.keep(KEY, shape, 0.1)
  n, p = kept.size, 1 - dropout.rounded(0.1)
  assert dropout.rounded(0.1) == 26 / 256
  assert abs(int(kept.sum()) - n * p) < 3 * np.sqrt(n * p * (1 - p))
  x = dropout.scaled(jnp.ones(shape), kept, 0.1)
  assert set(np.unique(x)) == {0.0, np.float32(1 / p)}
  assert dropout.rounded(0.0) == 0
  assert dropout.rounded(1e-6) == 1 / 256
  with pytest.raises(ValueError, match="rate"):
    dropout.rounded(1.0)


def test_cross_attention_has_its_own_width_and_context():
  layer = attention.Attention(num_heads=2, head_dim=4, features=7)
  x, context = jnp.ones((B, Q, 6)), jnp.ones((B, K, 10))
  variables = nn.unbox(layer.init(KEY, x, context=context))
  shapes = jax.tree.map(jnp.shape, variables["params"])
  assert shapes["q"]["kernel"] == (6, 1, 2, 4)
  assert shapes["kv"]["kernel"] == (10, 2, 2, 4)
  assert shapes["out"]["kernel"] == (2, 4, 7)
  out = layer.apply(variables, x, context=context, maps=True)
  assert out.x.shape == (B, Q, 7)
  assert out.maps.shape == (B, 2, Q, K)
  with pytest.raises(ValueError, match="divide"):
    attention.Attention(num_heads=4).init(KEY, x)


@pytest.fixture(scope="module")
def stack():
  make = functools.partial(transformer.Stack, depth=2, num_heads=2, mlp_dim=8)
  x = jax.random.normal(KEY, (B, Q, 6))
  return make, jax.jit(lambda: nn.unbox(make().init(KEY, x)))(), x


def test_scanned_layers_equal_a_loop(stack):
  make, variables, x = stack
  out = jax.jit(functools.partial(make().apply, hidden=True))(variables, x)
  block, y = transformer.Block(num_heads=2, mlp_dim=8), x
  run = jax.jit(block.apply)
  for i in range(2):
    own = jax.tree.map(lambda p, i=i: p[i], variables["params"]["layers"])
    y = run({"params": own}, y).x
    np.testing.assert_allclose(out.hidden[i], y, atol=1e-6)
  np.testing.assert_allclose(out.x, y, atol=1e-6)
  kernels = variables["params"]["layers"]["mlp_in"]["kernel"]
  assert np.abs(kernels[0] - kernels[1]).max() > 1e-3  # layers start apart


def test_rematerialisation_changes_no_gradient(stack):
  make, variables, x = stack

  def grad(remat):
    run = functools.partial(make(remat=remat).apply, train=True)
    loss = lambda v: jnp.sin(run(v, x, rngs={"dropout": KEY}).x).sum()
    return jax.jit(jax.grad(loss))(variables)

  near = functools.partial(np.testing.assert_allclose, atol=1e-6)
  want = grad("none")
  jax.tree.map(near, grad("dots"), want)
  jax.tree.map(near, grad("full"), want)
  with pytest.raises(ValueError, match="dots"):
    make(remat="all").init(KEY, x)
