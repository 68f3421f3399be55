"""Multiple choice by similarity: which of a row's texts is of its video.

The MSR-VTT and LSMDC multiple-choice tests: five captions, one of them the clip's own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from vlp_jax.evaluators import collect
from vlp_jax.metrics import Result


class Evaluator:
  """Accuracy of the most similar choice.

  Args:
    apply: of a dual encoder; see `collect.Forward`.
    batches: re-iterable; video, choice_ids and choice_mask [B, C, L] (a choice without
      a word is none), label [B], -1 where unknown (not counted). Rows of equal
      group_id are windows of one clip, with the same choices: their products are
      averaged.
    methods, outputs: what encodes video and texts; texts are given as narrations.
    normalise: compare cosines.
  """

  def __init__(
    self,
    apply: Callable,
    batches: Iterable[Mapping],
    *,
    methods: tuple[str | None, str | None] = ("encode_video", "encode_text"),
    outputs: tuple[str, str] = ("video_embed", "text_embed"),
    normalise: bool = False,
  ):
    self.batches, self.outputs, self.normalise = batches, outputs, normalise

    def both(variables, batch, *, rng=None, train=False, method=None):
      plain = {k: x for k, x in batch.items() if not k.startswith(("choice", "text_"))}
      words = {f"narration_{k}": batch[f"choice_{k}"] for k in ("ids", "mask")}
      video, _ = apply(variables, plain, train=train, method=methods[0])
      text, _ = apply(variables, plain | words, train=train, method=methods[1])
      where = batch["choice_mask"].any(-1)
      found = {outputs[0]: video[outputs[0]], outputs[1]: text[outputs[1]]}
      return found | {"choice_where": where}, {}

    self.forward = collect.Forward(
      both, (*outputs, "choice_where", "label"), optional=("group_id",)
    )

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`accuracy`; chance is one over the choices of each row."""
    out = self.forward(variables, self.batches)
    video, text = (out[k].astype(np.float64) for k in self.outputs)
    label, where = out["label"], out["choice_where"]
    if video.ndim != 2 or text.ndim != 3 or len(label.shape) != 1:
      raise ValueError(
        f"{self.outputs[0]} {video.shape}, {self.outputs[1]} {text.shape}, label "
        f"{label.shape}; expected [B, D], [B, C, D] and [B]."
      )
    known = label >= 0
    if not known.any() or label.max() >= where.shape[1]:
      raise ValueError(
        f"labels lie in [{label.min()}, {label.max()}] of {where.shape[1]}."
      )
    if not where[known, label[known]].all():
      raise ValueError("the right choice of a row has no word.")
    if self.normalise:
      video, text = (
        x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-30)
        for x in (video, text)
      )
    with np.errstate(invalid="ignore", over="ignore"):
      scores = np.einsum("bd,bcd->bc", video, text)[known]
      scale = np.abs(video).max() * np.abs(text).max() * video.shape[1]
    group_id = out["group_id"][known] if "group_id" in out else None
    groups = collect.group_mean(scores, group_id)
    right, where = label[known][groups.first], where[known][groups.first]
    if (right[groups.of] != label[known]).any():
      raise ValueError("rows of one group_id differ in label.")
    at = np.arange(len(right))
    # Differences that only the order of summation makes are ties, and ties miss.
    slack = 1e-12 * scale if np.isfinite(scale) else 0.0
    ahead = ~(groups.values < (groups.values[at, right] - slack)[:, None]) & where
    ahead[at, right] = np.isnan(groups.values[at, right])
    counts = where.sum(axis=1)
    told = f"{counts.min()} to {counts.max()} choices; ties count against the model"
    chance = float((1 / counts).mean())
    yield "accuracy", Result.of(~ahead.any(axis=1), chance=chance, protocol=told)
