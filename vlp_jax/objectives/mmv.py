"""The losses of MMV over its joint spaces (arXiv 2006.16228, eq. 1-3).

They read video_mask [B, T], audio_mask [B, S], narration_mask [B, K, L] or text_mask
[B, L], example_id and example_mask [B]; the model reads the rest. Negatives are those
of the global batch, so the step takes it at once (`global_batch`).
"""

from typing import Literal

import jax
import jax.numpy as jnp

from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import nce as nce_lib

FORMS = ("asymmetric", "symmetric")
# pair -> (left embedding, right one), and the streams that they are of
PAIRS = {
  "va": ("video_embed_audio", "audio_embed"),
  "vt": ("video_embed", "text_embed"),
  "at": ("audio_embed_text", "text_embed"),
}
STREAMS = {"va": ("video", "audio"), "vt": ("video", "text"), "at": ("audio", "text")}


def symmetric(
  left: jax.Array,
  right: jax.Array,
  *,
  where: jax.Array | bool = True,
  left_where: jax.Array | bool = True,
  tau: float = 0.07,
) -> jax.Array:
  """Both directions of a bag loss, each with its own denominator, one value per row.

    L_i = (log sum_jk exp s_ijk - p_i) + (log sum_jk exp s_jik - p_i)

  with s_ijk = <x_i, y_jk> / tau and p_i = log sum_k exp s_iik. At perfect separation it
  is 0, where the asymmetric form has log 2. All B x B x K scores are in memory.

  Args:
    left, right: [B, D], [B, K, D] float, cosines are compared.
    where, left_where: [B, K], [B] bool, what is real; rest as `nce.mil_nce`.
  Returns: [B] float32 in nats, 0 in rows without either side.
  """
  where = jnp.broadcast_to(where, right.shape[:2])
  left_where = jnp.broadcast_to(left_where, left.shape[:1])
  left = jnp.where(left_where[:, None], nce_lib.unit(left), 0.0)
  right = jnp.where(where[..., None], nce_lib.unit(right), 0.0)
  s = jnp.einsum("id,jkd->ijk", left, right, precision="highest") / tau
  s = jnp.where(left_where[:, None, None] & where[None], s, -jnp.inf)
  row = left_where & where.any(1)
  # Empty rows see zeros: behind a mask, logsumexp of -inf still has a NaN gradient.
  safe = lambda x: jnp.where(row[:, None], x, 0.0)
  lse = lambda x: jax.nn.logsumexp(safe(x), axis=1)
  own = lse(jnp.diagonal(s).T)
  across = lse(s.reshape(len(s), -1))
  down = lse(s.swapaxes(0, 1).reshape(len(s), -1))
  return jnp.where(row, across + down - 2 * own, 0.0)


def mmv(
  apply,
  variables,
  batch,
  key,
  *,
  va: float = 1.0,
  vt: float = 1.0,
  at: float = 0.0,
  tau: float = 0.07,
  form: Literal[*FORMS] = "asymmetric",
  positives: nce_lib.Positives = "twice",
  normalise_weights: bool = False,
  at_outputs: tuple[str, str] = PAIRS["at"],
):
  """L = va NCE(video, sound) + vt MIL-NCE(video, narrations) + at MIL-NCE(sound, ...).

  Each is the mean over the rows of the batch that have both modalities; the others are
  neither positive nor negative in it where a side is missing, and stay negatives with
  the side that they have. A pair whose modality is not in the batch has no term.

  Args:
    va, vt, at: weights; 0 leaves a pair out. 1 and 1 on HowTo100M with AudioSet. On
      HowTo100M alone the paper's ratio is 10 to 1, the larger on video and text. `at`
      needs a model with `audio_text` in the fac graph.
    tau: temperature of the cosines.
    form: "asymmetric", rows and columns in one denominator, as the published code of
      this loss has it (with the positives there twice or once: `positives`), or
      "symmetric", one denominator a direction.
    normalise_weights: divides by the sum of the weights of the pairs in the batch.
    at_outputs: what `at` compares. The disjoint graph has a space of its own for sound
      and words: ("audio_embed_text", "text_embed_audio").
  Returns: terms `va`, `vt`, `at` in nats; metrics `<pair>/accuracy`, the share of rows
    whose best partner in the batch is their own; the new batch statistics.
  """
  if form not in FORMS:
    raise ValueError(f"form is {form!r}; give one of {FORMS}.")
  rng = jax.random.fold_in(key, batch["example_id"][0])
  out, mutable = apply(variables, batch, rng=rng, train=True)
  real = _real(batch)
  weights = {"va": va, "vt": vt, "at": at}
  pairs = [k for k, w in weights.items() if w and set(STREAMS[k]) <= set(real)]
  if not pairs:
    raise ValueError(
      f"the batch has {sorted(real)}, the weights are {weights}: no pair is left."
    )
  share = sum(weights[k] for k in pairs) if normalise_weights else 1.0
  terms, aux = {}, {}
  for pair in pairs:
    one, other = at_outputs if pair == "at" else PAIRS[pair]
    missing = [k for k in (one, other) if k not in out]
    if missing:
      raise ValueError(
        f"the model returned no {missing}, which the weight {pair}={weights[pair]} "
        "needs; the fac graph gives audio_embed_text with model.audio_text=True only."
      )
    left, right = out[one], out[other]
    where, right_where = (real[s] for s in STREAMS[pair])
    if right.ndim == 2:
      right, right_where = right[:, None], right_where[:, None]
    masks = dict(where=right_where)
    left, right = nce_lib.unit(wide(left)), nce_lib.unit(wide(right))
    if form == "symmetric":
      loss = symmetric(left, right, left_where=where, tau=tau, **masks)
    else:
      masks["video_where"] = where
      loss = nce_lib.mil_nce(left, right, tau=tau, positives=positives, **masks)
    row = where & right_where.any(1)
    terms[pair] = Term(*Mean.of(loss, row), coef=weights[pair] / share)
    right_one = nce_lib.matches(left, right, where=right_where, video_where=where)
    aux[f"{pair}/accuracy"] = Mean.of(right_one, row)
  return terms, aux, mutable


mmv.global_batch = True


def _real(batch):
  """stream -> bool, which rows (and which of several texts) are there."""
  out = {}
  for stream in ("video", "audio", "narration", "text"):
    if f"{stream}_mask" in batch:
      out[stream] = batch[f"{stream}_mask"].any(-1)
  if "narration" in out:
    out["text"] = out.pop("narration")
  if "example_mask" in batch:
    keep = batch["example_mask"]
    out = {k: x & keep.reshape(-1, *[1] * (x.ndim - 1)) for k, x in out.items()}
  return out
