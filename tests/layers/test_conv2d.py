"""2-D convolutions and pools against loops over volumes of one frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import volumes as reference
from vlp_jax.layers import conv2d


def random(shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("padding", ["tf", "torch", "valid"])
@pytest.mark.parametrize(
  ("window", "stride"), [((1, 1), 2), ((3, 3), 1), ((3, 3), 2), ((7, 7), 2)]
)
def test_convolution_against_loops(window, stride, padding):
  x, kernel = random((2, 9, 8, 3)), random((*window, 3, 4), 1)
  around = []
  for size, k in zip(x.shape[1:3], window, strict=True):
    first, _ = reference.first_and_count(size, k, stride, "tf")
    count = -(-size // stride)
    after = max((count - 1) * stride + k - size + first, 0)
    around.append(
      {"tf": (-first, after), "torch": (k // 2, k // 2), "valid": (0, 0)}[padding]
    )
  want = reference.conv3d(
    x[:, None], kernel[None], (1, stride, stride), [(0, 0), *around]
  )
  got = conv2d.conv2d(jnp.array(x), jnp.array(kernel), (stride, stride), padding)
  np.testing.assert_allclose(got, want[:, 0], atol=2e-5)


@pytest.mark.parametrize("size", [(8, 6), (7, 9)])
def test_pools_against_loops(size):
  x = np.abs(random((2, *size, 3)))
  got = conv2d.max_pool(jnp.array(x), (3, 3), (2, 2))
  want = reference.max_pool(x[:, None], (1, 3, 3), (1, 2, 2), "tf")[:, 0]
  np.testing.assert_array_equal(got, want.astype(np.float32))
  got = conv2d.max_pool(jnp.array(x), (2, 2), (2, 2), "valid")
  rows, columns = size[0] // 2, size[1] // 2
  cut = x[:, : 2 * rows, : 2 * columns].reshape(2, rows, 2, columns, 2, 3)
  np.testing.assert_array_equal(got, cut.max((2, 4)))


def test_pools_of_negative_values_ignore_what_lies_outside():
  x = jnp.full((1, 5, 5, 1), -3.0)
  for padding in ("tf", "torch"):
    np.testing.assert_array_equal(conv2d.max_pool(x, (3, 3), (2, 2), padding), -3.0)


def test_initial_values_have_haikus_deviation():
  draw = conv2d.haiku_normal(jax.random.key(0), (3, 3, 64, 128))
  limit = 1 / np.sqrt(9 * 64)
  assert np.abs(draw).max() <= 2 * limit
  # Of a normal cut at two deviations, and not corrected for the cut.
  np.testing.assert_allclose(draw.std(), 0.8796 * limit, rtol=0.01)


def test_padding_is_checked():
  with pytest.raises(ValueError, match="'SAME'"):
    conv2d.conv2d(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), (1, 1), "SAME")
