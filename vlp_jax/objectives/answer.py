"""Answers about images: VQA, visual entailment, NLVR2, VCR, referring expressions.

Each reads the labels that its data set has, and the logits of its head of UNITER
(arXiv 1909.11740; the losses are those of the published code):

  vqa    answers [B, A] soft scores, answer_logits [B, A]; also SNLI-VE with A = 3
  nlvr2  label [B], label_logits [B, 2]
  vcr    label [B], choice_logits [B, 2]; a row is one of four choices
  refer  label [B] (a region), label_box [B, 4] if soft; region_logits [B, R]

The first three also take packed rows, [B, S] where above is [B], and `method`, of the
model instead of its call: "pooled" gives the same logits for less work.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import masking

TARGETS = ("best", "soft")


def vqa(apply, variables, batch, key, *, method: str | None = None):
  """Binary cross entropy summed over answers, mean over rows.

    L = mean_i sum_a BCE(sigmoid(z_ia), t_ia)

  A question none of whose answers is known has all t = 0 and counts, as published.
  `vqa/score` is the soft score of the answer with the highest logit, the official
  accuracy where targets are those of VQA.
  """
  keys = "answers", "answer_logits"
  found = _run(apply, variables, batch, key, *keys, method=method)
  target, logits, where, mutable = found
  if target.shape != logits.shape:
    raise ValueError(
      f"answers {target.shape} and answer_logits {logits.shape} differ: set "
      "model.num_answers to num_answers of dataset_info.json."
    )
  loss = optax.sigmoid_binary_cross_entropy(logits, wide(target)).sum(-1)
  best = logits.argmax(-1)[..., None]
  score = jnp.take_along_axis(wide(target), best, axis=-1)[..., 0]
  aux = {"vqa/score": Mean.of(score, where)}
  return {"vqa": Term(*Mean.of(loss, where), coef=1.0)}, aux, mutable


def nlvr2(apply, variables, batch, key, *, method: str | None = None):
  """Cross entropy of true (1) and false (0), mean over rows with a label."""
  keys = "label", "label_logits"
  return _choose("nlvr2", *_run(apply, variables, batch, key, *keys, method=method))


def vcr(apply, variables, batch, key, *, method: str | None = None):
  """Cross entropy of right (1) and wrong (0), each choice by itself, mean over rows.

  The choice with the highest logit of class 1 is the answer: an evaluator's business,
  since the choices of a question are rows of a batch, or of several.
  """
  keys = "label", "choice_logits"
  return _choose("vcr", *_run(apply, variables, batch, key, *keys, method=method))


def refer(apply, variables, batch, key, *, target: Literal[*TARGETS] = "best"):
  """Which region an expression means, mean over rows.

  Args:
    target: "best": softmax over the regions, whose target is `label` (UNITER; its code
      sums over the rows of a batch). Rows with label -1, without a region that shows
      what is meant, do not count. "soft": binary cross entropy summed over regions with
      their overlap with `label_box`, 0 up to one half, as target (ViLBERT's code).
  """
  if target not in TARGETS:
    raise ValueError(f"target={target!r}; one of {', '.join(TARGETS)}.")
  keys = "label", "region_logits"
  label, logits, where, mutable = _run(apply, variables, batch, key, *keys)
  real = batch["regions_mask"]
  logits = jnp.where(real, logits, jnp.finfo(logits.dtype).min)
  known = where & (label >= 0)
  if target == "best":
    loss = _xent(logits, label)
    term = Term(*Mean.of(loss, known), coef=1.0)
  else:
    over = overlap(batch["regions_boxes"][..., :4], batch["label_box"][..., None, :])
    soft = jnp.where(over > 0.5, over, 0.0)
    flat = jnp.where(real, logits, 0.0)
    loss = optax.sigmoid_binary_cross_entropy(flat, soft)
    term = Term(*Mean.of(jnp.where(real, loss, 0.0).sum(-1), where), coef=1.0)
  # A row that no region fits is a miss.
  right = (logits.argmax(-1) == label) & (label >= 0)
  return {"refer": term}, {"refer/accuracy": Mean.of(right, where)}, mutable


def overlap(a: jax.Array, b: jax.Array) -> jax.Array:
  """Intersection over union of boxes [..., 4] x1 y1 x2 y2, 0 for empty ones."""
  a, b = wide(a), wide(b)
  low, high = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
  both = jnp.maximum(high - low, 0.0).prod(-1)
  area = lambda x: (x[..., 2:] - x[..., :2]).prod(-1)
  union = area(a) + area(b) - both
  return jnp.where(union > 0, both / jnp.where(union > 0, union, 1.0), 0.0)


def _choose(name, label, logits, where, mutable):
  where = where & (label >= 0)
  loss, right = _xent(logits, label), logits.argmax(-1) == label
  term = Term(*Mean.of(loss, where), coef=1.0)
  return {name: term}, {f"{name}/accuracy": Mean.of(right, where)}, mutable


def _xent(logits, label):
  at = jnp.maximum(label, 0)
  return optax.softmax_cross_entropy_with_integer_labels(logits, at)


def _run(apply, variables, batch, key, target, output, *, method=None):
  """(target, logits float32, rows that count, mutable)."""
  if target not in batch:
    raise KeyError(f"{target} is not in the batch, which holds {sorted(batch)}.")
  rng = masking.drop_rng(key, batch["example_id"])
  out, mutable = apply(variables, batch, rng=rng, train=True, method=method)
  where = batch.get("example_mask", jnp.ones(batch["example_id"].shape, bool))
  return batch[target], wide(out[output]), where, mutable
