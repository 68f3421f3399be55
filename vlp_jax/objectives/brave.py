"""BraVe: regression between a narrow view and broad ones (arXiv 2103.16559)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vlp_jax.augment import colours
from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import views as views_lib

FLOOR = 1e-5  # of a norm, in the released code
_BOTH = dict(
  crop=dict(area=(0.3, 1.0), aspect=(0.5, 2.0)),
  flip={},
  jitter=colours.DMVR,
  grey=dict(p=0.2),
  blur=dict(p=1.0),
)
NARROW = _BOTH | dict(size=224)
BROAD = _BOTH | dict(size=112, convolve={})


def regression(x: jax.Array, y: jax.Array) -> jax.Array:
  """[B] of | x / |x| - y / |y| |^2 / 2 = 1 - cos(x, y); none flows into y.

  Norms are at least 1e-5, as in the released code: shorter vectors stay short.
  """
  x, y = _unit(wide(x)), _unit(jax.lax.stop_gradient(wide(y)))
  return 0.5 * jnp.square(x - y).sum(-1)


def _unit(x):
  # The floor is under the root: the derivative of a norm at 0 is no number.
  return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), FLOOR**2))


def brave(
  apply,
  variables,
  batch,
  key,
  *,
  narrow: Mapping = NARROW,
  broad: Mapping = BROAD,
  narrow_frames: int = 16,
  broad_stride: int = 2,
):
  """Each broad view from the narrow one and back, the mean of all terms.

    L = mean_b [ l(h_b, sg(z_n)), l(h_n, sg(z_b)) ],   l = `regression`

  with z the projections and h the predictions of the model. The stream gives one window
  of video with its sound; the views are made of it here, and begin together.

  Reads: video_frames [B, T, H, W, 3], video_mask; audio_samples, audio_mask [B, S] for
  a broad view of sound; example_id.

  Args:
    narrow: settings of `objectives.views` for the first `narrow_frames` frames.
    broad: the same for every `broad_stride`-th of all T frames, of which the broad view
      of video is made; 0 for no such view.
  Returns: terms broad_from_narrow and narrow_from_broad, `<view>/...`; metric
    `<view>/cosine`, the mean cosine of predictions and their targets. Rows without a
    view of a pair do not count.
  """
  narrow_key, broad_key, drop_key = jax.random.split(key, 3)
  frames, mask = batch["video_frames"], batch["video_mask"]
  cut = lambda x: batch | dict(zip(("video_frames", "video_mask"), x, strict=True))
  first = cut((frames[:, :narrow_frames], mask[:, :narrow_frames]))
  seen = views_lib.make(first, narrow_key, narrow, stream="video")
  real = {"video": views_lib.real(first, "video")}
  if broad_stride:
    every = cut((frames[:, ::broad_stride], mask[:, ::broad_stride]))
    view = views_lib.make(every, broad_key, broad, stream="video")
    seen |= {k.replace("video_", "video_broad_"): x for k, x in view.items()}
    real["video_broad"] = views_lib.real(every, "video")
  if "audio_samples" in batch:
    seen |= {k: batch[k] for k in ("audio_samples", "audio_mask")}
    real["audio"] = views_lib.real(batch, "audio")
  rng = jax.random.fold_in(drop_key, batch["example_id"][0])
  out, mutable = apply(variables, seen, rng=rng, train=True)
  views = [v for v in real if v != "video" and f"{v}_projection" in out]
  if not views:
    raise ValueError(
      f"no broad view: the model returns {sorted(out)}; set model.broad to what "
      "the batch has, and broad_stride for video."
    )
  terms, aux, share = {}, {}, 1.0 / (2 * len(views))
  z, h = out["video_projection"], out["video_prediction"]
  for name in views:
    where = real["video"] & real[name]
    to = regression(out[f"{name}_prediction"], z)
    back = regression(h, out[f"{name}_projection"])
    terms[f"{name}/narrow_from_broad"] = Term(*Mean.of(to, where), coef=share)
    terms[f"{name}/broad_from_narrow"] = Term(*Mean.of(back, where), coef=share)
    aux[f"{name}/cosine"] = Mean.of(1.0 - (to + back) / 2, where)
  return terms, aux, mutable
