"""Moments in videos by words: TVR and How2R recall at an overlap, DiDeMo's metrics.

A moment is a run of clips, its score the mean product of its clips with the query. A
video's score is that of its best clip, as in HERO. Rows of `texts` name their video by
`relevance` (their own example_id without it).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from etils import epath

from vlp_jax.evaluators import collect, ranks, spans
from vlp_jax.metrics import Result

METHODS, OUTPUTS = ("encode_text", "encode_clips"), ("text_embed", "clips_embed")


class _Moments:
  """Embeddings of queries and clips; products of one query with all clips."""

  def __init__(self, apply, texts, videos, truth, methods, outputs):
    self.texts, self.videos, self.outputs = texts, videos, outputs
    self.embed_texts = collect.Forward(
      apply,
      (outputs[0], "example_id", truth),
      method=methods[0],
      optional=("relevance",),
    )
    self.embed_videos = collect.Forward(
      apply,
      (outputs[1], "example_id", "clips_mask"),
      method=methods[1],
      optional=("clips_times",),
    )

  def load(self, variables):
    """Arrays of both sides; `at` [n] is the row of each query's video."""
    texts = self.embed_texts(variables, self.texts)
    videos = self.embed_videos(variables, self.videos)
    right = texts.get("relevance", texts["example_id"])
    place = {int(v): i for i, v in enumerate(videos["example_id"])}
    lost = [int(v) for v in right if int(v) not in place]
    if lost:
      raise ValueError(f"{len(lost)} queries are of videos not in the set: {lost[:5]}.")
    if not videos["clips_mask"].any(axis=1).all():
      raise ValueError(
        "a video has no clip: every row needs a clips_mask that is True."
      )
    at = np.array([place[int(v)] for v in right])
    return texts, videos, at

  def products(self, texts, videos):
    """Of each query: ([V, T] products, NaN where there is no clip; their scale)."""
    clips = videos[self.outputs[1]].astype(np.float64)
    where = videos["clips_mask"]
    with np.errstate(invalid="ignore", over="ignore"):
      longest = np.linalg.norm(np.where(where[..., None], clips, 0.0), axis=-1).max()
      for q in texts[self.outputs[0]].astype(np.float64):
        yield clips @ q, longest * np.linalg.norm(q)


class Evaluator(_Moments):
  """VR, SVMR and VCMR recall of TVR and How2R, in fractions.

  Video retrieval (vr), moments of the right video (svmr), moments of all videos (vcmr).

  Args:
    apply: of the model; see `collect.Forward`.
    texts: re-iterable; label_times [B, A, 2] float32 s, the moment of each of A
      annotators, negative where there is none.
    videos: re-iterable; `output` [B, T, D], clips_mask [B, T], clips_times [B, T, 2] s.
    methods, outputs: what to call, and which embeddings to take.
    ks, thresholds: cut-offs of recall; overlaps that count as found.
    shortest, longest: clips of a moment (2 to 16 of 1.5 s in HERO).
    num_videos: the best videos of a query, whose moments vcmr ranks.
    nms: overlap above which a worse moment of the same video goes; 1 keeps all.
    keep: moments of a video at most, and of a query.
    agree: annotators whose moment must be met (2 for DiDeMo in this form).

  After `run`, `predictions` has the official form: {"VCMR": [{desc_id, predictions:
  [[video, start, end, score], ...]}], "SVMR": ..., "VR": ...}, with ids of the batches;
  `write` puts it into a file.
  """

  def __init__(
    self,
    apply: Callable,
    texts: Iterable[Mapping],
    videos: Iterable[Mapping],
    *,
    methods: tuple[str | None, str | None] = METHODS,
    outputs: tuple[str, str] = OUTPUTS,
    ks: tuple[int, ...] = (1, 5, 10, 100),
    thresholds: tuple[float, ...] = (0.5, 0.7),
    shortest: int = 1,
    longest: int = 16,
    num_videos: int = 100,
    nms: float = 0.5,
    keep: int = 100,
    agree: int = 1,
  ):
    super().__init__(apply, texts, videos, "label_times", methods, outputs)
    self.ks, self.thresholds, self.agree = ks, thresholds, agree
    self.lengths, self.num_videos, self.nms, self.keep = (
      (shortest, longest),
      num_videos,
      nms,
      keep,
    )
    self.predictions = {}

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`vr_recall@k`, then `svmr_` and `vcmr_iou<threshold>_recall@k`.

    Chance is random order of all moments, without suppression.
    """
    texts, videos, at = self.load(variables)
    if "clips_times" not in videos:
      raise ValueError("batches of videos need clips_times [B, T, 2] in seconds.")
    made = [self._candidates(v) for v in _rows(videos)]
    total = sum(len(runs) for runs, _ in made)
    found = {"vr": [], "svmr": [], "vcmr": []}
    lists = {"VR": [], "SVMR": [], "VCMR": []}
    guess = {"svmr": [], "vcmr": []}
    for n, (sims, scale) in enumerate(self.products(texts, videos)):
      truth = texts["label_times"][n].astype(np.float64)
      truth = truth[(truth >= 0).all(axis=1)]
      if len(truth) < self.agree:
        raise ValueError(f"query {n} has {len(truth)} moments; agree={self.agree}.")
      own = int(at[n])
      best = np.array(
        [_most(s[w]) for s, w in zip(sims, videos["clips_mask"], strict=True)]
      )
      first = spans.order(best, np.arange(len(best)) == own, scale)
      found["vr"].append(int(np.flatnonzero(first == own)[0]))
      ranked = {
        v: self._ranked(sims[v], made[v], truth if v == own else None, scale)
        for v in {own, *first[: self.num_videos].tolist()}
      }
      found["svmr"].append(ranked[own][2])
      spots, scores, good, of = self._merged(ranked, first, scale)
      found["vcmr"].append(good)
      many = self._positives(made[own][1], truth)
      guess["svmr"].append((len(made[own][0]), many))
      guess["vcmr"].append((total, many))
      named = videos["example_id"]
      desc = {"desc_id": int(texts["example_id"][n])}
      whole = [[int(named[v]), 0.0, 0.0, float(best[v])] for v in first[: self.keep]]
      lists["VR"].append(desc | {"predictions": whole})
      rows = _listed(named[own], *ranked[own][:2])
      lists["SVMR"].append(desc | {"predictions": rows})
      rows = [
        _listed(named[v], s[None], x[None])[0]
        for s, x, v in zip(spots, scores, of, strict=True)
      ]
      lists["VCMR"].append(desc | {"predictions": rows})
    self.predictions = lists
    yield from self._results(found, guess, len(made))

  def write(self, path) -> None:
    """The predictions of the last run as JSON."""
    epath.Path(path).write_text(json.dumps(self.predictions))

  def _candidates(self, video):
    """([n, 2] runs of real clips, [n, 2] their times) of a video."""
    times = video["clips_times"][video["clips_mask"]].astype(np.float64)
    runs = spans.runs(len(times), *self.lengths)
    if not len(runs):  # shorter than the shortest moment: the whole of it
      runs = np.array([[0, len(times)]])
    return runs, np.stack([times[runs[:, 0], 0], times[runs[:, 1] - 1, 1]], axis=1)

  def _good(self, times, truth):
    """[n, thresholds] bool: enough annotators are met."""
    overlap = spans.iou(times[:, None], truth[None])
    met = [(overlap >= t).sum(axis=1) >= self.agree for t in self.thresholds]
    return np.stack(met, axis=1)

  def _positives(self, times, truth):
    return self._good(times, truth).sum(axis=0)

  def _ranked(self, sims, made, truth, scale):
    """Times, scores and hits of a video's moments, the best first."""
    runs, times = made
    scores = spans.run_means(sims[: runs.max()], runs)
    good = np.zeros((len(runs), len(self.thresholds)), bool)
    if truth is not None:
      good = self._good(times, truth) & ~np.isnan(scores)[:, None]
    first = spans.order(scores, good.sum(axis=1), scale)
    kept = first[spans.suppress(times[first], threshold=self.nms, keep=self.keep)]
    return times[kept], scores[kept], good[kept]

  def _merged(self, ranked, first, scale):
    """The best moments of the best videos: times, scores, hits, rows of videos."""
    rows = [int(v) for v in first[: self.num_videos]]
    times, scores, good = (
      np.concatenate([ranked[v][i] for v in rows]) for i in range(3)
    )
    of = np.repeat(rows, [len(ranked[v][0]) for v in rows])
    top = spans.order(scores, good.sum(axis=1), scale)[: self.keep]
    return times[top], scores[top], good[top], of[top]

  def _results(self, found, guess, num):
    told = f"{len(found['vr'])} queries, {num} videos; ties count against the model"
    rank = np.array(found["vr"])
    for k in self.ks:
      chance = min(k / num, 1.0)
      yield f"vr_recall@{k}", Result.of(rank < k, chance=chance, protocol=told)
    for name in ("svmr", "vcmr"):
      for i, threshold in enumerate(self.thresholds):
        for k in self.ks:
          hits = [bool(good[:k, i].any()) for good in found[name]]
          chance = [
            1 - ranks.miss(size, int(many[i]))[min(k, size)]
            for size, many in guess[name]
          ]
          result = Result.of(hits, chance=float(np.mean(chance)), protocol=told)
          yield f"{name}_iou{threshold:g}_recall@{k}", result


class DiDeMo(_Moments):
  """rank@1, rank@5 and mIoU with annotator agreement (arXiv 1708.01641).

  Agrees with LisaAnne/LocalizingMoments: all runs of a video's segments (21 of six) are
  ranked; see `spans.agreement`.

  Args: as `Evaluator`; texts have label_segments [B, A, 2] int32, first and last
    segment of each annotator, -1 where there is none.
  """

  def __init__(
    self,
    apply: Callable,
    texts: Iterable[Mapping],
    videos: Iterable[Mapping],
    *,
    methods: tuple[str | None, str | None] = METHODS,
    outputs: tuple[str, str] = OUTPUTS,
  ):
    super().__init__(apply, texts, videos, "label_segments", methods, outputs)

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`rank@1`, `rank@5`, `miou`; chance is the mean of 100 random orders."""
    texts, videos, at = self.load(variables)
    rng = np.random.default_rng(0)
    found, chance = [], []
    for n, (sims, scale) in enumerate(self.products(texts, videos)):
      times = texts["label_segments"][n]
      times = times[(times >= 0).all(axis=1)]
      own = int(at[n])
      num = int(videos["clips_mask"][own].sum())
      if not len(times) or times.max() >= num:
        raise ValueError(f"query {n}: segments {times.tolist()} of a video of {num}.")
      runs = spans.runs(num)
      scores = spans.run_means(sims[own, :num], runs)
      truth = np.array([(a, b + 1) for a, b in times], float)
      near = np.sort(spans.iou(runs[:, None].astype(float), truth[None]), axis=1)
      near = near[:, -3:].mean(axis=1)
      same = (runs[:, None] == truth[None]).all(-1).sum(axis=1)
      # The worst of equals first, for the ranks and for the overlap alike.
      found.append(
        spans.agreement(runs[spans.order(scores, same + near, scale)], times)
      )
      drawn = [
        spans.agreement(runs[rng.permutation(len(runs))], times) for _ in range(100)
      ]
      chance.append([(np.mean([f(r, o) for r, o in drawn])) for f in _DIDEMO.values()])
    told = f"{len(found)} queries, mean of the three nearest annotators; "
    told += "ties count against the model"
    chance = np.mean(chance, axis=0)
    for (name, f), guess in zip(_DIDEMO.items(), chance, strict=True):
      yield name, Result.of([f(r, o) for r, o in found], chance=guess, protocol=told)


_DIDEMO = {
  "rank@1": lambda rank, overlap: rank <= 1,
  "rank@5": lambda rank, overlap: rank <= 5,
  "miou": lambda rank, overlap: overlap,
}


def _rows(videos):
  keys = ("clips_times", "clips_mask")
  for row in zip(*(videos[k] for k in keys), strict=True):
    yield dict(zip(keys, row, strict=True))


def _most(x):
  return np.nan if np.isnan(x).any() else x.max()


def _listed(video, times, scores):
  return [
    [int(video), float(a), float(b), float(s)]
    for (a, b), s in zip(times, scores, strict=True)
  ]
