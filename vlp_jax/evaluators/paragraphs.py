"""Paragraph retrieval: all sentences of a video together find it.

The protocol of ActivityNet Captions and DiDeMo joins the sentences before they are
encoded; the readers do that (`unit=paragraph`), and `evaluators.retrieval` ranks the
result. Where a text tower is too short for a paragraph, this evaluator encodes the
sentences one by one and averages them.
"""

import numpy as np

from vlp_jax.evaluators import collect, retrieval


class Evaluator(retrieval.Evaluator):
  """`retrieval.Evaluator` with one query for all texts of equal `relevance`.

  Metrics, other arguments and ties as there; a query's example_id is that of its first
  sentence.
  """

  def __init__(self, apply, texts, videos, **hyper):
    super().__init__(apply, texts, videos, **hyper)
    self.embed_sentences = self.embed_texts
    self.embed_texts = self._paragraphs

  def _paragraphs(self, variables, batches):
    out = self.embed_sentences(variables, batches)
    embed, where = out[self.outputs[0]], out.pop("text_where", None)
    of = out.get("relevance", out["example_id"])
    if embed.ndim == 3 and where is not None:  # several texts a row
      row, k = np.nonzero(where)
      embed, of = embed[row, k], of[row]
      out = {name: x[row] for name, x in out.items()}
    if embed.ndim != 2 or of.ndim != 1:
      raise ValueError(
        f"{self.outputs[0]} {embed.shape} with relevance {of.shape}; a sentence is of "
        "one video."
      )
    groups = collect.group_mean(embed, of)
    found = {k: x[groups.first] for k, x in out.items()}
    return found | {self.outputs[0]: groups.values, "relevance": groups.ids}
