"""Linear classifiers of scikit-learn, on the host in float64.

svm       LinearSVC: for each class against the rest, with y = +1 or -1,
            min_w  1/2 |w|^2 + 1/2 b^2 + C sum_i max(0, 1 - y_i (w x_i + b))^2
          (liblinear: the intercept is regularised as a column of ones is)
logistic  multinomial: min_W 1/2 |W|^2 + C sum_i -log softmax(W x_i + b)[y_i]; several
          labels a row have one logistic regression each. Intercepts are free.
"""

import warnings

import numpy as np

from vlp_jax.evaluators import classifiers
from vlp_jax.evaluators.classifiers import scaling


def _sklearn():
  """(linear_model, svm, ConvergenceWarning); ImportError that says what to install."""
  try:
    from sklearn import linear_model, svm
    from sklearn.exceptions import ConvergenceWarning
  except ImportError as e:
    raise ImportError(
      "linear probes need scikit-learn: pip install scikit-learn; or choose "
      "classifier='svm_device' or 'logistic_device'."
    ) from e
  return linear_model, svm, ConvergenceWarning


def svm(
  x: np.ndarray,
  y: np.ndarray,
  *,
  num_classes: int,
  c: float = 1.0,
  max_iter: int = 1000,
  tol: float = 1e-4,
  scale: bool = True,
  seed: int = 0,
) -> classifiers.Fitted:
  """LinearSVC; see the header. `scale`: standardise the features first."""
  make = lambda: _sklearn()[1].LinearSVC(
    C=c, max_iter=max_iter, tol=tol, dual="auto", random_state=seed
  )
  return _linear(make, x, y, num_classes, scale, max_iter)


def logistic(
  x: np.ndarray,
  y: np.ndarray,
  *,
  num_classes: int,
  c: float = 1.0,
  max_iter: int = 1000,
  scale: bool = True,
) -> classifiers.Fitted:
  """Logistic regression; see the header. `scale`: standardise the features first."""
  make = lambda: _sklearn()[0].LogisticRegression(C=c, max_iter=max_iter)
  return _linear(make, x, y, num_classes, scale, max_iter)


def _linear(make, x, y, num_classes, scale, max_iter) -> classifiers.Fitted:
  scaler = scaling.Scaler.of(x) if scale else np.asarray
  x = scaler(x)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", _sklearn()[2])  # `stopped` tells instead
    if y.ndim == 1:
      models = [make().fit(x, y)]
    else:
      models = [
        make().fit(x, y[:, k]) if len(np.unique(y[:, k])) > 1 else None
        for k in range(num_classes)
      ]
  weight = np.zeros((num_classes, x.shape[1]))
  bias = np.full(num_classes, -np.inf)  # of classes without a row
  for k, model in enumerate(models):
    if model is None:
      bias[k] = 0.0
    elif y.ndim == 2:
      weight[k], bias[k] = model.coef_[0], model.intercept_[0]
    elif len(model.classes_) == 2:  # one row of weights, positive for the second
      weight[model.classes_] = [-model.coef_[0], model.coef_[0]]
      bias[model.classes_] = [-model.intercept_[0], model.intercept_[0]]
    else:
      weight[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
  worst = max(int(np.max(m.n_iter_)) for m in models if m is not None)
  stopped = "" if worst < max_iter else f"stopped at {max_iter} iterations"
  return classifiers.Fitted(lambda x: scaler(x) @ weight.T + bias, stopped)
