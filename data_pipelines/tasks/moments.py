"""Features over time with what happens when: steps, classes, described moments.

Records are those of `data_pipelines.prepare clip_features` of CrossTask, COIN, TVR and
DiDeMo (options unit=video), of `prepare clips` of these with clip_s 0 behind
launch.extract, and of `prepare youtube8m`. A clip is `period_s` long: 1 s
for steps and classes, 1.5 for TVR, 5 for DiDeMo's segments. What a row is, `unit` says:

  video    a record as clips; with labels="steps" label_task [B], and label_steps
           [B, T, K], 1 in the clips that a step touches, K steps at most (CrossTask's
           evaluation), in training label_steps [B, K], which steps the task has, and
           label_constraint [B, T, K], 1 where what is said rules a step out; with
           names also choice_ids, choice_mask [B, K, L], the steps' names; with
           labels="classes" label [B, T], the class of the moment in the middle of a
           clip (of several the first), 0 for none, -1 behind the end (COIN)
  moment   a described moment: text_ids, text_mask [B, L], label_times [B, A, 2] s by
           each of A annotators and label_segments [B, A, 2], first and last clip, both
           negative where there are fewer; span [B, 2], first and last clip by the rule
           of HERO (arXiv 2005.00200) for the first annotator; relevance, its video; in
           training the clips of its video too
  step     a step of a task: text_ids, text_mask, label_task, label_step [B] from 0
  segment  a rated stretch, `max_clips` long: its clips, and label [B, C], 1 right, 0
           wrong, -1 not rated (YouTube-8M)

Clips are clips_features [B, T, D] float32, clips_mask [B, T], clips_times [B, T, 2] s.
example_id, of video the record's place in its split; group_id, the record;
example_mask. For `evaluators/` localize (video, step), moments (moment, video) and
segments (video, segment), and `objectives/alignment.py:weak`.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from data_pipelines import index
from data_pipelines.tasks import clip_features, definition, moment_rows
from data_pipelines.tasks import text as text_lib
from data_pipelines.tasks.moment_rows import EDGE
from vlp_jax.errors import UserError

UNITS, LABELS = ("video", "moment", "step", "segment"), ("none", "steps", "classes")


def _parser(num: int):
  one = lambda dtype, default: tf.io.FixedLenFeature([], dtype, default)
  many = lambda dtype, *shape: tf.io.FixedLenSequenceFeature(shape, dtype, True)
  context = {"key": one(tf.string, ""), "duration_s": one(tf.float32, None)}
  context["label/task"] = one(tf.int64, -1)
  for k in range(num):
    context[f"features/{k}/data"] = one(tf.string, None)
    context[f"features/{k}/rate_hz"] = one(tf.float32, None)
    for name in ("num", "width"):
      context[f"features/{k}/{name}"] = one(tf.int64, None)
  lists = {
    "moment/text": many(tf.string),
    "moment/number": many(tf.int64),
    "moment/times": tf.io.RaggedFeature(tf.float32),
    "moment/rated": tf.io.RaggedFeature(tf.int64),
    "task/steps": many(tf.string),
    "constraint/row": many(tf.float32, 3),
  }

  def parse(record):
    found = tf.io.parse_single_sequence_example(record, context, lists)
    return found[0] | found[1]

  return parse


def touched(start, end, period_s: float) -> tuple[tf.Tensor, tf.Tensor]:
  """First and last + 1 clip that stretches [n] in s touch; none of an empty one."""
  first = tf.cast(tf.floor(start / period_s + EDGE), tf.int32)
  return first, tf.cast(tf.math.ceil(end / period_s - EDGE), tf.int32)


def hero_span(start, end, num, period_s: float) -> tf.Tensor:
  """[2] int32: floor(start / p) and ceil(end / p) - 1, the latter at least one on.

  Both are cut to `num` - 1, so that a moment behind the end is the last clip. Source:
  HERO (arXiv 2005.00200), published code.
  """
  first = tf.cast(tf.floor(start / period_s), tf.int32)
  last = tf.cast(tf.math.ceil(end / period_s), tf.int32) - 1
  last = tf.maximum(last, first + 1)
  return tf.minimum(tf.stack([first, last]), num - 1)


class _Steps:
  """The preprocessors: each takes and returns one example."""

  def __init__(
    self, *, info, widths, period_s, lead_s, max_clips, max_words, vocab, train
  ):
    self.widths, self.period_s, self.num = widths, period_s, max_clips
    self.lead_s = lead_s
    self.vocab, self.max_words, self.train = vocab, max_words, train
    self.max_steps, self.most = info.get("max_steps", 0), info.get("annotators", 1)
    self.num_classes = info.get("num_classes", 0)
    self.tokenize = vocab and text_lib.tokenizer(vocab)

  def clips(self, x, first=None, count=None):
    """Clips of the whole record, or `count` from second `first` on."""
    period = self.period_s
    if first is None:
      count = tf.cast(tf.math.ceil(x["duration_s"] / period - EDGE), tf.int32)
      first, count = 0.0, tf.clip_by_value(count, 1, self.num)
    start = first + period * tf.cast(tf.range(count), tf.float32)
    times = tf.stack([start, start + period], axis=1)
    value = [self._seen(x, k, start) for k in range(len(self.widths))]
    value = tf.concat(value, axis=1)
    pad = [[0, self.num - count], [0, 0]]
    made = {
      "clips_features": tf.ensure_shape(tf.pad(value, pad), [self.num, None]),
      "clips_times": tf.ensure_shape(tf.pad(times, pad), [self.num, 2]),
      "clips_mask": tf.sequence_mask(count, self.num),
    }
    return x | made | {"count": count}

  def _seen(self, x, k, start):
    """[n, d] of network k at clips from `start` [n] on, or at its last row before.

    Windows of 3.2 s each second end before the video does: its last seconds have no
    window about their middle, and are seen through the last one that there is.
    """
    names = ("data", "num", "width", "rate_hz")
    own = {f"features/0/{name}": x[f"features/{k}/{name}"] for name in names}
    last = tf.cast(own["features/0/num"] - 1, tf.float32) / own["features/0/rate_hz"]
    seen = tf.maximum(tf.minimum(start - self.lead_s, last), 0.0)
    given, end = dict(widths=self.widths[k : k + 1], whole=True), seen + self.period_s
    return clip_features.pooled(own | {"key": x["key"]}, seen, end, **given)

  def spans(self, x):
    """(start, end) [n] s by the first annotator of each moment."""
    return tf.unstack(x["moment/times"].to_tensor(shape=[None, 2]), axis=1)

  def _grid(self, step, start, end, count):
    """[T, K] bool: the clips that rows (step, start, end) touch."""
    first, last = touched(start, end, self.period_s)
    at = tf.range(self.num)
    inside = (at >= first[:, None]) & (at < tf.minimum(last, count)[:, None])  # [n, T]
    kind = tf.one_hot(tf.cast(step, tf.int32), self.max_steps, dtype=tf.int32)
    hits = tf.einsum("nt,nk->tk", tf.cast(inside, tf.int32), kind)
    return tf.ensure_shape(hits > 0, [self.num, self.max_steps])

  def steps(self, x):
    """label_task and label_steps, in training label_constraint."""
    definition.require(x["label/task"] >= 0, "no task", x)
    task = {"label_task": tf.cast(x["label/task"], tf.int32)}
    if not self.train:
      made = self._grid(x["moment/number"], *self.spans(x), x["count"])
      return x | task | {"label_steps": tf.cast(made, tf.int32)}
    rows = x["constraint/row"]
    allowed = self._grid(rows[:, 0], rows[:, 1], rows[:, 2], x["count"])
    has = tf.sequence_mask(tf.size(x["task/steps"]), self.max_steps)
    ruled = ~allowed & has & x["clips_mask"][:, None]
    constraint = {"label_constraint": tf.cast(ruled, tf.int32)}
    return x | task | constraint | {"label_steps": tf.cast(has, tf.int32)}

  def names(self, x):
    """choice_ids, choice_mask [K, L], the words of the task's steps."""
    texts = x["task/steps"]
    ids, mask = text_lib.pad(self.tokenize(texts), self.vocab, self.max_words)
    known = tf.reduce_all(tf.reduce_any(mask, axis=1))
    definition.require(known, "a step without a word of the vocabulary", x)
    pad = [[0, self.max_steps - tf.size(texts)], [0, 0]]
    shape = [self.max_steps, self.max_words]
    made = {
      "choice_ids": tf.pad(ids, pad, constant_values=self.vocab.spec.pad_id),
      "choice_mask": tf.pad(mask, pad),
    }
    return x | {k: tf.ensure_shape(v, shape) for k, v in made.items()}

  def classes(self, x):
    """label [T] of the moments in the middles of clips."""
    start, end = self.spans(x)
    middle = (tf.cast(tf.range(self.num), tf.float32) + 0.5) * self.period_s
    inside = (middle >= start[:, None]) & (middle < end[:, None])  # [n, T]
    order = tf.range(tf.size(start), 0, -1)  # of several the first
    who = tf.where(inside, order[:, None], 0)
    who = tf.concat([tf.zeros([1, self.num], tf.int32), who], axis=0)
    number = tf.concat([[0], tf.cast(x["moment/number"], tf.int32)], axis=0)
    label = tf.gather(number, tf.argmax(who, axis=0))
    label = tf.where(x["clips_mask"], label, -1)
    return x | {"label": tf.ensure_shape(label, [self.num])}

  def moment(self, x):
    """Words and times of moment `sub`."""
    at = tf.cast(x["sub"], tf.int32)
    definition.require(at < tf.size(x["moment/text"]), "no such moment", x)
    times = tf.reshape(x["moment/times"][at], [-1, 2])
    by = tf.shape(times)[0]
    definition.require((by > 0) & (by <= self.most), "no time, or too many", x)
    pad = lambda y: tf.pad(y, [[0, self.most - by], [0, 0]], constant_values=-1)
    first, last = touched(times[:, 0], times[:, 1], self.period_s)
    count = tf.cast(tf.math.ceil(x["duration_s"] / self.period_s - EDGE), tf.int32)
    count = tf.clip_by_value(count, 1, self.num)
    segments = pad(tf.stack([first, tf.maximum(last - 1, first)], axis=1))
    return (
      x
      | self._text(x["moment/text"][at])
      | {
        "label_times": tf.ensure_shape(pad(times), [self.most, 2]),
        "label_segments": tf.ensure_shape(segments, [self.most, 2]),
        "span": hero_span(times[0, 0], times[0, 1], count, self.period_s),
      }
    )

  def step(self, x):
    """Words of step `sub` of the record's task."""
    at = tf.cast(x["sub"], tf.int32)
    definition.require(at < tf.size(x["task/steps"]), "no such step", x)
    task = tf.cast(x["label/task"], tf.int32)
    return x | self._text(x["task/steps"][at]) | {"label_task": task, "label_step": at}

  def segment(self, x):
    """The clips of stretch `sub` and its ratings."""
    at = tf.cast(x["sub"], tf.int32)
    definition.require(at < tf.size(x["moment/text"]), "no such segment", x)
    start, end = (t[at] for t in self.spans(x))
    count = tf.cast(tf.round((end - start) / self.period_s), tf.int32)
    count = tf.clip_by_value(count, 1, self.num)
    pairs = tf.cast(tf.reshape(x["moment/rated"][at], [-1, 2]), tf.int32)
    label = tf.fill([self.num_classes], -1)
    label = tf.tensor_scatter_nd_update(label, pairs[:, :1], pairs[:, 1])
    return self.clips(x, start, count) | {"label": label}

  def _text(self, text):
    ids, mask = text_lib.pad(self.tokenize(text[None]), self.vocab, self.max_words)
    return {"text_ids": ids[0], "text_mask": mask[0]}


def define(
  table: index.Table,
  info: Mapping,
  *,
  vocab,
  train: bool,
  unit: str = "video",
  labels: str = "none",
  names: bool = False,
  period_s: float = 1.0,
  lead_s: float = 0.0,
  max_clips: int = 512,
  max_words: int = 20,
  per_task: int = 0,
  draw: int = 0,
  rest: bool = False,
  where: Mapping | None = None,
) -> definition.Definition:
  """The task over one split.

  Args:
    vocab: of `data_pipelines.vocabularies`; None is enough without words.
    unit, labels, names: see the module's header; labels are of unit="video", and names
      of labels="steps".
    period_s: length of a clip in s.
    lead_s: the features of a clip are those that begin so much before it: windows of
      3.2 s each second are about its middle with 1.0. A clip behind the last
      feature of a video has that one.
    max_clips: T; what is longer is cut, but an error where labels are evaluated.
    max_words: L.
    per_task: videos of each task that are taken, drawn by the seed `draw` out of those
      that `where` leaves; 0 takes all. rest: all but these.
    where: {column: value or list} of the index, as {"task": 3}.
  Raises: UserError on a bad keyword, or data without what is asked for.
  """
  for name, value, known in (("unit", unit, UNITS), ("labels", labels, LABELS)):
    if value not in known:
      raise UserError(f"input.{name}={value!r}. Known: {', '.join(known)}.")
  if min(max_clips, max_words) < 1 or period_s <= 0 or min(lead_s, per_task, draw) < 0:
    raise UserError("input: sizes and counts must be positive.")
  if unit in ("moment", "step") and vocab is None:
    raise UserError(f"input.unit={unit!r} needs a vocabulary; set config.vocab.")
  if (names and (vocab is None or labels != "steps")) or (rest and not per_task):
    raise UserError(
      "input: names=True goes with labels='steps' and config.vocab, rest=True with "
      "per_task."
    )
  if labels != "none" and unit != "video":
    raise UserError(f"input.labels={labels!r} goes with unit='video'.")
  if "num_moments" not in table.columns:
    raise UserError(
      f"{table.dir} has no annotated moments: prepare clip_features of crosstask, "
      "coin, tvr or didemo (the last two with --options unit=video), or youtube8m."
    )
  wanted = {"steps": "max_steps", "classes": "num_classes", "segment": "num_classes"}
  for what, key in wanted.items():
    if what in (unit, labels) and not info.get(key):
      raise UserError(f"input: {what} are asked for; {table.dir} has {key} 0.")
  if unit == "step" and not info.get("max_steps"):
    raise UserError(f"input.unit='step': {table.dir} has no tasks with steps.")
  widths = [int(network["width"]) for network in info.get("features") or ()]
  given = dict(period_s=period_s, lead_s=lead_s)
  given |= dict(max_clips=max_clips, max_words=max_words)
  given |= dict(info=info, widths=widths, vocab=vocab, train=train)
  run, shapes = _compose(_Steps(**given), unit, labels, names)
  keep = moment_rows.drawn(table, table.select(where or {}), per_task, draw, rest)
  if labels != "none" and not train:
    moment_rows.check_lengths(table, keep, period_s, max_clips)
  record, sub = moment_rows.rows(table, keep, unit)

  def finish(x, _):
    row = x.pop("row")
    mine = np.where(row < 0, 0, record[row]).astype(np.int32)
    ids = definition.ids(row, mine, queries=unit == "moment")
    if unit in ("step", "segment"):
      ids["example_id"] = np.maximum(row, 0).astype(np.int32)
    return x | ids

  used = vocab if names or unit in ("moment", "step") else None
  parse = _parser(len(widths))
  return definition.one_shape(
    "moments", table, parse, run, shapes, (record, sub), finish, used
  )


def _compose(steps, unit, labels, names):
  """(preprocessors, {key: (shape, dtype)})."""
  run, shapes, length = [], {}, steps.num
  clips = {
    "clips_features": ((length, sum(steps.widths)), tf.float32),
    "clips_mask": ((length,), tf.bool),
    "clips_times": ((length, 2), tf.float32),
  }
  if unit in ("video", "segment") or (unit == "moment" and steps.train):
    shapes |= clips
    run += [steps.clips] if unit != "segment" else []
  if unit != "video":
    run.append(getattr(steps, unit))
  elif labels != "none":
    run.append(getattr(steps, labels))
  if names:
    run.append(steps.names)
    size = (steps.max_steps, steps.max_words)
    shapes |= {"choice_ids": (size, tf.int32), "choice_mask": (size, tf.bool)}
  if unit in ("moment", "step"):
    words = (steps.max_words,)
    shapes |= {"text_ids": (words, tf.int32), "text_mask": (words, tf.bool)}
  one, each = ((), tf.int32), (steps.most, 2)
  grid = (length, steps.max_steps), tf.int32
  shapes |= {
    "moment": {
      "label_times": (each, tf.float32),
      "label_segments": (each, tf.int32),
      "span": ((2,), tf.int32),
    },
    "step": {"label_task": one, "label_step": one},
    "segment": {"label": ((steps.num_classes,), tf.int32)},
  }.get(unit, {})
  if labels == "classes":
    shapes["label"] = (length,), tf.int32
  if labels == "steps":
    own = {"label_constraint": grid, "label_steps": ((steps.max_steps,), tf.int32)}
    shapes |= {"label_task": one} | (own if steps.train else {"label_steps": grid})
  return [definition.one_to_one(fn) for fn in run], shapes
