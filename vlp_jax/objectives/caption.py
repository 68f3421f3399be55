"""Captions by teacher forcing: cross entropy of each token given the right ones."""

import functools

import jax
import jax.numpy as jnp

from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import masking
from vlp_jax.vocab import Vocab


def smoothed(logits: jax.Array, target: jax.Array, smoothing: float = 0.0) -> jax.Array:
  """Cross entropy against a target of which a part is spread over all tokens.

    l = - (1 - s) log p_y - (s / V) sum_v log p_v

  Args:
    logits: [..., V]; target: [...] int32; smoothing: s in [0, 1).
  Returns: [...] float32 in nats; at s > 0 its least value is above 0.
  Source: arXiv 1512.00567, sec. 7.
  """
  if not 0.0 <= smoothing < 1.0:
    raise ValueError(f"smoothing {smoothing} is not in [0, 1).")
  logp = jax.nn.log_softmax(wide(logits), axis=-1)
  own = jnp.take_along_axis(logp, target[..., None], axis=-1)[..., 0]
  if not smoothing:
    return -own
  return -(1 - smoothing) * own - smoothing * logp.mean(axis=-1)


def caption(
  apply,
  variables,
  batch,
  key,
  *,
  vocab: Vocab,
  smoothing: float = 0.0,
  corrupt: float = 0.0,
  pad_targets: bool = False,
):
  """Mean over all real tokens behind the first of `smoothed` cross entropy.

    L = sum_i sum_{0 < t < n_i} l(logits_i,t-1, w_it) / sum_i (n_i - 1)

  The first token ([CLS]) is given, the last ([SEP]) is predicted.

  Args:
    corrupt: share of the words that the decoder sees corrupted (80 % [MASK], 10 % a
      random id, 10 % as they are), the targets being whole: 0.15 in UniVL's pretraining
      (arXiv 2002.06353, code), where [CLS] and the last token stay.
    pad_targets: whether padding is a target too, as in the published code of UniVL,
      whose padding is not the id that its loss ignores; every row then weighs L - 1.

  Reads text_ids, text_mask [B, L], example_id, example_mask if given, and wants
  caption_logits [B, L - 1, V]. Metrics: caption/accuracy; caption/nll, the mean of
  - log p_y without smoothing, whose exponential is the perplexity.
  """
  corrupt_key, drop_key = jax.random.split(key)
  ids, mask, example_id = batch["text_ids"], batch["text_mask"], batch["example_id"]
  if ids.shape[1] < 2:
    raise ValueError(f"captions have 2 tokens or more, not {ids.shape[1]}.")
  target, where = ids[:, 1:], mask[:, 1:] & mask[:, :-1]
  if pad_targets:
    where = jnp.broadcast_to(mask[:, :1], where.shape)
  if "example_mask" in batch:
    where &= batch["example_mask"][:, None]
  if corrupt:
    batch = batch | {"text_ids": _corrupted(corrupt_key, batch, corrupt, vocab)}
  rng = masking.drop_rng(drop_key, example_id)
  out, mutable = apply(variables, batch, rng=rng, train=True)
  logits = wide(out["caption_logits"])
  right = Mean.of(logits.argmax(-1) == target, where)
  nll = Mean.of(smoothed(logits, target), where)
  xent = Mean.of(smoothed(logits, target, smoothing), where) if smoothing else nll
  aux = {"caption/accuracy": right, "caption/nll": nll}
  return {"caption": Term(*xent)}, aux, mutable


def _corrupted(key, batch, rate, vocab):
  """text_ids [B, L] with `rate` of the words hidden as BERT hides them."""
  ids, mask = batch["text_ids"], batch["text_mask"]
  words = mask & ~jnp.isin(ids, jnp.array(vocab.special_ids))
  size = ids.shape[1]
  hide = functools.partial(masking.bert, rate=rate, size=size, vocab=vocab)
  keys = masking.row_keys(key, batch["example_id"])
  return jax.vmap(hide)(keys, ids, words).ids
