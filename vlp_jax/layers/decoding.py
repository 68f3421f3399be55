"""Writing token by token: greedy and beam search with static shapes, inside one jit.

A model is a function `step(state, ids [N]) -> (logits [N, V], state)`: the tokens
written last, and the scores of the next ones. All rows of a batch advance together, up
to `max_length` tokens, until every row is done; N is B, or B x beam with the beams of a
row behind each other. The score of a text Y of n tokens, its end included, is

    log P(Y) / lp(n),  lp(n) = ((5 + n) / 6)^alpha   ("gnmt", arXiv 1609.08144, eq. 14)
                       lp(n) = n^alpha               ("plain")

with alpha = 0 the plain sum. Log-probabilities are the model's own: what the rules
forbid is left out without making up for it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vlp_jax.layers import writing_rules

Step = Callable[[Any, jax.Array], tuple[jax.Array, Any]]
PENALTIES = ("gnmt", "plain")


@dataclasses.dataclass(frozen=True)
class Search:
  """How to search; hashable, so that it can be closed over.

  Attributes:
    max_length: L, tokens of a text with its end.
    beam: 1 is greedy.
    alpha, penalty: of the length, see the module's header.
    min_length: tokens before a text may end.
    no_repeat: no run of this many tokens comes twice; 0 for no such rule.
    immediate: whether a token may follow itself.
    repetition: what the scores of tokens that were written are divided by (multiplied
      with where negative), 1 for nothing (arXiv 1909.05858, sec. 4.1).
  """

  max_length: int
  beam: int = 1
  alpha: float = 0.0
  penalty: str = "gnmt"
  min_length: int = 0
  no_repeat: int = 0
  immediate: bool = True
  repetition: float = 1.0

  def __post_init__(self):
    if self.max_length < 1 or self.beam < 1:
      raise ValueError(f"max_length and beam are 1 or more: {self}.")
    if not 0 <= self.min_length < self.max_length:
      raise ValueError(f"min_length leaves no place for the end: {self}.")
    if self.alpha < 0 or self.no_repeat < 0 or self.repetition <= 0:
      raise ValueError(f"alpha and no_repeat are not negative, repetition > 0: {self}.")
    if self.penalty not in PENALTIES:
      raise ValueError(f"penalty {self.penalty!r}; one of {', '.join(PENALTIES)}.")

  def length_penalty(self, n) -> jax.Array:
    """lp(n), float32."""
    n = jnp.asarray(n, jnp.float32)
    return ((5.0 + n) / 6.0 if self.penalty == "gnmt" else n) ** self.alpha


class Tokens(NamedTuple):
  """begin: what a text starts from, not written; end: what ends it; pad: behind.

  banned: ids that are never written (the end may be among them: it is, as an end).
  """

  begin: int
  end: int
  pad: int = 0
  banned: tuple[int, ...] = ()


class Written(NamedTuple):
  """ids [B, L] int32 with the end, pad behind; mask [B, L] bool; scores [B] float32.

  A text that found no end within L tokens has none.
  """

  ids: jax.Array
  mask: jax.Array
  scores: jax.Array


def gather(state: Any, index: jax.Array) -> Any:
  """Rows index [N] of all leaves of a state."""
  return jax.tree.map(lambda x: jnp.take(x, index, axis=0), state)


def write(
  step: Step,
  state: Any,
  rows: int,
  tokens: Tokens,
  search: Search,
  *,
  where: jax.Array | None = None,
  reorder: Callable[[Any, jax.Array], Any] = gather,
) -> Written:
  """The best texts that the search finds, one a row.

  Args:
    step: see the module's header; it is traced once.
    state: for N = rows x beam rows, before any token.
    where: [B] bool, rows that want a text; the others get none (mask False
      throughout, score 0), and nobody waits for them.
    reorder: (state, index [N] int32) -> state whose row i was row index[i].
  """
  where = jnp.ones(rows, bool) if where is None else where
  if search.beam == 1:
    out = greedy(step, state, tokens, search, where)
  else:
    out = beam_search(step, state, tokens, search, where, reorder)
  mask = out.mask & where[:, None]
  ids = jnp.where(mask, out.ids, tokens.pad)
  return Written(ids, mask, jnp.where(where, out.scores, 0.0))


class _Greedy(NamedTuple):
  t: jax.Array
  ids: jax.Array  # [B, L]
  total: jax.Array  # [B], log-probability so far
  length: jax.Array  # [B], tokens so far
  done: jax.Array  # [B]
  last: jax.Array  # [B]
  state: Any


def greedy(
  step: Step, state: Any, tokens: Tokens, search: Search, where: jax.Array
) -> Written:
  """The likeliest token at every place; arguments as in `write`."""
  rows, size = len(where), search.max_length
  zeros = jnp.zeros(rows, jnp.int32)
  start = _Greedy(
    jnp.zeros((), jnp.int32),
    jnp.full((rows, size), tokens.pad, jnp.int32),
    jnp.zeros(rows, jnp.float32),
    zeros,
    ~where,
    jnp.full(rows, tokens.begin, jnp.int32),
    state,
  )

  def body(s):
    logits, state = step(s.state, s.last)
    logp = writing_rules.log_probs(logits, s.ids, s.t, tokens, search)
    token = logp.argmax(axis=-1).astype(jnp.int32)
    own = jnp.take_along_axis(logp, token[:, None], axis=1)[:, 0]
    token = jnp.where(s.done, tokens.pad, token)
    return _Greedy(
      s.t + 1,
      s.ids.at[:, s.t].set(token),
      jnp.where(s.done, s.total, s.total + own),
      s.length + ~s.done,
      s.done | (token == tokens.end),
      token,
      state,
    )

  goes_on = lambda s: (s.t < size) & ~s.done.all()
  out = jax.lax.while_loop(goes_on, body, start)
  mask = jnp.arange(size) < out.length[:, None]
  scores = out.total / search.length_penalty(jnp.maximum(out.length, 1))
  return Written(out.ids, mask, scores)


class _Beams(NamedTuple):
  t: jax.Array
  ids: jax.Array  # [B, beam, L], without an end as yet
  total: jax.Array  # [B, beam], log-probability so far, -inf where there is no beam
  best: jax.Array  # [B, L], the best text that ended
  score: jax.Array  # [B], its score, -inf where none has ended
  length: jax.Array  # [B], its tokens
  state: Any


def beam_search(
  step: Step,
  state: Any,
  tokens: Tokens,
  search: Search,
  where: jax.Array,
  reorder: Callable[[Any, jax.Array], Any] = gather,
) -> Written:
  """Beam search; arguments as in `write`.

  Of the continuations of all beams of a row, by log-probability, those among the best
  `beam` that are ends are done, and the best `beam` that are none go on. A row is
  done when none that goes on can come to a better score than its best done one; one
  without any after L tokens takes the likeliest text so far.
  """
  rows, k, size = len(where), search.beam, search.max_length
  start = _Beams(
    jnp.zeros((), jnp.int32),
    jnp.full((rows, k, size), tokens.pad, jnp.int32),
    jnp.where(jnp.arange(k) == 0, 0.0, -jnp.inf) * jnp.ones((rows, 1)),
    jnp.full((rows, size), tokens.pad, jnp.int32),
    jnp.full(rows, -jnp.inf),
    jnp.zeros(rows, jnp.int32),
    state,
  )

  def body(s):
    last = s.ids[:, :, jnp.maximum(s.t - 1, 0)].reshape(-1)
    last = jnp.where(s.t == 0, tokens.begin, last)
    logits, state = step(s.state, last)
    seen = s.ids.reshape(-1, size)
    logp = writing_rules.log_probs(logits, seen, s.t, tokens, search)
    vocab = logp.shape[-1]
    if vocab <= 2:
      raise ValueError(f"a beam search needs more than {vocab} tokens.")
    total = s.total[:, :, None] + logp.reshape(rows, k, vocab)
    # No beam has more than one end among its continuations: 2 beam are enough.
    total, at = jax.lax.top_k(total.reshape(rows, -1), 2 * k)
    parent, token = at // vocab, (at % vocab).astype(jnp.int32)  # [B, 2 beam]
    ids = jnp.take_along_axis(s.ids, parent[..., None], axis=1)
    ids = ids.at[:, :, s.t].set(token)
    ends = token == tokens.end

    score = total / search.length_penalty(s.t + 1)
    score = jnp.where(ends & (jnp.arange(2 * k) < k), score, -jnp.inf)
    first = score.argmax(axis=1)[:, None]
    new = jnp.take_along_axis(score, first, axis=1)[:, 0]
    better = new > s.score
    text = jnp.take_along_axis(ids, first[..., None], axis=1)[:, 0]

    kept = jnp.where(ends, -jnp.inf, total)
    kept, order = jax.lax.top_k(kept, k)
    ids = jnp.take_along_axis(ids, order[..., None], axis=1)
    parent = jnp.take_along_axis(parent, order, axis=1)
    index = (jnp.arange(rows)[:, None] * k + parent).reshape(-1)
    return _Beams(
      s.t + 1,
      ids,
      kept,
      jnp.where(better[:, None], text, s.best),
      jnp.where(better, new, s.score),
      jnp.where(better, s.t + 1, s.length),
      reorder(state, index.astype(jnp.int32)),
    )

  def goes_on(s):
    # A text only loses probability; at the full length it divides by the most.
    hope = s.total[:, 0] / search.length_penalty(size)
    done = ~where | ((s.score >= hope) & (s.score > -jnp.inf))
    return (s.t < size) & ~done.all()

  out = jax.lax.while_loop(goes_on, body, start)
  ended = out.score > -jnp.inf
  length = jnp.where(ended, out.length, size)
  ids = jnp.where(ended[:, None], out.best, out.ids[:, 0])
  rest = out.total[:, 0] / search.length_penalty(size)
  mask = jnp.arange(size) < length[:, None]
  return Written(ids, mask, jnp.where(ended, out.score, rest))
