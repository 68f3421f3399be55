"""Clips that are told apart by words alone: class names, and choices of captions.

Records are those of `data_pipelines.prepare clips` (`tasks/clip_records.py`). What a
row is, `unit` says; all are for evaluation:

  clip    a window of a clip, with label [B, C] int32 over the classes of label/action:
          1 right, 0 wrong, -1 not rated. A record with tag/rating "1", or without one,
          is right for its class and wrong for all others; with another rating it is
          wrong for its class and not rated for the others (RareAct, arXiv 2008.01018,
          and its published scores). label_hard [B, C] int32: 1 where it is wrong, but
          the verb or the noun is right, or both of them apart (ratings 2, 3, 4).
          label_video [B]: a number of tag/video, -1 without.
  class   a class in words: text_ids, text_mask [B, L], label_class [B] from 0
  choice  a window of a clip with choice_ids, choice_mask [B, K, L], the options of its
          first question, and label [B], the place of the right one (MSR-VTT's and
          LSMDC's multiple choice); -1 where it is not told

Beside them video_frames [B, T, H, W, 3] uint8, video_mask, video_times [B, T] s, and
example_id, group_id (the clip), example_mask [B].
For `evaluators/segments.py:ZeroShot` (clips and classes) and `multiple_choice.py`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from data_pipelines import index
from data_pipelines.tasks import clip_records, clip_steps, definition
from data_pipelines.tasks import text as text_lib
from vlp_jax.errors import UserError

UNITS = ("clip", "class", "choice")
RIGHT = "1"  # of tag/rating


def parse(record):
  """As of narrated clips, with rating and choices."""
  more = {
    "tag/rating": tf.io.FixedLenFeature([], tf.string, RIGHT),
    "tag/video": tf.io.FixedLenFeature([], tf.string, ""),
  }
  lists = {
    "choice/options": tf.io.RaggedFeature(tf.string),
    "choice/answer": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
  }
  found = tf.io.parse_single_sequence_example(
    record, clip_records.CONTEXT | more, clip_records.LISTS | lists
  )
  return found[0] | found[1]


def rated(action, rating, num: int):
  """label [C] int32 of a clip; see the header."""
  own = tf.range(num) == tf.cast(action, tf.int32)
  right = rating == RIGHT
  return tf.where(own, tf.cast(right, tf.int32), tf.where(right, 0, -1))


def hard(action, rating, names: Sequence[str]):
  """label_hard [C] int32 of a clip; names are "verb noun"."""
  verbs = [n.partition(" ")[0] for n in names]
  nouns = [n.partition(" ")[2] for n in names]
  verbs, nouns = tf.constant(verbs), tf.constant(nouns)
  verb, noun = verbs == tf.gather(verbs, action), nouns == tf.gather(nouns, action)
  own = tf.range(len(names)) == tf.cast(action, tf.int32)
  near = tf.math.logical_xor(verb, noun)
  found = tf.where(rating == RIGHT, near, own & (rating != "0"))
  return tf.cast(found, tf.int32)


def _video(name):
  """A number of a video's name."""
  number = tf.strings.to_hash_bucket_fast(name, 2**31 - 1)
  return tf.where(name == "", -1, tf.cast(number, tf.int32))


def define(
  table: index.Table,
  info: Mapping,
  *,
  vocab,
  train: bool,
  unit: str = "clip",
  templates: Sequence[str] = ("{}",),
  choices: int = 5,
  num_frames: int = 32,
  frame_rate: float | None = None,
  size: int = 64,
  windows: int = 1,
  crops: int = 1,
  mirror: bool = False,
  margin_s: float = 0.0,
  short: str = "black",
  max_words: int = 16,
  where: Mapping | None = None,
) -> definition.Definition:
  """The task over one split.

  Args:
    vocab: of `data_pipelines.vocabularies`; None is enough for unit="clip".
    unit: clip, class or choice, see the module's header.
    templates: of classes; each makes a row of each class, "{}" standing for its name.
    choices: K; a record with another number is damaged.
    max_words: L.
    num_frames, frame_rate, size, windows, crops, mirror, margin_s, short, where: as in
      narrated_clips; where does not hold for classes.
  Raises: UserError on a bad keyword, or a data set without classes.
  """
  if unit not in UNITS:
    raise UserError(f"input.unit={unit!r}. Known: {', '.join(UNITS)}.")
  if train:
    raise UserError("task zero_shot_clips is for evaluation only.")
  if unit != "clip" and vocab is None:
    raise UserError(f"input.unit={unit!r} needs a vocabulary; set config.vocab.")
  names = tuple((info.get("classes") or {}).get("action") or ())
  if unit != "choice" and not names:
    raise UserError(f"{table.dir} has no classes of label/action.")
  if min(choices, num_frames, size, windows, crops, max_words) < 1 or margin_s < 0:
    raise UserError("input: sizes and counts must be positive.")
  if short not in ("black", "loop"):
    raise UserError(f"input.short={short!r}. Known: black, loop.")
  if unit == "class":
    return _classes(table, names, templates, vocab, max_words)
  rate_hz, _ = clip_records.stored(table, size)
  steps = clip_steps.Steps(
    train=False,
    num_frames=num_frames,
    frame_rate=frame_rate or rate_hz,
    size=size,
    windows=windows,
    crops=crops,
    mirror=mirror,
    margin_s=margin_s,
    flip=False,
    pad=0,
    loop=short == "loop",
  )
  made = clip_steps.compose(steps, ("video",), "none", None, 0, 0, False, 0.0)
  run, shapes = made

  def label(x):
    definition.require(x["label/action"] >= 0, "no class", x)
    given, fixed = (x["label/action"], x["tag/rating"]), [len(names)]
    return x | {
      "label": tf.ensure_shape(rated(*given, len(names)), fixed),
      "label_hard": tf.ensure_shape(hard(*given, names), fixed),
      "label_video": _video(x["tag/video"]),
    }

  if unit == "clip":
    run.append(definition.one_to_one(label))
    shapes["label"] = (len(names),), tf.int32
    shapes |= {"label_hard": ((len(names),), tf.int32), "label_video": ((), tf.int32)}
  else:
    run.append(definition.one_to_one(_options(vocab, choices, max_words)))
    shapes |= {
      "choice_ids": ((choices, max_words), tf.int32),
      "choice_mask": ((choices, max_words), tf.bool),
      "label": ((), tf.int32),
    }
  keep, parts = table.select(where or {}), windows * crops * steps.views
  record, sub = np.repeat(keep, parts), np.tile(np.arange(parts), len(keep))

  def finish(x, _):
    row = x.pop("row")
    clip = np.where(row < 0, 0, record[row]).astype(np.int32)
    return x | definition.ids(row, clip, False)

  used = vocab if unit == "choice" else None
  return definition.one_shape(
    "zero_shot_clips", table, parse, run, shapes, (record, sub), finish, used
  )


def _options(vocab, choices, max_words):
  words = text_lib.tokenizer(vocab)

  def options(x):
    asked = x["choice/options"]
    definition.require(asked.nrows() > 0, "no question", x)
    definition.require(tf.size(asked[0]) == choices, f"options are not {choices}", x)
    ids, mask = text_lib.pad(words(asked[0]), vocab, max_words)
    shape = [choices, max_words]
    return x | {
      "choice_ids": tf.ensure_shape(ids, shape),
      "choice_mask": tf.ensure_shape(mask, shape),
      "label": tf.cast(x["choice/answer"][0], tf.int32),
    }

  return options


def _classes(table, names, templates, vocab, max_words):
  """Rows of class names; the record that is read with one is of no matter."""
  if not templates or not all("{}" in t for t in templates):
    raise UserError(f"input.templates={templates}: each holds {{}} for the class.")
  texts = [t.replace("{}", n.replace("_", " ")) for n in names for t in templates]
  words, texts = text_lib.tokenizer(vocab), tf.constant(texts)

  def text(x):
    ids, mask = text_lib.pad(words(texts[x["sub"]][None]), vocab, max_words)
    number = tf.cast(x["sub"] // len(templates), tf.int32)
    return x | {"text_ids": ids[0], "text_mask": mask[0], "label_class": number}

  shapes = {
    "text_ids": ((max_words,), tf.int32),
    "text_mask": ((max_words,), tf.bool),
    "label_class": ((), tf.int32),
  }
  sub = np.arange(len(names) * len(templates))
  record = sub % len(table)

  def finish(x, _):
    row = np.maximum(x.pop("row"), 0).astype(np.int32)
    return x | {"example_id": row}

  run = [definition.one_to_one(text)]
  return definition.one_shape(
    "zero_shot_clips", table, parse, run, shapes, (record, sub), finish, vocab
  )
