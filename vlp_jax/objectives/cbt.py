"""CBT: contrastive losses of masked steps and of video with text (arXiv 1906.05743)."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import masked, masking

MASKS = ("rate", "each")


def visual_nce(
  steps: jax.Array,
  predicted: jax.Array,
  positions: jax.Array,
  *,
  where: jax.Array,
  steps_where: jax.Array,
  normalise: bool = False,
  tau: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Which step of the batch was hidden here?

    L_ip = log sum_{j, u} exp(e_ju . p_ip / tau) - log exp(e_it . p_ip / tau)

  with t = positions[i, p] and (j, u) over all real steps of all rows, the right one
  among them: negatives are the other steps of the row and those of the others.

  Args:
    steps: [B, T, D], e; predicted: [B, P, D]; positions: [B, P] int32.
    where: [B, P] bool, hidden steps that count; steps_where: [B, T] bool, real steps.
    normalise, tau: cosines over a temperature; the paper has plain dot products.
  Returns: ([B, P] float32 nats, [B, P] bool, whether the right one scores above all
    others), 0 and False where `where` is False.
  """
  steps, predicted = wide(steps), wide(predicted)
  if normalise:
    unit = lambda x: x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
    steps, predicted = unit(steps), unit(predicted)
  rows, length, width = steps.shape
  flat = steps.reshape(-1, width)
  scores = jnp.einsum("bpd,nd->bpn", predicted, flat) / tau  # [B, P, B T]
  own = jnp.arange(rows)[:, None] * length + positions  # [B, P] into B T
  real = steps_where.reshape(-1) | (jnp.arange(rows * length) == own[..., None])
  # Empty places see zeros: behind a mask -inf still has a NaN gradient.
  scores = jnp.where(where[..., None], jnp.where(real, scores, -jnp.inf), 0.0)
  positive = jnp.take_along_axis(scores, own[..., None], axis=-1)
  loss = jax.nn.logsumexp(scores, axis=-1) - positive[..., 0]
  right = (scores >= positive).sum(axis=-1) == 1
  return jnp.where(where, loss, 0.0), right & where


def hide(
  key: jax.Array, real: jax.Array, *, rate: float, size: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Steps of one row to hide, at least one, at most `size`: each with chance `rate`.

  Args: real: [T] bool.
  Returns: (hidden [T] bool, positions [P] int32, where [P] bool, lost: those beyond).
  """
  draw_key, thin_key = jax.random.split(key)
  drawn, _ = masking.draw(draw_key, real, rate, least="random")
  length = len(real)
  order = jnp.where(drawn, jax.random.uniform(thin_key, (length,)), 2.0)
  kept = jnp.argsort(order)[: min(size, length)]
  kept = jnp.sort(jnp.where(drawn[kept], kept, length))
  where = kept < length
  hidden = jnp.zeros(length, bool).at[kept].set(True, mode="drop")
  positions = jnp.where(where, kept, 0).astype(jnp.int32)
  return hidden, positions, where, drawn.sum() - where.sum()


def partners(
  key: jax.Array,
  example_id: jax.Array,
  group: jax.Array,
  real: jax.Array,
  *,
  num_negatives: int | None,
) -> tuple[jax.Array, jax.Array]:
  """Texts that each video is scored with: its own first, then those of other videos.

  Args:
    group: [B] int32, the video; texts of the same one are no negatives.
    real: [B] bool, rows with a text.
    num_negatives: drawn without replacement by the row's key; None for all.
  Returns: (rows [B, 1 + n] int32, where [B, 1 + n] bool; column 0 is the row itself).
  """
  rows = len(group)
  own = jnp.arange(rows, dtype=jnp.int32)
  allowed = real & (group[:, None] != group)
  if num_negatives is None:
    others = (own[:, None] + jnp.arange(1, rows, dtype=jnp.int32)) % rows
  else:
    keys = masking.row_keys(key, example_id)
    draw = jax.vmap(lambda k: jax.random.uniform(k, (rows,)))(keys)
    order = jnp.argsort(jnp.where(allowed, draw, 2.0), axis=1)
    others = order[:, : min(num_negatives, rows - 1)].astype(jnp.int32)
  where = jnp.take_along_axis(allowed, others, axis=1)
  index = jnp.concatenate([own[:, None], others], axis=1)
  return index, jnp.concatenate([real[:, None], where], axis=1)


def cross_nce(
  scores: jax.Array, where: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The own text against the others (a bound on mutual information).

    L_i = log sum_k exp(h_ik) - h_i0

  Args:
    scores: [B, K], column 0 of the own text; where: [B, K] bool. A row whose column 0
      is False is empty.
  Returns: ([B] float32 nats, [B] bool: the own text scores above all others, [B] rows
    that count).
  """
  row = where[:, :1]
  s = jnp.where(row, jnp.where(where, wide(scores), -jnp.inf), 0.0)
  loss = jax.nn.logsumexp(s, axis=1) - s[:, 0]
  right = (s >= s[:, :1]).sum(axis=1) == 1
  return jnp.where(row[:, 0], loss, 0.0), right & row[:, 0], row[:, 0]


def _real(batch, steps):
  """What is real in rows that count: steps [B, T] of the given ones, texts [B]."""
  rows = batch.get("example_mask", jnp.ones(len(steps), bool))
  text = jnp.zeros(len(steps), bool)
  if "text_mask" in batch:
    text = batch["text_mask"].any(axis=1)
  return steps & rows[:, None], text & rows


def cbt(
  apply,
  variables,
  batch,
  key,
  *,
  vocab,
  visual_coef: float = 1.0,
  cross_coef: float = 0.0,
  bert_coef: float = 0.0,
  mask: Literal[*MASKS] = "rate",
  rate: float = 0.15,
  max_masked: int = 16,
  num_negatives: int | None = None,
  normalise: bool = False,
  tau: float = 1.0,
):
  """The three losses of CBT; a coefficient of 0 leaves the whole computation out.

    L = visual_coef L_visual + cross_coef L_cross + bert_coef L_bert

  (0, 1, 0) in the order bert, visual, cross is the published first stage, (0, 1, 1) the
  second; bert_coef needs model.train_text and model.mlm.

  Args:
    mask: "rate" hides 15 % of the steps at once, at most max_masked a row, or "each"
      hides every step by itself, in T forward passes of the video Transformer.
    num_negatives: texts of other videos that each video is scored with; None for all of
      the batch (B x B runs of the Transformer over both).
    normalise, tau: see `visual_nce`.
  Reads clips_features, clips_mask (or video_frames, video_mask), text_*, example_id,
  group_id (the video; example_id without it). Wants steps, predicted, pair_scores, and
  video_mask of the model's `step_mask`.
  Negatives are of the global batch. Rows of padding are no negatives either.
  """
  if mask not in MASKS:
    raise ValueError(f"mask={mask!r}; one of {MASKS}.")
  if not (visual_coef or cross_coef or bert_coef):
    raise ValueError("cbt: all three coefficients are 0.")
  keys = jax.random.split(key, 4)
  # How frames are cut into steps, the model knows.
  steps = apply(variables, batch, method="step_mask")[0]["video_mask"]
  steps, text = _real(batch, steps)
  more, lost = {}, None
  if visual_coef:
    length = steps.shape[1]
    if mask == "each":
      more["clips_masked"] = steps[:, None, :] & jnp.eye(length, dtype=bool)
      positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), steps.shape)
      where = steps
    else:
      draw = lambda k, real: hide(k, real, rate=rate, size=max_masked)
      own = masking.row_keys(keys[0], batch["example_id"])
      more["clips_masked"], positions, where, lost = jax.vmap(draw)(own, steps)
  if cross_coef:
    group = batch.get("group_id", batch["example_id"])
    more["pair_text"], pair_where = partners(
      keys[1], batch["example_id"], group, text, num_negatives=num_negatives
    )
    pair_where &= steps.any(axis=1, keepdims=True)
  terms, aux, seen = {}, {}, {}

  def keep(variables, given, **hyper):
    if bert_coef:  # the words that `mlm` corrupted stand beside the clean ones
      given = given | {"mlm_ids": given["text_ids"], "text_ids": batch["text_ids"]}
    out, mutable = apply(variables, given | more, **hyper)
    seen.update(out)
    return out, mutable

  if bert_coef:
    terms, aux, mutable = masked.mlm(
      keep, variables, batch, keys[2], vocab=vocab, rate=rate
    )
    terms = {"bert": terms["mlm"]._replace(coef=bert_coef)}
  else:
    only = batch
    if not cross_coef:  # nothing asks for the words
      only = {k: x for k, x in batch.items() if not k.startswith("text_")}
    rng = masking.drop_rng(keys[3], batch["example_id"])
    _, mutable = keep(variables, only, rng=rng, train=True)
  if visual_coef:
    predicted = seen["predicted"]
    if mask == "each":
      predicted = jnp.moveaxis(jnp.diagonal(predicted, axis1=1, axis2=2), -1, 1)
    else:
      predicted = jnp.take_along_axis(predicted, positions[..., None], axis=1)
      aux["visual/overflow"] = Mean.of(lost, steps.any(axis=1))
    given = dict(where=where, steps_where=steps, normalise=normalise, tau=tau)
    loss, right = visual_nce(seen["steps"], predicted, positions, **given)
    terms["visual"] = Term(*Mean.of(loss, where), coef=visual_coef)
    aux["visual/accuracy"] = Mean.of(right, where)
  if cross_coef:
    loss, right, row = cross_nce(seen["pair_scores"], pair_where)
    terms["cross"] = Term(*Mean.of(loss, row), coef=cross_coef)
    aux["cross/accuracy"] = Mean.of(right, row)
  return terms, aux, mutable


def classify(apply, variables, batch, key, *, label: str = "label"):
  """Cross entropy of `logits` [B, C]: an action seen, or one that is to come.

  For anticipation the pipeline gives the clips before the action, with its label.

  Args: label: batch key, [B] int32; -1 where unknown (does not count).
  """
  rng = masking.drop_rng(key, batch["example_id"])
  out, mutable = apply(variables, batch, rng=rng, train=True)
  where = (batch[label] >= 0) & batch.get("example_mask", True)
  logits, target = wide(out["logits"]), jnp.maximum(batch[label], 0)
  xent = optax.softmax_cross_entropy_with_integer_labels(logits, target)
  right = Mean.of(logits.argmax(-1) == target, where)
  return (
    {"classify": Term(*Mean.of(xent, where))},
    {"classify/accuracy": right},
    mutable,
  )


cbt.global_batch = True
