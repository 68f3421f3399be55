"""Batch normalisation with global statistics, a row mask and optional groups.

Under `jax.jit` arrays are global, so the statistics are those of the whole batch on any
number of devices; no axis name is needed. `groups` restores per-device statistics of a
published recipe, or bounds the all-reduces on large pods.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vlp_jax.metrics import wide

MOMENTS = "moments"  # what rematerialisation should keep: they cost an all-reduce


class BatchNorm(nn.Module):
  """y = scale * (x - mean) / sqrt(var + eps) + bias, per channel.

  Statistics are float32 (or wider), over the rows of a group and all positions. The
  batch is normalised with the biased variance, as everywhere; the running variance
  takes the biased one too (TensorFlow, Haiku, Flax) or n / (n - 1) of it (`unbiased`,
  torch). Running statistics are the mean over groups.

  Attributes:
    momentum: what the running statistics keep; 0.9 is momentum 0.1 in torch.
    eps: added to the variance; 1e-5 in torch, 1e-3 in TensorFlow's Inception models.
    groups: the batch is cut into this many runs of rows, each with its own statistics.
    unbiased: whether the running variance is the unbiased one.
    center, gain: whether there are a bias and a scale.
    scale_init: of scale; zeros in the last norm of a residual branch start the block as
      the identity.
  """

  momentum: float = 0.9
  eps: float = 1e-5
  groups: int = 1
  unbiased: bool = False
  center: bool = True
  gain: bool = True
  scale_init: Callable = nn.initializers.ones
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, where: jax.Array | None = None
  ) -> jax.Array:
    """Normalises x [B, ..., C].

    Args:
      train: batch statistics, and running ones updated if `batch_stats` is mutable.
      where: [B] bool, rows that count in the statistics (all rows are normalised).
        A group without such rows is normalised by the running statistics.
    Raises: ValueError when the rows cannot be cut into `groups`.
    """
    width = x.shape[-1]
    scale, bias = jnp.ones(width), jnp.zeros(width)
    if self.gain:
      scale = self.param("scale", self.scale_init, (width,))
    if self.center:
      bias = self.param("bias", nn.initializers.zeros, (width,))
    mean = self.variable("batch_stats", "mean", jnp.zeros, (width,))
    var = self.variable("batch_stats", "var", jnp.ones, (width,))
    if not train:
      gain = scale * jax.lax.rsqrt(var.value + self.eps)
      return (wide(x) * gain + (bias - mean.value * gain)).astype(self.dtype)
    if len(x) % self.groups:
      sizes = [n for n in range(1, len(x) + 1) if len(x) % n == 0]
      raise ValueError(
        f"BatchNorm cannot cut {len(x)} rows into {self.groups} groups; set bn_groups "
        f"to one of {sizes}, or give other rows."
      )
    at, spread, count = _moments(x, mean.value, where, self.groups)  # [G, C], [G, 1]
    at, spread = checkpoint_name((at, spread), MOMENTS)
    if not self.is_initializing():
      self._keep(mean, var, at, spread, count)
    at = jnp.where(count > 0, at, mean.value)
    spread = jnp.where(count > 0, spread, var.value)
    gain = scale * jax.lax.rsqrt(spread + self.eps)
    shape = (self.groups, *[1] * (x.ndim - 1), width)
    rows = wide(x).reshape(self.groups, -1, *x.shape[1:])
    y = rows * gain.reshape(shape) + (bias - at * gain).reshape(shape)
    return y.reshape(x.shape).astype(self.dtype)

  def _keep(self, mean, var, at, spread, count):
    """Moves the running statistics towards the mean over groups that have rows."""
    if self.unbiased:
      spread = spread * count / jnp.maximum(count - 1, 1)
    share = (count > 0) / jnp.maximum((count > 0).sum(), 1)  # [G, 1]
    some = (count > 0).any()
    for kept, new in ((mean, at), (var, spread)):
      moved = self.momentum * kept.value + (1 - self.momentum) * (share * new).sum(0)
      kept.value = jax.lax.stop_gradient(jnp.where(some, moved, kept.value))


def _moments(x, shift, where, groups):
  """Mean and biased variance [G, C] of each group, and the number of values [G, 1].

  One pass over x: the sums of (x - shift) and its square, shifted by the running mean
  so that nothing cancels when the mean is large beside the spread.
  """
  shift = jax.lax.stop_gradient(shift)
  rows = (wide(x) - shift).reshape(groups, len(x) // groups, -1, x.shape[-1])
  if where is None:
    count = jnp.full((groups, 1), rows.shape[1] * rows.shape[2], rows.dtype)
  else:
    where = where.reshape(groups, -1)
    rows = jnp.where(where[:, :, None, None], rows, 0.0)
    count = where.sum(1, keepdims=True).astype(rows.dtype) * rows.shape[2]
  some = jnp.maximum(count, 1)
  mean = rows.sum((1, 2)) / some
  var = (rows * rows).sum((1, 2)) / some - mean * mean
  return mean + shift, jnp.maximum(var, 0.0), count
