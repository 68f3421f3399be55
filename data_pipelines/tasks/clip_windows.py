"""Windows of fixed length and stride over whole videos, for extracting features.

Records are those of `tasks/clip_records.py`. Window i of a video begins i x `stride`
frames' time after its first frame; VideoBERT's are 30 frames at 20 Hz, one after the
other. What is left at the end and does not fill a window is left out; a video shorter
than one window is one window, with `short` saying what follows its end.

Batch keys: video_frames [B, T, H, W, 3] uint8, video_mask [B, T], video_times [B, T]
s; audio_samples [B, S] int16, audio_mask [B, S]; example_id, the window's number in
the split, group_id, its record, example_mask [B].
"""

from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from data_pipelines import index, read
from data_pipelines.tasks import clip_records, clip_steps, definition
from vlp_jax.errors import UserError
from vlp_jax.resolve import nearest

FIELDS = ("video", "audio")


class _Steps(clip_steps.Steps):
  """Those of clips, but for when a window begins."""

  def __init__(self, *, stride_s, **keywords):
    super().__init__(train=False, windows=1, flip=False, pad=0, **keywords)
    self.stride_s = stride_s

  def sample(self, x):
    times, num = x["video/times"], tf.size(x["video/frames"])
    definition.require((num > 0) & (num == tf.size(times)), "no frames or times", x)
    whole = times[-1] + 1 / x["video/rate_hz"] - times[0]
    grid = tf.range(self.num_frames, dtype=tf.float32) / self.frame_rate
    first = tf.cast(x["sub"], tf.float32) * self.stride_s
    grid += first
    if self.loop:  # 1e-4 against rounding, as in clips
      grid = tf.math.floormod(grid + 1e-4, whole) - 1e-4
    at = tf.searchsorted((times[1:] + times[:-1]) / 2, times[0] + grid)
    when = {"start_s": times[0] + first, "whole_s": whole}
    return x | {"at": at, "real": grid < whole - 1e-4} | when


def _spans(table, keep, rate_hz) -> np.ndarray:
  """[n] seconds that the stored frames of the records cover; 0 if damaged."""
  if "num_frames" in table.columns:
    return table.columns["num_frames"][keep] / rate_hz

  def span(record):
    x = clip_records.parse(record)
    times = x["video/times"]
    has = tf.size(times) > 0
    return {
      "span": tf.where(has, times[-1:] - times[:1] + 1 / x["video/rate_hz"], 0)[0]
    }

  out = np.zeros(len(table))
  for found in read.scan(table, span):
    out[found["index"]] = found["span"]
  return out[keep]


def count(span_s, window_s: float, stride_s: float, rate_hz: float) -> np.ndarray:
  """Windows that fit, at least one; half a stored frame may be missing."""
  room = np.asarray(span_s) - window_s + 0.5 / rate_hz
  return np.maximum(np.floor(room / stride_s + 1e-6).astype(int) + 1, 1)


def define(
  table: index.Table,
  info: Mapping,
  *,
  vocab,
  train: bool,
  fields: Sequence[str] = ("video",),
  num_frames: int = 30,
  frame_rate: float | None = None,
  stride: int | None = None,
  size: int = 64,
  short: str = "black",
  audio_hz: int | None = None,
  where: Mapping | None = None,
) -> definition.Definition:
  """The task over one split; for evaluation only.

  Args:
    fields: what is decoded of video, audio.
    num_frames, frame_rate: T of a window, and Hz; None for the stored rate.
    stride: frames from the start of a window to that of the next; None for T.
    size, short, audio_hz, where: as in narrated_clips.
  Raises: UserError on a bad keyword, or frames smaller than `size`.
  """
  del info, vocab
  for field in fields:
    if field not in FIELDS:
      raise UserError(f"input.fields: {field!r}.{nearest(field, FIELDS)}")
  if train:
    raise UserError("task clip_windows is for extraction and evaluation only.")
  if short not in ("black", "loop"):
    raise UserError(f"input.short={short!r}. Known: black, loop.")
  stride = num_frames if stride is None else stride
  if min(num_frames, size, stride) < 1 or (frame_rate is not None and frame_rate <= 0):
    raise UserError("input: num_frames, stride, size and frame_rate must be positive.")
  rate_hz, sound_hz = clip_records.stored(table, size if "video" in fields else None)
  if "audio" in fields and not (
    sound_hz and abs(sound_hz - (audio_hz or sound_hz)) < 0.5
  ):
    raise UserError(
      f"input.fields has audio; {table.dir} ({table.split}) stores sound at "
      f"{sound_hz:g} Hz (0 is none), input.audio_hz is {audio_hz}."
    )
  rate = frame_rate or rate_hz
  steps = _Steps(
    stride_s=stride / rate,
    num_frames=num_frames,
    frame_rate=rate,
    size=size,
    loop=short == "loop",
  )
  run, shapes = clip_steps.compose(
    steps, tuple(fields), "none", None, 0, 0, False, sound_hz
  )
  keep = table.select(where or {})
  num = count(_spans(table, keep, rate_hz), steps.span_s, steps.stride_s, rate_hz)
  record = np.repeat(keep, num).astype(np.int64)
  sub = np.concatenate([*map(np.arange, num), np.zeros(0, int)]).astype(np.int64)

  def finish(x, length):
    del length
    row = np.maximum(x.pop("row"), 0)
    clip = record[row].astype(np.int32)
    return x | {"example_id": row.astype(np.int32), "group_id": clip}

  task = seqio.Task(
    f"clip_windows_{table.split.replace('-', '_')}",
    source=definition.source(table, clip_records.parse),
    preprocessors=run,
    output_features={k: definition.feature(len(s), d) for k, (s, d) in shapes.items()},
  )
  return definition.Definition(
    task=task,
    parse=clip_records.parse,
    record=record,
    sub=sub,
    lengths=None,
    shapes=lambda length: {k: s for k, (s, _) in shapes.items()},
    finish=finish,
  )
