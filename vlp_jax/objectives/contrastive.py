"""Contrastive objectives of dual encoders: the maths is in `objectives.nce`.

They read video_mask [B, T], narration_mask [B, K, L] or text_mask [B, L], example_id
and example_mask [B]; the model reads the rest. None is a sum over rows: the step takes
the whole batch at once (`global_batch`): a smaller one would have fewer negatives.
"""

import jax

from vlp_jax.metrics import Mean, Term
from vlp_jax.objectives import nce


def mil_nce(
  apply,
  variables,
  batch,
  key,
  *,
  tau: float = 1.0,
  positives: str = "twice",
):
  """MIL-NCE of clips against their K candidate narrations (arXiv 1912.06430).

  The mean of `nce.mil_nce` over rows with a clip and a candidate of at least one word;
  negatives are all clips and all candidates of the global batch. A row that is mere
  padding (`example_mask` False) is neither.

  Args:
    tau: temperature of the scores; 1 as published.
    positives: "twice" in the denominator (published code) or "once" (paper).
  Returns: term `mil_nce` in nats; metric `mil_nce/accuracy`, the share of clips whose
    best text in the batch is one of their own; the new batch statistics.
  """
  rng = jax.random.fold_in(key, batch["example_id"][0])
  out, mutable = apply(variables, batch, rng=rng, train=True)
  video, text = out["video_embed"], out["text_embed"]
  stream = "narration" if "narration_ids" in batch else "text"
  where = batch[f"{stream}_mask"].any(-1)
  clip = batch["video_mask"].any(-1)
  if text.ndim == 2:
    text, where = text[:, None], where[:, None]
  if "example_mask" in batch:
    clip &= batch["example_mask"]
    where &= batch["example_mask"][:, None]
  masks = dict(where=where, video_where=clip)
  loss = nce.mil_nce(video, text, tau=tau, positives=positives, **masks)
  row = clip & where.any(1)
  right = nce.matches(video, text, **masks)
  aux = {"mil_nce/accuracy": Mean.of(right, row)}
  return {"mil_nce": Term(*Mean.of(loss, row))}, aux, mutable


mil_nce.global_batch = True
