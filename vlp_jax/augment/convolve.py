"""Random convolution: a clip seen through a filter that nobody chose (BraVe)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def convolve(
  key: jax.Array,
  frames: jax.Array,
  sizes: Sequence[int] = (1, 3, 5, 7, 9, 11),
  p: float = 1.0,
) -> jax.Array:
  """One filter of k x k x 3 x 3 for all frames, SAME with zeros outside.

  Args:
    frames: [T, H, W, 3] float.
    sizes: odd k, each as likely; weights are N(0, 2 / (3 k^2)) (He).
    p: chance that a clip is filtered at all.
  Returns: the same shape; values are no longer within 0..1.
  Source: arXiv 2103.16559, sec. 3.3, and its code.
  """
  if any(k < 1 or k % 2 == 0 for k in sizes):
    raise ValueError(f"sizes of a filter are odd: {tuple(sizes)}.")
  gate_key, size_key, key = jax.random.split(key, 3)
  largest = max(sizes)
  k = jnp.asarray(sizes)[jax.random.randint(size_key, (), 0, len(sizes))]
  # A static shape: the smaller filters are the middle of the largest.
  far = jnp.abs(jnp.arange(largest) - largest // 2)
  inside = (far[:, None] <= k // 2) & (far <= k // 2)
  scale = jnp.sqrt(2.0 / (3.0 * k * k))
  kernel = scale * jax.random.normal(key, (largest, largest, 3, 3), frames.dtype)
  kernel = jnp.where(inside[..., None, None], kernel, 0.0)
  out = jax.lax.conv_general_dilated(
    frames, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return jnp.where(jax.random.bernoulli(gate_key, p), out, frames)
