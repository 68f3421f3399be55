"""BERT's pretraining on plain text: masked words and next sentences."""

import jax.numpy as jnp
import optax

from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import masked, masking


def _nsp(out, batch):
  """(term, metrics) of next sentences out of nsp_logits [..., 2] and match."""
  if "match" not in batch:
    raise KeyError("next sentences need match [B], 1 where the second one follows.")
  where = batch.get("example_mask", jnp.ones(batch["match"].shape, bool))
  logits, target = wide(out["nsp_logits"]), 1 - batch["match"]
  xent = optax.softmax_cross_entropy_with_integer_labels(logits, target)
  right = Mean.of(logits.argmax(-1) == target, where)
  return Term(*Mean.of(xent, where)), {"nsp/accuracy": right}


def nsp(apply, variables, batch, key):
  """Next sentence prediction: the mean cross entropy over rows (pairs).

  Reads text_*, match [B] (1: the second sentence follows the first), example_id; wants
  nsp_logits [B, 2]. Class 0 of the published head means "follows". The pairs are made
  by the pipeline, half of them with a sentence of another document.
  """
  rng = masking.drop_rng(key, batch["example_id"])
  out, mutable = apply(variables, batch, rng=rng, train=True)
  term, aux = _nsp(out, batch)
  return {"nsp": term}, aux, mutable


def bert(
  apply,
  variables,
  batch,
  key,
  *,
  vocab,
  rate: float = 0.15,
  max_masked: int = 20,
  nsp_coef: float = 1.0,
):
  """Masked words and next sentences of the same corrupted rows (arXiv 1810.04805).

    L = L_mlm + nsp_coef L_nsp

  with `masked.mlm` and `nsp` above, in one forward pass. Published runs mask at most 20
  words of 128 and 77 of 512.
  """
  seen = {}

  def keep(variables, rows, **given):
    out, mutable = apply(variables, rows, **given)
    seen.update(out)
    return out, mutable

  terms, aux, mutable = masked.mlm(
    keep, variables, batch, key, vocab=vocab, rate=rate, max_masked=max_masked
  )
  term, more = _nsp(seen, batch)
  return terms | {"nsp": term._replace(coef=nsp_coef)}, aux | more, mutable


nsp.packing = bert.packing = True
