"""Soft accuracy of answers to questions (VQA v2, and SNLI-VE or GQA prepared like it).

  accuracy = mean_i t_i,a(i)     a(i) the answer with the highest logit

With the scores min(1, 0.3 k) of an answer that k of ten people gave, this is the
official accuracy but for answers beyond the list, whose score is 0 as in the published
code of UNITER (arXiv 1909.11740): a question none of whose answers is listed is a miss.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import jax.numpy as jnp
import numpy as np

from vlp_jax.evaluators import collect
from vlp_jax.metrics import Result, wide


class Evaluator:
  """Mean score of the best answers.

  Args:
    apply: of the model; see `collect.Forward`.
    batches: re-iterable, each question a row.
    output: [B, A] logits of the model. answers: batch key, [B, A] soft scores.
    method: of the model instead of its call: "pooled" gives the logits for less work.
  Only two numbers of a row come to the host, not its A scores.
  """

  def __init__(
    self,
    apply: Callable,
    batches: Iterable[Mapping],
    *,
    output: str = "answer_logits",
    answers: str = "answers",
    method: str | None = None,
  ):
    def scored(variables, batch, *, rng=None, train=False, method=None):
      out, _ = apply(variables, batch, train=False, method=method)
      logits, target = wide(out[output]), wide(batch[answers])
      if logits.shape != target.shape:
        raise ValueError(
          f"{output} {logits.shape} and {answers} {target.shape} differ: set "
          "model.num_answers to num_answers of dataset_info.json."
        )
      # Of equal logits, and of NaN, the worst answer counts.
      best = ~(logits < logits.max(axis=-1, keepdims=True))
      score = jnp.where(best, target, jnp.inf).min(axis=-1)
      return {"score": score, "guess": target.mean(axis=-1)}, {}

    self.batches = batches
    self.forward = collect.Forward(scored, ("score", "guess"), method=method)

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`accuracy`; chance is an answer drawn from the list."""
    out = self.forward(variables, self.batches)
    told = "soft scores; ties count against the model"
    chance = float(np.mean(out["guess"], dtype=np.float64))
    yield "accuracy", Result.of(out["score"], chance=chance, protocol=told)
