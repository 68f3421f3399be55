"""VideoBERT's three regimes: text, video, and both with their alignment (1904.01766).

A step takes one of them by the task schedule; each reads what it needs of a batch and
leaves out the rest, so all may share one input. Masks are 15 % of each modality by
BERT's rule (80 % [MASK], 10 % random, 10 % unchanged), random ones from the same
modality's part of the vocabulary, and the softmax runs over that part only.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import masked, masking, match
from vlp_jax.vocab import Vocab

NUM_TOKENS = 12**4  # leaves of the published tree


def _without(batch, *prefixes):
  return {k: x for k, x in batch.items() if not k.startswith(prefixes)}


def mask_tokens(batch, key, *, num_tokens: int, rate: float, max_masked: int):
  """Hides video tokens: (batch with clips_tokens and mvm_positions, targets [B, Q],
  where [B, Q], lost [B]).

  K, one beyond the last token, is [MASK]. Rows with `example_mask` False are masked
  like others and left out of `where`.
  """
  tokens, where = batch["clips_tokens"], batch["clips_mask"]
  kinds = Vocab(
    num_tokens + 1,
    mask_id=num_tokens,
    special_ids=(num_tokens,),
    valid_range=(0, num_tokens),
  )
  bert = functools.partial(masking.bert, rate=rate, size=max_masked, vocab=kinds)
  keys = masking.row_keys(key, batch["example_id"])
  new, positions, places, lost = jax.vmap(bert)(keys, tokens, where)
  if "example_mask" in batch:
    places &= batch["example_mask"][:, None]
  target = jnp.take_along_axis(tokens, positions, axis=1)
  hidden = {"clips_tokens": new, "mvm_positions": positions}
  return batch | hidden, target, places, lost


def _mvm(out, target, where, lost, real, num_tokens):
  """(term, metrics) of masked video tokens."""
  logits = wide(out["mvm_logits"])
  if logits.shape[-1] != num_tokens:
    raise ValueError(
      f"num_tokens={num_tokens}, but the model has {logits.shape[-1]} of them: set "
      "the task's num_tokens to model.num_tokens."
    )
  xent = optax.softmax_cross_entropy_with_integer_labels(logits, target)
  right = Mean.of(logits.argmax(-1) == target, where)
  aux = {"mvm/accuracy": right, "mvm/overflow": Mean.of(lost, real)}
  return Term(*Mean.of(xent, where)), aux


def text(apply, variables, batch, key, *, vocab, rate=0.15, max_masked=20):
  """The text-only regime: `masked.mlm` on rows without their video."""
  return masked.mlm(
    apply,
    variables,
    _without(batch, "clips_"),
    key,
    vocab=vocab,
    rate=rate,
    max_masked=max_masked,
  )


def video(
  apply,
  variables,
  batch,
  key,
  *,
  num_tokens: int = NUM_TOKENS,
  rate: float = 0.15,
  max_masked: int = 20,
):
  """The video-only regime: masked video tokens of rows without their text.

    L = - sum_{i, t in M_i} log p(v_it | v_i without M_i) / sum_i |M_i|

  Reads clips_tokens, clips_mask [B, T], example_id; adds mvm_positions [B, Q] and wants
  mvm_logits [B, Q, K].
  """
  mask_key, drop_key = jax.random.split(key)
  given = dict(num_tokens=num_tokens, rate=rate, max_masked=max_masked)
  alone = _without(batch, "text_", "mlm_")
  alone, target, where, lost = mask_tokens(alone, mask_key, **given)
  rng = masking.drop_rng(drop_key, batch["example_id"])
  out, mutable = apply(variables, alone, rng=rng, train=True)
  real = batch["clips_mask"].any(axis=1) & batch.get("example_mask", True)
  term, aux = _mvm(out, target, where, lost, real, num_tokens)
  return {"mvm": term}, aux, mutable


def swap(batch, key, *, negatives: str = "swap", negative_rate: float = 0.5):
  """`match.swap_pairs` between text and video: some rows get another video's text.

  With probability `negative_rate` all text_* fields of a row come from a row of another
  `group_id` (video). Unchanged when negatives="given", by `match` [B] of the pipeline.
  """
  stand_in = {"regions_mask": batch["clips_mask"]}
  pairs = match.swap_pairs(
    batch | stand_in,
    key,
    negatives=negatives,
    negative_rate=negative_rate,
    swapped="text",
  )
  return _without(pairs, "regions_")


def joint(
  apply,
  variables,
  batch,
  key,
  *,
  vocab,
  num_tokens: int = NUM_TOKENS,
  rate: float = 0.15,
  max_masked: int = 20,
  max_masked_tokens: int = 20,
  negatives: match.Negatives = "swap",
  negative_rate: float = 0.5,
  align_coef: float = 1.0,
  mlm_coef: float = 1.0,
  mvm_coef: float = 1.0,
  masked_on_negatives: bool = True,
):
  """The video-text regime: alignment on [CLS], masked words, masked video tokens.

    L = align_coef CE(align_logits, 1 - match) + mlm_coef L_mlm + mvm_coef L_mvm

  Args:
    num_tokens: K of the model.
    negatives: "swap", made by `prepare` over the whole batch, or "given" by match [B].
    masked_on_negatives: False leaves mismatched rows out of L_mlm and L_mvm; True takes
      them, as BERT does with next sentences. The paper does not say.
  Reads text_*, clips_tokens, clips_mask, example_id, group_id (the video); wants
  align_logits [B, 2] (class 0: a match), mlm_logits, mvm_logits. A row that lacks text
  or video does not count in the alignment.
  """
  if "match" not in batch:
    if negatives == "given":
      raise KeyError('joint with negatives="given" needs match [B] in the batch.')
    batch = swap(batch, key, negatives=negatives, negative_rate=negative_rate)
  word_key, token_key = jax.random.split(jax.random.fold_in(key, 1))
  given = dict(num_tokens=num_tokens, rate=rate, max_masked=max_masked_tokens)
  hidden, target, where, lost = mask_tokens(batch, token_key, **given)
  real = batch.get("example_mask", jnp.ones(len(target), bool))
  counts = real if masked_on_negatives else real & (batch["match"] == 1)
  seen = {}

  def keep(variables, rows, **given):
    out, mutable = apply(variables, rows, **given)
    seen.update(out)
    return out, mutable

  terms, aux, mutable = masked.mlm(
    keep,
    variables,
    hidden | {"example_mask": counts},
    word_key,
    vocab=vocab,
    rate=rate,
    max_masked=max_masked,
  )
  has_text, has_video = (batch[f"{k}_mask"].any(axis=1) for k in ("text", "clips"))
  term, more = _mvm(
    seen, target, where & counts[:, None], lost, has_video & counts, num_tokens
  )
  logits, label = wide(seen["align_logits"]), 1 - batch["match"]
  xent = optax.softmax_cross_entropy_with_integer_labels(logits, label)
  pair = has_text & has_video & real
  right = Mean.of(logits.argmax(-1) == label, pair)
  align = Term(*Mean.of(xent, pair), coef=align_coef)
  terms = {
    "align": align,
    "mlm": terms["mlm"]._replace(coef=mlm_coef),
    "mvm": term._replace(coef=mvm_coef),
  }
  return terms, aux | more | {"align/accuracy": right}, mutable


joint.prepare = swap
