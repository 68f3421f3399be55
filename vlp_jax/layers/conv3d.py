"""Convolutions and max-pools over [B, T, H, W, C], and the blocks of S3D-G.

Kernels keep the shape [t, h, w, I, O]. On CPU a 3-D convolution is computed as what is
fastest and equal: 1 x 1 x 1 as a matmul, 1 x h x w as a 2-D convolution of all frames,
t x 1 x 1 as a sum of shifted matmuls, even windows (stems) as matmuls of shifted
columns. Two cores, forward and backward, against one XLA 3-D convolution: 1 x 3 x 3 of
[16, 8, 16, 16, 32] 20 ms for 54, 3 x 1 x 1 6.7 ms for 16.5; the 2 x 4 x 4 stem under
97 ms for 341. Elsewhere XLA's own 3-D convolution is used.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vlp_jax.layers import norm

CONV = "conv"  # results of convolutions, as rematerialisation knows them
# What a block keeps for its backward pass, beside its input: all, the results of
# convolutions, or nothing; statistics of batches in any case.
REMAT = {
  "none": None,
  "dots": jax.checkpoint_policies.save_only_these_names(CONV, norm.MOMENTS),
  "full": jax.checkpoint_policies.save_only_these_names(norm.MOMENTS),
}
POOL_PADDINGS = ("torch", "tf")
# torch's default: uniform in +-1 / sqrt(fan_in).
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def recompute(call: Callable, remat: str) -> Callable:
  """call(module, x), whose results the backward pass computes again as `remat` says."""
  return call if remat == "none" else nn.remat(call, policy=REMAT[remat])


def conv3d(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int] = (1, 1, 1),
  padding: Sequence[tuple[int, int]] | None = None,
) -> jax.Array:
  """Cross-correlation of x [B, T, H, W, I] with kernel [t, h, w, I, O].

  Args:
    padding: zeros before and after each of T, H, W; None is k // 2 on both sides.
  Returns: [B, T', H', W', O] with T' = (T + before + after - t) // stride + 1.
  """
  window, strides = kernel.shape[:3], tuple(strides)
  if padding is None:
    padding = [(k // 2, k // 2) for k in window]
  padding = [tuple(p) for p in padding]
  if window == strides == (1, 1, 1) and not any(itertools.chain(*padding)):
    return x @ kernel[0, 0, 0]
  native = functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=strides,
    padding=padding,
    dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
  )
  by_frame = functools.partial(_by_frame, strides=strides, padding=padding)
  return jax.lax.platform_dependent(x, kernel, cpu=by_frame, default=native)


def _by_frame(x, kernel, *, strides, padding):
  """The same as a sum over t of what each of its slices gives on all frames at once."""
  t, h, w = kernel.shape[:3]
  if h == w == 1:
    one = _matmul
  elif h % 2 and w % 2:
    one, padding = (
      functools.partial(_conv2d, padding=padding[1:]),
      [padding[0], *[(0, 0)] * 2],
    )
  else:
    one = _columns
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  frames = (x.shape[1] - t) // strides[0] + 1
  last = (frames - 1) * strides[0] + 1
  parts = (
    one(
      jax.lax.slice_in_dim(x, i, i + last, strides[0], axis=1), kernel[i], strides[1:]
    )
    for i in range(t)
  )
  return functools.reduce(jnp.add, parts)


def _matmul(x, kernel, strides):
  return x[:, :, :: strides[0], :: strides[1]] @ kernel[0, 0]


def _conv2d(x, kernel, strides, padding):
  flat = einops.rearrange(x, "b t h w c -> (b t) h w c")
  y = jax.lax.conv_general_dilated(
    flat, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return einops.rearrange(y, "(b t) h w c -> b t h w c", b=len(x))


def _columns(x, kernel, strides):
  """Even windows: for such filters XLA's gradient is many times slower on CPU."""
  (h, w), (sh, sw) = kernel.shape[:2], strides
  rows, columns = (x.shape[2] - h) // sh + 1, (x.shape[3] - w) // sw + 1
  last = (columns - 1) * sw + 1
  wide = jnp.concatenate([x[:, :, :, i : i + last : sw] for i in range(w)], axis=-1)
  last = (rows - 1) * sh + 1
  flat = einops.rearrange(kernel, "h w i o -> h (w i) o")
  return functools.reduce(
    jnp.add, (wide[:, :, i : i + last : sh] @ flat[i] for i in range(h))
  )


def max_pool(
  x: jax.Array,
  window: Sequence[int],
  strides: Sequence[int],
  padding: str = "torch",
) -> jax.Array:
  """Maximum over windows of x [B, T, H, W, C]; ceil(size / stride) windows an axis.

  Args:
    padding: where windows start. "tf" is SAME, half of what is missing comes
      before; "torch" pads k - stride zeros, half of them before, and ignores what
      a last window lacks, as the published port of S3D. They agree at even sizes;
      at odd ones (25 at 200 x 200 pixels) the windows are one apart.
  """
  if padding not in ("torch", "tf"):
    raise ValueError(f"pool_padding is {padding!r}; give one of {POOL_PADDINGS}.")
  for axis, (k, stride) in enumerate(zip(window, strides, strict=True), 1):
    x = _max_pool(x, axis, k, stride, padding)
  return x


def _max_pool(x, axis, k, stride, padding):
  """One axis, as the maximum of k strided slices: far faster than reduce_window."""
  size = x.shape[axis]
  if k == stride == 1:
    return x
  windows = -(-size // stride)
  missing = max((windows - 1) * stride + k - size, 0)
  before = missing // 2
  if padding == "torch":
    before, after = max(k - stride, 0) // 2, -(-max(k - stride, 0) // 2)
    x = _pad(x, axis, before, after, 0.0)
    before, missing = 0, max(missing - before - after, 0)
  x = _pad(x, axis, before, missing - before, -jnp.inf)
  last = (windows - 1) * stride + 1
  parts = (jax.lax.slice_in_dim(x, i, i + last, stride, axis) for i in range(k))
  # The gradient goes to the first maximum; NaN stays NaN.
  return functools.reduce(lambda a, b: jnp.where((a >= b) | (a != a), a, b), parts)


def _pad(x, axis, before, after, value):
  pad = [(0, 0)] * x.ndim
  pad[axis] = (before, after)
  return jnp.pad(x, pad, constant_values=value) if before or after else x


def space_to_depth(x: jax.Array, block: Sequence[int]) -> jax.Array:
  """[B, T, H, W, C] to [B, T/t, H/h, W/w, t*h*w*C], channels as (dt, dh, dw, c)."""
  if any(n % k for n, k in zip(x.shape[1:4], block, strict=True)):
    raise ValueError(
      f"clips of {x.shape[1:4]} (T, H, W) do not divide into blocks of {tuple(block)}: "
      "crop or pad them in the pipeline."
    )
  t, h, w = block
  rule = "b (t x) (h y) (w z) c -> b t h w (x y z c)"
  return einops.rearrange(x, rule, x=t, y=h, z=w)


def repeat_ends(x: jax.Array, before: int, after: int) -> jax.Array:
  """x [B, T, ...] with its first and last frame repeated, instead of zeros."""
  pad = [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)]
  return jnp.pad(x, pad, mode="edge") if before or after else x


class Conv3D(nn.Module):
  """A bias-free convolution; the parameter is `kernel` [t, h, w, I, O].

  `time_padding` "edge" repeats the first and last frame where "zeros" stand otherwise.
  """

  features: int
  window: Sequence[int]
  strides: Sequence[int] = (1, 1, 1)
  padding: Sequence[tuple[int, int]] | None = None
  kernel_init: Callable = torch_uniform
  time_padding: str = "zeros"
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    shape = (*self.window, x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape)
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    padding = self.padding
    if self.time_padding == "edge":
      ends, *padding = padding or [(k // 2, k // 2) for k in self.window]
      x, padding = repeat_ends(x, *ends), [(0, 0), *padding]
    elif self.time_padding != "zeros":
      raise ValueError(f"time_padding is {self.time_padding!r}: 'zeros' or 'edge'.")
    return conv3d(x, kernel, self.strides, padding)


class ConvBN(nn.Module):
  """Convolution, batch normalisation, ReLU; if separable, for space, then for time.

  Separable t x h x w is 1 x h x w, BN, ReLU, t x 1 x 1, BN, ReLU (S3D, arXiv
  1712.04851). Children `conv1 bn1 (conv2 bn2)` are named as in the published weights.
  """

  features: int
  window: Sequence[int] = (1, 1, 1)
  strides: Sequence[int] = (1, 1, 1)
  padding: Sequence[tuple[int, int]] | None = None
  separable: bool = False
  norm: functools.partial = functools.partial(norm.BatchNorm)
  kernel_init: Callable = torch_uniform
  time_padding: str = "zeros"
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, *, train=False, where=None):
    (t, h, w), (st, sh, sw) = self.window, self.strides
    steps = [((t, h, w), (st, sh, sw), self.padding)]
    if self.separable:
      pt, ph, pw = self.padding or [(k // 2, k // 2) for k in (t, h, w)]
      steps = [
        ((1, h, w), (1, sh, sw), ((0, 0), ph, pw)),
        ((t, 1, 1), (st, 1, 1), (pt, (0, 0), (0, 0))),
      ]
    for i, (window, strides, padding) in enumerate(steps, 1):
      conv = Conv3D(
        self.features,
        window,
        strides,
        padding,
        kernel_init=self.kernel_init,
        time_padding=self.time_padding,
        dtype=self.dtype,
        name=f"conv{i}",
      )
      bn = self.norm(dtype=self.dtype, name=f"bn{i}")
      x = nn.relu(bn(checkpoint_name(conv(x), CONV), train=train, where=where))
    return x


class SelfGating(nn.Module):
  """x * sigmoid(W mean(x) + b), the mean over T, H, W, in float32."""

  dtype: jnp.dtype = jnp.float32
  kernel_init: Callable = torch_uniform

  @nn.compact
  def __call__(self, x):
    mean = x.mean((1, 2, 3), dtype=jnp.promote_types(x.dtype, jnp.float32))
    dense = nn.Dense(x.shape[-1], kernel_init=self.kernel_init, name="fc")
    gate = nn.sigmoid(dense(mean))
    return x * gate[:, None, None, None].astype(x.dtype)
