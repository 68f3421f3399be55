"""Contrastive objectives of dual encoders: the maths is in `objectives.nce`.

They read example_id and, if given, example_mask [B]; of each stream its mask, [B, T],
[B, L] or [B, K, L] (a row without any is missing; no mask: none is), and from the model
`<stream>_embed`. None is a sum over rows: the step takes the whole batch at once
(`global_batch`), a smaller one would have fewer negatives. For microbatches there is
`cached_contrastive`. A row of padding (`example_mask` False) is no negative either.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vlp_jax.metrics import Mean, Term
from vlp_jax.objectives import nce
from vlp_jax.objectives import views as views_lib

STREAMS = ("video", "text")


def embed(apply, variables, batch, key):
  """The embeddings of a batch in training; dropout is that of its first example."""
  rng = jax.random.fold_in(key, batch["example_id"][0])
  return apply(variables, batch, rng=rng, train=True)


def _side(out, batch, stream):
  """Embedding of a stream [B, D] or [B, K, D], and what is real: [B] or [B, K]."""
  x = out[f"{stream}_embed"]
  # Models call the embedding of narrations text as well.
  key = "narration" if stream == "text" and "narration_ids" in batch else stream
  where = batch.get(f"{key}_mask")
  if where is None:
    where = jnp.ones(x.shape[:-1], bool)
  where = where.reshape(*x.shape[:-1], -1).any(-1)
  if "example_mask" in batch:
    where &= batch["example_mask"].reshape(-1, *[1] * (where.ndim - 1))
  return x, where


def _both(apply, variables, batch, key, streams):
  """Both sides with the keywords of their masks, whole rows [B], new collections."""
  out, mutable = embed(apply, variables, batch, key)
  (x, x_where), (y, y_where) = (_side(out, batch, s) for s in streams)
  row = x_where & y_where.reshape(len(x_where), -1).any(1)
  return out, (x, y), dict(video_where=x_where, where=y_where), row, mutable


def _terms(name, loss, right, row):
  """Term and accuracy of values [B] and [B] or [B, 2], over whole rows."""
  each = row.reshape(-1, *[1] * (right.ndim - 1))
  return {name: Term(*Mean.of(loss, row))}, {f"{name}/accuracy": Mean.of(right, each)}


def mil_nce(
  apply,
  variables,
  batch,
  key,
  *,
  tau: float = 1.0,
  positives: nce.Positives = "twice",
  streams: tuple = STREAMS,
):
  """MIL-NCE of clips against their K candidate narrations (arXiv 1912.06430).

  The mean of `nce.mil_nce` over rows with a clip and a candidate of at least one word;
  negatives are all clips and all candidates of the global batch.

  Args:
    tau: temperature of the scores; 1 as published.
    positives: "twice" in the denominator (published code) or "once" (paper).
    streams: the side with one embedding a row, and that with one or K.
  Returns: term `mil_nce` in nats; metric `mil_nce/accuracy`, the share of clips whose
    best text in the batch is one of their own; the new batch statistics.
  """
  _, (video, text), masks, row, mutable = _both(apply, variables, batch, key, streams)
  if text.ndim == 2:
    text, masks["where"] = text[:, None], masks["where"][:, None]
  loss, right = nce.mil_nce_and_matches(
    video, text, tau=tau, positives=positives, **masks
  )
  return *_terms("mil_nce", loss, right, row), mutable


def symmetric(
  apply, variables, batch, key, *, tau: float = 0.05, streams: tuple = STREAMS
):
  """Softmax in both directions, added (NormSoftmax of Frozen in Time, 2104.00650).

  The mean of `nce.symmetric` over rows with both streams; negatives are all others of
  the global batch.

  Returns: term `symmetric` in nats; metric `symmetric/accuracy`, the share of clips
    whose own text is nearer than all others; the new batch statistics.
  """
  _, sides, masks, row, mutable = _both(apply, variables, batch, key, streams)
  loss, right = nce.symmetric_and_matches(*sides, tau=tau, **masks)
  return *_terms("symmetric", loss, right, row), mutable


def ego(
  apply,
  variables,
  batch,
  key,
  *,
  tau: float = 0.05,
  tags: tuple = ("label_verbs", "label_nouns"),
  streams: tuple = STREAMS,
  views: Mapping | None = None,
):
  """EgoNCE: clips that share a verb and a noun are positives (arXiv 2206.01670).

  The mean of `nce.ego` over rows with both streams. Scene-aware negatives are further
  rows of the batch, which the pipeline draws.

  Args:
    tags: batch keys of multi-hot arrays [B, V]; positives share an entry in each.
    views: settings of `objectives.views` for what the model sees of the first stream;
      None for the batch as it is.
  Returns: term `ego` in nats; metric `ego/accuracy`, as `symmetric`.
  """
  missing = [k for k in tags if k not in batch]
  if missing:
    raise KeyError(f"ego reads {missing} from the batch: multi-hot [B, V] arrays.")
  if views is not None:
    view_key, key = jax.random.split(key)
    seen = views_lib.make(batch, view_key, views, stream=streams[0])
    batch = {**batch, **seen}
  _, sides, masks, row, mutable = _both(apply, variables, batch, key, streams)
  tags = [batch[k] for k in tags]
  loss, right = nce.ego_and_matches(*sides, tags, tau=tau, **masks)
  return *_terms("ego", loss, right, row), mutable


def sigmoid(
  apply,
  variables,
  batch,
  key,
  *,
  scale: float = 10.0,
  bias: float = -10.0,
  streams: tuple = STREAMS,
):
  """Every pair of the batch as a question of its own (SigLIP, arXiv 2303.15343).

  The mean of `nce.sigmoid` over rows with both streams. A model that learns them gives
  `logit_scale` and `logit_bias`, scalars as they are applied.

  Args:
    scale, bias: of the cosines, where the model gives none.
  Returns: term `sigmoid` in nats; metric `sigmoid/accuracy`, as `symmetric`.
  """
  out, sides, masks, row, mutable = _both(apply, variables, batch, key, streams)
  scale, bias = out.get("logit_scale", scale), out.get("logit_bias", bias)
  loss, right = nce.sigmoid_and_matches(*sides, scale=scale, bias=bias, **masks)
  return *_terms("sigmoid", loss, right, row), mutable


def nt_xent(
  apply,
  variables,
  batch,
  key,
  *,
  tau: float = 0.1,
  streams: tuple = ("image", "image2"),
):
  """NT-Xent of SimCLR between two views of each example (arXiv 2002.05709).

  The mean of `nce.nt_xent` over rows with both views: the published code's loss, twice
  the paper's. Negatives are both views of all other examples of the global batch.

  Returns: term `nt_xent` in nats; metric `nt_xent/accuracy`, the share of views whose
    partner is nearer than all other examples.
  """
  _, sides, masks, row, mutable = _both(apply, variables, batch, key, streams)
  masks = dict(first_where=masks["video_where"], where=masks["where"])
  loss, right = nce.nt_xent_and_matches(*sides, tau=tau, **masks)
  return *_terms("nt_xent", loss, right, row), mutable


for _objective in (mil_nce, symmetric, ego, sigmoid, nt_xent):
  _objective.global_batch = True
