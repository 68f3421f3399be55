"""Linear maps with named axes, LayerNorm, activations, and the head's transform.

Parameters are float32; matmuls run in `dtype`, norms and their statistics in float32.
Initial values are BERT's: N(0, 0.02) for kernels, 0 for biases, (1, 0) for norms.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.metrics import wide

INIT = nn.initializers.normal(0.02)


def gelu(x: jax.Array) -> jax.Array:
  """0.5 x (1 + erf(x / sqrt 2)); `jax.nn.gelu` goes through the slower erfc."""
  return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


ACTIVATIONS = {
  "gelu": gelu,
  "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
  "relu": jax.nn.relu,
  "tanh": jnp.tanh,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
  if name not in ACTIVATIONS:
    raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}.")
  return ACTIVATIONS[name]


class Linear(nn.Module):
  """y = x W + b, contracting the last `contract` axes of x.

  Attributes:
    features: axes that come out, as (3, heads, kv) for fused queries, keys, values.
    axes: logical names of the kernel, contracted axes first; None leaves one unnamed.
    out_dtype: of the result; None: `dtype`. float32 for logits, which accumulate there.
  """

  features: int | tuple[int, ...]
  axes: tuple[str | None, ...] = ()
  contract: int = 1
  use_bias: bool = True
  dtype: str = "float32"
  out_dtype: str | None = None
  kernel_init: Callable = INIT

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    out = self.features if isinstance(self.features, tuple) else (self.features,)
    shape = (*x.shape[x.ndim - self.contract :], *out)
    init, zeros = self.kernel_init, nn.initializers.zeros_init()
    if self.axes:
      init = nn.with_logical_partitioning(init, self.axes)
      zeros = nn.with_logical_partitioning(zeros, self.axes[self.contract :])
    kernel = self.param("kernel", init, shape)
    last = tuple(range(x.ndim - self.contract, x.ndim))
    y = jax.lax.dot_general(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      ((last, tuple(range(self.contract))), ((), ())),
      preferred_element_type=jnp.dtype(self.out_dtype or self.dtype),
    )
    if self.use_bias:
      y = y + self.param("bias", zeros, out).astype(y.dtype)
    return y


class LayerNorm(nn.Module):
  """(x - mean) / sqrt(var + eps) * scale + bias over the last axis, in float32."""

  eps: float = 1e-12
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:])
    bias = self.param("bias", nn.initializers.zeros_init(), x.shape[-1:])
    x = wide(x)
    # Two passes: E[x^2] - E[x]^2 loses the digits that parity at 1e-5 needs.
    x = x - x.mean(axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.eps)
    return (x * scale + bias).astype(self.dtype)


class Transform(nn.Module):
  """LN(act(W h + b)) at the same width: the first half of BERT's prediction heads."""

  act: str = "gelu"
  eps: float = 1e-12
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dense = Linear(x.shape[-1], ("embed", None), dtype=self.dtype, name="dense")
    x = activation(self.act)(dense(x))
    return LayerNorm(self.eps, self.dtype, name="norm")(x)
