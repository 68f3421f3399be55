"""Masked modelling of words and regions: MLM, MRFR, MRC, MRC-kl (arXiv 1909.11740).

One modality is masked at a time and the other is seen in full. Each loss is a mean over
all masked places of the whole batch; rows with `example_mask` False, and rows without
the modality, do not count. Metrics follow the validation of the published code. All
take packed rows, in which the same places of each example are masked as in rows of one.
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import masking, packing


def kl_elements(logits: jax.Array, target: jax.Array) -> jax.Array:
  """The summands t log(t / softmax(logits)) of the divergence: [..., C], any t >= 0."""
  logits, target = wide(logits), wide(target)
  some = target > 0
  log_target = jnp.log(jnp.where(some, target, 1.0))
  return jnp.where(some, target * (log_target - jax.nn.log_softmax(logits)), 0.0)


def _reduce(values, where, reduction, whole):
  """Mean over places of the mean ("elementwise") or the sum over the last axis."""
  if reduction not in ("elementwise", whole):
    raise ValueError(f'reduction={reduction!r}; "elementwise" or {whole!r}.')
  over = jnp.mean if reduction == "elementwise" else jnp.sum
  return Mean.of(over(values, axis=-1), where)


def _rows(batch, where):
  """Leaves out the examples that only fill up a batch: where [B, L] or [B, S, N]."""
  mask = batch.get("example_mask")
  return where if mask is None else where & mask[..., None]


def _words(batch, key, vocab, rate, max_masked):
  """What MLM hides: `masking.Masked`, lost [B] or [B, S]; and which examples count."""
  ids, keys = batch["text_ids"], masking.row_keys(key, batch["example_id"])
  words = batch["text_mask"] & ~jnp.isin(ids, jnp.array(vocab.special_ids))
  bert = functools.partial(masking.bert, rate=rate, size=max_masked, vocab=vocab)
  if not packing.is_packed(batch):
    new, positions, where, lost = jax.vmap(bert)(keys, ids, words)
    real = _rows(batch, words).any(axis=1)
    return masking.Masked(new, positions, _rows(batch, where), lost), real
  parts = packing.Parts.of(batch["text_segments"], keys.shape[1])
  own = parts.split(words)  # [B, S, L]
  new, positions, where, lost = jax.vmap(jax.vmap(bert))(keys, parts.split(ids), own)
  where = _rows(batch, where)  # [B, S, P]
  # Few of the S x P places are taken: what the head works on is as long as rows need.
  size = max(max_masked, math.ceil(2 * rate * ids.shape[1]) + keys.shape[1])
  flat = where.reshape(len(ids), -1)
  order = jnp.argsort(~flat, axis=1, stable=True)[:, : min(size, ids.shape[1])]
  kept = flat & (jnp.cumsum(flat, axis=1) <= order.shape[1])
  lost = lost + (flat & ~kept).reshape(where.shape).sum(axis=-1)
  take = lambda x: jnp.take_along_axis(x.reshape(flat.shape), order, axis=1)
  where = take(kept)
  places = jnp.where(where, take(positions + parts.start[..., None]), 0)
  real = _rows(batch, own).any(axis=-1)  # [B, S]
  return masking.Masked(parts.join(new, ids), places, where, lost), real


def mlm(apply, variables, batch, key, *, vocab, rate=0.15, max_masked=20):
  """Mean cross entropy over all masked words, at most P a row; the rest are counted.

    L = - sum_{i, m in M_i} log p(w_im | w_i without M_i, v_i) / sum_i |M_i|

  Reads text_ids, text_mask [B, L], example_id; adds mlm_positions [B, P] and wants
  mlm_logits [B, P, V]. Special ids are never masked. In packed rows max_masked is of
  each example, and of the row at most twice what is expected.
  """
  mask_key, drop_key = jax.random.split(key)
  ids = batch["text_ids"]
  hidden, real = _words(batch, mask_key, vocab, rate, max_masked)
  new, positions, where, lost = hidden
  batch = batch | {"text_ids": new, "mlm_positions": positions}
  rng = masking.drop_rng(drop_key, batch["example_id"])
  out, mutable = apply(variables, batch, rng=rng, train=True)
  logits, target = wide(out["mlm_logits"]), jnp.take_along_axis(ids, positions, axis=1)
  xent = optax.softmax_cross_entropy_with_integer_labels(logits, target)  # [B, P]
  right = Mean.of(logits.argmax(-1) == target, where)
  aux = {"mlm/accuracy": right, "mlm/overflow": Mean.of(lost, real)}
  return {"mlm": Term(*Mean.of(xent, where), coef=1.0)}, aux, mutable


def _forward(apply, variables, batch, key, rate):
  """Hides regions and runs the model: outputs, mutable, masked [B, R]."""
  mask_key, drop_key = jax.random.split(key)
  keys, real = masking.row_keys(mask_key, batch["example_id"]), batch["regions_mask"]
  hide = jax.vmap(functools.partial(masking.regions, rate=rate))
  if packing.is_packed(batch):
    parts = packing.Parts.of(batch["regions_segments"], keys.shape[1])
    own = jax.vmap(hide)(keys, parts.split(real))  # [B, S, R]
    masked, where = (parts.join(x, False) for x in (own, _rows(batch, own)))
  else:
    masked = hide(keys, real)
    where = _rows(batch, masked)
  rng = masking.drop_rng(drop_key, batch["example_id"])
  out, mutable = apply(
    variables, batch | {"regions_masked": masked}, rng=rng, train=True
  )
  return out, mutable, where


def mrfr(
  apply,
  variables,
  batch,
  key,
  *,
  rate=0.15,
  reduction: Literal["elementwise", "sum_over_features"] = "elementwise",
):
  """Masked region feature regression: squared error to the detector's features.

    L = mean over masked regions of |h(v) - f|^2, over Dr when "elementwise"

  Args:
    reduction: "elementwise", the mean over regions and features (published code), or
      "sum_over_features", the squared norm (paper, eq. of MRFR).
  Reads regions_features [B, R, Dr], regions_mask, example_id; wants mrfr [B, R, Dr].
  """
  out, mutable, where = _forward(apply, variables, batch, key, rate)
  error = jnp.square(wide(out["mrfr"]) - wide(batch["regions_features"]))
  term = Term(*_reduce(error, where, reduction, "sum_over_features"), coef=1.0)
  return {"mrfr": term}, {"mrfr/error": Mean.of(error.mean(-1), where)}, mutable


def mrc(apply, variables, batch, key, *, rate=0.15):
  """Masked region classification: cross entropy to the detector's class.

  The class is the argmax of regions_probs [B, R, C] over 1..C-1, background never, or,
  without them, regions_objects [B, R], of which 0 does not count. Wants mrc_logits
  [B, R, C]; the accuracy leaves background out as well.
  """
  out, mutable, where = _forward(apply, variables, batch, key, rate)
  if "regions_probs" in batch:
    target = batch["regions_probs"][..., 1:].argmax(-1) + 1
  elif "regions_objects" in batch:
    target = batch["regions_objects"]
    where = where & (target > 0)
  else:
    raise KeyError("mrc needs regions_probs or regions_objects in the batch.")
  logits = wide(out["mrc_logits"])
  xent = optax.softmax_cross_entropy_with_integer_labels(logits, target)
  right = Mean.of(logits[..., 1:].argmax(-1) + 1 == target, where)
  return (
    {"mrc": Term(*Mean.of(xent, where), coef=1.0)},
    {"mrc/accuracy": right},
    mutable,
  )


def mrc_kl(
  apply,
  variables,
  batch,
  key,
  *,
  rate=0.15,
  reduction: Literal["elementwise", "sum_over_classes"] = "elementwise",
):
  """Masked region classification with soft labels: KL(detector || model).

  Args:
    reduction: "elementwise", the mean over regions and classes (published code and
      models; its gradient is 1 / C of the paper's), or "sum_over_classes" (paper).
  Reads regions_probs [B, R, C], background included; wants mrc_logits [B, R, C].
  """
  out, mutable, where = _forward(apply, variables, batch, key, rate)
  logits, target = wide(out["mrc_logits"]), wide(batch["regions_probs"])
  divergence = kl_elements(logits, target)
  term = Term(*_reduce(divergence, where, reduction, "sum_over_classes"), coef=1.0)
  right = Mean.of(logits.argmax(-1) == target.argmax(-1), where)
  return {"mrc_kl": term}, {"mrc_kl/accuracy": right}, mutable


mlm.packing = mrfr.packing = mrc.packing = mrc_kl.packing = True
