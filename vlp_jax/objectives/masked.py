"""Masked modelling of words and regions: MLM, MRFR, MRC, MRC-kl (arXiv 1909.11740).

One modality is masked at a time and the other is seen in full. Each loss is a mean over
all masked places of the whole batch; rows with `example_mask` False, and rows without
the modality, do not count. Metrics follow the validation of the published code.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import masking


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
  """Leaves out the rows that only fill up a batch: where [B, ...]."""
  mask = batch.get("example_mask")
  return where if mask is None else where & mask[:, None]


def mlm(apply, variables, batch, key, *, vocab, rate=0.15, max_masked=20):
  """Mean cross entropy over all masked words, at most P a row; the rest are counted.

    L = - sum_{i, m in M_i} log p(w_im | w_i without M_i, v_i) / sum_i |M_i|

  Reads text_ids, text_mask [B, L], example_id; adds mlm_positions [B, P] and wants
  mlm_logits [B, P, V]. Special ids are never masked.
  """
  mask_key, drop_key = jax.random.split(key)
  ids, example_id = batch["text_ids"], batch["example_id"]
  keys = masking.row_keys(mask_key, example_id)
  words = batch["text_mask"] & ~jnp.isin(ids, jnp.array(vocab.special_ids))
  bert = functools.partial(masking.bert, rate=rate, size=max_masked, vocab=vocab)
  new, positions, where, lost = jax.vmap(bert)(keys, ids, words)  # lost: [B]
  where, real = _rows(batch, where), _rows(batch, words)
  batch = batch | {"text_ids": new, "mlm_positions": positions}
  rng = jax.random.fold_in(drop_key, example_id[0])  # differs between microbatches
  out, mutable = apply(variables, batch, rng=rng, train=True)
  logits, target = wide(out["mlm_logits"]), jnp.take_along_axis(ids, positions, axis=1)
  xent = optax.softmax_cross_entropy_with_integer_labels(logits, target)  # [B, P]
  right = Mean.of(logits.argmax(-1) == target, where)
  aux = {"mlm/accuracy": right, "mlm/overflow": Mean.of(lost, real.any(axis=1))}
  return {"mlm": Term(*Mean.of(xent, where), coef=1.0)}, aux, mutable


def _forward(apply, variables, batch, key, rate):
  """Hides regions and runs the model: outputs, mutable, masked [B, R]."""
  mask_key, drop_key = jax.random.split(key)
  keys = masking.row_keys(mask_key, batch["example_id"])
  hide = functools.partial(masking.regions, rate=rate)
  masked = jax.vmap(hide)(keys, batch["regions_mask"])
  rng = jax.random.fold_in(drop_key, batch["example_id"][0])
  out, mutable = apply(
    variables, batch | {"regions_masked": masked}, rng=rng, train=True
  )
  return out, mutable, _rows(batch, masked)


def mrfr(apply, variables, batch, key, *, rate=0.15, reduction="elementwise"):
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


def mrc_kl(apply, variables, batch, key, *, rate=0.15, reduction="elementwise"):
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
