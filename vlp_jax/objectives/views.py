"""Views of the rows of a batch, made on device from uint8 pixels or int16 samples.

A view depends on the step, on the example_id of its row and on the settings, not on the
batch, the microbatch or the device. Settings are keywords of `augment.pixels.view` for
pictures and clips, which need a `size`, and of `augment.waves.view` for sound.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from vlp_jax.augment import pixels, waves
from vlp_jax.errors import UserError
from vlp_jax.metrics import wide

STREAMS = ("image", "video", "audio")
Stream = Literal[*STREAMS]


def pair(settings: Mapping | Sequence[Mapping]) -> tuple[Mapping, Mapping]:
  """Settings of two views: the same for both, or one for each."""
  if isinstance(settings, Mapping):
    return settings, settings
  if len(settings) != 2 or not all(isinstance(s, Mapping) for s in settings):
    raise UserError(f"views is {settings!r}; give settings for both, or a list of two.")
  return tuple(settings)


def real(batch: Mapping[str, jax.Array], stream: str) -> jax.Array:
  """[B] bool: rows that have the stream and are no padding."""
  key = _key(batch, stream)
  where = jnp.ones(len(batch[key]), bool)
  mask = batch.get(f"{key.rsplit('_', 1)[0]}_mask")
  if mask is not None:
    where &= mask.reshape(len(where), -1).any(1)
  return where & batch["example_mask"] if "example_mask" in batch else where


def make(
  batch: Mapping[str, jax.Array],
  key: jax.Array,
  settings: Mapping,
  *,
  stream: Stream = "image",
) -> dict[str, jax.Array]:
  """A view of every row: what a model of the stream reads, and nothing else.

  Args:
    stream: "image", from image_pixels [B, H, W, 3] or from video_frames where there are
      none; "video", from video_frames [B, T, H, W, 3], one draw for all frames;
      "audio", from audio_samples [B, S].
  Returns: the same key as floats, 0..1 or -1..1, and its mask, False in padding. The
    mask of sound moves with its samples; a view that shows nothing real is silence, and
    all of it real.
  """
  name, where = _key(batch, stream), real(batch, stream)
  mask_name = f"{name.rsplit('_', 1)[0]}_mask"
  mask, x = batch.get(mask_name), batch[name]
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["example_id"])
  if stream == "audio":
    x = x / 32768 if x.dtype == jnp.int16 else wide(x)
    mask = jnp.ones(x.shape, bool) if mask is None else mask
    moves = {k: v for k, v in settings.items() if k in waves.GEOMETRY}
    change = lambda x, how: jax.vmap(lambda k, one: waves.view(k, one, **how))(keys, x)
    seen = change(mask.astype(jnp.float32), moves) > 0.5  # the same draws
    seen |= ~seen.any(1, keepdims=True)
    x = change(jnp.where(mask, x, 0.0), settings)
    return {name: x, mask_name: seen & where[:, None]}
  if "size" not in settings:
    raise UserError(f"views has no size, the side of a view: {dict(settings)}.")
  x = x / jnp.float32(255) if x.dtype == jnp.uint8 else wide(x)
  still = name == "image_pixels"
  x = x[:, None] if still else x
  x = jax.vmap(lambda k, one: pixels.view(k, one, **settings))(keys, x)
  if still:
    return {name: x[:, 0], mask_name: where}
  mask = jnp.ones(x.shape[:2], bool) if mask is None else mask
  return {name: x, mask_name: mask & where[:, None]}


def _key(batch, stream):
  if stream not in STREAMS:
    raise UserError(f"stream is {stream!r}; give one of {STREAMS}.")
  keys = {
    "image": ("image_pixels", "video_frames"),
    "video": ("video_frames",),
    "audio": ("audio_samples",),
  }[stream]
  for key in keys:
    if key in batch:
      return key
  raise UserError(f"stream={stream!r} reads {keys}; the batch has {sorted(batch)}.")
