"""Contrastive losses over the whole batch, as functions of arrays.

Under `jax.jit` arrays are global, so negatives come from every device without gathers.
"""

import jax
import jax.numpy as jnp

from vlp_jax.metrics import wide


def mil_nce(
  video: jax.Array,
  text: jax.Array,
  *,
  where: jax.Array | bool = True,
  video_where: jax.Array | bool = True,
  tau: float = 1.0,
  positives: str = "twice",
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
  Returns: [B] float32 in nats; 0, with zero gradient, in rows without clip or
    candidate: the weight of a row is `video_where & where.any(1)`.
  Raises: ValueError for shapes that do not agree or an unknown switch.
  """
  if text.ndim != 3 or text.shape[::2] != video.shape:
    raise ValueError(
      f"video {video.shape} and text {text.shape} are not [B, D], [B, K, D]."
    )
  if positives not in ("twice", "once"):
    raise ValueError(f"positives is {positives!r}; give 'twice' or 'once'.")
  where = jnp.broadcast_to(where, text.shape[:2])
  video_where = jnp.broadcast_to(video_where, video.shape[:1])
  # Masked embeddings are zeroed first: not even an infinite one reaches a gradient.
  video = jnp.where(video_where[:, None], wide(video), 0.0)
  text = jnp.where(where[..., None], wide(text), 0.0)
  s = jnp.einsum("id,jkd->ijk", video, text, precision="highest") / tau
  real = video_where[:, None, None] & where[None]
  s = jnp.where(real, s, -jnp.inf)
  own = jnp.eye(len(s), dtype=bool)[..., None] & (positives == "once")
  both = jnp.concatenate([s, jnp.where(own, -jnp.inf, s.swapaxes(0, 1))], axis=1)
  # Empty rows see zeros: behind a mask, logsumexp of -inf still has a NaN gradient.
  row = video_where & where.any(1)  # [B]
  positive = jnp.where(row, jnp.diagonal(s), 0.0)  # [K, B]
  both = jnp.where(row[:, None, None], both, 0.0)  # [B, 2B, K]
  loss = jax.nn.logsumexp(both, axis=(1, 2)) - jax.nn.logsumexp(positive, axis=0)
  return jnp.where(row, loss, 0.0)


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
  tau: float = 0.07,
  positives: str = "twice",
) -> jax.Array:
  """`mil_nce` with one partner a clip, on unit vectors: cosines over tau.

  The form of MMV (arXiv 2006.16228, eq. 2) for video against audio; tau is 0.07 there.

  Args:
    video, text: [B, D] float, both sides, of any norm.
    where, video_where: [B] bool, which rows have the right and the left side.
  Returns: [B] float32 in nats, 0 in rows without both.
  """
  where = jnp.broadcast_to(where, text.shape[:1])[:, None]
  return mil_nce(
    unit(video),
    unit(text)[:, None],
    where=where,
    video_where=video_where,
    tau=tau,
    positives=positives,
  )


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
  where = jnp.broadcast_to(where, text.shape[:2])
  real = jnp.broadcast_to(video_where, video.shape[:1])[:, None, None] & where[None]
  s = jnp.einsum("id,jkd->ijk", wide(video), wide(text))
  best = jnp.where(real, s, -jnp.inf).max(-1)  # [B, B]
  own = jnp.eye(len(best), dtype=bool)
  other = jnp.where(own, -jnp.inf, best).max(-1)
  return jnp.diagonal(best) > other
