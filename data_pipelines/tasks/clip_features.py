"""Features over time with narrations or captions (HowTo100M, arXiv 1906.03327).

Records are those of `data_pipelines.prepare clip_features`: `features/<k>/...` of each
network, `narration/...`, `caption/text`.

Batch keys: clips_features [B, T, D] float32, the networks' widths joined in order,
clips_mask [B, T], clips_times [B, T, 2] s; with a tree clips_tokens [B, T] int32, its
leaves, instead of the features; example_id, group_id, example_mask [B]. What T is,
`unit` says:

  pairs    (training) `pairs` clips of a video, each around a narration drawn with
           replacement, and narration_ids, narration_mask [B, T, L] with their words. A
           narration shorter than `min_time` grows by its neighbours: always by the one
           that makes the clip shorter, the earlier of equals. Words come in the order
           of growing.
  clip     the whole record as one clip, T = 1.
  seconds  a step for each second, T = `max_seconds`; what is longer is cut.

A clip's feature is the maximum over its time, network by network: rows int(start r) to
int(end r) at r rows a second, zeros where there are none. Seconds count from the first
row that a record has, which for a part of a video lies up to 1 / r before it. With
text="caption" come text_ids, text_mask [B, L]: in training of one caption drawn, in
evaluation each caption is a row with its own example_id, and `relevance` is its
record's.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from data_pipelines import index
from data_pipelines.tasks import definition
from data_pipelines.tasks import text as text_lib
from data_pipelines.transforms import tokens as tokens_lib
from vlp_jax.errors import UserError

_PAIR, _CAPTION = range(2)  # draws of one example
UNITS, TEXTS = ("pairs", "clip", "seconds"), ("none", "caption")
_LIST = dict(shape=[], allow_missing=True)
LISTS = {
  "narration/text": tf.io.FixedLenSequenceFeature(dtype=tf.string, **_LIST),
  "narration/start": tf.io.FixedLenSequenceFeature(dtype=tf.float32, **_LIST),
  "narration/end": tf.io.FixedLenSequenceFeature(dtype=tf.float32, **_LIST),
  "caption/text": tf.io.FixedLenSequenceFeature(dtype=tf.string, **_LIST),
}


def parser(num: int):
  """record -> dict of tensors, of records with so many networks."""
  context = {
    "key": tf.io.FixedLenFeature([], tf.string, ""),
    "duration_s": tf.io.FixedLenFeature([], tf.float32),
  }
  for k in range(num):
    context[f"features/{k}/data"] = tf.io.FixedLenFeature([], tf.string)
    context[f"features/{k}/rate_hz"] = tf.io.FixedLenFeature([], tf.float32)
    for name in ("num", "width"):
      context[f"features/{k}/{name}"] = tf.io.FixedLenFeature([], tf.int64)

  def parse(record):
    found = tf.io.parse_single_sequence_example(record, context, LISTS)
    return found[0] | found[1]

  return parse


def _pooled(x, first, last):
  """[P, d] maxima of rows [first, last) of x [n, d]; zeros where there are none."""
  num = tf.shape(x)[0]
  first, last = tf.clip_by_value(first, 0, num), tf.clip_by_value(last, 0, num)
  place = tf.ragged.range(first, tf.maximum(first, last))
  most = tf.math.unsorted_segment_max(
    tf.gather(x, place.values), place.value_rowids(), tf.size(first)
  )
  return tf.where((last > first)[:, None], most, tf.zeros_like(most))


def grow(start, end, at, min_time: float, most: int):
  """Clips of at least `min_time` s around narrations, as the published code grows them.

  Args:
    start, end: [C] float, of all narrations in order; at: [P] int32, where to begin.
    most: S, narrations of a clip whose order is kept.
  Returns: (start [P], end [P], order [P, S] int32, -1 where there is none).
  """
  num, rows = tf.size(start), tf.size(at)
  begin = tf.concat([at[:, None], tf.fill([rows, most - 1], -1)], axis=1)
  inf = tf.constant(np.inf, tf.float32)

  def spans(low, high):
    return tf.gather(start, low), tf.gather(end, high)

  def short(low, high):
    a, b = spans(low, high)
    return (b - a < min_time) & ((low > 0) | (high < num - 1))

  def body(step, low, high, order):
    a, b = spans(low, high)
    earlier = b - tf.gather(start, tf.maximum(low - 1, 0))
    later = tf.gather(end, tf.minimum(high + 1, num - 1)) - a
    earlier = tf.where(low > 0, earlier, inf)
    later = tf.where(high < num - 1, later, inf)
    grows, back = short(low, high), earlier <= later
    low = tf.where(grows & back, low - 1, low)
    high = tf.where(grows & ~back, high + 1, high)
    new = tf.where(grows, tf.where(back, low, high), -1)
    column = tf.one_hot(step, most, on_value=True, off_value=False, dtype=tf.bool)
    return step + 1, low, high, tf.where(column, new[:, None], order)

  def goes_on(step, low, high, order):
    del step, order
    return tf.reduce_any(short(low, high))

  _, low, high, order = tf.while_loop(
    goes_on, body, (tf.constant(1), at, at, begin), maximum_iterations=num
  )
  return *spans(low, high), order


def _uniform(x, draw, shape):
  seed = tf.random.experimental.stateless_fold_in(x["seed"], draw)
  return tf.random.stateless_uniform(shape, seed)


def _place(share, num):
  return tf.minimum(tf.cast(share * tf.cast(num, tf.float32), tf.int32), num - 1)


def arrays(x, widths) -> list[tf.Tensor]:
  """[n, D] float32 of each network, checked."""
  out = []
  for k, width in enumerate(widths):
    flat = tf.io.decode_raw(x[f"features/{k}/data"], tf.float16)
    fits = x[f"features/{k}/width"] == width
    definition.require(fits, f"features {k} are not {width} wide", x)
    num = tf.cast(x[f"features/{k}/num"], tf.int32)
    one = tf.ensure_shape(tf.reshape(flat, [num, width]), [None, width])
    out.append(tf.cast(one, tf.float32))
  joined = [tf.reduce_all(tf.math.is_finite(one)) for one in out]
  definition.require(tf.reduce_all(joined), "features are not finite", x)
  return out


def pooled(x, start, end, *, widths, whole: bool = False) -> tf.Tensor:
  """[P, D] of clips [P] in s; `whole` of stretches that part the time between them."""
  parts, slack = [], 1e-4 if whole else 0.0  # 1.5 s at 2/3 Hz is one row, not none
  for k, one in enumerate(arrays(x, widths)):
    rate = x[f"features/{k}/rate_hz"]
    first = tf.cast(start * rate + slack, tf.int32)
    last = tf.cast(end * rate + slack, tf.int32) + (0 if whole else 1)
    if whole:  # each takes one at least
      last = tf.maximum(last, first + 1)
    parts.append(_pooled(one, first, last))
  return tf.concat(parts, axis=1)


def whole_record(x, widths) -> tf.Tensor:
  """[1, D] of all rows: a clip's record has rows int(s r) to int(e r) of its video.

  These are one more than a stretch of its length has where s r is no whole number.
  """
  parts = [_pooled(one, [0], tf.shape(one)[:1]) for one in arrays(x, widths)]
  return tf.concat(parts, axis=1)


def caption(x, tokenize, vocab, max_words: int, *, draw: int | None) -> dict:
  """text_ids, text_mask [L] of one caption: by that draw, or the one of `sub`."""
  num = tf.size(x["caption/text"])
  definition.require(num > 0, "no captions", x)
  at = tf.cast(x["sub"], tf.int32)
  if draw is not None:
    at = _place(_uniform(x, draw, []), num)
  ids, mask = text_lib.pad(tokenize(x["caption/text"][at][None]), vocab, max_words)
  return x | {"text_ids": ids[0], "text_mask": mask[0]}


def define(
  table: index.Table,
  info: Mapping,
  *,
  vocab,
  train: bool,
  unit: str = "pairs",
  text: str = "none",
  pairs: int = 64,
  min_time: float = 5.0,
  max_words: int = 20,
  max_seconds: int = 512,
  tree: str = "",
  tree_digest: str = "",
  keep_features: bool = False,
  where: Mapping | None = None,
) -> definition.Definition:
  """The task over one split.

  Args:
    vocab: of `data_pipelines.vocabularies`; None is enough without words.
    unit: pairs, clip or seconds, see the module's header.
    text: none or caption; pairs have their narrations.
    pairs: clips of a video (64 as published); min_time: of a clip in s.
    max_words: L; max_seconds: T of unit=seconds.
    tree: file of `launch.cluster`, of features of all networks joined; tree_digest:
      what it must be, if that is known. keep_features: beside the tokens.
    where: {column: value or list} of the index.
  Raises: UserError on a bad keyword or a tree of another width, CheckpointError if it
    is another tree than meant.
  """
  for name, value, known in (("unit", unit, UNITS), ("text", text, TEXTS)):
    if value not in known:
      raise UserError(f"input.{name}={value!r}. Known: {', '.join(known)}.")
  if min(pairs, max_words, max_seconds) < 1 or min_time < 0:
    raise UserError("input: sizes and counts must be positive.")
  if unit == "pairs" and (not train or text != "none"):
    raise UserError(
      "input.unit='pairs' is for training with narrations; set clip or seconds."
    )
  if vocab is None and (unit == "pairs" or text != "none"):
    raise UserError(
      "task clip_features needs a vocabulary for texts; set config.vocab."
    )
  networks = info.get("features") or ()
  if not networks:
    raise UserError(f"{table.dir} holds no features: kind {info.get('kind')!r}.")
  widths = [int(network["width"]) for network in networks]
  leaves = None
  if tree:
    leaves = tokens_lib.Tokens(tree, digest=tree_digest, keep=keep_features)
    leaves.check(sum(widths), str(table.dir))
  parse, tokenize = parser(len(widths)), vocab and text_lib.tokenizer(vocab)
  length = {"pairs": pairs, "clip": 1, "seconds": max_seconds}[unit]

  pool = functools.partial(pooled, widths=widths)

  def clips(x):
    if unit == "pairs":
      num = tf.size(x["narration/text"])
      definition.require(num > 0, "no narration", x)
      at = _place(_uniform(x, _PAIR, [pairs]), num)
      times = x["narration/start"], x["narration/end"]
      start, end, order = grow(*times, at, min_time, max_words)
      ids = tokenize(x["narration/text"])
      none = tf.RaggedTensor.from_row_lengths(tf.zeros([0], ids.dtype), [0])
      ids = tf.concat([ids, none], axis=0)  # what -1 stands for has no words
      chosen = tf.gather(ids, tf.where(order < 0, num, order)).merge_dims(1, 2)
      ids, mask = text_lib.pad(chosen, vocab, max_words)
      x |= {"narration_ids": ids, "narration_mask": mask}
      value, mask = pool(x, start, end), tf.ones([pairs], tf.bool)
    elif unit == "clip":
      start, end = tf.zeros([1]), x["duration_s"][None]
      value, mask = whole_record(x, widths), tf.ones([1], tf.bool)
    else:
      num = tf.cast(tf.math.ceil(x["duration_s"] - 1e-4), tf.int32)
      num = tf.clip_by_value(num, 1, max_seconds)
      start = tf.cast(tf.range(num), tf.float32)
      end, missing = start + 1.0, max_seconds - num
      value = tf.pad(pool(x, start, end, whole=True), [[0, missing], [0, 0]])
      start, end = (tf.pad(t, [[0, missing]]) for t in (start, end))
      mask = tf.sequence_mask(num, max_seconds)
    return x | {
      "clips_features": tf.ensure_shape(value, [length, sum(widths)]),
      "clips_mask": tf.ensure_shape(mask, [length]),
      "clips_times": tf.ensure_shape(tf.stack([start, end], axis=1), [length, 2]),
    }

  def words_of(x):
    draw = _CAPTION if train else None
    return caption(x, tokenize, vocab, max_words, draw=draw)

  run = [definition.one_to_one(clips)]
  shapes = {
    "clips_features": ((length, sum(widths)), tf.float32),
    "clips_mask": ((length,), tf.bool),
    "clips_times": ((length, 2), tf.float32),
  }
  words = {"ids": tf.int32, "mask": tf.bool}
  if unit == "pairs":
    size = (pairs, max_words)
    shapes |= {f"narration_{k}": (size, dtype) for k, dtype in words.items()}
  if text == "caption":
    run.append(definition.one_to_one(words_of))
    shapes |= {f"text_{k}": ((max_words,), dtype) for k, dtype in words.items()}
  record, sub = _rows(table, table.select(where or {}), train, unit, text)
  queries = text == "caption" and not train

  def finish(x, _):
    row = x.pop("row")
    mine = np.where(row < 0, 0, record[row]).astype(np.int32)
    x |= definition.ids(row, mine, queries)
    return x if leaves is None else leaves(x)

  made = definition.one_shape(
    "clip_features", table, parse, run, shapes, (record, sub), finish, vocab
  )
  if leaves is None:
    return made
  return dataclasses.replace(made, digest=f"{made.digest} {leaves.digest}")


def _rows(table, keep, train, unit, text):
  """(record [N], sub [N]): captions in evaluation, else records that have texts."""
  if unit == "pairs":
    keep = keep[table.columns["num_narrations"][keep] > 0]
  if text != "caption":
    return keep, np.zeros(len(keep), int)
  return definition.caption_rows(table, keep, train)
