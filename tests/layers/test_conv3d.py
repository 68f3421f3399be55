"""Convolutions, pools and batch normalisation against loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import volumes as reference
from vlp_jax.layers import conv3d, norm


def random(shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


CONVOLUTIONS = [  # window, strides, padding: what S3D-G and its relatives ask for
  ((1, 1, 1), (1, 1, 1), None),
  ((1, 1, 1), (2, 2, 2), None),
  ((1, 3, 3), (1, 1, 1), None),
  ((3, 1, 1), (1, 1, 1), None),
  ((3, 1, 1), (2, 1, 1), None),
  ((2, 4, 4), (1, 1, 1), None),
  ((2, 2, 2), (1, 2, 2), ((0, 1), (1, 0), (2, 1))),
  ((3, 7, 7), (2, 2, 2), None),
  ((1, 3, 3), (1, 2, 2), ((1, 0), (0, 2), (1, 1))),
]


@pytest.mark.parametrize(("window", "strides", "padding"), CONVOLUTIONS)
def test_convolution_against_loops(window, strides, padding):
  x, kernel = random((2, 4, 7, 6, 3)), random((*window, 3, 2), 1)
  want_padding = padding or [(k // 2, k // 2) for k in window]
  want = reference.conv3d(x, kernel, strides, want_padding)
  got = jax.jit(conv3d.conv3d, static_argnums=(2, 3))(x, kernel, strides, padding)
  np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize(
  ("window", "strides"), [((2, 4, 4), (1, 1, 1)), ((3, 3, 3), (2, 2, 2))]
)
def test_gradient_is_that_of_the_plain_convolution(window, strides):
  x, kernel = random((2, 4, 6, 6, 3)), random((*window, 3, 2), 1)
  plain = functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=strides,
    padding=[(k // 2, k // 2) for k in window],
    dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
  )
  grads = [
    jax.jit(jax.grad(lambda x, k, f=f: (f(x, k) ** 2).sum(), (0, 1)))(x, kernel)
    for f in (plain, lambda x, k: conv3d.conv3d(x, k, strides))
  ]
  for a, b in zip(*grads, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


POOLS = [
  ((1, 3, 3), (1, 2, 2)),
  ((3, 3, 3), (2, 2, 2)),
  ((2, 2, 2), (2, 2, 2)),
  ((3, 3, 3), (1, 1, 1)),
]


@pytest.mark.parametrize("padding", ["torch", "tf"])
@pytest.mark.parametrize(("window", "strides"), POOLS)
@pytest.mark.parametrize("size", [(4, 8, 6), (5, 7, 9), (1, 25, 2)])
def test_pools_at_odd_and_even_sizes(size, window, strides, padding):
  x = np.abs(random((2, *size, 2)))
  got = conv3d.max_pool(x, window, strides, padding)
  want = reference.max_pool(x, window, strides, padding)
  np.testing.assert_array_equal(got, want.astype(np.float32))
  assert got.shape[1:4] == tuple(-(-n // s) for n, s in zip(size, strides, strict=True))


def test_the_two_alignments_differ_at_odd_sizes_only():
  pool = lambda x, how: conv3d.max_pool(x, (1, 3, 3), (1, 2, 2), how)
  even, odd = (np.abs(random((1, 2, n, n, 1))) for n in (14, 25))
  np.testing.assert_array_equal(pool(even, "torch"), pool(even, "tf"))
  assert (pool(odd, "torch") != pool(odd, "tf")).any()
  with pytest.raises(ValueError, match="'SAME'"):
    pool(odd, "SAME")


def test_pool_keeps_nan_and_sends_the_gradient_to_the_first_maximum():
  x = jnp.array([1.0, 5.0, 5.0, jnp.nan, 0.0, 0.0]).reshape(1, 6, 1, 1, 1)
  pool = lambda x: conv3d.max_pool(x, (3, 1, 1), (3, 1, 1), "tf")
  assert np.isnan(pool(x)).ravel().tolist() == [False, True]
  slope = jax.grad(lambda x: pool(x)[0, 0].sum())(x)
  np.testing.assert_array_equal(slope.ravel(), [0, 1, 0, 0, 0, 0])


def test_space_to_depth_order():
  x = random((2, 4, 8, 6, 3))
  got = conv3d.space_to_depth(x, (2, 4, 2))
  np.testing.assert_array_equal(got, reference.space_to_depth(x, (2, 4, 2)))
  with pytest.raises(ValueError, match="do not divide"):
    conv3d.space_to_depth(x, (3, 4, 2))


# ----- batch normalisation


def normalise(x, train=True, where=None, variables=None, **fields):
  """(y, batch_stats) of a BatchNorm with the usual start, or with `variables`."""
  layer = norm.BatchNorm(**fields)
  variables = variables or layer.init(jax.random.key(0), x)
  y, new = layer.apply(variables, x, train=train, where=where, mutable=["batch_stats"])
  return np.asarray(y), new["batch_stats"]


def test_statistics_and_running_averages():
  x = 3 + 2 * random((4, 2, 3, 5))
  y, stats = normalise(x, momentum=0.9, eps=1e-3, unbiased=True)
  mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-3), atol=2e-5)
  np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5)
  np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var * 24 / 23, rtol=1e-5)
  biased = normalise(x)[1]["var"]
  np.testing.assert_allclose(biased, 0.9 + 0.1 * var, rtol=1e-5)


def test_masked_rows_stay_out_of_the_statistics():
  x, where = random((6, 4, 3)), np.array([1, 1, 0, 1, 0, 1], bool)
  wild = np.where(where[:, None, None], x, np.nan)
  y, stats = normalise(wild, where=where)
  want, alone = normalise(x[where])
  np.testing.assert_allclose(y[where], want, atol=1e-5)
  for k in ("mean", "var"):
    np.testing.assert_allclose(stats[k], alone[k], rtol=1e-5, atol=1e-7)


def test_no_row_at_all_leaves_the_averages_and_a_finite_gradient():
  x, where = random((4, 3)), np.zeros(4, bool)
  y, stats = normalise(x, where=where)
  np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-5), rtol=1e-5)
  np.testing.assert_array_equal(stats["mean"], np.zeros(3))
  np.testing.assert_array_equal(stats["var"], np.ones(3))
  layer = norm.BatchNorm()
  variables = layer.init(jax.random.key(0), x)
  total = lambda x: layer.apply(
    variables, x, train=True, where=where, mutable=["batch_stats"]
  )[0].sum()
  assert np.isfinite(jax.grad(total)(x)).all()


def test_groups_are_normalised_apart():
  x = random((6, 2, 3)) + np.repeat([0, 10, 20], 2)[:, None, None].astype(np.float32)
  y, stats = normalise(x, groups=3)
  parts = [normalise(x[i : i + 2]) for i in (0, 2, 4)]
  np.testing.assert_allclose(y, np.concatenate([p[0] for p in parts]), atol=1e-4)
  mean = np.mean([p[1]["mean"] for p in parts], axis=0)
  np.testing.assert_allclose(stats["mean"], mean, rtol=1e-5)
  with pytest.raises(ValueError, match="4 groups"):
    normalise(x, groups=4)


def test_evaluation_uses_the_running_statistics_in_float32():
  x = random((4, 2, 3))
  stats = {"mean": jnp.array([1.0, 2, 3]), "var": jnp.array([4.0, 5, 6])}
  params = {"scale": jnp.array([1.0, 2, 3]), "bias": jnp.array([3.0, 2, 1])}
  variables = {"params": params, "batch_stats": stats}
  y, new = normalise(x, train=False, variables=variables)
  want = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
  np.testing.assert_allclose(y, want * params["scale"] + params["bias"], atol=1e-5)
  np.testing.assert_array_equal(new["mean"], stats["mean"])
  half = norm.BatchNorm(dtype=jnp.bfloat16)
  assert half.apply(variables, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_a_large_mean_does_not_cancel_once_the_average_follows():
  x = random((64, 4, 3)) + np.float32(4096)
  stats = {"mean": jnp.full(3, 4096.0), "var": jnp.ones(3)}
  params = {"scale": jnp.ones(3), "bias": jnp.zeros(3)}
  y, _ = normalise(x, variables={"params": params, "batch_stats": stats})
  wide = x.astype(np.float64)
  want = (wide - wide.mean((0, 1))) / wide.std((0, 1))
  np.testing.assert_allclose(y, want, atol=2e-3)  # float32 keeps 0.0005 at 4096
