"""Text-video and image-text retrieval, in both directions.

Agrees with the `compute_metrics` of the HowTo100M, MIL-NCE and UniVL code where scores
have no ties, and with the Flickr30k and COCO protocol (an image is found by any of its
captions). Text rows name their item by `relevance` ([B], or [B, K] padded with -1; the
row's own `example_id` if absent, for paired sets); item rows are known by `example_id`,
and rows of equal `group_id` (windows of one clip) are averaged. With `label_gallery`
scores are compared within a gallery only (the five folds of COCO 1K).
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.evaluators import collect, ranks
from vlp_jax.metrics import Result, wide

_TEXT_KEYS = ("relevance", "label_gallery")
_ITEM_KEYS = ("group_id", "label_gallery")


class Evaluator:
  """Dual encoders: every text against every item, by the product of embeddings.

  Queries need not be texts: with other `methods`, `outputs` and `names`, sound finds
  video and words find sound (MMV, through the space that the outputs name).

  Args:
    apply: of the model; see `collect.Forward`.
    texts, videos: re-iterables of batches; a row of `texts` may hold several texts
      (`text_embed` [B, K, D] with `narration_mask`), each of them a query.
    ks: cut-offs of recall.
    names: of text-to-item and item-to-text in the metrics' names.
    methods, outputs: what to call, and which embedding to take, for text and item.
    normalise: compare cosines: unit norm of the texts, and of the items after their
      windows are averaged (MMV; products as they are in MIL-NCE's code).
    distinct: texts of equal `text_ids` are one query, right for the items of all of
      them: a few words that name many recordings each.
    chunk: side of a tile of scores; memory is O(chunk^2) beside the embeddings.
    num_examples: queries, evenly spaced, whose five best items go to `examples`.

  After `run`, `examples` is a list of dicts: `query` (example_id of the text), `ranked`
  and `scores` (of the first five items), `true` (ids of the right ones) and `rank`.
  """

  def __init__(
    self,
    apply: Callable,
    texts: Iterable[Mapping],
    videos: Iterable[Mapping],
    *,
    ks: tuple[int, ...] = (1, 5, 10),
    names: tuple[str, str] = ("t2v", "v2t"),
    methods: tuple[str | None, str | None] = ("encode_text", "encode_video"),
    outputs: tuple[str, str] = ("text_embed", "video_embed"),
    normalise: bool = False,
    distinct: bool = False,
    chunk: int = 2048,
    num_examples: int = 8,
  ):
    self.texts, self.videos, self.outputs = texts, videos, outputs
    self.distinct = distinct
    self.ks, self.names, self.normalise = ks, names, normalise
    self.chunk, self.num_examples, self.examples = chunk, num_examples, []
    self.embed_texts = collect.Forward(
      functools.partial(_with_where, apply),
      (outputs[0], "example_id", *(["text_ids"] if distinct else [])),
      method=methods[0],
      optional=(*_TEXT_KEYS, "text_where"),
    )
    self.embed_items = collect.Forward(
      apply, (outputs[1], "example_id"), method=methods[1], optional=_ITEM_KEYS
    )

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """Recall at every k and the median rank, both ways, with exact chance."""
    texts = _flat(self.embed_texts(variables, self.texts), self.outputs[0])
    texts = _distinct(texts) if self.distinct else texts
    items = self.embed_items(variables, self.videos)
    groups = collect.group_mean(items[self.outputs[1]], items.get("group_id"))
    both = texts[self.outputs[0]], groups.values
    if self.normalise:
      both = map(unit, both)
    scores = ranks.Products(*both)
    yield from _report(self, scores, texts, items, groups)


def score_pairs(apply, variables, texts, items, *, output="match_logits"):
  """Scores of all texts of a batch with all items of another, by one joint forward.

  Args:
    texts, items: batches of Bt and Bi rows. Of keys in both, the items' one is used;
      `fuse_index` is dropped, for it holds for the pairs of the pipeline only.
    output: [Bt * Bi] scores, or [Bt * Bi, 2] logits of (no match, match).
  Returns: [Bt, Bi] float.
  """
  bt, bi = (next(iter(x.values())).shape[0] for x in (texts, items))
  batch = {k: jnp.repeat(x, bi, axis=0) for k, x in texts.items()}
  batch |= {k: jnp.tile(x, (bt, *[1] * (x.ndim - 1))) for k, x in items.items()}
  batch.pop("fuse_index", None)
  logits = wide(apply(variables, batch, train=False)[0][output])
  if logits.ndim == 2 and logits.shape[1] == 2:
    logits = logits[:, 1] - logits[:, 0]
  return logits.reshape(bt, bi)


class CrossEncoder:
  """Models that need text and item together: every pair is scored, tile by tile.

  Args: as `Evaluator`, and
    score: `score(apply, variables, texts, items) -> [Bt, Bi]`, run under jit; the
      default is `score_pairs` with `output`.

  One tile is a batch of texts with a batch of items, so that the batch sizes of the two
  iterables bound the memory of the device. The host holds the text batches and a
  float32 [texts, items] table; items are read once.
  """

  def __init__(
    self,
    apply: Callable,
    texts: Iterable[Mapping],
    items: Iterable[Mapping],
    *,
    output: str = "match_logits",
    score: Callable | None = None,
    ks: tuple[int, ...] = (1, 5, 10),
    names: tuple[str, str] = ("t2v", "v2t"),
    chunk: int = 2048,
    num_examples: int = 8,
  ):
    score = score or functools.partial(score_pairs, output=output)
    self.texts, self.items, self.ks, self.names = texts, items, ks, names
    self.chunk, self.num_examples, self.examples = chunk, num_examples, []

    def tile(variables, texts, items):
      return {"scores": score(apply, variables, texts, items)}

    self.tile = jax.jit(tile)
    ids = lambda variables, batch, **_: (batch, {})
    self.text_ids = collect.Forward(ids, ("example_id",), optional=_TEXT_KEYS)
    self.item_ids = collect.Forward(ids, ("example_id",), optional=_ITEM_KEYS)

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """Recall at every k and the median rank, both ways, with exact chance."""
    text_batches = list(self.texts)
    texts = self.text_ids(None, text_batches)
    keep = [_real(batch) for batch in text_batches]
    known, columns = [], []
    for batch in self.items:
      real = _real(batch)
      if not real.any():
        continue
      known.append(self.item_ids(None, [batch]))
      column = [
        collect.fetch(self.tile(variables, text, batch))["scores"][rows][:, real]
        for text, rows in zip(text_batches, keep, strict=True)
      ]
      columns.append(np.concatenate(column).astype(np.float32))
    if not known:
      raise ValueError("no item to rank: is the evaluation set empty?")
    items = {k: np.concatenate([x[k] for x in known]) for k in known[0]}
    groups = collect.group_mean(
      np.concatenate(columns, axis=1).T, items.get("group_id")
    )
    yield from _report(self, ranks.Table(groups.values.T), texts, items, groups)


def _real(batch):
  rows = {"example_id": batch["example_id"]}
  if "example_mask" in batch:
    rows["mask"] = batch["example_mask"]
  rows = collect.fetch(rows)
  return rows.get("mask", np.ones(len(rows["example_id"]), bool))


def _with_where(apply, variables, batch, *, train=False, method=None):
  """Adds `text_where` [B, K]: which of several texts of a row there are."""
  out, mutable = apply(variables, batch, train=train, method=method)
  if "narration_mask" in batch:
    out = dict(out) | {"text_where": batch["narration_mask"].any(-1)}
  return out, mutable


def _flat(texts, output):
  """One row a text: rows with several texts are laid out, missing texts dropped."""
  where, embed = texts.pop("text_where", None), texts[output]
  if embed.ndim == 2:
    return texts
  if where is None or where.shape != embed.shape[:2]:
    raise ValueError(
      f"{output} has shape {embed.shape}; expected [B, D], or [B, K, D] beside "
      "narration_mask [B, K, L]."
    )
  row, k = np.nonzero(where)
  return {n: x[row, k] if n == output else x[row] for n, x in texts.items()}


def _distinct(texts):
  """One row for each distinct text; `relevance` [U, n] lists the items of all."""
  ids = texts.pop("text_ids")
  _, first, of = np.unique(ids, axis=0, return_index=True, return_inverse=True)
  of = of.reshape(-1)
  relevance = texts.get("relevance", texts["example_id"]).reshape(len(of), -1)
  own = [np.unique(relevance[of == k]) for k in range(len(first))]
  table = np.full((len(own), max(map(len, own))), -1, relevance.dtype)
  for row, items in zip(table, own, strict=True):
    row[: len(items)] = items
  return {k: x[first] for k, x in texts.items()} | {"relevance": table}


def unit(x: np.ndarray) -> np.ndarray:
  """Rows divided by their norms; a row of zeros stays one."""
  norm = np.linalg.norm(x, axis=-1, keepdims=True)
  return x / np.maximum(norm, np.finfo(x.dtype).tiny)


def _matches(relevance, example_id, of):
  """Right (query, group) pairs, each once, sorted: two [p] int arrays."""
  ids, first = np.unique(example_id, return_index=True)
  groups = of[first]
  if (groups[np.searchsorted(ids, example_id)] != of).any():
    raise ValueError("an example_id stands in two groups; give one group_id to each.")
  relevance = relevance.reshape(len(relevance), -1)
  at = np.minimum(np.searchsorted(ids, relevance), len(ids) - 1)
  query, k = np.nonzero((ids[at] == relevance) & (relevance >= 0))
  if not len(query):
    raise ValueError(
      "no text names an item of this set: relevance "
      f"{np.unique(relevance)[:5]}..., example_id {ids[:5]}..."
    )
  pairs = np.unique(np.stack([query, groups[at[query, k]]], axis=1), axis=0)
  return pairs[:, 0], pairs[:, 1]


def _galleries(texts, items, groups, query, item):
  """Gallery of each query and each group; a query's default is that of its item."""
  if "label_gallery" not in items:
    return np.zeros(len(texts["example_id"]), int), np.zeros(len(groups.ids), int)
  of_item = items["label_gallery"][groups.first]
  if "label_gallery" in texts:
    return texts["label_gallery"], of_item
  of_query = np.full(len(texts["example_id"]), -1)
  of_query[query] = of_item[item]
  alone = np.setdiff1d(np.arange(len(of_query)), query)
  if len(alone) or (of_query[query] != of_item[item]).any():
    raise ValueError(
      "texts without an item, or with items of several galleries, need a "
      "label_gallery of their own."
    )
  return of_query, of_item


def _report(self, scores, texts, items, groups):
  relevance = texts.get("relevance", texts["example_id"])
  query, item = _matches(relevance, items["example_id"], groups.of)
  gallery = _galleries(texts, items, groups, query, item)
  both = ranks.cases(scores, query, item, *gallery, chunk=self.chunk)
  self.examples = []
  names = items["example_id"][groups.first]
  num = min(self.num_examples, scores.shape[0])
  for row in np.unique(np.linspace(0, scores.shape[0] - 1, num).astype(int)):
    columns = np.flatnonzero(gallery[1] == gallery[0][row])
    right = item[query == row]
    best, values, rank = ranks.top(scores, row, columns, right, 5)
    self.examples.append(
      {
        "query": int(texts["example_id"][row]),
        "ranked": [int(i) for i in names[best]],
        "scores": [float(s) for s in values],
        "true": [int(i) for i in names[right]],
        "rank": rank,
      }
    )
  for name, found in zip(self.names, both, strict=True):
    yield from ranks.results(name, found, ks=self.ks)
