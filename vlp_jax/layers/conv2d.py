"""Convolutions and max-pools over [N, H, W, C]; kernels are [h, w, I, O].

`padding` is "tf" (SAME: half of what is missing comes before), "torch" (k // 2 on both
sides) or "valid". They differ at stride 2: "torch" windows begin one place earlier.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

# Haiku's default: a normal cut at two deviations, of variance 0.77 / fan_in, since the
# deviation is not corrected for the cut (Flax's lecun_normal divides by 0.8796).
haiku_normal = nn.initializers.variance_scaling(
  0.87962566103423978**2, "fan_in", "truncated_normal"
)
# Kaiming's for ReLUs, "MSRA": a normal of variance 2 / fan_in.
msra_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def pads(size: int, k: int, stride: int, padding: str) -> tuple[int, int]:
  """Zeros before and after an axis for windows of k."""
  if padding == "torch":
    return k // 2, k // 2
  if padding == "valid":
    return 0, 0
  if padding != "tf":
    raise ValueError(f"padding is {padding!r}; give 'tf', 'torch' or 'valid'.")
  missing = max((-(-size // stride) - 1) * stride + k - size, 0)
  return missing // 2, missing - missing // 2


def conv2d(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int] = (1, 1),
  padding: str = "tf",
) -> jax.Array:
  """Cross-correlation of x [N, H, W, I] with kernel [h, w, I, O]."""
  (h, w), (sh, sw) = kernel.shape[:2], strides
  if h == w == 1:
    return x[:, ::sh, ::sw] @ kernel[0, 0]
  sizes = zip(x.shape[1:3], (h, w), strides, strict=True)
  around = [pads(n, k, s, padding) for n, k, s in sizes]
  return jax.lax.conv_general_dilated(
    x, kernel, tuple(strides), around, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def max_pool(
  x: jax.Array, window: Sequence[int], strides: Sequence[int], padding: str = "tf"
) -> jax.Array:
  """Maximum over windows of x [N, H, W, C]; what lies outside does not count.

  As the maximum of strided slices, which is far faster on CPU than XLA's own windows;
  the gradient goes to the first maximum.
  """
  for axis, (k, stride) in enumerate(zip(window, strides, strict=True), 1):
    before, after = pads(x.shape[axis], k, stride, padding)
    around = [(0, 0)] * 4
    around[axis] = before, after
    x = jnp.pad(x, around, constant_values=-jnp.inf)
    last = (x.shape[axis] - k) // stride * stride + 1
    parts = [jax.lax.slice_in_dim(x, i, i + last, stride, axis) for i in range(k)]
    x = parts[0]
    for part in parts[1:]:
      x = jnp.where((x >= part) | (x != x), x, part)  # NaN stays NaN
  return x


class Conv2D(nn.Module):
  """A convolution with the parameter `kernel` [h, w, I, O], and `bias` if asked."""

  features: int
  window: Sequence[int]
  strides: Sequence[int] = (1, 1)
  padding: str = "tf"
  use_bias: bool = False
  kernel_init: Callable = haiku_normal
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (*self.window, x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape)
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    y = conv2d(x, kernel, self.strides, self.padding)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,))
      y = y + bias.astype(y.dtype)
    return y
