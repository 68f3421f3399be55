"""Retrieval examples with pictures for a report: ids to texts and frames."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vlp_jax.evaluators import collect


def _rows(batches: Iterable[Mapping], wanted: set[int], keys: tuple[str, ...]):
  """{example_id: {key: row}} of the wanted ids; reads no further than it must."""
  found = {}
  for batch in batches:
    keep = [k for k in (*keys, "example_id", "example_mask") if k in batch]
    rows = collect.fetch({k: batch[k] for k in keep})
    for i, at in enumerate(rows["example_id"].tolist()):
      if at in wanted and at not in found:
        found[at] = {k: rows[k][i] for k in keys if k in rows}
    if wanted <= set(found):
      break
  return found


def of_retrieval(evaluator: Any, tokeniser: Any, *, num: int = 6, best: int = 4):
  """`report.write`'s examples of a retrieval evaluator that has run.

  Args:
    evaluator: `retrieval.Evaluator` over texts with text_ids and items with
      video_frames [B, T, H, W, 3] uint8.
    tokeniser: of the texts, for its `decode`.
    num, best: queries, and items of each.
  """
  examples = evaluator.examples[:num]
  items = {i for e in examples for i in (*e["ranked"][:best], *e["true"])}
  texts = _rows(evaluator.texts, {e["query"] for e in examples}, ("text_ids",))
  videos = _rows(evaluator.videos, items, ("video_frames",))
  out = []
  for e in examples:
    shown = [
      {
        "frames": _spread(videos[i]["video_frames"]),
        "right": i in e["true"],
        "score": float(score),
      }
      for i, score in zip(e["ranked"][:best], e["scores"], strict=False)
      if i in videos
    ]
    query = tokeniser.decode(texts[e["query"]]["text_ids"].tolist())
    out.append({"query": query, "rank": int(e["rank"]), "items": shown})
  return out


def _spread(frames: np.ndarray, count: int = 3) -> np.ndarray:
  at = np.linspace(0, len(frames) - 1, count).round().astype(int)
  return frames[at]
