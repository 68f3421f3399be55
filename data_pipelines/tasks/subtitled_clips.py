"""Videos as features with subtitles, each frame with the one it belongs to (HERO).

Records are those of `data_pipelines.prepare clip_features` with one network, or several
of one rate, whose widths are joined in order and whose ends are cut to the shortest.

Batch keys: clips_features [B, T, D] float32, clips_mask [B, T], clips_times [B, T, 2]
s; clips_subtitle [B, T] int32, the subtitle of a frame or -1; subtitle_ids,
subtitle_mask [B, C, L]: [SEP] and the words (or [CLS], see `first`), nothing behind;
with text="caption" text_ids, text_mask [B, L]: in training of one caption drawn, in
evaluation each caption is a row with its own example_id, and `relevance` is its
record's; example_id, group_id, example_mask [B].

Which frames belong to a subtitle: `transforms/frames.py:owners`. A video without a
subtitle gets empty ones of `PSEUDO` frames each. Source: arXiv 2005.00200 and its
published preparation.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from data_pipelines import index
from data_pipelines.tasks import clip_features, definition
from data_pipelines.tasks import text as text_lib
from data_pipelines.transforms import frames
from vlp_jax.errors import UserError

FIRST, TEXTS, PSEUDO = ("sep", "cls"), ("none", "caption"), 5
_CAPTION = 0  # the only draw of an example


def define(
  table: index.Table,
  info: Mapping,
  *,
  vocab,
  train: bool,
  text: str = "none",
  first: str = "sep",
  max_frames: int = 100,
  max_subtitles: int = 50,
  max_words: int = 60,
  where: Mapping | None = None,
) -> definition.Definition:
  """The task over one split.

  Args:
    vocab: with [CLS] and [SEP] (RoBERTa's <s> and </s>).
    text: none or caption.
    first: what stands before the words of a subtitle: "sep" for representations, "cls"
      for masked words and queries, as published.
    max_frames: T, what is beyond is cut; max_subtitles: C; max_words: L, all marks
      included.
    where: {column: value or list} of the index.
  Raises: UserError on a bad keyword, or networks of several rates.
  """
  for name, value, known in (("text", text, TEXTS), ("first", first, FIRST)):
    if value not in known:
      raise UserError(f"input.{name}={value!r}. Known: {', '.join(known)}.")
  if min(max_frames, max_subtitles) < 1 or max_words < 3:
    raise UserError("input: max_frames and max_subtitles from 1, max_words from 3 on.")
  if vocab is None or min(vocab.spec.cls_id, vocab.spec.sep_id) < 0:
    raise UserError("task subtitled_clips needs a vocabulary with [CLS] and [SEP].")
  networks = info.get("features") or ()
  rates = {float(network["rate_hz"]) for network in networks}
  if len(rates) != 1:
    raise UserError(
      f"task subtitled_clips: {table.dir} has features of the rates {sorted(rates)}; "
      "one is needed."
    )
  widths, period = [int(n["width"]) for n in networks], 1 / rates.pop()
  parse, tokenize = clip_features.parser(len(widths)), text_lib.tokenizer(vocab)
  mark = vocab.spec.sep_id if first == "sep" else vocab.spec.cls_id
  width = sum(widths)

  def clips(x):
    parts = clip_features.arrays(x, widths)
    num = tf.reduce_min(tf.stack([tf.shape(part)[0] for part in parts]))
    definition.require(num > 0, "no features", x)
    num = tf.minimum(num, max_frames)
    value = tf.concat([part[:num] for part in parts], axis=1)
    value = tf.pad(value, [[0, max_frames - num], [0, 0]])
    mask = tf.sequence_mask(num, max_frames)
    start = tf.where(mask, tf.range(max_frames, dtype=tf.float32) * period, 0.0)
    end = tf.where(mask, start + period, 0.0)
    return x | {
      "clips_features": tf.ensure_shape(value, [max_frames, width]),
      "clips_mask": tf.ensure_shape(mask, [max_frames]),
      "clips_times": tf.ensure_shape(tf.stack([start, end], 1), [max_frames, 2]),
    }

  def subtitles(x):
    whole = tf.cast(x["features/0/num"], tf.int32)
    start, end, texts = tf.cond(
      tf.size(x["narration/text"]) > 0,
      lambda: tuple(x[f"narration/{k}"] for k in ("start", "end", "text")),
      lambda: _empty(whole, period),
    )
    owner, keep = frames.owners(start, end, whole, period, most=max_frames)
    owner = tf.where((owner < max_subtitles) & x["clips_mask"], owner, -1)
    texts, keep = texts[:max_subtitles], keep[:max_subtitles]
    ids = tf.cast(tokenize(texts), tf.int32)[:, : max_words - 1]
    ids = tf.concat([tf.fill([tf.size(texts), 1], mark), ids], axis=1)
    mask = tf.sequence_mask(ids.row_lengths(), max_words) & keep[:, None]
    ids = ids.to_tensor(default_value=vocab.spec.pad_id, shape=[None, max_words])
    ids = tf.where(mask, ids, vocab.spec.pad_id)
    missing = [[0, max_subtitles - tf.size(texts)], [0, 0]]
    shape = [max_subtitles, max_words]
    ids = tf.pad(ids, missing, constant_values=vocab.spec.pad_id)
    return x | {
      "clips_subtitle": tf.ensure_shape(owner, [max_frames]),
      "subtitle_ids": tf.ensure_shape(ids, shape),
      "subtitle_mask": tf.ensure_shape(tf.pad(mask, missing), shape),
    }

  def caption(x):
    return clip_features.caption(
      x, tokenize, vocab, max_words, draw=_CAPTION if train else None
    )

  run = [definition.one_to_one(fn) for fn in (clips, subtitles)]
  words = max_subtitles, max_words
  shapes = {
    "clips_features": ((max_frames, width), tf.float32),
    "clips_mask": ((max_frames,), tf.bool),
    "clips_times": ((max_frames, 2), tf.float32),
    "clips_subtitle": ((max_frames,), tf.int32),
    "subtitle_ids": (words, tf.int32),
    "subtitle_mask": (words, tf.bool),
  }
  keep = table.select(where or {})
  record, sub = keep, np.zeros(len(keep), int)
  if text == "caption":
    run.append(definition.one_to_one(caption))
    shapes |= {"text_ids": (words[1:], tf.int32), "text_mask": (words[1:], tf.bool)}
    record, sub = definition.caption_rows(table, keep, train)
  queries = text == "caption" and not train

  def finish(x, _):
    row = x.pop("row")
    mine = np.where(row < 0, 0, record[row]).astype(np.int32)
    return x | definition.ids(row, mine, queries)

  return definition.one_shape(
    "subtitled_clips", table, parse, run, shapes, (record, sub), finish, vocab
  )


def _empty(num, period):
  """(start, end, text) of the subtitles of a video that has none."""
  count = (num + PSEUDO - 1) // PSEUDO
  start = tf.cast(tf.range(count) * PSEUDO, tf.float32) * period
  end = tf.cast(tf.minimum((tf.range(count) + 1) * PSEUDO, num), tf.float32) * period
  return start, end, tf.fill([count], "")
