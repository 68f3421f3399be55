"""One probe: a classifier of training rows, and what it says of the test clips.

Nothing of the test set is in any choice: scaling, the constant C and the folds that
choose it see training rows only, and rows of one clip stay in one fold.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from vlp_jax.evaluators import classifiers, collect, folds, multi_label
from vlp_jax.metrics import Result

TOP = 5  # classes a clip in the file of predictions


class Rows(NamedTuple):
  """Features of windows.

  Attributes:
    x: [n, D]. group: [n] int, the clip.
    y: [n] int class numbers, or [n, K] zeros and ones.
    choose: [n] int or None: C is chosen by leaving out one value of it after another,
      instead of folds of clips.
  """

  x: np.ndarray
  y: np.ndarray
  group: np.ndarray
  choose: np.ndarray | None = None

  def take(self, keep: np.ndarray) -> "Rows":
    return Rows(*(None if a is None else a[keep] for a in self))


class Judged(NamedTuple):
  """What a probe says of the test clips.

  Attributes:
    scores: [G, K] means over the windows of a clip, of the classes `classes` [K].
    truth: [G] class numbers, or [G, K]; ids: [G] clips.
    majority: share of test clips of the most frequent training class.
    told: the protocol in words.
  """

  scores: np.ndarray
  truth: np.ndarray
  ids: np.ndarray
  classes: np.ndarray
  majority: float
  told: str


def judge(
  train: Rows,
  test: Rows,
  *,
  classifier: str = "logistic",
  cs: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0),
  num_folds: int = 4,
  seed: int = 0,
  options: Mapping[str, Any] | None = None,
  say: Callable[[str], None] = lambda text: None,
) -> Judged:
  """Trains on `train`, scores the clips of `test`.

  Args:
    classifier: of `classifiers.NAMES`; options: its keywords.
    cs: values of C to choose from, for those that have one.
    num_folds: of training clips, at most as many as the rarest class has.
    say: told what is being trained.
  Raises: ValueError where training rows have fewer than two classes or a clip has
    several labels.
  """
  truth, clips = _labels(test.y, test.group), _labels(train.y, train.group)
  options, many = dict(options or {}), train.y.ndim == 2
  if many:
    classes, y, fewest = np.arange(train.y.shape[1]), train.y, len(clips)
    counts = clips.sum(0)
    if test.y.shape[1:] != train.y.shape[1:]:
      raise ValueError(f"labels of {train.y.shape[1:]} and {test.y.shape[1:]} classes.")
  else:
    classes, y = np.unique(train.y, return_inverse=True)
    if len(classes) < 2:
      raise ValueError(f"the probe's training rows are all of class {classes}.")
    counts = np.unique(clips, return_counts=True)[1]
    fewest = int(counts.min())
  fit = lambda x, y, **more: classifiers.fit(
    classifier, x, y, num_classes=len(classes), seed=seed, **options, **more
  )
  rows = train._replace(y=y)
  chosen, how = {}, ""
  if classifiers.has_c(classifier):
    given = min(num_folds, fewest), seed, say
    chosen["c"], how = _choose(fit, rows, sorted(cs), *given)
    how = f", C={chosen['c']:g} {how}"
  say(f"{classifier} of {len(rows.x)} windows{how}")
  fitted = fit(rows.x, rows.y, **chosen)
  mean = collect.group_mean(fitted.scores(test.x), test.group)
  guess = classes[counts.argmax()]
  told = (
    f"{classifier} probe{how}, {len(clips)} training clips in {len(train.x)} windows, "
    f"{len(test.x)} test windows, mean of scores, {len(classes)} classes, seed {seed}"
    + "".join(f", {k} {v}" for k, v in options.items() if k != "max_iter")
    + (f", {fitted.stopped}" if fitted.stopped else "")
  )
  majority = math.nan if many else float((truth == guess).mean())
  return Judged(mean.values, truth, mean.ids, classes, majority, told)


def _choose(fit, rows, cs, num_folds, seed, say):
  """(C, how it was found): the smallest of those that are best on held-out rows."""
  middle = cs[len(cs) // 2]
  if len(cs) == 1:
    return middle, "fixed"
  if rows.choose is not None:
    held = [h for _, h in folds.leave_one_out(rows.choose, rows.group)]
    how = f"by leaving out one of {len(held)} folds of the training clips"
  elif num_folds > 1:
    held = folds.by_group(rows.y, rows.group, folds=num_folds, seed=seed)
    how = f"by {num_folds} folds of the training clips"
  else:
    return middle, "fixed, as a class has a single training clip"
  right = dict.fromkeys(cs, 0.0)
  for i, out in enumerate(held, 1):
    some, rest = rows.take(~out), rows.take(out)
    if rows.y.ndim == 1 and len(np.unique(some.y)) < 2:
      continue
    for c in cs:
      say(f"choosing C: fold {i} of {len(held)}, C={c:g}")
      scores = fit(some.x, some.y, c=c).scores(rest.x)
      right[c] += _good(scores, rest.y)
  return max(right, key=right.get), how


def _good(scores, y) -> float:
  """Rows that are right; of several labels the mean average precision."""
  if y.ndim == 1:
    return float((scores.argmax(1) == y).sum())
  some = [k for k in range(y.shape[1]) if y[:, k].any()]
  found = [multi_label.average_precision(scores[:, k], y[:, k] > 0) for k in some]
  return float(np.mean(found)) if found else 0.0


def results(
  judged: Judged, *, ks: tuple[int, ...] = (1,)
) -> Iterator[tuple[str, Result]]:
  """("@k", accuracy) for every k, "" for 1; of several labels `multi_label.results`.

  Chance is the greater of k over the classes and, for k = 1, what the most frequent
  training class gets; `ci` is half of the Wilson interval. Ties count against us; a
  class that no training row has is missed.
  """
  if judged.truth.ndim == 2:
    found = multi_label.results(judged.scores, judged.truth, judged.told)
    yield from ((f"_{name}", result) for name, result in found)
    return
  scores, truth, classes = judged.scores, judged.truth, judged.classes
  own = classes[None] == truth[:, None]  # no True for a class without training rows
  best = np.where(own, scores, -np.inf).max(axis=1, keepdims=True)
  rank = (~(scores < best) & ~own).sum(axis=1)
  rank = np.where(own.any(axis=1), rank, len(classes))
  num = len(np.union1d(classes, truth))
  for k in ks:
    hits = (rank < k) & own.any(axis=1)
    chance = min(k / num, 1.0)
    low, high = wilson(int(hits.sum()), len(hits))
    told = f"{judged.told}, Wilson interval {low:.3f} to {high:.3f}"
    chance = max(chance, judged.majority) if k == 1 else chance
    yield (
      "" if k == 1 else f"@{k}",
      Result(float(hits.mean()), chance, len(hits), (high - low) / 2, told),
    )


def predictions(judged: Judged, **more) -> Iterator[dict[str, Any]]:
  """A dict for JSON of each clip: clip, label, and the best classes with scores."""
  order = np.argsort(-judged.scores, axis=1, kind="stable")[:, :TOP]
  for i, (clip, best) in enumerate(zip(judged.ids, order, strict=True)):
    label = judged.truth[i]
    label = np.flatnonzero(label).tolist() if label.ndim else int(label)
    scores = [round(float(s), 6) for s in judged.scores[i, best]]
    predicted = judged.classes[best].tolist()
    yield dict(clip=int(clip), **more, label=label, predicted=predicted, scores=scores)


def average(parts: Mapping[int, Result], what: str, *, disjoint: bool) -> Result:
  """The mean over folds or splits.

  Args:
    what: "fold" or "split". disjoint: no clip is tested in two, so that the interval
      shrinks with their number; that of splits of the same clips does not.
  """
  values = np.array([r.value for r in parts.values()])
  num = len(values)
  ci = float(np.mean([r.ci for r in parts.values()]))
  told = ", ".join(f"{r.value:.4g}" for r in parts.values())
  spread = f"deviation {values.std(ddof=1):.3g}" if num > 1 else "one"
  first = next(iter(parts.values())).protocol.split(", Wilson")[0]
  return Result(
    float(values.mean()),
    float(np.mean([r.chance for r in parts.values()])),
    sum(r.n for r in parts.values()),
    ci / math.sqrt(num) if disjoint else ci,
    f"mean of {num} {what}s ({told}; {spread}); of the first: {first}",
  )


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
  """The Wilson score interval of a share, (low, high); sound at 0 and 1 too."""
  share, scale = hits / n, 1 + z * z / n
  middle = (share + z * z / (2 * n)) / scale
  half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
  return max(middle - half, 0.0), min(middle + half, 1.0)


def _labels(y, group):
  """The label of each clip, in the order of `collect.group_mean`."""
  groups = collect.group_mean(y, group)
  label = y[groups.first]
  if (label[groups.of] != y).any():
    raise ValueError("windows of one group_id have different labels.")
  return label
