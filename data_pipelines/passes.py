"""Every row of a task in order, once or in several passes, from any batch on.

What probes extract features from: with `passes=0` the rows of an evaluation, and with
more the training form of the task (windows, crops and mirror images drawn anew in each
pass), yet every example once a pass and in order. The draws depend on pass and example
only, so that a run that was stopped goes on with the same rows.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from data_pipelines import batches, plan


class Passes:
  """Batches from number `start` on; the last one is filled with rows that do not count.

  Args:
    input: of `batches.build`, with `rows`.
    passes: 0 for the rows of an evaluation.

  Attributes:
    num_batches: in all passes, each padded to full batches of `rows` rows.
    fingerprint: of the data and of which rows are read.
  """

  def __init__(
    self,
    input: Mapping,
    *,
    vocab=None,
    passes: int = 0,
    seed: int = 0,
    host: int = 0,
    num_hosts: int = 1,
  ):
    self._hosts = dict(host=host, num_hosts=num_hosts)
    self._source = batches._open(
      input, vocab=vocab, train=passes > 0, seed=seed, **self._hosts
    )
    (rung,) = self._source.rungs[-1:]
    self.rows, self._rung = rung.rows, len(self._source.rungs) - 1
    self.num_examples = len(self._source.lengths)
    self._a_pass = -(-self.num_examples // self.rows)
    self.num_batches = self._a_pass * max(passes, 1)
    fixed = self._source.fixed(seed)
    self.fingerprint = f"{fixed['data']}-{fixed['plan']}-{passes}-{seed}"

  def __call__(self, start: int = 0, stop: int | None = None) -> Iterator[dict]:
    """The batches start..stop-1 (to the end) of this host, by the batch contract."""
    stop = self.num_batches if stop is None else min(stop, self.num_batches)
    for planned, made in self._source.reader.stream(self._planned(start, stop)):
      yield self._source.finish(planned, made)

  def _planned(self, start, stop):
    host, num = self._hosts["host"], self._hosts["num_hosts"]
    for k in range(start, stop):
      epoch, part = divmod(k, self._a_pass)
      ids = np.arange(part * self.rows, (part + 1) * self.rows)
      ids = np.where(ids < self.num_examples, ids, plan.NONE)
      mine = np.split(ids[:, None], num)[host]
      at = {"window": 0, "batch": k, "epoch": epoch, "rung": self._rung}
      yield at | {"candidates": mine}
