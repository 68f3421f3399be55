"""Classifiers of frozen features, by name, all with one way in and out.

  svm, logistic                scikit-learn on the host, in float64
  svm_device, logistic_device  the same problems by L-BFGS on the accelerator, for sets
                               that take scikit-learn hours
  mlp                          one hidden layer, trained by Adam on the accelerator
  knn                          votes of the nearest training rows

`fit(name, x, y, ...)` takes the class numbers of the rows, [n] int, or several labels a
row, [n, K] of zeros and ones, and gives back a function from features to scores [n, K].
All but knn standardise the features with the mean and deviation of the training rows.
"""

import importlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vlp_jax import resolve
from vlp_jax.errors import UserError

# name -> (file of this package, its function, whether C is a setting of it)
NAMES = {
  "svm": ("host", "svm", True),
  "logistic": ("host", "logistic", True),
  "svm_device": ("device", "svm", True),
  "logistic_device": ("device", "logistic", True),
  "mlp": ("mlp", "fit", False),
  "knn": ("neighbours", "fit", False),
}


class Fitted(NamedTuple):
  """A trained classifier.

  Attributes:
    scores: [n, D] -> [n, K]; of several windows of a clip the mean is taken.
    stopped: "" or why the solver ended before it converged.
  """

  scores: Callable[[np.ndarray], np.ndarray]
  stopped: str = ""


def has_c(name: str) -> bool:
  """Whether a classifier has the constant C. Raises: UserError for unknown names."""
  if name not in NAMES:
    raise UserError(f"classifier {name!r}.{resolve.nearest(name, NAMES)}")
  return NAMES[name][2]


def fit(
  name: str, x: np.ndarray, y: np.ndarray, *, num_classes: int, seed: int = 0, **more
) -> Fitted:
  """A classifier of the rows x [n, D].

  Args:
    y: [n] int in 0..num_classes-1, or [n, num_classes] of zeros and ones.
    seed: of what draws: the solver of the host, the order of rows, dropout.
    more: keywords of the classifier; see its file. C is `c`.
  Raises: UserError for an unknown name or keyword; ValueError where shapes disagree.
  """
  has_c(name)
  if x.ndim != 2 or len(x) != len(y) or y.shape[1:] not in ((), (num_classes,)):
    raise ValueError(f"features {x.shape}, labels {y.shape}, {num_classes} classes.")
  file, function, _ = NAMES[name]
  fn = getattr(importlib.import_module(f"{__name__}.{file}"), function)
  given = dict(num_classes=num_classes, seed=seed)
  bound = resolve.bind(fn, more, inject=given, skip=2, what=f"classifier {name}")
  return bound(x, y)
