"""What a classifier reads out of frozen features.

The protocols of the action and sound benchmarks: windows of a clip, whose scores are
averaged before the best class is taken; a training and a test set, or folds that are
left out one after another (ESC-50), or the mean over several official splits (UCF101,
HMDB51). See `probe_fit` for what is chosen where, `classifiers` for the classifiers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from vlp_jax import resolve
from vlp_jax.errors import UserError
from vlp_jax.evaluators import classifiers, collect, folds, probe_fit
from vlp_jax.metrics import Result

wilson = probe_fit.wilson


class Evaluator:
  """Accuracy of a probe for each label, trained on `train`, tested on `test`.

  After `run`, `predictions_made` lists what was said of each test clip; see
  `probe_fit.predictions`.

  Args:
    apply: of the model; see `collect.Forward`.
    train, test: re-iterables; rows of equal `group_id` are windows or views of a clip.
    labels: names; `label_<name>` of the batch ("label" is `label` itself) is [B] int,
      -1 where unknown, or [B, K] of zeros and ones: then mAP, AUC and d' are given.
    output, method: the frozen features, [B, D], and what returns them.
    classifier: of `classifiers.NAMES`: svm, logistic, svm_device, logistic_device, mlp,
      knn; options: its further keywords, as (name, value) pairs.
    cs: values of C to choose from, by accuracy on `folds` folds of the training clips,
      or, with choose_by="fold", by leaving out each value of `label_fold` in turn.
    by: "" for `train` against `test`; "fold" leaves out each value of `label_fold`: a
      probe of the rows of `train` with other values is tested on the rows of `test`
      with this one, and the mean over folds is the result. "speaker" likewise.
    ks: cut-offs of the accuracy.
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
    by: str = "",
    choose_by: str = "",
    ks: tuple[int, ...] = (1,),
    options: tuple = (),
    control_train: Iterable[Mapping] | None = None,
    control_test: Iterable[Mapping] | None = None,
    control: str = "shuffled",
    max_iter: int = 1000,
    seed: int = 0,
  ):
    if (control_train is None) != (control_test is None):
      raise ValueError("a control needs both control_train and control_test.")
    if not cs or not ks or min(ks) < 1 or folds < 1:
      raise UserError(f"probe: cs={cs}, ks={ks}, folds={folds} must be positive.")
    self.sets = [("", train, test)]
    if control_train is not None:
      self.sets.append((f"_{control}", control_train, control_test))
    self.labels, self.output, self.by, self.ks = tuple(labels), output, by, tuple(ks)
    given = dict(options)
    if classifiers.has_c(classifier):
      given.setdefault("max_iter", max_iter)
    self.fit = dict(
      classifier=classifier, cs=tuple(cs), num_folds=folds, seed=seed, options=given
    )
    self.by_key, self.choose_key = (k and f"label_{k}" for k in (by, choose_by))
    needed = [self.by_key, self.choose_key, *map(_key, self.labels)]
    keys = (output, *dict.fromkeys(k for k in needed if k))
    optional = ("group_id", "label_group")
    self.forward = collect.Forward(apply, keys, method=method, optional=optional)
    self.say, self.predictions_made = lambda text: None, []

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`probe_<label>` (`probe` of "label"): share of test clips right, at best class.

    With further ks `probe_<label>@k`; with `by` also each fold's, as
    `probe_<label>/fold_1`; of several labels `probe_<label>_mAP`, `_AUC`, `_d_prime`,
    `_d_prime_of_mean_auc`; of the control `probe_<label>_<control>`.
    """
    self.predictions_made = []
    for suffix, train, test in self.sets:
      rows = [self.forward(variables, batches) for batches in (train, test)]
      for name in self.labels:
        about = {"set": suffix[1:]} if suffix else {}
        if len(self.labels) > 1:
          about["name"] = name
        for metric, result in self._probe(*rows, name, about):
          yield f"{_metric(name)}{suffix}{metric}", result

  def _probe(self, train, test, name, about):
    """(end of the metric's name, result) of one label."""
    if not self.by:
      judged = self._judge(train, test, name, about)
      yield from probe_fit.results(judged, ks=self.ks)
      return
    found: dict[str, dict[int, Result]] = {}
    parts = self._folds(train, test)
    for i, (value, some, held) in enumerate(parts, 1):
      self.say(f"probe of {name}: {self.by} {value}, {i} of {len(parts)}")
      judged = self._judge(some, held, name, about | {self.by: value})
      for metric, result in probe_fit.results(judged, ks=self.ks):
        found.setdefault(metric, {})[value] = result
    for metric, each in found.items():
      yield metric, probe_fit.average(each, self.by, disjoint=True)
      for value, result in each.items():
        yield f"{metric}/{self.by}_{value}", result

  def _judge(self, train, test, name, about) -> probe_fit.Judged:
    train, test = (self._rows(x, name) for x in (train, test))
    judged = probe_fit.judge(train, test, **self.fit, say=self.say)
    self.predictions_made += probe_fit.predictions(judged, **about)
    return judged

  def _folds(self, train, test):
    """[(value, training rows, test rows)], none of a clip in both."""
    apart = lambda out: [out[k] for k in ("group_id", "label_group") if k in out]
    held = {
      value: at for value, at in folds.leave_one_out(test[self.by_key], *apart(test))
    }
    both = {
      k: np.concatenate([train[k], test[k]])
      for k in ("group_id", "label_group", self.by_key)
      if k in train and k in test
    }
    list(folds.leave_one_out(both.pop(self.by_key), *both.values()))  # the check only
    take = lambda out, keep: {k: x[keep] for k, x in out.items()}
    return [
      (value, take(train, train[self.by_key] != value), take(test, at))
      for value, at in held.items()
    ]

  def _rows(self, out, name) -> probe_fit.Rows:
    """The rows with a label."""
    x, y = out[self.output], out[_key(name)]
    if x.ndim != 2 or y.ndim > 2:
      raise ValueError(
        f"{self.output} has shape {x.shape}, {_key(name)} {y.shape}; a probe wants "
        "[B, D] and [B] or [B, K]."
      )
    if not np.isfinite(x).all():
      bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
      raise ValueError(
        f"{self.output} is not finite in {len(bad)} rows, first {bad[:5]}."
      )
    group = out.get("group_id", np.arange(len(x)))
    known = (y if y.ndim == 1 else y.min(1)) >= 0
    if not known.any():
      raise ValueError(f"no row has a {_key(name)}: all are -1.")
    choose = out[self.choose_key] if self.choose_key else None
    return probe_fit.Rows(x, y, group, choose).take(known)


class Splits:
  """The mean of `Evaluator` over three official splits of the same clips.

  Args:
    train_1, test_1, ...: as `train`, `test` there; given: its other keywords.
  """

  def __init__(
    self,
    apply: Callable,
    train_1: Iterable[Mapping],
    test_1: Iterable[Mapping],
    train_2: Iterable[Mapping],
    test_2: Iterable[Mapping],
    train_3: Iterable[Mapping],
    test_3: Iterable[Mapping],
    **given,
  ):
    sets = (train_1, test_1), (train_2, test_2), (train_3, test_3)
    skip = ("apply", "train", "test")
    make = resolve.bind(Evaluator, given, skip=skip, what="linear_probe:Splits")
    self.evaluators = {i: make(apply, *pair) for i, pair in enumerate(sets, 1)}
    self.say, self.predictions_made = lambda text: None, []

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """The names of `Evaluator.run`, and each split's as `<name>/split_1`."""
    found: dict[str, dict[int, Result]] = {}
    self.predictions_made = []
    for i, evaluator in self.evaluators.items():
      self.say(f"split {i} of {len(self.evaluators)}")
      evaluator.say = self.say
      for name, result in evaluator.run(variables):
        found.setdefault(name, {})[i] = result
      made = evaluator.predictions_made
      self.predictions_made += [{"split": i} | one for one in made]
    for name, each in found.items():
      yield name, probe_fit.average(each, "split", disjoint=False)
      for i, result in each.items():
        yield f"{name}/split_{i}", result


def probe(
  train: tuple[np.ndarray, ...], test: tuple[np.ndarray, ...], **given
) -> Result:
  """Accuracy on `test` of a classifier of `train`, by clips.

  Args:
    train, test: (features [n, D], labels [n], groups [n]). A class of `test` that
      `train` lacks is missed.
    given: see `probe_fit.judge`.
  """
  judged = probe_fit.judge(probe_fit.Rows(*train), probe_fit.Rows(*test), **given)
  return next(probe_fit.results(judged))[1]


def _key(name: str) -> str:
  return "label" if name == "label" else f"label_{name}"


def _metric(name: str) -> str:
  return "probe" if name == "label" else f"probe_{name}"
