"""Classes of seconds and of segments: COIN's frame accuracy, YouTube-8M's MAP@K.

`Evaluator` is the action segmentation of COIN (arXiv 1903.02874): accuracy of all
seconds, background being a class. `MeanAveragePrecision` is the metric of the 2019
YouTube-8M segments challenge, and of RareAct's classes by similarity (`ZeroShot`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from vlp_jax.evaluators import collect
from vlp_jax.metrics import Result


class Evaluator:
  """Share of seconds with the right class.

  Args:
    apply: of the model; see `collect.Forward`.
    batches: re-iterable; label [B, T] (or [B]), -1 where unknown (not counted).
    output: [B, T, C] (or [B, C]) logits. Ties and NaN are ahead of the right class.
    background: class of what is no step; its share beside the accuracy tells how far a
      model that always says so would come.
  """

  def __init__(
    self,
    apply: Callable,
    batches: Iterable[Mapping],
    *,
    output: str = "logits",
    label: str = "label",
    method: str | None = None,
    background: int = 0,
  ):
    self.batches, self.output, self.label = batches, output, label
    self.background = background
    self.forward = collect.Forward(
      apply, (output, label), method=method, optional=("clips_mask",)
    )

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`frame_accuracy` and `step_accuracy` (seconds that are no background)."""
    out = self.forward(variables, self.batches)
    logits, label = out[self.output], out[self.label]
    if logits.shape[:-1] != label.shape:
      raise ValueError(
        f"{self.output} {logits.shape} and {self.label} {label.shape} do not fit."
      )
    known = label >= 0
    if label.ndim == 2 and "clips_mask" in out:
      known &= out["clips_mask"]
    logits, label = logits[known].astype(np.float64), label[known]
    if not len(label) or label.max() >= logits.shape[1]:
      raise ValueError(f"{len(label)} labelled seconds of {logits.shape[1]} classes.")
    own = np.take_along_axis(logits, label[:, None], axis=1)
    ahead = ~(logits < own)
    ahead[np.arange(len(label)), label] = np.isnan(own[:, 0])
    hits = ~ahead.any(axis=1)
    step = label != self.background
    told = "seconds; chance: always the class most seconds are of"
    chance = float(np.bincount(label).max() / len(label))
    yield "frame_accuracy", Result.of(hits, chance=chance, protocol=told)
    if step.any():
      chance = float(np.bincount(label[step]).max() / step.sum())
      yield "step_accuracy", Result.of(hits[step], chance=chance, protocol=told)


def average_precision(
  scores: np.ndarray, positive: np.ndarray, *, first: int | None = None
) -> float:
  """(1 / N) sum_{k <= K} P@k rel_k over rows by falling score, N positives.

  Args:
    scores: [n], NaN counts as ahead; positive: [n] bool, some True.
    first: K, how many rows count (100,000 in the challenge); None for all.
  Returns: in 0..1; of equal scores the positives come last.
  """
  filled = np.where(np.isnan(scores), np.inf, scores)
  right = np.where(np.isnan(scores), False, positive)
  hit = right[np.lexsort((right, -filled))][:first]
  precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
  return float((precision * hit).sum() / positive.sum())


def chance_precision(size: int, positives: int, first: int | None = None) -> float:
  """Expected `average_precision` of a random order."""
  k = min(size, first or size)
  harmonic = float((1 / np.arange(1, k + 1)).sum())
  if size == 1:
    return 1.0
  more = (positives - 1) / (size - 1) * (k - harmonic)
  return (harmonic + more) / size


def mean_average_precision(
  scores: np.ndarray, labels: np.ndarray, *, first: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """([c] average precisions, [c] chance) of the classes with a positive row.

  Args:
    scores, labels: [n, C]; labels 1 positive, 0 negative, below 0 not rated (left out).
  """
  found, chance = [], []
  for s, y in zip(scores.T, labels.T, strict=True):
    rated = y >= 0
    positive = y[rated] > 0
    if positive.any():
      found.append(average_precision(s[rated], positive, first=first))
      chance.append(chance_precision(int(rated.sum()), int(positive.sum()), first))
  return np.array(found), np.array(chance)


def video_precisions(
  scores: np.ndarray,
  labels: np.ndarray,
  hard: np.ndarray,
  video: np.ndarray,
  *,
  samples: int = 0,
  seed: int = 0,
) -> np.ndarray:
  """Average precisions [c] of RareAct's classes with a positive clip.

  Right clips, hard negatives and others are three groups of a class. In each a video
  weighs one, whatever the number of its clips: a clip has the weight of 1 / those of
  its video in the group (wAP), or the mean is taken over `samples` draws of one clip of
  each video and group (sAP). Equal scores are one threshold, NaN is the lowest.

  Args:
    scores, labels: [n, C] as in `mean_average_precision`; hard: [n, C];
    video: [n] ints.
  """
  from sklearn import metrics

  scores = np.where(np.isnan(scores), -np.inf, scores)
  scores = np.maximum(scores, np.finfo(np.float64).min)
  rng, out = np.random.default_rng(seed), []
  for s, y, near in zip(scores.T, labels.T, hard.T, strict=True):
    if not (y > 0).any():
      continue
    rated = np.flatnonzero(y >= 0)
    kind = np.where(y[rated] > 0, 2, near[rated])
    _, place, count = np.unique(
      np.stack([kind, video[rated]]), axis=1, return_inverse=True, return_counts=True
    )
    place = place.reshape(-1)
    right, s = y[rated] > 0, s[rated]
    if not samples:
      weight = 1.0 / count[place]
      out.append(metrics.average_precision_score(right, s, sample_weight=weight))
      continue
    order = np.argsort(place, kind="stable")
    start = np.cumsum(count) - count
    draws = start + rng.integers(0, count, (samples, len(count)))
    each = [metrics.average_precision_score(right[d], s[d]) for d in order[draws]]
    out.append(np.mean(each))
  return np.array(out)


class MeanAveragePrecision:
  """MAP@K of class scores over rated segments.

  Args:
    apply: of the model; see `collect.Forward`.
    batches: re-iterable; label [B, C]: 1 positive, 0 negative, -1 not rated.
    output: [B, C] scores.
    first: K.
  """

  def __init__(
    self,
    apply: Callable,
    batches: Iterable[Mapping],
    *,
    output: str = "logits",
    label: str = "label",
    method: str | None = None,
    first: int = 100_000,
  ):
    self.batches, self.output, self.label, self.first = batches, output, label, first
    self.forward = collect.Forward(apply, (output, label), method=method)

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`map`, the mean over classes."""
    out = self.forward(variables, self.batches)
    yield "map", _map(out[self.output], out[self.label], self.first)


class ZeroShot:
  """RareAct: actions (a verb with an unlikely noun) found by their words.

  Each class ranks all clips by the product with its text. `map` is the plain mean
  average precision over rated clips; `mwap` and `msap` (arXiv 2008.01018) count videos
  and not clips, see `video_precisions`.

  Args:
    apply: of a dual encoder.
    texts: re-iterable; a row for each class, label_class [B] its number from 0; several
      rows of a class (templates) are averaged.
    videos: re-iterable; label [B, C]: 1 positive, 0 negative (also where only verb or
      only noun is right), -1 not rated; rows of equal group_id are averaged. With
      label_hard [B, C] and label_video [B] there are `mwap` and `msap`.
    samples, seed: of `msap`.
    normalise: compare cosines.
  """

  def __init__(
    self,
    apply: Callable,
    texts: Iterable[Mapping],
    videos: Iterable[Mapping],
    *,
    methods: tuple[str | None, str | None] = ("encode_text", "encode_video"),
    outputs: tuple[str, str] = ("text_embed", "video_embed"),
    normalise: bool = False,
    samples: int = 100,
    seed: int = 0,
  ):
    self.texts, self.videos, self.outputs = texts, videos, outputs
    self.samples, self.seed = samples, seed
    self.normalise = normalise
    self.embed_texts = collect.Forward(
      apply, (outputs[0], "label_class"), method=methods[0]
    )
    self.embed_videos = collect.Forward(
      apply,
      (outputs[1], "label"),
      method=methods[1],
      optional=("group_id", "label_hard", "label_video"),
    )

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`map`, and for clips of one class `accuracy@1` and `accuracy@5`."""
    texts = self.embed_texts(variables, self.texts)
    videos = self.embed_videos(variables, self.videos)
    classes = collect.group_mean(texts[self.outputs[0]], texts["label_class"])
    order = np.argsort(classes.ids)
    labels = videos["label"]
    if (classes.ids[order] != np.arange(labels.shape[1])).any():
      raise ValueError(
        f"label_class has {len(order)} classes up to {classes.ids.max()}; label "
        f"[B, C] has {labels.shape[1]}."
      )
    groups = collect.group_mean(videos[self.outputs[1]], videos.get("group_id"))
    both = [x.astype(np.float64) for x in (classes.values[order], groups.values)]
    if self.normalise:
      both = [
        x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-30) for x in both
      ]
    with np.errstate(invalid="ignore", over="ignore"):
      scores = both[1] @ both[0].T
      scale = np.abs(both[0]).max() * np.abs(both[1]).max() * both[0].shape[1]
    if np.isfinite(scale) and scale > 0:  # what only rounding parts is a tie
      unit = 1e-12 * scale
      scores = np.round(scores / unit) * unit
    labels = labels[groups.first]
    yield "map", _map(scores, labels, None)
    if (videos.get("label_video", np.array([-1])) >= 0).all():
      hard, video = (videos[k][groups.first] for k in ("label_hard", "label_video"))
      for name, samples in (("mwap", 0), ("msap", self.samples)):
        found = video_precisions(
          scores, labels, hard, video, samples=samples, seed=self.seed
        )
        told = f"mean of {len(found)} classes, videos weigh alike"
        told += f" ({samples} draws of a clip each)" if samples else ""
        yield name, Result.of(found, protocol=told)
    single = (labels > 0).sum(axis=1) == 1
    if single.any():
      right = labels[single].argmax(axis=1)
      own = np.take_along_axis(scores[single], right[:, None], axis=1)
      ahead = ~(scores[single] < own)
      ahead[np.arange(len(right)), right] = np.isnan(own[:, 0])
      for k in (1, 5):
        chance = min(k / labels.shape[1], 1.0)
        yield f"accuracy@{k}", Result.of(ahead.sum(axis=1) < k, chance=chance)


def _map(scores, labels, first):
  if scores.shape != labels.shape:
    raise ValueError(f"scores {scores.shape} and labels {labels.shape}: [B, C] both.")
  found, chance = mean_average_precision(scores, labels, first=first)
  if not len(found):
    raise ValueError("no class has a positive row.")
  told = f"mean of {len(found)} classes over rated rows"
  told += f", first {first}" if first else ""
  return Result.of(found, chance=float(chance.mean()), protocol=told)
