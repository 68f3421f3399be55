"""Max-margin ranking of clips and texts, with negatives of the same video.

It reads group_id [B] (the video of a row; each row its own without it), example_id and,
if given, example_mask [B]; masks of both streams; from the model `<stream>_embed`.
"""

import jax
import jax.numpy as jnp

from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import nce

STREAMS = ("clips", "text")


def hinge(scores: jax.Array, *, margin: float = 0.1) -> jax.Array:
  """[n, n]: relu(m + s_ij - s_ii) + relu(m + s_ij - s_jj), 2 m on the diagonal.

  Source: arXiv 1906.03327, eq. 2, and its code, which sums over i = j as well.
  """
  scores = wide(scores)
  own = jnp.diagonal(scores)
  return jax.nn.relu(margin + scores - own[:, None]) + jax.nn.relu(
    margin + scores - own[None]
  )


def pair_weights(
  video: jax.Array, where: jax.Array, *, hard_negative_rate: float = 0.5
) -> jax.Array:
  """Weights M of negatives so that those of the same video have a share r.

    M_ij = B r within a video, B (1 - r) / (B - 1) between videos

  with B videos. All 1 where no video has two pairs, or there is but one video, as then
  there are no two kinds of negatives.

  Args:
    video: [n] int, the video of each pair; where: [n] bool, which are real.
    hard_negative_rate: r in 0..1.
  Returns: [n, n] float32.
  """
  same = (video[:, None] == video) & where[:, None] & where
  before = jnp.tril(same, -1).any(axis=1)
  num = (where & ~before).sum().astype(jnp.float32)  # B
  within = num * hard_negative_rate
  between = num * (1 - hard_negative_rate) / jnp.maximum(num - 1, 1)
  weighted = (where & before).any() & (num > 1)
  return jnp.where(weighted, jnp.where(same, within, between), 1.0)


def max_margin(
  apply,
  variables,
  batch,
  key,
  *,
  margin: float = 0.1,
  negative_weighting: bool = True,
  hard_negative_rate: float = 0.5,
  diagonal: bool = True,
  normalise: bool = False,
  streams: tuple = STREAMS,
):
  """Max-margin ranking loss of HowTo100M over all pairs of the global batch.

  L = mean_ij M_ij hinge_ij over the n^2 combinations of real pairs. With streams
  [B, K, D] a row is a video with K pairs of a clip and a text; with [B, D] one pair,
  its video in group_id; a single candidate [B, 1, D] is the text of the row's clip.

  Args:
    negative_weighting: M of `pair_weights`; else 1.
    diagonal: count i = j as the published code does: a constant 2 m M_ii each, no
      gradient. False leaves it out of sum and mean.
    normalise: compare cosines, for models whose embeddings are of any norm.
    streams: names of the two sides, scored first times second.
  Returns: term `ranking`; metric `ranking/accuracy`, the share of pairs whose own text
    scores above all other texts; the model's new collections.
  """
  rng = jax.random.fold_in(key, batch["example_id"][0])
  out, mutable = apply(variables, batch, rng=rng, train=True)
  (x, x_where), (y, y_where) = (_side(out, batch, s) for s in streams)
  if y.ndim == x.ndim + 1 and y.shape[1] == 1:
    y, y_where = y[:, 0], y_where[:, 0]
  if x.shape != y.shape:
    raise ValueError(
      f"{streams[0]}_embed {x.shape} and {streams[1]}_embed {y.shape} are no pairs; "
      "give as many clips as texts in every row."
    )
  video = batch.get("group_id", jnp.arange(len(x), dtype=jnp.int32))
  video = jnp.broadcast_to(video.reshape(-1, *[1] * (x.ndim - 2)), x.shape[:-1])
  where, video = (x_where & y_where).reshape(-1), video.reshape(-1)
  x, y = (wide(a).reshape(-1, a.shape[-1]) for a in (x, y))
  if normalise:
    x, y = nce.unit(x), nce.unit(y)
  scores = x @ y.T
  both = where[:, None] & where
  counted = both if diagonal else both & ~jnp.eye(len(x), dtype=bool)
  values = hinge(jnp.where(both, scores, 0.0), margin=margin)
  if negative_weighting:
    rate = hard_negative_rate
    values *= pair_weights(video, where, hard_negative_rate=rate)
  others = jnp.where(both & ~jnp.eye(len(x), dtype=bool), scores, -jnp.inf)
  right = jnp.diagonal(scores) > others.max(axis=1)
  term = Term(*Mean.of(values, counted))
  return {"ranking": term}, {"ranking/accuracy": Mean.of(right, where)}, mutable


max_margin.global_batch = True


def _side(out, batch, stream):
  """Embedding [B, D] or [B, K, D] and what of it is real, [B] or [B, K]."""
  x = out[f"{stream}_embed"]
  key = "narration" if stream == "text" and "narration_ids" in batch else stream
  mask = batch.get(f"{key}_mask")
  if mask is None:
    mask = jnp.ones(x.shape[:-1], bool)
  where = mask.reshape(*x.shape[:-1], -1).any(-1)
  if "example_mask" in batch:
    where &= batch["example_mask"].reshape(-1, *[1] * (where.ndim - 1))
  return x, where
