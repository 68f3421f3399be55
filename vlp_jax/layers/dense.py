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
from jax import ad_checkpoint

from vlp_jax.metrics import wide

PRODUCT = "product"  # the name of what `Linear` multiplies, for policies of recomputing
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


def _contracted(x, kernel, contract, out_dtype):
  last = tuple(range(x.ndim - contract, x.ndim))
  dims = (last, tuple(range(contract))), ((), ())
  return jax.lax.dot_general(x, kernel, dims, preferred_element_type=out_dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def product(
  x: jax.Array,
  kernel: jax.Array,
  contract: int,
  out_dtype: jnp.dtype,
  act: str | None = None,
) -> jax.Array:
  """act(x) [..., C...] times kernel [C..., F...] over `contract` axes C: [..., F...].

  The backward pass finds x alone and computes act(x) again. On a CPU the gradient of
  the kernel is a product of matrices: where x and the gradient of the result keep their
  leading axes, XLA makes strided copies, 6 to 10 % of a Transformer's step on one core.
  """
  x = x if act is None else activation(act)(x)
  return _contracted(x, kernel, contract, out_dtype)


def _product_fwd(x, kernel, contract, out_dtype, act):
  return product(x, kernel, contract, out_dtype, act), (x, kernel)


def _product_bwd(contract, out_dtype, act, kept, grad):
  x, kernel = kept
  if act is not None:
    x, pull = jax.vjp(activation(act), x)

  def usual(x, grad):
    of_kernel = lambda kernel: _contracted(x, kernel, contract, out_dtype)
    return jax.linear_transpose(of_kernel, kernel)(grad)[0]

  def flattened(x, grad):
    return _flattened(x, grad, contract, out_dtype).astype(kernel.dtype)

  of_x = lambda x: _contracted(x, kernel, contract, out_dtype)
  (dx,) = jax.linear_transpose(of_x, x)(grad)
  (dx,) = (dx,) if act is None else pull(dx)
  dkernel = jax.lax.platform_dependent(x, grad, cpu=flattened, default=usual)
  return dx, dkernel


def _flattened(x, grad, contract, out_dtype):
  """Gradient of a kernel [C..., F...] out of matrices; a larger x stays as it lies."""
  # Merges leading axes only, which costs no sharding.
  grad = grad.reshape(-1, *grad.shape[x.ndim - contract :])  # [rows, F...]
  x = x.reshape(-1, *x.shape[x.ndim - contract :])  # [rows, C...]
  dot = functools.partial(jax.lax.dot_general, preferred_element_type=out_dtype)
  if x.size <= grad.size:
    return dot(x, grad, (((0,), (0,)), ((), ())))
  # Barriers, or the compiler finds back to the other form.
  left = jax.lax.optimization_barrier(jnp.moveaxis(grad, 0, -1))
  last = left.ndim - 1
  out = jax.lax.optimization_barrier(dot(left, x, (((last,), (0,)), ((), ()))))
  return jnp.moveaxis(out, range(last), range(-last, 0))


product.defvjp(_product_fwd, _product_bwd)


class Linear(nn.Module):
  """y = x W + b, contracting the last `contract` axes of x.

  Attributes:
    features: axes that come out, as (3, heads, kv) for fused queries, keys, values.
    axes: logical names of the kernel, contracted axes first; None leaves one unnamed.
    out_dtype: of the result; None: `dtype`. float32 for logits, which accumulate there.
    act: name of a function of x; the backward pass computes it again, see `product`.
  """

  features: int | tuple[int, ...]
  axes: tuple[str | None, ...] = ()
  contract: int = 1
  use_bias: bool = True
  dtype: str = "float32"
  out_dtype: str | None = None
  kernel_init: Callable = INIT
  act: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    out = self.features if isinstance(self.features, tuple) else (self.features,)
    shape = (*x.shape[x.ndim - self.contract :], *out)
    init, zeros = self.kernel_init, nn.initializers.zeros_init()
    if self.axes:
      init = nn.with_logical_partitioning(init, self.axes)
      zeros = nn.with_logical_partitioning(zeros, self.axes[self.contract :])
    kernel = self.param("kernel", init, shape)
    y = product(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      self.contract,
      jnp.dtype(self.out_dtype or self.dtype),
      self.act,
    )
    y = ad_checkpoint.checkpoint_name(y, PRODUCT)
    if self.use_bias:
      y = y + self.param("bias", zeros, out).astype(y.dtype)
    return y


def _normal(x, eps):
  # Two passes: E[x^2] - E[x]^2 loses the digits that parity at 1e-5 needs.
  x = x - x.mean(axis=-1, keepdims=True)
  rate = jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + eps)
  return x * rate, rate


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
  x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> jax.Array:
  """(x - mean) / sqrt(var + eps) * scale + bias over the last axis.

  The backward pass finds the normalised x and one number a vector, where automatic
  differentiation would keep three arrays as large as x.
  """
  return _normal(x, eps)[0] * scale + bias


def _layer_norm_fwd(x, scale, bias, eps):
  x, rate = _normal(x, eps)
  return x * scale + bias, (x, rate, scale)


def _layer_norm_bwd(eps, kept, grad):
  x, rate, scale = kept
  rows = tuple(range(grad.ndim - 1))
  mean = lambda y: y.mean(axis=-1, keepdims=True)
  h = grad * scale
  dx = rate * (h - mean(h) - x * mean(h * x))
  return dx, (grad * x).sum(rows), grad.sum(rows)


layer_norm.defvjp(_layer_norm_fwd, _layer_norm_bwd)


class LayerNorm(nn.Module):
  """(x - mean) / sqrt(var + eps) * scale + bias over the last axis, in float32."""

  eps: float = 1e-12
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:])
    bias = self.param("bias", nn.initializers.zeros_init(), x.shape[-1:])
    return layer_norm(wide(x), scale, bias, self.eps).astype(self.dtype)


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
