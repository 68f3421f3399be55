"""Segments of videos as features or tokens with the words said there (VideoBERT, CBT).

Records are those of `launch.extract` and `data_pipelines.prepare clip_features`:
`features/<k>/...` of a network over time, narrations in s, labels where there are any.

Batch keys: clips_tokens [B, T] int32, leaves of a k-means tree; clips_features
[B, T, D] float32; clips_mask [B, T], clips_times [B, T, 2] s; text_ids, text_mask
[B, L]; label_shape, label_colour, label_action [B]; label_<name> [B, C] of each list of
words `named`, 1 where a caption of the video has the word; example_id, the row;
group_id, the video; example_mask. What a row is, `unit` says:

  narration  a narration and the features whose time overlaps it. In training up to
             `join` of the narrations behind it join it, and of the features every r-th
             is kept, r drawn from 1..`subsample`, from a drawn first one (arXiv
             1904.01766, sec. 3.3). In evaluation neither happens.
  window     `max_clips` features in a row, at a drawn place in training, one window
             after the other in evaluation, and the narrations whose middle lies there:
             16 tokens of a video without speech, 48 features of CBT (72 s).

With said="caption" a window's text is one caption of the video, drawn in training, the
first one in evaluation, whatever the window is.

At most the first `max_clips` features and `max_words` tokens are taken. A row without
narrations has text_mask False throughout.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from data_pipelines import index
from data_pipelines.tasks import definition
from data_pipelines.tasks import text as text_lib
from data_pipelines.transforms import mentions
from data_pipelines.transforms import tokens as tokens_lib
from vlp_jax.errors import UserError
from vlp_jax.resolve import nearest

FIELDS = ("tokens", "features", "text", "label")
LABELS = ("shape", "colour", "action")
UNITS = ("narration", "window")
SAID = ("narration", "caption")
# Draws of one example; each folds its number into the example's seed.
_JOIN, _RATE, _FIRST, _WINDOW, _CAPTION = range(5)


def _parser(network: int):
  one = lambda dtype, default=None: tf.io.FixedLenFeature([], dtype, default)
  many = lambda dtype: tf.io.FixedLenSequenceFeature([], dtype, allow_missing=True)
  at = f"features/{network}"
  context = {
    "key": one(tf.string, ""),
    f"{at}/data": one(tf.string),
    f"{at}/num": one(tf.int64),
    f"{at}/width": one(tf.int64),
    f"{at}/rate_hz": one(tf.float32),
    f"{at}/times": one(tf.string, ""),
    **{f"label/{k}": one(tf.int64, -1) for k in LABELS},
  }
  lists = {
    "narration/text": many(tf.string),
    "narration/start": many(tf.float32),
    "narration/end": many(tf.float32),
    "caption/text": many(tf.string),
  }

  def parse(record):
    found, said = tf.io.parse_single_sequence_example(record, context, lists)
    names = {k: k.replace(f"{at}/", "") for k in found}
    return {names[k]: x for k, x in found.items()} | said

  return parse


class _Steps:
  """The preprocessors: each takes and returns one example."""

  def __init__(self, *, train, said, width, max_clips, max_words, join, subsample):
    self.train, self.said, self.width = train, said, width
    self.max_clips, self.max_words = max_clips, max_words
    self.join, self.subsample = join, subsample

  def _draw(self, x, number, count):
    """An integer in 0..count - 1."""
    seed = tf.random.experimental.stateless_fold_in(x["seed"], number)
    share = tf.random.stateless_uniform([], seed)
    whole = tf.cast(share * tf.cast(count, tf.float32), tf.int32)
    return tf.minimum(whole, count - 1)

  def load(self, x):
    """`values` [n, D] and `spans` [n, 2] s; narrations in order of time."""
    num = tf.cast(x["num"], tf.int32)
    flat = tf.io.decode_raw(x["data"], tf.float16)
    fits = (x["width"] == self.width) & (tf.size(flat) == num * self.width) & (num > 0)
    definition.require(fits, f"features are not {self.width} wide, or none", x)
    values = tf.cast(tf.reshape(flat, [num, self.width]), tf.float32)
    finite = tf.reduce_all(tf.math.is_finite(values))
    definition.require(finite, "features are not finite", x)
    start = tf.cast(tf.range(num), tf.float32) / x["rate_hz"]
    spans = tf.stack([start, start + 1 / x["rate_hz"]], axis=1)
    stored = tf.io.decode_raw(x["times"], tf.float32)
    has = tf.size(stored) == 2 * num
    spans = tf.cond(has, lambda: tf.reshape(stored, [num, 2]), lambda: spans)
    order = tf.argsort(x["narration/start"], stable=True)
    said = {
      f"narration/{k}": tf.gather(x[f"narration/{k}"], order)
      for k in ("text", "start", "end")
    }
    return x | said | {"values": values, "spans": spans}

  def narration(self, x):
    """`chosen` rows of features, and narrations `said` [first, last)."""
    start, end = x["narration/start"], x["narration/end"]
    num, first = tf.size(start), tf.cast(x["sub"], tf.int32)
    definition.require(first < num, "no such narration", x)
    more = self._draw(x, _JOIN, self.join + 1) if self.train else 0
    last = tf.minimum(first + 1 + more, num)
    begin, stop = start[first], tf.reduce_max(end[first:last])
    spans = x["spans"]
    inside = (spans[:, 1] > begin) & (spans[:, 0] < stop)
    # Words said between two features, or behind the last: the nearest one.
    far = tf.abs(tf.reduce_mean(spans, axis=1) - (begin + stop) / 2)
    near = tf.range(tf.shape(spans)[0]) == tf.argmin(far, output_type=tf.int32)
    inside = tf.cond(tf.reduce_any(inside), lambda: inside, lambda: near)
    chosen = tf.cast(tf.where(inside)[:, 0], tf.int32)
    if self.train:
      rate = 1 + self._draw(x, _RATE, self.subsample)
      skip = self._draw(x, _FIRST, tf.minimum(rate, tf.size(chosen)))
      chosen = chosen[skip::rate]
    return x | {"chosen": chosen[: self.max_clips], "said": tf.stack([first, last])}

  def window(self, x):
    num, size = tf.shape(x["values"])[0], self.max_clips
    if self.train:
      first = self._draw(x, _WINDOW, tf.maximum(num - size, 0) + 1)
    else:
      first = tf.cast(x["sub"], tf.int32) * size
    definition.require(first < num, "no such window", x)
    chosen = tf.range(first, tf.minimum(first + size, num))
    middle = (x["narration/start"] + x["narration/end"]) / 2
    begin, stop = x["spans"][chosen[0], 0], x["spans"][chosen[-1], 1]
    inside = tf.where((middle >= begin) & (middle < stop))[:, 0]
    ends = tf.concat([inside[:1], inside[-1:] + 1], axis=0)
    ends = tf.cond(tf.size(ends) > 0, lambda: ends, lambda: tf.zeros([2], tf.int64))
    return x | {"chosen": chosen, "said": tf.cast(ends, tf.int32)}

  def clips(self, x):
    missing = self.max_clips - tf.size(x["chosen"])
    pad = lambda y: tf.pad(tf.gather(y, x["chosen"]), [[0, missing], [0, 0]])
    shape = [self.max_clips, self.width]
    return x | {
      "clips_features": tf.ensure_shape(pad(x["values"]), shape),
      "clips_times": tf.ensure_shape(pad(x["spans"]), [self.max_clips, 2]),
      "clips_mask": tf.sequence_mask(tf.size(x["chosen"]), self.max_clips),
    }

  def words(self, x, *, tokenize, vocab):
    """The narrations as one text, or a caption."""
    texts = x["narration/text"][x["said"][0] : x["said"][1]]
    if self.said == "caption":
      num = tf.size(x["caption/text"])
      first = self._draw(x, _CAPTION, num) if self.train else 0
      texts = x["caption/text"][first : first + 1]
    ids = tokenize(texts).flat_values
    ids = tf.RaggedTensor.from_row_lengths(ids, tf.size(ids, tf.int64)[None])
    ids, mask = text_lib.pad(ids, vocab, self.max_words)
    mask = tf.ensure_shape(mask[0], [self.max_words]) & (tf.size(texts) > 0)
    return x | {
      "text_ids": tf.where(mask, ids[0], vocab.spec.pad_id),
      "text_mask": mask,
    }

  def labels(self, x):
    return x | {f"label_{k}": tf.cast(x[f"label/{k}"], tf.int32) for k in LABELS}


def define(
  table: index.Table,
  info: Mapping,
  *,
  vocab,
  train: bool,
  unit: str = "narration",
  said: str = "narration",
  fields: Sequence[str] = ("tokens", "text"),
  tree: str = "",
  tree_digest: str = "",
  network: int = 0,
  max_clips: int = 16,
  max_words: int = 64,
  join: int = 2,
  subsample: int = 5,
  named: Mapping[str, str | Sequence[str]] | None = None,
  where: Mapping | None = None,
) -> definition.Definition:
  """The task over one split.

  Args:
    vocab: of `data_pipelines.vocabularies`; None is enough without the field text.
    unit: narration or window, said: narration or caption, see the module's header.
    fields: of FIELDS; tokens need a tree.
    tree: file of `launch.cluster`; tree_digest: what it must be, if that is known.
    network: whose features, where several are stored.
    max_clips, max_words: T, and L with [CLS] and [SEP].
    join, subsample: in training with unit=narration.
    named: {name: words or a file of them, see `vlp_jax.vocab.classes`}.
    where: {column: value or list} of the index.
  Raises: UserError on a bad keyword or a tree of another width, CheckpointError if it
    is another tree than meant.
  """
  for field in fields:
    if field not in FIELDS:
      raise UserError(f"input.fields: {field!r}.{nearest(field, FIELDS)}")
  if unit not in UNITS:
    raise UserError(f"input.unit={unit!r}. Known: {', '.join(UNITS)}.")
  if said not in SAID or (said == "caption" and unit != "window"):
    known = "narration, and caption with unit='window'"
    raise UserError(f"input.said={said!r}, unit={unit!r}. Known: {known}.")
  if min(max_clips, subsample) < 1 or max_words < 3 or join < 0:
    raise UserError("input: sizes and counts must be positive, max_words at least 3.")
  if "text" in fields and (vocab is None or vocab.spec.sep_id < 0):
    raise UserError("task video_segments needs a vocabulary with [CLS] and [SEP].")
  networks = info.get("features") or ()
  if not 0 <= network < len(networks):
    raise UserError(
      f"{table.dir} holds features of {len(networks)} networks (kind "
      f"{info.get('kind')!r}); input.network={network}."
    )
  width, leaves = int(networks[network]["width"]), None
  if "tokens" in fields:
    if not tree:
      raise UserError("input.fields has tokens: set input.tree (see launch.cluster).")
    leaves = tokens_lib.Tokens(tree, digest=tree_digest, keep="features" in fields)
    leaves.check(width, str(table.dir))
  given = dict(max_clips=max_clips, max_words=max_words, join=join, subsample=subsample)
  steps = _Steps(train=train, said=said, width=width, **given)
  run = [steps.load, getattr(steps, unit), steps.clips]
  shapes = {
    "clips_features": ((max_clips, width), tf.float32),
    "clips_times": ((max_clips, 2), tf.float32),
    "clips_mask": ((max_clips,), tf.bool),
  }
  if "text" in fields:
    tokenize = text_lib.tokenizer(vocab)

    def words(x):
      return steps.words(x, tokenize=tokenize, vocab=vocab)

    run.append(words)
    shapes["text_ids"] = (max_words,), tf.int32
    shapes["text_mask"] = (max_words,), tf.bool
  if "label" in fields:
    run.append(steps.labels)
    shapes |= {f"label_{k}": ((), tf.int32) for k in LABELS}
  if named:
    found = mentions.Mentions(named)
    run.append(found.name)
    shapes |= found.shapes()
  keep = table.select(where or {})
  record, sub = _rows(table, keep, unit=unit, train=train, max_clips=max_clips)

  def finish(x, _):
    row = x.pop("row")
    video = np.where(row < 0, 0, record[row]).astype(np.int32)
    x |= {"example_id": np.maximum(row, 0).astype(np.int32), "group_id": video}
    if leaves is not None:
      return leaves(x)
    if "features" not in fields:
      del x["clips_features"]
    return x

  task = seqio.Task(
    f"video_segments_{table.split.replace('-', '_')}",
    source=definition.source(table, _parser(network)),
    preprocessors=[definition.one_to_one(fn) for fn in run],
    output_features={k: definition.feature(len(s), d) for k, (s, d) in shapes.items()},
  )
  digests = [vocab.spec.digest] if "text" in fields else []
  digests += [leaves.digest] if leaves is not None else []
  return definition.Definition(
    task=task,
    parse=_parser(network),
    record=record.astype(np.int64),
    sub=sub.astype(np.int64),
    lengths=None,
    shapes=lambda _: {k: s for k, (s, _) in shapes.items()},
    finish=finish,
    digest=" ".join(digests),
  )


def _rows(table, keep, *, unit, train, max_clips):
  """(record [N], sub [N]): narrations, or windows."""
  counts = np.ones(len(keep), int)
  if unit == "narration":
    counts = table.columns["num_narrations"][keep].astype(int)
  elif not train and "num_features" in table.columns:
    counts = -(-table.columns["num_features"][keep].astype(int) // max_clips)
  sub = [np.arange(c) for c in counts]
  return np.repeat(keep, counts), np.concatenate([*sub, np.zeros(0, int)])
