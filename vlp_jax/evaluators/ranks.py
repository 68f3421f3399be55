"""Ranks of the right answers among many, in memory of one tile, and what they say.

The rank of a query is the number of wrong items that do not score strictly below its
best right one: ties and NaN are ahead of us, so a collapsed model has recall 0. Other
right items never stand in the way. This is `rank = #{j: s_ij > s_ii}` of the usual
scripts, which agree wherever there are no ties (they find ranks by equality of sorted
scores, and count a tied row several times).
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vlp_jax.metrics import Result

_ROUNDING = 1e-12  # of the largest product: a tie in real numbers is a tie here


class Products:
  """Scores q . v of a dual encoder, made tile by tile in float64."""

  def __init__(self, queries: np.ndarray, items: np.ndarray):
    if queries.ndim != 2 or items.ndim != 2 or queries.shape[1] != items.shape[1]:
      raise ValueError(
        f"embeddings of shapes {queries.shape} and {items.shape}; expected [n, D] and "
        "[m, D] with one D."
      )
    self.queries, self.items = queries, items
    self.shape, self._slack = (len(queries), len(items)), _rounding(queries, items)

  def tile(self, rows, columns) -> np.ndarray:
    """[rows, columns] float64; rows and columns are slices or int arrays."""
    q, v = self.queries[rows].astype(np.float64), self.items[columns].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # inf * 0: NaN, counted so
      return q @ v.T

  def pairs(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """[p] float64, the scores of single pairs."""
    q, v = self.queries[row].astype(np.float64), self.items[column].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
      return np.einsum("pd,pd->p", q, v)

  def slack(self) -> tuple[np.ndarray, np.ndarray]:
    """[n], [m]: differences that only the order of summation makes."""
    return self._slack


def _rounding(queries, items):
  norms = []
  for x in (queries, items):
    squares = np.einsum("nd,nd->n", x, x, dtype=np.float64)
    norms.append(np.sqrt(np.where(np.isfinite(squares), squares, 0.0)))
  q, v = norms
  return _ROUNDING * q * v.max(initial=0.0), _ROUNDING * v * q.max(initial=0.0)


class Table:
  """Scores that were made before, as a cross-encoder's: [n, m]."""

  def __init__(self, scores: np.ndarray):
    self.scores, self.shape = scores, scores.shape

  def tile(self, rows, columns) -> np.ndarray:
    return self.scores[rows][:, columns]

  def pairs(self, row, column) -> np.ndarray:
    return self.scores[row, column]

  def slack(self):
    return np.zeros(self.shape[0]), np.zeros(self.shape[1])


def best_ranks(
  scores: Products | Table, query: np.ndarray, item: np.ndarray, *, chunk: int = 2048
) -> tuple[np.ndarray, np.ndarray]:
  """Rank of the best right item of each query, and of the best query of each item.

  Args:
    scores: n queries against m items.
    query, item: [p] int, the right pairs, each once.
    chunk: rows and columns of a tile; memory is O(chunk^2 + n + m).
  Returns: [n] and [m] int64, counted from 0. Without a right partner: m and n.
  """
  n, m = scores.shape
  order = np.argsort(query, kind="stable")
  query, item = query[order], item[order]
  own = scores.pairs(query, item)
  own = np.where(np.isnan(own), -np.inf, own)
  best_q, best_i = np.full(n, -np.inf), np.full(m, -np.inf)
  np.maximum.at(best_q, query, own)
  np.maximum.at(best_i, item, own)
  slack_q, slack_i = scores.slack()
  bar_q, bar_i = best_q - slack_q, best_i - slack_i
  ahead_q, ahead_i = np.zeros(n, np.int64), np.zeros(m, np.int64)
  for r in range(0, n, chunk):
    rows = slice(r, min(r + chunk, n))
    mine = slice(*np.searchsorted(query, [rows.start, rows.stop]))
    for c in range(0, m, chunk):
      columns = slice(c, min(c + chunk, m))
      s = scores.tile(rows, columns)
      inside = (item[mine] >= c) & (item[mine] < columns.stop)
      at = query[mine][inside] - r, item[mine][inside] - c
      for bar, count, axis in (
        (bar_q[rows, None], ahead_q[rows], 1),
        (bar_i[None, columns], ahead_i[columns], 0),
      ):
        ahead = ~(s < bar)
        ahead[at] = False
        count += ahead.sum(axis=axis)  # a view: adds to the counts above
  return ahead_q, ahead_i


class Case(NamedTuple):
  """One gallery in one direction: `rank` [n] from 0, `positives` [n], `size` items."""

  rank: np.ndarray
  positives: np.ndarray
  size: int


def cases(
  scores: Products | Table,
  query: np.ndarray,
  item: np.ndarray,
  query_gallery: np.ndarray,
  item_gallery: np.ndarray,
  *,
  chunk: int = 2048,
) -> tuple[list[Case], list[Case]]:
  """Ranks of every gallery, queries over items and items over queries.

  Args: see `best_ranks`; galleries are [n] and [m] int, compared only within equal ids.
  Returns: two lists with a `Case` a gallery. Items that no query names (distractors)
    ask no question themselves; a query without an item does, and always misses.
  """
  forth, back = [], []
  for gallery in np.unique(np.concatenate([query_gallery, item_gallery])):
    rows = np.flatnonzero(query_gallery == gallery)
    columns = np.flatnonzero(item_gallery == gallery)
    inside = (query_gallery[query] == gallery) & (item_gallery[item] == gallery)
    i, j = np.searchsorted(rows, query[inside]), np.searchsorted(columns, item[inside])
    rank_i, rank_j = best_ranks(_Part(scores, rows, columns), i, j, chunk=chunk)
    num_i = np.bincount(i, minlength=len(rows))
    num_j = np.bincount(j, minlength=len(columns))
    if len(rows):
      forth.append(Case(rank_i, num_i, len(columns)))
    if num_j.any():
      back.append(Case(rank_j[num_j > 0], num_j[num_j > 0], len(rows)))
  return forth, back


class _Part:
  """Some rows and columns of scores, as scores."""

  def __init__(self, scores, rows, columns):
    self.scores, self.rows, self.columns = scores, rows, columns
    self.shape = len(rows), len(columns)

  def tile(self, rows, columns):
    return self.scores.tile(self.rows[rows], self.columns[columns])

  def pairs(self, row, column):
    return self.scores.pairs(self.rows[row], self.columns[column])

  def slack(self):
    q, v = self.scores.slack()
    return q[self.rows], v[self.columns]


def miss(size: int, positives: int) -> np.ndarray:
  """Probability that random order has no right item among the first r, r = 0..size.

  C(size - positives, r) / C(size, r), exactly, as a running product: [size + 1].
  """
  i = np.arange(size)
  return np.concatenate(
    [[1.0], np.cumprod(np.maximum(size - positives - i, 0) / (size - i))]
  )


def results(
  name: str, found: list[Case], *, ks=(1, 5, 10), protocol: str = ""
) -> Iterator[tuple[str, Result]]:
  """`<name>_recall@k` for every k, then `<name>_median_rank` (counted from 1).

  With several galleries the value is the mean over galleries, the interval that of the
  queries of all. Chance is exact for every number of right items.
  """
  num = sum(len(case.rank) for case in found)
  lost = sum(int((case.positives == 0).sum()) for case in found)
  sizes = sorted({case.size for case in found})
  told = f"{num} queries over {' or '.join(map(str, sizes[:4]))} items"
  told += f" in {len(found)} galleries, averaged" if len(found) > 1 else ""
  told += (
    ", best of several right ones"
    if any((case.positives > 1).any() for case in found)
    else ""
  )
  told += f", {lost} without a right item count as missed" if lost else ""
  told += "; ties count against the model"
  protocol = f"{protocol}; {told}" if protocol else told
  guesses = [_guess(case) for case in found]
  for k in ks:
    hits = [(case.rank < k) & (case.positives > 0) for case in found]
    value = float(np.mean([h.mean() for h in hits]))
    chance = np.mean([g[min(k, len(g) - 1)] for g in guesses])
    every = Result.of(np.concatenate(hits), chance=chance, protocol=protocol)
    yield f"{name}_recall@{k}", every._replace(value=value)
  ranks = np.concatenate([case.rank for case in found]) + 1
  yield (
    f"{name}_median_rank",
    Result(
      value=float(np.mean([np.median(case.rank) + 1 for case in found])),
      chance=float(np.mean([_median(g) for g in guesses])),
      n=num,
      ci=_median_ci(ranks),
      protocol=protocol,
    ),
  )


def _guess(case):
  """P(a right item is among the first r) in random order, mean of queries: [m + 1]."""
  values, counts = np.unique(case.positives, return_counts=True)
  curves = np.stack([1.0 - miss(case.size, int(p)) for p in values])
  return counts @ curves / counts.sum()


def _median(guess):
  """Median of the rank (from 1) whose distribution function is `guess`."""
  low = np.searchsorted(guess, 0.5 - 1e-9)
  high = np.searchsorted(guess, 0.5 + 1e-9)
  return float(low + high) / 2


def _median_ci(ranks):
  """Half of the 95 % order-statistic interval of the median; nan below 6 queries."""
  n = len(ranks)
  if n < 6:
    return math.nan
  ranks, half = np.sort(ranks), 1.96 * math.sqrt(n) / 2
  low, high = math.floor(n / 2 - half), math.ceil(n / 2 + half)
  return float(ranks[min(high, n - 1)] - ranks[max(low, 0)]) / 2


def top(
  scores: Products | Table, row: int, columns: np.ndarray, right: np.ndarray, num: int
) -> tuple[np.ndarray, np.ndarray, int]:
  """One query against `columns`, of which `right` are right.

  Returns: the `num` best columns, NaN last, with their scores; and the rank from 1 of
    the best right one, as `best_ranks` has it.
  """
  s = scores.tile(np.array([row]), columns)[0]
  order = np.argsort(-np.where(np.isnan(s), -np.inf, s), kind="stable")[:num]
  at = np.flatnonzero(np.isin(columns, right))
  part = _Part(scores, np.array([row]), columns)
  rank = best_ranks(part, np.zeros_like(at), at)[0][0]
  return columns[order], s[order], int(rank) + 1
