"""Audio-visual correspondence: does the picture belong to the sound?

The task of L3-Net (arXiv 1705.08168), AVE-Net and AVOL-Net (arXiv 1712.06651). It reads
video_frames [B, T, H, W, 3], video_mask [B, T], the sound that spans them as
audio_samples, audio_mask [B, S], example_id and, if there, group_id and example_mask
[B]. Real frames and samples come first. Rows meet, so the step takes the batch at once
(`global_batch`).
"""

import functools

import jax
import jax.numpy as jnp

from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import masking, pairing


def match_xent(logits: jax.Array, match: jax.Array) -> jax.Array:
  """Cross entropy of yes and no, one value per pair [P] in nats.

  Args: logits [P], or [P, 2] of (no, yes), whose difference counts; match [P] bool.
  """
  logits = wide(logits)
  if logits.ndim == 2:
    logits = logits[:, 1] - logits[:, 0]
  return jax.nn.softplus(jnp.where(match, -logits, logits))


def pick(
  key: jax.Array, batch, *, window: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """A frame of each row, and the window of sound around it.

  Frame k of T stands k S / T samples after the beginning of the sound; the window has
  it in the middle, or as near to it as the real samples allow.

  Returns: [B] int32 each: k, uniform among the real frames, the window's first sample,
    and the last place at which a window can begin.
  """
  mask, heard = batch["video_mask"], batch["audio_mask"]
  keys = masking.row_keys(key, batch["example_id"])
  k = pairing.integers(jax.vmap(jax.random.uniform)(keys), mask.sum(1))
  last = jnp.maximum(heard.sum(1) - window, 0)
  centre = k * heard.shape[1] // mask.shape[1]
  return k, jnp.clip(centre - window // 2, 0, last), last


def avc(
  apply,
  variables,
  batch,
  key,
  *,
  audio_hz: int = 48_000,
  window_s: float = 1.0,
  period_s: float | None = None,
  volume: float = 0.1,
):
  """Mean cross entropy over B right and B wrong pairs of a picture and a sound.

    L = sum_i [ CE(score(v_i, a_i), yes) + CE(score(v_i, a_j), no) ] / 2 B

  with j a row of another clip: `pairing.partners`, a permutation. A row whose clip is
  the only one of the batch has neither pair. A frame is drawn in each row; the right
  sound is the second around it.

  Args:
    audio_hz, window_s: sampling rate, and length of the sound that the model hears. The
      batch may hold more; then windows are cut here.
    period_s: None takes the window of the other row as it is cut for its own picture,
      and needs no further pass of the sound network. A number cuts wrong sounds at any
      multiple of so many seconds in their clip: 0 at any sample, as L3-Net does, 0.04
      at the period of the frames, as AVE-Net. In clips stored at 25 frames a second
      right windows begin at multiples of 0.04 s of the file and wrong ones must too,
      or the network hears the difference: the accuracy rises from 81.9 to 87.6 % and
      retrieval falls by 1 to 2 %. The windows of `narrated_clips` begin anywhere in
      the file, so that here only the place relative to the frames could tell.
    volume: loudness changes by a factor of 1 - volume to 1 + volume, row by row.
  Returns: term `avc` in nats; metrics `avc/accuracy`, `avc/right` and `avc/wrong`, the
    same of right and of wrong pairs alone; the new batch statistics.
  """
  window = round(window_s * audio_hz)
  if window > batch["audio_samples"].shape[1] or window < 1:
    raise ValueError(
      f"window_s={window_s} is {window} samples at {audio_hz} Hz; the batch has "
      f"{batch['audio_samples'].shape[1]}. Let the input span more time."
    )
  frame_key, pair_key, gain_key, place_key, drop_key = jax.random.split(key, 5)
  example_id = batch["example_id"]
  there = batch["video_mask"].any(1) & batch["audio_mask"].any(1)
  there &= batch.get("example_mask", True)
  group = batch.get("group_id", example_id)
  partner, real = pairing.partners(pair_key, group, example_id, there)
  k, first, last = pick(frame_key, batch, window=window)
  rng = masking.drop_rng(drop_key, example_id)
  seen = {
    name: pairing.cut(batch[f"video_{name}"], k, 1) for name in ("frames", "mask")
  }
  hear = functools.partial(windows, batch, gain_key, window=window, volume=volume)
  heard, wrong = hear(first), partner
  if period_s is not None:
    step = max(round(period_s * audio_hz), 1)
    u = jax.vmap(jax.random.uniform)(masking.row_keys(place_key, example_id))
    more = hear(step * pairing.integers(u, last // step + 1))
    heard = {n: jnp.concatenate([x, more[n]]) for n, x in heard.items()}
    wrong = len(partner) + partner
  out, mutable = encode(
    apply, variables, {f"video_{n}": x for n, x in seen.items()}, heard, rng
  )
  at = jnp.concatenate([jnp.arange(len(wrong)), wrong])
  logits = score(apply, dict(variables) | mutable, out, at)
  match = jnp.arange(len(at)) < len(wrong)
  where = jnp.concatenate([real, real])
  yes = logits[:, 1] > logits[:, 0] if logits.ndim == 2 else logits > 0
  aux = {
    "avc/accuracy": Mean.of(yes == match, where),
    "avc/right": Mean.of(yes, where & match),
    "avc/wrong": Mean.of(~yes, where & ~match),
  }
  return {"avc": Term(*Mean.of(match_xent(logits, match), where))}, aux, mutable


avc.global_batch = True


def windows(batch, key, first, *, window: int, volume: float = 0.0):
  """audio_samples [B, window] float32 in -1..1 from `first` on, and audio_mask."""
  samples = pairing.cut(batch["audio_samples"], first, window)
  if not jnp.issubdtype(samples.dtype, jnp.floating):
    samples = samples.astype(jnp.float32) / 32768
  keys = masking.row_keys(key, batch["example_id"])
  draw = lambda key: jax.random.uniform(key, (), samples.dtype, -volume, volume)
  samples = wide(samples) * (1 + jax.vmap(draw)(keys))[:, None]
  mask = pairing.cut(batch["audio_mask"], first, window)
  return {"audio_samples": samples, "audio_mask": mask}


def encode(apply, variables, seen, heard, rng):
  """(outputs of both encoders, new collections); the numbers of rows may differ."""
  run = dict(rng=rng, train=True)
  video, mutable = apply(variables, seen, method="encode_video", **run)
  variables = dict(variables) | mutable
  audio, more = apply(variables, heard, method="encode_audio", **run)
  return dict(video) | dict(audio), dict(mutable) | dict(more)


def score(apply, variables, out, at):
  """match_logits of picture p mod B with sound at[p]; at: [P], P a multiple of B."""
  rows = {
    k: x[at]
    if k.startswith("audio")
    else jnp.tile(x, (len(at) // len(x), *[1] * (x.ndim - 1)))
    for k, x in out.items()
  }
  return apply(variables, rows, train=False, method="score")[0]["match_logits"]
