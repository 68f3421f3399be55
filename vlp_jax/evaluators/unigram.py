"""The unigram baseline of masked language modelling: always the commonest word.

A model whose masked-word accuracy is not above it has learnt word frequencies at most.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from vlp_jax.evaluators import collect
from vlp_jax.metrics import Result
from vlp_jax.vocab import Vocab


class Evaluator:
  """Share of test words that are the commonest word of the training texts.

  Args:
    apply: not called; every evaluator has it.
    train, test: re-iterables with text_ids, text_mask [B, L] (and example_mask).
    vocab: its special ids are not words.
  """

  def __init__(
    self,
    apply: Callable,
    train: Iterable[Mapping],
    test: Iterable[Mapping],
    *,
    vocab: Vocab,
  ):
    self.train, self.test, self.vocab = train, test, vocab

  def _counts(self, batches):
    counts = np.zeros(self.vocab.size, np.int64)
    for rows in batches:
      keys = ("text_ids", "text_mask", "example_mask")
      batch = collect.fetch({k: rows[k] for k in keys if k in rows})
      ids, where = batch["text_ids"], batch["text_mask"]
      counts += np.bincount(ids[where], minlength=self.vocab.size)
    counts[list(self.vocab.special_ids)] = 0
    return counts

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`accuracy`, over all words of the test texts."""
    best = int(self._counts(self.train).argmax())
    test = self._counts(self.test)
    n, value = int(test.sum()), test[best] / max(test.sum(), 1)
    ci = 1.96 * float(np.sqrt(value * (1 - value) / max(n, 1)))
    yield (
      "accuracy",
      Result(float(value), 1 / self.vocab.size, n, ci, f"word id {best}"),
    )
