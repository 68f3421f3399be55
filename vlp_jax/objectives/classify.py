"""Classification: softmax cross entropy, and sigmoids for several labels a row.

Both read the label of a row, `logits` of the model and, if it returns one, its
`logits_mask` (rows without sound or frames classify nothing). Logits may carry windows,
[B, N, K]: each window answers for itself, and may have a label of its own. In training
the clip of a row is drawn by the pipeline, several times an epoch where a recipe says
so; dropout is the model's.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import masking
from vlp_jax.objectives import views as views_lib


def softmax(
  apply,
  variables,
  batch,
  key,
  *,
  label="label",
  output="logits",
  smoothing=0.0,
  top=(1, 5),
  views: Mapping | None = None,
  stream: views_lib.Stream = "audio",
):
  """Mean over rows (and windows) with a known label of -log softmax(logits)[label].

  Args:
    label: batch key, [B] or [B, N] int, -1 where unknown.
    smoothing: share of the target that is spread evenly over all classes.
    top: the cut-offs k of the metrics `accuracy@k`.
    views: settings of `objectives.views` for what the model sees of `stream` ("audio",
      "video" or "image") in place of the batch's; None for the batch as it is.
  """
  view_key, key = jax.random.split(key) if views is not None else (key, key)
  if views is not None:
    batch = {**batch, **views_lib.make(batch, view_key, views, stream=stream)}
  logits, where, target, mutable = _forward(apply, variables, batch, key, output, label)
  if target.ndim == 1:
    target = jnp.broadcast_to(_windowed(target, logits), logits.shape[:-1])
  if target.shape != logits.shape[:-1]:
    raise ValueError(
      f"{label} has shape {target.shape}; softmax wants [B] int, or one of each window "
      f"of logits {logits.shape}."
    )
  where = where & (target >= 0)
  at = jnp.where(where, target, 0)
  loss = cross_entropy(logits, at, smoothing=smoothing)
  own = jnp.take_along_axis(logits, at[..., None], axis=-1)
  rank = (logits > own).sum(-1)
  aux = {f"accuracy@{k}": Mean.of(rank < k, where) for k in top}
  return {"classify": Term(*Mean.of(loss, where))}, aux, mutable


def sigmoid(apply, variables, batch, key, *, label="label", output="logits"):
  """Mean over rows of the mean binary cross entropy of their rated classes.

  Args:
    label: batch key, [B, K] of zeros and ones, negative where a class is not rated. A
      row without any does not count.
  """
  logits, where, target, mutable = _forward(apply, variables, batch, key, output, label)
  if target.ndim != 2:
    raise ValueError(f"{label} has shape {target.shape}; sigmoid wants [B, K].")
  target = jnp.broadcast_to(_windowed(target, logits), logits.shape)
  rated = target >= 0
  loss = optax.sigmoid_binary_cross_entropy(logits, wide(jnp.maximum(target, 0)))
  count = rated.sum(-1)
  loss = jnp.where(rated, loss, 0.0).sum(-1) / jnp.maximum(count, 1)
  return {"classify": Term(*Mean.of(loss, where & (count > 0)))}, {}, mutable


def cross_entropy(
  logits: jax.Array, label: jax.Array, *, smoothing: float = 0.0
) -> jax.Array:
  """Softmax cross entropy in nats, unreduced.

  Args:
    logits: [..., K]; label: [...] int in 0..K-1.
    smoothing: target = (1 - smoothing) one_hot + smoothing / K.
  Returns: [...] float32.
  """
  logp = jax.nn.log_softmax(wide(logits))
  own = jnp.take_along_axis(logp, label[..., None], axis=-1)[..., 0]
  return -(1 - smoothing) * own - smoothing * logp.mean(-1)


def _forward(apply, variables, batch, key, output, label):
  """(logits float32, rows that count, labels, mutable)."""
  if label not in batch:
    raise KeyError(f"classify wants {label} in the batch, which holds {sorted(batch)}.")
  rng = masking.drop_rng(key, batch["example_id"])
  out, mutable = apply(variables, batch, rng=rng, train=True)
  logits = wide(out[output])
  rows = batch.get("example_mask", jnp.ones(len(logits), bool))
  where = out.get("logits_mask", jnp.ones(logits.shape[:-1], bool))
  return logits, where & _windowed(rows, logits), batch[label], mutable


def _windowed(x, logits):
  """[B, ...] with an axis of windows where logits, [B, K] or [B, N, K], have one."""
  return x[:, None] if logits.ndim == 3 else x
