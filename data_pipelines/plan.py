"""The order of examples as a pure function: numpy only, the same on every host.

A plan maps (seed, window) to all batches of that window, each (rung, ids). A ladder is
a list of rungs (length, rows): few static shapes for examples of many lengths, chosen
for the data set by dynamic programming. Packing is the other way: rows of one length
that hold several examples each. Because nothing is drawn while running, a position is
two integers (window, batch), and any position is reached at once.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vlp_jax.errors import UserError

VERSION = 1  # of the order: a change here makes saved positions void
NONE = -1  # the id of a row without an example
_ROUNDS = 6
_DRAW_ORDER, _DRAW_SPARES = 0, 1  # streams of random numbers of a window
_OPEN = 64  # rows that a packed window keeps open
_SORTED = 128  # neighbours of the order that are packed long ones first
_TRIED = 16  # examples drawn for the spares of a segment


class Rung(NamedTuple):
  """One static shape: `length` tokens in each of `rows` rows of the global batch."""

  length: int
  rows: int


def _mix(x):
  """SplitMix64's finaliser on uint64 arrays."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def permute(places: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
  """ids [k] int64 at `places` [k] of a pseudo-random permutation of range(n).

  A Feistel network over the next power of four, walked until it falls into range
  (fewer than four steps on average): O(1) for any place, nothing is stored.
  """
  half = np.uint64(max(1, ((max(n, 2) - 1).bit_length() + 1) // 2))
  low = np.uint64((1 << int(half)) - 1)
  words = np.random.SeedSequence((seed, epoch)).generate_state(_ROUNDS, np.uint64)

  def shuffle(x):
    left, right = x >> half, x & low
    for word in words:
      left, right = right, left ^ (_mix(right + word) & low)
    return left << half | right

  x = shuffle(np.asarray(places).astype(np.uint64))
  while (out := x >= n).any():
    x[out] = shuffle(x[out])
  return x.astype(np.int64)


def choose_lengths(
  lengths: np.ndarray, *, max_rungs: int = 8, step: int = 8
) -> list[int]:
  """At most `max_rungs` rung lengths with the fewest padded tokens.

    minimise  sum_i  min { r in rungs : r >= lengths_i }

  over multiples of `step`, by dynamic programming over the sorted candidates. Of equal
  choices the one with the fewest rungs.
  Args:
    lengths: [N] int, tokens of each example, N > 0.
  Returns: ascending lengths; the last holds the longest example.
  """
  up = -(-np.maximum(lengths, 1) // step) * step
  sizes, counts = np.unique(up, return_counts=True)  # [C]
  total = np.concatenate([[0], np.cumsum(counts)])  # [C + 1]
  # cost[j]: the first j candidates, the last rung being candidate j - 1.
  cost = np.full(len(sizes) + 1, np.inf)
  cost[0] = 0
  best, paths = (np.inf, []), {0: []}
  for _ in range(max_rungs):
    new, new_paths = np.full_like(cost, np.inf), {}
    for j in range(1, len(sizes) + 1):
      options = cost[:j] + (total[j] - total[:j]) * sizes[j - 1]
      i = int(options.argmin())
      if np.isfinite(options[i]):
        new[j], new_paths[j] = options[i], [*paths[i], int(sizes[j - 1])]
    cost, paths = new, new_paths
    if cost[-1] < best[0]:
      best = cost[-1], paths[len(sizes)]
  return best[1]


def ladder(
  lengths: np.ndarray,
  tokens: int,
  *,
  multiple: int = 1,
  max_rungs: int = 8,
) -> tuple[Rung, ...]:
  """Rungs for a token budget of the global batch.

  Args:
    lengths: [N] int, tokens of each example.
    tokens: rows x length of any batch is at most this.
    multiple: number of data shards; rows are a multiple of it and of 8.
  Raises: UserError if the budget holds too few rows of the longest example.
  """
  unit = math.lcm(8, multiple)
  chosen = choose_lengths(lengths, max_rungs=max_rungs)
  if tokens < chosen[-1] * unit:
    raise UserError(
      f"input.tokens={tokens} holds {tokens // chosen[-1]} rows of the longest "
      f"example ({chosen[-1]} tokens); rows come in multiples of {unit}. Set it to at "
      f"least {chosen[-1] * unit}."
    )
  return tuple(Rung(size, tokens // size // unit * unit) for size in chosen)


def _split(n: int, parts: int, part: int) -> tuple[int, int]:
  """[low, high) of the part when n things are cut into nearly equal parts."""
  return n * part // parts, n * (part + 1) // parts


@dataclasses.dataclass(frozen=True)
class Plan:
  """All batches of all windows.

  With `full` (fixed rows, for losses over the batch) every batch has all its rows and
  no example twice: the last N mod rows of an epoch are dropped, others in each epoch,
  as the permutation differs. Without it each id comes exactly once an epoch: in each
  window an id goes to its smallest fitting rung, whole batches are cut, the remainder
  moves up a rung, and the last remainder is filled with NONE.

  Attributes:
    lengths: [N] int, tokens of each example; zeros for a single rung.
    rungs: ascending by length.
    seed: non-negative.
    full: see above; needs a single rung.
    per_window: batches of the rung with the most rows that a window holds at least,
      unless the epoch is smaller. More costs less padding and more memory.
  """

  lengths: np.ndarray
  rungs: Sequence[Rung]
  seed: int = 0
  full: bool = False
  per_window: int = 128

  def __post_init__(self):
    n, rows = len(self.lengths), max(r.rows for r in self.rungs)
    if self.seed < 0:
      raise UserError(f"seed is {self.seed}; it must not be negative.")
    if not n:
      raise UserError("the data source is empty after its filters.")
    if self.lengths.max() > self.rungs[-1].length:
      longest = int(self.lengths.max())
      raise ValueError(f"length {longest} is above the last rung {self.rungs[-1]}.")
    if self.full and (len(self.rungs) != 1 or n < rows):
      raise UserError(
        f"the source has {n} examples, fewer than one global batch of {rows} rows. "
        f"Set input.rows to at most {n}."
      )
    # A stable order by length: those that fit a rung are a prefix of it.
    object.__setattr__(self, "_by_length", np.argsort(self.lengths, kind="stable"))
    at = np.array([r.length for r in self.rungs])
    object.__setattr__(self, "_rung", np.searchsorted(at, self.lengths))
    fits = np.searchsorted(self.lengths[self._by_length], at, side="right")
    object.__setattr__(self, "_fits", fits)

  @property
  def windows(self) -> int:
    """Windows of an epoch; they are equal in size within one batch or one example."""
    rows = max(r.rows for r in self.rungs)
    return max(1, len(self.lengths) // (self.per_window * rows))

  def window(self, window: int) -> tuple[int, list[tuple[int, np.ndarray]]]:
    """(epoch, [(rung, ids [rows])]) of window 0, 1, 2, ...; ids may be NONE."""
    n = len(self.lengths)
    epoch, part = divmod(window, self.windows)
    if self.full:
      rows = self.rungs[0].rows
      low, high = (rows * x for x in _split(n // rows, self.windows, part))
    else:
      low, high = _split(n, self.windows, part)
    ids = permute(np.arange(low, high), n, self.seed, epoch)
    batches, left = [], ids[:0]
    for r, (_, rows) in enumerate(self.rungs):
      mine = np.concatenate([left, ids[self._rung[ids] == r]])
      cut = len(mine) // rows * rows
      batches += [(r, b) for b in mine[:cut].reshape(-1, rows)]
      left = mine[cut:]
    if len(left):
      pad = (0, self.rungs[-1].rows - len(left))
      batches.append((len(self.rungs) - 1, np.pad(left, pad, constant_values=NONE)))
    order = np.random.default_rng((self.seed, window, _DRAW_ORDER))
    return epoch, [batches[i] for i in order.permutation(len(batches))]

  def candidates(
    self, window: int, batch: int, rung: int, ids: np.ndarray, count: int = 4
  ) -> np.ndarray:
    """[rows, count]: the planned id, then spares that fit the rung; NONE rows stay.

    Spares differ from each other and from the batch as long as the source has enough
    examples, so that two damaged rows never get the same one.
    """
    rng = np.random.default_rng((self.seed, window, batch, _DRAW_SPARES))
    want, fits = len(ids) * (count - 1), int(self._fits[rung])
    drawn = (
      rng.permutation(fits) if fits < 4 * want else rng.integers(fits, size=2 * want)
    )
    pool = self._by_length[drawn]
    _, first = np.unique(pool, return_index=True)
    pool = pool[np.sort(first)]
    other = pool[~np.isin(pool, ids)]
    spares = np.resize(other if len(other) else pool, want).reshape(count - 1, -1).T
    table = np.concatenate([ids[:, None], spares], axis=1)
    table[ids == NONE] = NONE
    return table


@dataclasses.dataclass(frozen=True)
class Packed:
  """All batches of all windows, several examples a row; each comes once an epoch.

  The ids of a window go one by one into the open row that they fill best, of at most
  64; when none has room the oldest is closed. Of 128 neighbours the long ones come
  first: short ones fill what these leave. The last batch of a window is filled with
  rows of NONE.

  Attributes:
    sizes: [N, k] int, tokens of each example in each of k streams.
    room: [k], places that a row has for each stream.
    length: places of a row over all streams, at most the sum of `room`.
    rows: of the global batch.
    segments: examples that a row holds at most.
    seed, per_window: as in `Plan`.
  """

  sizes: np.ndarray
  room: Sequence[int]
  length: int
  rows: int
  segments: int
  seed: int = 0
  per_window: int = 128

  def __post_init__(self):
    if self.seed < 0:
      raise UserError(f"seed is {self.seed}; it must not be negative.")
    if not len(self.sizes):
      raise UserError("the data source is empty after its filters.")
    total = self.sizes.sum(1)
    if (self.sizes > np.asarray(self.room)).any() or total.max() > self.length:
      raise UserError(
        f"input.pack={self.length} is shorter than the longest example of "
        f"{int(total.max())} tokens. Set it to at least that."
      )
    object.__setattr__(self, "_total", total)
    object.__setattr__(self, "_by_length", np.argsort(total, kind="stable"))
    object.__setattr__(self, "_ranked", total[self._by_length])

  @property
  def windows(self) -> int:
    """Windows of an epoch; they are equal in size within one example."""
    batches = int(self._total.sum()) // (self.length * self.rows)
    return max(1, batches // self.per_window)

  def window(self, window: int) -> tuple[int, list[tuple[int, np.ndarray]]]:
    """(epoch, [(0, ids [rows, segments])]) of window 0, 1, 2, ...; ids may be NONE."""
    n = len(self.sizes)
    epoch, part = divmod(window, self.windows)
    places = np.arange(*_split(n, self.windows, part))
    packed = self._fill(permute(places, n, self.seed, epoch))
    count = -(-len(packed) // self.rows)
    table = np.full((count * self.rows, self.segments), NONE, np.int64)
    for row, ids in zip(table, packed, strict=False):
      row[: len(ids)] = ids
    batches = table.reshape(count, self.rows, self.segments)
    order = np.random.default_rng((self.seed, window, _DRAW_ORDER))
    return epoch, [(0, batches[i]) for i in order.permutation(count)]

  def _fill(self, ids) -> list[list[int]]:
    """Rows of ids, in the order in which they were closed."""
    chunk = np.arange(len(ids)) // _SORTED
    ids = ids[np.lexsort((-self._total[ids], chunk))]
    need = np.column_stack([self.sizes[ids], np.ones_like(ids), self._total[ids]])
    whole = np.array([*self.room, self.segments, self.length])
    left, rows, born = np.zeros((_OPEN, len(whole)), int), [], np.zeros(_OPEN, int)
    done = []
    for k, want in enumerate(need):
      fits = (left[: len(rows)] >= want).all(axis=1)
      if fits.any():
        at = int(np.where(fits, left[: len(rows), -1], self.length + 1).argmin())
      else:
        if len(rows) < _OPEN:
          at = len(rows)
          rows.append([])
        else:
          at = int(born.argmin())
          done.append(rows[at])
        rows[at], left[at], born[at] = [], whole, k
      rows[at].append(int(ids[k]))
      left[at] -= want
    return done + rows

  def candidates(
    self, window: int, batch: int, rung: int, ids: np.ndarray, count: int = 4
  ) -> np.ndarray:
    """[rows, segments, count]: the planned id, then spares that need no more places.

    Spares are distinct and not of the batch; where too few are found NONE stands for
    them, and a damaged example leaves its places empty.
    """
    rng = np.random.default_rng((self.seed, window, batch, _DRAW_SPARES))
    flat = ids.ravel()
    fits = np.searchsorted(self._ranked, self._total[flat], side="right")
    places = rng.random((len(flat), _TRIED)) * fits[:, None]
    drawn = self._by_length[places.astype(int)]
    ok = (self.sizes[drawn] <= self.sizes[flat][:, None]).all(axis=2)
    ok &= ~np.isin(drawn, flat) & (flat != NONE)[:, None]
    first = np.zeros(drawn.size, bool)
    first[np.unique(np.where(ok, drawn, NONE), return_index=True)[1]] = True
    ok &= first.reshape(ok.shape)
    best = np.argsort(~ok, axis=1, kind="stable")[:, : count - 1]
    take = lambda x: np.take_along_axis(x, best, axis=1)
    spares = np.where(take(ok), take(drawn), NONE)
    return np.concatenate([flat[:, None], spares], axis=1).reshape(*ids.shape, count)


class Slots:
  """Which task has step t, by rates and without state.

  Rates become whole slots of a period (largest remainder, at least one each), spread
  evenly over it. `task(t)` also gives the ordinal of the step among those of its task:
  0, 1, 2, ... without gap.
  """

  def __init__(self, rates: Sequence[float], period: int = 1000):
    rates = np.asarray(rates, np.float64)
    if not len(rates) or len(rates) > period or not (rates > 0).all():
      raise UserError(f"mixture rates {rates.tolist()} must be positive, <= {period}.")
    share = rates / rates.sum() * period
    count = np.maximum(np.floor(share).astype(int), 1)
    while count.sum() != period:
      more = 1 if count.sum() < period else -1
      gap = np.where((more > 0) | (count > 1), (share - count) * more, -np.inf)
      count[gap.argmax()] += more
    self.count, self.period = count, period
    where = np.concatenate([(np.arange(c) + 0.5) / c for c in count])
    who = np.repeat(np.arange(len(count)), count)
    rank = np.concatenate([np.arange(c) for c in count])
    order = np.lexsort((who, where))
    self.who, self.rank = who[order], rank[order]

  def task(self, t: int) -> tuple[int, int]:
    """(task, ordinal of this step among the task's)."""
    turn, place = divmod(t, self.period)
    k = int(self.who[place])
    return k, int(turn * self.count[k] + self.rank[place])
