"""Audio-visual synchronisation: is it the sound of this moment? (arXiv 1807.00230)

Reads video_frames [B, T, H, W, 3], video_mask [B, T], the sound that spans them as
audio_samples, audio_mask [B, S], example_id and, if there, group_id and example_mask
[B]. Real frames and samples come first. The batch holds more time than a clip of the
model, so that the same clip has other moments to offer. Rows meet, so the step takes
the batch at once (`global_batch`).
"""

import jax
import jax.numpy as jnp

from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import correspondence, masking, pairing

KINDS = ("easy", "hard", "super_hard")


def distance(video: jax.Array, audio: jax.Array) -> jax.Array:
  """|v - a| [P] of [P, D]; its gradient is 0, not infinite, where they are equal."""
  square = jnp.square(wide(video) - wide(audio)).sum(-1)
  some = square > 0
  return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)


def contrastive(far: jax.Array, match: jax.Array, margin: float = 0.99) -> jax.Array:
  """y d^2 + (1 - y) max(margin - d, 0)^2, one value per pair; far, match [P]."""
  return jnp.where(match, jnp.square(far), jnp.square(jnp.maximum(margin - far, 0.0)))


def avts(
  apply,
  variables,
  batch,
  key,
  *,
  clip_frames: int,
  audio_hz: int,
  margin: float = 0.99,
  hard_fraction: float = 0.0,
  super_hard_fraction: float = 0.0,
  min_gap_seconds: float = 0.5,
  min_shift_seconds: float = 0.1,
  volume: float = 0.0,
):
  """Mean contrastive loss over B synchronous and B other pairs.

    E = sum over 2 B pairs [ y d^2 + (1 - y) max(margin - d, 0)^2 ] / 2 B,  d = |v - a|

  The pictures are `clip_frames` in a row, drawn in each row, and the sound of a pair
  lasts as long. The wrong sound of a row is

    easy        of another clip, the window that is synchronous there
    hard        of the same clip, at least `min_gap_seconds` before it begins or after
                it ends
    super_hard  of the same clip, overlapping, moved by at least `min_shift_seconds`
                (studied in the paper, not used)

  each row by its own draw; where the clip has no room for its kind it is easy. The
  curriculum is a second task with a `start`: the first has easy ones only, and a row
  whose clip is the only one of the batch and that has no hard one has neither pair.

  Args:
    clip_frames: of the model's clips; S / T samples of sound belong to each.
    hard_fraction, super_hard_fraction: shares of the rows; with neither, no sound goes
      through the network twice.
    volume: see `correspondence.avc`.
  Returns: term `avts`; metrics `avts/accuracy`, pairs on the right side of half the
    margin, `avts/two_way`, rows whose own sound is nearer than the other, and
    `avts/hard`, `avts/super_hard`, the shares of rows with such a negative; the new
    batch statistics.
  """
  length, samples = batch["video_mask"].shape[1], batch["audio_samples"].shape[1]
  window = clip_frames * samples // length
  gap, shift = (round(s * audio_hz) for s in (min_gap_seconds, min_shift_seconds))
  shares = dict(hard=hard_fraction, super_hard=super_hard_fraction)
  if min(shares.values()) < 0 or sum(shares.values()) > 1:
    raise ValueError(f"shares of kinds of negatives are {shares}; expected 0 to 1.")
  if not 1 <= clip_frames <= length:
    raise ValueError(f"clip_frames={clip_frames}, but the batch has {length} frames.")
  if hard_fraction and samples < 2 * window + gap:
    raise ValueError(
      f"a hard negative needs {2 * window + gap} samples of sound (two clips and "
      f"{min_gap_seconds} s); the batch has {samples}. Let the input span more time."
    )
  place_key, pair_key, kind_key, shift_key, gain_key, drop_key = jax.random.split(
    key, 6
  )
  example_id = batch["example_id"]
  draw = lambda key: jax.vmap(jax.random.uniform)(masking.row_keys(key, example_id))

  # The clip: any frames k .. k + F that are real, with their sound.
  frames, last = batch["video_mask"].sum(1), batch["audio_mask"].sum(1) - window
  ways = jnp.minimum(frames - clip_frames, last * length // samples) + 1
  there = (ways > 0) & (last >= 0) & batch.get("example_mask", True)
  k = pairing.integers(draw(place_key), ways)
  first = k * samples // length
  group = batch.get("group_id", example_id)
  partner, found = pairing.partners(pair_key, group, example_id, there)

  seen = {
    f"video_{n}": pairing.cut(batch[f"video_{n}"], k, clip_frames)
    for n in ("frames", "mask")
  }
  cut = lambda batch, first: correspondence.windows(
    batch, gain_key, first, window=window, volume=volume
  )
  heard, wrong, kind = cut(batch, first), partner, jnp.zeros(len(k), jnp.int32)
  if sum(shares.values()):
    u, at = draw(kind_key), draw(shift_key)
    hard_at, room = pairing.shifted(
      at, first, least=window + gap, most=samples, last=last
    )
    near_at, near = pairing.shifted(at, first, least=shift, most=window - 1, last=last)
    kind = jnp.where((u < hard_fraction) & room, 1, 0)
    close = (u >= hard_fraction) & (u < sum(shares.values())) & near
    kind = jnp.where(close, 2, kind)
    own = jnp.arange(len(k))
    source = jnp.where(kind == 0, partner, own)
    moved = jnp.where(kind == 1, hard_at, jnp.where(kind == 2, near_at, first[partner]))
    names = ("audio_samples", "audio_mask", "example_id")
    more = cut({n: batch[n][source] for n in names}, moved)
    heard = {n: jnp.concatenate([x, more[n]]) for n, x in heard.items()}
    wrong = len(k) + own
  rng = masking.drop_rng(drop_key, example_id)
  out, mutable = correspondence.encode(apply, variables, seen, heard, rng)
  video, audio = out["video_embed"], out["audio_embed"]
  far = distance(jnp.concatenate([video, video]), audio[_both(wrong)])
  match = jnp.arange(len(far)) < len(k)
  real = there & (found | (kind > 0))
  where = jnp.concatenate([real, real])
  right = (far < margin / 2) == match
  aux = {
    "avts/accuracy": Mean.of(right, where),
    "avts/two_way": Mean.of(far[: len(k)] < far[len(k) :], real),
  }
  aux |= {f"avts/{n}": Mean.of(kind == i, real) for i, n in enumerate(KINDS) if i}
  return {"avts": Term(*Mean.of(contrastive(far, match, margin), where))}, aux, mutable


avts.global_batch = True


def _both(wrong):
  """Places of the right sounds, then of the wrong ones."""
  return jnp.concatenate([jnp.arange(len(wrong)), wrong])
