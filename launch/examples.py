"""Examples with pictures for a report: of retrieval, and where a sound comes from."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlp_jax import heat_maps
from vlp_jax.evaluators import collect, sounding_object


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
  texts = collect.rows(evaluator.texts, {e["query"] for e in examples}, ("text_ids",))
  videos = collect.rows(evaluator.videos, items, ("video_frames",))
  out = []
  for e in examples:
    shown = [
      {
        "frames": spread(videos[i]["video_frames"]),
        "right": i in e["true"],
        "score": float(score),
      }
      for i, score in zip(e["ranked"][:best], e["scores"], strict=False)
      if i in videos
    ]
    query = tokeniser.decode(texts[e["query"]]["text_ids"].tolist())
    out.append({"query": query, "rank": int(e["rank"]), "items": shown})
  return out


def spread(frames: np.ndarray, count: int = 3) -> np.ndarray:
  """The first frame, the last one, and some between."""
  at = np.linspace(0, len(frames) - 1, count).round().astype(int)
  return frames[at]


def of_sounding_object(evaluator: sounding_object.Evaluator) -> list[dict]:
  """`report.write`'s pictures of an evaluator that has run: frame, map and box."""
  wanted = {e["example_id"] for e in evaluator.examples}
  found = collect.rows(evaluator.batches, wanted, ("video_frames",))
  out = []
  for e in evaluator.examples:
    frame = found[e["example_id"]]["video_frames"][e["frame"]]
    scale = max(192 // len(frame), 1)
    drawn = heat_maps.overlay(
      frame, e["map"], box=e["box"], peak=e["peak"], scale=scale
    )
    plain = frame.repeat(scale, 0).repeat(scale, 1)
    told = "the peak lies in the box" if e["right"] else "the peak misses the box"
    out.append(
      {
        "caption": f"Clip {e['example_id']}",
        "verdict": told,
        "right": e["right"],
        "frames": np.stack([plain, drawn]),
      }
    )
  return out


def pictures(evaluators: Mapping[str, Any]) -> list[dict]:
  """Pictures of all evaluators that have some."""
  return [
    picture
    for evaluator in evaluators.values()
    if isinstance(evaluator, sounding_object.Evaluator) and evaluator.examples
    for picture in of_sounding_object(evaluator)
  ]
