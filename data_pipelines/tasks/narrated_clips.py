"""Clips with narrations, captions, sound and labels, from stored JPEG frames.

Records are those of `data_pipelines.prepare` (kind "narrated_clips"): a SequenceExample
with `video/frames`, `video/times`, `narration/*`, `caption/text`, `audio/pcm`, labels.

Batch keys: video_frames [B, T, H, W, 3] uint8, video_mask [B, T], video_times [B, T]
s; audio_samples [B, S] int16, audio_mask [B, S]; narration_ids, _mask [B, K, L] or
text_ids, _mask [B, L]; label_shape, label_colour, label_action, label_gallery [B];
label_box [B, T, 4]; example_id, group_id, example_mask [B].

example_id and group_id are the clip's place in its split, before any filter. In
evaluation the windows of a clip are rows of the same ids; with text="caption" each
caption is a row with its own example_id, and `relevance` is its clip's.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from data_pipelines import index, read
from data_pipelines.tasks import definition, text
from vlp_jax.errors import UserError
from vlp_jax.resolve import nearest

FIELDS = ("video", "audio", "label", "box")
LABELS = ("shape", "colour", "action")
# Draws of one example; each folds its number into the example's seed.
_START, _CROP, _FLIP, _CAPTION, _SHUFFLE = range(5)


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


def _seed(x, draw):
  return tf.random.experimental.stateless_fold_in(x["seed"], draw)


def nearest_narrations(start, end, centre, count):
  """The K narrations around a moment, in order of time (MIL-NCE's candidates).

  From the narration whose centre is nearest, the window grows to the neighbour with
  the smaller total span, to the later one if equal; at an edge, to the only one left.
  Source: arXiv 1912.06430, sec. 3.1, and its published sampler; there missing ones
  repeat the edge, here they are not real.
  Args:
    start, end: [n] float seconds, sorted by start; centre: [] seconds.
  Returns: (at [K] int32 in 0..n-1, real [K] bool).
  """
  n = tf.shape(start)[0]
  inf = tf.constant([np.inf], tf.float32)
  # One narration of infinite span stands on each side; with n = 0 only those do.
  left = tf.concat([-inf, start, inf], 0)
  right = tf.concat([-inf, end, inf], 0)
  far = tf.abs((start + end) / 2 - centre)
  first = tf.argmin(tf.concat([far, inf], 0), output_type=tf.int32) + 1
  low = high = tf.where(n > 0, first, 0)
  for _ in range(count - 1):
    can = high - low + 1 < n
    down = can & (
      right[high] - left[low - 1] < right[tf.minimum(high + 1, n + 1)] - left[low]
    )
    low, high = low - tf.cast(down, tf.int32), high + tf.cast(can & ~down, tf.int32)
  at = low + tf.range(count)
  real = (at <= high) & (n > 0)
  return tf.clip_by_value(at - 1, 0, tf.maximum(n - 1, 0)), real


class _Steps:
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
    return x | {f"label_{k}": tf.cast(x[f"label/{k}"], tf.int32) for k in LABELS}


def _named(fn, **keywords):
  def step(x):
    return fn(x, **keywords)

  step.__name__ = fn.__name__
  return definition.one_to_one(step)


def _stored(table, size, *, box=False):
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


def _rows(table, keep, *, train, mode, windows):
  """(record [N], sub [N]): captions in evaluation, windows, or clips."""
  if mode != "caption":
    return np.repeat(keep, windows), np.tile(np.arange(windows), len(keep))
  if "num_captions" not in table.columns:
    raise UserError(
      f"text='caption' needs the column num_captions of {table.dir}; it has "
      f"{sorted(table.columns)}. Prepare the data set again."
    )
  return definition.caption_rows(table, keep, train)


def define(
  table: index.Table,
  info: Mapping,
  *,
  vocab,
  train: bool,
  fields: Sequence[str] = ("video", "label"),
  text: str = "narration",
  num_frames: int = 16,
  frame_rate: float | None = None,
  size: int = 64,
  windows: int = 1,
  crops: int = 1,
  mirror: bool = False,
  margin_s: float = 0.0,
  flip: bool = False,
  pad: int = 0,
  short: str = "black",
  candidates: int = 4,
  max_words: int = 16,
  shuffle_frames: bool = False,
  audio_hz: int | None = None,
  audio_s: float | None = None,
  where: Mapping | None = None,
) -> definition.Definition:
  """The task over one split.

  Args:
    vocab: of `data_pipelines.vocabularies`; may be None with text="none".
    fields: what is decoded of video, audio, label; in evaluation also box, where the
      subject is, of corpora that know it.
    text: "narration" (K candidates), "caption" or "none".
    num_frames: T.
    short: what follows the end of a clip shorter than T / frame_rate: "black", frames
      of zeros with video_mask False, or "loop", the clip from its beginning again with
      its sound, all of it real (DMVR's and MMV's rule; one frame is held).
    frame_rate: Hz, sampled by nearest time; None for the stored rate.
    size: side of the square crop, random in training, else the centre. Frames are not
      resized on the host.
    windows: in evaluation, evenly spaced over the clip, each a row; 1 is the centre.
    crops: in evaluation, of each window, evenly spaced along the longer side, each a
      row; 1 is the centre.
    mirror: in evaluation, of each crop its mirror image too, a row of its own.
    margin_s: in evaluation, the last of several windows ends so long before the end,
      where the clip is long enough; MIL-NCE's published loader leaves 0.4 s.
    flip: mirror half of the clips in training.
    pad: in training the crop may reach so many pixels beyond the frame, where it shows
      the frame mirrored.
    candidates, max_words: K and L; with WordPiece L includes [CLS] and [SEP].
    shuffle_frames: in evaluation, frames in random order, as a control.
    audio_hz: the sampling rate that the model wants; sound stored at another one is
      refused. None takes what is stored.
    audio_s: seconds of sound from the first frame on, which may be more than the frames
      span (BraVe's broad view); None for their span.
    where: {column: value or list} of the index, e.g. {"gallery": 0}.
  Raises: UserError on a bad keyword, or frames smaller than `size`.
  """
  for field in fields:
    if field not in FIELDS:
      raise UserError(f"input.fields: {field!r}.{nearest(field, FIELDS)}")
  if text not in ("narration", "caption", "none"):
    raise UserError(f"input.text={text!r}. Known: narration, caption, none.")
  if text != "none" and vocab is None:
    raise UserError(f"input.text={text!r} needs a vocabulary; set config.vocab.")
  if short not in ("black", "loop"):
    raise UserError(f"input.short={short!r}. Known: black, loop.")
  if train and (windows != 1 or shuffle_frames or mirror or margin_s):
    raise UserError(
      "input: windows, mirror, margin_s and shuffle_frames are for evaluation only."
    )
  moved = train or shuffle_frames or mirror or crops != 1
  if "box" in fields and (moved or "video" not in fields):
    raise UserError("input.fields: box is for evaluation, beside video in its order.")
  if text == "caption" and max(windows, crops, 1 + mirror) != 1:
    raise UserError(
      "input: a row is a caption or a view of a clip; windows, crops and mirror need "
      "other text."
    )
  if min(num_frames, size, windows, crops, candidates, max_words) < 1:
    raise UserError("input: sizes and counts must be positive.")
  if min(pad, margin_s) < 0:
    raise UserError("input: pad and margin_s must not be negative.")
  if audio_s is not None and audio_s <= 0:
    raise UserError(f"input.audio_s={audio_s}; it must be positive, in seconds.")
  if pad > size // 2:
    raise UserError(f"input.pad={pad} is over half of the crop, size={size}.")
  box = "box" in fields
  rate_hz, sound_hz = _stored(table, size if "video" in fields else None, box=box)
  if frame_rate is not None and frame_rate <= 0:
    raise UserError(f"input.frame_rate={frame_rate}; it must be positive, in Hz.")
  if "audio" in fields and not sound_hz:
    raise UserError(
      f"input.fields has audio; {table.dir} ({table.split}) has no sound."
    )
  if "audio" in fields and audio_hz and abs(sound_hz - audio_hz) >= 0.5:
    raise UserError(
      f"input.audio_hz={audio_hz}, but {table.dir} ({table.split}) stores sound at "
      f"{sound_hz:g} Hz. Prepare it again with --audio_hz {audio_hz}, or give the "
      "model a front end of that rate."
    )
  steps = _Steps(
    train=train,
    num_frames=num_frames,
    frame_rate=frame_rate or rate_hz,
    size=size,
    windows=windows,
    crops=crops,
    mirror=mirror,
    margin_s=margin_s,
    flip=flip,
    pad=pad,
    loop=short == "loop",
    audio_s=audio_s if "audio" in fields else None,
  )
  run, shapes = _compose(
    steps, fields, text, vocab, candidates, max_words, shuffle_frames, sound_hz
  )
  keep = table.select(where or {})
  parts = windows * crops * steps.views
  record, sub = _rows(table, keep, train=train, mode=text, windows=parts)
  queries = text == "caption" and not train

  def finish(x, length):
    row = x.pop("row")
    clip = np.where(row < 0, 0, record[row]).astype(np.int32)
    ids = definition.ids(row, clip, queries)
    if "label" in fields and "gallery" in table.columns:
      ids["label_gallery"] = table.columns["gallery"][clip].astype(np.int32)
    return x | ids

  return definition.one_shape(
    "narrated_clips", table, parse, run, shapes, (record, sub), finish, vocab
  )


def _compose(steps, fields, mode, vocab, candidates, max_words, shuffle, sound_hz):
  """(preprocessors, {key: (shape, dtype)})."""
  frames = steps.num_frames, steps.size, steps.size, 3
  run, shapes = [], {}
  if {"video", "audio"} & set(fields) or mode == "narration":
    run.append(_named(steps.sample))
  if "video" in fields:
    run.append(_named(steps.video))
    shapes["video_frames"] = frames, tf.uint8
    shapes["video_mask"] = frames[:1], tf.bool
    shapes["video_times"] = frames[:1], tf.float32
    if shuffle:
      run.append(_named(steps.shuffle))
  if "box" in fields:
    run.append(_named(steps.box))
    shapes["label_box"] = (steps.num_frames, 4), tf.float32
  if "audio" in fields:
    run.append(_named(steps.sound, rate_hz=sound_hz))
    length = (round(steps.audio_s * sound_hz),)
    shapes |= {"audio_samples": (length, tf.int16), "audio_mask": (length, tf.bool)}
  if mode == "narration":
    words = text.tokenizer(vocab)
    size = {"candidates": candidates, "max_words": max_words}
    run.append(_named(steps.narrations, words=words, vocab=vocab, **size))
    each = candidates, max_words
    shapes |= {"narration_ids": (each, tf.int32), "narration_mask": (each, tf.bool)}
  if mode == "caption":
    words = text.tokenizer(vocab)
    run.append(_named(steps.caption, words=words, vocab=vocab, max_words=max_words))
    one = (max_words,)
    shapes |= {"text_ids": (one, tf.int32), "text_mask": (one, tf.bool)}
  if "label" in fields:
    run.append(_named(steps.labels))
    shapes |= {f"label_{k}": ((), tf.int32) for k in LABELS}
  return run, shapes
