"""Clips whose frames are chosen as the published video-text systems choose them.

Records are those of `tasks/clip_records.py`. What a row is, `window` says:

  clip       a record; text="caption" or "none"
  narration  a narration of a record, its time widened to `min_time` (MIL-NCE); with
             `draw` a record, of which a narration is drawn (its published code)
  ego        a narration, its time as wide as narrations are close (EgoVLP)

and its frames, `frames`:

  segments  one of each of T equal parts of the window (Frozen in Time, EgoVLP,
            OA-Transformer, All-in-one)
  even      T frames at `frame_rate`, somewhere inside the window (MIL-NCE)
  sparse    of windows "clip": `clips` short clips of T frames at `frame_rate`, each
            anywhere (ClipBERT)

Batch keys: video_frames [B, T, H, W, 3] uint8, video_mask, video_times [B, T] s;
text_ids, text_mask [B, L]; example_id, group_id or relevance, example_mask [B]. With
several clips a row, by `clips`, or by `scene_s`, which adds a narration of the same
stretch of the same record (EgoVLP's scene-aware negatives), these are video_frames
[B, N, T, H, W, 3] and so on, and with scenes narration_ids, narration_mask [B, 2, L].
With `candidates` these are [B, K, L]: the narration and those nearest to it in time.
The samplers are in `transforms/frames.py`, with their sources.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from data_pipelines import index
from data_pipelines.tasks import clip_records, clip_steps, definition
from data_pipelines.tasks import text as text_lib
from data_pipelines.transforms import frames as samplers
from vlp_jax.errors import UserError

WINDOWS = ("clip", "narration", "ego")
FRAMES = ("segments", "even", "sparse")
TEXTS = ("caption", "narration", "none")
# Draws of one example, beside those of clips.
_FRAMES, _PLACE, _MATE, _SAID = range(10, 14)


class _Steps(clip_steps.Steps):
  """The preprocessors. `given`: keywords of `define` by their names."""

  def __init__(self, *, given, alpha, **keywords):
    super().__init__(windows=1, loop=False, **keywords)
    self.given, self.alpha = given, alpha

  def _drawn(self, x, draw, part):
    """Seed of a draw for a part; None in evaluation."""
    if not self.train:
      return None
    seed = tf.random.experimental.stateless_fold_in(x["seed"], draw)
    return tf.random.experimental.stateless_fold_in(seed, part)

  def _window(self, x, at):
    """(start, end) s of a row, from the first stored frame on."""
    times = x["video/times"]
    whole = times[-1] + 1 / x["video/rate_hz"] - times[0]
    if self.given["window"] == "clip":
      return tf.zeros([]), whole, whole
    order = tf.argsort(x["narration/start"], stable=True)
    start, end = (tf.gather(x[f"narration/{k}"], order) for k in ("start", "end"))
    if self.given["window"] == "ego":
      middle = (start + end) / 2
      return *samplers.narration_window(middle, at, self.alpha, whole), whole
    return *samplers.widened(start[at], end[at], self.given["min_time"], whole), whole

  def _chosen(self, x, start, end, whole, part):
    """(at [T], real [T]) of the stored frames of a window."""
    times, kind = x["video/times"] - x["video/times"][0], self.given["frames"]
    if kind == "segments":
      # Stored frame k is shown from its time on; the one before the start still is.
      first = tf.searchsorted(times, start[None] + 1e-4, side="right")[0] - 1
      last = tf.searchsorted(times, end[None] - 1e-4)[0]
      first = tf.maximum(first, 0)
      seed = self._drawn(x, _FRAMES, part)
      old = self.given["published"]
      size = tf.maximum(last, first + 1)
      return samplers.segments(first, size, self.num_frames, seed, published=old)
    seed = self._drawn(x, _PLACE, part)
    if kind == "sparse":
      of = {"number": part, "of": self.given["clips"]}
      begin = samplers.sparse_start(whole, self.span_s, seed=seed, **of)
    else:
      old = self.given["published"]
      begin = samplers.within(start, end, self.span_s, seed, published=old)
    grid = begin + tf.range(self.num_frames, dtype=tf.float32) / self.frame_rate
    at = tf.searchsorted((times[1:] + times[:-1]) / 2, grid)
    return at, grid < whole - 1e-4

  def _part(self, x, at, part):
    """The decoded frames of one part, cropped by its own draw."""
    place, real = self._chosen(x, *self._window(x, at), part)
    seed = tf.random.experimental.stateless_fold_in(x["seed"], part)
    seed = x["seed"] if part == 0 else seed
    made = super().video(x | {"at": place, "real": real, "seed": seed})
    return {k: made[k] for k in ("video_frames", "video_mask", "video_times")}

  def sampled(self, x):
    num = tf.size(x["video/frames"])
    same = (num > 0) & (num == tf.size(x["video/times"]))
    definition.require(same, "no frames or times", x)
    at, said = tf.cast(x["sub"], tf.int32), tf.size(x["narration/start"])
    if self.given["draw"]:
      share = tf.random.stateless_uniform([], self._drawn(x, _SAID, 0))
      at = tf.minimum(tf.cast(share * tf.cast(said, tf.float32), tf.int32), said - 1)
    if self.given["window"] != "clip":
      definition.require(at < said, "no such narration", x)
    rows = [at] * self.given["clips"]
    if self.given["scene_s"]:
      start = tf.sort(x["narration/start"])
      seed = tf.random.experimental.stateless_fold_in(x["seed"], _MATE)
      rows = [at, samplers.scene_mate(start, at, self.given["scene_s"], seed)]
    parts = [self._part(x, row, k) for k, row in enumerate(rows)]
    out = {k: tf.stack([p[k] for p in parts]) for k in parts[0]}
    if len(parts) == 1:
      out = {k: v[0] for k, v in out.items()}
    return x | out | {"rows": tf.stack(rows)}

  def said(self, x, *, words, vocab, max_words):
    """The narration of a row, with scenes of both, or with candidates around it."""
    order = tf.argsort(x["narration/start"], stable=True)
    rows, count = x["rows"], self.given["candidates"]
    if count:
      times = (tf.gather(x[f"narration/{k}"], order) for k in ("start", "end"))
      rows, real = clip_steps.narrations_around(*times, rows[0], count)
    texts = tf.gather(tf.gather(x["narration/text"], order), rows)
    ids, mask = text_lib.pad(words(texts), vocab, max_words)
    if count:
      mask = tf.ensure_shape(mask & real[:, None], [count, max_words])
      ids = tf.where(mask, ids, vocab.spec.pad_id)
      return x | {"narration_ids": ids, "narration_mask": mask}
    if self.given["scene_s"]:
      shape = [2, max_words]
      ids, mask = tf.ensure_shape(ids, shape), tf.ensure_shape(mask, shape)
      return x | {"narration_ids": ids, "narration_mask": mask}
    return x | {"text_ids": ids[0], "text_mask": mask[0]}


def define(
  table: index.Table,
  info: Mapping,
  *,
  vocab,
  train: bool,
  window: str = "clip",
  frames: str = "segments",
  text: str = "caption",
  num_frames: int = 4,
  frame_rate: float | None = None,
  size: int = 64,
  clips: int = 1,
  scene_s: float = 0.0,
  candidates: int = 0,
  draw: bool = False,
  min_time: float = 5.0,
  alpha: float | None = None,
  max_words: int = 32,
  flip: bool = False,
  pad: int = 0,
  published: bool = False,
  where: Mapping | None = None,
) -> definition.Definition:
  """The task over one split.

  Args:
    vocab: of `data_pipelines.vocabularies`; may be None with text="none".
    window, frames: see the module's header.
    text: "caption" or "none" of window="clip", "narration" or "none" of the others.
    num_frames: T; frame_rate: Hz of even and sparse frames, None for the stored rate.
    size: side of the square crop, random in training, else the centre.
    clips: of frames="sparse", how many a row has.
    scene_s: length of a stretch in s out of which a second narration comes (60 in
      EgoVLP), 0 for none; in training only.
    candidates: K narrations of a row, of window="narration", as MIL-NCE compares them;
      0 for the row's own as text_ids.
    draw: whether a row of window="narration" is a record; in training only.
    min_time: least length of a narration's window, in s.
    alpha: mean gap between narrations over all videos (4.9 s in EgoClip); None measures
      it on this split.
    max_words: L, marks included.
    flip, pad: as in narrated_clips.
    published: with the published mistakes of `transforms/frames.py`.
    where: {column: value or list} of the index.
  Raises: UserError on a bad keyword, or frames smaller than `size`.
  """
  for name, value, known in (
    ("window", window, WINDOWS),
    ("frames", frames, FRAMES),
    ("text", text, TEXTS),
  ):
    if value not in known:
      raise UserError(f"input.{name}={value!r}. Known: {', '.join(known)}.")
  whole = window == "clip"
  if text not in ("none", "caption" if whole else "narration"):
    raise UserError(f"input.text={text!r} does not go with window={window!r}.")
  if frames == "sparse" and not whole:
    raise UserError("input.frames='sparse' goes with window='clip'.")
  if clips != 1 and frames != "sparse":
    raise UserError("input.clips is of frames='sparse'.")
  if scene_s and (whole or not train):
    raise UserError("input.scene_s is for training on narrations.")
  if draw and not (window == "narration" and train):
    raise UserError("input.draw is for training with window='narration'.")
  if candidates and (window, text, scene_s) != ("narration", "narration", 0):
    raise UserError("input.candidates is of window='narration' with its text.")
  if text != "none" and vocab is None:
    raise UserError(f"input.text={text!r} needs a vocabulary; set config.vocab.")
  if (
    min(num_frames, size, clips, max_words) < 1
    or min(pad, scene_s, min_time, candidates) < 0
  ):
    raise UserError("input: sizes and counts must be positive.")
  rate_hz, _ = clip_records.stored(table, size)
  if window == "ego" and alpha is None:
    alpha = clip_records.mean_gap(table)
  if window == "ego" and not alpha > 0:
    raise UserError(f"input.alpha={alpha}; {table.dir} has no two narrations a record.")
  given = dict(window=window, frames=frames, min_time=min_time, scene_s=scene_s)
  given |= dict(clips=clips, published=published, candidates=candidates, draw=draw)
  steps = _Steps(
    given=given,
    alpha=alpha or 1.0,
    train=train,
    num_frames=num_frames,
    frame_rate=frame_rate or rate_hz,
    size=size,
    flip=flip,
    pad=pad,
  )
  run = [definition.one_to_one(steps.sampled)]
  many = (clips,) if clips > 1 else (2,) if scene_s else ()
  frame = num_frames, size, size, 3
  shapes = {
    "video_frames": ((*many, *frame), tf.uint8),
    "video_mask": ((*many, num_frames), tf.bool),
    "video_times": ((*many, num_frames), tf.float32),
  }
  if text != "none":
    words = dict(words=text_lib.tokenizer(vocab), vocab=vocab, max_words=max_words)
    fn = steps.caption if text == "caption" else steps.said
    run.append(clip_steps.named(fn, **words))
    stream, shape = "text", (max_words,)
    if candidates or scene_s:
      stream, shape = "narration", (candidates or 2, max_words)
    shapes |= {f"{stream}_ids": (shape, tf.int32), f"{stream}_mask": (shape, tf.bool)}
  keep = table.select(where or {})
  if draw:
    keep = keep[table.columns["num_narrations"][keep] > 0]
  record, sub = _rows(table, keep, whole or draw, text, train)
  queries = text == "caption" and not train

  def finish(x, _):
    row = x.pop("row")
    mine = np.where(row < 0, 0, record[row]).astype(np.int32)
    ids = definition.ids(row, mine, queries)
    if not whole and not draw:  # narrations are examples of their own
      ids["example_id"] = np.maximum(row, 0).astype(np.int32)
    return x | ids

  rows = record, sub
  used = vocab if text != "none" else None
  return definition.one_shape(
    "sampled_clips", table, clip_records.parse, run, shapes, rows, finish, used
  )


def _rows(table, keep, whole, text, train):
  """(record [N], sub [N]): records, their captions in evaluation, or narrations."""
  if not whole:
    counts = table.columns["num_narrations"][keep].astype(int)
    sub = [np.arange(c) for c in counts]
    return np.repeat(keep, counts), np.concatenate([*sub, np.zeros(0, int)])
  if text == "caption":
    return definition.caption_rows(table, keep, train)
  return keep, np.zeros(len(keep), int)
