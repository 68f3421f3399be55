"""What a stored clip holds: its features, and what a split's first record tells.

Records are those of `data_pipelines.prepare` (kind "narrated_clips"): a SequenceExample
with `video/frames`, `video/times`, `narration/*`, `caption/text`, `audio/pcm`, labels.
"""

import numpy as np
import tensorflow as tf

from data_pipelines import index, read
from vlp_jax.errors import UserError

LABELS = ("shape", "colour", "action")


def _one(dtype, default):
  return tf.io.FixedLenFeature([], dtype, default)


def _many(dtype):
  return tf.io.FixedLenSequenceFeature([], dtype, allow_missing=True)


CONTEXT = {
  "key": _one(tf.string, ""),
  "video/height": _one(tf.int64, 0),
  "video/width": _one(tf.int64, 0),
  "video/rate_hz": _one(tf.float32, 0.0),
  "audio/pcm": _one(tf.string, ""),
  "audio/rate_hz": _one(tf.float32, 0.0),
  **{f"label/{k}": _one(tf.int64, -1) for k in LABELS},
}
LISTS = {
  "video/frames": _many(tf.string),
  "video/times": _many(tf.float32),
  "caption/text": _many(tf.string),
  "narration/text": _many(tf.string),
  "narration/start": _many(tf.float32),
  "narration/end": _many(tf.float32),
  "subject/box": tf.io.FixedLenSequenceFeature([4], tf.float32, allow_missing=True),
}


def parse(record):
  context, lists = tf.io.parse_single_sequence_example(record, CONTEXT, LISTS)
  return context | lists


def stored(table, size, *, box=False):
  """(rate Hz, sound rate Hz or 0) of the first good records; checks size and boxes."""
  keys = ("video/height", "video/width", "video/rate_hz", "audio/rate_hz")

  def head(record):
    x = parse(record)
    return {k: x[k] for k in keys} | {"boxes": tf.shape(x["subject/box"])[0]}

  found = next(read.scan(table, head, batch=64), None)
  if found is None:
    raise UserError(f"{table.dir} ({table.split}): no record can be read.")
  height, width = int(found[keys[0]][0]), int(found[keys[1]][0])
  if size is not None and min(height, width) < size:
    raise UserError(
      f"input.size={size}, but {table.dir} stores frames of {width}x{height} (width x "
      f"height). Set it to at most {min(height, width)}, or prepare again."
    )
  if box and not found["boxes"].any():
    raise UserError(
      f"input.fields has box; {table.dir} ({table.split}) does not say where the "
      "subject is. Generated clips do: prepare them again, in a new directory."
    )
  return float(found[keys[2]][0]), float(found[keys[3]].max())


def mean_gap(table: index.Table) -> float:
  """Mean over records with several narrations of the mean gap between them, in s."""

  def fn(record):
    x = parse(record)
    times = tf.sort((x["narration/start"] + x["narration/end"]) / 2)
    num = tf.size(times)
    many = num > 1
    span = tf.cond(many, lambda: times[-1] - times[0], lambda: tf.zeros([]))
    return {"gap": span / tf.cast(tf.maximum(num - 1, 1), tf.float32), "many": many}

  total = count = 0.0
  for part in read.scan(table, fn, batch=256):
    total += float(part["gap"][part["many"]].sum(dtype=np.float64))
    count += int(part["many"].sum())
  return total / count if count else 0.0
