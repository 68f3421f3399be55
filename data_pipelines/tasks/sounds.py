"""Recordings in windows of one length, with their classes and captions.

Records are those of `data_pipelines.prepare sounds`: `audio/pcm`, `audio/rate_hz`,
`label`, `labels`, `caption/text`.

Batch keys: audio_samples [B, S] int16, audio_mask [B, S]; label [B] int32 (-1 unknown)
or, with `num_classes`, [B, C] float32 of zeros and ones; text_ids, text_mask [B, L];
label_fold, label_speaker, label_group [B] int32, numbers of the index (-1 unknown);
example_id, group_id, example_mask [B].

In training a window begins anywhere it fits, drawn from the example's seed. In
evaluation the `windows` of a recording are rows of the same example_id and group_id,
evenly spaced from its start to its end; with text="caption" each caption is a row with
its own example_id, and `relevance` is its recording's. What is shorter than the window
ends in zeros with audio_mask False, or with short="loop" starts again from its
beginning until the window is full (MMV's rule), all of it real.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from data_pipelines import index, read
from data_pipelines.tasks import definition
from data_pipelines.tasks import text as text_lib
from vlp_jax.errors import UserError

_KNOWN = {
  "short": ("zeros", "loop"),
  "label": ("label", "speaker"),
  "text": ("none", "caption"),
}
_START, _CAPTION = range(2)  # draws of one example
NUMBERED = {"fold", "speaker", "group"}  # columns of the index

CONTEXT = {
  "key": tf.io.FixedLenFeature([], tf.string, ""),
  "audio/pcm": tf.io.FixedLenFeature([], tf.string, ""),
  "audio/rate_hz": tf.io.FixedLenFeature([], tf.float32, 0.0),
  "label": tf.io.FixedLenFeature([], tf.int64, -1),
  "labels": tf.io.VarLenFeature(tf.int64),
}
LISTS = {
  "caption/text": tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True)
}


def parse(record):
  context, lists = tf.io.parse_single_sequence_example(record, CONTEXT, LISTS)
  return context | lists | {"labels": tf.sparse.to_dense(context["labels"])}


def _uniform(x, draw):
  seed = tf.random.experimental.stateless_fold_in(x["seed"], draw)
  return tf.random.stateless_uniform([], seed)


def window(pcm, share, length: int, *, loop: bool):
  """A window of a recording.

  Args:
    pcm: [n] samples; share: [] float, 0 the first window that fits, 1 the last.
  Returns: ([length], [length] bool, what is real).
  """
  size = tf.size(pcm)
  room = tf.maximum(size - length, 0)
  first = tf.minimum(tf.cast(share * tf.cast(room + 1, tf.float32), tf.int32), room)
  places = first + tf.range(length)
  if loop:
    return tf.gather(pcm, places % tf.maximum(size, 1)), tf.ones([length], tf.bool)
  part = pcm[first : first + length]
  missing = length - tf.size(part)
  return tf.pad(part, [[0, missing]]), tf.sequence_mask(tf.size(part), length)


def _rate(table) -> int:
  found = next(
    read.scan(table, lambda r: {"rate": parse(r)["audio/rate_hz"]}, batch=64), None
  )
  if found is None:
    raise UserError(f"{table.dir} ({table.split}): no record can be read.")
  return round(float(found["rate"].max()))


def _check(sizes, num_classes, choices) -> None:
  for name, value in choices.items():
    if value not in _KNOWN[name]:
      known = ", ".join(_KNOWN[name])
      raise UserError(f"input.{name}={value!r}. Known: {known}.")
  if min(sizes.values()) <= 0 or num_classes < 0:
    raise UserError("input: sizes and counts must be positive.")


def _caption(x, *, words, vocab, max_words: int, train: bool):
  """text_ids, text_mask: one caption at random, in evaluation that of the row."""
  n = tf.size(x["caption/text"])
  definition.require(n > 0, "no captions", x)
  at = tf.cast(x["sub"], tf.int32)
  if train:
    share = _uniform(x, _CAPTION)
    at = tf.minimum(tf.cast(share * tf.cast(n, tf.float32), tf.int32), n - 1)
  ids, mask = text_lib.pad(words(x["caption/text"][at][None]), vocab, max_words)
  return x | {"text_ids": ids[0], "text_mask": mask[0]}


def define(
  table: index.Table,
  info: Mapping,
  *,
  vocab,
  train: bool,
  seconds: float = 1.0,
  windows: int = 1,
  short: str = "zeros",
  num_classes: int = 0,
  label: str = "label",
  text: str = "none",
  max_words: int = 16,
  where: Mapping | None = None,
) -> definition.Definition:
  """The task over one split.

  Args:
    vocab: of `data_pipelines.vocabularies`; may be None with text="none".
    seconds: length of a window; S = seconds * the stored rate.
    windows: in evaluation, evenly spaced over the recording, each a row; 1 is the
      centre.
    short: zeros or loop, what follows the end of a short recording.
    num_classes: C of several labels a recording; 0 for one label.
    label: label, or speaker: which class number is the label.
    text: "caption" or "none".
    where: {column: value or list} of the index, e.g. {"fold": [2, 3, 4, 5]}.
  Raises: UserError on a bad keyword.
  """
  given = dict(seconds=seconds, windows=windows, max_words=max_words)
  _check(given, num_classes, {"short": short, "label": label, "text": text})
  if text != "none" and vocab is None:
    raise UserError(f"input.text={text!r} needs a vocabulary; set config.vocab.")
  if train and windows != 1:
    raise UserError("input: windows are for evaluation only.")
  if text == "caption" and windows != 1:
    raise UserError("input: a row is a caption or a window; windows needs text='none'.")
  rate_hz = _rate(table)
  length = max(1, round(seconds * rate_hz))

  def sound(x):
    pcm = tf.io.decode_raw(x["audio/pcm"], tf.int16)
    definition.require(tf.size(pcm) > 0, "no samples", x)
    same = tf.abs(x["audio/rate_hz"] - rate_hz) < 0.5
    definition.require(same, f"sound is not of {rate_hz} Hz", x)
    if train:
      share = _uniform(x, _START)
    else:
      share = 0.5 if windows == 1 else tf.cast(x["sub"], tf.float32) / (windows - 1)
    samples, mask = window(pcm, share, length, loop=short == "loop")
    return x | {
      "audio_samples": tf.ensure_shape(samples, [length]),
      "audio_mask": tf.ensure_shape(mask, [length]),
    }

  def classes(x):
    if not num_classes:
      return x | {"label": tf.cast(x["label"], tf.int32)}
    inside = tf.reduce_all((x["labels"] >= 0) & (x["labels"] < num_classes))
    definition.require(inside, f"a label beyond num_classes={num_classes}", x)
    hot = tf.one_hot(x["labels"], num_classes)
    return x | {"label": tf.minimum(tf.reduce_sum(hot, 0), 1.0)}

  run = [definition.one_to_one(sound), definition.one_to_one(classes)]
  shapes = {
    "audio_samples": ((length,), tf.int16),
    "audio_mask": ((length,), tf.bool),
    "label": (
      (num_classes,) if num_classes else (),
      tf.float32 if num_classes else tf.int32,
    ),
  }
  if text == "caption":
    words, size = text_lib.tokenizer(vocab), {"max_words": max_words, "train": train}

    def caption(x):
      return _caption(x, words=words, vocab=vocab, **size)

    run.append(definition.one_to_one(caption))
    shapes |= {
      "text_ids": ((max_words,), tf.int32),
      "text_mask": ((max_words,), tf.bool),
    }
  record, sub = _rows(table, table.select(where or {}), train, text, windows)
  queries = text == "caption" and not train

  def finish(x, _):
    row = x.pop("row")
    mine = np.where(row < 0, 0, record[row]).astype(np.int32)
    for name in NUMBERED & table.columns.keys():
      x[f"label_{name}"] = table.columns[name][mine].astype(np.int32)
    if label == "speaker":
      x["label"] = x["label_speaker"]
    return x | definition.ids(row, mine, queries)

  return definition.one_shape(
    "sounds", table, parse, run, shapes, (record, sub), finish, vocab
  )


def _rows(table, keep, train, text, windows):
  """(record [N], sub [N]): captions or windows in evaluation, else recordings."""
  if text != "caption":
    return np.repeat(keep, windows), np.tile(np.arange(windows), len(keep))
  return definition.caption_rows(table, keep, train)
