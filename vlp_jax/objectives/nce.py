"""Contrastive losses over the whole batch, as functions of arrays.

Negatives are all others of the global batch, and gradients flow into them. The B x B
scores are reduced in blocks (`objectives.blockwise`), also under a mesh.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from vlp_jax.metrics import wide
from vlp_jax.objectives import blockwise, pair_stats
from vlp_jax.objectives.pair_stats import Stat

POSITIVES = ("twice", "once")  # in the denominator
Positives = Literal[*POSITIVES]
# What `matches` compares: the best text of another clip and the best own one.
_BEST = (
  Stat("row", pair_stats.others, "max"),
  Stat("column", pair_stats.own, "max"),
)
_ROW, _COLUMN = (Stat(a, pair_stats.everyone) for a in ("row", "column"))
_OWN = Stat("column", pair_stats.own)


def _bags(video, text, where, video_where):
  """Masks as [B, K] and [B], and [B] whether a row has both; the shapes are checked."""
  if text.ndim != 3 or text.shape[::2] != video.shape:
    raise ValueError(
      f"video {video.shape} and text {text.shape} are not [B, D], [B, K, D]."
    )
  where = jnp.broadcast_to(where, text.shape[:2])
  video_where = jnp.broadcast_to(video_where, video.shape[:1])
  return where, video_where, video_where & where.any(1)


def _totals(video, text, stats, *, where, video_where, tau, **more):
  """Stats of v . t / tau for real rows, 0 elsewhere; whether a row is real, [B]."""
  where, video_where, row = _bags(video, text, where, video_where)
  # The clips, K times fewer, are the side to scale.
  scaled = jnp.where(video_where[:, None], wide(video), 0.0) / tau
  masks = dict(row_where=video_where, column_where=where)
  totals = blockwise.reduce(scaled, text, stats, **masks, **more)
  # Before any arithmetic: behind a mask, that of -inf still has a NaN gradient.
  return [jnp.where(row, x, 0.0) for x in totals], row


def _pairs(video, text, where, video_where):
  """Unit vectors [B, D] and [B, 1, D], and the keywords of masks."""
  if text.ndim != 2 or text.shape != video.shape:
    raise ValueError(f"{video.shape} and {text.shape} are not [B, D], [B, D].")
  where, video_where = (jnp.broadcast_to(w, len(text)) for w in (where, video_where))
  video, text = _seen(video, video_where, unit), _seen(text, where, unit)
  return video, text[:, None], dict(where=where[:, None], video_where=video_where)


def _seen(x, where, norm):
  """norm(x), of zeros where nothing is: what stands there gives no NaN gradient."""
  return norm(jnp.where(where[:, None], x, 0))


def mil_nce(
  video: jax.Array,
  text: jax.Array,
  *,
  where: jax.Array | bool = True,
  video_where: jax.Array | bool = True,
  tau: float | jax.Array = 1.0,
  positives: Positives = "twice",
  chunk: int | None = None,
) -> jax.Array:
  """Multiple-instance noise-contrastive loss, one value per clip.

    L_i = log sum_n exp(s_n) - log sum_{k in P_i} exp(v_i . t_ik / tau)

  where n runs over row i (this clip, all narrations) and column i (all clips, these
  narrations) of the scores. Source: arXiv 1912.06430, eq. 1.

  Args:
    video, text: [B, D] and [B, K, D] float, clips and K candidate narrations of each.
    where, video_where: [B, K] and [B] bool, what is real. A clip without candidates
      stays a negative of the others, and so do the candidates of a missing clip.
    tau: temperature; the paper has none.
    positives: "twice" in the denominator, by row and by column, as in the published
      code (the loss is at least log 2), or "once", as in the paper.
    chunk: clips of a block of scores, at most; changes memory and time only.
  Returns: [B] float32 in nats; 0, with zero gradient, in rows without clip or
    candidate: the weight of a row is `video_where & where.any(1)`.
  Raises: ValueError for shapes that do not agree or an unknown switch.
  """
  return _mil_nce(
    video,
    text,
    (),
    where=where,
    video_where=video_where,
    tau=tau,
    positives=positives,
    chunk=chunk,
  )[0]


def mil_nce_and_matches(video, text, **given) -> tuple[jax.Array, jax.Array]:
  """`mil_nce` and `matches` of the same scores, formed once; arguments of the first."""
  loss, (other, best) = _mil_nce(video, text, _BEST, **given)
  return loss, best > other


def _mil_nce(
  video,
  text,
  more,
  *,
  where=True,
  video_where=True,
  tau=1.0,
  positives="twice",
  chunk=None,
):
  if positives not in POSITIVES:
    raise ValueError(f"positives is {positives!r}; give one of {POSITIVES}.")
  column = _COLUMN if positives == "twice" else Stat("column", pair_stats.others)
  stats, masks = (_ROW, column, _OWN, *more), dict(where=where, video_where=video_where)
  totals, row = _totals(video, text, stats, tau=tau, chunk=chunk, **masks)
  across, down, positive, *rest = totals
  return jnp.where(row, jnp.logaddexp(across, down) - positive, 0.0), rest


def unit(x: jax.Array, eps: float = 1e-12) -> jax.Array:
  """x / |x| over the last axis, float32; zero, with zero gradient, stays zero."""
  x = wide(x)
  square = (x * x).sum(-1, keepdims=True)
  some = square > eps * eps
  return jnp.where(some, x * jax.lax.rsqrt(jnp.where(some, square, 1.0)), 0.0)


def nce(
  video: jax.Array,
  text: jax.Array,
  *,
  where: jax.Array | bool = True,
  video_where: jax.Array | bool = True,
  tau: float | jax.Array = 0.07,
  positives: Positives = "twice",
) -> jax.Array:
  """`mil_nce` with one partner a clip, on unit vectors: cosines over tau.

  The form of MMV (arXiv 2006.16228, eq. 2) for video against audio; tau is 0.07 there.

  Args:
    video, text: [B, D] float, both sides, of any norm.
    where, video_where: [B] bool, which rows have the right and the left side.
  Returns: [B] float32 in nats, 0 in rows without both.
  """
  video, text, masks = _pairs(video, text, where, video_where)
  return mil_nce(video, text, tau=tau, positives=positives, **masks)


def matches(
  video: jax.Array,
  text: jax.Array,
  *,
  where: jax.Array | bool = True,
  video_where: jax.Array | bool = True,
) -> jax.Array:
  """Whether the best text of the batch for a clip is one of its own candidates.

  Args: as `mil_nce`. Returns: [B] bool; False on a tie with the text of another clip.
  """
  masks = dict(where=where, video_where=video_where)
  (other, best), _ = _totals(video, text, _BEST, tau=1.0, **masks)
  return best > other


def nt_xent(
  first: jax.Array,
  second: jax.Array,
  *,
  where: jax.Array | bool = True,
  first_where: jax.Array | bool = True,
  tau: float | jax.Array = 0.1,
  normalize: bool = True,
  chunk: int | None = None,
) -> jax.Array:
  """NT-Xent of SimCLR over two views, one value per pair (arXiv 2002.05709, eq. 1).

    l(a, b) = log sum_{c != a} exp(s_ac / tau) - s_ab / tau,   L_i = l(1, 2) + l(2, 1)

  where c runs over the 2B views of the batch, but for a itself. The mean of L is the
  published code's loss, twice the paper's mean over 2B anchors.

  Args:
    first, second: [B, D] float, two views of each example.
    where, first_where: [B] bool, which rows have the second and the first view. A lone
      view stays a negative of the others.
    tau: 0.1 for ImageNet, 0.5 for CIFAR.
    normalize: cosines; otherwise dot products.
  Returns: [B] float32 in nats, 0 in rows without both.
  """
  given = dict(where=where, first_where=first_where, tau=tau, normalize=normalize)
  return _nt_xent(first, second, (), chunk=chunk, **given)[0]


def nt_xent_and_matches(first, second, **given) -> tuple[jax.Array, jax.Array]:
  """`nt_xent`, and for each view whether no stranger is as close as its partner.

  Returns: [B] and [B, 2] bool; False on a tie.
  """
  more = (
    Stat("column", pair_stats.strangers, "max"),
    Stat("column", pair_stats.partner, "max"),
  )
  loss, (other, best) = _nt_xent(first, second, more, **given)
  return loss, best > other


def _nt_xent(
  first,
  second,
  more,
  *,
  where=True,
  first_where=True,
  tau=0.1,
  normalize=True,
  chunk=None,
):
  if first.ndim != 2 or first.shape != second.shape:
    raise ValueError(f"{first.shape} and {second.shape} are not [B, D], [B, D].")
  norm = unit if normalize else wide
  where, first_where = (jnp.broadcast_to(w, len(first)) for w in (where, first_where))
  # One after the other, so that both views of a row stay on its device.
  views = [_seen(first, first_where, norm), _seen(second, where, norm)]
  views = jnp.stack(views, axis=1).reshape(-1, first.shape[-1])
  views = views / jnp.sqrt(tau)  # rows and columns are one array
  real = jnp.stack([first_where, where], axis=1)  # [B, 2]
  stats = tuple(Stat("column", r) for r in (pair_stats.others, pair_stats.partner))
  masks = dict(row_where=real.reshape(-1), column_where=real.reshape(-1, 1))
  totals = blockwise.reduce(views, views[:, None], stats + more, chunk=chunk, **masks)
  row = real.all(1)
  every, pair, *rest = (jnp.where(row[:, None], x.reshape(-1, 2), 0.0) for x in totals)
  return (every - pair).sum(1), rest


def symmetric(
  video: jax.Array,
  text: jax.Array,
  *,
  where: jax.Array | bool = True,
  video_where: jax.Array | bool = True,
  tau: float | jax.Array = 0.05,
  chunk: int | None = None,
) -> jax.Array:
  """Softmax over texts plus softmax over videos, of cosines, one value per pair.

    L_i = -log softmax_j(s_ij / tau)_i - log softmax_j(s_ji / tau)_i

  The directions are added (NormSoftmax of Frozen in Time, arXiv 2104.00650, eq. 1-2);
  CLIP takes half of it.

  Args:
    video, text: [B, D] float of any norm.
    where, video_where: [B] bool, which rows have the text and the clip; a lone one
      stays a negative of the others.
  Returns: [B] float32 in nats, 0 in rows without both.
  """
  given = dict(where=where, video_where=video_where, tau=tau, chunk=chunk)
  return _directions(video, text, (_OWN,), (), **given)[0]


def symmetric_and_matches(video, text, **given) -> tuple[jax.Array, jax.Array]:
  """`symmetric` and `matches` of the same scores; arguments of the first."""
  loss, (other, best) = _directions(video, text, (_OWN,), _BEST, **given)
  return loss, best > other


def ego(
  video: jax.Array,
  text: jax.Array,
  tags: Sequence[jax.Array],
  *,
  where: jax.Array | bool = True,
  video_where: jax.Array | bool = True,
  tau: float | jax.Array = 0.05,
  chunk: int | None = None,
) -> jax.Array:
  """EgoNCE: `symmetric` with further positives by content (arXiv 2206.01670, eq. 4).

    L_i = -log(sum_j p_ij exp(s_ij / tau) / sum_j exp(s_ij / tau)) + the other direction

  with p_ij = 1 where i and j share an entry of every one of `tags`, or are the same.
  The sum stands inside the logarithm. Scene-aware negatives are further rows.

  Args:
    video, text, where, video_where: as `symmetric`.
    tags: [B, V] arrays, multi-hot: verbs and nouns of EgoClip, or one of the two.
  Returns: [B] float32 in nats, 0 in rows without both.
  """
  given = dict(where=where, video_where=video_where, tau=tau, chunk=chunk)
  return _ego(video, text, tags, (), **given)[0]


def ego_and_matches(video, text, tags, **given) -> tuple[jax.Array, jax.Array]:
  """`ego` and `matches` of the same scores; arguments of the first."""
  loss, (other, best) = _ego(video, text, tags, _BEST, **given)
  return loss, best > other


def _ego(video, text, tags, more, **given):
  tags = tuple(tags)
  if not tags or any(t.ndim != 2 or 0 in t.shape or len(t) != len(video) for t in tags):
    shapes = [t.shape for t in tags]
    raise ValueError(f"tags {shapes}: give arrays [{len(video)}, V], such as verbs.")
  sharing = tuple(Stat(axis, pair_stats.sharing) for axis in ("row", "column"))
  return _directions(video, text, sharing, more, tags=tags, **given)


def _directions(
  video, text, positives, more, *, where=True, video_where=True, tau=0.05, **given
):
  """Denominators less positives, by row and by column; further totals."""
  video, text, masks = _pairs(video, text, where, video_where)
  stats = (_ROW, _COLUMN, *positives, *more)
  totals, _ = _totals(video, text, stats, tau=tau, **masks, **given)
  across, down, *found = totals
  one, other = found[0], found[len(positives) - 1]  # the same, or one each
  return (across - one) + (down - other), found[len(positives) :]


def sigmoid(
  video: jax.Array,
  text: jax.Array,
  *,
  scale: float | jax.Array,
  bias: float | jax.Array,
  where: jax.Array | bool = True,
  video_where: jax.Array | bool = True,
  chunk: int | None = None,
) -> jax.Array:
  """Every pair of a clip and a text as a question of its own, one value per text.

    L_j = log(1 + exp(-x_jj)) + sum_{i != j} log(1 + exp(x_ij)),  x = scale * cos + bias

  Source: arXiv 2303.15343 (SigLIP), alg. 1; the mean over rows is its loss.

  Args:
    video, text: [B, D] float of any norm.
    scale, bias: scalars, usually learnt: exp(t') and b, from 10 and -10.
    where, video_where: [B] bool, which rows have the text and the clip. A lone clip
      stays a negative of all texts; a lone text counts nowhere.
  Returns: [B] float32 in nats, 0 in rows without both.
  """
  given = dict(where=where, video_where=video_where, chunk=chunk)
  return _sigmoid(video, text, (), scale, bias, **given)[0]


def sigmoid_and_matches(video, text, *, scale, bias, **given):
  """`sigmoid` and `matches` of the same scores; arguments of the first."""
  loss, (other, best) = _sigmoid(video, text, _BEST, scale, bias, **given)
  return loss, best > other


def _sigmoid(
  video, text, more, scale, bias, *, where=True, video_where=True, chunk=None
):
  video, text, masks = _pairs(video, text, where, video_where)
  stats = (Stat("column", pair_stats.others, "softplus"), _OWN, *more)
  bias = jnp.asarray(bias, video.dtype)
  given = dict(tau=1.0, bias=bias, chunk=chunk)
  totals, row = _totals(video * scale, text, stats, **given, **masks)
  negative, positive, *rest = totals
  return jnp.where(row, negative + jax.nn.softplus(-positive), 0.0), rest


def max_margin(
  video: jax.Array,
  text: jax.Array,
  *,
  margin: float | jax.Array = 0.2,
  where: jax.Array | bool = True,
  video_where: jax.Array | bool = True,
) -> jax.Array:
  """Hinge on cosines against every other pair of the batch, one value per pair.

    L_i = sum_{j != i} (relu(m_i - s_ii + s_ij) + relu(m_i - s_ii + s_ji)) / (2 (n - 1))

  over the n real pairs: their mean is that over all terms (MI-MM of EgoVLP, Frozen in
  Time). It forms all B x B scores on each device: it is for fine-tuning.

  Args:
    video, text: [B, D] float of any norm.
    margin: 0.2, or [B], for example the relevance of a sampled caption times 0.4.
    where, video_where: [B] bool, which rows have the text and the clip; others count
      nowhere.
  Returns: [B] float32, 0 in rows without both and where there is one pair only.
  """
  video, text, masks = _pairs(video, text, where, video_where)
  row = _bags(video, text, **masks)[-1]
  video, text = (jnp.where(row[:, None], x, 0.0) for x in (video, text[:, 0]))
  s = jnp.dot(video, text.T, precision="highest")
  least = (jnp.diagonal(s) - margin)[:, None]
  loss = jax.nn.relu(s - least) + jax.nn.relu(s.T - least)
  pair = row[:, None] & row & ~jnp.eye(len(s), dtype=bool)
  count = jnp.maximum(row.sum() - 1, 1)
  return jnp.where(pair, loss, 0.0).sum(1) / (2 * count)
