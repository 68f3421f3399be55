"""What a linear classifier reads out of frozen embeddings.

The protocol of the action and sound benchmarks (linear SVM on frozen features, several
windows a clip, their decision scores summed), with nothing of the test set in any
choice: scaling, the regularisation C and the folds that choose it see training clips
only, and windows of one clip stay in one fold.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from vlp_jax.evaluators import collect
from vlp_jax.metrics import Result


class Evaluator:
  """Accuracy of a probe for each label, trained on `train`, tested on `test`.

  Args:
    apply: of the model; see `collect.Forward`.
    train, test: re-iterables; rows of equal `group_id` are windows or views of a clip.
    labels: names; `label_<name>` of the batch is [B] int, -1 where unknown.
    output, method: the frozen features, [B, D], and what returns them.
    classifier: "logistic" (multinomial) or "svm" (linear, one against the rest).
    cs: values of C to choose from, by accuracy on `folds` folds of the training clips.
    control_train, control_test: the same clips with what matters destroyed (frames in
      shuffled order). The probe is trained on them anew; metrics end in `_<control>`.
    seed: of the folds and of the solver.
  """

  def __init__(
    self,
    apply: Callable,
    train: Iterable[Mapping],
    test: Iterable[Mapping],
    *,
    labels: tuple[str, ...] = ("action", "colour", "shape"),
    output: str = "video_features",
    method: str | None = "encode_video",
    classifier: str = "logistic",
    cs: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0),
    folds: int = 4,
    control_train: Iterable[Mapping] | None = None,
    control_test: Iterable[Mapping] | None = None,
    control: str = "shuffled",
    max_iter: int = 1000,
    seed: int = 0,
  ):
    if (control_train is None) != (control_test is None):
      raise ValueError("a control needs both control_train and control_test.")
    if classifier not in ("logistic", "svm"):
      raise ValueError(f"classifier {classifier!r}; expected 'logistic' or 'svm'.")
    self.sets = [("", train, test)]
    if control_train is not None:
      self.sets.append((f"_{control}", control_train, control_test))
    self.labels, self.output = tuple(labels), output
    self.fit = dict(
      classifier=classifier, cs=tuple(cs), folds=folds, max_iter=max_iter, seed=seed
    )
    keys = (output, *(f"label_{name}" for name in self.labels))
    self.forward = collect.Forward(apply, keys, method=method, optional=("group_id",))

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`probe_<label>`, and `probe_<label>_<control>`: share of test clips right.

    Chance is the greater of one over the classes and what the most frequent training
    class gets on the test set; `ci` is half of the Wilson interval.
    """
    for suffix, train, test in self.sets:
      rows = [self.forward(variables, batches) for batches in (train, test)]
      for name in self.labels:
        train, test = (_rows(x, self.output, f"label_{name}") for x in rows)
        yield f"probe_{name}{suffix}", probe(train, test, **self.fit)


def _rows(out, output, label):
  """(features [n, D], labels [n], groups [n]) of the rows with a label."""
  x, y = out[output], out[label]
  if x.ndim != 2 or y.ndim != 1:
    raise ValueError(
      f"{output} has shape {x.shape}, {label} {y.shape}; a probe wants [B, D] and [B]."
    )
  if not np.isfinite(x).all():
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    raise ValueError(f"{output} is not finite in {len(bad)} rows, first {bad[:5]}.")
  group = out.get("group_id", np.arange(len(x)))
  known = y >= 0
  if not known.any():
    raise ValueError(f"no row has a {label}: all are -1.")
  return x[known].astype(np.float64), y[known], group[known]


def probe(
  train: tuple[np.ndarray, np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray, np.ndarray],
  *,
  classifier: str = "logistic",
  cs: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0),
  folds: int = 4,
  max_iter: int = 1000,
  seed: int = 0,
) -> Result:
  """Accuracy on `test` of a linear classifier of `train`, by clips.

  Args:
    train, test: (features [n, D], labels [n], groups [n]). A class of `test` that
      `train` lacks is missed.
    others: see `Evaluator`.
  Raises: ValueError where training rows have fewer than two classes or a group has
    several labels, ImportError without scikit-learn.
  """
  x, y, group = train
  classes = np.unique(y)
  if len(classes) < 2:
    raise ValueError(f"the probe's training rows are all of class {classes}.")
  truth = _labels(*test[1:])
  clips = _labels(y, group)
  fewest = int(np.unique(clips, return_counts=True)[1].min())
  model, c, converged = _fit(
    x, y, group, classifier, cs, min(folds, fewest), max_iter, seed
  )
  decision = model.decision_function(test[0])
  if decision.ndim == 1:  # two classes: one column, positive for the second
    decision = np.stack([-decision, decision], axis=1)
  scores = collect.group_mean(decision, test[2]).values  # mean or sum: one order
  hits = model.classes_[scores.argmax(axis=1)] == truth
  values, counts = np.unique(clips, return_counts=True)
  majority = float((truth == values[counts.argmax()]).mean())
  low, high = wilson(int(hits.sum()), len(hits))
  told = (
    f"{classifier} probe, C={c:g} "
    + ("by folds of the training clips" if fewest > 1 and len(cs) > 1 else "fixed")
    + f", {len(clips)} training clips, {len(classes)} classes, "
    + f"Wilson interval {low:.3f} to {high:.3f}"
    + ("" if converged else f", stopped at {max_iter} iterations")
  )
  num = len(np.union1d(classes, truth))
  return Result(
    float(hits.mean()), max(majority, 1 / num), len(hits), (high - low) / 2, told
  )


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
  """The Wilson score interval of a share, (low, high); sound at 0 and 1 too."""
  share, scale = hits / n, 1 + z * z / n
  middle = (share + z * z / (2 * n)) / scale
  half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
  return max(middle - half, 0.0), min(middle + half, 1.0)


def _labels(y, group):
  """The label of each group, in the order of `collect.group_mean`."""
  groups = collect.group_mean(y, group)
  label = y[groups.first]
  if (label[groups.of] != y).any():
    raise ValueError("windows of one group_id have different labels.")
  return label


def _fit(x, y, group, classifier, cs, folds, max_iter, seed):
  """(fitted pipeline, C, whether the solver converged)."""
  try:
    from sklearn import linear_model, model_selection, pipeline, preprocessing, svm
    from sklearn.exceptions import ConvergenceWarning
  except ImportError as e:
    raise ImportError(
      "linear probes need scikit-learn: pip install scikit-learn"
    ) from e

  def make(c):
    if classifier == "svm":
      head = svm.LinearSVC(C=c, max_iter=max_iter, dual="auto", random_state=seed)
    else:
      head = linear_model.LogisticRegression(C=c, max_iter=max_iter)
    return pipeline.make_pipeline(preprocessing.StandardScaler(), head)

  with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)  # told in the protocol instead
    best = sorted(cs)[len(cs) // 2]
    if folds > 1 and len(cs) > 1:
      split = model_selection.StratifiedGroupKFold(
        folds, shuffle=True, random_state=seed
      )
      parts = [p for p in split.split(x, y, group) if len(np.unique(y[p[0]])) > 1]
      right = {
        c: sum((make(c).fit(x[a], y[a]).predict(x[b]) == y[b]).sum() for a, b in parts)
        for c in sorted(cs)
      }
      best = max(right, key=right.get)  # the smallest C of equals
    model = make(best).fit(x, y)
  return model, best, int(np.max(model[-1].n_iter_)) < max_iter
