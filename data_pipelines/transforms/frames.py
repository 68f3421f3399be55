"""Which frames: the samplers of the published systems, as functions of arrays.

Frames are numbers 0 .. n - 1 of what is stored, times are seconds; nothing is decoded.
A draw comes from `seed`, [2] int64 of the example; without one the choice is that of
evaluation. Published mistakes are corrected, and back on request where someone may want
to compare.
"""

import tensorflow as tf


def _uniform(seed, shape=()):
  return tf.random.stateless_uniform(shape, seed)


def segments(first, last, count: int, seed=None, *, published: bool = False):
  """One frame out of each of `count` equal segments of first .. last - 1.

    edges = floor(linspace(first, last, n + 1)), n = min(count, last - first)
    segment i = edges_i .. edges_{i+1} - 1

  In training a frame drawn from each, else the middle one, (low + high) // 2. Source:
  Frozen in Time (arXiv 2104.00650), also EgoVLP, OA-Transformer, All-in-one.

  Args:
    first, last: [] int32.
    seed: None takes the middle.
    published: never draw the last frame of a segment. The published code does so, and
      fails where a segment is one frame; here that frame is taken.
  Returns: (frames [count] int32, real [count] bool); those beyond n are not real.
  """
  size = tf.maximum(last - first, 0)
  num = tf.clip_by_value(size, 1, count)
  place = tf.range(count + 1)
  # floor(first + i size / n) in whole numbers: floats miss edges that are whole.
  edges = first + (tf.minimum(place, num) * size) // num
  low, high = edges[:-1], tf.maximum(edges[1:] - 1, edges[:-1])
  if seed is None:
    at = (low + high) // 2
  else:
    wide = high - low + (0 if published else 1)
    wide = tf.maximum(wide, 1)
    share = _uniform(seed, (count,)) * tf.cast(wide, tf.float32)
    at = low + tf.minimum(tf.cast(share, tf.int32), wide - 1)
  real = (tf.range(count) < num) & (size > 0)
  return tf.where(real, at, first), real


def sparse_start(whole_s, clip_s, *, number=0, of: int = 1, seed=None):
  """When a short clip of a long video begins: [] float32 s.

  In training start ~ U(0, whole - clip); else clip `number` of `of` begins at
  (whole - clip) number / of, so that the last one does not reach the end. Source:
  ClipBERT (arXiv 2102.06183).
  """
  slack = tf.maximum(whole_s - clip_s, 0.0)
  if seed is not None:
    return _uniform(seed) * slack
  return slack * tf.cast(number, tf.float32) / of


def widened(start, end, least_s, whole_s):
  """(start, end) of at least `least_s`, as far to both sides, inside 0 .. whole_s.

  What one side has no room for goes to the other, which the published sampler of
  MIL-NCE (arXiv 1912.06430) leaves out.
  """
  least = tf.minimum(least_s, whole_s)
  more = tf.maximum(least - (end - start), 0.0) / 2
  start, end = start - more, end + more
  low = tf.maximum(-start, 0.0) - tf.maximum(end - whole_s, 0.0)
  move = tf.where(more > 0, low, 0.0)
  return tf.maximum(start + move, 0.0), tf.minimum(end + move, whole_s)


def within(start, end, clip_s, seed=None, *, published: bool = False):
  """When a clip of `clip_s` inside start .. end begins; the middle without a seed.

  start ~ U(start, max(start, end - clip_s)). Source: MIL-NCE's published sampler, which
  takes whole seconds (`published`).
  """
  last = tf.maximum(end - clip_s, start)
  if seed is None:
    return (start + last) / 2
  if published:
    low, high = tf.floor(start), tf.floor(last)
    return low + tf.floor(_uniform(seed) * (high - low + 1))
  return start + _uniform(seed) * (last - start)


def narration_window(times, at, alpha, whole_s):
  """(start, end) s of the clip of narration `at`: t -+ beta / (2 alpha).

  beta is the mean gap between the narrations of the video; one alone has alpha. The
  clip is about as long as narrations are close, on average one second. Source: EgoVLP
  (arXiv 2206.01670), sec. 3.2.

  Args:
    times: [n] float32, sorted; at: [] int32; alpha: mean of beta over all videos.
  """
  num = tf.size(times)
  gaps = tf.cast(tf.maximum(num - 1, 1), tf.float32)
  beta = tf.where(num > 1, (times[-1] - times[0]) / gaps, alpha)
  half = beta / (2 * alpha)
  return tf.maximum(times[at] - half, 0.0), tf.minimum(times[at] + half, whole_s)


def scene_mate(times, at, bucket_s: float, seed):
  """Uniformly one of the narrations of the same stretch of `bucket_s` s; may be `at`.

  Source: EgoVLP's scene-aware negatives, stretches of 60 s.
  """
  number = tf.floor(times / bucket_s)
  same = tf.where(number == number[at])[:, 0]
  share = _uniform(seed) * tf.cast(tf.size(same), tf.float32)
  place = tf.minimum(tf.cast(share, tf.int32), tf.size(same) - 1)
  return tf.cast(same[place], tf.int32)


def owners(
  start, end, frames, period_s, *, most: int, long_s: float = 16.0, kept: int = 11
):
  """Which subtitle each frame belongs to: [most] int32, -1 where none does.

  Frame r covers [r, r + 1) period_s, a subtitle the frames floor(start / period_s) ..
  ceil(end / period_s) - 1; of several the one whose time overlaps the frame's most in
  share of both (intersection over union, the first of equals) has it. The last subtitle
  keeps `kept` frames if it is longer than `long_s`. Of frames beyond `most` nothing is
  kept, nor of subtitles after the first that loses frames so. Source: HERO
  (arXiv 2005.00200), published preparation.

  Args:
    start, end: [n] float32 s, sorted by start. frames: [] int32, how many there are.
  Returns: (owner [most], [n] bool: whether a subtitle is kept, with or without frames).
  """
  num = tf.size(start)
  r = tf.range(most)
  low = tf.cast(tf.floor(start / period_s), tf.int32)
  high = tf.cast(tf.math.ceil(end / period_s), tf.int32)
  last = (tf.range(num) == num - 1) & (end - start > long_s)
  high = tf.where(last, tf.minimum(high, low + kept), high)
  high = tf.minimum(high, frames)
  begin = tf.cast(r, tf.float32) * period_s
  inside = (r >= low[:, None]) & (r < high[:, None])  # [n, most]
  both = tf.minimum(end[:, None], begin + period_s) - tf.maximum(start[:, None], begin)
  union = tf.maximum(end[:, None], begin + period_s) - tf.minimum(start[:, None], begin)
  share = tf.where(inside, tf.maximum(both, 0.0) / union, -1.0)
  cut = (high > most) & (high > low)
  before = tf.cumsum(tf.cast(cut, tf.int32), exclusive=True)
  keep = before == 0
  # A row of -1 stands before: with no subtitle at all only that is there.
  share = tf.concat([tf.fill([1, most], -0.5), share], axis=0)
  owner = tf.argmax(share, axis=0, output_type=tf.int32) - 1
  known = tf.concat([[False], keep], axis=0)
  return tf.where(tf.gather(known, owner + 1), owner, -1), keep
