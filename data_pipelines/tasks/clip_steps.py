"""Preprocessors of stored clips: frames, boxes, sound and words of one example.

`compose` puts those together that a batch needs; tasks with steps of their own derive
from `Steps`.
"""

import numpy as np
import tensorflow as tf

from data_pipelines.tasks import clip_records, definition, text

# Draws of one example; each folds its number into the example's seed.
_START, _CROP, _FLIP, _CAPTION, _SHUFFLE = range(5)


def _seed(x, draw):
  return tf.random.experimental.stateless_fold_in(x["seed"], draw)


def nearest_narrations(start, end, centre, count):
  """The K narrations around a moment, in order of time (MIL-NCE's candidates).

  Those of `narrations_around` the one whose centre is nearest (arXiv 1912.06430, sec.
  3.1).
  Args:
    start, end: [n] float seconds, sorted by start; centre: [] seconds.
  """
  far = tf.abs((start + end) / 2 - centre)
  none = tf.constant([np.inf], tf.float32)  # argmin of nothing fails
  first = tf.argmin(tf.concat([far, none], 0), output_type=tf.int32)
  return narrations_around(start, end, first, count)


def narrations_around(start, end, first, count):
  """K narrations with number `first` among them, in order of time.

  The window grows to the neighbour with the smaller total span, to the later one if
  equal; at an edge, to the only one left. Source: MIL-NCE's published sampler; there
  missing ones repeat the edge, here they are not real.
  Args:
    start, end: [n] float seconds, sorted by start; first: [] int32.
  Returns: (at [K] int32 in 0..n-1, real [K] bool).
  """
  n = tf.shape(start)[0]
  inf = tf.constant([np.inf], tf.float32)
  # One narration of infinite span stands on each side; with n = 0 only those do.
  left = tf.concat([-inf, start, inf], 0)
  right = tf.concat([-inf, end, inf], 0)
  low = high = tf.where(n > 0, first + 1, 0)
  for _ in range(count - 1):
    can = high - low + 1 < n
    down = can & (
      right[high] - left[low - 1] < right[tf.minimum(high + 1, n + 1)] - left[low]
    )
    low, high = low - tf.cast(down, tf.int32), high + tf.cast(can & ~down, tf.int32)
  at = low + tf.range(count)
  real = (at <= high) & (n > 0)
  return tf.clip_by_value(at - 1, 0, tf.maximum(n - 1, 0)), real


class Steps:
  """The preprocessors: each takes and returns one example."""

  def __init__(
    self,
    *,
    train,
    num_frames,
    frame_rate,
    size,
    windows,
    flip,
    pad,
    loop,
    crops=1,
    mirror=False,
    margin_s=0.0,
    audio_s=None,
  ):
    self.train, self.num_frames, self.frame_rate = train, num_frames, frame_rate
    self.loop, self.crops, self.views = loop, crops, 1 + mirror
    self.margin_s = margin_s
    self.size, self.windows, self.flip = size, windows, flip
    self.pad = pad if train else 0
    self.span_s = num_frames / frame_rate
    self.audio_s = audio_s or self.span_s

  def sample(self, x):
    """When: `at` [T] stored frames nearest to an even grid, `real` [T], `start_s`."""
    times = x["video/times"]
    num = tf.size(x["video/frames"])
    definition.require((num > 0) & (num == tf.size(times)), "no frames or times", x)
    end = times[-1] + 1 / x["video/rate_hz"]
    longest = max(self.span_s, self.audio_s)
    slack = tf.maximum(end - times[0] - longest - self.margin_s, 0.0)
    if self.train:
      share = tf.random.stateless_uniform([], _seed(x, _START))
    elif self.windows == 1:
      share = 0.5
    else:
      window = x["sub"] // (self.crops * self.views)
      share = tf.cast(window, tf.float32) / (self.windows - 1)
    start = times[0] + share * slack
    grid = tf.range(self.num_frames, dtype=tf.float32) / self.frame_rate
    if self.loop:  # a clip shorter than the span starts anew; 1e-4 against rounding
      grid = tf.math.floormod(grid + 1e-4, end - times[0]) - 1e-4
    grid += start
    at = tf.searchsorted((times[1:] + times[:-1]) / 2, grid)
    real = grid < end - 1e-4
    return x | {"at": at, "real": real, "start_s": start, "whole_s": end - times[0]}

  def video(self, x):
    """Decodes the sampled frames only, one crop for all of them."""
    jpegs = tf.boolean_mask(tf.gather(x["video/frames"], x["at"]), x["real"])
    room = tf.io.extract_jpeg_shape(jpegs[0])[:2] - self.size
    fits = tf.reduce_all(room >= 0)
    definition.require(fits, f"stored frames are below {self.size} px", x)
    if self.train:
      share = tf.random.stateless_uniform([2], _seed(x, _CROP))
      places = room + 1 + 2 * self.pad
      corner = tf.cast(share * tf.cast(places, tf.float32), tf.int32)
      corner = tf.minimum(corner, places - 1) - self.pad
    elif self.crops > 1:  # along the longer side, the middle of the other
      crop = x["sub"] // self.views % self.crops
      share = tf.cast(crop, tf.float32) / (self.crops - 1)
      along = tf.cast(tf.round(share * tf.cast(room, tf.float32)), tf.int32)
      tall = room[0] > room[1]
      corner = tf.where(tf.stack([tall, ~tall]), along, room // 2)
    else:
      corner = room // 2
    # What of the crop lies inside the frame is decoded, the rest is its mirror image.
    first = tf.maximum(corner, 0)
    last = tf.minimum(corner, room) + self.size
    window = tf.concat([first, last - first], 0)
    margin = tf.stack([first - corner, corner + self.size - last], 1)

    def decode(jpeg):
      # Pinned: the DCT method changes pixels.
      return tf.image.decode_and_crop_jpeg(
        jpeg, window, channels=3, dct_method="INTEGER_ACCURATE"
      )

    frames = tf.map_fn(
      decode, jpegs, fn_output_signature=tf.uint8, parallel_iterations=16
    )
    if self.pad:
      frames = tf.pad(frames, tf.pad(margin, [[1, 1], [0, 0]]), "SYMMETRIC")
    if self.train and self.flip:
      mirror = tf.random.stateless_uniform([], _seed(x, _FLIP)) < 0.5
      frames = tf.cond(mirror, lambda: tf.reverse(frames, [2]), lambda: frames)
    elif self.views == 2:
      step = 1 - 2 * tf.cast(x["sub"] % 2, tf.int32)
      frames = frames[:, :, ::step]
    missing = self.num_frames - tf.shape(frames)[0]  # a short clip ends in black
    frames = tf.pad(frames, [[0, missing], [0, 0], [0, 0], [0, 0]])
    shape = self.num_frames, self.size, self.size, 3
    seen = tf.where(x["real"], tf.gather(x["video/times"], x["at"]), 0.0)
    return x | {
      "corner": corner,
      "video_frames": tf.ensure_shape(frames, shape),
      "video_mask": tf.ensure_shape(x["real"], shape[:1]),
      "video_times": tf.ensure_shape(seen, shape[:1]),
    }

  def box(self, x):
    """label_box [T, 4]: of the subject, in 0..1 of the crop.

    What lies outside of it is cut off; -1 where the frame or the subject is missing.
    """
    boxes = x["subject/box"]
    known = tf.shape(boxes)[0] == tf.size(x["video/frames"])
    definition.require(known, "no boxes of the subject", x)
    sides = tf.cast(tf.stack([x["video/width"], x["video/height"]]), tf.float32)
    corner = tf.cast(x["corner"][::-1], tf.float32)
    boxes = tf.gather(boxes, x["at"])
    real = x["real"] & tf.reduce_all(boxes >= 0, 1)
    boxes = boxes * tf.tile(sides, [2]) - tf.tile(corner, [2])
    boxes = tf.clip_by_value(boxes / self.size, 0.0, 1.0)
    boxes = tf.where(real[:, None], boxes, -1.0)
    return x | {"label_box": tf.ensure_shape(boxes, [self.num_frames, 4])}

  def shuffle(self, x):
    """Frames in a random order, times as they were: a control without motion."""
    draw = tf.random.stateless_uniform([self.num_frames], _seed(x, _SHUFFLE))
    order = tf.argsort(tf.where(x["video_mask"], draw, 2.0), stable=True)
    return x | {"video_frames": tf.gather(x["video_frames"], order)}

  def sound(self, x, *, rate_hz):
    """The samples from the first frame on; silence is real, absence is not."""
    length = round(self.audio_s * rate_hz)
    pcm = tf.io.decode_raw(x["audio/pcm"], tf.int16)
    same = (tf.size(pcm) == 0) | (tf.abs(x["audio/rate_hz"] - rate_hz) < 0.5)
    definition.require(same, f"sound is not of {rate_hz} Hz", x)
    first = tf.cast(tf.round(x["start_s"] * rate_hz), tf.int32)
    places = first + tf.range(length)
    if self.loop:  # with its frames
      whole = tf.cast(tf.round(x["whole_s"] * rate_hz), tf.int32)
      places = tf.math.floormod(places, tf.maximum(whole, 1))
    mask = places < tf.size(pcm)
    samples = tf.gather(tf.pad(pcm, [[0, 1]]), tf.minimum(places, tf.size(pcm)))
    return x | {"audio_samples": tf.ensure_shape(samples, [length]), "audio_mask": mask}

  def narrations(self, x, *, words, vocab, candidates, max_words):
    """narration_ids, _mask [K, L]: the K nearest in time to the window."""
    order = tf.argsort(x["narration/start"], stable=True)
    start, end = (tf.gather(x[f"narration/{k}"], order) for k in ("start", "end"))
    centre = x["start_s"] + self.span_s / 2
    at, real = nearest_narrations(start, end, centre, candidates)
    texts = tf.concat([tf.gather(x["narration/text"], order), [""]], 0)
    ids, mask = text.pad(words(tf.gather(texts, at)), vocab, max_words)
    mask = tf.ensure_shape(mask & real[:, None], [candidates, max_words])
    return x | {
      "narration_ids": tf.where(mask, ids, vocab.spec.pad_id),
      "narration_mask": mask,
    }

  def caption(self, x, *, words, vocab, max_words):
    """text_ids, _mask [L]: one caption at random, in evaluation that of the row."""
    n = tf.shape(x["caption/text"])[0]
    definition.require(n > 0, "no captions", x)
    at = tf.cast(x["sub"], tf.int32)
    if self.train:
      share = tf.random.stateless_uniform([], _seed(x, _CAPTION))
      at = tf.minimum(tf.cast(share * tf.cast(n, tf.float32), tf.int32), n - 1)
    ids, mask = text.pad(words(x["caption/text"][at][None]), vocab, max_words)
    return x | {"text_ids": ids[0], "text_mask": mask[0]}

  def labels(self, x):
    return x | {
      f"label_{k}": tf.cast(x[f"label/{k}"], tf.int32) for k in clip_records.LABELS
    }


def named(fn, **keywords):
  def step(x):
    return fn(x, **keywords)

  step.__name__ = fn.__name__
  return definition.one_to_one(step)


def compose(steps, fields, mode, vocab, candidates, max_words, shuffle, sound_hz):
  """(preprocessors, {key: (shape, dtype)})."""
  frames = steps.num_frames, steps.size, steps.size, 3
  run, shapes = [], {}
  if {"video", "audio"} & set(fields) or mode == "narration":
    run.append(named(steps.sample))
  if "video" in fields:
    run.append(named(steps.video))
    shapes["video_frames"] = frames, tf.uint8
    shapes["video_mask"] = frames[:1], tf.bool
    shapes["video_times"] = frames[:1], tf.float32
    if shuffle:
      run.append(named(steps.shuffle))
  if "box" in fields:
    run.append(named(steps.box))
    shapes["label_box"] = (steps.num_frames, 4), tf.float32
  if "audio" in fields:
    run.append(named(steps.sound, rate_hz=sound_hz))
    length = (round(steps.audio_s * sound_hz),)
    shapes |= {"audio_samples": (length, tf.int16), "audio_mask": (length, tf.bool)}
  if mode == "narration":
    words = text.tokenizer(vocab)
    size = {"candidates": candidates, "max_words": max_words}
    run.append(named(steps.narrations, words=words, vocab=vocab, **size))
    each = candidates, max_words
    shapes |= {"narration_ids": (each, tf.int32), "narration_mask": (each, tf.bool)}
  if mode == "caption":
    words = text.tokenizer(vocab)
    run.append(named(steps.caption, words=words, vocab=vocab, max_words=max_words))
    one = (max_words,)
    shapes |= {"text_ids": (one, tf.int32), "text_mask": (one, tf.bool)}
  if "label" in fields:
    run.append(named(steps.labels))
    shapes |= {f"label_{k}": ((), tf.int32) for k in clip_records.LABELS}
  return run, shapes
