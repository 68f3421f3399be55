"""Features to mean 0 and deviation 1, by what the training rows say."""

from typing import NamedTuple

import numpy as np


class Scaler(NamedTuple):
  """(x - mean) / deviation, [D] each; the same as scikit-learn's StandardScaler."""

  mean: np.ndarray
  deviation: np.ndarray

  @classmethod
  def of(cls, x: np.ndarray) -> "Scaler":
    """The scaler of the rows x [n, D], in float64; a column that is constant stays.

    The deviation divides by n, not by n - 1.
    """
    x = np.asarray(x)
    mean = x.mean(0, dtype=np.float64)
    deviation = np.sqrt(np.square(x - mean).mean(0))
    # A column of one value has a variance of rounding errors, not of 0.
    flat = deviation <= 10 * np.finfo(np.float64).eps * np.abs(mean) * np.sqrt(len(x))
    return cls(mean, np.where(flat, 1.0, deviation))

  def __call__(self, x: np.ndarray) -> np.ndarray:
    """[n, D] float64."""
    return (np.asarray(x) - self.mean) / self.deviation
