"""Clips with narrations, captions, sound and labels, from stored JPEG frames.

Records are those of `tasks/clip_records.py`.

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

from data_pipelines import index
from data_pipelines.tasks import clip_records, clip_steps, definition
from vlp_jax.errors import UserError
from vlp_jax.resolve import nearest

FIELDS = ("video", "audio", "label", "box")


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
  rate_hz, sound_hz = clip_records.stored(
    table, size if "video" in fields else None, box=box
  )
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
  steps = clip_steps.Steps(
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
  run, shapes = clip_steps.compose(
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
    "narrated_clips",
    table,
    clip_records.parse,
    run,
    shapes,
    (record, sub),
    finish,
    vocab,
  )
