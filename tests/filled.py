"""Parameters out of numpy, by shapes alone: initialisers cost seconds of compiling."""

import functools
import zlib

import flax.linen as nn
import jax
import numpy as np

from vlp_jax import batch as batch_lib


def variables(model, *, spread: float = 0.1, seed: int = 0) -> dict:
  """All variables of a model with `spec()`: N(0, spread) kernels and tables.

  Biases are N(0, spread / 10), scales and variances 1, means 0. The values of a
  parameter depend on its path only.
  """
  make = functools.partial(model.init, jax.random.key(0))
  shapes = nn.unbox(jax.eval_shape(make, batch_lib.zeros(model.spec())))

  def fill(path, x):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    last = name.rsplit("/", 1)[-1]
    if last in ("scale", "var", "mean"):
      return np.full(x.shape, float(last != "mean"), x.dtype)
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    size = spread if x.ndim > 1 and last != "bias" else spread / 10
    return (size * rng.normal(size=x.shape)).astype(x.dtype)

  return jax.tree_util.tree_map_with_path(fill, shapes)
