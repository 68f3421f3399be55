"""Retrieval among pictures and sounds, graded by the classes that two clips share.

  DCG@k = sum_{r=1..k} rel_r / log2(1 + r),   nDCG@k = DCG@k / DCG@k of the best order

as for AVE-Net (arXiv 1712.06651), where k = 30. Its relevance of two clips is the
overlap of their sets of classes; the exact form is not published: here the number of
shared classes ("count") or that over the number in either ("iou").
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from vlp_jax.evaluators import collect
from vlp_jax.metrics import Result

WAYS = ("v2v", "v2a", "a2v", "a2a")
OVERLAPS = ("count", "iou")


class Evaluator:
  """nDCG@k of every way between the two streams.

  Args:
    apply: of the model; rows of equal `group_id` (windows) are averaged.
    batches: re-iterable of rows with both streams.
    outputs: embeddings of picture and sound.
    labels: single classes `label_<name>` [B], -1 where unknown; none: `label` [B, C],
      zeros and ones.
    k: of the formula; overlap: "count" or "iou".
    normalise: cosines; otherwise products.
    keep_own: the query's own clip stands in the other stream's list. Never in its own.
    chunk: queries at a time.
  """

  def __init__(
    self,
    apply: Callable,
    batches: Iterable[Mapping],
    *,
    outputs: tuple[str, str] = ("video_embed", "audio_embed"),
    labels: tuple[str, ...] = (),
    k: int = 30,
    overlap: str = "count",
    normalise: bool = True,
    keep_own: bool = False,
    chunk: int = 512,
  ):
    if overlap not in OVERLAPS:
      raise ValueError(f"overlap={overlap!r}; one of {OVERLAPS}.")
    self.batches, self.outputs, self.k, self.overlap = batches, outputs, k, overlap
    self.labels = tuple(f"label_{name}" for name in labels) or ("label",)
    self.normalise, self.keep_own, self.chunk = normalise, keep_own, chunk
    self.forward = collect.Forward(
      apply, (*outputs, *self.labels), optional=("group_id",)
    )

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`<way>_ndcg@k`; chance is the expected value of a random order.

    Among equal scores the least relevant come first, and NaN scores highest. Queries
    that share no class with any clip do not count.
    """
    out = self.forward(variables, self.batches)
    groups = [collect.group_mean(out[k], out.get("group_id")) for k in self.outputs]
    first = groups[0].first
    classes = one_hot([out[k][first] for k in self.labels])
    embeds = dict(zip("va", (g.values for g in groups), strict=True))
    if self.normalise:
      tiny = np.finfo(np.float32).tiny
      unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), tiny)
      embeds = {s: unit(x.astype(np.float64)) for s, x in embeds.items()}
    for way in WAYS:
      left, right = embeds[way[0]], embeds[way[2]]
      own = self.keep_own and way[0] != way[2]
      parts = [
        self._chunk(
          left, right, classes, np.arange(a, min(a + self.chunk, len(left))), own
        )
        for a in range(0, len(left), self.chunk)
      ]
      value, chance = (np.concatenate(x) for x in zip(*parts, strict=True))
      if not len(value):
        raise ValueError("no two clips share a class.")
      told = f"relevance: classes shared ({self.overlap}), {len(left)} clips"
      result = Result.of(value, chance=float(chance.mean()), protocol=told)
      yield f"{way}_ndcg@{self.k}", result

  def _chunk(self, left, right, classes, rows, keep_own):
    """(nDCG, its expectation) of some queries, those that count."""
    with np.errstate(invalid="ignore", over="ignore"):
      scores = left[rows] @ right.T
    relevance = overlaps(classes[rows], classes, self.overlap)
    listed = np.ones(scores.shape, bool)
    if not keep_own:
      listed[np.arange(len(rows)), rows] = False
    return ndcg(scores, relevance, listed, self.k)


def one_hot(labels: list[np.ndarray]) -> np.ndarray:
  """[n, C] zeros and ones of one [n, C] array, or of several of classes [n]."""
  if labels[0].ndim == 2:
    return labels[0].astype(np.float64)
  parts = [y[:, None] == np.arange(max(int(y.max()), 0) + 1) for y in labels]
  return np.concatenate(parts, axis=1).astype(np.float64)


def overlaps(left: np.ndarray, right: np.ndarray, form: str) -> np.ndarray:
  """Relevance [n, m] of sets of classes [n, C] and [m, C]."""
  shared = left @ right.T
  if form == "count":
    return shared
  either = left.sum(1)[:, None] + right.sum(1) - shared
  return shared / np.maximum(either, 1)


def ndcg(
  scores: np.ndarray, relevance: np.ndarray, listed: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """(nDCG@k [q], its expectation in a random order [q]) of queries with any relevance.

  Args: scores, relevance [n, m]; listed [n, m] bool, what the query's list holds.
  """
  k = min(k, scores.shape[1])
  discount = 1 / np.log2(np.arange(2, k + 2))
  relevance = np.where(listed, relevance, 0.0)
  scores = np.where(listed, np.where(np.isnan(scores), np.inf, scores), -np.inf)
  order = np.lexsort((relevance, -scores, ~listed))[:, :k]
  gain = (np.take_along_axis(relevance, order, axis=1) * discount).sum(1)
  best = (-np.sort(-relevance, axis=1)[:, :k] * discount).sum(1)
  count = listed.sum(1)
  places = np.where(np.arange(k) < count[:, None], discount, 0.0).sum(1)
  random = relevance.sum(1) / np.maximum(count, 1) * places
  some = best > 0
  return gain[some] / best[some], random[some] / best[some]
