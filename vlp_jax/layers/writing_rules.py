"""What a text may not go on with, and the log-probabilities that are left.

Plain functions of [N, V] scores and [N, L] tokens, of which the first t are written.
"""

import jax
import jax.numpy as jnp

from vlp_jax.metrics import wide


def seen(ids: jax.Array, t: jax.Array, vocab: int) -> jax.Array:
  """[N, V] bool, tokens among the first t of ids [N, L]."""
  written = jnp.broadcast_to(jnp.arange(ids.shape[1]) < t, ids.shape)
  return _scatter(ids, written, vocab)


def repeats(ids: jax.Array, t: jax.Array, vocab: int, n: int) -> jax.Array:
  """[N, V] bool, tokens that would make the last n tokens a run that stood before.

  With n = 1 every token that was written.
  """
  length = ids.shape[1]
  if n > length:
    return jnp.zeros((len(ids), vocab), bool)
  windows = length - n + 1
  end = jnp.arange(n - 1, length)  # [windows], the last place of each
  same = jnp.broadcast_to(end < t, (len(ids), windows))
  for j in range(n - 1):
    # Clamped where t < n - 1; there no window has ended either.
    own = jax.lax.dynamic_slice_in_dim(ids, t - (n - 1) + j, 1, axis=1)
    same &= ids[:, j : j + windows] == own
  return _scatter(ids[:, n - 1 :], same, vocab)


def _scatter(ids, where, vocab):
  rows = jnp.arange(len(ids))[:, None]
  return jnp.zeros((len(ids), vocab), bool).at[rows, ids].max(where)


def log_probs(logits: jax.Array, ids: jax.Array, t: jax.Array, tokens, search):
  """Log-probabilities [N, V] float32 of the next token, -inf where it may not come.

  Where the rules leave nothing, the text ends.

  Args:
    logits: [N, V]; ids: [N, L], t [] tokens of them written.
    tokens, search: `decoding.Tokens` and `decoding.Search`.
  """
  logits, vocab = wide(logits), logits.shape[-1]
  if search.repetition != 1.0:
    lower = jnp.where(
      logits > 0, logits / search.repetition, logits * search.repetition
    )
    logits = jnp.where(seen(ids, t, vocab), lower, logits)
  logp = jax.nn.log_softmax(logits, axis=-1)
  place = jnp.arange(vocab)
  never = [i for i in tokens.banned if i != tokens.end]
  barred = jnp.isin(place, jnp.array(never, jnp.int32))[None]
  if search.no_repeat:
    barred = barred | repeats(ids, t, vocab, search.no_repeat)
  if not search.immediate:
    last = jax.lax.dynamic_slice_in_dim(ids, t - 1, 1, axis=1)  # [N, 1], t > 0
    barred = barred | ((place == last) & (t > 0))
  ends = place == tokens.end
  barred = barred & ~ends  # the end comes once, so no rule of repeats concerns it
  barred = barred | (ends & (t < search.min_length))
  stuck = barred.all(axis=-1, keepdims=True)
  barred = jnp.where(stuck, ~ends, barred)
  return jnp.where(barred, -jnp.inf, logp)
