"""PCA and whitening of features before they are clustered, as DeepCluster does.

  y = (x - mean) V diag(lambda + eps)^-1/2,   then y / |y|

V the first eigenvectors of the covariance, lambda its eigenvalues. Source: DeepCluster
(arXiv 1807.05520, sec. 4.1: 256 dimensions, whitened, of length 1), whose clusters XDC
takes over (arXiv 1911.12667).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from vlp_jax import kmeans_seeds
from vlp_jax.errors import UserError


class Whitening(NamedTuple):
  """mean [D], matrix [D, d]; `apply` gives rows of length 1 if `normalise`."""

  mean: np.ndarray
  matrix: np.ndarray
  normalise: bool = True

  def apply(self, x: np.ndarray) -> np.ndarray:
    """[n, d] float32 of [n, D]."""
    y = ((np.asarray(x, np.float32) - self.mean) @ self.matrix).astype(np.float32)
    return kmeans_seeds.unit(y) if self.normalise else y


class Whitened:
  """A re-iterable of the whitened arrays of another one."""

  def __init__(self, data: Iterable[np.ndarray], whitening: Whitening):
    self.data, self.whitening = data, whitening

  def __iter__(self) -> Iterator[np.ndarray]:
    return map(self.whitening.apply, self.data)


def fit(
  data: Iterable[np.ndarray], *, width: int = 256, eps: float = 1e-5, normalise=True
) -> Whitening:
  """The whitening of the rows of all arrays, in two passes.

  Args:
    data: re-iterable of [n, D] float arrays.
    width: d, at most D and the number of rows.
    eps: added to the eigenvalues, as a part of the largest.
  Raises: UserError without rows, for rows that are not finite, and for too large a
    width.
  """
  total, n = 0.0, 0
  for x in data:
    total, n = total + np.asarray(x, np.float64).sum(0), n + len(x)
  if not n or not np.isfinite(total).all():
    raise UserError(f"whitening: {n} features, which must be some and finite.")
  mean = total / n
  if not 0 < width <= min(len(mean), n):
    raise UserError(
      f"whitening to {width} dimensions: {n} features of width {len(mean)} have at "
      f"most {min(len(mean), n)}."
    )
  square = np.zeros((len(mean), len(mean)))
  for x in data:
    x = np.asarray(x, np.float64) - mean
    square += x.T @ x
  value, vector = np.linalg.eigh(square / n)
  value, vector = value[::-1][:width], vector[:, ::-1][:, :width]
  # The sign of an eigenvector is free: its largest entry is made positive.
  most = np.abs(vector).argmax(0)
  vector = vector * np.sign(vector[most, np.arange(width)])
  matrix = vector / np.sqrt(np.maximum(value, 0) + eps * max(value[0], 1e-30))
  return Whitening(mean.astype(np.float32), matrix.astype(np.float32), normalise)
