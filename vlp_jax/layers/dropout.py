"""Dropout that draws one byte an element: a quarter of the usual random words.

With threefry on a CPU the random bits are the cost of dropout (11-15 % of a step), so
four elements share one 32-bit word. The rate is rounded to 1/256 (0.1 becomes 26/256)
and the scale uses the rounded rate, so the expectation is exact.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp


def rounded(rate: float) -> float:
  """The rate in steps of 1/256 that is really used; never 0 for a positive rate."""
  if not 0.0 <= rate < 1.0:
    raise ValueError(f"dropout rate {rate} is not in [0, 1).")
  return min(max(round(rate * 256), int(rate > 0)), 255) / 256


def keep(key: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
  """A mask, True with probability 1 - rounded(rate).

  The words follow the leading axes, so the mask of a row does not depend on how rows
  are spread over devices.
  """
  words = jax.random.bits(key, (*shape[:-1], math.ceil(shape[-1] / 4)), jnp.uint32)
  draws = jax.lax.bitcast_convert_type(words, jnp.uint8)  # [..., words, 4]
  draws = draws.reshape(*shape[:-1], -1)[..., : shape[-1]]
  return draws >= jnp.uint8(round(rounded(rate) * 256))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def scaled(x: jax.Array, mask: jax.Array, rate: float) -> jax.Array:
  """x / (1 - rate) where the mask keeps it, else 0. Backward only the mask is kept."""
  return jnp.where(mask, x * jnp.asarray(1 / (1 - rounded(rate)), x.dtype), 0)


def _scaled_fwd(x, mask, rate):
  return scaled(x, mask, rate), mask


def _scaled_bwd(rate, mask, grad):
  return scaled(grad, mask, rate), None


scaled.defvjp(_scaled_fwd, _scaled_bwd)


class Dropout(nn.Module):
  """x -> x * keep / (1 - rate) in training, x otherwise; uses the "dropout" stream."""

  rate: float

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    if not train or self.rate == 0:
      return x
    return scaled(x, keep(self.make_rng("dropout"), x.shape, self.rate), self.rate)
