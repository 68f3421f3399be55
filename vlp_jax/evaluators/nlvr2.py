"""Accuracy and consistency of statements about two images (NLVR2, arXiv 1811.00491).

Consistency is the share of sentences that are judged right of all their pairs of
images, as in the official script.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from vlp_jax.evaluators import collect
from vlp_jax.metrics import Result


class Evaluator:
  """Of true (1) and false (0).

  Args:
    apply: of the model; see `collect.Forward`.
    batches: re-iterable; each statement about a pair of images a row.
    output: [B, 2] logits of the model. label: batch key, [B] int, -1 where unknown.
    sentence: batch key, [B] int; rows of one sentence agree in it. "" leaves the
      consistency out.
    method: of the model instead of its call: "pooled" gives the logits for less work.
  """

  def __init__(
    self,
    apply: Callable,
    batches: Iterable[Mapping],
    *,
    output: str = "label_logits",
    label: str = "label",
    sentence: str = "label_sentence",
    method: str | None = None,
  ):
    self.batches, self.output, self.label = batches, output, label
    self.sentence = sentence
    more = (sentence,) if sentence else ()
    self.forward = collect.Forward(apply, (output, label), method=method, optional=more)

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`accuracy`, `consistency`; chance is one half a statement."""
    out = self.forward(variables, self.batches)
    logits, label = out[self.output], out[self.label]
    if logits.shape != (len(label), 2) or label.max() > 1:
      raise ValueError(
        f"{self.output} {logits.shape} and {self.label} {label.shape} up to "
        f"{label.max()}; expected [B, 2] and 0 or 1."
      )
    if self.sentence and self.sentence not in out:
      raise ValueError(
        f"no {self.sentence} in the batches: prepare the data again, they are older "
        "than it, or set sentence=''."
      )
    known = label >= 0
    logits, label = logits[known], label[known]
    at = np.arange(len(label))
    right = logits[at, label] > logits[at, 1 - label]  # a tie, or a NaN, is wrong
    told = "ties count against the model"
    yield "accuracy", Result.of(right, chance=0.5, protocol=told)
    if self.sentence:
      of = np.unique(out[self.sentence][known], return_inverse=True)[1]
      count = np.bincount(of)
      every = np.bincount(of, weights=~right) == 0
      chance = float((0.5**count).mean())
      told = f"sentences of {count.min()} to {count.max()} pairs, all of them right"
      yield "consistency", Result.of(every, chance=chance, protocol=told)
